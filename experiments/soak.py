"""The same small things, again and again: does memory grow, do files stay open?

    python -m experiments.soak --minutes 120        (or: make soak MINUTES=120)

Each round trains a tiny model, stops it in the middle, takes it up from its checkpoint, saves it,
loads it, and lets it write. Every so many rounds the log nbs/results/soak.jsonl gets a line: memory
of the process, open files, threads. It ends with an error when any of them has grown.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

import gptbook
from experiments.log import Log, arguments, command_line
from gptbook.data import TokenDataset
from gptbook.generation import stream_text
from gptbook.model import GPT, GPTConfig
from gptbook.tokenizer import BPETokenizer
from gptbook.training import TrainConfig, Trainer

TEXT = "But, soft! what light through yonder window breaks? It is the east. " * 40
GROWTH = 1.1  # more than this between the second line of the log and the last is a leak
LEAST = 10e6  # bytes; less is how an allocator breathes
LIBRARIES = 4_000  # bytes a round: safetensors and numpy keep some 2,500, by tracemalloc


def used() -> dict[str, int]:
    "Memory, open files and threads of this process; what the system does not tell is left out."
    found = {"threads": threading.active_count()}
    if Path("/proc/self/statm").exists():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        found["memory"] = pages * os.sysconf("SC_PAGE_SIZE")
        found["files"] = len(os.listdir("/proc/self/fd"))
    return found


def one_round(
    number: int,  # which; also the seed
    folder: Path,  # empty
) -> None:
    "Train, stop, go on, save, load, write. Raises AssertionError when a run is not taken up."
    tokenizer = BPETokenizer.train(TEXT, 280, ["<|endoftext|>"])
    data = TokenDataset.from_text(TEXT, tokenizer, 16)

    def trainer() -> Trainer:
        torch.manual_seed(number)
        model = GPT(GPTConfig(tokenizer.vocab_size, 16, 1, 2, 16))
        how = TrainConfig(steps=6, batch_size=2, checkpoint_every=2, seed=number)
        return Trainer(model, data, data, how, folder / "run")

    def stop(at: Trainer, record: dict) -> None:
        if at.step == 3:
            at.stopped = "interrupted"

    first = trainer()
    first.callbacks.append(stop)
    first.fit(progress_bar=False)
    second = trainer()
    second.load_checkpoint()
    second.fit(progress_bar=False)
    assert second.step == 6, second.step
    gptbook.save(second.model, tokenizer, folder / "model")
    model, again = gptbook.load(str(folder / "model"))
    ids = again.encode("But, soft!")
    assert "".join(stream_text(model, again, ids, 20, seed=number)) is not None


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=120, help="for how long")
    o = parser.parse_args()
    log = Log("soak", o, command_line("soak", sys.argv[1:]))
    log.begin(minutes=o.minutes, version=gptbook.__version__)
    torch.set_num_threads(o.threads)
    start, rounds, lines = time.monotonic(), 0, []
    every = 2 if o.quick else 50
    end = start + (0.0 if o.quick else 60 * o.minutes)
    while time.monotonic() < end or len(lines) < 3:
        with tempfile.TemporaryDirectory() as folder:
            one_round(rounds, Path(folder))
        rounds += 1
        if rounds % every == 0:
            lines.append({"rounds": rounds, "seconds": time.monotonic() - start} | used())
            log.add(lines[-1])
    log.finish()
    for name in used():
        before, after = lines[1][name], lines[-1][name]
        least = LEAST + LIBRARIES * rounds if name == "memory" else 2
        if after > GROWTH * before and after - before > least:
            raise SystemExit(f"{name} grew from {before:,} to {after:,} in {rounds:,} rounds")
    print(f"{rounds:,} rounds, and nothing grew")


if __name__ == "__main__":
    main()
