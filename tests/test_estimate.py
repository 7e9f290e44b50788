"The estimate against runs whose bills were published, and the study that comes with the package."

import json
import subprocess
import sys

import numpy as np
import pytest

from gptbook.launch import compare_run, load_study, plot_comparison
from gptbook.model import GPTConfig
from gptbook.scaling import ACCELERATORS, PUBLISHED, estimate


def llama(layers, channels, heads, hidden, vocabulary, context, kv_heads=None):
    gated = {"activation": "swiglu", "tie_weights": False, "n_kv_head": kv_heads}
    return GPTConfig(vocabulary, context, layers, heads, channels, n_hidden=hidden, **gated)


# Touvron et al. (2023), table 2; the model card of Llama 3.1; nanoGPT: about 4 days on 8 A100
HOURS = {
    "llama-2-7b": (llama(32, 4096, 32, 11008, 32000, 4096), 2e12, "A100", 184_320, 6.74e9),
    "llama-2-13b": (llama(40, 5120, 40, 13824, 32000, 4096), 2e12, "A100", 368_640, 13.0e9),
    "llama-2-70b": (llama(80, 8192, 64, 28672, 32000, 4096, 8), 2e12, "A100", 1_720_320, 69.0e9),
    "llama-3-8b": (llama(32, 4096, 32, 14336, 128256, 8192, 8), 15e12, "H100", 1_460_000, 8.03e9),
    "llama-3-70b": (llama(80, 8192, 64, 28672, 128256, 8192, 8), 15e12, "H100", 7e6, 70.6e9),
    "llama-3-405b": (
        llama(126, 16384, 128, 53248, 128256, 8192, 8), 15.6e12, "H100", 30_840_000, 405.9e9
    ),
    "nanogpt": (GPTConfig.preset("gpt2"), 3e11, "A100", 768, 124.4e6),
}  # fmt: skip


@pytest.mark.parametrize("name", HOURS)
def test_published_hours_lie_in_the_range(name):
    config, tokens, device, hours, parameters = HOURS[name]
    run = estimate(config, int(tokens), precision="bf16", optimizer="adamw", device=device)
    assert abs(run.costs.parameters / parameters - 1) < 0.01
    assert run.seconds_range[0] < 3600 * hours < run.seconds_range[1]
    assert run.seconds_range[1] / run.seconds_range[0] < 4  # a range that says something
    many = estimate(
        config,
        int(tokens),
        precision="bf16",
        optimizer="adamw",
        device=device,
        devices=64,
        price=2.0,
    )
    assert many.seconds == pytest.approx(run.seconds / 64)
    assert many.cost == pytest.approx(2.0 * run.seconds / 3600)
    assert many.energy == pytest.approx(run.energy)


def test_published_compute():
    gpt3 = GPTConfig.preset("gpt2", block_size=2048, n_layer=96, n_head=96, n_embd=12288)
    chinchilla = GPTConfig(32000, 2048, 80, 64, 8192, n_hidden=32768)
    for config, tokens, flops in ((gpt3, 300e9, 3.14e23), (chinchilla, 1.4e12, 5.76e23)):
        run = estimate(config, int(tokens), precision="bf16", optimizer="adamw", device="A100")
        assert abs(run.flops / flops - 1) < 0.04


def test_every_accelerator_has_a_source_and_plausible_facts():
    for name, device in ACCELERATORS.items():
        assert device.source and "20" in device.source, name
        assert 1e4 < device.peak < 1e7 and 8e9 < device.memory < 1e12 and 50 < device.power < 2000
    assert PUBLISHED == tuple(sorted(PUBLISHED))


def test_the_study_that_ships():
    study = load_study()
    assert len(study.runs) >= 20 and set(study.laws) == {"known", "new"}
    for law, key in (("known", "validation_bits"), ("new", "new_authors_bits")):
        runs = [run for run in study.runs if run["tokens"] > 4e5]  # shorter ones were not fitted
        points = np.array([(run["non_embedding"], run["tokens"]) for run in runs])
        errors = np.array([run[key] for run in runs]) / study.laws[law](points) - 1
        assert np.abs(errors).max() < 0.025 and np.median(np.abs(errors)) < 0.01
    worst, best = study.scores[0], study.scores[-1]
    assert worst[0] > best[0] and best[1] > worst[1]  # a lower loss, more words that are words
    between = study.expected_scores((worst[0] + best[0]) / 2)
    assert worst[1] <= between["words"] <= best[1]
    ranges = study.score_ranges((worst[0] + best[0]) / 2)
    assert all(0 <= ranges[n][0] <= between[n] <= ranges[n][1] <= 1 for n in between)
    assert study.score_ranges(best[0])["across"][1] > study.score_ranges(best[0])["across"][0] + 0.2
    assert study.expected_scores(9.0) == study.score_ranges(9.0) == {}


def test_outside_the_study_there_is_a_warning():
    law = load_study().laws["new"]
    inside = estimate(GPTConfig.preset("book-nano"), 2_000_000, peak=100, law=law)
    outside = estimate(GPTConfig.preset("gpt2"), 10**10, peak=100, law=law)
    assert inside.warnings == () and "guess" in outside.warnings[0]
    assert inside.loss_range[0] < inside.loss < inside.loss_range[1]
    assert outside.loss < inside.loss


def test_where_a_run_stands():
    told = compare_run(80_000, 1_500_000, 1.86)
    assert "1.86" in told and "1,500,000 tokens" in told and "guess" not in told
    assert "guess" in compare_run(10**9, 1_500_000, 1.86)
    history = [{"tokens": n, "val_bits_per_byte": 3 - n / 1e6} for n in (0, 1000, 100_000)]
    assert len(plot_comparison(history, 80_000).axes[0].lines) == 2
    with pytest.raises(ValueError, match="not been tested"):
        plot_comparison([{"tokens": 1, "loss": 2.0}], 80_000)


def test_the_command():
    words = ["estimate", "--preset", "gpt2", "--tokens", "300B", "--on", "A100", "--devices", "8"]
    done = subprocess.run(
        [sys.executable, "-m", "gptbook", *words, "--price", "2", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["seconds_range"][0] < 4 * 86400 < found["seconds_range"][1]
    assert found["cost"] > 0 and found["energy"] > 0 and found["warnings"] and found["scores"] == {}


def test_what_the_front_page_says_of_the_study():
    study = load_study()
    columns = {name: study.scores[:, i] for i, name in enumerate(study.columns)}
    flops = {run["new_authors_bits"]: run["flops"] for run in study.runs}
    spent = np.array([flops[bits] for bits in columns[study.columns[0]]])
    cheap, most = spent <= 1.6e13, spent.argmax()
    assert columns["nearby"][cheap].max() > 0.95 and 9e14 < spent[most] < 1.1e15
    assert columns["words"][most] > 0.95 > columns["words"][cheap].max()
    assert columns["across"].min() < 0.05 and 0.3 < columns["across"][most] < 0.5
    assert columns["sense"].max() == columns["sense"][most] < 0.75
