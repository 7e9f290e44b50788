"The site in a real browser: controls move by keyboard and mouse, nothing is asked of another host, and it reads without scripts."

import functools
import http.server
import importlib
import inspect
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_book import make_book, notebook, run_tool

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CONTROLS = notebook(
    "md:# Controls\n\n> they move\n\nMaths: $x^2$ and\n\n$$\\frac{a}{b} + c \\tag{1.1}$$\n\n"
    + "A long formula: $$"
    + "+".join(f"x_{{{i}}}" for i in range(60))
    + "$$",
    "from gptbook.explore import animate, explore\nimport matplotlib.pyplot as plt",
    "def chart(n=3, kind='line'):\n    fig, ax = plt.subplots(figsize=(7, 3))\n    ax.plot(range(n), label=kind)\n    ax.set_title(kind)\n    return fig",
    "explore(chart, n=(1, 6, 1))",
    "explore(lambda word, times: f'{word} ' * times + '</script>', word=['what', 'light', '<b>'], times=(1, 3, 1))",
    "animate(lambda frame: f'frame {frame}', range(4), interval_ms=30)",
    # the live half, which the page does not show: one output carries both, and moving the widget calls the function
    "#| hide\nfrom IPython.utils.capture import capture_output\nfrom gptbook.explore import _Control, _read_knobs\n"
    "with capture_output() as shown:\n    explore(chart, n=(1, 3, 1))\n"
    "assert {'text/html', 'application/vnd.jupyter.widget-view+json'} <= set(shown.outputs[0].data)\n"
    "box = _Control(chart, _read_knobs(chart, {'n': (1, 6, 1)})).live()\nbefore = box.children[-1].value\n"
    "box.children[0].value = 4\nassert box.children[-1].value != before and not plt.get_fignums()",
    "print('x' * 500)",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A small book, built."
    book = make_book(tmp_path_factory.mktemp("site") / "book", {"01_controls.ipynb": CONTROLS})
    done = run_tool(book, "build")
    assert done.returncode == 0, done.stdout + done.stderr
    return book / "_site"


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[str]:
    "The address of the site when it is served from a folder below the root of a host."
    handler = type(
        "Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None}
    )
    host = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(site.parent.parent))
    )
    threading.Thread(target=host.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{host.server_address[1]}/book/_site"
    host.shutdown()


@pytest.fixture(params=["file", "host"])
def page(
    request: pytest.FixtureRequest, site: Path, server: str, browser
) -> Iterator["playwright.Page"]:
    "The page with the controls; the test fails if it asks any other host for anything, or if a script fails."
    base = site.as_uri() if request.param == "file" else server
    opened, problems = browser.new_page(viewport={"width": 1280, "height": 900}), []
    opened.on(
        "request",
        lambda r: None if r.url.startswith((base, "data:", "blob:")) else problems.append(r.url),
    )
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.goto(f"{base}/nbs/01_controls.html")
    opened.wait_for_selector(".gptbook-explore[data-shown] .gptbook-knobs:not([hidden])")
    yield opened
    opened.close()
    assert not problems


def test_keyboard_moves_the_figure(page) -> None:
    control = page.locator(".gptbook-explore").nth(0)
    slider, image = control.locator("input"), control.locator("img")
    assert control.get_attribute("data-shown") == "n = 3"  # the function's default
    before = image.get_attribute("src")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert (
        control.get_attribute("data-shown") == "n = 4"
        and slider.get_attribute("aria-valuetext") == "4"
    )
    assert image.get_attribute("src") != before and image.get_attribute("alt") == "n = 4"
    assert control.locator("output").inner_text() == "4"
    page.keyboard.press("ArrowLeft")
    assert image.get_attribute("src") == before
    page.keyboard.press("End")
    assert control.get_attribute("data-shown") == "n = 6"


def test_mouse_moves_the_figure_and_only_that_one(page) -> None:
    first, second = (page.locator(".gptbook-explore").nth(i) for i in (0, 1))
    others = second.get_attribute("data-shown")
    before = first.locator("img").get_attribute("src")
    box = first.locator("input").bounding_box()
    page.mouse.click(box["x"] + 3, box["y"] + box["height"] / 2)
    assert (
        first.get_attribute("data-shown") == "n = 1"
        and first.locator("img").get_attribute("src") != before
    )
    assert second.get_attribute("data-shown") == others


def test_two_knobs_and_text_that_looks_like_html(page) -> None:
    control = page.locator(".gptbook-explore").nth(1)
    control.locator("select").select_option(label="<b>")
    control.locator("input").focus()
    page.keyboard.press("Home")
    assert control.locator("pre").inner_text() == "<b> </script>"
    page.keyboard.press("End")
    assert control.locator("pre").inner_text() == "<b> <b> <b> </script>"
    assert page.locator("main b").count() == 0


def test_animation_plays_to_its_end(page) -> None:
    control = page.locator(".gptbook-explore").nth(2)
    control.locator("input").focus()
    page.keyboard.press("Home")
    control.get_by_role("button", name="Play").click()
    page.wait_for_function(
        "document.querySelectorAll('.gptbook-explore')[2].dataset.shown === 'frame = 3'"
    )
    control.get_by_role("button", name="Play").wait_for()
    assert control.locator("pre").inner_text() == "frame 3"


def test_maths_and_search_come_from_the_site(page) -> None:
    page.wait_for_selector(".katex-display")
    assert page.locator(".katex").count() >= 3 and page.locator(".katex-error").count() == 0
    page.keyboard.press("Control+k")
    page.keyboard.type("first page")
    page.wait_for_selector(".search-result")
    assert "A small book" in page.locator(".search-result").first.inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_does_not_scroll_sideways(site: Path, browser, scheme: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    page.goto(f"{site.as_uri()}/nbs/01_controls.html")
    page.wait_for_selector(".katex-display")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_first_frame_without_scripts(site: Path, browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site.as_uri()}/nbs/01_controls.html")
    image = page.locator(".gptbook-explore img").first
    assert image.is_visible() and image.bounding_box()["height"] > 100
    assert page.get_by_text("frame 0").is_visible()
    assert not page.locator(
        ".gptbook-explore input"
    ).first.is_visible()  # no slider that does not move
    context.close()


# What the API reference must show of each class: what a user calls
REFERENCE = {
    "model": {"GPT": ["forward", "hidden", "generate", "from_pretrained", "save_pretrained"]},
    "training": {"Trainer": ["fit", "evaluate", "save_checkpoint", "load_checkpoint"]},
    "tokenizer": {
        "Tokenizer": ["decode", "decode_stream", "save", "load"],
        "BPETokenizer": ["train", "from_counts", "encode", "from_pretrained"],
    },
    "data": {
        "NGram": ["fit", "probabilities", "sample", "bits_per_byte"],
        "TokenDataset": ["from_text", "batch", "windows", "open", "save"],
    },
    "distributed": {"DistributedTrainer": ["fit"]},
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "The API reference, built."
    chapters = {"01_a.ipynb": notebook("md:# A\n\n> b\n\ntext")}
    book = make_book(tmp_path_factory.mktemp("reference") / "book", chapters, api=True)
    done = run_tool(book, "build")
    assert done.returncode == 0, done.stdout + done.stderr
    return book / "_site/api"


@pytest.mark.parametrize("module", sorted(REFERENCE))
def test_the_reference_lists_every_public_method(reference: Path, module: str) -> None:
    page = (reference / f"{module}.html").read_text(encoding="utf-8")
    listed = set(re.findall(r'data-anchor-id="([\w.]+)"', page))
    source = importlib.import_module(f"gptbook.{module}")
    for name, promised in REFERENCE[module].items():
        own = vars(getattr(source, name))
        methods = {m for m, f in own.items() if not m.startswith("_") and is_method(f)}
        assert not {f"{name}.{m}" for m in methods} - listed
        assert not {f"{name}.{m}" for m in promised} - listed


def is_method(value: object) -> bool:
    "Whether something in a class is a method: plain, of the class, or static."
    return isinstance(value, classmethod | staticmethod) or inspect.isfunction(value)
