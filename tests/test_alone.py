"Two processes and one folder, processes that were killed, and files that declare too much."

import json
import os
import subprocess
import sys
import zlib

import pytest
import torch
from small_book import ROOT

from gptbook.data import TokenDataset
from gptbook.files import _HOST, atomic, hold_folder, release_folder
from gptbook.model import GPT, GPTConfig
from gptbook.pretrained import chat_prompt, load_pretrained, load_tokenizer
from gptbook.runs import new_run_folder, read_tensors, write_tensors
from gptbook.tokenizer import BPETokenizer

HOLD = "import sys, time; from gptbook.files import hold_folder; hold_folder(sys.argv[1]); "


def other(code, *words):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, text=True
    )


def test_the_second_in_a_folder_is_refused_until_the_first_has_died(tmp_path):
    first = other(HOLD + "print('held', flush=True); time.sleep(60)", tmp_path)
    assert first.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="another process is at work"):
        hold_folder(tmp_path)
    with pytest.raises(ValueError, match="another process is at work"):
        new_run_folder(str(tmp_path), "run")
    first.kill()
    first.wait()
    hold_folder(tmp_path)  # the lock has gone with its process
    hold_folder(tmp_path)  # one's own does not count
    release_folder(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_a_run_is_held_from_the_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for out in ("mine", None):
        folder = new_run_folder(out, "run").absolute()
        code = "import sys; from gptbook.files import hold_folder\ntry: hold_folder(sys.argv[1])\n"
        code += "except ValueError: print('no')"
        assert other(code, folder).communicate()[0] == "no\n"
        release_folder(folder)
        assert other(code, folder).communicate()[0] == ""


@pytest.mark.skipif(os.name == "nt", reason="processes cannot be asked there")
def test_only_leftovers_of_dead_processes_are_cleared(tmp_path):
    dead = other("pass")
    dead.wait()
    names = {
        "dead": f".a.json.{_HOST}.{dead.pid}.abcdef.tmp",
        "alive": f".a.json.{_HOST}.{os.getpid()}.abcdef.tmp",
        "another file": f".b.json.{_HOST}.{dead.pid}.abcdef.tmp",
        "another machine": f".a.json.{zlib.crc32(b'elsewhere'):08x}.{dead.pid}.abcdef.tmp",
        "the user's": ".a.json.mine.tmp",
    }
    for name in names.values():
        (tmp_path / name).write_text("left")
    with atomic(tmp_path / "a.json") as temporary:
        temporary.write_text("{}")
    left = {kind for kind, name in names.items() if (tmp_path / name).exists()}
    assert left == names.keys() - {"dead"} and (tmp_path / "a.json").read_text() == "{}"


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    GPT(GPTConfig(97, 32, 2, 2, 64, position="sinusoidal")).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    "change",
    [
        {"n_layer": 10**6},
        {"vocab_size": 10**12},
        {"vocab_size": 10**30},
        {"n_embd": 2**20},
        {"block_size": 10**9},
        {"n_hidden": 10**15},
    ],
)
def test_a_model_that_its_weights_cannot_fill_is_refused_at_once(model, change):
    config = model / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(ValueError, match="holds|asks for"):
        load_pretrained(model)


@pytest.mark.parametrize(
    "template, said",
    [
        ("{{ 1/0 }}", "division"),
        ("{% if 1 %}" * 3000, "recursion"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}", "end"),
        ("{{ messages[9].content.x.y }}", "no element"),
    ],
)
def test_a_template_that_fails_or_does_not_end_is_a_sentence(model, template, said):
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    with pytest.raises(ValueError, match=f"chat template of .* fails .*{said}"):
        chat_prompt(model, "hello")


@pytest.mark.parametrize("facts", [{"eos_token": []}, {"eos_token": 5}, {"eos_token": {"x": 1}}])
def test_an_end_of_text_that_is_no_text_is_refused(tmp_path, facts):
    BPETokenizer.train("hello world " * 20, 260).save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(facts))
    if facts["eos_token"] == {"x": 1}:  # nothing is said: the tokenizer's own
        assert load_tokenizer(tmp_path).eos_id is not None
    else:
        with pytest.raises(ValueError, match="not a text"):
            load_tokenizer(tmp_path)


def test_a_turned_bit_is_noticed(tmp_path):
    torch.manual_seed(0)
    model = GPT(GPTConfig(97, 32, 2, 2, 64))
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    assert load_pretrained(tmp_path).config == model.config
    for place in (len(whole) - 1, len(whole) // 2, len(whole) - 5000):
        data = bytearray(whole)
        data[place] ^= 1  # in the last digits of a number: it still is one
        path.write_bytes(data)
        with pytest.raises(ValueError, match="damaged"):
            load_pretrained(tmp_path)


def test_a_turned_bit_in_a_checkpoint_is_noticed(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {"w": torch.arange(100.0)}, {"step": 1})
    data = bytearray((tmp_path / "a.safetensors").read_bytes())
    data[-50] ^= 4
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        read_tensors(tmp_path / "a.safetensors")


def test_a_turned_digit_in_the_facts_of_a_checkpoint_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"w": torch.arange(100.0)}, {"step": 123456})
    data = path.read_bytes()
    path.write_bytes(data.replace(b"123456", b"123457"))
    with pytest.raises(ValueError, match="facts are not those that were written"):
        read_tensors(path)
    path.write_bytes(data.replace(b'"sha256"', b'"sha257"'))  # the name of the other hash
    with pytest.raises(ValueError, match="not a whole file"):
        read_tensors(path)
    path.write_bytes(data)
    assert read_tensors(path)[0] == {"step": 123456}


def test_a_turned_bit_in_token_ids_is_noticed(tmp_path):
    path = tmp_path / "ids.bin"
    TokenDataset(torch.arange(1000) % 50, 8, 3000).save(path)
    assert len(TokenDataset.open(path, 8)) == 1000
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        TokenDataset.open(path, 8)
    facts = json.loads((tmp_path / "ids.bin.json").read_text())
    (tmp_path / "ids.bin.json").write_text(
        json.dumps({k: facts[k] for k in facts if k != "sha256"})
    )
    assert len(TokenDataset.open(path, 8)) == 1000  # an older file does not say


def test_nothing_grows_in_a_few_rounds():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.soak", "--quick"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0 and "6 rounds, and nothing grew" in done.stdout, done.stderr
