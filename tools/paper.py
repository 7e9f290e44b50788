"""The book as one file to take along: `make epub`, `make pdf`, from the outputs that are saved.

Controls are left out, for they need a page that moves; folded code is left out, for it only draws.
"""

import base64
import json
import re
import sys
import tempfile
from pathlib import Path

from book import ROOT, Book, process

CONTROL = "application/vnd.jupyter.widget-view+json"
KINDS = {"image/png": "png", "image/jpeg": "jpg"}
ONLINE = ("nbs/playground.md", "index.md", "nbs/questions.md")  # what is nothing without a screen


def fence(
    text: str,
    language: str = "",
) -> str:
    "A code block that no content can close."
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}\n"


def shown(
    output: dict,  # of a code cell
    media: Path,  # where pictures go
    alt: str,  # what a picture shows
) -> str:  # Markdown
    "One output as Markdown; nothing for what only a page can show."
    data = output.get("data", {})
    joined = {kind: "".join(content) for kind, content in data.items() if kind != CONTROL}
    if output["output_type"] == "stream":
        return fence("".join(output["text"]))
    for kind, ending in KINDS.items():
        if kind in joined:
            path = media / f"{len(list(media.iterdir()))}.{ending}"
            path.write_bytes(base64.b64decode(joined[kind]))
            return f"![{alt}]({path})\n"
    if "text/markdown" in joined:
        return joined["text/markdown"] + "\n"
    if "text/html" in joined or output["output_type"] == "error":
        return ""
    return fence(joined["text/plain"]) if "text/plain" in joined else ""


def chapter(
    path: Path,  # a notebook or a page
    media: Path,  # where pictures go
) -> str:  # Markdown, its heading first
    "One chapter, with what its cells have printed."
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        head = re.match(r'---\ntitle: "?(.*?)"?\n.*?---\n', text, re.S)
        return f"# {head[1]} {{#{path.stem}}}\n\n{text[head.end() :]}" if head else text
    parts = []
    for cell in json.loads(process(text, path))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "raw":
            facts = dict(re.findall(r'^(\w+): "?(.*?)"?$', source, re.M))
            title, promise = facts.get("title", path.stem), facts.get("description", "")
            parts.append(f"# {title} {{#{path.stem}}}\n\n*{promise}*\n")
        elif cell["cell_type"] == "markdown":
            parts.append(source + "\n")
        else:
            options = dict(re.findall(r"^#\| ([\w-]+): (.*)$", source, re.M))
            code = re.sub(r"^#\|.*\n?", "", source, flags=re.M).strip()
            if code and options.get("code-fold") != "true" and options.get("echo") != "false":
                parts.append(fence(code, "python"))
            alt = re.sub(r"[\[\]\n]", " ", options.get("fig-alt", ""))
            parts += [shown(output, media, alt) for output in cell["outputs"]]
    return "\n".join(parts)


def on_paper(
    text: str,  # Markdown of a chapter
    folder: Path,  # where it stands: pictures are named from there
    names: set[str],  # of the chapters that are in the book
) -> str:
    "Links lead to chapters of the same file, equations keep their numbers, pictures are found."
    text = re.sub(r"\\tag\{([^}]*)\}", r"\\qquad (\1)", text)
    text = re.sub(r"</?(details|summary|div|span|mark)[^>]*>", "", text)

    def link(match: re.Match) -> str:
        name = Path(match[1]).stem
        return (
            f"](#{name})" if name in names else f"](https://gptbook.github.io/gptbook/{match[1]})"
        )

    text = re.sub(r"\]\((?!https?:|#|/)([\w./-]+\.(?:ipynb|md))(?:#[\w-]*)?\)", link, text)
    return re.sub(
        r"!\[(.*?)\]\((?!https?:|/)([^)]+)\)", lambda m: f"![{m[1]}]({folder / m[2]})", text
    )


def write(
    kind: str,  # "epub" or "pdf"
) -> Path:  # the file
    "Put the chapters together and convert them."
    import pypandoc

    book = Book(ROOT)
    pages = [Path(name) for name in book.pages if name not in ONLINE and not name.startswith("api")]
    pages = [page for page in pages if (ROOT / page).is_file()]
    names = {page.stem for page in pages}
    out = ROOT / "_paper" / f"gptbook.{kind}"
    out.parent.mkdir(exist_ok=True)
    facts = (
        f"---\ntitle: gptbook\nsubtitle: {book.config['website']['description']}\nlang: en\n---\n\n"
    )
    with tempfile.TemporaryDirectory(prefix="gptbook-paper-") as work:
        media = Path(work) / "media"
        media.mkdir()
        parts = [
            on_paper(chapter(ROOT / page, media), (ROOT / page).parent, names) for page in pages
        ]
        form = "markdown-yaml_metadata_block-raw_tex+yaml_metadata_block"
        options = ["--standalone", "--toc", "--toc-depth=2"]
        if kind == "epub":
            more = ["--mathml", "--split-level=1"]
            pypandoc.convert_text(
                facts + "\n\n".join(parts), "epub3", form, [*options, *more], outputfile=str(out)
            )
        else:
            source = Path(work) / "book.typ"
            more = ["-V", "papersize=a4", "-V", "fontsize=10pt"]
            pypandoc.convert_text(
                facts + "\n\n".join(parts), "typst", form, [*options, *more], outputfile=str(source)
            )
            import typst

            typst.compile(str(source), output=str(out), root="/")
    return out


if __name__ == "__main__":
    made = write(sys.argv[1])
    print(f"{made.relative_to(ROOT)}: {made.stat().st_size / 1e6:.1f} MB")
