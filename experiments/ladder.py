"""The training runs behind chapter 08: a ladder of sizes, and what else it is compared with.

    python -m experiments.ladder --resume       make the runs that the log does not hold yet
    python -m experiments.ladder --list         say which runs there are, and what each takes
    python -m experiments.ladder --series ladder --layers 2 --channels 64 --out again.jsonl

The log is nbs/results/ladder.jsonl, one line a run. Runs that are finished stay.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass

import torch

from experiments.log import Log, arguments, command_line
from experiments.shakespeare import new_model, plays
from gptbook.data import TokenDataset, bits_per_byte
from gptbook.model import GPTConfig
from gptbook.scaling import count_costs
from gptbook.tokenizer import BPETokenizer
from gptbook.training import TrainConfig, Trainer, evaluate

CONTEXT, BATCH = 128, 8  # tokens in a window, windows in a step
STEP = CONTEXT * BATCH  # tokens
LEARNING_RATE = 1e-2  # the best of 5e-3, 1e-2 and 2e-2 in short runs of the sizes 2×64 and 4×128
MOMENTUM = 0.95  # of Muon
LADDER = ((1, 32), (1, 64), (2, 64), (2, 96), (3, 96))  # layers × channels
TOKENS_PER_PARAMETER = 4
VALLEY, BUDGET = ((2, 64), (3, 96), (4, 128), (6, 192)), 3.392e12  # FLOPs of each model's products
HASTY, TOKENS_PER_LAYER = ((1, 32), (2, 64), (3, 96)), 120_000
PROMPT, SAMPLE_TOKENS = "ROMEO:\n", 700


@dataclass(frozen=True)
class Run:
    "One training run of the log."

    series: str  # ladder: size and text in step; valley: equal compute; hasty: little text, 3 seeds
    layers: int
    channels: int
    tokens: int  # trained on
    seed: int = 0  # of the weights and of the order of the text


def shape(
    layers: int,
    channels: int,
) -> GPTConfig:
    "The book's recipe, with 32 channels in each head."
    size = {"n_layer": layers, "n_head": channels // 32, "n_embd": channels}
    return GPTConfig.preset("book-nano", vocab_size=2048, block_size=CONTEXT, **size)


def whole_steps(
    tokens: float,  # wanted
) -> int:  # tokens, a whole number of steps
    "Round down."
    return int(tokens // STEP) * STEP


def runs() -> list[Run]:
    "All runs, the cheap ones first."
    made = []
    for size in LADDER:
        tokens = TOKENS_PER_PARAMETER * count_costs(shape(*size)).parameters
        made.append(Run("ladder", *size, whole_steps(tokens)))
    for size in VALLEY:
        steps = round(BUDGET / count_costs(shape(*size)).training / STEP)
        made.append(Run("valley", *size, steps * STEP))
    for size in HASTY:
        tokens = whole_steps(TOKENS_PER_LAYER * size[0])
        made += [Run("hasty", *size, tokens, seed) for seed in (0, 1, 2)]
    return sorted(made, key=flops)


def flops(
    run: Run,
) -> int:  # of the model's products, without the optimiser's
    "What the run costs."
    return count_costs(shape(run.layers, run.channels)).training * run.tokens


def command(
    run: Run,
) -> str:  # what makes it
    "The run's own command."
    size = ["--layers", str(run.layers), "--channels", str(run.channels)]
    return command_line("ladder", ["--series", run.series, *size, "--seed", str(run.seed)])


def make(
    run: Run,
    tokenizer: BPETokenizer,
    train: TokenDataset,
    validation: TokenDataset,
    quick: bool,  # a few steps only
) -> dict:  # the line to log
    "Train, evaluate on all validation plays, sample."
    model = new_model(shape(run.layers, run.channels), run.seed)
    steps = 4 if quick else run.tokens // STEP
    config = TrainConfig(
        steps=steps,
        batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        momentum=MOMENTUM,
        warmup=steps // 10,
        precision="bf16",
        seed=run.seed,
    )
    clock, processor = time.perf_counter(), time.process_time()
    losses = [record["loss"] for record in Trainer(model, train, config=config).fit()]
    seconds, core_seconds = time.perf_counter() - clock, time.process_time() - processor
    loss = evaluate(model, validation, 8 if quick else None, precision="bf16")
    torch.manual_seed(0)
    ids = torch.tensor([tokenizer.encode(PROMPT)])
    sample = model.generate(ids, 20 if quick else SAMPLE_TOKENS)[0].tolist()
    costs, share = count_costs(model.config, BATCH), max(1, steps // 20)
    parts = [losses[i : i + share] for i in range(0, steps, share)]
    return asdict(run) | {
        "parameters": costs.parameters,
        "non_embedding": costs.non_embedding,
        "flops": flops(run),
        "optimizer_flops": costs.optimizer_flops * (run.tokens // STEP),
        "train_loss": sum(losses[-share:]) / share,
        "val_loss": loss,
        "val_bits_per_byte": bits_per_byte(loss, len(validation), validation.n_bytes),
        "curve": [round(sum(part) / len(part), 3) for part in parts],
        "sample": tokenizer.decode(sample),
        "seconds": seconds,
        "core_seconds": core_seconds,
        "model": asdict(model.config),
        "training": asdict(config),
        "command": command(run),
    }


def show(
    chosen: list[Run],
) -> None:
    "Say what runs take."
    for run in chosen:
        parameters = count_costs(shape(run.layers, run.channels)).parameters
        size = f"{run.series:6} {run.layers} × {run.channels:3}, seed {run.seed}"
        print(f"{size}: {parameters:9,} parameters, {run.tokens:9,} tokens, {flops(run):.2e} FLOPs")
    print(f"in all {sum(map(flops, chosen)):.2e} FLOPs")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--list", action="store_true", help="say what the runs take; make none")
    series = parser.add_argument("--series", help="runs of this series only")
    series.choices = ("ladder", "valley", "hasty")
    names = ("series", "layers", "channels", "seed")
    for name in names[1:]:
        parser.add_argument(f"--{name}", type=int, help=f"runs with this {name} only")
    options = parser.parse_args()
    wanted = {name: getattr(options, name) for name in names}
    chosen = [r for r in runs() if all(v in (None, getattr(r, n)) for n, v in wanted.items())]
    if options.list:
        return show(chosen)
    log = Log("ladder", options, command_line("ladder", sys.argv[1:]))
    log.begin(context=CONTEXT, batch=BATCH)
    texts = plays(2048, CONTEXT)
    for run in chosen:
        if not log.find(**asdict(run)):
            log.add(make(run, *texts, options.quick))
    log.finish()


if __name__ == "__main__":
    main()
