"""The wheel with every other Python from 3.11 on that this machine has.

Without PyTorch, which takes minutes and gigabytes for each: what needs none is run, the rest is
compiled. With GPTBOOK_PYTHONS=full everything is installed and used, as the public tests do. The
environments are kept in .venv/pythons; the package in them is new each time.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".venv/pythons"
ROOM = 12e9  # bytes: PyTorch with what it needs for a graphics card
FULL = os.environ.get("GPTBOOK_PYTHONS") == "full"
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}


def pythons() -> dict[str, str]:
    "Other Pythons from 3.11 on: 3.12 -> its program. PATH, pyenv and uv are asked."
    names = [f"python3.{minor}" for minor in range(11, 30)]
    found = [path for name in names if (path := shutil.which(name))]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found += [str(path) for path in sorted(pyenv.glob("versions/3.*/bin/python"))]
    found += [
        str(p) for p in sorted(Path.home().glob(".local/share/uv/python/cpython-3*/bin/python3"))
    ]
    here, others = f"{sys.version_info.major}.{sys.version_info.minor}", {}
    code = "import sys; print(*sys.version_info[:2], sys.version_info.releaselevel, sep='.')"
    for path in found:
        done = subprocess.run([path, "-c", code], capture_output=True, text=True, env=CLEAN)
        match = re.fullmatch(r"(3\.\d+)\.final\s*", done.stdout)
        if done.returncode == 0 and match and match[1] != here:
            if int(match[1].split(".")[1]) >= 11:
                others.setdefault(match[1], path)
    return others


def run(*words: object, **options) -> subprocess.CompletedProcess:
    "Run a program without this environment's settings."
    command = [str(word) for word in words]
    return subprocess.run(command, capture_output=True, text=True, env=CLEAN, **options)


def requirements() -> list[str]:
    "What settings.ini says that the package needs."
    facts = ConfigParser(interpolation=None)
    facts.read(ROOT / "settings.ini", encoding="utf-8")
    return facts["DEFAULT"]["requirements"].split()


def environment(version: str, base: str) -> Path:
    "The Python of an environment with what the package needs, without the package."
    folder = KEPT / version
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = hashlib.sha256("\n".join([base, str(FULL), *requirements()]).encode()).hexdigest()
    stamp = folder / "requirements.sha256"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    KEPT.mkdir(parents=True, exist_ok=True)
    if FULL and shutil.disk_usage(KEPT).free < ROOM:
        pytest.skip(f"less than {ROOM / 1e9:.0f} GB of room for PyTorch")
    made = run(base, "-m", "venv", "--clear", folder)
    if made.returncode:
        pytest.skip(f"Python {version} makes no environments: {made.stderr.strip()[-200:]}")
    pip = [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt"]
    torch = next(line for line in requirements() if line.startswith("torch"))
    if FULL:
        done = run(*pip, torch)
        if done.returncode:
            pytest.skip(f"no PyTorch for Python {version} here: {done.stderr.strip()[-200:]}")
    done = run(*pip, *(line for line in requirements() if FULL or line != torch))
    assert done.returncode == 0, done.stderr
    stamp.write_text(wanted, encoding="utf-8")
    return python


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "The wheel, built from what is here."
    source, out = tmp_path_factory.mktemp("source") / "gptbook", tmp_path_factory.mktemp("dist")
    skipped = (
        ".*",
        "_*site",
        "_build",
        "build",
        "dist",
        "runs",
        "*.egg-info",
        "__pycache__",
        "nbs",
    )
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*skipped))
    done = run(sys.executable, "-m", "build", "--wheel", "--outdir", out, source)
    assert done.returncode == 0, done.stderr[-3000:]
    [path] = out.glob("*.whl")
    return path


@pytest.mark.parametrize("version, base", sorted(pythons().items()))
def test_the_wheel_works_with_this_python(version, base, wheel: Path, tmp_path: Path) -> None:
    python = environment(version, base)
    pip = [python, "-m", "pip"]
    done = run(*pip, "install", "--quiet", "--no-deps", "--force-reinstall", wheel, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run(python, "-m", "gptbook", "train", "--help", cwd=tmp_path)
    assert done.returncode == 0 and "--learning-rate" in done.stdout, done.stderr
    package = min(python.parent.parent.glob("[Ll]ib*/**/site-packages/gptbook"))
    done = run(python, "-W", "error::SyntaxWarning", "-m", "compileall", "-q", "-f", package)
    assert done.returncode == 0, done.stdout
    if not FULL:
        return
    done = run(*pip, "check", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    code = (
        "import importlib, pkgutil, gptbook\n"
        "for module in pkgutil.iter_modules(gptbook.__path__):\n"
        "    importlib.import_module('gptbook.' + module.name)\n"
        "model, tokenizer = gptbook.load('shakespeare')\n"
        "from gptbook.generation import stream_text\n"
        "print(''.join(stream_text(model, tokenizer, 'ROMEO:', max_new_tokens=8, top_k=1)))\n"
    )
    done = run(python, "-W", "error::SyntaxWarning", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
