"Many inputs that nobody would think of, the same ones every time; `make fuzz` tries others, for longer."

import json

import pytest
from fuzzing import CORPUS, KINDS
from hypothesis import HealthCheck, given, settings


@pytest.mark.parametrize("kind", KINDS)
def test_only_documented_errors_and_the_same_numbers(kind):
    strategy, check = KINDS[kind]
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

    @settings(
        max_examples=100,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=quiet,
    )
    @given(strategy)
    def many(case):
        check(case)

    many()


def test_what_once_failed_does_not_fail_again():
    for path in sorted(CORPUS.glob("*.jsonl")):
        _, check = KINDS[path.stem]
        for line in path.read_text(encoding="utf-8").splitlines():
            check(json.loads(line))
