"The command line as a user meets it: processes, signals, pipes, folders, and every mistake that one can make."

import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from gptbook.cli import RECIPE, main
from gptbook.generation import generate
from gptbook.model import GPT, PRESETS, GPTConfig
from gptbook.pretrained import load_tokenizer
from gptbook.runs import read_checkpoint

SMALL = [
    "--preset",
    "book-nano",
    "--vocab-size",
    "400",
    "--block-size",
    "32",
    "--batch-size",
    "4",
    "--precision",
    "fp32",
]
TEXT = "".join(
    f"ROMEO:\nLine {i}: what light through yonder window breaks? It is number {i * i}.\n\n"
    for i in range(400)
)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}


def gptbook(*words, cwd, **options) -> subprocess.CompletedProcess:
    "Run the command in a process of its own."
    options = {
        "capture_output": True,
        "text": True,
        "encoding": "utf-8",
        "env": ENVIRONMENT,
        "timeout": 300,
    } | options
    return subprocess.run([sys.executable, "-m", "gptbook", *map(str, words)], cwd=cwd, **options)


def start(*words, cwd) -> subprocess.Popen:
    "Start the command and do not wait for it."
    return subprocess.Popen(
        [sys.executable, "-m", "gptbook", *map(str, words)],
        cwd=cwd,
        env=ENVIRONMENT,
        text=True,
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for_steps(process: subprocess.Popen, run: Path, steps: int) -> None:
    "Wait until a run has logged some steps."
    log, end = run / "metrics.jsonl", time.monotonic() + 240
    while not (log.is_file() and log.read_text().count('"loss"') >= steps):
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    "A folder with a text and a finished run."
    folder = tmp_path_factory.mktemp("cli")
    (folder / "play.txt").write_text(TEXT, encoding="utf-8")
    done = gptbook("train", "--data", "play.txt", "--steps", 12, *SMALL, cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "said.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    return folder


@pytest.fixture
def here(home, monkeypatch) -> Path:
    "That folder, as the current one."
    monkeypatch.chdir(home)
    return home


def call(capsys, *words) -> tuple[int, str, str]:
    "Run the command in this process: exit code, standard output, standard error."
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return end.value.code, *capsys.readouterr()


# Help, version, names


def test_help_is_for_reading_and_does_not_load_pytorch():
    code = (
        "import sys, atexit; atexit.register(lambda: print('LOADED', sorted({'torch', 'numpy', 'matplotlib', 'tiktoken', "
        "'IPython', 'rich'} & sys.modules.keys()))); from gptbook.cli import main; main(sys.argv[1:])"
    )
    for words in (
        ["--help"],
        ["train", "--help"],
        ["--version"],
        ["nonsense"],
        ["train", "--stpes", "3"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, env=ENVIRONMENT
        )
        assert "LOADED []" in done.stdout, (words, done.stdout)
        assert done.returncode == (2 if words[-1] in ("nonsense", "3") else 0)


@pytest.mark.parametrize("command", ["train", "generate", "tokenize", "eval", "estimate", "export"])
def test_each_command_explains_itself_with_examples(command, capsys):
    code, out, _ = call(capsys, command, "--help")
    assert code == 0 and f"gptbook {command}" in out and "Examples:" in out
    assert code == 0 and command in call(capsys, "--help")[1]


def test_the_default_recipe_exists():
    assert RECIPE.preset in PRESETS and RECIPE.minutes < 5


def test_the_script_and_the_module_are_the_same_program(tmp_path):
    script = Path(sys.executable).with_name("gptbook")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == gptbook("--version", cwd=tmp_path).stdout


# Training


def test_a_run_leaves_everything_that_is_needed(home):
    run = home / "runs/play"
    assert {p.name for p in run.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "metrics.jsonl",
        "loss.png",
        "run.json",
        "checkpoint.safetensors",
    }
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert sum("loss" in r for r in records) == 12 and sum("val_loss" in r for r in records) == 13
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    said = (home / "said.txt").read_text(encoding="utf-8")
    for words in (
        "bits per byte",
        "validation",
        "gptbook generate runs/play --prompt",
        "gptbook train --resume runs/play",
    ):
        assert words in said
    assert GPT.from_pretrained(run).config.block_size == 32


def test_without_options_it_reads_shakespeare_and_never_overwrites(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("shakespeare", "shakespeare-2"):
        code, out, err = call(capsys, "train", "--steps", 1, "--preset", "book-nano", "--json")
        assert code == 0 and "4,551,804 bytes to learn from" in err, err
        result = json.loads(out)
        assert (
            result["run"] == f"runs/{name}"
            and result["steps"] == 1
            and result["stopped"] == "complete"
        )
    assert json.loads(Path("runs/shakespeare/run.json").read_text())["prompt"] == "ROMEO:"


@pytest.mark.parametrize(
    "name, text",
    [
        (
            "novel.txt",
            "话说天下大势，分久必合，合久必分。周末七国分争，并入于秦。及秦灭之后，楚、汉分争，又并入于汉。\n\n"
            * 200,
        ),
        ("code.py", "def f(x):\n\tif x > 0:\n\t\treturn f(x - 1)  # ¬∀\n" * 200),
        ("emoji.md", "🙂🙃👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301\u0308 \u200f\u202e x\u0000y\n" * 200),
        ("windows.txt", "\ufeffone\r\ntwo\r\n\r\nthree and four\r\n" * 200),
        ("one line.txt", "to be or not to be " * 1000),
    ],
)
@pytest.mark.parametrize("tokenizer", ["bpe", "characters"])
def test_any_text_will_do(tmp_path, monkeypatch, capsys, name, text, tokenizer):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(text, encoding="utf-8", newline="")
    code, out, err = call(
        capsys,
        "train",
        "--data",
        name,
        "--steps",
        2,
        "--preset",
        "book-nano",
        "--batch-size",
        2,
        "--tokenizer",
        tokenizer,
    )
    assert code == 0 and "Next:" in out, err
    run = f"runs/{Path(name).stem}"
    code, out, _ = call(capsys, "eval", run, "--json")
    assert code == 0 and 0 < json.loads(out)["bits_per_byte"] < 20
    assert call(capsys, "generate", run, "--max-new-tokens", 5)[0] == 0
    for precision in ("bf16", "int8"):
        assert (
            call(capsys, "generate", run, "--max-new-tokens", 5, "--precision", precision)[0] == 0
        )


def test_small_texts_get_small_sizes_and_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("small.txt").write_text(TEXT[:1500])
    code, _, err = call(
        capsys,
        "train",
        "--data",
        "small.txt",
        "--steps",
        1,
        "--preset",
        "book-nano",
        "--batch-size",
        2,
    )
    assert code == 0 and "instead of 128" in err and "a small text" in err
    code, _, err = call(capsys, "train", "--data", "small.txt", "--steps", 1, "--block-size", 128)
    assert code == 1 and "block_size 128" in err  # asked for, so not changed in silence
    assert [p.name for p in Path("runs").iterdir()] == [
        "small"
    ]  # and the failed run left no empty folder


def test_token_ids_from_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("play.txt").write_text(TEXT, encoding="utf-8")
    assert (
        call(capsys, "tokenize", "--train", "play.txt", "--vocab-size", 300, "--out", "vocabulary")[
            0
        ]
        == 0
    )
    code, _, err = call(
        capsys, "tokenize", "--file", "play.txt", "--tokenizer", "vocabulary", "--out", "ids.bin"
    )
    assert code == 0 and "gptbook train --data ids.bin --tokenizer vocabulary" in err
    learn = [
        "train",
        "--data",
        "ids.bin",
        "--preset",
        "book-nano",
        "--block-size",
        32,
        "--steps",
        2,
        "--device",
        "cpu",
    ]
    code, _, err = call(capsys, *learn)
    assert code == 1 and "--tokenizer" in err and not list(Path("runs").iterdir())
    code, out, err = call(capsys, *learn, "--tokenizer", "vocabulary", "--out", "run", "--json")
    assert code == 0 and "tokens to learn from" in err and json.loads(out)["bits_per_byte"] > 0
    code, out, _ = call(capsys, "train", "--resume", "run", "--steps", 4, "--json")
    assert code == 0 and json.loads(out)["steps"] == 4
    for split, size in (("validation", None), ("all", len(TEXT.encode()))):
        code, out, _ = call(capsys, "eval", "run", "--split", split, "--json")
        found = json.loads(out)
        assert code == 0 and found["bits_per_byte"] > 0 and size in (None, found["bytes"])
    assert call(capsys, "eval", "run", "--split", "test")[0] == 1
    ids = np.fromfile("ids.bin", dtype="<u2")
    ids[::2] = 299
    ids.tofile("ids.bin")
    code, _, err = call(capsys, "train", "--resume", "run", "--steps", 5)
    assert code == 1 and "was changed" in err  # its hash is another
    ids[-1] = 300
    ids.tofile("ids.bin")
    Path("ids.bin.json").write_text(  # as version 0.1 wrote it, without a hash
        json.dumps(
            {k: v for k, v in json.loads(Path("ids.bin.json").read_text()).items() if k != "sha256"}
        )
    )
    code, _, err = call(capsys, "train", "--resume", "run", "--steps", 5)
    assert code == 1 and "ids.bin is not the text" in err
    code, _, err = call(capsys, *learn, "--tokenizer", "vocabulary")
    assert code == 1 and "300" in err
    os.truncate("ids.bin", 100)
    code, _, err = call(capsys, *learn, "--tokenizer", "vocabulary")
    assert code == 1 and "cut short" in err


# Stopping and going on


def test_ctrl_c_loses_nothing(home):
    words = ["train", "--data", "play.txt", *SMALL, "--steps", 80]
    process = start(*words, "--out", "runs/stopped", cwd=home)
    wait_for_steps(process, home / "runs/stopped", 10)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err and out == ""
    assert "go on with: gptbook train --resume runs/stopped" in err
    assert {"model.safetensors", "loss.png", "checkpoint.safetensors"} <= {
        p.name for p in (home / "runs/stopped").iterdir()
    }
    step = read_checkpoint(home / "runs/stopped")[0]["step"]
    assert 10 <= step < 80
    assert gptbook("generate", "runs/stopped", "--max-new-tokens", 3, cwd=home).returncode == 0
    resumed = gptbook("train", "--resume", "runs/stopped", "--json", cwd=home)
    whole = gptbook(*words, "--out", "runs/whole", "--json", cwd=home)
    assert resumed.returncode == whole.returncode == 0, resumed.stderr + whole.stderr
    assert f"at step {step}" in resumed.stderr
    a, b = (GPT.from_pretrained(home / "runs" / name) for name in ("stopped", "whole"))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


@pytest.mark.parametrize("extra", [[], ["--lora", "--rank", "4"]], ids=["everything", "LoRA"])
def test_ctrl_c_loses_nothing_of_a_fine_tuning(home, extra):
    "Stopped and resumed is what was never stopped, to the bit; and the folder is a run's."
    name = "tuned" + "-lora" * bool(extra)
    words = ["finetune", "runs/play", "--data", "play.txt", "--steps", 60, "--block-size", 16]
    process = start(*words, *extra, "--out", f"runs/{name}", cwd=home)
    wait_for_steps(process, home / "runs" / name, 10)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err and out == ""
    assert f"go on with: gptbook finetune --resume runs/{name}" in err
    assert {"model.safetensors", "loss.png", "checkpoint.safetensors", "metrics.jsonl"} <= {
        p.name for p in (home / "runs" / name).iterdir()
    }
    step = read_checkpoint(home / "runs" / name)[0]["step"]
    assert 10 <= step < 60
    assert gptbook("generate", f"runs/{name}", "--max-new-tokens", 3, cwd=home).returncode == 0
    resumed = gptbook("finetune", "--resume", f"runs/{name}", "--json", cwd=home)
    whole = gptbook(*words, *extra, "--out", f"runs/{name}-whole", "--json", cwd=home)
    assert resumed.returncode == whole.returncode == 0, resumed.stderr + whole.stderr
    assert f"at step {step}" in resumed.stderr
    said = [json.loads(done.stdout) for done in (resumed, whole)]
    same = ("steps", "bits_per_byte", "bits_per_byte_before", "parameters_trained", "parameters")
    assert [said[0][key] for key in same] == [said[1][key] for key in same]
    a, b = (GPT.from_pretrained(home / "runs" / n) for n in (name, f"{name}-whole"))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    log = (home / "runs" / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert sum('"loss"' in line for line in log) == 60
    assert said[0]["parameters"] == sum(p.numel() for p in a.parameters())


def test_a_killed_fine_tuning_says_how_to_go_on(home):
    words = ["finetune", "runs/play", "--data", "play.txt", "--block-size", 16, "--steps", 100_000]
    process = start(*words, "--out", "runs/tuned-killed", cwd=home)
    wait_for_steps(process, home / "runs/tuned-killed", 3)
    process.kill()
    process.communicate()
    told = gptbook("generate", "runs/tuned-killed", cwd=home)
    assert told.returncode == 1 and "Traceback" not in told.stderr
    again = gptbook("finetune", "--resume", "runs/tuned-killed", cwd=home)
    assert again.returncode == 1 and "before its first checkpoint" in again.stderr, again.stderr
    checkpoint = home / "runs/tuned-killed/checkpoint.safetensors"  # as if it had lived longer
    checkpoint.write_bytes((home / "runs/play/checkpoint.safetensors").read_bytes())
    told = gptbook("generate", "runs/tuned-killed", cwd=home)
    assert "gptbook finetune --resume runs/tuned-killed" in told.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="a system without terminals that hang up")
def test_a_closed_terminal_loses_nothing(home):
    process = start(
        "train", "--data", "play.txt", *SMALL, "--steps", 100_000, "--out", "runs/hung-up", cwd=home
    )
    wait_for_steps(process, home / "runs/hung-up", 10)
    process.send_signal(signal.SIGHUP)
    err = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and "gptbook train --resume runs/hung-up" in err
    assert read_checkpoint(home / "runs/hung-up")[0]["step"] >= 10


def test_kill_before_the_first_checkpoint(home):
    words = ["train", "--data", "play.txt", *SMALL, "--out", "runs/at-once"]
    process = start(*words, "--steps", 100_000, cwd=home)
    wait_for_steps(process, home / "runs/at-once", 1)
    process.kill()
    process.communicate()
    if (home / "runs/at-once/checkpoint.safetensors").exists():
        pytest.skip("a fast machine: it had a checkpoint")
    again, resumed = (
        gptbook(*words, "--steps", 3, cwd=home),
        gptbook("train", "--resume", "runs/at-once", cwd=home),
    )
    assert again.returncode == resumed.returncode == 1
    assert "--resume" not in again.stderr and "remove" in again.stderr, again.stderr
    assert "start" in resumed.stderr, resumed.stderr


def test_kill_loses_only_what_came_after_the_last_checkpoint(home):
    process = start(
        "train", "--data", "play.txt", *SMALL, "--steps", 100_000, "--out", "runs/killed", cwd=home
    )
    wait_for_steps(process, home / "runs/killed", 101)
    process.kill()
    process.communicate()
    done = gptbook("generate", "runs/killed", cwd=home)
    assert done.returncode == 1 and "gptbook train --resume runs/killed" in done.stderr
    done = gptbook("train", "--resume", "runs/killed", "--steps", 110, "--json", cwd=home)
    assert done.returncode == 0 and json.loads(done.stdout)["steps"] >= 110, done.stderr
    assert gptbook("generate", "runs/killed", "--max-new-tokens", 3, cwd=home).returncode == 0


def test_ctrl_c_before_training_is_quiet_and_leaves_no_folder(home):
    process = start(
        "train", "--data", "play.txt", *SMALL, "--steps", 100_000, "--out", "runs/early", cwd=home
    )
    time.sleep(1)  # somewhere between the first import and the first step
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=120)[1]
    if (home / "runs/early").exists():  # a fast machine: training had begun
        assert process.returncode == 130
    else:
        assert process.returncode in (
            130,
            -signal.SIGINT,
        )  # the latter if Python itself was still starting
    if process.returncode == 130:
        assert "Traceback" not in err


def test_a_full_disk_is_a_sentence_and_the_last_checkpoint_survives(home):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, 700_000))  # the checkpoint is larger

    done = gptbook(
        "train",
        "--data",
        "play.txt",
        *SMALL,
        "--steps",
        20,
        "--out",
        "runs/full",
        cwd=home,
        preexec_fn=limit,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("gptbook: "), done.stderr
    assert "unexpected" not in done.stderr, done.stderr
    assert not list((home / "runs/full").glob("*.tmp")) and not list(
        (home / "runs/full").glob(".*.tmp")
    )


# Pipes


def test_a_closed_pipe_is_quiet(home):
    process = start("generate", "runs/play", "--max-new-tokens", 3000, cwd=home)
    process.stdout.read(5)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=120) == 0 and err == ""


def test_text_comes_while_it_is_made(home):
    process = start(
        "generate", "runs/play", "--prompt", "ROMEO:", "--max-new-tokens", 100_000, cwd=home
    )
    first = process.stdout.read(30)
    assert first.startswith("ROMEO:") and process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == "interrupted\n"


def test_text_from_a_pipe_is_read_once(tmp_path):
    words = ["train", "--data", "-", *SMALL, "--steps", "2", "--json"]
    done = gptbook(*words, cwd=tmp_path, input=TEXT)
    assert done.returncode == 0 and json.loads(done.stdout)["run"] == "runs/stdin", done.stderr
    words[2] = "/dev/stdin"
    assert gptbook(*words, cwd=tmp_path, input=TEXT).returncode == 0
    done = gptbook(
        "train", "--resume", "runs/stdin", "--steps", 3, "--json", cwd=tmp_path, input=TEXT
    )
    assert done.returncode == 0 and json.loads(done.stdout)["steps"] == 3, done.stderr
    done = gptbook("train", "--resume", "runs/stdin", "--steps", 4, cwd=tmp_path, input=TEXT[:9000])
    assert done.returncode == 1 and "is not the text" in done.stderr
    done = gptbook("train", "--data", "-", cwd=tmp_path, input="")
    assert done.returncode == 1 and "standard input is empty" in done.stderr
    done = gptbook("eval", "runs/stdin", cwd=tmp_path)
    assert done.returncode == 1 and "name the text with --data" in done.stderr


def test_line_ends_of_another_system(tmp_path):
    (tmp_path / "x.txt").write_bytes(TEXT.replace("\n", "\r\n").encode())
    done = gptbook(
        "train",
        "--data",
        "x.txt",
        "--tokenizer",
        "characters",
        *SMALL[:2],
        "--steps",
        1,
        "--out",
        "run",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    done = gptbook(
        "generate",
        "run",
        "--prompt",
        "-",
        "--max-new-tokens",
        3,
        cwd=tmp_path,
        input=b"ROMEO:\r\nLine",
        text=False,
        encoding=None,
    )
    assert done.returncode == 0 and done.stdout.startswith(b"ROMEO:\nLine"), done.stderr


def test_a_prompt_longer_than_the_context_is_continued(here, capsys):
    prompt = "what light " * 50
    code, out, err = call(
        capsys, "generate", "runs/play", "--prompt", prompt, "--max-new-tokens", 5
    )
    assert code == 0 and out.startswith(prompt) and len(out) > len(prompt) + 1
    assert "the model sees the last 32 of the prompt's" in err and err.count("\n") == 1


def test_temperature_zero_is_the_likeliest(here, capsys):
    words = ["generate", "runs/play", "--prompt", "ROMEO:", "--max-new-tokens", 20]
    assert call(capsys, *words, "--temperature", 0) == call(capsys, *words, "--top-k", 1)


def test_advice_speaks_the_command_line():
    from gptbook.console import sentence

    said = sentence(
        ValueError("use top_k=1 or block_size=32, not other=3"), ["top_k", "block_size"]
    )
    assert said == "use --top-k 1 or --block-size 32, not other=3"


def test_documents_end_where_their_mark_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mark = "<|endoftext|>"
    Path("stories.txt").write_text(f"Once upon a time there was a cat.\nThe end.\n{mark}\n" * 200)
    code, _, err = call(
        capsys, "train", "--data", "stories.txt", "--steps", 1, *SMALL, "--out", "run"
    )
    assert code == 0, err
    assert (
        call(capsys, "tokenize", "--file", "stories.txt", "--tokenizer", "run", "--out", "ids.bin")[
            0
        ]
        == 0
    )
    tokenizer = load_tokenizer("run")
    ids = np.fromfile("ids.bin", dtype="<u2")
    assert (ids == tokenizer.eos_id).sum() == 200
    assert not any(
        b"endof" in tokenizer.token_bytes(i)
        for i in range(256, tokenizer.vocab_size)
        if i != tokenizer.eos_id
    )
    direct, by_ids = (
        json.loads(call(capsys, "eval", "run", "--data", name, "--split", "all", "--json")[1])
        for name in ("stories.txt", "ids.bin")
    )
    assert direct["tokens"] == by_ids["tokens"] == len(ids) and direct["bytes"] == by_ids["bytes"]
    model = GPT.from_pretrained("run")
    assert model.config.vocab_size == tokenizer.vocab_size


def test_text_ends_where_the_generation_config_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("play.txt").write_text(TEXT, encoding="utf-8")
    assert call(capsys, "train", "--data", "play.txt", *SMALL, "--steps", 1, "--out", "run")[0] == 0
    words = ["generate", "run", "--prompt", "ROMEO:", "--top-k", 1, "--max-new-tokens", 20]
    whole, tokenizer = call(capsys, *words)[1], load_tokenizer("run")
    written = generate(
        GPT.from_pretrained("run"), torch.tensor([tokenizer.encode("ROMEO:")]), 20, top_k=1
    )[0].tolist()
    stop = written[-1]
    cut = written.index(stop, len(tokenizer.encode("ROMEO:")))
    Path("run/generation_config.json").write_text(
        json.dumps({"eos_token_id": [tokenizer.eos_id, stop]})
    )
    assert call(capsys, *words)[1] == tokenizer.decode(written[:cut]) + "\n" != whole


def test_file_names_that_are_not_utf8(tmp_path):
    name, out = os.fsdecode(b"sch\xf6n.txt"), os.fsdecode(b"r\xf6n")
    try:
        (tmp_path / name).write_text(TEXT, encoding="utf-8")
    except OSError:
        pytest.skip("this file system takes no such names")
    learn = ["train", "--data", name, *SMALL, "--steps", 1]
    done = gptbook(*learn, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in (
        ["generate", "runs/sch?n", "--max-new-tokens", 3],
        ["train", "--resume", "runs/sch?n", "--steps", 2],
        ["eval", "runs/sch?n"],
    ):
        done = gptbook(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    done = gptbook(*learn, "--out", out, cwd=tmp_path)  # before, and not after, hours of training
    assert done.returncode == 1 and "not UTF-8; choose another --out" in done.stderr
    assert not (tmp_path / out).exists()


def test_a_link_to_nowhere_is_a_sentence(tmp_path):
    (tmp_path / "play.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "runs").symlink_to("/nonexistent/scratch/runs")
    done = gptbook("train", "--data", "play.txt", *SMALL, "--steps", 1, cwd=tmp_path, timeout=60)
    assert (
        done.returncode == 1
        and done.stderr.splitlines()[-1].startswith("gptbook: ")
        and "runs" in done.stderr
    )


@pytest.mark.parametrize("outputs", [">&-", "2>&-", "2>/dev/full", ">&- 2>&-"])
def test_training_needs_nobody_who_listens(home, outputs):
    line = f"{shlex.quote(sys.executable)} -m gptbook train --data play.txt {' '.join(SMALL)} --steps 2 --json"
    done = subprocess.run(
        f"{line} --out unheard{abs(hash(outputs))} {outputs}",
        shell=True,
        cwd=home,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done
    assert ">&-" in outputs.split()[0] or json.loads(done.stdout)["steps"] == 2


def test_a_result_that_cannot_be_written_is_a_problem(home):
    line = f"{shlex.quote(sys.executable)} -m gptbook eval runs/play --json > /dev/full"
    done = subprocess.run(
        line, shell=True, cwd=home, env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert (
        done.returncode == 1 and "no space left" in done.stderr and "Traceback" not in done.stderr
    )


def test_a_terminal_gets_no_control_sequences(home):
    import pty

    run = home / "runs/escapes"
    shutil.copytree(home / "runs/play", run)
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(facts | {"prompt": "\x1b]0;owned\x07\x1b[31mred"}))
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "gptbook", "generate", run, "--max-new-tokens", "3"],
        env=ENVIRONMENT,
        stdin=end,
        stdout=end,
        stderr=end,
    )
    os.close(end)
    seen = b""
    while process.poll() is None or seen[-1:] != b"\n":
        try:
            seen += os.read(terminal, 4096)
        except OSError:
            break
    process.wait(timeout=60)
    assert b"\x1b" not in seen and b"\\x1b]0;owned\\x07" in seen, seen
    piped = gptbook("generate", run, "--max-new-tokens", 3, cwd=home)
    assert piped.stdout.startswith("\x1b]0;owned")  # a program gets what was written


def test_standard_input_and_a_terminal_without_letters(home):
    text = "Où est le café? 中 🙂"
    ids = gptbook("tokenize", "--ids", "-", input=text, cwd=home).stdout
    assert gptbook("tokenize", "--decode", "-", input=ids, cwd=home).stdout == text + "\n"
    plain = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = gptbook("tokenize", text, cwd=home, env=plain, encoding="ascii")
    assert done.returncode == 0 and "\\xc3|\\xb9" in done.stdout
    done = gptbook("tokenize", "-", input=b"\xff\xfe", cwd=home, text=False, encoding=None)
    assert done.returncode == 1 and b"not UTF-8" in done.stderr


def test_a_seed_repeats_a_text(here, capsys):
    words = ["generate", "runs/play", "--prompt", "ROMEO:", "--max-new-tokens", 20]
    first, again, other = (call(capsys, *words, "--seed", seed)[1] for seed in (1, 1, 2))
    assert first == again != other
    both = call(capsys, *words, "--seed", 1, "--samples", 2)[1]
    assert both == f"{first}\n---\n{other}"


# Results for scripts


def test_json_is_one_object_and_nothing_else(here, capsys):
    for words in (
        ["eval", "runs/play"],
        ["tokenize", "what light"],
        ["estimate"],
        ["tokenize", "--decode", "5 6"],
    ):
        code, out, _ = call(capsys, *words, "--json")
        assert code == 0 and isinstance(json.loads(out), dict) and out.count("\n") == 1


def test_export_can_be_used_like_a_run(here, capsys):
    shutil.rmtree("gift", ignore_errors=True)
    for dtype in ("float32", "float16", "bfloat16"):
        assert call(capsys, "export", "runs/play", f"gift/{dtype}", "--dtype", dtype)[0] == 0
        code, out, _ = call(capsys, "eval", f"gift/{dtype}", "--data", "play.txt", "--json")
        assert code == 0
        assert json.loads(out)["loss"] == pytest.approx(
            json.loads(call(capsys, "eval", "runs/play", "--json")[1])["loss"], rel=1e-2
        )
    assert {p.name for p in Path("gift/float32").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_the_included_models_work_without_a_network(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTBOOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    code, out, _ = call(capsys, "generate", "--max-new-tokens", 20, "--seed", 0)
    assert code == 0 and out.startswith("It was ") and len(out) > 20
    code, out, _ = call(capsys, "generate", "shakespeare", "--max-new-tokens", 20, "--seed", 0)
    assert code == 0 and out.startswith("ROMEO:") and len(out) > 20
    assert list(tmp_path.iterdir()) == []  # nothing was fetched, nothing was written


# Mistakes


def damage(run: Path, name: str, content: bytes | None) -> Path:
    "A copy of a run with one file replaced, or removed."
    copy = run.with_name(f"without-{name}" if content is None else f"bad-{name}")
    if not copy.exists():
        shutil.copytree(run, copy)
        (copy / name).unlink() if content is None else (copy / name).write_bytes(content)
    return copy


@pytest.mark.parametrize(
    "words, complaint",
    [
        ("train --data nowhere.txt", "no file or folder 'nowhere.txt'"),
        ("train --data empty.txt", "empty.txt is empty"),
        ("train --data blank.txt", "blank.txt is empty"),
        ("train --data one.txt", "a longer text"),
        ("train --data page.txt", "a longer text"),
        ("train --data latin.txt", "not UTF-8"),
        ("train --data emptyfolder", "holds no .txt"),
        ("train --preset enormous", "unknown preset 'enormous'"),
        ("train --data play.txt --vocab-size 3", "ask for more"),
        (
            "train --data play.txt --block-size 100000 --batch-size 1 --preset book-nano",
            "block_size 100000",
        ),
        ("train --learning-rate -1", "learning_rate is -1"),
        ("train --learning-rate nan", "learning_rate is nan"),
        ("train --momentum 1", "momentum is 1"),
        ("train --weight-decay -1", "weight_decay is -1"),
        ("train --minutes 0", "make it a positive number"),
        ("train --precision fp8", "choose one of fp32, bf16"),
        ("train --device toaster", "device 'toaster' does not work here"),
        ("train --data play.txt --tokenizer nowhere", "'nowhere' is neither a folder"),
        ("train --preset gpt2-xl --batch-size 9999", "GB of memory"),
        ("train --data play.txt --out runs/play", "overwrites nothing"),
        ("train --data play.txt --out play.txt", "overwrites nothing"),
        ("train --data play.txt --out play.txt/run", "play.txt/run (Not a directory)"),
        ("train --resume nowhere", "no checkpoint at nowhere"),
        ("train --resume runs/bad-checkpoint.safetensors", "not a whole checkpoint"),
        ("train --resume runs/bad-run.json", "run.json is damaged"),
        ("train --resume runs/play --data page.txt", "is not the text"),
        ("generate nowhere", "neither a folder nor a known model"),
        ("generate emptyfolder", "has no config.json"),
        ("generate runs/bad-config.json", "config.json is damaged: not JSON"),
        ("generate runs/bad-model.safetensors", "not a whole safetensors file"),
        ("generate runs/bad-tokenizer.json", "tokenizer.json is damaged"),
        (
            "generate runs/without-tokenizer.json",
            "has no tokenizer; give a folder that has tokenizer.json",
        ),
        (
            "generate runs/without-model.safetensors",
            "gptbook train --resume runs/without-model.safetensors",
        ),
        ("generate runs/play --temperature 1e-9", "temperature is 1e-09"),
        ("generate runs/play --temperature -1", "temperature is -1.0"),
        ("generate runs/play --temperature nan", "temperature is nan"),
        ("generate runs/play --top-p 0", "top_p is 0.0"),
        ("generate runs/play --top-p 1.01", "top_p is 1.01"),
        ("generate runs/play --top-k 0", "top_k is 0"),
        ("generate runs/play --min-p 2", "min_p is 2.0"),
        ("generate runs/play --repetition-penalty 0", "repetition_penalty is 0.0"),
        ("generate runs/play --prompt ''", "the prompt is empty"),
        ("generate runs/play --device cuda:99", "does not work here"),
        ("generate runs/play --precision int4", "choose one of fp32, bf16, int8"),
        ("eval runs/play --precision bf61", "precision is 'bf61'; choose one of fp32, bf16"),
        ("eval runs/play --precision fp16", "choose one of fp32, bf16"),
        ("eval runs/play --precision int8", "choose one of fp32, bf16"),
        ("estimate --precision int8", "choose one of fp32, bf16"),
        ("train --optimizer sgd", "optimizer is 'sgd'; choose one of muon, adamw"),
        ("train --decay quickly", "choose one of linear, cosine, constant"),
        ("train --batch-size 9 --accumulation-steps 2", "choose a divisor"),
        ("train --data tinystories", "no corpus of that name. Known corpora: shakespeare"),
        ("tokenize --file nowhere.txt", "nowhere.txt"),
        ("tokenize hello --tokenizer nowhere", "neither a folder"),
        ("tokenize --decode '1 2 99999'", "token id 99999 does not exist"),
        ("tokenize --decode '1 two'", "'two' is not a token id"),
        ("tokenize --train empty.txt --out v", "empty.txt is empty"),
        ("tokenize --train play.txt --vocab-size 9 --out v", "ask for more"),
        ("tokenize --train play.txt --out runs", "not empty"),
        ("tokenize --file play.txt --out empty.txt", "empty.txt exists"),
        ("tokenize --file nowhere.txt --out ids.bin", "nowhere.txt"),
        ("tokenize --train play.txt --out bpe", "--tokenizer bpe means something else"),
        ("eval runs/play --data nowhere.txt", "no file or folder"),
        ("eval runs/play --split test", "split is 'test'"),
        ("eval runs/play --data one.txt --split all", "1 tokens"),
        ("estimate --preset enormous", "unknown preset"),
        ("estimate --tokens 0", "tokens is 0"),
        ("export nowhere gift2", "neither a folder"),
        ("export runs/play runs/play", "not empty"),
        ("export runs/play play.txt/x", "play.txt/x (Not a directory)"),
        ("export runs/play gift2 --dtype int8", "dtype is 'int8'"),
    ],
)
def test_a_mistake_is_one_sentence(here, capsys, words, complaint):
    for name, content in (
        ("empty.txt", b""),
        ("blank.txt", b" \n\n"),
        ("one.txt", b"x"),
        ("page.txt", b"A line.\n" * 3),
        ("latin.txt", "Où".encode("latin-1") * 50),
    ):
        Path(name).write_bytes(content)
    Path("emptyfolder").mkdir(exist_ok=True)
    for name in ("checkpoint.safetensors", "model.safetensors"):
        damage(Path("runs/play"), name, Path("runs/play", name).read_bytes()[:5000])
    for name in ("config.json", "tokenizer.json", "run.json"):
        damage(Path("runs/play"), name, b'{"a": ')
    for name in ("tokenizer.json", "model.safetensors"):
        damage(Path("runs/play"), name, None)
    before = sorted(Path().rglob("*"))
    code, out, err = call(capsys, *shlex.split(words))
    last = err.splitlines()[-1]
    assert code == 1 and out == "", err
    assert last.startswith("gptbook: ") and complaint in last, err
    assert "Traceback" not in err and "unexpected" not in err
    assert sorted(Path().rglob("*")) == before, "a failed command left something behind"


@pytest.mark.parametrize(
    "words",
    [
        "train --stpes 3",
        "train --steps 0",
        "train --steps ten",
        "train --batch-size 0",
        "train play.txt",
        "nonsense",
        "train --resume runs/play --preset gpt2",
        "generate --max-new-tokens 0",
        "tokenize",
        "tokenize a --file b",
        "tokenize --train play.txt",
        "tokenize words --out ids.bin",
        "tokenize --file play.txt --out ids.bin --decode",
        "export runs/play",
        "estimate --tokens many",
        "generate --samples 0",
        "train --clip long",
        "train --steps",
        "train --minutes 1 --max-seconds 5",
        "eval runs/play --batch-size 0",
        "--nonsense",
        "tokenize --train play.txt --out v --json",
        "tokenize --train play.txt --out v --ids --decode",
        "tokenize --train play.txt --out v --tokenizer gpt2",
        "tokenize words --vocab-size 300",
        "tokenize words --ids --json",
        "tokenize 5 --decode --ids",
        "tokenize --file play.txt --train play.txt --out v",
        "tokenize --file play.txt --out v --vocab-size 300",
    ],
)
def test_wrong_usage_is_two(here, capsys, words):
    code, out, err = call(capsys, *words.split())
    assert code == 2 and out == "" and "Usage: gptbook" in err and "Traceback" not in err
    assert (
        err.startswith("gptbook: ") and err.count("\n") == 1 and not {"│", "─"} & {*err}
    )  # a sentence, not a box
    assert err.count("--help") == 1 and not Path("v").exists()


@pytest.mark.parametrize(
    "words, advice",
    [
        (
            "train --stpes 3",
            "there is no option --stpes; did you mean --steps? Usage: gptbook train --help",
        ),
        ("train --learning_rte=1", "did you mean --learning-rate?"),
        ("generate --tempreature 0.5", "did you mean --temperature?"),
        ("trian", "did you mean train?"),
        ("nonsense", "choose one of train, finetune, generate, tokenize, eval, estimate, export"),
        ("train --steps ten", "--steps is 'ten'; make it a whole number"),
        ("train --eval-windows 1.5", "--eval-windows is '1.5'; make it a whole number"),
        ("train --learning-rate fast", "--learning-rate is 'fast'; make it a number"),
        ("train --clip it's", "make it a number"),
        ("train play.txt", "nothing takes the word 'play.txt'"),
        (
            "train --data -x",
            "--data takes a value; one that begins with - stands behind =, as in --data=-x",
        ),
        ("export runs/play", "say where: a folder for the files, or --web"),
        (
            "finetune runs/play",
            "say which model learns from what: gptbook finetune RUN --data TEXT",
        ),
        ("finetune runs/play --resume runs/play", "--resume goes on with runs/play; leave out"),
        ("finetune --resume runs/play --lora", "keeps its settings; leave out --lora"),
        ("train --steps 0", "steps is 0; make it a whole number of at least 1"),
    ],
)
def test_wrong_usage_says_what_to_type(here, capsys, words, advice):
    code, _, err = call(capsys, *words.split(" "))
    assert code == 2 and advice in err, err


def test_every_option_explains_itself():
    from dataclasses import fields

    from gptbook.cli import COMMANDS

    for name, command in COMMANDS.items():
        done = gptbook(name, "--help", cwd=None, env={**ENVIRONMENT, "COLUMNS": "200"})
        for field in fields(command.options):
            at = done.stdout.find(f"--{field.name.replace('_', '-')} ")
            if at < 0:  # without a dash: a positional
                continue
            told = " ".join(done.stdout[at:].split("\n  --")[0].split("Examples:")[0].split())
            words = re.sub(r"\(default: .*?\)|--\S+|[A-Z]{3,}|\{\S+\}", "", told)
            assert len(words.split()) >= 2, (name, told)
        assert "None" not in re.sub("None: ", "", done.stdout) and "\x1b" not in done.stdout


def test_a_preset_is_the_same_model_to_estimate_and_to_train(tmp_path, monkeypatch, capsys):
    from gptbook import console
    from gptbook.cli import COMMANDS
    from gptbook.launch import model_shape

    def shape(line):
        name, *words = line.split()
        options = console.read_options(name, COMMANDS[name], words)
        return model_shape(options, console.given(words))

    for words in (
        "",
        "--preset gpt2",
        "--preset gpt-nano",
        "--preset book-small",
        "--preset openai-gpt",
        "--preset gpt2 --block-size 64",
        "--preset gpt2 --vocab-size 300",
    ):
        assert shape(f"train {words}") == shape(f"estimate {words}"), words
    assert shape("train --preset gpt2") == GPTConfig.preset("gpt2")  # the published model, whole
    assert shape("train --preset book-micro") == shape(
        "train"
    )  # to name the default changes nothing
    assert (
        shape("train").block_size == 128
        and shape("train --preset gpt2 --block-size 64").vocab_size == 50257
    )
    code, out, _ = call(capsys, "estimate", "--preset", "gpt2", "--tokens", "1M", "--json")
    assert code == 0 and json.loads(out)["parameters"] == 124_439_808


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(here, capsys):
    Path("locked").mkdir(exist_ok=True)
    Path("locked").chmod(0o500)
    code, _, err = call(capsys, "train", "--data", "play.txt", "--out", "locked/run", "--steps", 1)
    assert code == 1 and "permission denied" in err


def test_debug_shows_the_traceback(here, monkeypatch):
    with pytest.raises(FileNotFoundError):
        main(["--debug", "generate", "nowhere"])
    monkeypatch.setenv("GPTBOOK_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main(["generate", "nowhere"])


# Other people's models


def test_a_folder_in_the_hubs_layout_with_a_chat_template(tmp_path, monkeypatch, capsys):
    from gptbook.model import GPTConfig
    from gptbook.tokenizer import BPETokenizer

    monkeypatch.chdir(tmp_path)
    tokenizer = BPETokenizer.train(TEXT, 300, special_tokens=["<|endoftext|>", "<|user|>"])
    torch.manual_seed(0)
    GPT(
        GPTConfig.preset("gpt2", vocab_size=300, block_size=64, n_layer=1, n_head=2, n_embd=16)
    ).save_pretrained("theirs")
    tokenizer.save("theirs")
    code, _, said = call(capsys, "generate", "theirs", "--chat", "--prompt", "What light?")
    assert code == 1 and "has no chat template" in said
    template = "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}{{ '\\n' }}{% endif %}"
    Path("theirs/chat_template.jinja").write_text(template)
    words = ["--prompt", "What light?", "--top-k", "1", "--max-new-tokens", "5"]
    code, chatted, _ = call(capsys, "generate", "theirs", "--chat", *words)
    assert code == 0 and "What light?" not in chatted  # the answer only
    from gptbook.generation import stream_text

    ids = [tokenizer.special_tokens["<|user|>"], *tokenizer.encode("What light?\n")]
    expected = "".join(stream_text(GPT.from_pretrained("theirs"), tokenizer, ids, 5, top_k=1))
    assert chatted == expected + "\n"
    Path("theirs/chat_template.jinja").write_text(
        "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    )
    code, _, said = call(capsys, "generate", "theirs", "--chat", *words)
    assert code == 1 and "chat template" in said  # the sandbox refuses
    assert call(capsys, "generate", "theirs", "--chat")[0] == 2
    code, said, _ = call(capsys, "export", "theirs", "again")
    assert code == 0 and json.loads(Path("again/config.json").read_text())["model_type"] == "gpt2"


def test_smollm2_from_the_command_line(tmp_path):
    pytest.importorskip("gguf")
    done = gptbook(
        "generate",
        "smollm2-135m",
        "--prompt",
        "The capital of France is",
        "--top-k",
        1,
        "--max-new-tokens",
        3,
        cwd=tmp_path,
    )
    if "could not fetch" in done.stderr:
        pytest.skip(done.stderr)
    assert done.stdout.startswith("The capital of France is Paris"), done.stderr
