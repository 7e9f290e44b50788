"""How much computation until it reads like English: the runs behind chapter 08's answer.

    python -m experiments.study --resume            make the runs that the log does not hold yet
    python -m experiments.study --list              say which runs there are, and what each takes
    python -m experiments.study --resume --series grid --at-most 1e12 --workers 2

Models of many sizes read the novels 5, 20 or 80 tokens for each parameter, with three seeds.
The log is nbs/results/study.jsonl, one line a run. The models stay in runs/study (--models), where
an interrupted run is taken up again and experiments.panel finds what to measure. Each of the
--workers makes one run at a time, with --threads cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

import torch

import gptbook
from experiments.log import ROOT, Log, arguments, command_line
from experiments.shakespeare import new_model
from gptbook.corpora import load_text
from gptbook.data import TokenDataset, bits_per_byte
from gptbook.files import cache_folder, make_folder
from gptbook.model import GPTConfig
from gptbook.scaling import count_costs
from gptbook.tokenizer import BPETokenizer
from gptbook.training import TrainConfig, Trainer, evaluate

CONTEXT, VOCABULARY = 256, 4096  # tokens in a window, tokens that there are
HEAD = 32  # channels in each head
SIZES = ((2, 32), (3, 48), (4, 64), (4, 96), (5, 128), (6, 192), (8, 256), (8, 320))
RATIOS = (1, 5, 20, 80)  # tokens for each parameter outside the embedding and the head
STARVED = 2_000_000  # parameters: smaller models with one token for each learn nothing yet
ANCHORS = ((2, 32, 26_000), (8, 256, 3_000_000), (8, 320, 2_300_000))  # the ends of the ladder
LEARNING_RATE, WIDTH, MOMENTUM = 1e-2, 256, 0.95  # the rate at 256 channels; narrower ones: more
RATES = (0.25, 0.5, 1, 2, 4)  # times the rule's, tried at three sizes
THREE_SEEDS = 1e13  # FLOPs of a run; dearer ones have one seed, but for one point
TWO_SEEDS = 3e13  # the point above: up to here two
LARGEST = 3e14  # FLOPs of the dearest run of the grid
SHORTEST = (
    400  # steps of a run that a law is fitted to; shorter ones have hardly left their warm-up
)
EVAL_WINDOWS = 800  # of each kind of held-out text, evenly spread
SAMPLE_TOKENS = 300


@dataclass(frozen=True)
class Run:
    "One training run of the log."

    series: str  # grid: sizes × ratios; rates: other learning rates; repeats: little text, often
    layers: int
    channels: int
    tokens: int  # trained on
    seed: int = 0  # of the weights and of the order of the text
    rate: float = 1.0  # times the learning rate of the rule
    epochs: int = 1  # how often the text is read; more than one takes a piece of it only

    @property
    def config(self) -> GPTConfig:
        "The book's recipe, with heads of 32 channels."
        size = {"n_layer": self.layers, "n_embd": self.channels}
        heads = max(1, self.channels // HEAD)
        shape = {"vocab_size": VOCABULARY, "block_size": CONTEXT, "n_head": heads}
        return GPTConfig.preset("book-nano", **shape, **size)

    @property
    def batch_size(self) -> int:  # windows in a step
        "More text allows larger steps, and larger steps use the machine better."
        return 4 if self.tokens < 1e6 else 8 if self.tokens < 8e6 else 16

    @property
    def learning_rate(self) -> float:
        "Falls with the width, to the power of two thirds; the series `rates` tries the rule."
        return self.rate * LEARNING_RATE * (WIDTH / self.channels) ** (2 / 3)

    @property
    def steps(self) -> int:
        "Whole steps of the optimiser."
        return max(1, self.tokens // (self.batch_size * CONTEXT))

    @property
    def flops(self) -> int:  # of all of it, the optimiser's products included
        "What the run costs, by chapter 08's ledger."
        return count_costs(self.config, self.batch_size).step * self.steps

    @property
    def name(self) -> str:  # of the folder
        "Says what is different."
        rate = "" if self.rate == 1 else f"-rate{self.rate:g}"
        often = "" if self.epochs == 1 else f"-epochs{self.epochs}"
        size = f"{self.layers}x{self.channels}-{self.tokens}"
        return f"{self.series}-{size}{rate}{often}-seed{self.seed}"


def runs() -> list[Run]:
    "All runs, the cheap ones first."
    made: list[Run] = []
    for layers, channels in SIZES:
        inner = count_costs(Run("grid", layers, channels, 1).config).non_embedding
        for ratio in RATIOS:
            run = Run("grid", layers, channels, ratio * inner)
            if run.flops <= LARGEST and (ratio > 1 or inner > STARVED):
                seeds = 3 if run.flops <= THREE_SEEDS else 2 if run.flops <= TWO_SEEDS else 1
                made += [dataclasses.replace(run, seed=seed) for seed in range(seeds)]
    made += [Run("grid", *anchor) for anchor in ANCHORS]
    for layers, channels, tokens in ((2, 32, 500_000), (4, 96, 1_000_000), (6, 192, 1_500_000)):
        made += [Run("rates", layers, channels, tokens, 0, rate) for rate in RATES]
    for epochs in (1, 2, 4, 8, 16, 32):
        made.append(Run("repeats", 3, 48, 4_000_000, 0, 1.0, epochs))
    return sorted(made, key=lambda run: run.flops)


def prepare() -> Path:  # the folder with the tokenizer and the ids
    "Learn the vocabulary and encode the books, once."
    folder = make_folder(cache_folder() / f"novels-{VOCABULARY}")
    if not (folder / "tokenizer.json").is_file():
        BPETokenizer.train(load_text("novels", "train"), VOCABULARY).save(folder)
    tokenizer = BPETokenizer.load(folder)
    for split in ("train", "validation", "new_authors"):
        if not (folder / f"{split}.bin.json").is_file():
            text = load_text("novels", split)
            ids = tokenizer.encode(text, allowed_special="all")
            TokenDataset(ids, CONTEXT, len(text.encode())).save(folder / f"{split}.bin")
    return folder


def held_out(
    model: torch.nn.Module,  # a GPT
    folder: Path,  # of `prepare`
    windows: int,  # of each kind
) -> dict[str, float]:  # bits per byte
    "The loss on both kinds of held-out text."
    found = {}
    for split in ("validation", "new_authors"):
        data = TokenDataset.open(folder / f"{split}.bin", CONTEXT)
        loss = evaluate(model, data, windows)
        found[f"{split}_bits"] = bits_per_byte(loss, len(data), data.n_bytes)
    return found


def make(
    run: Run,
    folder: Path,  # of `prepare`
    models: Path,  # where the trained models stay
    threads: int,  # cores
    quick: bool,  # a few steps only
) -> dict:  # the line to log
    "Train, evaluate on both kinds of held-out text, write a sample, keep the model."
    torch.set_num_threads(threads)
    tokenizer = BPETokenizer.load(folder)
    data = TokenDataset.open(folder / "train.bin", CONTEXT)
    if run.epochs > 1:  # the first books only
        data = TokenDataset(data.ids[: run.tokens // run.epochs], CONTEXT)
    steps = 4 if quick else run.steps
    config = TrainConfig(
        steps=steps,
        batch_size=run.batch_size,
        learning_rate=run.learning_rate,
        momentum=MOMENTUM,
        precision="auto",  # bf16 where the processor has it: two to three times as quick
        warmup=max(1, steps // 20),
        seed=run.seed,
        checkpoint_every=max(100, steps // 20),
    )
    model = new_model(run.config, run.seed)
    trainer = Trainer(model, data, config=config, folder=make_folder(models / run.name))
    if (models / run.name / "checkpoint.safetensors").is_file():
        trainer.load_checkpoint()
    processor = time.process_time()
    history = trainer.fit()
    core_seconds = time.process_time() - processor
    losses = [record["loss"] for record in history if "loss" in record]
    share = max(1, steps // 20)
    parts = [losses[i : i + share] for i in range(0, len(losses), share)]
    bits = held_out(model, folder, 8 if quick else EVAL_WINDOWS)
    torch.manual_seed(0)
    ids = torch.tensor([[tokenizer.eos_id]])
    sample = model.generate(ids, 20 if quick else SAMPLE_TOKENS)[0, 1:].tolist()
    gptbook.save(model, tokenizer, models / run.name)
    costs = count_costs(run.config, run.batch_size)
    facts = {
        "learning_rate": run.learning_rate,
        "parameters": costs.parameters,
        "non_embedding": costs.non_embedding,
    }
    return (
        asdict(run)
        | facts
        | {"steps": run.steps, "batch_size": run.batch_size, "flops": run.flops}
        | {"train_loss": sum(losses[-share:]) / len(losses[-share:])}
        | bits
        | {"curve": [round(sum(part) / len(part), 3) for part in parts]}
        | {"sample": tokenizer.decode(sample), "name": run.name}
        | {"seconds": trainer.seconds, "core_seconds": core_seconds, "threads": threads}
    )


def show(
    chosen: list[Run],
) -> None:
    "Say what runs take."
    for run in chosen:
        print(f"{run.name:42} {run.tokens:11,} tokens, {run.steps:6,} steps, {run.flops:.2e} FLOPs")
    print(f"in all {sum(run.flops for run in chosen):.2e} FLOPs, {len(chosen)} runs")


def options() -> argparse.Namespace:
    "What the command line says."
    parser = arguments(__doc__)
    parser.add_argument("--list", action="store_true", help="say what the runs take; make none")
    parser.add_argument(
        "--series", choices=("grid", "rates", "repeats"), help="of this series only"
    )
    parser.add_argument("--at-most", type=float, help="FLOPs: leave out dearer runs")
    parser.add_argument("--seed", type=int, help="runs with this seed only")
    parser.add_argument(
        "--which", nargs="+", default=["*"], help="runs of these names, as in grid-4x*"
    )
    parser.add_argument("--workers", type=int, default=1, help="runs made at the same time")
    home = ROOT / "runs" / "study"
    parser.add_argument("--models", type=Path, default=home, help="where models stay")
    return parser.parse_args()


def main() -> None:
    o = options()
    chosen = [
        run
        for run in runs()
        if o.series in (None, run.series)
        and o.seed in (None, run.seed)
        and (o.at_most is None or run.flops <= o.at_most)
        and any(fnmatch(run.name, name) for name in o.which)
    ]
    if o.list:
        return show(chosen)
    log = Log("study", o, command_line("study", sys.argv[1:]))
    log.begin(context=CONTEXT, vocabulary=VOCABULARY, eval_windows=EVAL_WINDOWS)
    folder = prepare()
    left = [run for run in chosen if not log.find(name=run.name)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(o.workers, spawn, max_tasks_per_child=1) as pool:
        made = [pool.submit(make, run, folder, o.models, o.threads, o.quick) for run in left]
        try:
            for done in as_completed(made):
                log.add(done.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # do not make the rest first
            raise
    log.finish()


if __name__ == "__main__":
    main()
