"""The package as a stranger gets it: built, installed alone in an empty environment, imported, used.

Building and installing happen once in a session, and take a minute or two: PyTorch is unpacked.
"""
import ast
import email
import json
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from configparser import ConfigParser
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

import gptbook

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path.stem for path in (ROOT / "gptbook").glob("*.py") if not path.stem.startswith("_"))
SUPPORTS = {"explore", "pretrained"}  # chapters 90 and 91 stand outside the order
EXTRAS = ("matplotlib", "ipywidgets", "IPython", "ipykernel", "jupyterlab", "notebook", "nbdev", "nbclient", "pandas",
          "pytest", "gguf", "smalldocs")
CLEAN = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}


def facts() -> dict[str, str]:
    "What settings.ini says."
    config = ConfigParser(interpolation=None)
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return dict(config["DEFAULT"])


def run(*words, **options) -> subprocess.CompletedProcess:
    "Run a program, and show what it said if it fails."
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, encoding="utf-8", env=CLEAN, **options)
    assert done.returncode == 0, f"{words} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    "A folder with the source distribution, and the wheel that was built from it."
    source, out = tmp_path_factory.mktemp("source") / "gptbook", tmp_path_factory.mktemp("dist")
    copytree(ROOT, source, ignore=ignore_patterns(".*", "_*site", "_build", "_proc", "build", "dist", "runs", "*.egg-info",
                                                  "__pycache__", "nbs"))
    run(sys.executable, "-m", "build", "--outdir", out, source)
    return out


@pytest.fixture(scope="session")
def wheel(built) -> Path:
    "The wheel."
    [path] = built.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def python(wheel, tmp_path_factory) -> Path:
    "The Python of an environment that holds the wheel and what it declares, and nothing else."
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=True)
    path = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run(path, "-m", "pip", "install", "--quiet", "--upgrade", "pip")
    run(path, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel, cwd=folder)
    return path


# What is built

def test_the_version_is_the_same_everywhere(built, wheel):
    version = facts()["version"]
    assert {path.name for path in built.iterdir()} == {f"gptbook-{version}.tar.gz", f"gptbook-{version}-py3-none-any.whl"}
    with zipfile.ZipFile(wheel) as file:
        metadata = email.message_from_bytes(file.read(f"gptbook-{version}.dist-info/METADATA"))
    assert metadata["Version"] == gptbook.__version__ == version
    assert metadata["Name"] == "gptbook" and metadata["Requires-Python"] == f">={facts()['min_python']}"
    assert [line for line in metadata.get_all("Requires-Dist") if "extra" not in line] == facts()["requirements"].split()
    stated = [p.name for p in ROOT.glob("*.*") if p.suffix in (".toml", ".py", ".ini") and f'{version}"' in p.read_text()]
    assert stated == [], "the version is stated in settings.ini, and nowhere else"


def test_what_is_in_the_wheel_and_what_is_not(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        assert any("LICENSE" in name for name in names)
        licence = next(name for name in names if name.endswith("LICENSE"))
        assert b"Apache License" in file.read(licence)
    assert {f"gptbook/{name}.py" for name in MODULES} | {"gptbook/py.typed", "gptbook/__main__.py"} <= names
    for part in ("config.json", "model.safetensors", "tokenizer.json"):
        assert f"gptbook/assets/shakespeare/{part}" in names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"gptbook", f"gptbook-{facts()['version']}.dist-info"}
    assert not [name for name in names if re.search(r"\.ipynb|\.tmp$|test_|__pycache__|nbs/", name)]


def test_the_source_distribution_can_build_itself(built):
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as file:
        names = {name.split("/", 1)[-1] for name in file.getnames()}
    assert {"settings.ini", "setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"} <= names


# What is installed

def test_every_module_imports_without_extras(python, tmp_path):
    code = f"""
import importlib, importlib.util, pkgutil, sys
here = [name for name in {EXTRAS!r} if importlib.util.find_spec(name)]
assert not here, f"the environment is not clean: {{here}}"
import gptbook
names = [module.name for module in pkgutil.iter_modules(gptbook.__path__)]
assert set({MODULES!r}) <= set(names), names
for name in names:
    importlib.import_module("gptbook." + name)
print(gptbook.__version__, gptbook.__file__)
"""
    version, path = run(python, "-c", code, cwd=tmp_path).stdout.split(maxsplit=1)
    assert version == facts()["version"] and Path(path.strip()).is_relative_to(python.parent.parent)


def test_nothing_that_is_declared_contradicts(python, tmp_path):
    run(python, "-m", "pip", "check", cwd=tmp_path)


def test_it_trains_generates_and_says_what_is_missing(python, tmp_path):
    script = python.with_name("gptbook")
    assert "Commands:" in run(script, "--help", cwd=tmp_path).stdout
    (tmp_path / "play.txt").write_text("ROMEO:\nBut, soft! what light through yonder window breaks?\n\n" * 300)
    done = run(script, "train", "--data", "play.txt", "--preset", "book-nano", "--vocab-size", 300, "--block-size", 32,
               "--steps", 5, "--batch-size", 4, cwd=tmp_path)
    assert "no loss.png, because" in done.stderr and "pip install 'gptbook[viz]'" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "runs/play/loss.png").exists()
    assert run(script, "generate", "runs/play", "--max-new-tokens", 5, cwd=tmp_path).stdout
    result = json.loads(run(script, "eval", "runs/play", "--json", cwd=tmp_path).stdout)
    assert result["bits_per_byte"] > 0
    assert run(script, "generate", "--max-new-tokens", 5, "--seed", 0, cwd=tmp_path).stdout.startswith("ROMEO:")
    code = "import gptbook.explore as e; e.explore(lambda x: str(x), x=[1, 2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, env=CLEAN, cwd=tmp_path)
    assert done.returncode == 0 or re.search(r"(ImportError|ModuleNotFoundError): .*pip install", done.stderr), done.stderr


def test_importing_the_model_brings_little_with_it(python, tmp_path):
    code = """
import sys, time
import torch
before, start = set(sys.modules), time.perf_counter()
import gptbook.model
print(time.perf_counter() - start)
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
print(*sorted(name for name in set(sys.modules) - before if name.startswith("torch.")))
"""
    run(python, "-c", code, cwd=tmp_path)  # the first import after an installation compiles
    seconds, brought, torchs = run(python, "-c", code, cwd=tmp_path).stdout.splitlines()
    print(f"import gptbook.model: {float(seconds):.3f} s beyond import torch; it brings {brought}")
    heavy = {"matplotlib", "tiktoken", "IPython", "pandas", "regex", "typer", "tqdm", "safetensors", "scipy", "numpy"}
    assert not heavy & set(brought.split())
    assert not re.search(r"torch\.(_dynamo|_inductor|distributed\.fsdp|testing)", torchs)


# How the modules hang together

def chapters() -> dict[str, int]:
    "The number of the chapter that exports each module."
    found = {}
    for path in sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        match = re.search(r"#\|\s*default_exp\s+(\w+)", "\n".join("".join(c["source"]) for c in cells))
        if match:
            found[match[1]] = int(path.name[:2])
    return found


def imports(module: str, everywhere: bool) -> set[str]:
    "Which of the package's modules one imports, at its top level or also inside functions."
    tree = ast.parse((ROOT / f"gptbook/{module}.py").read_text(encoding="utf-8"))
    typing_only = {id(node) for block in tree.body if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
                   for node in ast.walk(block)}
    inner = {id(node) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for node in ast.walk(f)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only or id(node) in inner and not everywhere:
            continue
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "gptbook"):
            name = (node.module or "").removeprefix("gptbook").lstrip(".").split(".")[0]
            found |= {name} if name else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("gptbook.")}
    return found & set(MODULES)


def test_every_module_is_a_chapter():
    assert set(chapters()) == set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_a_later_chapter(module):
    number = chapters()
    for other in imports(module, everywhere=True) - SUPPORTS:
        assert module in SUPPORTS or number[other] < number[module], f"{module} imports {other}, a later chapter"
    for other in imports(module, everywhere=False) & SUPPORTS:
        assert module in SUPPORTS, f"{module} imports {other} at its top; do it where it is used"


def test_there_are_no_cycles():
    waiting = {module: imports(module, everywhere=False) for module in MODULES}
    while free := [module for module, needs in waiting.items() if not needs & waiting.keys()]:
        for module in free:
            del waiting[module]
    assert not waiting, f"these import each other: {waiting}"


# What the front page promises

def readme_blocks() -> list[str]:
    "The Python in README.md."
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)


def test_the_python_in_the_readme_runs(tmp_path):
    blocks = readme_blocks()
    if not blocks:
        pytest.skip("README.md has no Python in it")
    run(sys.executable, "-c", "\n\n".join(blocks), cwd=tmp_path)
