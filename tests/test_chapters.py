"The form that every notebook has: number, promise, first screen, set-up, what is folded, what is next."

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
from small_book import ROOT

NOTEBOOKS = sorted(path.name for path in (ROOT / "nbs").glob("*.ipynb"))
CHAPTERS = [name for name in NOTEBOOKS if name < "20"]
HIDDEN = {"jupyter": {"source_hidden": True}}


def load_tool():
    "tools/book.py as a module."
    spec = importlib.util.spec_from_file_location("book", ROOT / "tools/book.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["book"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


BOOK = load_tool()


def read(name: str) -> list[dict]:
    "The cells of a notebook, each source as one string."
    cells = json.loads((ROOT / "nbs" / name).read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in cells]


def options(cell: dict) -> dict[str, str]:
    "The directives of a code cell; nothing for text."
    return BOOK._directives(cell["source"]) if cell["cell_type"] == "code" else {}


def is_folded(cell: dict) -> bool:
    "Whether a reader of the site sees the code of a cell only after a click, or never."
    told = options(cell)
    return told.get("code-fold") == "true" or "hide" in told or told.get("include") == "false"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_title_and_promise(name: str) -> None:
    title = read(name)[0]["source"]
    assert re.match(rf"# {name[:2]} \S[^\n]*\n\n> \S", title), title[:80]


@pytest.mark.parametrize("name", CHAPTERS)
def test_no_code_stands_before_the_question(name: str) -> None:
    text = (ROOT / "nbs" / name).read_text(encoding="utf-8")
    cells = json.loads(BOOK.process(text, ROOT / "nbs" / name))["cells"]
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and re.search(r"^## The question\b", source, re.M):
            return
        if cell["cell_type"] == "code" and source.strip():
            assert BOOK._directives(source).get("code-fold") == "true", source[:200]
    raise AssertionError("there is no heading '## The question'")


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_question_comes_with_something_to_see(name: str) -> None:
    cells = read(name)
    starts = [i for i, cell in enumerate(cells) if cell["source"].startswith("## The question")]
    for cell in cells[starts[0] :]:
        if cell["cell_type"] == "markdown" and not cell["source"].startswith("## The question"):
            if re.search(r"^## ", cell["source"], re.M):
                break
        shows = cell["cell_type"] == "code" and "hide" not in options(cell) and cell["outputs"]
        if shows or re.search(r"!\[|<svg|\.svg", cell["source"]):
            return
    raise AssertionError("the first screen shows no picture and no output")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_package_is_installed_where_it_is_missing(name: str) -> None:
    first = next(cell for cell in read(name) if cell["cell_type"] == "code")
    assert "hide" in options(first)
    assert 'importlib.util.find_spec("gptbook") is None' in first["source"]
    assert '%pip install -q "gptbook[' in first["source"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_imports_have_cells_of_their_own(name: str) -> None:
    for cell in read(name):
        if cell["cell_type"] != "code" or "find_spec" in cell["source"]:
            continue
        lines = [line for line in cell["source"].splitlines() if not line.startswith(("%", "!"))]
        body = ast.parse("\n".join(lines)).body
        imports = [
            node
            for node in body
            if isinstance(node, ast.Import | ast.ImportFrom)
            or (  # for one system, or for types
                isinstance(node, ast.If)
                and all(isinstance(inner, ast.Import | ast.ImportFrom) for inner in node.body)
            )
        ]
        mixed = imports and len(imports) < len(body)
        assert not mixed, f"imports and other work in one cell:\n{cell['source'][:300]}"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_folded_here_is_folded_in_jupyter(name: str) -> None:
    for cell in read(name):
        if cell["cell_type"] == "code" and is_folded(cell):
            assert cell["metadata"] == HIDDEN, cell["source"][:200]
            told = options(cell)
            if told.get("code-fold") == "true":
                assert (
                    told.get("code-summary", "")
                    .strip('"')
                    .startswith(("Set-up", "Drawing code", "Solution", "The code"))
                ), cell["source"][:200]


@pytest.mark.parametrize("name", CHAPTERS)
def test_exported_code_is_in_sight(name: str) -> None:
    for cell in read(name):
        if "export" in options(cell) and re.search(r"^(def|class) ", cell["source"], re.M):
            assert not is_folded(cell), cell["source"][:200]


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_last_line_says_what_is_next(name: str) -> None:
    last = read(name)[-1]
    line = last["source"].strip().splitlines()[-1]
    match = re.match(r"\*\*Next:\*\* .*?\[[^]]+\]\(([^)]+)\)", line)
    assert last["cell_type"] == "markdown" and match, line
    assert (ROOT / "nbs" / match[1]).is_file(), match[1]


def test_every_notebook_is_in_the_table_of_contents() -> None:
    pages = BOOK.Book(ROOT).chapters
    assert [Path(page).name for page in pages] == NOTEBOOKS
    numbers = [int(name[:2]) for name in CHAPTERS]
    assert numbers == list(range(len(numbers))), "reading order without gaps"
