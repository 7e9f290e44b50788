"The model runs in a browser as it runs here: logits, token ids, text; from a file, with no other host."

import json
import re
from configparser import ConfigParser
from importlib.resources import files
from itertools import product
from pathlib import Path

import pytest
import torch

import gptbook
from gptbook.corpora import load_text
from gptbook.data import TokenDataset
from gptbook.generation import generate
from gptbook.model import GPT, GPTConfig
from gptbook.pretrained import export_page
from gptbook.tokenizer import BPETokenizer, CharTokenizer
from gptbook.training import TrainConfig, Trainer

HARD = [
    "It's  a test,\n\n   don't! 12,345 naïve café",
    "e\u0301 👩‍👩‍👧 日本語 \u00a0\u2003\u3000|\ufeff|\x85\r\n\t\x1f",
    "<|endoftext|><script>alert(1)</script>\x1b[31m",
    " leading, trailing   ",
    "I'LL we'Ve ''s ½ ² ٣ ⅷ",
]


@pytest.fixture
def page(browser):
    context = browser.new_context()
    page = context.new_page()
    page.asked, page.said = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    yield page
    context.close()


def opened(page, folder):
    page.goto((folder / "index.html").as_uri())
    return page


SHAPES = [
    {"position": p, "norm": n, "activation": a}
    for p, n, a in product(
        ("rotary", "learned", "sinusoidal", "alibi", "none"), ("rms", "layer"), ("gelu", "swiglu")
    )
] + [
    {"activation": "relu2", "qk_norm": True, "n_kv_head": 1},
    {"position": "alibi", "n_head": 6, "n_embd": 36, "n_kv_head": 3, "bias": True, "norm": "layer"},
    {"tie_weights": False, "n_hidden": 20, "norm_eps": 1e-3, "rotary_base": 500.0, "bias": True},
]


def test_logits_are_pytorchs(page, tmp_path):
    tokenizer = BPETokenizer.train(load_text("shakespeare", "train")[:20_000], 300)
    for number, changes in enumerate(SHAPES):
        torch.manual_seed(number)
        shape = {"n_layer": 2, "n_head": 4, "n_embd": 32} | changes
        model = GPT(GPTConfig(300, 16, **shape)).eval()
        for parameter in model.parameters():  # far from the quiet start: norms and biases, too
            torch.nn.init.normal_(parameter, mean=0.1, std=0.4)
        export_page(model, tokenizer, tmp_path / str(number), prompt="the ")
        opened(page, tmp_path / str(number))
        ids = torch.randint(300, (1, 16))
        seen = page.evaluate(
            "ids => { const m = playground.model; m.forget();"
            "  return ids.map((id) => Array.from(m.step(id))); }",
            ids[0].tolist(),
        )
        with torch.no_grad():
            wanted = model(ids)[0][0]
        assert (torch.tensor(seen) - wanted).abs().max() < 1e-3 * max(1, wanted.abs().max()), shape
        parts = page.evaluate(
            "id => { const m = playground.model, a = attribute(m, 15, id); return ["
            "  a.embedding + a.biases + a.forward.reduce((s, v) => s + v, 0)"
            "  + a.heads.reduce((s, h) => s + h.score, 0), m.seen[15].logits[id],"
            "  a.tokens.reduce((s, v) => s + v, 0) - a.heads.reduce((s, h) => s + h.score, 0)]; }",
            7,
        )
        assert abs(parts[0] - parts[1]) < 2e-3 * max(1, abs(parts[1])) and abs(parts[2]) < 1e-3
    assert page.said == []


def test_a_head_that_is_off_adds_nothing(page, tmp_path):
    model, tokenizer = gptbook.load("shakespeare")
    export_page(model, tokenizer, tmp_path, prompt="But soft, what light")
    opened(page, tmp_path)
    ids = torch.tensor([tokenizer.encode("But soft, what light")])
    size = model.config.head_size
    with torch.no_grad():
        for number in (1, 3):  # heads of layer 2: what they mix is not passed on
            model.blocks[2].attention.out.weight[:, number * size : (number + 1) * size] = 0
        wanted = model(ids)[0][0, -1]
    page.select_option("#layer", index=2)
    for number in (1, 3):
        page.locator("#heads input").nth(number).uncheck()
    seen = page.evaluate("Array.from(playground.model.seen.at(-1).logits)")
    assert (torch.tensor(seen) - wanted).abs().max() < 1e-3
    assert "2 off" in page.locator("#off").inner_text()


def test_token_ids_are_ours_and_text_is_data(page, tmp_path):
    model, tokenizer = gptbook.load("shakespeare")
    export_page(model, tokenizer, tmp_path)
    opened(page, tmp_path)
    for text in [*HARD, load_text("shakespeare", "validation")[:20_000]]:
        ids = page.evaluate("text => playground.tokenizer.encode(text)", text)
        assert ids == tokenizer.encode(text), text[:40]
        assert page.evaluate("ids => playground.tokenizer.decode(ids)", ids) == tokenizer.decode(
            ids
        )
    page.fill("#prompt", HARD[2])
    assert "<script>alert(1)</script>" in page.locator("#text").inner_text()
    assert page.locator("#playground script").count() == 0
    assert "\x1b" not in page.locator("#tokens").inner_text()
    assert page.said == [] and all(url.startswith("file:") for url in page.asked)


def test_other_splits_and_characters(page, tmp_path):
    text = load_text("shakespeare", "train")[:20_000] + "12 345"
    for name, tokenizer in (
        ("digits", BPETokenizer.train(text, 320, pattern=gptbook.pretrained.DIGITS_APART_SPLIT)),
        ("characters", CharTokenizer.train(text)),
    ):
        config = GPTConfig(tokenizer.vocab_size, 64, 1, 2, 16)
        export_page(GPT(config), tokenizer, tmp_path / name, prompt="So 12 345")
        opened(page, tmp_path / name)
        assert page.evaluate("playground.model.ids") == tokenizer.encode("So 12 345")


def test_the_readers_own_model_writes_from_a_file(page, tmp_path):
    text = "<script>document.title = 'broken'</script>\n" * 200
    tokenizer = CharTokenizer.train(text)
    torch.manual_seed(0)
    model = GPT(GPTConfig(tokenizer.vocab_size, 48, 1, 2, 32))
    data = TokenDataset.from_text(text, tokenizer, 48)
    Trainer(model, data, config=TrainConfig(steps=60, batch_size=8)).fit(progress_bar=False)
    model.eval()
    export_page(model, tokenizer, tmp_path, prompt="<scr")
    opened(page, tmp_path)
    page.evaluate("document.getElementById('temperature').value = 0")
    for _ in range(20):
        page.click("#step")
    wanted = generate(model, torch.tensor([tokenizer.encode("<scr")]), 20, temperature=0)
    assert page.locator("#text").inner_text() == tokenizer.decode(wanted[0].tolist())
    assert page.title() == "A GPT in this page" and page.said == []
    page.click("#go")
    page.wait_for_function("!playground.writing")
    assert page.evaluate("playground.model.ids.length") == 48  # its whole context
    assert "full" in page.locator("#problem").inner_text()


def test_knobs_bend_the_chances_as_chapter_09_does(page, tmp_path):
    model, tokenizer = gptbook.load("shakespeare")
    export_page(model, tokenizer, tmp_path, prompt="What")
    opened(page, tmp_path)
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer.encode("What")]))[0][0, -1]
    for knobs in ({"temperature": 0.5, "topK": 7}, {"topP": 0.6}, {"minP": 0.05, "topP": 0.9}):
        names = {"topK": "top_k", "topP": "top_p", "minP": "min_p"}
        asked = {names.get(k, k): v for k, v in knobs.items()}
        wanted = gptbook.generation.warp_logits(logits, **asked).softmax(-1)
        kept = page.evaluate("k => chances(playground.model.seen.at(-1).logits, k)", knobs)
        assert {t["id"] for t in kept} == set(wanted.nonzero()[:, 0].tolist())
        assert all(abs(t["chance"] - wanted[t["id"]]) < 1e-4 for t in kept)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda s: s[: len(s) // 2], "missing or damaged"),
        (lambda s: s.replace('"config.json": "ey', '"config.json": "ez'), "damaged"),
        (
            lambda s: re.sub(r'"model.safetensors": "[^"]{40}', '"model.safetensors": "', s),
            "damaged",
        ),
        (
            lambda s: re.sub(r'"tokenizer.json": "[^"]*"', '"tokenizer.json": "e30="', s),
            "tokenizer.json",
        ),
        (lambda s: re.sub(r'"config.json": "[^"]*", ', "", s), "lacks config.json"),
    ],
)
def test_damaged_files_get_a_sentence(page, tmp_path, change, said):
    tokenizer = CharTokenizer.train("abc")
    export_page(GPT(GPTConfig(tokenizer.vocab_size, 8, 1, 1, 4)), tokenizer, tmp_path)
    path = tmp_path / "model.js"
    path.write_text(change(path.read_text()))
    opened(page, tmp_path)
    told = page.locator("#problem").inner_text()
    assert told.startswith("This model cannot be shown") and said in told
    assert page.locator("#playground").is_hidden()


def test_the_page_fits_a_phone_and_works_by_keyboard(browser, tmp_path):
    model, tokenizer = gptbook.load("shakespeare")
    export_page(
        model.half(), tokenizer, tmp_path, prompt="But soft, what light through yonder window"
    )
    for scheme in ("light", "dark"):
        context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme=scheme)
        page = context.new_page()
        opened(page, tmp_path)
        page.wait_for_selector("#heads figure")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.focus("#step")
        before = page.evaluate("playground.model.ids.length")
        page.keyboard.press("Enter")
        assert page.evaluate("playground.model.ids.length") == before + 1
        page.focus("#tokens button:nth-child(3)")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
        assert page.evaluate("playground.chosen") == 2
        context.close()


def test_without_scripts_there_is_a_sentence_and_a_picture(browser, tmp_path):
    tokenizer = CharTokenizer.train("abc")
    export_page(GPT(GPTConfig(tokenizer.vocab_size, 8, 1, 1, 4)), tokenizer, tmp_path)
    context = browser.new_context(java_script_enabled=False)
    page = opened(context.new_page(), tmp_path)
    assert "needs scripts" in page.locator("noscript").inner_text()
    assert (tmp_path / "picture.png").stat().st_size < 80_000
    context.close()


def test_the_page_links_to_chapters_that_there_are():
    page = (files("gptbook") / "assets/playground/index.html").read_text(encoding="utf-8")
    linked = re.findall(r'data-chapter href="([^"]+)"', page)
    root = Path(__file__).parents[1]
    settings = ConfigParser()
    settings.read(root / "settings.ini", encoding="utf-8")
    site = settings["DEFAULT"]["site"]
    assert len(linked) >= 8
    for link in linked:
        assert link.startswith(site)
        assert (root / link.removeprefix(site)).with_suffix(".ipynb").is_file(), link


def test_the_page_is_made_of_what_the_package_writes(tmp_path):
    tokenizer = CharTokenizer.train("abc")
    export_page(GPT(GPTConfig(tokenizer.vocab_size, 8, 1, 1, 4)), tokenizer, tmp_path, "a</script>")
    text = (tmp_path / "model.js").read_text()
    facts = json.loads(text.removeprefix("const GPTBOOK_MODEL = ").rstrip().rstrip(";"))
    assert facts["prompt"] == "a</script>" and len(facts["files"]) == 3
