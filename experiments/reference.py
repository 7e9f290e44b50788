"""The study, small enough to come with the package: gptbook/assets/study.json.

    python -m experiments.reference

Reads nbs/results/study.jsonl, panel.jsonl and prediction.jsonl, fits chapter 08's law (8.6) to the
grid and the predicted run for both kinds of held-out text, and writes the runs, the laws with their
uncertainty, and the scores of the panel beside the loss that they came with.
"""

from __future__ import annotations

import json
import math

import numpy as np

from experiments.log import RESULTS, ROOT
from experiments.study import SHORTEST
from gptbook.files import write_json
from gptbook.scaling import ScalingLaw, fit_scaling_law

OUT = ROOT / "gptbook" / "assets" / "study.json"
KINDS = {"known": "validation_bits", "new": "new_authors_bits"}  # authors of the held-out text
SCORES = ("words", "nearby", "across", "sense")
DRAWS = 100  # laws that fit about as well


def records(
    name: str,  # of a log
) -> list[dict]:
    "A log without its first line; nothing where there is no log."
    path = RESULTS / f"{name}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.exists() else []
    return [json.loads(line) for line in lines]


def noise(
    runs: list[dict],
    kind: str,  # which loss
) -> float:
    "The spread of repeated runs, as a share of the loss."
    groups: dict[tuple, list[float]] = {}
    for run in runs:
        groups.setdefault((run["non_embedding"], run["tokens"]), []).append(math.log(run[kind]))
    squares = [np.var(group, ddof=1) for group in groups.values() if len(group) > 2]
    return float(np.sqrt(np.mean(squares)))


def packed(
    law: ScalingLaw,
) -> dict:  # what JSON can hold
    "A law as plain numbers."
    draws = [[round(float(v), 4) for v in row] for row in law.draws]
    names = ("floor", "scales", "exponents", "scatter", "fitted", "power")
    return {name: getattr(law, name) for name in names} | {"draws": draws}


def main() -> None:
    grid = [run for run in records("study") if run["series"] == "grid"]
    made = [r for r in records("prediction") if r.get("kind") == "measured"]
    panel = {record["name"]: record for record in records("panel") + made}
    long = [run for run in grid + made if run["steps"] >= SHORTEST]
    points = np.array([(run["non_embedding"], run["tokens"]) for run in long], float)
    laws = {}
    for name, kind in KINDS.items():
        losses = np.array([run[kind] for run in long])
        law = fit_scaling_law(points, losses, noise(grid, kind), draws=DRAWS, joint=True)
        laws[name] = packed(law)
    kept = ("layers", "channels", "non_embedding", "tokens", "seed", "flops", *KINDS.values())
    runs = [{key: run[key] for key in (*kept, "curve")} for run in grid + made]
    scored = [run for run in grid + made if run["name"] in panel]
    scored.sort(key=lambda run: -run["new_authors_bits"])
    scores = [
        [run["new_authors_bits"], *(round(panel[run["name"]][score], 4) for score in SCORES)]
        for run in scored
    ]
    about = (
        "Chapter 08's study: models of many sizes on 105 MB of novels; python -m experiments.study"
    )
    columns = ["bits per byte, new authors", *SCORES]
    write_json(
        OUT, {"about": about, "runs": runs, "laws": laws, "columns": columns, "scores": scores}
    )
    print(f"{OUT}: {len(runs)} runs, {OUT.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
