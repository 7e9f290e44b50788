#!/usr/bin/env python3
"""Checks that are about files, not about behaviour.

tools/check.py sync     the package is what the notebooks export, and the notebooks are clean
tools/check.py lines    how long the forward pass is, beside minGPT's (a number, never a failure)
tools/check.py references   write nbs/references.md from the links in the notebooks
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tokenize
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
FORWARD_PASS = (
    "positional_encoding",
    "attention",
    "multi_head",
    "feed_forward",
    "model",
)  # chapters 02 to 06
# mingpt/model.py of https://github.com/karpathy/minGPT (master, last changed in 2022), counted as below: the model,
# its optimiser's groups and the copy of GPT-2's weights, without rotary and ALiBi, grouped heads, cache, other norms
MINGPT = 167


def logical_lines(
    source: str,  # Python source
) -> int:  # its logical lines
    "Count what Python ends with a NEWLINE token, docstrings left out: a statement is one, however it is laid out."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = sum(token.type == tokenize.NEWLINE for token in tokens)
    scopes = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, scopes))
    return lines - sum(ast.get_docstring(node, clean=False) is not None for node in nodes)


def check_lines(root: Path) -> int:  # the exit code
    "Print how many logical lines the forward pass takes."
    total = 0
    for name in FORWARD_PASS:
        count = logical_lines((root / f"gptbook/{name}.py").read_text(encoding="utf-8"))
        total += count
        print(f"{count:4d}  gptbook/{name}.py")
    print(
        f"{total:4d}  logical lines in chapters 02 to 06 (Python's NEWLINE tokens, without docstrings)"
    )
    print(f"{MINGPT:4d}  in minGPT's model.py, counted the same way")
    return 0


def contents(
    folder: Path,  # a folder
    patterns: tuple[str, ...],  # which files in it
) -> dict[str, bytes]:  # what is in each file, by its path
    "Read the files that a check compares."
    found = (
        path
        for pattern in patterns
        for path in folder.glob(pattern)
        if not path.name.startswith(".")
    )
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(found)}


def run_nbdev(
    command: str,  # the command of nbdev to run
    folder: Path,  # where
) -> None:
    "Run one of nbdev's commands from this environment, and show what it says only when it fails."
    tool = Path(sys.executable).with_name(command)
    done = subprocess.run(
        [tool],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONNOUSERSITE": "1"},
    )
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stdout}{done.stderr}")


def check_sync(root: Path) -> int:  # the exit code
    "Export and clean a copy of the project, and name the files that this changes."
    patterns = ("nbs/*.ipynb", "gptbook/*.py")
    with tempfile.TemporaryDirectory(prefix="gptbook-sync-") as folder:
        copy = Path(folder)
        for name in ("pyproject.toml", "settings.ini"):
            shutil.copy(root / name, copy / name)
        for part, pattern in (
            ("nbs", "*.ipynb"),
            ("gptbook", "_*.py"),
        ):  # exported modules are made anew
            (copy / part).mkdir()
            for path in (root / part).glob(pattern):
                shutil.copy(path, copy / part / path.name)
        before = contents(root, patterns)
        run_nbdev("nbdev-export", copy)
        run_nbdev("nbdev-clean", copy)
        after = contents(copy, patterns)
    changed = sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )
    stale = [name for name in changed if name not in after]
    for name in changed:
        print(
            f"out of date: {name}" + (": no notebook exports it" if name in stale else ""),
            file=sys.stderr,
        )
    if stale:
        print(f"delete {' '.join(stale)}, or export it from a notebook", file=sys.stderr)
    if len(changed) > len(stale):
        print(
            "run `.venv/bin/nbdev-export && .venv/bin/nbdev-clean`, look at `git diff`, and commit",
            file=sys.stderr,
        )
    if not changed:
        print(f"{len(before)} files: nbdev-export and nbdev-clean change nothing")
    return 1 if changed else 0


BY_HAND = (
    "## What the book is built with"  # from there on, the page of references is written by hand
)
REFERENCES = """# References

> what the chapters lean on, and which of them cite it

This page is made from the links in the chapters (`tools/check.py references`). A paper stands under the
chapter that cites it first, the oldest first; the numbers after it are all the chapters that cite it.
"""
OURS = "https://github.com/gptbook/"  # not a source
LINK = re.compile(r"\[([^\]]+)\]\((https?://(?:[^\s()]|\([^\s()]*\))+)\)")
ENTRY = re.compile(r"- (?:(.+?) \((\d{4})\)\. )?\[(.+?)\]\((https?://\S+)\)\.(.*?) Cited in .*\.")


class Source(NamedTuple):
    "What the page says of an address, apart from who cites it."

    authors: str  # empty for what has no authors and no year: a program, a manual
    year: str
    title: str
    remark: str  # empty, or a sentence


def cited_addresses(
    root: Path,  # the project
) -> dict[str, dict[Path, list[str]]]:  # by address: the notebooks that link to it, and their words
    "The links of all notebooks' text, in the order of the chapters."
    found: dict[str, dict[Path, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted((root / "nbs").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for cell in cells:
            if cell["cell_type"] == "markdown":
                for words, address in LINK.findall("".join(cell["source"])):
                    if not address.startswith(OURS):
                        found[address][path].append(" ".join(words.split()))
    return found


def known_sources(
    page: str,  # the references as they are
) -> dict[str, Source]:  # by address
    "What the page says already. Authors and titles are written there by hand, once."
    entries = map(ENTRY.fullmatch, page.splitlines())
    return {
        entry[4]: Source(entry[1] or "", entry[2] or "", entry[3], entry[5].strip())
        for entry in entries
        if entry
    }


def new_source(
    words: list[str],  # of the links to it
    address: str,  # it stands for the title until somebody writes that
) -> Source:
    "What the links themselves tell: authors and year."
    for said in words:
        if dated := re.fullmatch(r"(.+?),? \(?(\d{4})\)?", said):
            return Source(dated[1].removesuffix("'s"), dated[2], address, "")
    return Source("", "", words[0], "")


def make_references(
    root: Path,  # the project
) -> str:  # what nbs/references.md should be
    "The references, grouped by the chapter that cites first."
    page = (root / "nbs/references.md").read_text(encoding="utf-8")
    known = known_sources(page)
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for address, citing in cited_addresses(root).items():
        words = [said for several in citing.values() for said in several]
        source = known.get(address) or new_source(words, address)
        first = min(citing)
        if source.year:
            cells = json.loads(first.read_text(encoding="utf-8"))["cells"]
            titles = [line for cell in cells for line in "".join(cell["source"]).splitlines()]
            group = next(line for line in titles if line.startswith("# "))
        else:
            group = "# Programs, manuals and data sheets"
        line = f"{source.authors} ({source.year}). " if source.year else ""
        line += f"[{source.title}]({address})." + f" {source.remark}" * bool(source.remark)
        numbers = ", ".join(f"[{path.name[:2]}]({path.name})" for path in sorted(citing))
        order = source.year + line.casefold()
        groups[group].append((order, f"- {line} Cited in {numbers}."))
    last = groups.pop("# Programs, manuals and data sheets", [])
    parts = [
        *sorted(groups.items(), key=lambda group: group[0]),
        ("# Programs, manuals and data sheets", last),
    ]
    text = REFERENCES
    for title, lines in parts:
        text += f"\n#{title}\n\n" + "".join(f"{line}\n" for _, line in sorted(lines))
    text += "\n" + page[page.index(BY_HAND) :] if BY_HAND in page else ""
    return text


def check_references(root: Path) -> int:  # the exit code
    "Write the references, and name those whose title somebody has to write."
    path = root / "nbs/references.md"
    text = make_references(root)
    path.write_text(text, encoding="utf-8")
    print(f"{len(known_sources(text))} sources in {path.relative_to(root)}")
    bare = [address for address, source in known_sources(text).items() if source.title == address]
    for address in bare:
        print(f"write its authors and title in {path.name}: {address}", file=sys.stderr)
    return 1 if bare else 0


def main() -> int:
    "Run one check."
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="the project folder (default: where this tool is)"
    )
    parser.add_argument("check", choices=("sync", "lines", "references"))
    chosen = parser.parse_args()
    checks = {"sync": check_sync, "lines": check_lines, "references": check_references}
    return checks[chosen.check](chosen.root.resolve())


if __name__ == "__main__":
    sys.exit(main())
