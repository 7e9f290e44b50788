"Every page of the book in a browser, from the outputs that the chapters have saved: two widths, two themes."

import contextlib
import functools
import http.server
import re
import shutil
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest
import yaml
from small_book import ROOT, run_tool

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")


def listed(contents: list) -> list[str]:
    "The pages that a part of the sidebar lists, without their ending."
    found = []
    for item in contents:
        if isinstance(item, dict) and "contents" in item:
            found += listed(item["contents"])
        else:
            found.append((item if isinstance(item, str) else item["href"]).rpartition(".")[0])
    return found


WEBSITE = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))["website"]
CHAPTERS = listed(WEBSITE["sidebar"]["contents"])
MODULES = sorted(p.stem for p in (ROOT / "gptbook").glob("*.py") if not p.name.startswith("_"))
PAGES = [*CHAPTERS, *(f"api/{name}" for name in MODULES), "playground/index"]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "The whole book, rendered from its saved outputs."
    folder = tmp_path_factory.mktemp("pages") / "book"
    done = run_tool(ROOT, "pages", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout, done.stdout
    return folder


@pytest.fixture(scope="module")
def host(site: Path) -> Iterator[str]:
    "The address where the site is served."
    shutil.copy(str(files("axe_playwright_python").joinpath("axe.min.js")), site)
    quiet = {"log_message": lambda *_: None, "protocol_version": "HTTP/1.1"}
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), quiet)
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(site))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()


@contextlib.contextmanager
def opened(browser, host: str, name: str, scheme: str, width: int) -> Iterator[tuple]:
    "A page with everything unfolded, and a list that fills with what goes wrong on it."
    context = browser.contexts[0] if browser.contexts else browser.new_context()  # keeps its cache
    page, wrong = context.new_page(), []
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.on("request", lambda r: foreign(r.url, host) and wrong.append(f"asks {r.url}"))
    page.on("response", lambda r: r.status >= 400 and wrong.append(f"{r.status} for {r.url}"))
    page.on("console", lambda m: m.type == "error" and wrong.append(f"console: {m.text}"))
    page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    page.goto(f"{host}{name}.html", wait_until="load")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    if "playground" in name:
        page.wait_for_selector("#tokens > *")
    if scheme == "dark":
        page.wait_for_function(f"getComputedStyle(document.body).backgroundColor === '{DARK}'")
    yield page, wrong
    page.close()


def foreign(address: str, host: str) -> bool:
    "Whether an address is on another host."
    return not address.startswith((host, "data:", "blob:"))


# what a phone shows: where the page, a table, a control or a formula is wider than its box, and small labels
PHONE = """() => {
  const wrong = [], name = e => e.tagName.toLowerCase() + (e.className && e.className.baseVal === undefined ? '.' + [...e.classList].join('.') : '')
    + ' ' + JSON.stringify((e.innerText || e.alt || '').trim().slice(0, 60));
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) {
    wrong.push('the page scrolls sideways: ' + root.scrollWidth + ' px');
  }
  for (const e of document.querySelectorAll('main *, .playground *')) {
    const style = getComputedStyle(e);
    if (!/auto|scroll/.test(style.overflowX) || e.scrollWidth <= e.clientWidth + 1 || !e.clientWidth) continue;
    if (e.matches('pre, textarea, .math.display, .figure-box') || e.closest('pre')) continue;
    if ([...e.children].every(c => c.matches('pre'))) continue;  // printed text is code
    wrong.push('scrolls sideways: ' + name(e) + ' ' + e.scrollWidth + ' > ' + e.clientWidth);
  }
  for (const e of document.querySelectorAll('.gptbook-explore, .playground')) {
    const edge = e.getBoundingClientRect();
    for (const c of e.querySelectorAll('input, select, button, output, label, table')) {
      const box = c.getBoundingClientRect();
      if (box.width && (box.right > edge.right + 1 || box.left < edge.left - 1)) wrong.push('leaves its control: ' + name(c));
    }
  }
  for (const t of document.querySelectorAll('main svg text')) {
    const m = t.getScreenCTM();
    const size = parseFloat(getComputedStyle(t).fontSize) * Math.hypot(m.a, m.b);
    if (m && t.getBoundingClientRect().width && size < 8.95) wrong.push('label of ' + size.toFixed(1) + ' px: ' + t.textContent);
  }
  for (const tag of document.querySelectorAll('.katex-tag, .tag')) {
    const box = tag.getBoundingClientRect();
    if (!tag.closest('.katex-display') || !box.width) continue;
    const others = [...tag.closest('.katex-html').querySelectorAll('.base')].map(b => b.getBoundingClientRect());
    if (others.some(b => b.right > box.left + 1 && b.left < box.right - 1 && b.bottom > box.top && b.top < box.bottom)) wrong.push('covered number: ' + tag.textContent);
  }
  return wrong;
}"""

# pictures: at least this share of their natural width, at which 10-point labels at 90 dots per inch have 9 px
PICTURES = """() => [...document.querySelectorAll('main img')].filter(i => i.getBoundingClientRect().width && i.naturalWidth > 1).map(i => {
  const box = i.getBoundingClientRect(), fit = getComputedStyle(i).objectFit;
  const scale = fit === 'cover' ? Math.max(box.width / i.naturalWidth, box.height / i.naturalHeight) : box.width / i.naturalWidth;
  return [i.alt.slice(0, 60), i.naturalWidth, Math.round(box.width), scale, !!i.closest('.gptbook-explore')];
})"""

# code blocks and formulas after the first five are made alike, and would take most of the time
AXE = """async options => (await axe.run({exclude: options.everything ? [] : [['[data-repeats]']]}, {resultTypes: ['violations'], preload: false, ...options})).violations.flatMap(v => v.nodes.map(n =>
  v.id + ': ' + n.target.join(' ') + ' ' + n.html.slice(0, 120) + ' ' + [...n.any, ...n.all, ...n.none].map(c => c.message).join('; ').slice(0, 200)))"""
TAGS = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
DARK = "rgb(21, 24, 28)"  # the ground of the dark theme
SCROLLING = {"type": "rule", "values": ["scrollable-region-focusable"]}
COLOURS = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}


def axe(page, options: dict) -> list[str]:
    "What axe-core finds on a page, a line for each place."
    if not page.evaluate("!!window.axe"):
        page.add_script_tag(url="/axe.min.js")
    page.evaluate("""for (const kind of ['div.sourceCode', '.katex', '.cell-output pre'])
      [...document.querySelectorAll(kind)].slice(5).forEach(e => e.dataset.repeats = 1)""")
    return page.evaluate(AXE, options)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_in_both_themes_and_two_widths(browser, host: str, name: str) -> None:
    with opened(browser, host, name, "light", 1400) as (page, wrong):
        wrong += axe(page, {"runOnly": TAGS})
        width = page.evaluate("document.documentElement.scrollWidth")
        wrong += [f"the page scrolls sideways: {width} px"] if width > 1400 else []
        page.set_viewport_size({"width": 390, "height": 844})
        page.wait_for_timeout(80)  # book.js lays out again 40 ms after the last change
        wrong += page.evaluate(PHONE) + small_pictures(page)
        wrong += axe(page, {"runOnly": SCROLLING, "everything": True})
        page.emulate_media(color_scheme="dark")
        page.wait_for_function(f"getComputedStyle(document.body).backgroundColor === '{DARK}'")
        wrong += page.evaluate(PHONE) + axe(page, {"runOnly": COLOURS})
        page.set_viewport_size({"width": 1400, "height": 900})
        width = page.evaluate("document.documentElement.scrollWidth")
        wrong += [f"in the dark the page scrolls sideways: {width} px"] if width > 1400 else []
    assert not wrong, "\n".join(dict.fromkeys(wrong))


def small_pictures(page) -> list[str]:
    "The pictures whose labels are too small to read; a control's only panel may be smaller: it does not scroll."
    return [
        f"{width:.0f} of {natural} px: {label}"
        for label, natural, width, scale, in_control in page.evaluate(PICTURES)
        if scale < (0.49 if in_control else 0.71)
    ]


def test_the_audit_finds_what_it_looks_for(browser, host: str) -> None:
    bad = """document.querySelector('main').insertAdjacentHTML('beforeend', `
      <div style="overflow-x: auto"><div style="width: 900px">wide</div></div><p style="color: #aaa">pale</p>
      <svg viewBox="0 0 800 20" width="300"><text y="15" font-size="12">small</text></svg>
      <div class="gptbook-explore" style="width: 100px"><input style="width: 200px; max-width: none"></div>
      <img src="nowhere.png" style="width: 900px" alt="none">`); console.error('an error')"""
    with opened(browser, host, "index", "light", 390) as (page, wrong):
        page.evaluate(bad)
        page.wait_for_timeout(50)
        wrong += page.evaluate(PHONE) + axe(page, {"runOnly": TAGS})
    text = "\n".join(wrong)
    for part in ("scrolls sideways: div", "label of", "leaves its control", "color-contrast"):
        assert part in text, part
    for part in ("404 for", "console: an error", "label: "):
        assert part in text, part


class Page(HTMLParser):
    "The links and anchors of a page."

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links, self.anchors = [], {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        given = dict(attributes)
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        self.links += [given[key] for key in ("href", "src") if given.get(key)]


def test_every_internal_link_and_anchor_leads_somewhere(site: Path) -> None:
    pages = {p.resolve(): Page(p.read_text(encoding="utf-8")) for p in site.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = pages[target].anchors if target in pages else {""}
            if not target.exists() or unquote(parts.fragment) not in known:
                broken.append(f"{path.relative_to(site)}: {link}")
    assert len(pages) >= len(PAGES) and sum(len(p.links) for p in pages.values()) > 2000
    assert not broken, "\n".join(broken)


def test_pages_are_light(site: Path) -> None:
    sizes = {p.relative_to(site).as_posix(): p.stat().st_size for p in site.rglob("*.html")}
    assert not {name: size for name, size in sizes.items() if size >= 1_500_000}


@pytest.mark.parametrize("served", [True, False])
def test_search_finds_the_causal_mask(browser, site: Path, host: str, served: bool) -> None:
    page = browser.new_page()
    page.goto(f"{host if served else site.as_uri() + '/'}nbs/how_to_read.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("causal mask")
    page.wait_for_selector(".search-result")
    found = page.locator(".search-result").all_inner_texts()
    assert any("03 Attention" in text for text in found), found
    assert "causal" in found[0]
    page.close()


@pytest.mark.parametrize("name", ["index", "nbs/03_attention", "nbs/08_scaling"])
def test_lines_of_text_have_65_to_75_characters(browser, host: str, name: str) -> None:
    lines = """() => [...document.querySelectorAll('main p')].flatMap(p => {
      if (p.closest('details, table, .playground, .book-links') || p.querySelector('code, img, .math')) return [];
      const range = document.createRange();
      range.selectNodeContents(p);
      const tops = new Set([...range.getClientRects()].map(r => Math.round(r.bottom / 8)));
      return tops.size > 2 ? [p.textContent.length / (tops.size - .5)] : [];
    })"""
    with opened(browser, host, name, "light", 1400) as (page, _):
        found = page.evaluate(lines)
    mean = sum(found) / len(found)
    assert 65 <= mean <= 78, mean  # an estimate: the last line of each is taken for half a line


def test_the_map_of_the_site_and_the_cards(site: Path) -> None:
    names = {p.relative_to(site).as_posix() for p in site.rglob("*.html")}
    tree = ElementTree.parse(site / "sitemap.xml").getroot()
    listed = [place.text for place in tree.iter("{http://www.sitemaps.org/schemas/sitemap/0.9}loc")]
    base = next(place for place in listed if place.endswith("/index.html")).removesuffix(
        "api/index.html"
    )
    assert {place.removeprefix(base) for place in listed} == names and len(listed) == len(names)
    titles = set()
    for name in names:
        text = (site / name).read_text(encoding="utf-8")
        card = dict(re.findall(r'<meta property="og:(\w+)" content="([^"]*)">', text))
        assert card["url"] == base + name and card["title"] and card["description"], name
        assert (site / card["image"].removeprefix(base)).is_file(), name
        titles.add(card["title"])
    assert len(titles) > len(names) - 3


def test_printed_pages_are_black_on_white(browser, host: str) -> None:
    with opened(browser, host, "nbs/03_attention", "dark", 1000) as (page, _):
        page.emulate_media(media="print", color_scheme="dark")
        colours = page.evaluate(
            "['color', 'backgroundColor'].map(c => getComputedStyle(document.body)[c])"
        )
        assert colours == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]
        assert not page.locator("#quarto-sidebar").is_visible()
        assert not page.locator("#quarto-margin-sidebar").is_visible()
