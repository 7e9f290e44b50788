#!/usr/bin/env python3
"""Build the book: run the chapters, turn them into a website, and check that the site needs no other host.

    tools/book.py build            run every chapter of _quarto.yml from a clean state, then render _site/;
                                   a claim that fails (an AssertionError) is printed, and the build goes on
    tools/book.py page NAME...     render some pages with the outputs that are saved in them; nothing is run
    tools/book.py pages FOLDER     render the whole site into FOLDER, in the same way
    tools/book.py outputs [NAME]   run chapters in nbs/ and save their outputs there
    tools/book.py check [NAME]     run chapters for their tests; nothing is written
    tools/book.py serve            show _site/ in a browser
    tools/book.py filter           standard input to standard output: what Quarto needs done to a notebook

`build` works on copies in _build/: it never touches nbs/*.ipynb.
"""

from __future__ import annotations

import argparse
import ast
import base64
import configparser
import contextlib
import functools
import html
import http.server
import io
import json
import os
import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import yaml

ROOT = Path(__file__).resolve().parent.parent
CELL_TIMEOUT = 600  # seconds; no chapter runs longer than 90 s, so a cell that does is stuck
KEPT_PICTURES = {"fig-front": "nbs/assets/learning.png", "fig-answer": "nbs/assets/answer.png"}
WIDGET = "application/vnd.jupyter.widget-view+json"
# directives for nbdev, of no use to a page
NBDEV_ONLY = {
    "default_exp",
    "export",
    "exporti",
    "exports",
    "hide",
    "eval",
    "exec_doc",
    "filter_stream",
    "hide_line",
}


class BookError(Exception):
    "Something the writer of a chapter can repair. Its text is all that the tool prints."


# ---------------------------------------------------------------- the table of contents


@dataclass
class Book:
    "A project folder with a `_quarto.yml`, and the pages that its sidebar lists, in order."

    root: Path
    config: dict = field(init=False)
    pages: list[str] = field(init=False)  # such as index.md, nbs/03_attention.ipynb

    def __post_init__(self) -> None:
        path = self.root / "_quarto.yml"
        if not path.is_file():
            raise BookError(
                f"there is no {path.name} in {self.root}; run the tool on the folder that has it"
            )
        self.config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        sidebar = (self.config.get("website") or {}).get("sidebar") or {}
        self.pages = [p for p in _hrefs(sidebar.get("contents") or []) if not p.startswith("api/")]

    @property
    def repository(self) -> str:
        "The address of the source, as settings.ini has it; empty where there is none."
        facts = configparser.ConfigParser(interpolation=None)
        facts.read(self.root / "settings.ini", encoding="utf-8")
        return facts["DEFAULT"].get("repository", "").rstrip("/")

    @property
    def address(self) -> str:
        "Where the site will stand, as settings.ini has it; empty where there is none."
        facts = configparser.ConfigParser(interpolation=None)
        facts.read(self.root / "settings.ini", encoding="utf-8")
        return facts["DEFAULT"].get("site", "")

    @property
    def chapters(self) -> list[str]:
        "The pages that are notebooks."
        return [p for p in self.pages if p.endswith(".ipynb")]

    def missing(self) -> list[str]:
        "The listed pages that are not there."
        return [p for p in self.pages if not (self.root / p).is_file()]

    def find(self, name: str) -> str:
        "The listed page that `name` means: a path, a file name, or a file name without its ending."
        found = [p for p in self.pages if name in (p, Path(p).name, Path(p).stem)]
        found = found or [p for p in self.pages if Path(p).stem.startswith(name)]
        if len(found) != 1:
            known = ", ".join(Path(p).stem for p in self.pages)
            raise BookError(f"{name!r} is not one page of _quarto.yml; the pages are {known}")
        return found[0]


def _hrefs(contents: list) -> list[str]:
    "The files in a part of the sidebar, in order."
    out: list[str] = []
    for item in contents:
        if isinstance(item, str):
            out.append(item)
        elif "contents" in item:
            out += _hrefs(item["contents"])
        elif item.get("href") or item.get("file"):
            out.append(item.get("href") or item["file"])
    return out


# ---------------------------------------------------------------- running a chapter


@dataclass
class Run:
    "One executed chapter: its notebook, how long it took, and the most memory its kernel used."

    notebook: dict
    seconds: float
    megabytes: float | None
    claims: list[str] = field(default_factory=list)  # what failed and did not stop the run


def execute(
    path: Path,  # the notebook to run
    folder: Path,  # where it runs, so that relative paths work
    name: str,  # how to call it in messages
    tolerate: tuple[str, ...] = (),  # names of errors that are reported and do not stop the run
) -> Run:  # the notebook with new outputs
    "Run a notebook from top to bottom in a fresh kernel; a cell that fails raises a BookError."
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    nb = nbformat.read(path, as_version=4)
    client = NotebookClient(
        nb,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        coalesce_streams=True,
        store_widget_state=False,
        extra_arguments=["--IPKernelApp.log_level=40"],  # errors only
    )
    started, memory, claims = time.monotonic(), None, []
    with _quiet_kernel_environment(), client.setup_kernel():
        for index, cell in enumerate(nb.cells):
            if cell.cell_type != "code" or _directives(cell.source).get("eval") == "false":
                continue
            cell.outputs = []
            try:
                client.execute_cell(cell, index)
            except CellExecutionError as error:
                reason = "\n".join(_plain(line) for line in error.traceback.splitlines()[-25:])
                reason = _failure(name, nb, index, reason or f"{error.ename}: {error.evalue}")
                if error.ename not in tolerate:
                    raise BookError(reason) from None
                claims.append(reason)
                _shorten_error(cell, error)
            except CellTimeoutError:
                raise BookError(
                    _failure(name, nb, index, f"still running after {CELL_TIMEOUT} s")
                ) from None
            except DeadKernelError:
                raise BookError(
                    _failure(name, nb, index, "the kernel died (out of memory?)")
                ) from None
        memory = _peak_memory(client)
    _drop_widget_views(nb)
    return Run(nb, time.monotonic() - started, memory, claims)


def _shorten_error(cell: dict, error: Exception) -> None:
    "On the page, say in one line that a claim failed; the whole traceback is printed by the build."
    for output in cell["outputs"]:
        if output["output_type"] == "error":
            note = "this does not hold on the machine that built the page"
            output["traceback"] = [f"{error.ename}: {error.evalue}".rstrip(": ") + f" ({note})"]


@contextlib.contextmanager
def _quiet_kernel_environment():
    "Run kernels of this Python, without the user's own start-up files and settings."
    with tempfile.TemporaryDirectory(prefix="gptbook-kernel-") as home:
        changes = {
            "JUPYTER_PATH": f"{sys.prefix}/share/jupyter",
            "JUPYTER_CONFIG_DIR": home,
            "IPYTHONDIR": home,
        }
        changes |= {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        before = {key: os.environ.get(key) for key in (*changes, "MPLBACKEND")}
        os.environ.update(changes)
        os.environ.pop("MPLBACKEND", None)
        try:
            yield
        finally:
            for key, value in before.items():
                os.environ.pop(key, None) if value is None else os.environ.__setitem__(key, value)


def _peak_memory(client) -> float | None:  # MB, or None where the system does not say
    "The most memory that the kernel's process has used."
    pid = getattr(getattr(client.km, "provisioner", None), "pid", None)
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024
    except (OSError, TypeError):
        return None


def _failure(name: str, nb: dict, index: int, reason: str) -> str:
    "What to print when a cell fails: the chapter, the cell, its source, the error."
    source = "\n".join(f"    {line}" for line in nb.cells[index].source.splitlines())
    nth = sum(cell.cell_type == "code" for cell in nb.cells[: index + 1])
    where = f"{name}, cell {index + 1} of {len(nb.cells)} (code cell {nth}, id {nb.cells[index].get('id', '?')})"
    return f"{where} failed:\n\n{source}\n\n{reason.strip()}\n"


def _plain(text: str) -> str:
    "Text without terminal colours."
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)


def _drop_widget_views(nb: dict) -> None:
    "Drop the live half of a control where the half for the page is there: without its kernel it is only a dead id."
    for cell in nb["cells"]:
        for output in cell.get("outputs", []):
            if "text/html" in output.get("data", {}):
                output["data"].pop(WIDGET, None)


def _directives(source: str) -> dict[str, str]:
    "The `#| key: value` lines at the top of a cell."
    found = {}
    for line in source.splitlines():
        match = re.match(r"#\|\s*([\w-]+)\s*:?\s*(.*)$", line)
        if match:
            found[match[1]] = match[2].strip()
        elif line.strip() and not line.startswith("%%"):
            break
    return found


def write_notebook(nb: dict, path: Path) -> None:
    "Save a notebook as nbdev does, in one step, so that nobody reads half of it."
    from fastcore.nbio import dict2nb, nb2str

    temporary = path.with_suffix(".tmp")
    temporary.write_text(nb2str(dict2nb(json.loads(json.dumps(nb)))), encoding="utf-8")
    os.replace(temporary, path)


# ---------------------------------------------------------------- from notebook to page


def process(
    text: str,  # a notebook as JSON
    path: Path,  # where it comes from
) -> str:  # the notebook as the site shows it, as JSON
    "Apply nbdev's processors: hidden cells go, directives become Quarto's options, the title becomes front matter."
    from fastcore.nbio import dict2nb, nb2str

    raw = json.loads(text)
    _split_title(raw)
    _drop_widget_views(raw)
    nb = dict2nb(raw)
    nb["path_"] = str(path)
    _filter()(nb)
    for cell in nb.cells:
        if cell.cell_type == "raw":
            cell.source = re.sub(
                r"^output-file:.*\n", "", cell.source, flags=re.M
            )  # the page keeps its chapter number
        elif cell.cell_type == "code":
            cell.source = _fold_imports(_quarto_options(cell.source))
    nb.cells = _one_setup(nb.cells)
    return nb2str(nb)


def _fold_imports(source: str) -> str:
    "A cell that only imports is set-up, and folded, whether it says so or not."
    try:
        body = ast.parse(source).body
    except SyntaxError:  # it has magics
        return source
    only_imports = body and all(isinstance(node, ast.Import | ast.ImportFrom) for node in body)
    if not only_imports or "code-fold" in _directives(source):
        return source
    return f'#| code-fold: true\n#| code-summary: "Set-up"\n{source}'


def _one_setup(cells: list) -> list:
    "Join folded set-up cells that follow each other: on the page they are one thing to open."
    joined: list = []
    for cell in cells:
        last = joined[-1] if joined else None
        if last is not None and _is_setup(last) and _is_setup(cell):
            code = [line for line in cell.source.splitlines() if not line.startswith("#|")]
            last.source += "\n\n" + "\n".join(code).strip()
        else:
            joined.append(cell)
    return joined


def _is_setup(cell: dict) -> bool:
    "Whether a processed cell is folded set-up, and shows nothing."
    if cell["cell_type"] != "code" or cell.get("outputs"):
        return False
    options = _directives(cell["source"])
    return options.get("code-fold") == "true" and "Set-up" in options.get("code-summary", "")


def _filter():
    "nbdev's notebook filter, with the settings of pyproject.toml."
    with contextlib.redirect_stdout(io.StringIO()):
        from nbdev.processors import FilterDefaults
    return FilterDefaults()


def _split_title(nb: dict) -> None:
    "Leave only the title and the promise in the first cell: nbdev turns that cell into front matter, and drops the rest."
    for number, cell in enumerate(nb["cells"]):
        if cell["cell_type"] != "markdown":
            continue
        match = re.match(r"(\s*# [^\n]*\n*(?:>[^\n]*\n*)*)(.*)$", "".join(cell["source"]), re.S)
        if match and match[2].strip():
            rest = {
                "cell_type": "markdown",
                "metadata": {},
                "source": match[2],
                "id": f"{cell.get('id', 'title')[:50]}-2",
            }
            cell["source"] = match[1]
            nb["cells"].insert(number + 1, rest)
        return


def _quarto_options(source: str) -> str:
    "Keep the options that are for the page, and make sure that each is valid YAML."
    lines = []
    options = True
    for line in source.splitlines():
        match = options and re.match(r"#\|\s*([\w-]+)\s*:\s*(.*)$", line)
        if not match:
            options = False
            lines.append(line)
        elif match[1] not in NBDEV_ONLY:
            try:
                simple = not isinstance(yaml.safe_load(match[2]), dict) and "#" not in match[2]
            except yaml.YAMLError:
                simple = False
            lines.append(
                line if simple else f"#| {match[1]}: {json.dumps(match[2], ensure_ascii=False)}"
            )
    return "\n".join(lines)


def _stub(text: str, name: str) -> str:
    "A page with its title only, for the sidebar of the pages beside it."
    if name.endswith(".ipynb"):
        nb = json.loads(text)
        nb["cells"] = [c for c in nb["cells"] if c["cell_type"] == "markdown"][:1]
        return json.dumps(nb)
    heading = re.search(r"^# .*$", text, re.M)
    front = re.match(r"---\n.*?\n---\n", text, re.S)
    return front[0] if front else heading[0] if heading else ""


def stage(
    book: Book,  # the project
    folder: Path,  # the folder that smalldocs will render
    notebooks: Path,  # the root of the notebooks to show
    only: list[str] | None = None,  # the pages in full; the others with their titles only
) -> None:
    "Lay out the project that smalldocs renders: processed notebooks, pages, assets, the list of modules."
    names = [p for p in book.pages if (book.root / p).is_file()]
    for name in names:
        source = (notebooks if name.endswith(".ipynb") else book.root) / name
        text = source.read_text(encoding="utf-8")
        if only is not None and name not in only:
            text = _stub(text, name)
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(
            process(text, source) if name.endswith(".ipynb") else text, encoding="utf-8"
        )
    for part in ("nbs/assets", "nbs/results"):
        if (book.root / part).is_dir():
            shutil.copytree(book.root / part, folder / part, dirs_exist_ok=True)
    if (folder / "nbs/playground.md").is_file():
        _export_playground(folder)
    config = dict(book.config)
    if book.repository:
        config["website"] = {**(config.get("website") or {}), "repo-url": book.repository}
    packages = ((config.get("smalldocs") or {}).get("api") or {}).get("packages") or []
    if only is not None:
        config.pop(
            "smalldocs", None
        )  # the reference takes seconds, and only a whole build needs it
    if packages:
        (folder / "api").mkdir(exist_ok=True)
        (folder / "api/index.md").write_text(_api_index(book.root, packages), encoding="utf-8")
    (folder / "_quarto.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def _export_playground(folder: Path) -> None:
    "The shipped model in a page of its own, and in the book's page in the place of its picture."
    import gptbook
    from gptbook.pretrained import export_page

    model, tokenizer = gptbook.load("shakespeare")
    export_page(model.half(), tokenizer, folder / "playground", prompt="But soft, what light")
    alone = (folder / "playground/index.html").read_text(encoding="utf-8")
    part = re.split(r"<!-- .* -->\n", alone)[1]  # between its two marks
    part = re.sub(r'href="https://gptbook[^"]*/nbs/', 'href="', part)  # chapters lie beside it
    part = re.sub(r'(src|href)="([\w.]+\.(?:js|png))"', r'\1="../playground/\2"', part)
    style = '<link rel="stylesheet" href="../playground/playground.css">'
    path = folder / "nbs/playground.md"
    text = path.read_text(encoding="utf-8")
    live = f"```{{=html}}\n{style}\n{part}```"
    path.write_text(re.sub(r"^\[!\[.*$", lambda _: live, text, flags=re.M), encoding="utf-8")


def _api_index(root: Path, packages: list[str]) -> str:
    "The first page of the reference: every module and what it is for."
    rows = ["| module | what is in it |", "|---|---|"]
    for package in packages:
        for path in sorted((root / package).glob("*.py")):
            if path.name.startswith("_"):
                continue
            doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            summary = doc.partition("\n")[0].replace("|", "\\|")
            rows.append(f"| [`{package}.{path.stem}`]({path.stem}.qmd) | {summary} |")
    intro = "Every public name of the package, from the docstrings and comments of the chapters that define it."
    return (
        f"---\ntitle: API reference\ndescription: what the package offers, module by module\n---\n\n{intro}\n\n"
        + "\n".join(rows)
        + "\n"
    )


def render(
    folder: Path,  # the staged project
    book: Book,  # where it comes from
) -> list[str]:  # what smalldocs had to say
    "Build the staged project with smalldocs, then make the site independent of other hosts."
    from smalldocs.config import BuildError, ConfigError
    from smalldocs.site import build

    try:
        site = build(folder, quiet=True)
    except (BuildError, ConfigError) as error:
        raise BookError(f"smalldocs could not build the site: {error}") from None
    except Exception as error:  # any other failure is smalldocs', but a page caused it
        raise BookError(f"smalldocs stopped with {type(error).__name__}: {error}") from error
    localise(site.out, folder / "nbs/assets/katex")
    link_sources(site.out, book)
    announce(site.out, book)
    return [w for w in site.warnings if "ipynb-filters" not in w]


# ---------------------------------------------------------------- back to the source


def link_sources(
    site: Path,  # the rendered site
    book: Book,  # where it comes from
) -> None:
    "Put each notebook beside its page, and links to it: download, Colab, edit, report."
    modules = exporters(book)
    for page in site.rglob("*.html"):
        name = page.relative_to(site).with_suffix("").as_posix()
        before = text = page.read_text(encoding="utf-8")
        if name.startswith("api/"):
            source = modules.get(Path(name).name, "")
            text = _reference_page(text, name, source)
        else:
            source = next((p for p in book.pages if p.rpartition(".")[0] == name), "")
        if source.endswith(".ipynb") and not name.startswith("api/"):
            shutil.copyfile(book.root / source, site / source)
            links = _notebook_links(source, book.repository)
            title, end = '<header id="title-block-header"', "</header>"
            head, _, rest = text.partition(title)
            text = head + title + rest.replace(end, end + links, 1) if rest else text
        if source:
            text = text.replace(
                "</main>", f"{_repository_links(source, book.repository)}</main>", 1
            )
        if text != before:
            page.write_text(text, encoding="utf-8")
    for copy in site.rglob("*.llms.md"):  # the address that llmstxt.org proposes, and nbdev uses
        shutil.copyfile(copy, copy.with_name(copy.name.removesuffix(".llms.md") + ".html.md"))


ANCHOR = re.compile(r'<h\d class="anchored" data-anchor-id="([\w.]+)">')


def _reference_page(
    text: str,  # the HTML of a page of the API reference
    name: str,  # its name, such as api/attention
    source: str,  # the notebook that exports the module; empty when there is none
) -> str:  # the page
    "Generated pages: what can be edited is the notebook; nbdev's names for the headings work, too."
    text = re.sub(r"<p>\s*Docs: https\S+\.html\.md</p>", "", text)  # this page's own address
    text = ANCHOR.sub(_anchor_as_nbdev, text)
    if source:
        return text.replace(f"/{name}.qmd", f"/{source}")
    edit = r'<div class="action-links"><a href="[^"]*/edit/[^"]*".*?</a></div>'
    return re.sub(edit, "", text)


def _anchor_as_nbdev(match: re.Match) -> str:
    "A heading that is also found under nbdev's name for it, which is in small letters."
    small = match[1].lower()
    return match[0] if small == match[1] else f'{match[0]}<span id="{small}"></span>'


def exporters(book: Book) -> dict[str, str]:  # module -> the notebook that exports it
    "Which notebook each module comes from."
    found = {}
    for name in book.chapters:
        if (book.root / name).is_file():
            cells = json.loads((book.root / name).read_text(encoding="utf-8"))["cells"]
            for cell in cells:
                module = _directives("".join(cell["source"])).get("default_exp")
                if cell["cell_type"] == "code" and module:
                    found[module] = name
    return found


def _notebook_links(
    name: str,  # a notebook, such as nbs/03_attention.ipynb
    repository: str,  # the address of the source, or nothing
) -> str:  # HTML
    "The links under the title of a chapter."
    links = [(quote(Path(name).name), "download", "Download this notebook", " download")]
    if repository.startswith("https://github.com/"):
        colab = "https://colab.research.google.com/github/" + repository.split("github.com/")[1]
        links.append((f"{colab}/blob/main/{name}", "play-circle", "Open in Colab", ""))
    return _link_row("book-links", links)


def _repository_links(
    name: str,  # a source file, such as nbs/03_attention.ipynb
    repository: str,  # the address of the source, or nothing
) -> str:  # HTML; nothing without a repository
    "The links at the end of a page, for screens that have no room for the column that holds them."
    if not repository:
        return ""
    links = [
        (f"{repository}/edit/main/{name}", "pencil", "Edit this page", ""),
        (f"{repository}/issues/new", "chat-right", "Report an issue", ""),
    ]
    return _link_row("book-links book-links-end", links)


def _link_row(style: str, links: list[tuple[str, str, str, str]]) -> str:
    "A row of links, each with its icon."
    row = " ".join(
        f'<a href="{html.escape(address)}"{more}><i class="bi bi-{icon}"></i> {text}</a>'
        for address, icon, text, more in links
    )
    return f'<p class="{style}">{row}</p>'


# ---------------------------------------------------------------- for other sites and search engines


def announce(
    site: Path,  # the rendered site
    book: Book,  # where it comes from
) -> None:
    "Write sitemap.xml, and what other sites show where they link to a page: title, description, picture."
    base = book.address
    if not base:
        return
    addresses = []
    for page in sorted(site.rglob("*.html")):
        name = page.relative_to(site).as_posix()
        addresses.append(f"  <url><loc>{html.escape(base + quote(name))}</loc></url>")
        text = page.read_text(encoding="utf-8")
        picture = CARDS.get(name, CARDS[""])
        tags = [f'<meta property="og:url" content="{html.escape(base + quote(name))}">']
        for key, value in _card(text, book).items():
            tags.append(f'<meta property="og:{key}" content="{value}">')
        if (book.root / picture).is_file():
            if not (site / picture).exists():  # a page shows the live thing in its place
                shutil.copyfile(book.root / picture, site / picture)
            tags.append(f'<meta property="og:image" content="{html.escape(base + picture)}">')
            tags.append('<meta name="twitter:card" content="summary_large_image">')
        page.write_text(text.replace("</head>", "\n".join(tags) + "\n</head>", 1), encoding="utf-8")
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    head += '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
    (site / "sitemap.xml").write_text(
        head + "\n".join(addresses) + "\n</urlset>\n", encoding="utf-8"
    )


CARDS = {  # the pictures of the cards
    "": "nbs/assets/learning.png",
    "nbs/playground.html": "nbs/assets/playground.png",
    "playground/index.html": "nbs/assets/playground.png",
}


def _card(
    text: str,  # a page
    book: Book,  # for what all pages share
) -> dict[str, str]:  # HTML-safe: title, description, site_name, type
    "What a card says of a page: its own title and description."
    website = book.config.get("website") or {}
    site_name = html.escape(website.get("title", ""))
    title = re.search(r"<title>(.*?)</title>", text, re.S)
    described = re.search(r'<meta name="description" content="([^"]*)"', text)
    described_by = described[1] if described else html.escape(website.get("description", ""))
    return {
        "title": title[1].removesuffix(f" – {site_name}") if title else site_name,
        "description": described_by,
        "site_name": site_name,
        "type": "website",
    }


# ---------------------------------------------------------------- no other host


FOLDED = re.compile(
    r'<details class="code-fold">(\s*<summary>(Solution|Set-up|Drawing code|The code))'
)
FOLD_CLASS = {"Solution": "solution"}  # the rest is plumbing


def localise(
    site: Path,  # the rendered site
    katex: Path,  # a copy of KaTeX
) -> None:
    "Serve the maths from the site itself, drop the themes' web fonts, and let search work from a file too."
    from smalldocs.layout import KATEX

    if katex.is_dir():
        shutil.copytree(katex, site / "site_libs/katex", dirs_exist_ok=True)
    for css in [*site.rglob("*.css")]:
        text = css.read_text(encoding="utf-8")
        css.write_text(
            re.sub(r"@import\s+url\((['\"]?)https?:[^)]*\);?", "", text), encoding="utf-8"
        )
    # a page that is opened as a file may not fetch search.json: the same index as a script
    index = site / "search.json"
    if index.is_file():
        (site / "search.js").write_text(
            f"window.gptbookSearch = {index.read_text(encoding='utf-8')};\n", encoding="utf-8"
        )
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        up = "../" * len(page.relative_to(site).parent.parts)
        text = text.replace(KATEX, f"{up}site_libs/katex")
        text = FOLDED.sub(_folded, text)
        text = DIAGRAM.sub(functools.partial(_inline, folder=page.parent), text)
        script = f'<script src="{up}nbs/assets/book.js"></script>'
        if (site / "nbs/assets/book.js").is_file() and script not in text:
            text = text.replace("</head>", f"{script}\n</head>", 1)
        page.write_text(text, encoding="utf-8")


def _folded(match: re.Match) -> str:
    "What is folded, for the style sheet: a solution hides its output too, plumbing takes no room."
    return f'<details class="code-fold {FOLD_CLASS.get(match[2], "plumbing")}">{match[1]}'


DIAGRAM = re.compile(r'<img alt="([^"]*)"[^>]*?\ssrc="([^"]*assets/diagrams/[^"/]+\.svg)"[^>]*>')


def _inline(match: re.Match, folder: Path) -> str:
    "A diagram's SVG in the page itself, where it takes the colours of the theme."
    label, source = match.groups()
    svg = (folder / source).read_text(encoding="utf-8")
    return svg.strip().replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


LOADS = re.compile(
    r"<(?:script|img|iframe|embed|source|video|audio|input|image|use|object|track)\b[^>]*?\s(?:src|srcset|poster|data|href|xlink:href)\s*=\s*[\"']?\s*(?P<a>(?:https?:)?//[^\s\"'>]+)"
    r"|<link\b(?=[^>]*\srel=[\"']?(?:stylesheet|icon|preload|modulepreload|preconnect|dns-prefetch|manifest))[^>]*?\shref\s*=\s*[\"']?\s*(?P<b>(?:https?:)?//[^\s\"'>]+)"
    r"|(?:url\(\s*[\"']?|@import\s+[\"'])(?P<c>(?:https?:)?//[^\s\"')]+)"
    r"|\b(?:import|from)\s*\(?\s*[\"'](?P<d>https?://[^\s\"']+)",
    re.I,
)


def foreign_loads(site: Path) -> list[str]:  # one line for each, empty when the site stands alone
    "Everything that a page or a stylesheet of the site would load from another host."
    found = []
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".html":
            text = re.sub(
                r"<(pre|code)\b[^>]*>.*?</\1>", "", text, flags=re.S
            )  # shown code loads nothing
        for match in LOADS.finditer(text):
            address = next(a for a in match.groups() if a)
            found.append(f"{path.relative_to(site)} loads {html.unescape(address)}")
    return found


def _refuse_foreign(site: Path) -> None:
    "Stop when the site would ask another host for something."
    found = foreign_loads(site)
    if found:
        raise BookError(
            "the site must not ask other hosts for anything, but\n"
            + "\n".join(f"  {line}" for line in found)
        )


# ---------------------------------------------------------------- the commands


def build(root: Path) -> None:
    "Run every chapter from a clean state in _build/, and render _site/."
    book = Book(root)
    if book.missing():
        raise BookError("_quarto.yml lists pages that are not there: " + ", ".join(book.missing()))
    work = root / "_build"
    if work.exists():
        shutil.rmtree(work)
    started = time.monotonic()
    (work / "run/nbs").mkdir(parents=True)
    for part in ("assets", "results"):
        if (root / "nbs" / part).is_dir():
            shutil.copytree(root / "nbs" / part, work / "run/nbs" / part)
    most, claims = 0.0, []
    for number, name in enumerate(book.chapters, 1):
        print(f"[{number:2d}/{len(book.chapters)}] {name:36s}", end=" ", flush=True)
        try:
            run = execute(root / name, (work / "run" / name).parent, name, ("AssertionError",))
        except BookError:
            print("failed", flush=True)
            raise
        most = max(most, run.megabytes or 0)
        claims += run.claims
        memory = f" {run.megabytes:7.0f} MB" if run.megabytes else ""
        print(f"{run.seconds:6.1f} s{memory}" + _count(run.claims), flush=True)
        for claim in run.claims:
            print(f"\n{claim}", flush=True)
        write_notebook(run.notebook, work / "run" / name)
    ran = time.monotonic() - started
    _render_all(book, work / "site", work / "run", root / "_site")
    pages = len(list((root / "_site").rglob("*.html")))
    peak = f", at most {most:.0f} MB in a chapter" if most else ""
    print(
        f"{pages} pages in _site/: chapters ran in {ran:.0f} s{peak}; all took {time.monotonic() - started:.0f} s{_count(claims)}"
    )


def _render_all(
    book: Book,  # the project
    work: Path,  # where it is laid out
    notebooks: Path,  # the root of the notebooks to show
    target: Path,  # the folder for the site; what is there goes, once the new site is right
) -> None:
    "Render every page, and refuse a site with broken links or one that asks other hosts."
    stage(book, work, notebooks)
    warnings = render(work, book)
    for warning in warnings:
        print(f"warning: {warning}")
    if any("broken link" in warning for warning in warnings):
        raise BookError("some links lead nowhere (the warnings above); the site was not written")
    _refuse_foreign(work / "_site")
    if target.exists():
        shutil.rmtree(target)
    shutil.move(work / "_site", target)


def pages(
    root: Path,  # the project folder
    target: Path,  # a folder that is not there yet, or that holds an earlier site
) -> None:
    "Render the whole site with the outputs that the chapters have saved; nothing is run."
    if target.exists() and any(target.iterdir()) and not (target / "search.json").is_file():
        raise BookError(f"{target} holds something else than a site; name an empty folder")
    book = Book(root)
    if book.missing():
        raise BookError("_quarto.yml lists pages that are not there: " + ", ".join(book.missing()))
    with tempfile.TemporaryDirectory(prefix="gptbook-pages-") as work:
        _render_all(book, Path(work), root, target)
    print(f"{len(list(target.rglob('*.html')))} pages in {target}")


def _count(claims: list[str]) -> str:  # empty where nothing failed
    "How many claims failed, in words; `make test` stops there, and the build does not."
    if not claims:
        return ""
    what = "1 claim fails" if len(claims) == 1 else f"{len(claims)} claims fail"
    return f"; {what} on this machine"


def page(root: Path, names: list[str]) -> None:
    "Render some pages with their saved outputs into _site/, beside what is there."
    book = Book(root)
    only = [book.find(name) for name in names] or book.pages
    for name in book.missing():
        if name in only or not names:
            print(f"{name} is not there yet: skipped")
    only = [name for name in only if (root / name).is_file()]
    if not only:
        raise BookError("none of these pages is there yet")
    with tempfile.TemporaryDirectory(prefix="gptbook-page-") as folder:
        work = Path(folder)
        stage(book, work, root, only)
        absent = book.missing()
        notes = [
            w
            for w in render(work, book)
            if w.startswith(tuple(only)) and not w.endswith(tuple(absent)) and "link /" not in w
        ]
        out = work / "_site"
        wanted = {Path(name).with_suffix(".html").as_posix() for name in only}
        stems = {Path(name).with_suffix("").as_posix() for name in book.pages if name not in only}
        stubs = {
            stem + end for stem in stems for end in (".html", ".ipynb", ".llms.md", ".html.md")
        }
        for path in sorted(p for p in out.rglob("*") if p.is_file()):
            name = path.relative_to(out).as_posix()
            target = root / "_site" / name
            keep = name in stubs or name.startswith(("search.", "llms.txt", "sitemap.xml", "api/"))
            if keep and target.exists():
                continue  # a page in full is better than its stub
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{os.getpid()}-{target.name}")
            shutil.copyfile(path, temporary)
            os.replace(temporary, target)
        foreign = [
            line for line in foreign_loads(out) if line.startswith(tuple(wanted)) or ".css" in line
        ]
    for note in notes:
        print(f"warning: {note}")
    if foreign:
        raise BookError(
            "the site must not ask other hosts for anything, but\n"
            + "\n".join(f"  {line}" for line in foreign)
        )
    for name in sorted(wanted):
        print(f"_site/{name}")


def outputs(root: Path, names: list[str]) -> None:
    "Run chapters where they are, and save their outputs in them."
    from nbdev.clean import nbdev_clean

    book = Book(root)
    for name in [book.find(n) for n in names] or book.chapters:
        if not name.endswith(".ipynb"):
            raise BookError(f"{name} is not a notebook: it has no outputs to renew")
        print(f"{name:44s}", end=" ", flush=True)
        run = execute(root / name, (root / name).parent, name)
        write_notebook(run.notebook, root / name)
        nbdev_clean(str(root / name))
        _keep_pictures(run.notebook, root)
        print(f"{run.seconds:6.1f} s, {(root / name).stat().st_size / 1000:.0f} KB", flush=True)


def check(root: Path, names: list[str], workers: int) -> None:
    "Run chapters from a clean state for their tests, some at a time; write nothing, and report every failure."
    book = Book(root)
    chosen = [book.find(n) for n in names] or book.chapters
    failures = []
    with ProcessPoolExecutor(workers) as pool:
        runs = {
            pool.submit(execute, root / name, (root / name).parent, name): name for name in chosen
        }
        for run in as_completed(runs):
            try:
                print(f"{runs[run]:44s} passed in {run.result().seconds:6.1f} s", flush=True)
            except BookError as error:
                failures.append(str(error))
                print(f"{runs[run]:44s} FAILED", flush=True)
    if failures:
        raise BookError("\n\n".join(failures))


def _keep_pictures(nb: dict, root: Path) -> None:
    "Write the figures of the labelled cells to the files that README and front page show."
    for cell in nb["cells"]:
        name = KEPT_PICTURES.get(_directives("".join(cell["source"])).get("label", ""))
        for output in cell.get("outputs", []) if name else []:
            if "image/png" in output.get("data", {}):
                (root / name).write_bytes(base64.b64decode(output["data"]["image/png"]))


def serve(root: Path, port: int) -> None:
    "Serve _site/ on this machine only, until Ctrl-C."
    site = root / "_site"
    if not (site / "index.html").is_file():
        raise BookError("there is no _site/index.html yet; run `make book` first")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise BookError(
            f"port {port} cannot be used ({error.strerror}); choose another with --port"
        ) from None
    print(f"the book is at http://127.0.0.1:{server.server_address[1]}/ (Ctrl-C stops)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


def main(arguments: list[str] | None = None) -> int:
    "Run one command; the exit code is 1 when it could not do its work."
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="the project folder (default: where this tool is)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="run all chapters and render the site")
    commands.add_parser("page", help="render pages with their saved outputs").add_argument(
        "names", nargs="*"
    )
    commands.add_parser(
        "pages", help="render the whole site into a folder, with saved outputs"
    ).add_argument("folder", type=Path)
    commands.add_parser("outputs", help="run chapters and save their outputs").add_argument(
        "names", nargs="*"
    )
    tests = commands.add_parser("check", help="run chapters for their tests, and write nothing")
    tests.add_argument("names", nargs="*")
    tests.add_argument("--workers", type=int, default=2)
    commands.add_parser("serve", help="show the site").add_argument(
        "--port", type=int, default=8000
    )
    commands.add_parser("filter", help="Quarto's notebook filter")
    chosen = parser.parse_args(arguments)
    root, here = chosen.root.resolve(), Path.cwd()
    os.chdir(root)  # nbdev looks for its settings from here
    try:
        match chosen.command:
            case "build":
                build(root)
            case "page":
                page(root, chosen.names)
            case "pages":
                pages(root, here / chosen.folder)
            case "outputs":
                outputs(root, chosen.names)
            case "check":
                check(root, chosen.names, chosen.workers)
            case "serve":
                serve(root, chosen.port)
            case "filter":
                print(process(sys.stdin.read(), root / "nbs/notebook.ipynb"))
    except BookError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
