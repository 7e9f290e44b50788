"""How every long run of the book is logged, and taken up again after an interruption.

A log is a file of JSON lines. The first line holds the facts: the run's name, the command that made
it, versions, machine, date, settings, and at the end the time that it took. Every other line is a
record of something finished. A line is in the file whole or not at all. With --resume, what the log
holds is not made again; without, an existing log is not touched.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gptbook.files import atomic

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "nbs" / "results"


def rounded(
    record: dict[str, Any],  # what happened
) -> dict[str, Any]:  # the same, floating-point numbers with five digits
    "Make a record short."
    return {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in record.items()}


def arguments(
    doc: str | None,  # of the script: its help
    threads: int = 1,  # cores, where the user does not say
) -> argparse.ArgumentParser:
    "The options that all scripts have."
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cores = f"processor cores to use (default: {threads}; changes the last digits)"
    parser.add_argument("--threads", type=int, default=threads, help=cores)
    parser.add_argument("--out", type=Path, help="the log (default: nbs/results/NAME.jsonl)")
    resume = "go on with a log: what it holds is not made again"
    parser.add_argument("--resume", action="store_true", help=resume)
    quick = "a few steps of everything, into a temporary log: does the script work?"
    parser.add_argument("--quick", action="store_true", help=quick)
    return parser


def command_line(
    module: str,  # such as "ladder"
    given: list[str],  # its arguments
) -> str:  # what makes the same log
    "The command, without what only says where the log is."
    kept, skip = [], False
    for argument in given:
        if not (skip or argument == "--resume" or argument.startswith("--out")):
            kept.append(argument)
        skip = argument == "--out"
    return shlex.join(["python", "-m", f"experiments.{module}", *kept])


class Log:
    "A file of JSON lines; what is in it need not be done again."

    def __init__(
        self,
        name: str,  # of the run, and of the file
        options: argparse.Namespace,  # of `arguments`
        command: str,  # what makes this log
    ):
        folder = Path(tempfile.mkdtemp(prefix="gptbook-")) if options.quick else RESULTS
        self.path = options.out or folder / f"{name}.jsonl"
        self.command, self.started = command, (time.perf_counter(), time.process_time())
        self.facts: dict[str, Any] = {}
        self.records: list[dict[str, Any]] = []
        torch.set_num_threads(options.threads)
        if self.path.exists():
            if not options.resume:
                advice = "--resume goes on with it, --out PATH makes another"
                raise SystemExit(f"{self.path} exists; {advice}")
            lines = self.path.read_text(encoding="utf-8").split("\n")[:-1]  # whole lines only
            self.facts, *self.records = map(json.loads, lines)
        else:
            self.facts = {
                "run": name,
                "command": command,
                "versions": {
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "numpy": np.__version__,
                },
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} used",
                "date": datetime.date.today().isoformat(),
            }
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def begin(
        self,
        **settings: Any,  # what all records have in common
    ) -> None:
        "Write the facts. Exits when the log was made with other settings."
        for name, value in json.loads(json.dumps(settings)).items():
            if self.facts.setdefault(name, value) != value:
                other = f"it was made with another {name}"
                raise SystemExit(
                    f"{self.path} cannot be gone on with: {other}; choose another --out"
                )
        self.write()

    def find(
        self,
        **facts: Any,  # what a record must say
    ) -> list[dict[str, Any]]:
        "The records that say so."
        return [r for r in self.records if all(r.get(k) == v for k, v in facts.items())]

    def add(
        self,
        *records: dict[str, Any],  # of one finished thing
    ) -> None:
        "Append records, all of them or none."
        made = {} if self.command == self.facts["command"] else {"command": self.command}
        new = [rounded(made | record) for record in records]
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("".join(json.dumps(record) + "\n" for record in new))
            file.flush()
            os.fsync(file.fileno())
        self.records += new
        shown = {k: v for k, v in new[-1].items() if isinstance(v, str | int | float)}
        print({k: v for k, v in shown.items() if len(str(v)) < 40}, flush=True)

    def finish(
        self,
        **facts: Any,  # what is known at the end only
    ) -> None:
        "Complete the facts: results, and the time that it took."
        clock, processor = self.started
        spent = {
            "seconds": round(time.perf_counter() - clock),
            "processor_seconds": round(time.process_time() - processor),
        }
        for name, seconds in spent.items():  # a log that was gone on with has some already
            self.facts[name] = self.facts.get(name, 0) + seconds
        self.facts |= facts
        self.write()
        size = self.path.stat().st_size / 1000
        print(f"{self.path}: {len(self.records)} records, {size:.0f} KB", file=sys.stderr)

    def write(self) -> None:
        "Write the whole log anew, whole or not at all."
        with atomic(self.path) as temporary:
            lines = (json.dumps(record) + "\n" for record in (self.facts, *self.records))
            temporary.write_text("".join(lines), encoding="utf-8")
