"Chapter 08: the ledger beside other counts, the fit beside a known law, the log beside its script."

import json
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gptbook.model import GPT, GPTConfig
from gptbook.runs import read_log
from gptbook.scaling import check_memory, count_costs, estimate, fit_scaling_law, muon_flops
from gptbook.training import TrainConfig, make_optimizers, training_flops

ROOT = Path(__file__).resolve().parent.parent
LOG = ROOT / "nbs" / "results" / "ladder.jsonl"
SHAPE = GPTConfig(50, 32, 2, 4, 32)
POSITIONS = ("rotary", "learned", "sinusoidal", "alibi", "none")
ACTIVATIONS = ("gelu", "relu2", "swiglu")
sys.path.insert(0, str(ROOT))  # where the experiments are


def shapes():
    "Every position, norm and activation, with few key/value heads, biases and untied heads."
    for position, norm, activation in product(POSITIONS, ("rms", "layer"), ACTIVATIONS):
        kinds = {"position": position, "norm": norm, "activation": activation}
        yield replace(SHAPE, **kinds)
        yield replace(SHAPE, **kinds, n_kv_head=2, bias=True, tie_weights=False, qk_norm=True)


def test_the_ledger_agrees_with_the_trainers_count():
    for shape in shapes():
        with torch.device("meta"):
            model = GPT(shape)
        for context in (1, 24, None):
            counted = count_costs(shape, context=context)
            assert training_flops(model, 1, context) == counted.training
        assert counted.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_whole_training_step_costs_what_pytorch_counts(optimizer):
    for shape in list(shapes())[::7]:
        model, ids = GPT(shape), torch.randint(50, (3, 24))
        optimizers = make_optimizers(model, TrainConfig(optimizer=optimizer))
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            model(ids, ids)[1].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for each in optimizers:
                each.step()
        costs = count_costs(shape, 3, 24, optimizer=optimizer)
        assert (
            counter.get_total_flops()
            == costs.step
            == 3 * 24 * costs.training + costs.optimizer_flops
        )
        assert costs.optimizer_flops == (muon_flops(shape) if optimizer == "muon" else 0)


def test_an_estimate_counts_the_optimisers_steps():
    run = estimate(SHAPE, 1000, batch_size=3, context=24, peak=1, utilisation=1)
    assert run.steps == 14 and run.flops == 1000 * run.costs.training + 14 * muon_flops(SHAPE)
    assert run.seconds == run.flops / 1e9
    plain = estimate(SHAPE, 1000, batch_size=3, context=24, optimizer="adamw", peak=1)
    assert plain.flops == 1000 * plain.costs.training


def test_memory_is_refused_before_the_machine_finds_out():
    config = TrainConfig(batch_size=16)
    needed = count_costs(SHAPE, 16).memory
    check_memory(SHAPE, config, needed)
    with pytest.raises(MemoryError, match="choose a smaller batch, context or model"):
        check_memory(SHAPE, config, needed - 1)
    check_memory(SHAPE, replace(config, accumulation_steps=4), count_costs(SHAPE, 4).memory)
    four = count_costs(SHAPE, 4)  # of 16 windows, in each of 4 processes
    check_memory(SHAPE, config, four.memory, processes=4)
    with pytest.raises(MemoryError):
        check_memory(SHAPE, config, 4 * four.memory - 1, processes=4, sharing=4)
    held = four.weights + four.gradients + four.optimizer_state
    check_memory(SHAPE, config, four.memory - held * 3 // 4, processes=4, shard=True)


@pytest.mark.parametrize(
    "floor, scale, exponent", [(1.2, 90.0, 0.16), (0.4, 8.0, 0.07), (2.0, 3e3, 0.3)]
)
def test_a_known_law_is_found(floor, scale, exponent):
    x = np.geomspace(1e10, 1e15, 8)
    exact = floor + scale * x**-exponent
    law = fit_scaling_law(x, exact, draws=10)
    assert law(1e17) == pytest.approx(floor + scale * 1e17**-exponent, rel=1e-3)
    assert law.exponents[0] == pytest.approx(exponent, rel=0.02) and law.floor == pytest.approx(
        floor, rel=0.02
    )
    assert law.needed(float(law(3e12))) == pytest.approx(3e12, rel=1e-6)
    shaken = exact * np.exp(0.003 * np.random.default_rng(1).standard_normal(len(x)))
    low, high = fit_scaling_law(x, shaken, noise=0.003, draws=100).interval(1e16)
    assert low < floor + scale * 1e16**-exponent < high


def test_a_known_law_of_size_and_text_is_found():
    sizes = np.geomspace(3e4, 3e6, 6)
    x = np.array([(n, ratio * n) for n in sizes for ratio in (5, 20, 80)])
    exact = 0.9 + 25 * x[:, 0] ** -0.35 + 40 * x[:, 1] ** -0.3
    law = fit_scaling_law(x, exact, draws=10)
    np.testing.assert_allclose(law.exponents, (0.35, 0.3), rtol=0.03)
    far = (1e7, 2e8)
    truth = 0.9 + 25 * far[0] ** -0.35 + 40 * far[1] ** -0.3
    assert law(far) == pytest.approx(truth, rel=2e-3)
    shaken = exact * np.exp(0.005 * np.random.default_rng(1).standard_normal(len(x)))
    low, high = fit_scaling_law(x, shaken, noise=0.005, draws=50).interval(far)
    assert low < truth < high
    with pytest.raises(ValueError, match="2 numbers for each point"):
        law(1e7)
    with pytest.raises(ValueError, match="two variables"):
        law.needed(1.0)


def test_a_known_joint_law_is_found():
    sizes = np.geomspace(3e4, 3e6, 6)
    x = np.array([(n, ratio * n) for n in sizes for ratio in (5, 20, 80)])

    def truth(x: np.ndarray) -> np.ndarray:
        return (3e3 * x[..., 0] ** -0.4 + 8e6 * x[..., 1] ** -0.85) ** 0.14

    law = fit_scaling_law(x, truth(x), draws=10, joint=True)
    np.testing.assert_allclose((*law.exponents, law.power), (0.4, 0.85, 0.14), rtol=0.02)
    far = np.array((1e7, 2e8))
    assert law.floor == 0 and law(far) == pytest.approx(truth(far), rel=1e-3)
    shaken = truth(x) * np.exp(0.005 * np.random.default_rng(1).standard_normal(len(x)))
    low, high = fit_scaling_law(x, shaken, noise=0.005, draws=50, joint=True).interval(far)
    assert low < truth(far) < high
    assert "^0.14" in repr(law)
    with pytest.raises(ValueError, match="needs sizes and tokens"):
        fit_scaling_law([1e9, 1e10, 1e11, 1e12], [5, 4, 3.5, 3.2], joint=True)


def test_a_fit_without_scipy_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"needs scipy.*gptbook\[study\]"):
        fit_scaling_law([1e9, 1e10, 1e11, 1e12], [5, 4, 3.5, 3.2])


def test_log_holds_exactly_the_runs_of_the_script():
    from experiments import ladder

    facts, records = read_log("ladder")
    assert facts["command"] == "python -m experiments.ladder"
    found = [
        ladder.Run(r["series"], r["layers"], r["channels"], r["tokens"], r["seed"]) for r in records
    ]
    assert set(found) == set(ladder.runs()) and len(found) == len(set(found))
    for run, record in zip(found, records):
        assert record["flops"] == ladder.flops(run) and record["command"] == ladder.command(run)
        assert record["model"]["n_layer"] == run.layers and record["training"]["seed"] == run.seed
        assert 1 < record["val_bits_per_byte"] < 4 and record["sample"].startswith("ROMEO:")
        shape, steps = GPTConfig(**record["model"]), TrainConfig(**record["training"]).steps
        assert record["optimizer_flops"] == steps * muon_flops(shape)


def test_every_log_says_which_command_made_it():
    for path in LOG.parent.glob("*.jsonl"):
        facts, records = read_log(path.stem)
        assert facts["run"] == path.stem and records
        for command in [facts["command"], *(r["command"] for r in records if "command" in r)]:
            module = command.removeprefix("python -m experiments.").split()[0]
            assert (ROOT / "experiments" / f"{module}.py").is_file(), command


def run_script(*arguments: object) -> subprocess.CompletedProcess:
    "An experiment, called as a reader would."
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=ROOT)


def test_script_lists_its_runs_without_making_any():
    listed = run_script("experiments.ladder", "--list", "--series", "valley").stdout.splitlines()
    assert len(listed) == 5 and listed[-1].startswith("in all ")


def test_a_log_is_gone_on_with_and_never_overwritten(tmp_path):
    log = tmp_path / "log.jsonl"
    arguments = [
        "experiments.ladder",
        "--quick",
        "--series",
        "hasty",
        "--layers",
        "1",
        "--out",
        log,
    ]
    assert run_script(*arguments, "--seed", "0").returncode == 0
    before = log.read_text(encoding="utf-8").splitlines()
    with open(log, "a", encoding="utf-8") as file:
        file.write('{"series": "hasty", "lay')  # cut off in the middle of a line
    refused = run_script(*arguments)
    assert refused.returncode == 1 and "--resume goes on with it" in refused.stderr
    assert run_script(*arguments, "--resume").returncode == 0
    facts, *records = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    assert [r["seed"] for r in records] == [0, 1, 2] and json.loads(before[1]) == records[0]
    assert (
        facts["command"]
        == "python -m experiments.ladder --quick --series hasty --layers 1 --seed 0"
    )


def test_module_needs_no_plotting_and_no_scipy():
    code = (
        "import sys, gptbook.scaling; print(sorted({'matplotlib', 'scipy', 'IPython'}"
        " & {name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
