#!/usr/bin/env python3
"""Prepare a release: raise the version in settings.ini, build, check. Nothing is uploaded.

tools/release.py patch|minor|major    0.1.0 becomes 0.1.1, 0.2.0 or 1.0.0
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("major", "minor", "patch")
VERSION = re.compile(r"^(version\s*=\s*)(\d+)\.(\d+)\.(\d+)\s*$", re.M)


def raised(
    version: tuple[int, int, int],  # major, minor, patch
    part: str,  # which of them to raise
) -> tuple[int, int, int]:  # what follows it is 0 again
    "The next version."
    i = PARTS.index(part)
    return (*version[:i], version[i] + 1, *(0 for _ in version[i + 1 :]))  # type: ignore[return-value]


def release(
    root: Path,  # the project
    part: str,  # which part of the version to raise
) -> str:  # the new version
    "Raise the version, build into dist/, and check; where a step fails, settings.ini is as before."
    settings = root / "settings.ini"
    before = settings.read_text(encoding="utf-8")
    found = VERSION.search(before)
    if found is None:
        raise SystemExit(f"{settings} has no line like `version = 0.1.0`; write one")
    old = (int(found[2]), int(found[3]), int(found[4]))
    new = ".".join(map(str, raised(old, part)))
    settings.write_text(VERSION.sub(rf"\g<1>{new}", before, count=1), encoding="utf-8")
    try:
        shutil.rmtree(root / "dist", ignore_errors=True)
        run(sys.executable, "-m", "build", "--outdir", root / "dist", root)
        run(sys.executable, "-m", "twine", "check", "--strict", *sorted((root / "dist").iterdir()))
    except BaseException:
        settings.write_text(before, encoding="utf-8")
        raise
    return new


def run(*words: object) -> None:
    "Run a program; show what it said only when it fails."
    command = [str(word) for word in words]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        said = f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
        raise SystemExit(f"{' '.join(command[1:4])} failed, and the version stays:\n{said}")


def main() -> int:
    "Prepare one release, and say what comes next."
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="the project folder")
    parser.add_argument("part", choices=PARTS)
    chosen = parser.parse_args()
    version = release(chosen.root.resolve(), chosen.part)
    print(f"gptbook {version} is in dist/, checked. Nothing was uploaded. Next:")
    print(f"  write [{version}] over what is new in CHANGELOG.md")
    print(f"  git commit -am 'Version {version}' && git tag v{version} && git push --follow-tags")
    print("  .venv/bin/python -m twine upload dist/*")
    return 0


if __name__ == "__main__":
    sys.exit(main())
