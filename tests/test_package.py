"""The package as a stranger gets it: built, installed alone in an empty environment, imported, used.

Building and installing happen once in a session, and take a minute or two: PyTorch is unpacked.
"""

import ast
import email
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from configparser import ConfigParser
from functools import cache
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

import gptbook

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    path.stem for path in (ROOT / "gptbook").glob("*.py") if not path.stem.startswith("_")
)
EXTRAS = (
    "matplotlib",
    "ipywidgets",
    "IPython",
    "ipykernel",
    "jupyterlab",
    "notebook",
    "nbdev",
    "nbclient",
    "pandas",
    "pytest",
    "gguf",
    "smalldocs",
)
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
}


def facts() -> dict[str, str]:
    "What settings.ini says."
    config = ConfigParser(interpolation=None)
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return dict(config["DEFAULT"])


def run(*words, **options) -> subprocess.CompletedProcess:
    "Run a program, and show what it said if it fails."
    done = subprocess.run(
        [*map(str, words)], capture_output=True, text=True, encoding="utf-8", env=CLEAN, **options
    )
    assert done.returncode == 0, f"{words} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    "A folder with the source distribution, and the wheel that was built from it."
    source, out = tmp_path_factory.mktemp("source") / "gptbook", tmp_path_factory.mktemp("dist")
    copytree(
        ROOT,
        source,
        ignore=ignore_patterns(
            ".*",
            "_*site",
            "_build",
            "_proc",
            "build",
            "dist",
            "runs",
            "*.egg-info",
            "__pycache__",
            "nbs",
        ),
    )
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
    assert {path.name for path in built.iterdir()} == {
        f"gptbook-{version}.tar.gz",
        f"gptbook-{version}-py3-none-any.whl",
    }
    with zipfile.ZipFile(wheel) as file:
        metadata = email.message_from_bytes(file.read(f"gptbook-{version}.dist-info/METADATA"))
    assert metadata["Version"] == gptbook.__version__ == version
    readme = metadata.get_payload()
    pictures = re.findall(r"!\[[^]]*\]\(([^)]*)\)", readme)
    assert pictures and all(p.startswith("https://") for p in pictures), "they show on an index"
    assert not re.search(r"\]\((?!https?:|#)", readme), "no relative address in it"
    assert (
        metadata["Name"] == "gptbook"
        and metadata["Requires-Python"] == f">={facts()['min_python']}"
    )
    assert [line for line in metadata.get_all("Requires-Dist") if "extra" not in line] == facts()[
        "requirements"
    ].split()
    places = [p for p in ROOT.glob("*.*") if p.suffix in (".toml", ".py", ".ini")]
    stated = [p.name for p in places if f'{version}"' in p.read_text(encoding="utf-8")]
    assert stated == [], "the version is stated in settings.ini, and nowhere else"


def test_what_is_in_the_wheel_and_what_is_not(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        assert any("LICENSE" in name for name in names)
        licence = next(name for name in names if name.endswith("LICENSE"))
        assert b"Apache License" in file.read(licence)
    assert {f"gptbook/{name}.py" for name in MODULES} | {
        "gptbook/py.typed",
        "gptbook/__main__.py",
    } <= names
    assert {"gptbook/assets/explore/control.css", "gptbook/assets/explore/control.js"} <= names
    for part in ("config.json", "model.safetensors", "tokenizer.json"):
        assert {f"gptbook/assets/{model}/{part}" for model in ("novels", "shakespeare")} <= names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"gptbook", f"gptbook-{facts()['version']}.dist-info"}
    assert not [name for name in names if re.search(r"\.ipynb|\.tmp$|test_|__pycache__|nbs/", name)]


def test_the_source_distribution_can_build_itself(built):
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as file:
        names = {name.split("/", 1)[-1] for name in file.getnames()}
    assert {
        "settings.ini",
        "setup.py",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
    } <= names


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
    (tmp_path / "play.txt").write_text(
        "ROMEO:\nBut, soft! what light through yonder window breaks?\n\n" * 300
    )
    done = run(
        script,
        "train",
        "--data",
        "play.txt",
        "--preset",
        "book-nano",
        "--vocab-size",
        300,
        "--block-size",
        32,
        "--steps",
        5,
        "--batch-size",
        4,
        cwd=tmp_path,
    )
    assert "no loss.png, because" in done.stderr and "pip install 'gptbook[viz]'" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "runs/play/loss.png").exists()
    assert run(script, "generate", "runs/play", "--max-new-tokens", 5, cwd=tmp_path).stdout
    result = json.loads(run(script, "eval", "runs/play", "--json", cwd=tmp_path).stdout)
    assert result["bits_per_byte"] > 0
    assert run(
        script, "generate", "--max-new-tokens", 5, "--seed", 0, cwd=tmp_path
    ).stdout.startswith("It was")
    code = "import gptbook.explore as e; e.explore(lambda x: str(x), x=[1, 2])"
    done = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, env=CLEAN, cwd=tmp_path
    )
    assert done.returncode == 1 and "pip install 'gptbook[viz]'" in done.stderr, done.stderr


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
    heavy = {
        "matplotlib",
        "tiktoken",
        "IPython",
        "pandas",
        "regex",
        "tyro",
        "rich",
        "pooch",
        "requests",
        "tqdm",
        "safetensors",
        "gguf",
        "scipy",
        "numpy",
    }
    assert not heavy & set(brought.split())
    assert not re.search(r"torch\.(_dynamo|_inductor|distributed\.fsdp|testing)", torchs)


# How the modules hang together

# The floors of the house, from the ground up: a module imports from floors below its own.
FLOORS = (
    ("files", "settings"),
    ("console",),
    ("data",),
    ("tokenizer",),
    ("explore",),
    ("corpora",),
    ("positional_encoding",),
    ("attention",),
    ("multi_head",),
    ("feed_forward",),
    ("model",),
    ("pretrained",),
    ("runs",),
    ("training",),
    ("scaling",),
    ("generation",),
    ("decoding",),
    ("transfer",),
    ("projects", "distributed", "inside"),
    ("launch",),
    ("cli",),
)
FLOOR = {module: number for number, modules in enumerate(FLOORS) for module in modules}
# conveniences that call a door above them, each inside one function
BACKWARD = {("model", "pretrained"), ("tokenizer", "pretrained"), ("data", "corpora")}
# what only the supports touch: disk, network, processes, foreign formats
SUPPORTS_ONLY = {
    "ctypes", "json", "os", "pathlib", "platform", "safetensors", "shutil", "signal", "socket",
    "subprocess", "tempfile", "urllib", "zipfile",
}  # fmt: skip


@cache
def chapters() -> dict[str, int]:
    "The number of the chapter that exports each module."
    found = {}
    for path in sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        source = "\n".join("".join(c["source"]) for c in cells)
        match = re.search(r"#\|\s*default_exp\s+(\w+)", source)
        if match:
            found[match[1]] = int(path.name[:2])
    return found


@cache
def tree(module: str) -> ast.Module:
    "The source of a module, parsed."
    return ast.parse((ROOT / f"gptbook/{module}.py").read_text(encoding="utf-8"))


def imports(module: str) -> set[str]:
    "Which of the package's modules one imports: anywhere, also inside functions and for types."
    found: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom):
            name = node.module or ""
            if node.level or name.split(".")[0] == "gptbook":
                name = name.removeprefix("gptbook").lstrip(".").split(".")[0]
                found |= {name} if name else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            found |= {name.split(".")[1] for name in names if name.startswith("gptbook.")}
    # gptbook.load is the door of 91
    return (found | ({"pretrained"} if found & {"load", "save"} else set())) & set(MODULES)


def test_every_module_is_a_chapter() -> None:
    assert set(chapters()) == set(MODULES)
    assert set(MODULES) <= set(FLOOR), f"which floor? {sorted(set(MODULES) - set(FLOOR))}"


def test_imports_go_one_way() -> None:
    edges = [(module, other) for module in MODULES for other in sorted(imports(module) - {module})]
    backward = {(a, b) for a, b in edges if FLOOR[b] >= FLOOR[a]}
    for a, b in sorted(backward):
        print(f"backwards: {a} imports {b}" + (" (allowed)" if (a, b) in BACKWARD else ""))
    assert backward == BACKWARD
    for a, b in BACKWARD:  # inside a function: who only imports the module pays nothing
        top = [n for n in tree(a).body if isinstance(n, ast.Import | ast.ImportFrom)]
        assert not [n for n in top if b in ast.unparse(n)], f"{a} imports {b} at its top"


def test_there_are_no_circles() -> None:
    waiting = {m: imports(m) - {b for a, b in BACKWARD if a == m} for m in MODULES}
    while free := [module for module, needs in waiting.items() if not needs & waiting.keys()]:
        for module in free:
            del waiting[module]
    assert not waiting, f"these import each other: {waiting}"


@pytest.mark.parametrize("module", MODULES)
def test_a_chapter_touches_no_disk_and_no_process(module: str) -> None:
    if chapters()[module] >= 90:
        return
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = {alias.name for alias in node.names}
            if (node.module, names) != ("os", {"PathLike"}):  # the type of a path
                found.add((node.module or "").split(".")[0])
    assert not found & SUPPORTS_ONLY, f"{module} belongs to a chapter; move this to a support"


@cache
def classes() -> dict[str, tuple[str, ast.ClassDef]]:
    "Every class of the package by name, with its module."
    return {
        n.name: (m, n) for m in MODULES for n in ast.walk(tree(m)) if isinstance(n, ast.ClassDef)
    }


def test_no_private_base_has_one_heir() -> None:
    heirs: dict[str, list[str]] = {}
    for name, (_, node) in classes().items():
        for base in node.bases:
            heirs.setdefault(ast.unparse(base).rpartition(".")[2], []).append(name)
    ladder = {b: h for b, h in heirs.items() if b.startswith("_") and len(h) == 1}
    assert not ladder, f"a class stands whole; these are steps of a ladder: {ladder}"


def test_nothing_is_attached_to_a_class_from_outside() -> None:
    known, found = set(classes()), []
    for module in MODULES:
        for node in ast.walk(tree(module)):
            targets: list[ast.expr] = []
            if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr":
                targets = [ast.Attribute(node.args[0], "?")]
            for target in targets:
                if isinstance(target, ast.Attribute):
                    owner = ast.unparse(target.value)
                    if owner in known or target.attr == "__class__":
                        found.append(f"{module}: {ast.unparse(target)}")
    assert not found, f"a method belongs into its class: {found}"


def test_one_address_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stated = facts()
    assert project["urls"] == {
        "Homepage": stated["site"],
        "Documentation": stated["documentation"],
        "Repository": stated["repository"],
    }
    from gptbook._modidx import d

    settings = d["settings"]
    assert settings["git_url"] == stated["repository"]
    assert settings["doc_host"] + settings["doc_baseurl"] + "/" == stated["documentation"]


# What a release does


def test_a_release_raises_the_version_in_one_place(tmp_path: Path) -> None:
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
    copytree(ROOT, tmp_path / "gptbook", ignore=ignore_patterns(*skipped))
    before = {p: p.read_bytes() for p in (tmp_path / "gptbook").rglob("*") if p.is_file()}
    tool = ROOT / "tools/release.py"
    done = run(sys.executable, tool, "--root", tmp_path / "gptbook", "minor")
    major, minor, _ = facts()["version"].split(".")
    version = f"{major}.{int(minor) + 1}.0"
    changed = [p.name for p, data in before.items() if p.read_bytes() != data]
    assert changed == ["settings.ini"]
    assert f"version = {version}\n" in (tmp_path / "gptbook/settings.ini").read_text("utf-8")
    built = {p.name for p in (tmp_path / "gptbook/dist").iterdir()}
    assert built == {f"gptbook-{version}.tar.gz", f"gptbook-{version}-py3-none-any.whl"}
    assert "Nothing was uploaded" in done.stdout and "twine upload" in done.stdout


def test_a_release_that_fails_changes_nothing(tmp_path: Path) -> None:
    text = "[DEFAULT]\nname = gptbook\nversion = 0.1.0\n"
    (tmp_path / "settings.ini").write_text(text, encoding="utf-8")
    command = [sys.executable, ROOT / "tools/release.py", "--root", tmp_path, "patch"]
    done = subprocess.run(command, capture_output=True, text=True, env=CLEAN)
    assert done.returncode == 1 and "the version stays" in done.stderr
    assert (tmp_path / "settings.ini").read_text(encoding="utf-8") == text


# What the front page promises


def readme_blocks() -> list[str]:
    "The Python in README.md."
    return re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S
    )


def test_the_python_in_the_readme_runs(tmp_path):
    blocks = readme_blocks()
    if not blocks:
        pytest.skip("README.md has no Python in it")
    run(sys.executable, "-c", "\n\n".join(blocks), cwd=tmp_path)


def readme() -> str:
    "README.md."
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_sample_in_the_readme_is_what_the_command_prints(tmp_path: Path) -> None:
    command = re.search(r"^gptbook (generate --seed 1)$", readme(), re.M)
    shown = re.search(r"^```text\n(It was.*?)\n```", readme(), re.M | re.S)
    done = run(sys.executable, "-m", "gptbook", *shlex.split(command[1]), cwd=tmp_path)
    assert done.stdout.startswith(shown[1] + "\n")


def test_the_measurements_in_the_readme_are_those_of_the_benchmarks() -> None:
    results = (ROOT / "benchmarks/results/README.md").read_text(encoding="utf-8")
    table = readme().partition("## Measured")[2].partition("\n## ")[0]
    rows = [row.split("|") for row in table.splitlines() if row.count("|") == 5][2:]
    assert len(rows) == 5
    for row in rows:
        for number in re.findall(r"\d[\d,]*\.?\d*", " ".join(row[2:4]) + row[4].partition(":")[2]):
            assert f" {number} " in results, f"{number} is in no table of the results"


@pytest.mark.parametrize("page", ["README.md", "index.md", "CONTRIBUTING.md"])
def test_links_of_the_front_pages_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for address in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (ROOT / address).exists(), f"{page} links to {address}"


# Names of the last version


def test_old_names_lead_to_new_ones_and_say_so() -> None:
    code = """
import importlib, warnings
from gptbook._moved import MOVED
for module, names in MOVED.items():
    there = importlib.import_module(f"gptbook.{module}")
    for name, place in names.items():
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = getattr(there, name)
        where, _, new = place.rpartition(".")
        assert found is getattr(importlib.import_module(f"gptbook.{where}"), new), name
        assert any(place in str(w.message) for w in told), name
    try:
        there.no_such_name
    except AttributeError as error:
        assert "no_such_name" in str(error)
    else:
        raise AssertionError(module)
print("checked", sum(map(len, MOVED.values())))
"""
    done = run(sys.executable, "-c", code)
    assert done.stdout.startswith("checked "), done.stdout
