#!/usr/bin/env python3
"""gptbook beside the libraries that a reader would take instead: same work, same data, one machine, one run.

    make bench                                   everything: about an hour on two cores
    python benchmarks/bench.py train generation  the suites whose names begin so
    python benchmarks/bench.py --quick           a few steps of each, to see that it works; the numbers mean nothing

Every measurement is a fresh process of `contenders.py`. The rounds alternate the order of the contenders, so that a
machine that grows slower, or hot, is unfair to nobody. The results go to benchmarks/results: `bench.json` has every
measurement, the machine and the versions; `README.md` the table; `bench.png` the picture.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
UNITS = {  # what a suite measures: its unit, and whether more is better
    "tokens_per_second": ("tokens/s", True),
    "megabytes_per_second": ("MB/s", True),
    "work_seconds": ("s", False),
    "seconds_to_loss": ("s", False),
    "gflops": ("GFLOP/s", True),
    "bits_per_byte": ("bits per byte, not rounded", False),
}


def run(suite: str, name: str, options: argparse.Namespace, seed: int) -> dict:
    "One measurement in a process of its own; what went wrong where it failed."
    command = [
        sys.executable,
        str(HERE / "contenders.py"),
        suite,
        name,
        "--seed",
        str(seed),
        *(["--quick"] * options.quick),
    ]
    started = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONNOUSERSITE": "1"}
    )
    seconds = time.perf_counter() - started
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        error = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {
            "suite": suite,
            "name": name,
            "seed": seed,
            "error": error[:300],
            "process_seconds": seconds,
        }
    return json.loads(lines[-1]) | {"seed": seed, "process_seconds": seconds}


def metric_of(record: dict) -> str:
    "The key of the number that counts in this record."
    return next(key for key in UNITS if key in record)


def measure(
    suites: dict[str, list[str]],
    rounds: dict[str, int],
    options: argparse.Namespace,
    records: list[dict],
    save: Callable[[], None],
) -> None:
    "All measurements, round by round, each round in the other direction; saved one by one, so that nothing is lost when it is stopped."
    for suite, names in suites.items():
        count = 1 if options.quick else rounds.get(suite, options.rounds)
        for i in range(count):
            for name in names if i % 2 == 0 else names[::-1]:
                record = run(suite, name, options, i)
                records.append(record)
                save()
                shown = (
                    record.get("error")
                    or f"{record[metric_of(record)]:,.4g} {UNITS[metric_of(record)][0]}"
                )
                print(f"{suite}, round {i + 1} of {count}: {name}: {shown}", flush=True)


def summarise(records: list[dict]) -> list[dict]:
    "Median and spread of each contender, and how it compares with the best of the others as they come."
    rows = []
    for suite, name in dict.fromkeys((r["suite"], r["name"]) for r in records):
        good = [r for r in records if (r["suite"], r["name"]) == (suite, name) and "error" not in r]
        if not good:
            error = next(r["error"] for r in records if (r["suite"], r["name"]) == (suite, name))
            rows.append({"suite": suite, "name": name, "error": error})
            continue
        key = metric_of(good[0])
        values = [r[key] for r in good]
        least, most = (
            min(r.get("least", r[key]) for r in good),
            max(r.get("most", r[key]) for r in good),
        )
        row = {
            "suite": suite,
            "name": name,
            "metric": key,
            "median": statistics.median(values),
            "least": least,
            "most": most,
            "runs": len(values),
            "peak_megabytes": statistics.median(r["peak_bytes"] for r in good) / 1e6,
        }
        row["failed"] = sum((r["suite"], r["name"]) == (suite, name) for r in records) - len(good)
        for extra in (
            "val_loss",
            "target",
            "utilisation",
            "input_share",
            "kept",
            "loss_change",
            "steps",
        ):
            if extra in good[0]:
                row[extra] = [r[extra] for r in good]
        rows.append(row)
    for row in rows:
        if "error" in row or not is_ours(row["name"]):
            continue
        peers = [
            r
            for r in rows
            if r["suite"] == row["suite"] and "error" not in r and not is_ours(r["name"])
        ]
        for key, rivals in (
            (
                "as_it_comes",
                [
                    r
                    for r in peers
                    if precision_of(r["name"]) == "fp32" and "compiled" not in r["name"]
                ],
            ),
            (
                "same_precision",
                [r for r in peers if precision_of(r["name"]) == precision_of(row["name"])],
            ),
        ):
            medians = [r["median"] for r in rivals]
            if medians:
                row[key] = (
                    row["median"] / max(medians)
                    if UNITS[row["metric"]][1]
                    else min(medians) / row["median"]
                )
    return rows


def is_ours(name: str) -> bool:
    "Whether a contender is gptbook."
    return name.startswith("gptbook")


def precision_of(name: str) -> str:
    "The precision that a contender's name gives; fp32 where it gives none."
    return next((p for p in ("bf16", "int8") if p in name.split(",")[0].split()), "fp32")


def table(rows: list[dict], facts: dict, options: argparse.Namespace) -> str:
    "The results as Markdown."
    versions = ", ".join(
        f"{name} {version}" for name, version in facts["versions"].items() if version
    )
    lines = [
        "# Benchmarks",
        "",
        f"Made by `make bench` on {facts['date']}: {facts['cpu']}, {facts['cores']} cores, Python {facts['python']}, {versions}.",
        "Every number is the median of fresh processes (*runs*) whose order alternated; the least and the most are those of single steps or texts,",
        "where a process measures several. Two ratios compare gptbook with",
        "the fastest of the others, above 1 is faster: *as they come* is without compiling, in fp32; *same precision* lets them compile, too.",
        "Memory is the peak of the process. What each contender does stands in `contenders.py`.",
        "",
    ]
    if options.quick:
        lines += ["**A quick run: a few steps each. These numbers mean nothing.**", ""]
    for suite in dict.fromkeys(row["suite"] for row in rows):
        found = [row for row in rows if row["suite"] == suite]
        unit = next((UNITS[row["metric"]][0] for row in found if "metric" in row), "")
        lines += [
            f"## {suite}",
            "",
            f"| | {unit} | least to most | as they come | same precision | memory, MB | runs | |",
            "|---|---:|---:|---:|---:|---:|---:|---|",
        ]
        for row in found:
            if "error" in row:
                lines.append(
                    f"| {row['name']} | – | – | – | – | – | – | failed: {row['error'].replace('|', '/')} |"
                )
                continue
            notes = []
            for extra, form in (
                ("val_loss", "validation loss {:.4f}"),
                ("utilisation", "{:.0%} of the bf16 peak"),
                ("input_share", "{:.2%} of a step"),
                ("kept", "{:.0%} of the guesses kept"),
                ("loss_change", "bits per byte {:+.2%}"),
                ("steps", "{:.0f} steps"),
            ):
                if extra in row:
                    notes.append(
                        ", ".join(form.format(value) for value in dict.fromkeys(row[extra]))
                    )
            if "target" in row:
                notes.append(
                    f"{sum(a <= b for a, b in zip(row['val_loss'], row['target']))} of {row['runs']} at {row['target'][0]} or below"
                )
            if row["failed"]:
                notes.append(f"{row['failed']} more failed")
            ratios = " | ".join(
                f"{row[key]:.2f}" if key in row else "" for key in ("as_it_comes", "same_precision")
            )
            lines.append(
                f"| {row['name']} | {row['median']:,.4g} | {row['least']:,.4g} to {row['most']:,.4g} | {ratios} | "
                f"{row['peak_megabytes']:,.0f} | {row['runs']} | {'; '.join(notes)} |"
            )
        lines.append("")
    return "\n".join(lines)


def plot(rows: list[dict], path: Path) -> None:
    "One panel for each suite, bars from the slowest to the fastest."
    from matplotlib.figure import Figure

    rows = [r for r in rows if "metric" in r]
    suites = list(dict.fromkeys(r["suite"] for r in rows))
    heights = [sum(r["suite"] == suite for r in rows) + 1.6 for suite in suites]
    figure = Figure(figsize=(8, 0.24 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(suites), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, suite in zip(panels, suites):
        found = [r for r in rows if r["suite"] == suite]
        found.sort(key=lambda r: r["median"], reverse=not UNITS[found[0]["metric"]][1])
        colors = ["tab:blue" if is_ours(r["name"]) else "0.7" for r in found]
        spread = [
            [r["median"] - r["least"] for r in found],
            [r["most"] - r["median"] for r in found],
        ]
        axes.barh(
            [r["name"] for r in found],
            [r["median"] for r in found],
            color=colors,
            xerr=spread,
            error_kw={"lw": 0.8},
        )
        axes.set_title(f"{suite}, {UNITS[found[0]['metric']][0]}", fontsize=8, loc="left")
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=70)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "suites", nargs="*", help="only suites with one of these names, or whose names begin so"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=2,
        help="processes per contender, where a suite has no number of its own (default: 2)",
    )
    parser.add_argument(
        "--only",
        metavar="TEXT",
        default="",
        help="only contenders whose names contain this; the others keep their results",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="measure nothing: write the table and the picture of what is saved",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few steps each, written to results/quick: to see that it works",
    )
    options = parser.parse_args()
    listed = json.loads(
        subprocess.run(
            [sys.executable, str(HERE / "contenders.py"), "--list"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )
    wanted = {
        s
        for p in options.suites
        for s in listed["suites"]
        if s == p or (p not in listed["suites"] and s.startswith(p))
    }
    chosen = {
        s: [n for n in names if options.only in n]
        for s, names in listed["suites"].items()
        if not options.suites or s in wanted
    }
    suites = {s: names for s, names in chosen.items() if names}
    if not suites:
        print(
            f"nothing to measure: no suite begins with {' or '.join(options.suites) or 'anything'} and has a contender with {options.only!r} "
            f"in its name; the suites are: {', '.join(listed['suites'])}",
            file=sys.stderr,
        )
        return 2
    folder = RESULTS / "quick" if options.quick else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    saved = folder / "bench.json"
    kept, facts = [], listed["facts"] | {"date": date.today().isoformat()}
    if options.report:
        suites = {}
    if saved.is_file() and (
        options.suites or options.only or options.report
    ):  # a part is measured again: the rest stays
        measured = json.loads(saved.read_text(encoding="utf-8"))["measurements"]
        kept = [r for r in measured if r["name"] not in suites.get(r["suite"], ())]
        before = json.loads(saved.read_text(encoding="utf-8"))["facts"]
        if options.report:
            facts = before
        elif kept and any(before[name] != facts[name] for name in facts if name != "date"):
            print(
                f"{saved} was measured on another machine or with other versions: measure everything, or move it away",
                file=sys.stderr,
            )
            return 2
    order, records = list(listed["suites"]), kept

    def save() -> None:
        records.sort(key=lambda r: order.index(r["suite"]) if r["suite"] in order else len(order))
        saved.write_text(
            json.dumps({"facts": facts, "measurements": records}, indent=1) + "\n", encoding="utf-8"
        )

    measure(suites, listed["rounds"], options, records, save)
    rows = summarise(records)
    (folder / "README.md").write_text(table(rows, facts, options), encoding="utf-8")
    plot(rows, folder / "bench.png")
    print(f"written to {folder}: README.md, bench.json, bench.png")
    failed = [row["name"] for row in rows if "error" in row]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
