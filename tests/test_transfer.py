"Chapter 10: LoRA is exact, what is frozen stays frozen, counts are right, the long runs work."

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gptbook.data import TokenDataset
from gptbook.model import GPT, GPTConfig
from gptbook.runs import read_tensors
from gptbook.scaling import count_costs
from gptbook.training import TrainConfig, evaluate, training_flops
from gptbook.transfer import (
    LAYERS,
    LoRA,
    ReplyDataset,
    add_lora,
    exchanges,
    finetune,
    load_lora,
    lora_layers,
    merge_lora,
    pad_batches,
    reply_bits,
    save_lora,
    speeches,
    text_features,
    train_only,
    untie_head,
)

ROOT = Path(__file__).resolve().parent.parent
SIZE = dict(vocab_size=61, block_size=24, n_layer=3, n_head=4, n_embd=32)
SHAPES = {
    "gpt2": GPTConfig(**SIZE, position="learned", norm="layer", activation="gelu", bias=True),
    "llama": GPTConfig(
        **SIZE, n_kv_head=2, n_hidden=88, position="rotary", norm="rms", activation="swiglu"
    ),
    "untied": GPTConfig(
        **SIZE, position="alibi", activation="relu2", qk_norm=True, tie_weights=False
    ),
}
torch.set_num_threads(1)


def make(shape: str, seed: int = 0) -> GPT:
    torch.manual_seed(seed)
    return GPT(SHAPES[shape]).eval()


def disturb(model: GPT, seed: int = 1) -> GPT:
    "Give every detour something to say."
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.b.copy_(0.1 * torch.randn(layer.b.shape, generator=draw))
    return model


ids = torch.randint(61, (2, 24), generator=torch.Generator().manual_seed(3))
data = TokenDataset(
    torch.randint(61, (3000,), generator=torch.Generator().manual_seed(4)), 16, bytes=9000
)
SHORT = TrainConfig(steps=4, batch_size=2, optimizer="adamw", learning_rate=1e-2, warmup=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layers", [LAYERS, LAYERS[:1], LAYERS[2:]])
def test_merged_equals_unmerged_and_the_start_equals_the_base(shape, layers):
    base = make(shape)
    model = add_lora(copy.deepcopy(base), rank=3, alpha=5.0, layers=layers)
    assert len(lora_layers(model)) == 3 * len(layers)
    assert torch.equal(model(ids)[0], base(ids)[0])
    disturb(model)
    tuned = model(ids)[0]
    assert (tuned - base(ids)[0]).abs().max() > 1e-2
    merged = merge_lora(model)
    assert not lora_layers(merged) and merged.state_dict().keys() == base.state_dict().keys()
    assert (merged(ids)[0] - tuned).abs().max() < 1e-5
    assert all(p.requires_grad for p in merged.parameters())


@pytest.mark.parametrize("shape", SHAPES)
def test_only_the_detours_get_gradients(shape):
    model = disturb(add_lora(make(shape)))
    model(ids, ids)[1].backward()
    for name, parameter in model.named_parameters():
        assert (
            (parameter.grad is not None) == name.endswith((".a", ".b")) == parameter.requires_grad
        ), name


def test_the_detour_is_what_the_paper_says():
    torch.manual_seed(0)
    base = torch.nn.Linear(7, 5)
    layer = LoRA(base, rank=2, alpha=6.0)
    with torch.no_grad():
        layer.b.normal_()
    x = torch.randn(4, 7)
    expected = x @ (base.weight + 6.0 / 2 * layer.b @ layer.a).T + base.bias
    assert torch.allclose(layer(x), expected, atol=1e-5)
    assert torch.allclose(layer.merge()(x), expected, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_saved_detours_load_into_the_same_base(shape, tmp_path):
    base, path = make(shape), tmp_path / "lora.safetensors"
    model = disturb(add_lora(copy.deepcopy(base), rank=2, alpha=3.0, layers=LAYERS[1:3]))
    save_lora(model, path)
    again = load_lora(copy.deepcopy(base), path)
    assert torch.equal(again(ids)[0], model(ids)[0])
    assert [n for n, p in again.named_parameters() if p.requires_grad] == [
        n for n, p in model.named_parameters() if p.requires_grad
    ]
    assert (
        path.stat().st_size
        < 4 * sum(p.numel() for p in model.parameters() if p.requires_grad) + 4000
    )


def test_files_of_the_first_version_still_load(tmp_path):
    base, path = make("llama"), tmp_path / "lora.safetensors"
    tensors = {
        f"blocks.0.attention.{part}": torch.randn(shape)
        for part, shape in (("qkv.a", (2, 32)), ("qkv.b", (64, 2)))
    }
    save_file(
        tensors, path, {"gptbook_lora": json.dumps({"blocks.0.attention.qkv": 1.5})}
    )  # as it was written then
    layer = lora_layers(load_lora(base, path))["blocks.0.attention.qkv"]
    assert layer.scaling == 1.5 and torch.equal(layer.a, tensors["blocks.0.attention.qkv.a"])
    save_lora(base, path)
    assert read_tensors(path, key="gptbook_lora")[0] == {"blocks.0.attention.qkv": 1.5}


def test_a_file_that_does_not_fit_changes_nothing(tmp_path):
    path, other = tmp_path / "lora.safetensors", tmp_path / "other.safetensors"
    save_lora(add_lora(make("gpt2")), path)
    model = make("llama")  # narrower keys and values, another width inside
    before = {name: p.clone() for name, p in model.state_dict().items()}
    for wrong in (path, other):
        other.write_bytes(path.read_bytes()[:100])
        with pytest.raises(ValueError, match="trained on|save_lora"):
            load_lora(model, wrong)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="save_lora"):
        load_lora(model, tmp_path / "model.safetensors")
    assert not lora_layers(model) and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    with pytest.raises(ValueError, match="no LoRA"):
        save_lora(model, other)
    with pytest.raises(FileNotFoundError):
        load_lora(model, tmp_path / "missing.safetensors")


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="rank is 0"):
        LoRA(torch.nn.Linear(4, 4), rank=0)
    with pytest.raises(ValueError, match="1 to 4"):
        LoRA(torch.nn.Linear(9, 4), rank=5)
    for layers in ((), ("attention.query",)):
        with pytest.raises(ValueError, match="attention.qkv"):
            add_lora(make("gpt2"), layers=layers)
    with pytest.raises(ValueError, match="merge_lora"):
        add_lora(add_lora(make("gpt2")))
    with pytest.raises(ValueError, match="no parameter starts with 'head'"):
        train_only(make("gpt2"), "head")


@pytest.mark.parametrize("method", ["lora", "head", "last block"])
@pytest.mark.parametrize("shape", SHAPES)
def test_finetune_leaves_what_is_frozen_bit_equal(shape, method):
    model = make(shape)
    if method == "lora":
        add_lora(model, rank=2)
    else:
        train_only(untie_head(model), "head" if method == "head" else "blocks.2.")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = finetune(model, data, data, SHORT, progress_bar=False)
    assert trainer.step == 4 and len([r for r in trainer.history if "loss" in r]) == 4
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


def test_an_untied_head_is_the_same_head():
    model = make("gpt2")
    base = copy.deepcopy(model)
    assert torch.equal(untie_head(model)(ids)[0], base(ids)[0]) and not model.config.tie_weights
    assert model.head.weight is not model.embedding.weight
    assert untie_head(model).head.weight.data_ptr() == model.head.weight.data_ptr()


def measured_flops(model: GPT) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(ids, ids)[1].backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "method", ["full", "lora", "lora on feed_forward", "head", "last block", "norm"]
)
@pytest.mark.parametrize("shape", SHAPES)
def test_flops_are_those_that_pytorch_counts(shape, method):
    model = make(shape)
    if method == "full":
        assert training_flops(model, 7, 20) == 7 * count_costs(model.config, context=20).training
    elif method == "lora":
        add_lora(model, rank=2)
    elif method == "lora on feed_forward":
        add_lora(model, rank=5, layers=LAYERS[3:])
    else:
        train_only(
            untie_head(model), {"head": "head", "last block": "blocks.2.", "norm": "norm"}[method]
        )
    counted = training_flops(model, ids.numel(), ids.size(1))
    assert abs(measured_flops(model) / counted - 1) < 0.002


def run_script(*arguments: object) -> list[dict]:
    "Call the experiment as a reader would, on one core."
    command = [sys.executable, "-m", "experiments.transfer", *map(str, arguments)]
    command += ["--quick", "--resume", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    _, *records = map(json.loads, Path(arguments[-1]).read_text(encoding="utf-8").splitlines())
    return records


def test_the_comparison_runs_and_goes_on_where_it_stopped(tmp_path):
    log = tmp_path / "log.jsonl"
    records = run_script("compare", "--budget", "1e8", "--arm", "lora", "--out", log)
    curve = [r for r in records if r["experiment"] == "arm"]
    assert [r["share"] for r in curve] == [1 / 8, 3 / 8, 1] and len(
        {r["learning_rate"] for r in curve}
    ) == 1
    assert {r["arm"] for r in records if r["experiment"] == "floor"} == {"5-gram", "smollm2"}
    assert (
        curve[-1]["sample"].startswith("ROMEO:")
        and curve[-1]["trained_parameters"] < curve[-1]["parameters"]
    )
    assert not any("command" in r for r in records)  # it stands in the first line
    again = run_script("compare", "--budget", "1e8", "--arm", "lora", "--seed", "1", "--out", log)
    assert again[: len(records)] == records and {r["seed"] for r in again[len(records) :]} == {1}
    assert all(
        "compare --budget 1e8 --arm lora --seed 1" in r["command"] for r in again[len(records) :]
    )
    assert len(run_script("compare", "--budget", "1e8", "--arm", "lora", "--out", log)) == len(
        again
    )


def test_who_is_speaking_runs(tmp_path):
    records = run_script("speakers", "--seed", "1", "--out", tmp_path / "log.jsonl")
    methods = {"counting", "smollm2 frozen", "smollm2 lora", "random frozen", "random lora"}
    assert {r["method"] for r in records} == methods and len(records) == 5
    for r in records:
        hits = sum(row[i] for i, row in enumerate(r["confusion"]))
        assert (
            abs(hits / r["test"] - r["accuracy"]) < 1e-4
            and sum(map(sum, r["confusion"])) == r["test"]
        )


def test_speeches_are_taken_out_of_a_script():
    text = "A PLAY\n\nACT I\n\nSCENE I. A street.\n\n[Enter ROMEO]\n\nROMEO:\n[Aside] But, soft! what light\nbreaks?\n[Exit]\n\nMARK ANTONY:\nAy.\n"
    assert list(speeches(text)) == [
        ("ROMEO", "But, soft! what light breaks?"),
        ("MARK ANTONY", "Ay."),
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_features_do_not_depend_on_the_company(shape):
    model = make(shape)
    texts = [[1, 2, 3], list(range(40)), [7], [5, 6]]
    together = text_features(model, texts, max_tokens=20, precision="fp32")
    for ids_of_one, row in zip(texts, together):
        alone = model.hidden(torch.tensor([ids_of_one[:20]]))[0].mean(0)
        assert torch.allclose(alone, row, atol=1e-5)
    assert model(ids)[0].shape == (2, 24, 61)  # the model has kept its head
    with pytest.raises(ValueError, match="empty"):
        text_features(model, [[1], []])
    assert sorted(i for which, *_ in pad_batches(texts, batch_size=2) for i in which.tolist()) == [
        0,
        1,
        2,
        3,
    ]


def test_the_rates_of_smollm2_are_known_by_its_shape():
    "The real model's numbers, without its weights."
    with torch.device("meta"):
        model = GPT(
            GPTConfig(
                49152,
                8192,
                30,
                9,
                576,
                n_kv_head=3,
                n_hidden=1536,
                activation="swiglu",
                rotary_base=1e5,
            )
        )
    total = training_flops(model, 1, 128)
    assert (
        total == count_costs(model.config, context=128).training
        and sum(p.numel() for p in model.parameters()) == 134_515_008
    )
    assert 0.6 < training_flops(add_lora(model), 1, 128) / total < 0.75
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2_027_520


PROMPTS = [[5, 6, 7], [8, 9], [3], [4, 4, 4, 4, 4, 4]]
REPLIES = [[10, 11, 60], [60], [12, 13, 14, 15, 16, 60], [17, 60]]


def test_replies_and_nothing_else_are_asked_for():
    pairs = ReplyDataset(PROMPTS, REPLIES, 24)
    x, y = pairs.rows([0, 1, 2, 3])
    assert x.shape == y.shape == (4, 7)
    for read, asked, prompt, reply in zip(x.tolist(), y.tolist(), PROMPTS, REPLIES):
        whole = prompt + reply
        assert read[: len(whole) - 1] == whole[:-1]
        start = len(prompt) - 1
        assert asked[start : start + len(reply)] == reply
        assert asked.count(-100) == 7 - len(reply)
    drawn = [pairs.batch(64, torch.Generator().manual_seed(2)) for _ in range(2)]
    assert torch.equal(drawn[0][0], drawn[1][0]) and torch.equal(drawn[0][1], drawn[1][1])
    assert sum(len(rows) for rows, _ in pairs.windows(3)) == len(pairs) == 4


def test_pairs_that_are_too_long_are_left_out_and_none_is_refused():
    assert len(ReplyDataset(PROMPTS, REPLIES, 5)) == 2  # x has one token less than a pair
    assert len(ReplyDataset([[1], []], [[2], [3]], 5)) == 1
    with pytest.raises(ValueError, match="none of 4 prompts .* raise block_size"):
        ReplyDataset(PROMPTS, REPLIES, 1)
    with pytest.raises(ValueError):
        ReplyDataset(PROMPTS, REPLIES[:2], 24)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_cost_of_a_reply_does_not_depend_on_the_company(shape):
    model, pairs = make(shape), ReplyDataset(PROMPTS, REPLIES, 24)
    together = reply_bits(model, pairs, "fp32")
    for prompt, reply, bits in zip(PROMPTS, REPLIES, together):
        scores = model(torch.tensor([prompt + reply]))[0][0].log_softmax(-1)
        by_hand = -sum(scores[len(prompt) - 1 + i, token] for i, token in enumerate(reply))
        assert bits.item() == pytest.approx(by_hand.item() / 0.6931472, rel=1e-4)
    mean = together.sum().item() * 0.6931472 / sum(map(len, REPLIES))
    for batch_size in (1, 3, 4):  # the trainer's look at held-out replies weighs every token alike
        assert evaluate(model, pairs, None, batch_size) == pytest.approx(mean, rel=1e-4)


def test_a_model_learns_replies_and_is_not_taught_the_prompts():
    model, pairs = make("llama"), ReplyDataset(PROMPTS, REPLIES, 24)
    before = reply_bits(model, pairs, "fp32").sum()
    how = TrainConfig(steps=40, batch_size=4, optimizer="adamw", learning_rate=1e-2, warmup=0)
    finetune(model, pairs, pairs, how, progress_bar=False)
    assert reply_bits(model, pairs, "fp32").sum() < before / 2
    asked = torch.tensor([[4, 4, 4]])  # prompts are no targets: 4 after 4 has not been learnt
    assert model(asked)[0][0, -1].softmax(-1)[4] < 0.1


def test_exchanges_stay_within_a_conversation():
    text = (
        "hi\nhello\nhow are you?<|endoftext|>what?\n"
        + "x" * 200
        + "\nok<|endoftext|>alone<|endoftext|>"
    )
    assert list(exchanges(text)) == [("hi", "hello"), ("hello", "how are you?")]
    assert len(list(exchanges(text, 300))) == 4


def test_finetune_on_the_command_line(tmp_path):
    "Both ways make runs of their own that the other commands take; mistakes are sentences."

    def gptbook(*words):
        command = [sys.executable, "-m", "gptbook", *words, "--device", "cpu"]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    text = "".join(f"Cat {i} sits on mat {i * i % 97}.\n\n" for i in range(300))
    (tmp_path / "cats.txt").write_text(text, encoding="utf-8")
    short = ["--data", "cats.txt", "--steps", "8", "--block-size", "32", "--json"]
    for extra, trained in ((["--lora", "--rank", "2", "--out", "a"], 36_864), ([], 3_049_920)):
        done = gptbook("finetune", "shakespeare", *short, *extra)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert said["bits_per_byte"] < said["bits_per_byte_before"]
        assert said["parameters_trained"] == trained and said["steps"] == 8
        assert (tmp_path / said["run"] / "model.safetensors").is_file()
    told = gptbook("generate", "a", "--prompt", "Cat", "--max-new-tokens", "5", "--top-k", "1")
    assert told.returncode == 0 and told.stdout.startswith("Cat")
    for words, code, sentence in (
        (["shakespeare", "--data", "cats.txt", "--out", "a"], 1, "overwrites nothing"),
        (["shakespeare", "--data", "cats.txt", "--rank", "4"], 2, "add --lora"),
    ):
        refused = gptbook("finetune", *words)
        assert refused.returncode == code and sentence in refused.stderr
        assert "Traceback" not in refused.stderr
