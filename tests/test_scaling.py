"""The log behind chapter 08 and the script that makes it agree, and the chapter's module stays light to import."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOG = ROOT / "nbs" / "results" / "ladder.jsonl"


def test_log_holds_exactly_the_runs_of_the_script():
    ladder = runpy.run_path(str(ROOT / "tools" / "ladder.py"))
    planned = {run: run for run in ladder["runs"]()}
    assert ladder["logged"](LOG) == set(planned)
    for line in LOG.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        run = ladder["Run"](*(record[name] for name in ("series", "layers", "channels", "tokens", "seed")))
        assert record["flops"] == ladder["flops"](run) and record["command"] == ladder["command"](run)
        assert record["model"]["n_layer"] == run.layers and record["training"]["seed"] == run.seed
        assert 1 < record["val_bits_per_byte"] < 4 and record["sample"].startswith("ROMEO:")


def test_script_lists_its_runs_without_making_any():
    command = [sys.executable, str(ROOT / "tools" / "ladder.py"), "--list", "--series", "valley"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(listed) == 5 and listed[-1].startswith("in all ")


def test_module_needs_no_plotting_and_no_scipy():
    code = "import sys, gptbook.scaling; print(sorted({'matplotlib', 'scipy', 'IPython'} & {name.split('.')[0] for name in sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
