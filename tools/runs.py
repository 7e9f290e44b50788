#!/usr/bin/env python3
"""The book's long runs. Each trains, and writes what happened to nbs/results/NAME.jsonl, which chapters load.

    tools/runs.py learning     chapter 07: the default model on all the plays, with samples at rising steps
    tools/runs.py overfit      chapter 07: a larger model on one play, until it only gets better at reciting
    tools/runs.py optimizers   chapter 07: four optimisers at several learning rates, two seeds
    tools/runs.py shipped      the model that comes with the package, gptbook/assets/shakespeare (an hour of one core)
    tools/runs.py ablations    chapter 07: the recipe with one part left out, two seeds
    tools/runs.py momentum     chapter 07: how much Muon should remember, two seeds
    tools/runs.py recipe       chapter 07: every part of the recipe, at equal time (--threads 2, on an idle machine)

The first line of a log holds the command, the versions, the date, the settings and the time that it took.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import patch

import torch

from gptbook import training
from gptbook.data import NGram, TokenDataset, atomic, bits_per_byte, load_text
from gptbook.model import GPT, GPTConfig
from gptbook.tokenizer import BPETokenizer
from gptbook.training import Samples, TrainConfig, Trainer, evaluate

ROOT = Path(__file__).resolve().parent.parent
RESULTS, ASSETS = ROOT / "nbs/results", ROOT / "gptbook/assets"
RUNS: dict[str, Callable[[], tuple[dict, list[dict]]]] = {}  # name: what to call; it gives settings and records


def run(function: Callable[[], tuple[dict, list[dict]]]) -> Callable[[], tuple[dict, list[dict]]]:
    "Make a function a subcommand."
    RUNS[function.__name__] = function
    return function


def thin(
    history: Iterable[dict],  # records of a Trainer
    points: int = 200,  # how many records of training steps to keep
) -> list[dict]:  # the first ten steps as they were, then means of equal stretches; every other record as it was
    "Make a history small enough to be kept with the book."
    history = list(history)
    steps = [r for r in history if "loss" in r]
    size = -(-max(0, len(steps) - 10) // (points - 10)) or 1
    groups = [[r] for r in steps[:10]] + [steps[i : i + size] for i in range(10, len(steps), size)]
    kept = [
        {key: value for key, value in group[-1].items() if key != "tokens"}
        | {"loss": sum(r["loss"] for r in group) / len(group), "gradient": sum(r["gradient"] for r in group) / len(group)}
        for group in groups
    ]
    kept += [{key: value for key, value in r.items() if key != "tokens"} for r in history if "loss" not in r]
    return [rounded(r) for r in sorted(kept, key=lambda r: r["step"])]


def rounded(record: dict) -> dict:
    "Floating-point numbers with five digits."
    return {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in record.items()}


def plays(
    vocab_size: int,  # of a tokenizer trained on the training plays
    block_size: int,  # tokens in a window
) -> tuple[BPETokenizer, TokenDataset, TokenDataset]:  # the tokenizer, the training plays, the validation plays
    "All of Shakespeare, ready to train on."
    texts = [load_text("shakespeare", split=split) for split in ("train", "validation")]
    tokenizer = BPETokenizer.train(texts[0], vocab_size)
    return tokenizer, *(TokenDataset.from_text(text, tokenizer, block_size) for text in texts)


def one_play(
    title: str,  # as it stands above the first act
) -> str:  # the play, without its title
    "Cut one play out of the training plays."
    text = load_text("shakespeare", split="train")
    rest = text[text.index(f"{title}\n\nACT I\n") + len(title) :].lstrip()
    return re.split(r"\n\n[^\n]+\n\n(?:ACT I|INDUCTION)\n", rest)[0] + "\n"


def new_model(
    config: GPTConfig,  # the shape
    seed: int,  # of the first weights
) -> GPT:
    "A model with fresh weights."
    torch.manual_seed(seed)
    return GPT(config)


MICRO = GPTConfig.preset("book-micro", vocab_size=2048, block_size=128)


@run
def learning() -> tuple[dict, list[dict]]:
    "The default model on all the plays, with samples at rising steps."
    tokenizer, train, validation = plays(2048, 128)
    how = TrainConfig(steps=1000, precision="bf16", eval_every=25, eval_windows=256)
    steps = (0, 10, 20, 30, 50, 70, 100, 140, 200, 250, 300, 400, 500, 600, 700, 850, 1000)
    samples = Samples(tokenizer, "ROMEO:", steps, max_new_tokens=100)
    trainer = Trainer(new_model(MICRO, how.seed), train, validation, how, callbacks=[samples])
    trainer.fit()
    loss = evaluate(trainer.model, validation, precision=how.precision)
    facts = {"model": asdict(MICRO), "training": asdict(how), "train_tokens": len(train), "train_bytes": train.n_bytes,
             "temperature": samples.temperature, "sample_seed": samples.seed,
             "final_bits_per_byte": bits_per_byte(loss, len(validation), validation.n_bytes),  # on the whole validation text
             "ngram_bits_per_byte": NGram(5).fit(load_text("shakespeare", split="train")).bits_per_byte(
                 load_text("shakespeare", split="validation"))}
    return facts, thin(trainer.history)


@run
def overfit() -> tuple[dict, list[dict]]:
    "A larger model on one play, until it only gets better at reciting."
    play = one_play("Romeo and Juliet")
    cut = play.index("\n\n", int(0.9 * len(play)))
    tokenizer = BPETokenizer.train(play[:cut], 512)
    train, validation = (TokenDataset.from_text(text, tokenizer, 64) for text in (play[:cut], play[cut:]))
    shape = GPTConfig.preset("book-mini", vocab_size=512, block_size=64)
    how = TrainConfig(steps=1000, optimizer="adamw", learning_rate=2e-3, decay="constant", precision="bf16", eval_every=20,
                      eval_windows=None, patience=10)
    records, facts = [], {"model": asdict(shape), "training": asdict(how), "text": "Romeo and Juliet", "epoch_steps": round(
        len(train) / (how.batch_size * train.block_size), 1), "train_bytes": train.n_bytes, "validation_bytes": validation.n_bytes}
    for dropout in (0.0, 0.3):
        samples = Samples(tokenizer, "ROMEO:", 100)
        trainer = Trainer(new_model(replace(shape, dropout=dropout), how.seed), train, validation, how, callbacks=[samples])
        trainer.fit()
        records += [{"dropout": dropout} | r for r in thin(trainer.history, 100)]
        facts[f"stopped_{dropout}"] = {"why": trainer.stopped, "step": trainer.step, "best_step": trainer.best_step}
    return facts, records


@run
def shipped() -> tuple[dict, list[dict]]:
    "The model that comes with the package; it replaces the one in gptbook/assets."
    tokenizer, train, validation = plays(2048, 256)
    shape = GPTConfig.preset("book-mini", vocab_size=2048, block_size=256)
    how = TrainConfig(steps=1200, learning_rate=8e-3, warmup=20, precision="bf16")
    trainer = Trainer(new_model(shape, how.seed), train, validation, how)
    while trainer.step < 500:
        trainer.log(trainer.train_step())
    trainer.config = how = replace(how, steps=750)  # from here the learning rate falls faster, to zero
    trainer.fit()
    loss = evaluate(trainer.model, validation, precision=how.precision)
    trainer.model.half().save_pretrained(ASSETS / "shakespeare")
    tokenizer.save(ASSETS / "shakespeare")
    facts = {"model": asdict(shape), "training": asdict(how), "train_tokens": len(train), "train_bytes": train.n_bytes,
             "schedule": "linear to step 1200; from step 500 on linear to step 750",
             "final_bits_per_byte": bits_per_byte(loss, len(validation), validation.n_bytes)}
    return facts, thin(trainer.history, 150)


NANO = GPTConfig.preset("book-nano", vocab_size=2048, block_size=64)


def nano_run(
    data: tuple[TokenDataset, TokenDataset],  # training and validation text
    how: TrainConfig,  # with the seed of weights and windows
    optimizer: Callable | None = None,  # makes another optimiser for all parameters
) -> dict:  # the last losses; a null where the loss was not finite
    "Train the smallest model, for comparisons."
    trainer = Trainer(new_model(NANO, how.seed), *data, how)
    if optimizer is not None:
        trainer.optimizers = [optimizer(trainer.model.parameters())]
    try:
        trainer.fit(progress_bar=False)
    except FloatingPointError:
        return {"val_loss": None, "val_bits_per_byte": None}
    return {key: trainer.history[-1][key] for key in ("val_loss", "val_bits_per_byte")}


@run
def optimizers() -> tuple[dict, list[dict]]:
    "Four optimisers at several learning rates, two seeds."
    _, *data = plays(2048, 64)
    how = TrainConfig(steps=100, eval_every=100, eval_windows=128, warmup=10)  # short: there are many of them
    rates = {
        "gradient descent": (torch.optim.SGD, {}, (0.3, 1.0, 3.0)),
        "momentum": (torch.optim.SGD, {"momentum": 0.9}, (0.1, 0.3, 1.0)),
        "adamw": (None, {}, (3e-3, 1e-2, 3e-2)),
        "muon": (None, {}, (3e-3, 1e-2, 3e-2)),
    }
    records = []
    for name, (make, options, choices) in rates.items():
        for rate in choices:
            for seed in (0, 1):
                c = replace(how, learning_rate=rate, seed=seed, optimizer=name if make is None else "adamw")
                other = None if make is None else lambda parameters: make(parameters, lr=rate, **options)
                records.append({"optimizer": name, "learning_rate": rate, "seed": seed} | rounded(nano_run(data, c, other)))
                print(records[-1], file=sys.stderr, flush=True)
    return {"model": asdict(NANO), "training": asdict(how)}, records


@run
def ablations() -> tuple[dict, list[dict]]:
    "The recipe with one part left out, two seeds."
    _, *data = plays(2048, 64)
    how = TrainConfig(steps=100, eval_every=100, eval_windows=128, warmup=10)  # short: there are many of them
    changes: dict[str, dict] = {
        "the recipe": {}, "no warm-up": {"warmup": 0}, "no decay": {"decay": "constant"},
        "no clipping": {"clip": None}, "bf16": {"precision": "bf16"},
        "AdamW alone": {"optimizer": "adamw"},
    }
    records = []
    for rate in (1e-2, 4e-2):
        for name, change in changes.items():
            for seed in (0, 1):
                result = nano_run(data, replace(how, learning_rate=rate, seed=seed, **change))
                records.append({"change": name, "learning_rate": rate, "seed": seed} | rounded(result))
                print(records[-1], file=sys.stderr, flush=True)
    return {"model": asdict(NANO), "training": asdict(how)}, records


class Growth:
    "A callback that starts with short windows or small batches, and changes to the full ones half-way."

    def __init__(
        self,
        early: TokenDataset,  # what to draw windows from in the first half
        early_batch: int,  # how many
    ):
        self.early, self.early_batch = early, early_batch

    def start(self, trainer: Trainer) -> None:
        "Set the first half up."
        self.late, self.config = trainer.train_data, trainer.config
        trainer.train_data, trainer.config = self.early, replace(self.config, batch_size=self.early_batch)
        trainer.callbacks.append(self)

    def __call__(self, trainer: Trainer, record: dict) -> None:
        if trainer.progress >= 0.5:
            trainer.train_data, trainer.config = self.late, self.config


def fitted(
    trainer: Trainer,  # about to start
    validation: TokenDataset,  # held-out text
) -> dict:  # what the trained model needs for it
    "Train, then look at 256 windows."
    trainer.fit(progress_bar=False)
    loss = evaluate(trainer.model, validation, 256, precision=trainer.config.precision)
    return rounded({"val_bits_per_byte": bits_per_byte(loss, len(validation), validation.n_bytes)})


@run
def momentum() -> tuple[dict, list[dict]]:
    "How much Muon should remember: the default model for 1000 steps, two seeds."
    _, train, validation = plays(2048, 128)
    how = TrainConfig(steps=1000, precision="bf16", eval_every=10**6)
    records = []
    for share in (0.95, 0.9, 0.85):
        for seed in (0, 1):
            trainer = Trainer(new_model(MICRO, seed), train, None, replace(how, momentum=share, seed=seed))
            records.append({"momentum": share, "seed": seed} | fitted(trainer, validation))
            print(records[-1], file=sys.stderr, flush=True)
    return {"model": asdict(MICRO), "training": asdict(how)}, records


GIVEN_BACK, COMPILED = "memory given back", "compiled, compiling included"


@run
def recipe() -> tuple[dict, list[dict]]:
    "What each part of the book's recipe is worth, all at the same time by the clock."
    tokenizer, train, validation = plays(2048, 128)
    short = TokenDataset.from_text(load_text("shakespeare", split="train"), tokenizer, 32)
    how = TrainConfig(steps=10**6, batch_size=16, warmup=10, precision="bf16", max_seconds=20.0, eval_every=10**6)
    torch.compiler.config.force_disable_caches = True  # nothing compiled in an earlier run
    arms: dict[str, tuple[dict, dict, Growth | None]] = {  # name: changes of the model, changes of the training, growth
        GIVEN_BACK: ({}, {}, None),  # the first, because what keeps memory is not undone
        "the recipe": ({}, {}, None),
        "momentum 0.9 for 0.95": ({}, {"momentum": 0.9}, None),
        "AdamW for Muon": ({}, {"optimizer": "adamw"}, None),
        "no decay": ({}, {"decay": "constant"}, None),
        "no warm-up": ({}, {"warmup": 0}, None),
        "learned positions for rotary": ({"position": "learned"}, {}, None),
        "no QK-norm": ({"qk_norm": False}, {}, None),
        "GELU for ReLU squared": ({"activation": "gelu"}, {}, None),
        "LayerNorm for RMSNorm": ({"norm": "layer"}, {}, None),
        "float32 for bfloat16": ({}, {"precision": "fp32"}, None),
        COMPILED: ({}, {"compile": True}, None),
        "batch of 8 for 16": ({}, {"batch_size": 8}, None),
        "batch of 32 for 16": ({}, {"batch_size": 32}, None),
        "batch grows from 4 to 16": ({}, {}, Growth(train, 4)),
        "context grows from 32 to 128": ({}, {}, Growth(short, 64)),
    }
    todo = [(name, 0, 20.0) for name in arms]
    todo += [("the recipe", 1, 20.0)]  # says how far chance reaches
    todo += [(name, 0, 120.0) for name in ("the recipe", COMPILED)]  # compiling needs time to pay
    records = []
    for name, seed, seconds in todo:
        changes, settings, growth = arms[name]
        for rate in (6e-3, 2e-3) if "optimizer" in settings else (6e-3,):  # AdamW wants a lower one
            torch.compiler.reset()
            with patch.object(training, "keep_memory", lambda: False) if name == GIVEN_BACK else nullcontext():
                c = replace(how, learning_rate=rate, seed=seed, max_seconds=seconds, **settings)
                trainer = Trainer(new_model(replace(MICRO, **changes), seed), train, None, c)
            if growth is not None:
                growth.start(trainer)
            reached = fitted(trainer, validation)
            records.append({"change": name, "learning_rate": rate, "seed": seed, "seconds": seconds, "steps": trainer.step} | reached)
            print(records[-1], file=sys.stderr, flush=True)
    return {"model": asdict(MICRO), "training": asdict(how)}, records


def main() -> int:
    "Make one run and write its log."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=RUNS)
    parser.add_argument("--threads", type=int, default=1, help="processor cores to use (default: 1)")
    parser.add_argument("--out", type=Path, help="the log (default: nbs/results/NAME.jsonl)")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    started, busy = time.perf_counter(), time.process_time()
    facts, records = RUNS[chosen.run]()
    first = {
        "run": chosen.run,
        "command": f"python tools/runs.py {chosen.run} --threads {chosen.threads}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "date": datetime.date.today().isoformat(),
        "seconds": round(time.perf_counter() - started),
        "processor_seconds": round(time.process_time() - busy),
    }
    path = chosen.out or RESULTS / f"{chosen.run}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        temporary.write_text("".join(json.dumps(r) + "\n" for r in [first | facts, *records]), encoding="utf-8")
    print(f"{path.name}: {len(records)} records, {os.path.getsize(path) / 1000:.0f} KB, {first['seconds']} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
