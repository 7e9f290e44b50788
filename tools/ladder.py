#!/usr/bin/env python3
"""The training runs behind chapter 08: a ladder of sizes, and what else it is compared with. One JSON line a run.

    tools/ladder.py                      make the runs that nbs/results/ladder.jsonl does not hold yet
    tools/ladder.py --list               say which runs there are, and what each takes
    tools/ladder.py --series ladder --layers 2 --channels 64 --out again.jsonl    make one run, elsewhere

The log is made once and kept with the book. Runs may be interrupted: those that are finished stay.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from gptbook.data import TokenDataset, bits_per_byte, load_text
from gptbook.model import GPT, GPTConfig
from gptbook.scaling import count_costs
from gptbook.tokenizer import BPETokenizer
from gptbook.training import TrainConfig, Trainer, evaluate

ROOT = Path(__file__).resolve().parent.parent
CONTEXT, BATCH = 128, 8  # tokens in a window, windows in a step
LEARNING_RATE = 1e-2  # the best of 5e-3, 1e-2 and 2e-2 in short runs of the sizes 2×64 and 4×128
LADDER, TOKENS_PER_PARAMETER = ((1, 32), (1, 64), (2, 64), (2, 96), (3, 96)), 4  # layers × channels
VALLEY, BUDGET = ((2, 64), (3, 96), (4, 128), (6, 192)), 3.392e12  # FLOPs of each
HASTY, TOKENS_PER_LAYER = ((1, 32), (2, 64), (3, 96)), 120_000
PROMPT, SAMPLE_TOKENS = "ROMEO:\n", 700


@dataclass(frozen=True)
class Run:
    "One training run of the log."

    series: str  # ladder: size and text in step; valley: equal compute; hasty: little more text for larger models
    layers: int
    channels: int
    tokens: int  # trained on
    seed: int = 0  # of the weights and of the order of the text


def shape(layers: int, channels: int) -> GPTConfig:
    "The book's recipe, with 32 channels in each head."
    return GPTConfig.preset("book-nano", vocab_size=2048, block_size=CONTEXT, n_layer=layers, n_head=channels // 32, n_embd=channels)


def runs() -> list[Run]:
    "All runs, the cheap ones first."
    step = CONTEXT * BATCH
    ladder = [Run("ladder", *size, TOKENS_PER_PARAMETER * count_costs(shape(*size)).parameters // step * step) for size in LADDER]
    valley = [Run("valley", *size, round(BUDGET / count_costs(shape(*size)).training / step) * step) for size in VALLEY]
    hasty = [Run("hasty", *size, TOKENS_PER_LAYER * size[0] // step * step, seed) for size in HASTY for seed in (0, 1, 2)]
    return sorted(ladder + valley + hasty, key=flops)


def flops(run: Run) -> int:  # of the training
    return count_costs(shape(run.layers, run.channels)).training * run.tokens


def make(run: Run, tokenizer: BPETokenizer, train: TokenDataset, validation: TokenDataset) -> dict:  # the line to log
    "Train, evaluate on all validation plays, sample."
    torch.manual_seed(run.seed)
    model = GPT(shape(run.layers, run.channels))
    steps = run.tokens // (BATCH * CONTEXT)
    config = TrainConfig(steps=steps, batch_size=BATCH, learning_rate=LEARNING_RATE, warmup=steps // 10, precision="bf16", seed=run.seed)
    clock, processor = time.perf_counter(), time.process_time()
    history = Trainer(model, train, config=config).fit()
    seconds, core_seconds = time.perf_counter() - clock, time.process_time() - processor
    losses = [record["loss"] for record in history]
    loss = evaluate(model, validation, precision="bf16")
    torch.manual_seed(0)
    ids = model.generate(torch.tensor([tokenizer.encode(PROMPT)]), SAMPLE_TOKENS)
    costs, share = count_costs(model.config), max(1, steps // 20)
    return asdict(run) | {
        "parameters": costs.parameters, "non_embedding": costs.non_embedding, "flops": flops(run),
        "train_loss": sum(losses[-share:]) / share, "val_loss": loss,
        "val_bits_per_byte": bits_per_byte(loss, len(validation), validation.n_bytes),
        "curve": [round(sum(part) / len(part), 3) for part in (losses[i : i + share] for i in range(0, steps, share))],
        "sample": tokenizer.decode(ids[0].tolist()),
        "seconds": round(seconds, 1), "core_seconds": round(core_seconds, 1), "torch": torch.__version__,
        "model": asdict(model.config), "training": asdict(config), "command": command(run),
    }


def command(run: Run) -> str:  # what makes a run
    return f"python tools/ladder.py --series {run.series} --layers {run.layers} --channels {run.channels} --seed {run.seed}"


def logged(path: Path) -> set[Run]:  # the runs that a log holds
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return {Run(*(record[name] for name in ("series", "layers", "channels", "tokens", "seed"))) for record in records}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="say what the runs take, and make none")
    parser.add_argument("--series", choices=("ladder", "valley", "hasty"), help="runs of this series only")
    for name in ("layers", "channels", "seed"):
        parser.add_argument(f"--{name}", type=int, help=f"runs with this {name} only")
    parser.add_argument("--out", type=Path, default=ROOT / "nbs" / "results" / "ladder.jsonl", help="the log")
    parser.add_argument("--threads", type=int, default=1, help="cores to use (changes the last digits)")
    options = parser.parse_args()
    wanted = {name: getattr(options, name) for name in ("series", "layers", "channels", "seed")}
    chosen = [run for run in runs() if all(value in (None, getattr(run, name)) for name, value in wanted.items())]
    if options.list:
        for run in chosen:
            costs = count_costs(shape(run.layers, run.channels))
            print(f"{run.series:6} {run.layers} × {run.channels:3}, seed {run.seed}: {costs.parameters:9,} parameters, "
                  f"{run.tokens:9,} tokens, {flops(run):.2e} FLOPs")
        print(f"in all {sum(map(flops, chosen)):.2e} FLOPs")
        return
    torch.set_num_threads(options.threads)
    text = load_text("shakespeare", split="train")
    tokenizer = BPETokenizer.train(text, 2048)
    train = TokenDataset.from_text(text, tokenizer, CONTEXT)
    validation = TokenDataset.from_text(load_text("shakespeare", split="validation"), tokenizer, CONTEXT)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for run in chosen:
        if run in logged(options.out):
            continue
        record = make(run, tokenizer, train, validation)
        with open(options.out, "a", encoding="utf-8") as file:  # one write: a line is there or not
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        print(f"{run.series} {run.layers} × {run.channels}, seed {run.seed}: {record['val_bits_per_byte']:.3f} bits per byte, "
              f"{record['core_seconds']:.0f} core seconds", flush=True)


if __name__ == "__main__":
    main()
