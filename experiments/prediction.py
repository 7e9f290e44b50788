"""One run, predicted before it is made.

    python -m experiments.prediction expect     from the study's logs: loss, scores, seconds, memory
    python -m experiments.prediction make       train that model, measure it (taken up again if stopped)
    python -m experiments.prediction ship       put that model into the package, with its card

The first writes nbs/results/prediction.jsonl, to be committed before the second begins. The second
adds a line to it, and leaves its model in runs/study (--models).
"""

from __future__ import annotations

import datetime
import json
import math
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch

import gptbook
from experiments.log import RESULTS, ROOT, Log, arguments, command_line
from experiments.panel import measure_folder
from experiments.shakespeare import new_model
from experiments.study import CONTEXT, SHORTEST, VOCABULARY, Run, make, prepare
from gptbook.data import TokenDataset
from gptbook.scaling import count_costs, fit_scaling_law
from gptbook.training import TrainConfig, Trainer

RUN = Run("predicted", 7, 224, 24_600_000)  # a size that the study does not have
BOTH = ("validation_bits", "new_authors_bits")
SCORES = ("nearby", "across", "sense")
NEAREST = 8  # runs of the study whose loss is lowest: scores are carried on from them
THREADS = 2
SHIPPED = ROOT / "gptbook" / "assets" / "novels"


def grid(
    name: str,  # of a log
) -> list[dict]:
    "The records of a log, without its first line."
    with open(RESULTS / f"{name}.jsonl", encoding="utf-8") as lines:
        next(lines)
        return [json.loads(line) for line in lines]


def expected_loss() -> dict[str, float | list[float]]:
    "Both kinds of held-out text, by L(N, D) fitted to the study, with 90% of the runs to come."
    found: dict[str, float | list[float]] = {}
    runs = [run for run in grid("study") if run["series"] == "grid" and run["steps"] >= SHORTEST]
    points = np.array([(run["non_embedding"], run["tokens"]) for run in runs])
    mine = (count_costs(RUN.config).non_embedding, RUN.tokens)
    for kind in BOTH:
        law = fit_scaling_law(points, np.array([run[kind] for run in runs]))
        found[kind] = float(law(mine))
        found[f"{kind}_90"] = [float(end) for end in law.interval(mine)]
    return found


def expected_scores(
    bits: float,  # of new authors
) -> dict[str, float]:
    "Log-odds of each score along a line against the loss, through the study's best runs."
    panel = {record["name"]: record for record in grid("panel")}
    runs = [run for run in grid("study") if run["name"] in panel]
    best = sorted(runs, key=lambda run: run["new_authors_bits"])[:NEAREST]
    loss = [run["new_authors_bits"] for run in best]
    found = {}
    for score in SCORES:
        odds = [math.log(s / (1 - s)) for s in (panel[run["name"]][score] for run in best)]
        slope, level = np.polyfit(loss, odds, 1)
        found[score] = 1 / (1 + math.exp(-(slope * bits + level)))
    return found


def seconds_a_step(
    folder: Path,  # of `study.prepare`
) -> float:
    "The median of a few steps on this machine."
    torch.set_num_threads(THREADS)
    model = new_model(RUN.config, RUN.seed)
    data = TokenDataset.open(folder / "train.bin", CONTEXT)
    how = TrainConfig(
        steps=8, batch_size=RUN.batch_size, learning_rate=RUN.learning_rate, precision="auto"
    )
    ends: list[float] = []
    trainer = Trainer(model, data, config=how, callbacks=[lambda *_: ends.append(time.time())])
    trainer.fit(progress_bar=False)
    return float(np.median(np.diff(ends)[2:]))


def expect(
    log: Log,
) -> None:
    "Write down what will come."
    if log.find(kind="expected"):
        raise SystemExit("the prediction is made already; make the run, or choose another --out")
    loss = expected_loss()
    a_step = seconds_a_step(prepare())
    record = {"kind": "expected", "date": datetime.datetime.now().isoformat(timespec="minutes")}
    facts = {"name": RUN.name, "layers": RUN.layers, "channels": RUN.channels}
    facts |= {"tokens": RUN.tokens, "steps": RUN.steps, "flops": RUN.flops}
    record |= facts | loss | expected_scores(float(loss["new_authors_bits"]))
    costs = count_costs(RUN.config, RUN.batch_size, precision="bf16")
    log.add(record | {"seconds": a_step * RUN.steps, "memory": costs.memory})


def peak() -> int:  # bytes
    "The most memory that this process has had."
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else 1024 * size


def warm_up(
    folder: Path,  # of `study.prepare`
) -> None:
    "Everything that a process holds whatever it trains: one step of the smallest model."
    small = Run("warm-up", 2, 32, 10_000)
    data = TokenDataset.open(folder / "train.bin", CONTEXT)
    how = TrainConfig(steps=2, batch_size=1, precision="auto")
    Trainer(new_model(small.config, 0), data, config=how).fit(progress_bar=False)


def run(
    log: Log,
    models: Path,
) -> None:
    "Make the run, and measure what was predicted."
    if not log.find(kind="expected"):
        raise SystemExit("nothing was predicted yet: python -m experiments.prediction expect")
    folder = prepare()
    torch.set_num_threads(THREADS)
    warm_up(folder)
    before = peak()
    made = make(RUN, folder, models, THREADS, quick=False)
    memory = peak() - before
    scores = measure_folder(models / RUN.name, quick=False, threads=THREADS)
    log.add({"kind": "measured"} | made | scores | {"memory": memory})


def ship(
    log: Log,
    models: Path,
) -> None:
    "Write the model in half precision to gptbook/assets/novels."
    (made,) = log.find(kind="measured")
    model, tokenizer = gptbook.load(str(models / RUN.name))
    gptbook.save(model.half(), tokenizer, SHIPPED)
    size = (SHIPPED / "model.safetensors").stat().st_size
    lines = [
        "# novels\n",
        f"The model that comes with `gptbook`: {made['layers']} layers of {made['channels']} channels, "
        f"{made['parameters']:,} parameters, a context of {CONTEXT} tokens and a byte-level BPE "
        f"vocabulary of {VOCABULARY:,}; {size / 1e6:.1f} MB in float16.\n",
        "| | |",
        "|---|---|",
        "| data | corpus `novels`: 148 books in the public domain, those of seven authors held out |",
        f"| recipe | chapter 07's: Muon, batches of {made['batch_size']} × {CONTEXT} tokens, rate "
        f"{made['learning_rate']:.4f}, {made['steps']:,} steps, {made['tokens']:,} tokens; seed {made['seed']} |",
        f"| compute | {made['flops']:.2e} floating-point operations, {made['seconds']:,.0f} seconds on "
        f"{made['threads']} cores |",
        f"| loss | {made['validation_bits']:.3f} bits per byte on new text by known authors, "
        f"{made['new_authors_bits']:.3f} by new ones |",
        f"| scores | words {made['words']:.1%}; grammar of neighbours {made['nearby']:.1%}, across other "
        f"nouns {made['across']:.1%}; next sentence {made['sense']:.1%} (chapter 08) |",
        "| made by | `python -m experiments.prediction make`, logged in `nbs/results/prediction.jsonl` |",
        "\nThe books are in the public domain; the model has the licence of the package, Apache-2.0. "
        "It writes like novels of the 18th to the early 20th century, prejudices included, and knows no facts.",
    ]
    (SHIPPED / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{SHIPPED.relative_to(ROOT)}: {size / 1e6:.1f} MB")


def main() -> None:
    parser = arguments(__doc__, threads=THREADS)
    parser.add_argument("what", choices=("expect", "make", "ship"))
    home = ROOT / "runs" / "study"
    parser.add_argument("--models", type=Path, default=home, help="where the model stays")
    o = parser.parse_args()
    o.resume = o.resume or o.what != "expect"  # a line more in the same log
    log = Log("prediction", o, command_line("prediction", sys.argv[1:]))
    log.begin(context=CONTEXT, vocabulary=VOCABULARY, version=gptbook.__version__)
    if o.what == "ship":
        return ship(log, o.models)
    expect(log) if o.what == "expect" else run(log, o.models)
    log.finish()


if __name__ == "__main__":
    main()
