"What chapter 12 promises, with two processes on one machine: equal losses, one checkpoint, one log, and what happens when one dies."

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gptbook.cli import main
from gptbook.model import GPT
from gptbook.runs import read_checkpoint

pytestmark = pytest.mark.skipif(
    os.name == "nt" or not torch.distributed.is_gloo_available(), reason="needs gloo and signals"
)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}

# a small run that is the same for one process and for several
RUN = """
import json, os, sys, torch
from gptbook.data import TokenDataset
from gptbook.model import GPT, GPTConfig
from gptbook.training import Samples, TrainConfig, Trainer
from gptbook.distributed import DistributedTrainer, distributed_context, gather, shard

torch.set_num_threads(1)

def make(kind, folder=None, steps=12, callbacks=(), dropout=0.0, **changes):
    draw = torch.Generator().manual_seed(7)
    data = [TokenDataset((50 * torch.rand(n, generator=draw) ** 3).long(), 16, bytes=2 * n) for n in (5000, 603)]
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=51, block_size=16, n_layer=2, n_head=2, n_embd=32, dropout=dropout))
    config = TrainConfig(**dict(steps=steps, batch_size=8, warmup=5, eval_every=6, checkpoint_every=6, decay="constant",
                                learning_rate=3e-3) | changes)
    if kind == "sharded":
        shard(model, config.precision)
    return (Trainer if kind == "one" else DistributedTrainer)(model, *data, config, folder, callbacks)

def losses(trainer):
    return [r.get("loss", r.get("val_loss")) for r in trainer.history if "sample" not in r]

def stop_at_7(trainer, record):
    if record["step"] == 7:
        trainer.stopped = "interrupted"  # only process 0 is asked
"""
names: dict = {}
exec(RUN, names)
make, losses = names["make"], names["losses"]
LEAVE = "\nsys.stdout.flush()\nos._exit(0)\n"  # PyTorch's own end has been seen to abort after the work was done


def torchrun(*words, options=(), cwd=None) -> subprocess.Popen:
    "Start two processes."
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *options,
    ]
    return subprocess.Popen(
        [*command, *map(str, words)],
        cwd=cwd,
        env=ENVIRONMENT,
        text=True,
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run_script(folder: Path, code: str) -> list:
    "Run a script in two processes, and read the JSON lines that it prints."
    (folder / "script.py").write_text(RUN + code + LEAVE, encoding="utf-8")
    process = torchrun(folder / "script.py", folder)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


SETTINGS = [
    {"optimizer": "adamw"},
    {},
    {"accumulation_steps": 2},
    {"precision": "bf16"},
    {"optimizer": "adamw", "patience": 1, "learning_rate": 0.05, "eval_every": 2, "steps": 40},
]
TOLERANCES = [
    1e-5,
    1e-3,
    1e-3,
    1e-2,
    1e-2,
]  # Muon computes in bfloat16, which makes more of the last digit


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Path, dict]:
    "What two processes have to say about everything that needs no signals."
    folder = tmp_path_factory.mktemp("two")
    code = (
        f"SETTINGS = {SETTINGS!r}"
        + """
with distributed_context() as here:
    said = {"rank": here.rank, "size": here.size, "curves": {}, "weights": {}}
    for kind in ("whole", "sharded"):
        curves, ends = [], []
        for settings in SETTINGS:
            trainer = make(kind, **settings)
            curves.append(losses(trainer) if trainer.fit(progress_bar=False) else [])
            ends.append([trainer.stopped, [p.double().sum().item() for p in gather(trainer.model).parameters()]])
        said["curves"][kind], said["weights"][kind] = curves, ends
        seen = []
        letters = type("Letters", (), {"encode": lambda self, s: [1], "decode": lambda self, ids: str(ids)})()
        callbacks = [Samples(letters, every=6, max_new_tokens=3), lambda t, r: seen.append(r["step"]), stop_at_7]
        trainer = make(kind, sys.argv[1] + "/" + kind, callbacks=callbacks, optimizer="adamw")
        trainer.fit()
        shares = sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in trainer.model.parameters())
        said[kind] = [trainer.stopped, trainer.step, len(seen), len(trainer.history), shares]
    noisy = make("whole", steps=2, dropout=0.5)
    noisy.fit(progress_bar=False)
    said["noisy"] = losses(noisy)
    said["errors"] = []
    for attempt in (lambda: make("whole", batch_size=9), lambda: make("whole", batch_size=6, accumulation_steps=2),
                    lambda: here.on_main(lambda: 1 / 0)):
        try:
            attempt()
        except (ValueError, ArithmeticError, OSError) as error:
            said["errors"].append([type(error).__name__, str(error)])
    os.write(1, (json.dumps(said) + "\\n").encode())
"""
    )
    both = sorted(run_script(folder, code), key=lambda said: said["rank"])
    assert [(said["rank"], said["size"]) for said in both] == [(0, 2), (1, 2)]
    return folder, both


@pytest.mark.parametrize("i", range(len(SETTINGS)))
def test_losses_are_those_of_one_process(two, i):
    one = make("one", **SETTINGS[i])
    one.fit(progress_bar=False)
    for kind in ("whole", "sharded"):
        first, second = (said["curves"][kind][i] for said in two[1])
        assert first == second and len(first) == len(
            losses(one)
        )  # the same mean, and the same end, everywhere
        assert max(abs(a - b) for a, b in zip(first, losses(one))) < TOLERANCES[i]
        ends = [said["weights"][kind][i] for said in two[1]]
        assert (
            ends[0] == ends[1] and ends[0][0] == one.stopped
        )  # every copy of the model is the same to the last bit


def test_one_log_and_shares_of_the_model(two):
    folder, (main_process, other) = two
    size = sum(p.numel() for p in make("one").model.parameters())
    for kind in ("whole", "sharded"):
        stopped, step, seen, length, share = main_process[kind]
        assert (
            (stopped, step) == ("interrupted", 7) == tuple(other[kind][:2])
        )  # all stop at the same step
        assert seen == length == other[kind][3] and other[kind][2] == 0  # process 0 reports
        lines = (folder / kind / "metrics.jsonl").read_text().splitlines()
        assert (
            len(lines) == length and sum("sample" in line for line in lines) == 2
        )  # steps 0 and 6
        assert (
            (share == size)
            if kind == "whole"
            else (share + other[kind][4] == size and share < 0.6 * size)
        )
        assert sorted(p.name for p in (folder / kind).iterdir()) == [
            "checkpoint.safetensors",
            "metrics.jsonl",
        ]
    assert main_process["noisy"] == other["noisy"]  # a mean over different dropout


def test_errors_say_what_to_do(two):
    first, second = ([tuple(e) for e in said["errors"]] for said in two[1])
    assert first[:2] == second[:2] and [kind for kind, _ in first] == [
        "ValueError",
        "ValueError",
        "ZeroDivisionError",
    ]
    assert "9 windows does not split evenly among 2 processes; choose 8 or 10" in first[0][1]
    assert "2 processes × 2 pieces; choose 4 or 8" in first[1][1]
    assert second[2][0] == "ChildProcessError" and "ZeroDivisionError in process 0" in second[2][1]


def test_checkpoints_go_from_two_processes_to_one_and_back(two, tmp_path):
    straight = make("one", optimizer="adamw")
    straight.fit(progress_bar=False)
    for kind in ("whole", "sharded"):
        assert read_checkpoint(two[0] / kind)[0]["step"] == 7
        alone = make(
            "one",
            two[0] / kind,
            optimizer="adamw",
            callbacks=[
                lambda trainer, record: setattr(
                    trainer, "stopped", "interrupted" if record["step"] == 9 else ""
                )
            ],
        )
        alone.load_checkpoint()
        alone.fit(progress_bar=False)
        assert alone.step == 9
    said = run_script(
        tmp_path,
        f"folder = {str(two[0])!r}"
        + """
with distributed_context() as here:
    for kind in ("whole", "sharded"):
        trainer = make(kind, folder + "/" + kind, optimizer="adamw")
        trainer.load_checkpoint()
        start = trainer.step
        trainer.fit(progress_bar=False)
        if here.rank == 0:
            os.write(1, (json.dumps([start, losses(trainer)]) + "\\n").encode())
""",
    )
    for start, curve in said:
        assert start == 9 and len(curve) == len(losses(straight))
        assert max(abs(a - b) for a, b in zip(curve, losses(straight))) < 1e-5


# The command

SMALL = [
    "--preset",
    "book-nano",
    "--vocab-size",
    "400",
    "--block-size",
    "32",
    "--batch-size",
    "4",
    "--precision",
    "fp32",
]
TEXT = "".join(
    f"ROMEO:\nLine {i}: what light through yonder window breaks? It is number {i * i}.\n\n"
    for i in range(300)
)


@pytest.fixture
def home(tmp_path) -> Path:
    (tmp_path / "play.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


def begin(
    home: Path, *words, options=(), steps: int, after: int
) -> tuple[subprocess.Popen, list[int], Path]:
    "Start training in two processes, and come back after some steps, with the numbers of the processes."
    process = torchrun(
        "-m",
        "gptbook",
        "train",
        "--data",
        "play.txt",
        *SMALL,
        "--steps",
        steps,
        *words,
        cwd=home,
        options=options,
    )
    end = time.monotonic() + 240
    while True:
        logs = list((home / "runs").glob("*/metrics.jsonl"))
        if logs and logs[0].read_text().count('"loss"') >= after:
            break
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True
    ).stdout.split()
    return process, sorted(map(int, children)), logs[0].parent


def test_a_killed_process_ends_the_job_with_a_sentence_and_a_checkpoint(home, capsys, monkeypatch):
    process, children, run = begin(home, steps=100_000, after=120)
    os.kill(children[1], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "another process of this run is gone" in err and "--resume runs/play" in err, err
    step = read_checkpoint(run)[0]["step"]
    assert step >= 100
    monkeypatch.chdir(home)
    with pytest.raises(SystemExit) as end:
        main(["train", "--resume", "runs/play", "--steps", str(step + 5), "--json"])
    assert end.value.code == 0 and json.loads(capsys.readouterr().out)["steps"] == step + 5


def test_torchrun_starts_a_killed_job_anew_and_it_goes_on_in_its_own_folder(home):
    process, children, run = begin(
        home, "--shard", "--json", options=["--max-restarts", "1"], steps=150, after=40
    )
    os.kill(children[0], signal.SIGKILL)  # the one that writes
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "resuming   runs/play at step" in err and [
        p.name for p in (home / "runs").iterdir()
    ] == ["play"]
    assert json.loads(out)["steps"] == 150 and len(out.splitlines()) == 1  # one result
    steps = [
        r["step"]
        for r in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        if "loss" in r
    ]
    assert steps == list(range(1, 151))
    assert GPT.from_pretrained(run).config.vocab_size == 400


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_processes_at_one_step(home, number):
    process, _, run = begin(
        home, *(["--shard"] if number == signal.SIGTERM else []), steps=100_000, after=5
    )
    process.send_signal(number)
    started = time.monotonic()
    _, err = process.communicate(timeout=120)
    assert time.monotonic() - started < 25  # nobody had to be killed
    step = read_checkpoint(run)[0]["step"]
    assert err.count("nothing is lost") == 1 and f"interrupted at step {step:,}" in err, err
    assert len([1 for r in read_checkpoint(run)[0]["history"] if "loss" in r]) == step


def test_mistakes_are_told_once(home, capsys):
    process = torchrun(
        "-m", "gptbook", "train", "--data", "play.txt", *SMALL, "--batch-size", 3, cwd=home
    )
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0 and err.count("gptbook: ") == 1, err
    assert "3 windows does not split evenly among 2 processes; choose 2 or 4" in err
    assert not list((home / "runs").iterdir())
    with pytest.raises(SystemExit) as end:
        main(["train", "--shard"])
    assert end.value.code == 2 and "torchrun --nproc-per-node 2" in capsys.readouterr().err
