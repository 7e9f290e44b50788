"""Try inputs that nobody would think of, for as long as you like: `make fuzz SECONDS=600`.

A failure is shrunk, added to tests/fuzz_corpus, where `make test` tries it again, and shown.
"""

import argparse
import json
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fuzzing import CORPUS, KINDS  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402

ROUND = 500  # inputs of one kind, before the next has its turn


def try_kind(
    kind: str,  # one of KINDS
) -> tuple[int, dict | None]:  # how many inputs were tried; the smallest that failed, if any
    "One round of one kind, with inputs that are new each time."
    strategy, check = KINDS[kind]
    tried, last = 0, {}

    @settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def many(case: dict) -> None:
        nonlocal tried, last
        tried, last = tried + 1, case
        check(case)

    try:
        many()
    except Exception:  # whatever it is, it is what is looked for
        traceback.print_exc()
        return tried, last
    return tried, None


def main() -> int:  # the exit code
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="for how long")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS), help="of what")
    options = parser.parse_args()
    end, tried, failed = time.monotonic() + options.seconds, dict.fromkeys(options.kinds, 0), 0
    kinds = list(options.kinds)
    while kinds and time.monotonic() < end:
        for kind in list(kinds):
            count, case = try_kind(kind)
            tried[kind] += count
            if case is not None:
                failed += 1
                kinds.remove(kind)  # it would find the same again
                with open(CORPUS / f"{kind}.jsonl", "a", encoding="utf-8") as file:
                    file.write(json.dumps(case) + "\n")
            if time.monotonic() > end:
                break
    print(f"{sum(tried.values()):,} inputs, {failed} kinds failed: {tried}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
