#!/usr/bin/env python3
"""The training runs behind chapter 08: a ladder of sizes, and a valley of equal compute. One JSON line a run.

    tools/ladder.py              make the runs that nbs/results/ladder.jsonl does not hold yet
    tools/ladder.py --list       say which runs there are, and what each takes
    tools/ladder.py --only 3     one depth of the ladder, and nothing else

The log is made once and committed. Runs may be interrupted: those that are finished are kept.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
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
TOKENS_PER_DEPTH = 120_000  # a deeper model also reads more
LEARNING_RATE = 1e-2  # the best of 5e-3, 1e-2, 2e-2 at depth 2, and at depth 4
PROMPT, SAMPLE_TOKENS = "ROMEO:\n", 700


@dataclass(frozen=True)
class Run:
    "One training run of the log."

    series: str  # "ladder": one run a size; "again": its small sizes with other seeds; "valley": sizes at equal compute
    depth: int  # blocks; also heads, and channels / 32
    tokens: int  # trained on
    seed: int = 0  # of the weights and of the order of the text


def shape(depth: int) -> GPTConfig:  # the book's recipe at 32 channels a head
    "One number makes a model: as many blocks as heads, 32 channels in each head."
    return GPTConfig.preset("book-nano", vocab_size=2048, block_size=CONTEXT, n_layer=depth, n_head=depth, n_embd=32 * depth)


def runs() -> list[Run]:
    "The ladder, its repetitions, and the valley: other depths with the compute of the ladder's depth 4."
    step = CONTEXT * BATCH
    ladder = [Run("ladder", depth, TOKENS_PER_DEPTH * depth // step * step) for depth in range(1, 8)]
    budget = count_costs(shape(4)).training * ladder[3].tokens
    again = [Run("again", run.depth, run.tokens, seed) for run in ladder[:3] for seed in (1, 2)]
    return ladder + again + [Run("valley", d, round(budget / count_costs(shape(d)).training / step) * step) for d in (2, 3, 5, 6)]


def make(run: Run, tokenizer: BPETokenizer, train: TokenDataset, validation: TokenDataset) -> dict:  # the line to log
    "Train, evaluate on all validation plays, sample."
    torch.manual_seed(run.seed)
    model = GPT(shape(run.depth))
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
        "parameters": costs.parameters, "non_embedding": costs.non_embedding, "flops": costs.training * run.tokens,
        "train_loss": sum(losses[-share:]) / share, "val_loss": loss,
        "val_bits_per_byte": bits_per_byte(loss, len(validation), validation.n_bytes),
        "curve": [round(sum(part) / len(part), 3) for part in (losses[i : i + share] for i in range(0, steps, share))],
        "sample": tokenizer.decode(ids[0].tolist()),
        "seconds": round(seconds, 1), "core_seconds": round(core_seconds, 1), "torch": torch.__version__,
        "model": asdict(model.config), "training": asdict(config), "command": f"python tools/ladder.py --only {run.depth} --series {run.series}",
    }


def logged(path: Path) -> Iterator[tuple[str, int, int]]:  # series, depth and seed of each run
    "Which runs the log holds."
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        record = json.loads(line)
        yield record["series"], record["depth"], record["seed"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="say what the runs take, and make none")
    parser.add_argument("--only", type=int, metavar="DEPTH", help="runs of this depth only")
    parser.add_argument("--series", choices=("ladder", "again", "valley"), help="runs of this series only")
    parser.add_argument("--out", type=Path, default=ROOT / "nbs" / "results" / "ladder.jsonl", help="the log")
    parser.add_argument("--threads", type=int, default=1, help="cores to use (changes the last digits)")
    options = parser.parse_args()
    chosen = [r for r in runs() if options.only in (None, r.depth) and options.series in (None, r.series)]
    if options.list:
        for run in chosen:
            costs = count_costs(shape(run.depth))
            print(f"{run.series:7} depth {run.depth}: {costs.non_embedding:9,} parameters outside the embedding, "
                  f"{run.tokens:9,} tokens, {costs.training * run.tokens:.2e} FLOPs")
        print(f"in all {sum(count_costs(shape(r.depth)).training * r.tokens for r in chosen):.2e} FLOPs")
        return
    torch.set_num_threads(options.threads)
    text = load_text("shakespeare", split="train")
    tokenizer = BPETokenizer.train(text, 2048)
    train = TokenDataset.from_text(text, tokenizer, CONTEXT)
    validation = TokenDataset.from_text(load_text("shakespeare", split="validation"), tokenizer, CONTEXT)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    done = set(logged(options.out))
    for run in sorted(chosen, key=lambda r: count_costs(shape(r.depth)).training * r.tokens):
        if (run.series, run.depth, run.seed) in done:
            continue
        record = make(run, tokenizer, train, validation)
        with open(options.out, "a", encoding="utf-8") as file:  # one write: a line is there or not
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        print(f"{run.series} depth {run.depth} seed {run.seed}: {record['val_bits_per_byte']:.3f} bits per byte, {record['core_seconds']:.0f} core seconds", flush=True)


if __name__ == "__main__":
    main()
