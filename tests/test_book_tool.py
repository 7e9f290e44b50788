"The build: it stops at the first failing cell and says which; it never touches the chapters; the site stands alone."

import importlib.util
import json
import re
from pathlib import Path

import pytest
from small_book import ROOT, make_book, notebook, run_tool


def load_tool(name: str):
    "A file of tools/ as a module."
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


GOOD = notebook(
    "md:# Good\n\n> it works\n\nThe introduction.",
    "#| hide\nsecret = 1",
    "#| export\nprint('shown', 6 * 7)",
)
BAD = notebook("md:# Bad", "x = 1", "print('before')\ny = x / 0  # here")


def test_failing_chapter_stops_the_build(tmp_path: Path) -> None:
    book = make_book(
        tmp_path / "book", {"01_good.ipynb": GOOD, "02_bad.ipynb": BAD, "03_good.ipynb": GOOD}
    )
    done = run_tool(book, "build")
    assert done.returncode == 1
    assert "nbs/01_good.ipynb" in done.stdout and "nbs/03_good.ipynb" not in done.stdout
    for part in (
        "nbs/02_bad.ipynb, cell 3 of 3 (code cell 2",
        "    y = x / 0  # here",
        "ZeroDivisionError: division by zero",
    ):
        assert part in done.stderr
    assert "tools/book.py" not in done.stderr and "\x1b" not in done.stderr
    assert not (book / "_site").exists()
    assert (book / "nbs/02_bad.ipynb").read_text(encoding="utf-8") == BAD


def test_a_failed_claim_is_printed_and_the_book_is_built(tmp_path: Path) -> None:
    claim = notebook(
        "md:# Claims\n\n> one fails", "x = 1\nassert x == 2, 'x is 2'", "print('after', x)"
    )
    book = make_book(tmp_path / "book", {"01_claims.ipynb": claim})
    done = run_tool(book, "build")
    assert done.returncode == 0, done.stderr
    assert "1 claim fails on this machine" in done.stdout and "assert x == 2" in done.stdout
    assert "cell 2 of 3" in done.stdout
    page = (book / "_site/nbs/01_claims.html").read_text(encoding="utf-8")
    assert "after 1" in page and "AssertionError: x is 2" in page and "Traceback" not in page
    done = run_tool(book, "check")  # `make test` stops there
    assert done.returncode == 1 and "AssertionError: x is 2" in done.stderr


def test_pages_lead_back_to_their_source(tmp_path: Path) -> None:
    book = make_book(tmp_path / "book", {"01_good.ipynb": GOOD})
    done = run_tool(book, "build")
    assert done.returncode == 0, done.stderr
    page = (book / "_site/nbs/01_good.html").read_text(encoding="utf-8")
    assert (book / "_site/nbs/01_good.ipynb").read_text(encoding="utf-8") == GOOD
    repository = load_tool("book").Book(book).repository
    assert repository.startswith("https://github.com/")
    colab = repository.replace("github.com", "colab.research.google.com/github")
    for address in (
        '"01_good.ipynb" download',
        f"{colab}/blob/main/nbs/01_good.ipynb",
        f"{repository}/edit/main/nbs/01_good.ipynb",
        f"{repository}/issues/new",
    ):
        assert address in page, address
    assert page.index("<h1") < page.index("download") < page.index("The introduction.")
    index = (book / "_site/llms.txt").read_text(encoding="utf-8")
    assert "nbs/01_good.llms.md" in index
    copy = (book / "_site/nbs/01_good.html.md").read_text(encoding="utf-8")
    assert "shown 42" in copy and "secret" not in copy


def test_what_is_folded_on_a_page(tmp_path: Path) -> None:
    fold = '#| code-fold: true\n#| code-summary: "{}"\n'
    setup = fold.format("Set-up")
    cells = (
        setup + "import json",
        setup + "import math",
        fold.format("Drawing code") + "print('drawn')",
    )
    folded = notebook("md:# Folds\n\n> b", *cells, fold.format("Solution 2") + "print('solved')")
    book = make_book(tmp_path / "book", {"01_folds.ipynb": folded})
    done = run_tool(book, "build")
    assert done.returncode == 0, done.stderr
    page = (book / "_site/nbs/01_folds.html").read_text(encoding="utf-8")
    details = re.findall(r'<details class="code-fold (\w+)">\s*<summary>([^<]*)', page)
    setup_is_one = [
        ("plumbing", "Set-up"),
        ("plumbing", "Drawing code"),
        ("solution", "Solution 2"),
    ]
    assert details == setup_is_one
    assert "drawn" in page and "solved" in page


def test_build_leaves_chapters_alone_and_hides_what_is_hidden(tmp_path: Path) -> None:
    linked = notebook(
        "md:# Linked\n\n> it links\n\nSee [the good one](01_good.ipynb#top).",
        '#| fig-alt: one: two\n#| code-fold: true\n#| code-summary: "Solution 1"\nopen("assets/book.css").close()',
    )
    book = make_book(tmp_path / "book", {"01_good.ipynb": GOOD, "02_linked.ipynb": linked})
    done = run_tool(book, "build")
    assert done.returncode == 0, done.stderr
    assert (book / "nbs/01_good.ipynb").read_text(encoding="utf-8") == GOOD
    page = (book / "_site/nbs/01_good.html").read_text(encoding="utf-8")
    assert (
        "shown 42" in page
        and "The introduction." in page
        and "secret" not in page
        and "#|" not in page
    )
    linking = (book / "_site/nbs/02_linked.html").read_text(encoding="utf-8")
    assert (
        'href="01_good.html#top"' in linking
        and "Solution 1</summary>" in linking
        and "fig-alt" not in linking
    )


def test_missing_chapter(tmp_path: Path) -> None:
    book = make_book(tmp_path / "book", {"01_good.ipynb": GOOD, "02_gone.ipynb": GOOD})
    (book / "nbs/02_gone.ipynb").unlink()
    done = run_tool(book, "build")
    assert (
        done.returncode == 1
        and "nbs/02_gone.ipynb" in done.stderr
        and "Traceback" not in done.stderr
    )
    done = run_tool(book, "page")
    assert done.returncode == 0 and "nbs/02_gone.ipynb is not there yet: skipped" in done.stdout
    assert (book / "_site/nbs/01_good.html").is_file()
    done = run_tool(book, "page", "07")
    assert done.returncode == 1 and "01_good" in done.stderr


def test_broken_link_and_foreign_host_fail_the_build(tmp_path: Path) -> None:
    book = make_book(
        tmp_path / "a",
        {"01_a.ipynb": notebook("md:# A\n\n> b\n\nSee [nothing](05_nothing.ipynb).")},
    )
    done = run_tool(book, "build")
    assert done.returncode == 1 and "05_nothing" in done.stdout
    book = make_book(
        tmp_path / "b",
        {
            "01_a.ipynb": notebook(
                "md:# A\n\n> b\n\n![a picture](https://example.com/a.png) and [a link](https://example.com)"
            )
        },
    )
    done = run_tool(book, "build")
    assert done.returncode == 1 and "nbs/01_a.html loads https://example.com/a.png" in done.stderr
    assert "https://example.com\n" not in done.stderr


@pytest.mark.parametrize(
    "text, loads",
    [
        ('<script src="https://a.org/x.js"></script>', True),
        ('<link rel="stylesheet" href="//a.org/x.css">', True),
        ("<link href=https://a.org/x.css rel=stylesheet>", True),
        ("<style>@import url(https://a.org/x.css);</style>", True),
        ("<p style=\"background: url('http://a.org/x.png')\">", True),
        ('<script type="module">import m from "https://a.org/m.mjs";</script>', True),
        ('<a href="https://a.org/paper.pdf">paper</a>', False),
        ('<link rel="canonical" href="https://a.org/">', False),
        ('<img src="data:image/png;base64,aaaa">', False),
        ('<pre><code>&lt;img src="https://a.org/x.png"&gt; url(https://a.org)</code></pre>', False),
    ],
)
def test_what_counts_as_loading(tmp_path: Path, text: str, loads: bool) -> None:
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    assert bool(load_tool("book").foreign_loads(tmp_path)) is loads


def test_outputs_are_saved_in_place(tmp_path: Path) -> None:
    hidden = json.loads(GOOD)
    hidden["cells"][1]["metadata"] = {"jupyter": {"source_hidden": True}, "trusted": True}
    book = make_book(tmp_path / "book", {"01_good.ipynb": json.dumps(hidden)})
    done = run_tool(book, "outputs", "01_good")
    assert done.returncode == 0, done.stderr
    saved = json.loads((book / "nbs/01_good.ipynb").read_text(encoding="utf-8"))
    assert saved["cells"][1]["metadata"] == {"jupyter": {"source_hidden": True}}  # as it was
    cell = saved["cells"][2]
    assert cell["outputs"][0]["text"] == ["shown 42\n"] and cell["execution_count"] is None


def test_live_half_is_dropped_where_the_page_half_is_there() -> None:
    tool = load_tool("book")
    both, only = {"text/html": "x", tool.WIDGET: {}}, {"text/plain": "x", tool.WIDGET: {}}
    nb = {"cells": [{"outputs": [{"data": dict(both)}, {"data": dict(only)}]}, {}]}
    tool._drop_widget_views(nb)
    assert [list(o["data"]) for o in nb["cells"][0]["outputs"]] == [
        ["text/html"],
        ["text/plain", tool.WIDGET],
    ]


def test_serve_without_a_site(tmp_path: Path) -> None:
    done = run_tool(make_book(tmp_path / "book", {}), "serve")
    assert done.returncode == 1 and "make book" in done.stderr


def test_lines_that_count() -> None:
    source = '"doc"\nimport torch\n\n# why\nclass A:\n    """doc\n    more"""\n    x = """two\nlines"""  # note\n\ndef f(\n    a,  # what\n):\n    "doc"\n    return a\n'
    assert load_tool("check").logical_lines(source) == 5  # import, class, x, def, return


def test_sync_names_what_is_out_of_date(tmp_path: Path) -> None:
    first = notebook("#| default_exp one", "#| export\ndef one(): return 1")
    book = make_book(tmp_path / "book", {"01_one.ipynb": first})
    (book / "settings.ini").write_text("[DEFAULT]\n", encoding="utf-8")
    (book / "gptbook").mkdir()
    (book / "gptbook/__init__.py").write_text("", encoding="utf-8")
    (book / "gptbook/stale.py").write_text("x = 1\n", encoding="utf-8")
    done = run_tool(book, "sync", tool="check")
    assert done.returncode == 1
    assert (
        "gptbook/one.py" in done.stderr
        and "gptbook/stale.py: no notebook exports it" in done.stderr
        and "nbdev-export" in done.stderr
    )
    assert not (book / "gptbook/one.py").exists()  # a check changes nothing
