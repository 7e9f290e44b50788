"""The book's long runs. Each writes what happened to nbs/results/NAME.jsonl, which chapters load.

    python -m experiments.runs learning     chapter 07: the default model on all the plays
    python -m experiments.runs overfit      chapter 07: a larger model on one play, until it recites
    python -m experiments.runs optimizers   chapter 07: four optimisers at several learning rates
    python -m experiments.runs ablations    chapter 07: the recipe with one part left out
    python -m experiments.runs momentum     chapter 07: how much Muon should remember
    python -m experiments.runs recipe       chapter 07: every part of the recipe, at equal time
                                            (--threads 2, on an idle machine)
    python -m experiments.runs shipped      the model that comes with the package (an hour)

--resume goes on with a log: what is finished is not made again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, replace
from unittest.mock import patch

import torch

import gptbook
from experiments.log import ROOT, Log, arguments, command_line
from experiments.shakespeare import new_model, one_play, plays, quickened
from gptbook import training
from gptbook.corpora import load_text
from gptbook.data import NGram, TokenDataset, bits_per_byte
from gptbook.model import GPTConfig
from gptbook.tokenizer import BPETokenizer
from gptbook.training import Samples, TrainConfig, Trainer, evaluate

MICRO = GPTConfig.preset("book-micro", vocab_size=2048, block_size=128)
NANO = GPTConfig.preset("book-nano", vocab_size=2048, block_size=64)
BASE = TrainConfig(momentum=0.95)  # what the committed logs were made with, whatever is usual now
Quicken = Callable[[TrainConfig], TrainConfig]  # a few steps, or as it is


def thin(
    history: Iterable[dict],  # records of a Trainer
    points: int = 200,  # how many records of training steps to keep
) -> list[dict]:  # the first ten steps, means of equal stretches, and every other record
    "Make a history small enough to be kept with the book."
    history = [{k: v for k, v in record.items() if k != "tokens"} for record in history]
    steps = [r for r in history if "loss" in r]
    size = -(-max(0, len(steps) - 10) // (points - 10)) or 1
    groups = [[r] for r in steps[:10]]
    groups += [steps[i : i + size] for i in range(10, len(steps), size)]
    kept = [r for r in history if "loss" not in r]
    for group in groups:
        mean = {k: sum(r[k] for r in group) / len(group) for k in ("loss", "gradient")}
        kept.append(group[-1] | mean)
    return sorted(kept, key=lambda r: r["step"])


def bits_of(
    trainer: Trainer,  # whose model
    validation: TokenDataset,  # held-out text
    windows: int | None = None,  # how many; None: all
) -> float:  # bits per byte
    "What a model needs for held-out text."
    loss = evaluate(trainer.model, validation, windows, precision=trainer.config.precision)
    return bits_per_byte(loss, len(validation), validation.n_bytes)


def learning(log: Log, quicken: Quicken) -> None:
    "The default model on all the plays, with samples at rising steps."
    tokenizer, train, validation = plays(2048, 128)
    how = quicken(replace(BASE, steps=1000, precision="bf16", eval_every=25, eval_windows=256))
    steps = (0, 10, 20, 30, 50, 70, 100, 140, 200, 250, 300, 400, 500, 600, 700, 850, 1000)
    samples = Samples(tokenizer, "ROMEO:", steps, max_new_tokens=100)
    log.begin(
        model=asdict(MICRO),
        training=asdict(how),
        train_tokens=len(train),
        train_bytes=train.n_bytes,
        temperature=samples.temperature,
        sample_seed=samples.seed,
    )
    if log.records:
        return
    trainer = Trainer(new_model(MICRO, how.seed), train, validation, how, callbacks=[samples])
    history = thin(trainer.fit())
    bits = bits_of(trainer, validation)  # on the whole validation text
    text, held_out = (load_text("shakespeare", split=split) for split in ("train", "validation"))
    ngram = NGram(5, "witten-bell").fit(text).bits_per_byte(held_out)
    log.add(*history)
    log.finish(final_bits_per_byte=bits, ngram_bits_per_byte=ngram)


def overfit(log: Log, quicken: Quicken) -> None:
    "A larger model on one play, until it only gets better at reciting."
    play = one_play("Romeo and Juliet")
    cut = play.index("\n\n", int(0.9 * len(play)))
    tokenizer = BPETokenizer.train(play[:cut], 512)
    train, validation = (
        TokenDataset.from_text(text, tokenizer, 64) for text in (play[:cut], play[cut:])
    )
    shape = GPTConfig.preset("book-mini", vocab_size=512, block_size=64)
    how = replace(BASE, steps=1000, optimizer="adamw", learning_rate=2e-3, decay="constant")
    how = replace(how, precision="bf16", eval_every=20, eval_windows=None, patience=10)
    how = quicken(how)
    log.begin(
        model=asdict(shape),
        training=asdict(how),
        text="Romeo and Juliet",
        epoch_steps=round(len(train) / (how.batch_size * train.block_size), 1),
        train_bytes=train.n_bytes,
        validation_bytes=validation.n_bytes,
    )
    for dropout in (0.0, 0.3):
        if log.find(dropout=dropout):
            continue
        model = new_model(replace(shape, dropout=dropout), how.seed)
        samples = Samples(tokenizer, "ROMEO:", 100)
        trainer = Trainer(model, train, validation, how, callbacks=[samples])
        log.add(*({"dropout": dropout} | record for record in thin(trainer.fit(), 100)))
        end = {"why": trainer.stopped, "step": trainer.step, "best_step": trainer.best_step}
        log.facts[f"stopped_{dropout}"] = end
        log.write()
    log.finish()


def shipped(log: Log, quicken: Quicken) -> None:
    "The model that comes with the package; it is written beside the log."
    tokenizer, train, validation = plays(2048, 256)
    shape = GPTConfig.preset("book-mini", vocab_size=2048, block_size=256)
    how = quicken(replace(BASE, steps=1200, learning_rate=8e-3, warmup=20, precision="bf16"))
    shorter = quicken(replace(how, steps=750))  # from step 500 on the rate falls faster, to zero
    log.begin(
        model=asdict(shape),
        training=asdict(shorter),
        train_tokens=len(train),
        train_bytes=train.n_bytes,
        schedule="linear to step 1200; from step 500 on linear to step 750",
    )
    if log.records:
        return
    trainer = Trainer(new_model(shape, how.seed), train, validation, how)
    while trainer.step < min(500, how.steps - 1):
        trainer.log(trainer.train_step())
    trainer.config = shorter
    history = thin(trainer.fit(), 150)
    folder = log.path.parent / "shipped-model"
    bits = bits_of(trainer, validation)
    gptbook.save(trainer.model.half(), tokenizer, folder)
    print(f"to ship {folder}, copy it to {(ROOT / 'gptbook/assets/shakespeare').relative_to(ROOT)}")
    log.add(*history)
    log.finish(final_bits_per_byte=bits)


def nano_run(
    data: Iterable[TokenDataset],  # training and validation text
    how: TrainConfig,  # with the seed of weights and windows
    optimizer: Callable | None = None,  # makes another optimiser for all parameters
) -> dict:  # the last losses; a null where the loss was not finite
    "Train the smallest model, for comparisons."
    trainer = Trainer(new_model(NANO, how.seed), *data, how)
    if optimizer is not None:
        trainer.optimizers = [optimizer(trainer.model.parameters())]
    try:
        last = trainer.fit(progress_bar=False)[-1]
    except FloatingPointError:
        last = {"val_loss": None, "val_bits_per_byte": None}
    return {key: last[key] for key in ("val_loss", "val_bits_per_byte")}


SEEDS = (0, 1, 2)
SHORT = replace(BASE, steps=100, eval_every=100, eval_windows=128, warmup=10)  # there are many


def optimizers(log: Log, quicken: Quicken) -> None:
    "Four optimisers, each at learning rates around its best, three seeds."
    _, *data = plays(2048, 64)
    how = quicken(SHORT)
    log.begin(model=asdict(NANO), training=asdict(how))
    rates: dict[str, tuple[dict, tuple[float, ...]]] = {
        "gradient descent": ({}, (0.1, 0.3, 1.0, 3.0, 10.0)),
        "momentum": ({"momentum": 0.9}, (0.03, 0.1, 0.3, 1.0)),
        "adamw": ({}, (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)),
        "muon": ({}, (5e-3, 1e-2, 2e-2, 4e-2, 8e-2)),
    }
    plan = [(n, rate, seed) for n, (_, some) in rates.items() for rate in some for seed in SEEDS]
    for name, rate, seed in plan:
        key = {"optimizer": name, "learning_rate": rate, "seed": seed}
        if log.find(**key):
            continue
        ours = name in ("adamw", "muon")
        config = replace(how, learning_rate=rate, seed=seed, optimizer=name if ours else "adamw")

        def sgd(parameters, lr=rate, options=rates[name][0]):
            return torch.optim.SGD(parameters, lr=lr, **options)

        log.add(key | nano_run(data, config, None if ours else sgd))
    log.finish()


def ablations(log: Log, quicken: Quicken) -> None:
    "The recipe with one part left out, at learning rates around the best, three seeds."
    _, *data = plays(2048, 64)
    how = quicken(SHORT)
    log.begin(model=asdict(NANO), training=asdict(how))
    changes: dict[str, dict] = {
        "the recipe": {},
        "no warm-up": {"warmup": 0},
        "no decay": {"decay": "constant"},
        "no clipping": {"clip": None},
        "bf16": {"precision": "bf16"},
        "AdamW alone": {"optimizer": "adamw"},
    }
    rates = {name: (1e-2, 2e-2, 4e-2, 8e-2) for name in changes}
    rates["AdamW alone"] = (1e-3, 2e-3, 4e-3, 8e-3)  # it wants lower ones
    plan = [(name, rate, seed) for name in changes for rate in rates[name] for seed in SEEDS]
    for name, rate, seed in plan:
        key = {"change": name, "learning_rate": rate, "seed": seed}
        if not log.find(**key):
            config = replace(how, learning_rate=rate, seed=seed, **changes[name])
            log.add(key | nano_run(data, config))
    log.finish()


def momentum(log: Log, quicken: Quicken) -> None:
    "How much Muon should remember: the default model for 1000 steps, two seeds."
    _, train, validation = plays(2048, 128)
    how = quicken(replace(BASE, steps=1000, precision="bf16", eval_every=10**6))
    log.begin(model=asdict(MICRO), training=asdict(how))
    for share in (0.95, 0.9, 0.85):
        for seed in (0, 1):
            if log.find(momentum=share, seed=seed):
                continue
            config = replace(how, momentum=share, seed=seed)
            trainer = Trainer(new_model(MICRO, seed), train, None, config)
            trainer.fit(progress_bar=False)
            bits = bits_of(trainer, validation, 256)
            log.add({"momentum": share, "seed": seed, "val_bits_per_byte": bits})
    log.finish()


class Growth:
    "A callback that starts with short windows or small batches, and changes half-way."

    def __init__(
        self,
        early: TokenDataset,  # what to draw windows from in the first half
        early_batch: int,  # how many
    ):
        self.early, self.early_batch = early, early_batch

    def start(self, trainer: Trainer) -> None:
        "Set the first half up."
        self.late, self.config = trainer.train_data, trainer.config
        trainer.train_data = self.early
        trainer.config = replace(self.config, batch_size=self.early_batch)
        trainer.callbacks.append(self)

    def __call__(self, trainer: Trainer, record: dict) -> None:
        if trainer.progress >= 0.5:
            trainer.train_data, trainer.config = self.late, self.config


GIVEN_BACK, COMPILED = "memory given back", "compiled, compiling included"
Arm = tuple[dict, dict, Growth | None]  # changes of the model, changes of the training, growth


def recipe_arms(
    train: TokenDataset,  # the plays in windows of 128
    short: TokenDataset,  # and of 32
) -> dict[str, Arm]:
    "The recipe, and the recipe with one part changed."
    return {
        GIVEN_BACK: ({}, {}, None),
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


def recipe(log: Log, quicken: Quicken) -> None:
    "What each part of the book's recipe is worth, all at the same time by the clock."
    tokenizer, train, validation = plays(2048, 128)
    text = load_text("shakespeare", split="train")
    arms = recipe_arms(train, TokenDataset.from_text(text, tokenizer, 32))
    how = replace(BASE, steps=10**6, batch_size=16, warmup=10, precision="bf16")
    how = quicken(replace(how, max_seconds=20.0, eval_every=10**6))
    log.begin(model=asdict(MICRO), training=asdict(how))
    torch.compiler.config.force_disable_caches = True  # nothing compiled in an earlier run
    plan = [(name, 0, 20.0) for name in arms]
    plan += [("the recipe", 1, 20.0)]  # says how far chance reaches
    plan += [(name, 0, 120.0) for name in ("the recipe", COMPILED)]  # compiling needs time to pay
    for name, seed, seconds in plan:
        changes, settings, growth = arms[name]
        rates = (6e-3, 2e-3) if "optimizer" in settings else (6e-3,)  # AdamW wants a lower one
        for rate in rates:
            key = {"change": name, "learning_rate": rate, "seed": seed, "seconds": seconds}
            if log.find(**key):
                continue
            torch.compiler.reset()
            config = replace(how, learning_rate=rate, seed=seed, max_seconds=seconds, **settings)
            config = quicken(config)
            model = new_model(replace(MICRO, **changes), seed)
            trainer = Trainer(model, train, None, config)
            if growth is not None:
                growth.start(trainer)
            given_back = patch.object(training, "keep_memory", nullcontext)
            with given_back if name == GIVEN_BACK else nullcontext():
                trainer.fit(progress_bar=False)
            reached = {
                "steps": trainer.step,
                "val_bits_per_byte": bits_of(trainer, validation, 256),
            }
            log.add(key | reached)
    log.finish()


RUNS = {
    f.__name__: f for f in (learning, overfit, optimizers, ablations, momentum, recipe, shipped)
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("run", choices=RUNS)
    options = parser.parse_args()
    given = [options.run, *(a for a in sys.argv[1:] if a != options.run)]
    log = Log(options.run, options, command_line("runs", given))
    RUNS[options.run](log, quickened if options.quick else lambda config: config)


if __name__ == "__main__":
    main()
