"The page of symptoms quotes its log."

import json
import math
import re

from small_book import ROOT

ROWS = {  # as the page says it: as the log does
    "nothing": "healthy",
    "learning rate 30 times too high": "rate 30 times too high",
    "learning rate 30 times too low": "rate 30 times too low",
    "first weights 50 times too large": "loud first weights",
    "targets in another order": "targets shuffled",
    "targets not shifted by one": "targets not shifted",
    "no causal mask, in testing either": "no causal mask",
    "too little text: 4,000 tokens": "little text",
    "held-out text from another tokenizer": "another tokenizer held out",
}


def test_the_numbers_are_those_of_the_log():
    page = (ROOT / "nbs/symptoms.md").read_text(encoding="utf-8")
    lines = (ROOT / "nbs/results/symptoms.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    records = [json.loads(line) for line in lines]
    for said, case in ROWS.items():
        runs = [r for r in records if r["case"] == case]
        assert sorted(r["seed"] for r in runs) == [0, 1, 2]
        row = re.search(rf"^\| {re.escape(said)} \|(.*)\|$", page, re.M)
        assert row, said
        shown = [float(cell) for cell in row[1].split("|")]
        wanted = [sum(r[key] for r in runs) / 3 for key in ("first", "train", "validation")]
        assert all(abs(a - b) < 0.006 for a, b in zip(shown, wanted)), (said, wanted)
    assert len(re.findall(r"^\| (?!what|---)", page, re.M)) - 1 <= len(ROWS)


def test_what_the_page_says_follows_from_them():
    lines = (ROOT / "nbs/results/symptoms.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    runs = {}
    for line in lines:
        record = json.loads(line)
        runs.setdefault(record["case"], []).append(record)
    nothing = math.log(2048)
    assert all(abs(r["first"] - nothing) < 0.05 for r in runs["healthy"])
    assert all(r["first"] > 20 for r in runs["loud first weights"])
    assert all(r["first"] < nothing - 1 for r in runs["targets not shifted"])
    assert all(abs(r["train"] - 6.1) < 0.1 for r in runs["targets shuffled"])
    assert all(r["train"] < 2 and r["validation"] < 2 for r in runs["no causal mask"])
    for case in ("little text", "another tokenizer held out", "targets not shifted"):
        assert all(r["validation"] > nothing and r["validation"] > r["best"] for r in runs[case])
