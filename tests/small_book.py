"A book of a few cells, for tests of the tools: the real configuration and assets, in a folder of its own."

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def notebook(*cells: str) -> str:
    "A notebook as JSON; a cell is code unless it starts with 'md:'."
    out = []
    for number, source in enumerate(cells):
        kind = "markdown" if source.startswith("md:") else "code"
        cell = {
            "cell_type": kind,
            "id": f"cell{number}",
            "metadata": {},
            "source": source.removeprefix("md:"),
        }
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
        out.append(cell)
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    return json.dumps(
        {"cells": out, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    )


def make_book(folder: Path, chapters: dict[str, str], api: bool = False) -> Path:
    "Write a project whose sidebar lists index.md and these chapters (file name to notebook)."
    (folder / "nbs").mkdir(parents=True)
    shutil.copytree(ROOT / "nbs/assets", folder / "nbs/assets")
    config = (ROOT / "_quarto.yml").read_text(encoding="utf-8")
    listing = "".join(f"      - nbs/{name}\n" for name in chapters)
    config = re.sub(
        r"(    contents:\n).*?(?=\nformat:)", rf"\1      - index.md\n{listing}", config, flags=re.S
    )
    if not api:
        config = config.partition("# read by smalldocs")[0]
    (folder / "_quarto.yml").write_text(config, encoding="utf-8")
    (folder / "pyproject.toml").write_text(
        (ROOT / "pyproject.toml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    shutil.copy(ROOT / "settings.ini", folder)
    (folder / "index.md").write_text(
        "---\ntitle: A small book\n---\n\nThe first page.\n", encoding="utf-8"
    )
    for name, text in chapters.items():
        (folder / "nbs" / name).write_text(text, encoding="utf-8")
    return folder


def run_tool(folder: Path, *arguments: str, tool: str = "book") -> subprocess.CompletedProcess:
    "Run tools/book.py (or another tool) on a project."
    command = [sys.executable, str(ROOT / f"tools/{tool}.py"), "--root", str(folder), *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
