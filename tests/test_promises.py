"Every promise names a test that exists."

import re

from small_book import ROOT


def test_every_promise_names_a_test():
    page = (ROOT / "nbs/promises.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?!promised|---)(.*) \| (.*) \|$", page, re.M)
    assert len(rows) > 10
    for promise, tests in rows:
        named = re.findall(r"`(\w+): (test_\w+)`", tests)
        assert named, promise
        for file, name in named:
            source = (ROOT / f"tests/test_{file}.py").read_text(encoding="utf-8")
            assert re.search(rf"^def {name}\(", source, re.M), (file, name)
