"What the pages around the chapters say is so: references, glossary, notation, and the words under figures."

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
CHAPTERS = sorted(path for path in NBS.glob("*.ipynb") if path.name < "2")


def load_check():
    "tools/check.py as a module."
    spec = importlib.util.spec_from_file_location("check_tool", ROOT / "tools/check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check = load_check()


def markdown(path: Path) -> str:
    "All text of a notebook."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


# References


def test_references_are_those_of_the_chapters():
    written = (NBS / "references.md").read_text(encoding="utf-8")
    assert written == check.make_references(ROOT), "run: tools/check.py references"
    known = check.known_sources(written)
    bare = [address for address, source in known.items() if source.title == address]
    assert not bare, f"write authors and title in nbs/references.md: {bare}"


def small_project(root: Path, *texts: str) -> Path:
    "A project of notebooks with one cell each; its page of references."
    (root / "nbs").mkdir()
    for i, text in enumerate(texts):
        cells = [{"cell_type": "markdown", "source": [f"# {i:02} Chapter\n", text]}]
        (root / f"nbs/{i:02}_chapter.ipynb").write_text(json.dumps({"cells": cells}), "utf-8")
    page = root / "nbs/references.md"
    page.write_text("# References\n", encoding="utf-8")
    return page


def test_a_new_link_becomes_an_entry_and_a_title_stays(tmp_path, capsys):
    one = "See [Doe et al. (2020)](https://a.org/x(1)y) and [a tool](https://b.org)."
    page = small_project(tmp_path, one, "By [Doe et al., 2020](https://a.org/x(1)y), too.")
    assert (
        check.check_references(tmp_path) == 1 and "https://a.org/x(1)y" in capsys.readouterr().err
    )
    page.write_text(page.read_text("utf-8").replace("[https://a.org/x(1)y]", "[On X]"), "utf-8")
    assert check.check_references(tmp_path) == 0
    both = "[00](00_chapter.ipynb), [01](01_chapter.ipynb)"
    text = page.read_text("utf-8")
    assert f"- Doe et al. (2020). [On X](https://a.org/x(1)y). Cited in {both}." in text
    assert "- [a tool](https://b.org). Cited in [00](00_chapter.ipynb)." in text
    (tmp_path / "nbs/00_chapter.ipynb").unlink()  # what nobody cites any more goes
    assert check.check_references(tmp_path) == 0 and "b.org" not in page.read_text("utf-8")
    assert "On X" in page.read_text("utf-8")


# Glossary

STRESS = {  # bold in chapter 08 that stresses and names nothing
    "two for every weight and token",
    "slowly",
    "fast",
    "words",
    "grammar between neighbours",
}


def terms(text: str) -> list[str]:
    """The words that a chapter introduces in bold. The rule, which nbs/glossary.md gives to its readers:
    bold inside a sentence, or at the head of a list item when a parenthesis follows or it begins with a small letter.
    No term: what opens a paragraph, a list item or, before a colon, a sentence; what ends as a sentence does;
    cells of tables; names in "In the wild"."""
    found, wild = [], False
    for part in re.split(r"\n\s*\n|\n(?=- |#|\||\d+\. )", text):
        part = part.strip()
        if part.startswith("#"):
            wild = "In the wild" in part
        if wild or part.startswith("|"):
            continue
        for bold in re.finditer(r"\*\*(.+?)\*\*", part, re.S):
            word, before, after = (
                " ".join(bold[1].split()),
                part[: bold.start()],
                part[bold.end() :],
            )
            item = re.fullmatch(r"- |\d+\. ", before)
            heads = item and (word[0].islower() or after.startswith(" ("))
            opens = (
                not before or item or (re.search(r"[.?][*]*\s$", before) and after.startswith(":"))
            )
            if re.search("[A-Za-z]", word) and word[-1] not in ".:?!" and (heads or not opens):
                found.append(word)
    return found


@pytest.mark.parametrize(
    "text, expected",
    [
        ("A **token** is a piece.", ["token"]),
        ("**Exercise 1.** Try **beam\nsearch**.", ["beam search"]),
        ("- **top-k**: keep k\n- **GELU** (2016) bends\n- **Learned** breaks", ["top-k", "GELU"]),
        ("First. **Seconds, in training.** **Other weights**: none. **Loss** is", ["Loss"]),
        ("| **0** | a **cell** |", []),
        ("## In the wild\n\n- the **name**\n\n## Next\n\nthe **stream**", ["stream"]),
    ],
)
def test_what_counts_as_a_term(text, expected):
    assert terms(text) == expected


def normal(word: str) -> str:
    "A term as it is looked up: small letters, singular, without what stands in parentheses."
    word = re.sub(r"\s*\(.*?\)", "", word).lower()
    return word.removesuffix("s") if not word.endswith(("ss", "bias")) else word


def glossary() -> list[tuple[list[str], str, list[str]]]:
    "Rows of the glossary: names, meaning, chapters."
    rows = re.findall(
        r"^\| \*\*(.+?)\*\* \| (.+?) \| (.+?) \|$", (NBS / "glossary.md").read_text("utf-8"), re.M
    )
    return [
        (re.split(r", ", names), meaning, re.findall(r"\]\((.+?\.ipynb)\)", where))
        for names, meaning, where in rows
    ]


def test_every_term_of_the_chapters_is_in_the_glossary():
    known = {normal(name) for names, _, _ in glossary() for name in names}
    known |= {
        normal(name)
        for names, _, _ in glossary()
        for several in names
        for name in re.findall(r"\((.*?)\)", several)
    }
    missing = {
        (path.name[:2], term)
        for path in CHAPTERS
        for term in terms(markdown(path))
        if normal(term) not in known | STRESS and term.lower() not in STRESS
    }
    assert not missing, f"give these an entry in nbs/glossary.md: {sorted(missing)}"


def test_the_glossary_is_in_order_and_its_chapters_use_the_words():
    rows = glossary()
    lines = [line for line in (NBS / "glossary.md").read_text("utf-8").splitlines() if "**" in line]
    assert len([line for line in lines if line.startswith("| **")]) == len(rows) > 50
    heads = [names[0].lower() for names, _, _ in rows]
    assert heads == sorted(heads) and len(set(heads)) == len(heads)
    unused = []
    for names, meaning, where in rows:
        assert where and meaning[-1] != ".", names
        for name in where:
            text = re.sub(r"[-_\s]+", " ", (NBS / name).read_text("utf-8").lower())
            used = [word for word in re.split(r", | \(|\)", ", ".join(names)) if word]
            if not any(normal(word).replace("-", " ") in text for word in used):
                unused.append((names, name))
    assert not unused


# Notation


def formulas(text: str) -> str:
    "What stands between dollars, without words."
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    found = re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", text, re.S)
    words = r"\\(?:text|mathrm|tag|operatorname)\{[^}]*\}|\\[A-Za-z]+"
    return re.sub(words, " ", " ".join(display or inline for display, inline in found))


def letters(text: str) -> set[str]:
    "Capital letters of formulas, without what hangs below them."
    return set(re.findall(r"(?<![A-Za-z_])[A-Z](?![A-Za-z])", text.replace("_", " _")))


def notation() -> tuple[list[str], dict[str, set[str]]]:
    "The symbols that are defined, and the letters that chapters borrow, by chapter."
    page = (NBS / "notation.md").read_text(encoding="utf-8")
    own, borrowed = page.split("## Letters that a chapter borrows")
    symbols = [
        symbol
        for cell in re.findall(r"^\| (\$.+?) \|", own, re.M)
        for several in re.findall(r"\$([^$]+)\$", cell)
        for symbol in re.split(r",\s*", several)
    ]
    lent = {}
    for row in re.findall(r"^\| \$.*$", borrowed, re.M):
        cells = row.strip("| ").split(" | ")
        for name in re.findall(r"\]\((.+?\.ipynb)\)", cells[2]):
            lent.setdefault(name, set()).update(letters(" ".join(cells[:2])))
    return symbols, lent


def test_a_symbol_has_one_meaning():
    symbols, _ = notation()
    assert len(symbols) > 15 and sorted(symbols) == sorted(set(symbols))


def test_letters_are_borrowed_where_the_page_says_so():
    symbols, lent = notation()
    assert len(lent) >= 5
    for name, borrowed in lent.items():
        used = letters(formulas(markdown(NBS / name)))
        assert borrowed <= used, f"{name} has no {sorted(borrowed - used)}"
        assert borrowed & set(symbols), f"{name}: nothing of {sorted(borrowed)} is borrowed"


def test_a_capital_letter_of_two_chapters_is_on_the_page():
    symbols, lent = notation()
    used: dict[str, set[str]] = {}
    for path in CHAPTERS:
        for letter in letters(formulas(markdown(path))) - lent.get(path.name, set()):
            used.setdefault(letter, set()).add(path.name)
    several = {letter: names for letter, names in used.items() if len(names) > 1}
    assert {"B", "T", "C"} <= several.keys()
    unknown = {letter: names for letter, names in several.items() if letter not in symbols}
    assert not unknown, f"define these in nbs/notation.md: {unknown}"


# How to read


def test_what_a_chapter_needs_is_what_it_says_itself():
    page = (NBS / "how_to_read.md").read_text(encoding="utf-8")
    order = page.split("## Order")[1].split("## ")[0]
    told = re.findall(r"hapters? ((?:\d\d[^;.]*?)) needs? ((?:\d\d|and|,| )+)", order)
    pairs = [(c, re.findall(r"\d\d", n)) for cs, n in told for c in re.findall(r"\d\d", cs)]
    assert {chapter for chapter, _ in pairs} == {"09", "10", "11", "12", "13"}
    for chapter, needed in pairs:
        text = markdown(next(NBS.glob(f"{chapter}_*.ipynb")))
        own = re.search(r"(?:You need|\*\*You need\*\*)[^\n]+", text)[0]
        assert needed and all(f"({number}_" in own for number in needed), (chapter, needed, own)
