#!/usr/bin/env python3
"""Checks that are about files, not about behaviour.

tools/check.py sync     the package is what the notebooks export, and the notebooks are clean
tools/check.py lines    how long the forward pass is, beside minGPT's (a number, never a failure)
"""

from __future__ import annotations

import argparse
import ast
import io
import os
import shutil
import subprocess
import sys
import tempfile
import tokenize
from pathlib import Path

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


def main() -> int:
    "Run one check."
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="the project folder (default: where this tool is)"
    )
    parser.add_argument("check", choices=("sync", "lines"))
    chosen = parser.parse_args()
    return {"sync": check_sync, "lines": check_lines}[chosen.check](chosen.root.resolve())


if __name__ == "__main__":
    sys.exit(main())
