"""The class GPT against Hugging Face's transformers: the same weights must give the same numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import gptbook
from gptbook.generation import generate
from gptbook.model import GPT, GPTConfig
from gptbook.pretrained import (
    chat_prompt,
    family_of,
    load,
    load_pretrained,
    load_tokenizer,
    model_folder,
    read_gguf,
    read_weights,
    save,
    save_pretrained,
)
from gptbook.tokenizer import BPETokenizer, CharTokenizer

transformers = pytest.importorskip(
    "transformers", reason="the parity tests need transformers: pip install -e '.[dev]'"
)
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

GPT2_SMALL = GPTConfig.preset("gpt2")
GPT2_SHAPES = {
    "usual": GPTConfig.preset(
        "gpt2", vocab_size=211, block_size=40, n_layer=3, n_head=4, n_embd=32
    ),
    "one layer": GPTConfig.preset(
        "gpt2", vocab_size=97, block_size=16, n_layer=1, n_head=3, n_embd=24
    ),
    "one head": GPTConfig.preset(
        "gpt2", vocab_size=97, block_size=16, n_layer=2, n_head=1, n_embd=20
    ),
    "head size 1": GPTConfig.preset(
        "gpt2", vocab_size=97, block_size=16, n_layer=2, n_head=8, n_embd=8
    ),
    "context 1": GPTConfig.preset(
        "gpt2", vocab_size=97, block_size=1, n_layer=2, n_head=2, n_embd=8
    ),
    "untied": GPTConfig.preset(
        "gpt2", vocab_size=97, block_size=16, n_layer=2, n_head=2, n_embd=16, tie_weights=False
    ),
    "another width, another eps": GPTConfig.preset(
        "gpt2",
        vocab_size=97,
        block_size=16,
        n_layer=2,
        n_head=2,
        n_embd=16,
        n_hidden=40,
        norm_eps=1e-3,
    ),
}
LLAMA = GPTConfig(
    vocab_size=211,
    block_size=40,
    n_layer=3,
    n_head=8,
    n_kv_head=2,
    n_embd=64,
    n_hidden=150,
    activation="swiglu",
    tie_weights=False,
)
LLAMA_SHAPES = {
    "grouped heads": LLAMA,
    "tied": replace(LLAMA, tie_weights=True),
    "one key/value head": replace(LLAMA, n_kv_head=1),
    "as many as heads": replace(LLAMA, n_kv_head=None),
    "biases": replace(LLAMA, bias=True),
    "another base, another eps": replace(LLAMA, rotary_base=500_000.0, norm_eps=1e-6),
    "head size 2, one layer": replace(LLAMA, n_embd=16, n_layer=1),
    "context 1": replace(LLAMA, block_size=1),
}
SHAPES = {f"GPT-2, {name}": c for name, c in GPT2_SHAPES.items()} | {
    f"Llama, {name}": c for name, c in LLAMA_SHAPES.items()
}


def random_model(config: GPTConfig, seed: int = 0) -> GPT:
    "A model whose every weight, norms and biases too, is far from its usual beginning."
    torch.manual_seed(seed)
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def random_ids(
    config: GPTConfig, batch: int = 2, length: int | None = None, seed: int = 1
) -> Tensor:
    "Token ids, (B, T)."
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(
        config.vocab_size, (batch, length or config.block_size), generator=generator
    )


def their_config(config: GPTConfig) -> transformers.PretrainedConfig:
    "The same shape in transformers' terms, written down here once more so that ours is not its own judge."
    if config.position == "learned":
        return transformers.GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.block_size,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_inner=config.n_hidden,
            layer_norm_epsilon=config.norm_eps,
            tie_word_embeddings=config.tie_weights,
            bos_token_id=0,
            eos_token_id=0,
        )
    return transformers.LlamaConfig(
        vocab_size=config.vocab_size,
        max_position_embeddings=config.block_size,
        hidden_size=config.n_embd,
        num_hidden_layers=config.n_layer,
        num_attention_heads=config.n_head,
        intermediate_size=config.n_hidden,
        num_key_value_heads=config.n_kv_head or config.n_head,
        rms_norm_eps=config.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rotary_base},
        attention_bias=config.bias,
        mlp_bias=config.bias,
        tie_word_embeddings=config.tie_weights,
    )


def their_model(config: GPTConfig, seed: int = 0) -> nn.Module:
    "A model of transformers' with random weights."
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(their_config(config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def load_theirs(folder: Path, **options: object) -> nn.Module:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def worst(a: Tensor, b: Tensor) -> float:
    "The largest absolute difference."
    return (a - b).abs().max().item()


@pytest.mark.parametrize("name", SHAPES)
def test_a_folder_of_ours_loads_in_transformers(name: str, tmp_path: Path) -> None:
    config = SHAPES[name]
    ours = random_model(config)
    save_pretrained(ours, tmp_path)
    theirs, ids = load_theirs(tmp_path), random_ids(config)
    with torch.no_grad():
        assert worst(ours(ids)[0], theirs(ids).logits) < 1e-4
    again = load_pretrained(tmp_path)
    assert all(
        torch.equal(p, q) for p, q in zip(ours.parameters(), again.parameters(), strict=True)
    )
    assert family_of(again.config) == family_of(config) != "gptbook"


@pytest.mark.parametrize("name", SHAPES)
def test_a_folder_of_theirs_loads_here(name: str, tmp_path: Path) -> None:
    config = SHAPES[name]
    theirs = their_model(config)
    theirs.save_pretrained(tmp_path)
    ours, ids = GPT.from_pretrained(tmp_path), random_ids(config)
    with torch.no_grad():
        assert worst(ours(ids)[0], theirs(ids).logits) < 1e-4
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize(
    "name",
    ["GPT-2, usual", "GPT-2, head size 1", "Llama, grouped heads", "Llama, tied", "Llama, biases"],
)
def test_losses_and_gradients_are_equal(name: str, tmp_path: Path) -> None:
    config = SHAPES[name]
    ours = random_model(config)
    save_pretrained(ours, tmp_path)
    theirs, ids = load_theirs(tmp_path), random_ids(config)
    loss = ours(ids[:, :-1], ids[:, 1:])[1]
    their_loss = theirs(ids, labels=ids).loss  # shifts by itself
    assert abs(loss.item() - their_loss.item()) < 1e-5
    loss.backward()
    their_loss.backward()
    # gradients travel in the same files as weights: write theirs into a folder, and read it as ours
    for parameter in theirs.parameters():
        parameter.data = parameter.grad
    theirs.save_pretrained(tmp_path / "gradients")
    converted = dict(load_pretrained(tmp_path / "gradients").named_parameters())
    for parameter_name, parameter in ours.named_parameters():
        gradient = parameter.grad
        scale = gradient.abs().max().item()
        assert worst(gradient, converted[parameter_name].data) < 1e-5 + 1e-4 * scale, parameter_name


def test_gpt2_small_at_full_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = GPT(GPT2_SMALL).eval()
    save_pretrained(ours, tmp_path)
    theirs, ids = load_theirs(tmp_path), random_ids(GPT2_SMALL, 1, 200)
    with torch.no_grad():
        assert worst(ours(ids)[0], theirs(ids).logits) < 1e-4


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_the_four_sizes_of_gpt2(name: str, count: int) -> None:
    config = GPTConfig.preset(name)
    with torch.device("meta"):
        assert sum(p.numel() for p in GPT(config).parameters()) == count
        theirs = transformers.AutoModelForCausalLM.from_config(their_config(config))
    theirs.tie_weights()
    assert sum(p.numel() for p in theirs.parameters()) == count


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", ["GPT-2, usual", "Llama, grouped heads"])
def test_greedy_generation_gives_the_same_tokens(name: str, batch: int, tmp_path: Path) -> None:
    config = replace(SHAPES[name], block_size=64)
    ours = random_model(config, seed=3)
    save_pretrained(ours, tmp_path)
    theirs, prompt = load_theirs(tmp_path), random_ids(config, batch, 7)
    for use_cache in (True, False):
        expected = theirs.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=50,
            do_sample=False,
            use_cache=use_cache,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert torch.equal(generate(ours, prompt, 50, top_k=1), expected)  # with a cache
        assert torch.equal(ours.generate(prompt, 50, top_k=1), expected)  # without


def test_a_model_that_no_other_program_can_hold_keeps_its_own_format(tmp_path: Path) -> None:
    for change in (dict(qk_norm=True), dict(position="alibi"), dict(norm="rms"), dict(bias=False)):
        config = replace(GPT2_SHAPES["usual"], **change)
        save_pretrained(GPT(config), tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "gptbook"
        assert load_pretrained(tmp_path).config == config
    config = replace(LLAMA, dropout=0.1)
    save_pretrained(GPT(config), tmp_path)
    assert load_pretrained(tmp_path).config == config


def test_half_precision_travels(tmp_path: Path) -> None:
    ours = random_model(GPT2_SHAPES["usual"]).to(torch.bfloat16)
    save_pretrained(ours, tmp_path)
    assert all(
        t.dtype == torch.bfloat16 for t in load_file(tmp_path / "model.safetensors").values()
    )
    theirs = load_theirs(tmp_path, dtype=torch.float32)
    ids = random_ids(ours.config)
    with torch.no_grad():
        assert worst(load_pretrained(tmp_path)(ids)[0], theirs(ids).logits) < 1e-4


def test_files_without_the_first_word_and_with_masks(tmp_path: Path) -> None:
    "As the first GPT-2 on the hub has them: no `transformer.`, and the causal masks among the tensors."
    ours = random_model(GPT2_SHAPES["usual"])
    save_pretrained(ours, tmp_path)
    tensors = {
        name.removeprefix("transformer."): t
        for name, t in load_file(tmp_path / "model.safetensors").items()
    }
    tensors |= {f"h.{i}.attn.bias": torch.ones(1, 1, 40, 40).tril() for i in range(3)}
    save_file(tensors, tmp_path / "model.safetensors")
    again = load_pretrained(tmp_path)
    assert all(
        torch.equal(p, q) for p, q in zip(ours.parameters(), again.parameters(), strict=True)
    )


@pytest.mark.parametrize("config", [GPT2_SHAPES["usual"], LLAMA], ids=["GPT-2", "Llama"])
def test_the_bare_model_without_a_head(config: GPTConfig, tmp_path: Path) -> None:
    config = replace(config, tie_weights=True)
    theirs = their_model(config)
    theirs.base_model.save_pretrained(tmp_path)
    ids = random_ids(config)
    with torch.no_grad():
        assert worst(load_pretrained(tmp_path)(ids)[0], theirs(ids).logits) < 1e-4


@pytest.mark.parametrize("name", ["GPT-2, usual", "Llama, grouped heads"])
def test_several_files_with_an_index(name: str, tmp_path: Path) -> None:
    theirs = their_model(SHAPES[name])
    theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ids = random_ids(SHAPES[name])
    with torch.no_grad():
        assert worst(load_pretrained(tmp_path)(ids)[0], theirs(ids).logits) < 1e-4
    next(tmp_path.glob("model-00002*.safetensors")).unlink()
    with pytest.raises(FileNotFoundError, match="model-00002"):
        load_pretrained(tmp_path)


def edit_config(**changes: object) -> Callable[[Path], None]:
    "A spoiler that changes keys of config.json; None removes one."

    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        facts = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in facts.items() if value != "gone"}))

    return spoil


def edit_tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    "A spoiler that changes the tensors."

    def spoil(folder: Path) -> None:
        tensors = {name: t.clone() for name, t in load_file(folder / "model.safetensors").items()}
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return spoil


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


QKV, Q = "transformer.h.1.attn.c_attn.weight", "model.layers.1.self_attn.q_proj.weight"
SPOILT = [  # (which model, what is done to its folder, what the message must name)
    ("gpt2", edit_tensors(lambda t: t.pop(QKV)), f"{QKV} is missing"),
    ("gpt2", edit_tensors(lambda t: t.update(extra=torch.ones(2))), "extra is unknown"),
    ("gpt2", edit_tensors(lambda t: t.update({QKV: t[QKV].T.contiguous()})), f"{QKV} has shape"),
    (
        "gpt2",
        edit_tensors(lambda t: t.update({QKV: torch.ones_like(t[QKV]).int()})),
        f"{QKV} holds torch.int32",
    ),
    (
        "gpt2",
        edit_tensors(
            lambda t: t.update({"lm_head.weight": torch.ones_like(t["transformer.wte.weight"])})
        ),
        "lm_head.weight differs",
    ),
    ("gpt2", cut, "not a whole safetensors file"),
    ("gpt2", edit_config(n_layer="three"), "n_layer is 'three'"),
    ("gpt2", edit_config(n_layer=4), "transformer.h.3"),
    ("gpt2", edit_config(n_head=5), "5 heads"),
    ("gpt2", edit_config(n_embd="gone"), "lacks n_embd"),
    ("gpt2", edit_config(activation_function="relu"), "activation_function is 'relu'"),
    ("gpt2", edit_config(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx"),
    ("gpt2", edit_config(model_type="mamba"), "mamba"),
    ("gpt2", edit_config(tie_word_embeddings=False), "lm_head.weight is missing"),
    ("gpt2", edit_config(layer_norm_epsilon=None), "layer_norm_epsilon"),
    ("llama", edit_tensors(lambda t: t.pop(Q)), f"{Q} is missing"),
    ("llama", edit_tensors(lambda t: t.update({Q: t[Q][:8]})), f"{Q} has shape"),
    ("llama", edit_config(num_key_value_heads=3), "num_key_value_heads is 3"),
    ("llama", edit_config(num_key_value_heads=4), "k_proj.weight has shape"),
    ("llama", edit_config(head_dim=16), "16 channels"),
    ("llama", edit_config(hidden_act="gelu"), "hidden_act is 'gelu'"),
    (
        "llama",
        edit_config(rope_parameters={"rope_type": "llama3", "rope_theta": 1e4}),
        "rope_type is 'llama3'",
    ),
    (
        "llama",
        edit_config(rope_scaling={"type": "linear", "factor": 2.0}, rope_parameters=None),
        "rope_type is 'linear'",
    ),
    (
        "llama",
        edit_config(rope_scaling={"rope_type": "yarn", "factor": 2.0}),
        "rope_type is 'yarn'",
    ),
    ("llama", edit_config(attention_bias=True), "mlp_bias"),
    ("llama", edit_config(rms_norm_eps="small"), "rms_norm_eps"),
    ("llama", edit_config(hidden_size=None), "hidden_size"),
]


@pytest.mark.parametrize(
    ("kind", "spoil", "message"), SPOILT, ids=[message for _, _, message in SPOILT]
)
def test_a_spoilt_folder_is_refused_by_name(
    kind: str, spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    save_pretrained(random_model({"gpt2": GPT2_SHAPES["usual"], "llama": LLAMA}[kind]), tmp_path)
    spoil(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError) as error:
        GPT.from_pretrained(tmp_path)
    assert message in str(error.value) and str(tmp_path) in str(error.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_cannot_be_kept_is_said(tmp_path: Path) -> None:
    save_pretrained(random_model(GPT2_SHAPES["usual"]), tmp_path)
    edit_config(attn_pdrop=0.3)(tmp_path)
    with pytest.warns(UserWarning, match="attn_pdrop is 0.3"):
        GPT.from_pretrained(tmp_path)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    save_pretrained(random_model(GPT2_SHAPES["usual"]), tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="pickle"):
        load_pretrained(tmp_path)


HUB_SCRIPT = """
from gptbook.pretrained import load_pretrained
model = load_pretrained("someone/tiny-gpt")
print(sum(p.double().sum() for p in model.parameters()).item())
"""


def hub_cache(folder: Path, model: GPT) -> Path:  # the file of weights
    "Lay a model out as huggingface_hub keeps what it has fetched: blobs by hash, and links to them."
    repository = folder / "models--someone--tiny-gpt"
    snapshot, blobs = repository / "snapshots" / ("a" * 40), repository / "blobs"
    for place in (snapshot, blobs, repository / "refs"):
        place.mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    save_pretrained(model, folder / "flat")
    from gptbook.files import file_sha256

    weights = folder / "flat" / "model.safetensors"
    blob = blobs / file_sha256(weights)
    weights.rename(blob)
    (folder / "flat" / "config.json").rename(blobs / ("b" * 40))
    (snapshot / "model.safetensors").symlink_to(os.path.relpath(blob, snapshot))
    (snapshot / "config.json").symlink_to(os.path.relpath(blobs / ("b" * 40), snapshot))
    return blob


def test_a_name_on_the_hub_is_found_in_the_hubs_own_layout(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    model = random_model(GPT2_SHAPES["usual"])
    blob = hub_cache(tmp_path, model)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", HUB_SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) == pytest.approx(
        sum(p.double().sum() for p in model.parameters()).item()
    )
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1  # one bit
    blob.write_bytes(content)
    run = subprocess.run(
        [sys.executable, "-c", HUB_SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert "SHA-256" in run.stderr and run.returncode
    environment["HF_HUB_CACHE"] = str(tmp_path / "empty")
    run = subprocess.run(
        [sys.executable, "-c", HUB_SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert "neither a folder nor a known model" in run.stderr and "ConnectionError" in run.stderr


# --- the door: a model and its tokenizer, by any name -------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> tuple[GPT, BPETokenizer, Path]:
    "A model and its tokenizer, and the folder where they are."
    tokenizer = BPETokenizer.train("The quick brown fox jumps over the lazy dog.", 270)
    model = random_model(replace(GPT2_SHAPES["usual"], vocab_size=270))
    save(model, tokenizer, tmp_path / "run")
    return model, tokenizer, tmp_path / "run"


def test_a_model_and_its_tokenizer_come_back(pair: tuple) -> None:
    model, tokenizer, folder = pair
    for name in (folder, str(folder)):
        again, same = gptbook.load(name)
        assert all(
            torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True)
        )
        assert (same.merges, same.special_tokens) == (tokenizer.merges, tokenizer.special_tokens)
    assert not again.training
    characters = CharTokenizer("abc")
    gptbook.save(GPT(replace(model.config, vocab_size=3)), characters, folder)
    assert gptbook.load(folder)[1].characters == "abc"


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(pair: tuple) -> None:
    model, tokenizer, folder = pair
    with pytest.raises(ValueError, match=r"the tokenizer has 270 tokens, the model 269"):
        save(GPT(replace(model.config, vocab_size=269)), tokenizer, folder)
    assert load(folder)[0].config.vocab_size == 270  # nothing was written
    save_pretrained(GPT(replace(model.config, vocab_size=269)), folder)
    with pytest.raises(ValueError, match=r"run: the tokenizer has 270 tokens, the model 269"):
        load(folder)
    save_pretrained(GPT(replace(model.config, vocab_size=320)), folder)  # a padded table
    assert load(folder)[0].config.vocab_size == 320


def test_an_unfinished_run_says_how_to_go_on(pair: tuple) -> None:
    _, _, folder = pair
    (folder / "model.safetensors").rename(folder / "checkpoint.safetensors")
    for present in (True, False):
        for door in (load, load_pretrained, GPT.from_pretrained):
            with pytest.raises(
                ValueError, match="is not finished; go on with: gptbook train --resume .*run"
            ):
                door(folder)
        assert load_tokenizer(folder).vocab_size == 270
        if present:
            (folder / "config.json").unlink()


def test_a_folder_without_a_tokenizer_says_so(pair: tuple) -> None:
    _, _, folder = pair
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="has no tokenizer; give a folder that has tokenizer.json"):
        load(folder)


@pytest.mark.parametrize(
    "name", ["runs/shakespeare", "./shakespeare/x", "no/such/folder", "../no/model", "shakespear"]
)
def test_a_missing_folder_is_no_question_to_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "gptbook.pretrained._fetch_hub", lambda name: pytest.fail(f"the hub was asked for {name}")
    )
    for door in (load, load_pretrained, load_tokenizer):
        with pytest.raises(FileNotFoundError, match="is neither a folder nor a known model"):
            door(name)


TEMPLATES = {
    "a clock": "{{ strftime_now('%Y') }} {{ messages[0].content }}",
    "break": "{% for m in messages %}{{ m.content }}{% break %}{% endfor %}",
    "marks around answers": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "tojson": "{{ messages | tojson }} {{ messages[0] | tojson(indent=2) }}",
    "no tools": "{% if tools is not none or documents is not none %}[TOOLS]{% endif %}{{ messages[0].content }}",
    "special tokens": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}",
    "white space": "{% for m in messages %}\n  {% if true %}\n  {{ m.role }}\n  {% endif %}\n{% endfor %}\n!",
    "several": [
        {"name": "tool_use", "template": "no"},
        {"name": "default", "template": "{{ messages[1].content }}"},
    ],
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_chat_templates_give_what_they_give_in_transformers(name: str, pair: tuple) -> None:
    _, _, folder = pair
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": TEMPLATES[name]}))
    messages = [
        {"role": "user", "content": "Hi <b> é"},
        {"role": "assistant", "content": "Ho & 'x'"},
    ]
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert chat_prompt(folder, messages) == expected


def test_a_template_that_refuses_says_why(pair: tuple) -> None:
    _, _, folder = pair
    for template, said in (
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% if %}", "fails"),
        ("{{ 1 + 'a' }}", "fails"),
    ):
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
        with pytest.raises(ValueError, match=said):
            chat_prompt(folder, "Hi")


# --- a real pretrained model -----------------------------------------------------------------------------------------

PROMPTS = {
    "verse": "But, soft! what light through yonder window breaks?\nIt is the east, and Juliet is the sun. ",
    "prose": "The committee met on Tuesday to discuss the new railway line, which would cost 4,500,000 pounds and take 7 years. ",
    "code": "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n\n",
    "numbers": "1 2 3 5 8 13 21 34 55 89 144 233 377 610 987 1597 2584 4181 ",
    "other languages": "Der Mond ist aufgegangen, die goldnen Sternlein prangen. Le petit chat boit du lait. Привет, мир! ",
}


@pytest.fixture(scope="module")
def smollm_file() -> Path:
    "The file that has SmolLM2 in it."
    pytest.importorskip("gguf")
    try:
        return next(model_folder("smollm2-135m").glob("*.gguf"))
    except ConnectionError as error:
        pytest.skip(f"SmolLM2 cannot be fetched: {error}")


@pytest.fixture(scope="module")
def smollm(smollm_file: Path) -> tuple[GPT, nn.Module, object]:
    "SmolLM2 here and in transformers, out of the same file, and transformers' tokenizer."
    folder, name = smollm_file.parent, smollm_file.name
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32
    ).eval()
    return (
        GPT.from_pretrained("smollm2-135m"),
        theirs,
        transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name),
    )


@pytest.mark.parametrize("name", PROMPTS)
def test_smollm2_gives_transformers_logits(name: str, smollm: tuple) -> None:
    ours, theirs, tokenizer = smollm
    ids = torch.tensor([tokenizer.encode(PROMPTS[name] * 20)[:220]])
    assert ids.shape[1] == 220
    with torch.no_grad():
        mine, other = ours(ids)[0], theirs(ids).logits
    assert worst(mine, other) < 2e-3


def test_smollm2_writes_the_same_hundred_tokens(smollm: tuple) -> None:
    ours, theirs, tokenizer = smollm
    prompt = torch.tensor([tokenizer.encode(PROMPTS["prose"])])
    expected = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=100,
        min_new_tokens=100,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=2,
    )
    assert torch.equal(generate(ours, prompt, 100, top_k=1), expected)


def test_a_damaged_gguf_is_refused(tmp_path: Path, smollm_file: Path) -> None:
    for size in (3, 1000, 50_000_000):
        part = tmp_path / f"part{size}.gguf"
        with open(smollm_file, "rb") as source:
            part.write_bytes(source.read(size))
        with pytest.raises(ValueError, match=part.name):
            read_gguf(part)


def test_smollm2_can_be_given_away_as_a_folder(tmp_path: Path, smollm: tuple) -> None:
    ours, theirs, _ = smollm
    save_pretrained(ours, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "llama"
    assert set(read_weights(tmp_path)) == {name for name, _ in theirs.named_parameters()}
