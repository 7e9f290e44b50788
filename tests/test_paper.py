"The book on paper: what becomes of links, equations, outputs and controls."

import json
import sys

import pytest
from small_book import ROOT, notebook

sys.path.append(str(ROOT / "tools"))
paper = pytest.importorskip("paper")

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="


def test_links_equations_and_pictures_find_their_place(tmp_path):
    text = (
        "See [03](03_attention.ipynb#mask), [list](results/a.md), [paper](https://a.org/b.ipynb)\n"
    )
    text += "$$x \\tag{3.2}$$ <details>hint</details> ![shape](assets/a.svg)"
    made = paper.on_paper(text, tmp_path, {"03_attention"})
    assert "[03](#03_attention)" in made and "[paper](https://a.org/b.ipynb)" in made
    assert "[list](https://gptbook.github.io/gptbook/results/a.md)" in made
    assert "x \\qquad (3.2)" in made and "details" not in made
    assert f"![shape]({tmp_path}/assets/a.svg)" in made


def test_a_chapter_keeps_its_code_and_outputs_and_leaves_controls_out(tmp_path):
    nb = notebook(
        "md:# 05 A chapter\n\n> what it is for\n\nText.",
        "x = 1\nprint(x)",
        '#| code-fold: true\n#| code-summary: "Drawing code"\n#| fig-alt: A dot.\ndraw()',
        "#| hide\nassert x == 1",
    )
    nb = nb if isinstance(nb, dict) else json.loads(nb)
    said = {"output_type": "stream", "name": "stdout", "text": ["1 ``` 2"]}
    control = {"output_type": "display_data", "metadata": {}, "data": {"text/html": "<b>knob</b>"}}
    dot = {"output_type": "display_data", "metadata": {}, "data": {"image/png": PNG}}
    code = [cell for cell in nb["cells"] if cell["cell_type"] == "code"]
    code[0]["outputs"], code[1]["outputs"] = [said], [control, dot]
    path, media = tmp_path / "05_chapter.ipynb", tmp_path / "media"
    path.write_text(json.dumps(nb))
    media.mkdir()
    made = paper.chapter(path, media)
    assert made.startswith("# 05 A chapter {#05_chapter}\n\n*what it is for*\n")
    assert "print(x)" in made and "````\n1 ``` 2\n````" in made
    assert "knob" not in made and "draw()" not in made and "assert" not in made
    assert f"![A dot.]({media}/0.png)" in made and len(list(media.iterdir())) == 1
