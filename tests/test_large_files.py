"""Files larger than memory: a tokenizer that is trained on one, encodes one, and a dataset that is one."""

import json
import os
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptbook.corpora import (
    _PLACES,
    _place_to_cut,
    count_file,
    encode_file,
    load_text,
    read_blocks,
    train_on_file,
)
from gptbook.data import TokenDataset
from gptbook.pretrained import DIGITS_APART_SPLIT, NUMBERS_APART_SPLIT
from gptbook.tokenizer import GPT2_SPLIT, BPETokenizer, CharTokenizer, count_pieces

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LINES = r"[^\n]*\n|[^\n]+"
PATTERNS = {
    "gpt2": GPT2_SPLIT,
    "digits": DIGITS_APART_SPLIT,
    "numbers": NUMBERS_APART_SPLIT,
    "llama3": LLAMA3_SPLIT,
    "lines": LINES,
}
SAMPLES = st.text(st.sampled_from("ab É中1.'!🙂 \n\t\u3000"), max_size=80) | st.text(
    st.characters(exclude_categories=("Cs",)), max_size=40
)


@given(
    st.lists(SAMPLES, max_size=6).map("".join), st.sampled_from(list(PATTERNS)), st.integers(1, 12)
)
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
def test_blocks_change_no_piece(tmp_path_factory, text, pattern, size):
    path = tmp_path_factory.getbasetemp() / "blocks.txt"
    path.write_text(text, encoding="utf-8", newline="")
    text = (
        text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")
    )  # as load_text reads it
    place = regex.compile(_PLACES[1 if pattern in ("llama3", "lines") else 0 if size % 2 else 2])
    blocks = list(read_blocks(path, place, size))
    split = regex.compile(PATTERNS[pattern])
    assert "".join(blocks) == text and "" not in blocks
    assert [piece for block in blocks for piece in split.findall(block)] == split.findall(text)


def test_each_pattern_has_its_place():
    for name, pattern in PATTERNS.items():
        assert (
            _place_to_cut(pattern, ["<|endoftext|>"]).pattern
            == _PLACES[name in ("llama3", "lines")]
        )
    assert _place_to_cut(GPT2_SPLIT, ["<|end of text|>"]).pattern == _PLACES[2]
    for pattern, names in ((r"(?s).{1,7}", []), (r"[^ ]+| +", []), (LINES, ["<|a\nb|>"])):
        with pytest.raises(ValueError, match="read it with load_text"):
            _place_to_cut(pattern, names)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("gptbook.corpora.read_blocks", partial(read_blocks, size=30_000))


@pytest.fixture(scope="module")
def plays(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plays") / "plays.txt"
    path.write_text(load_text("shakespeare", split="train")[:400_000], encoding="utf-8")
    return path


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS.keys())
def test_counting_a_file_is_counting_its_text(small_blocks, plays, pattern):
    assert count_file(plays, pattern) == count_pieces(plays.read_text(encoding="utf-8"), pattern)


def test_training_from_a_file_is_training_from_its_text(small_blocks, tmp_path, plays):
    text = plays.read_text(encoding="utf-8")
    assert train_on_file(plays, 600).merges == BPETokenizer.train(text, 600).merges
    path = tmp_path / "documents.txt"
    path.write_text(
        "<|endoftext|>".join(text[i : i + 777] for i in range(0, len(text), 777)), encoding="utf-8"
    )
    from_file, from_text = (
        train_on_file(path, 600),
        BPETokenizer.train(path.read_text(encoding="utf-8"), 600),
    )
    assert from_file.merges == from_text.merges


def test_encoding_a_file_is_encoding_its_text(small_blocks, tmp_path, plays):
    text = plays.read_text(encoding="utf-8")[:150_000]
    text = (
        "<|endoftext|>".join(text[i : i + 999] for i in range(0, len(text), 999))
        + "\r\n人人生而自由 🙂\r"
    )
    path = tmp_path / "documents.txt"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())  # with a byte order mark
    text = load_text(path)
    for tokenizer in (
        BPETokenizer.train(text, 500),
        BPETokenizer.from_pretrained("gpt2"),
        CharTokenizer.train(text),
    ):
        for allowed in ((), "all") if tokenizer.special_tokens else ((),):
            data = TokenDataset.open(
                encode_file(tokenizer, path, tmp_path / "ids.bin", allowed), 16
            )
            assert data.ids.tolist() == tokenizer.encode(text, allowed)
            assert data.ids.dtype == np.uint16 and data.n_bytes == len(text.encode())


def test_large_vocabularies_take_four_bytes(tmp_path, plays):
    wide = BPETokenizer([], {"<|far|>": 70_000})
    assert (
        TokenDataset.open(encode_file(wide, plays, tmp_path / "ids.bin"), 16).ids.dtype == np.uint32
    )


def test_what_is_wrong_with_a_file_is_said(tmp_path, plays):
    latin = tmp_path / "latin.txt"
    latin.write_bytes("Où? ".encode("latin-1") * 100)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8"):
        train_on_file(latin, 300)
    with pytest.raises(ValueError, match="the corpus is empty"):
        train_on_file(tmp_path / "empty.txt", 300)
    with pytest.raises(FileNotFoundError):
        train_on_file(tmp_path / "none.txt", 300)
    with pytest.raises(ValueError, match="not in the alphabet"):
        encode_file(CharTokenizer("abc"), plays, tmp_path / "ids.bin")
    assert not list(tmp_path.glob("*ids.bin*"))


def in_a_process_of_its_own(code: str, *arguments) -> dict:
    "Run code that prints a JSON object in its last line."
    start = """
        import json, resource, sys
        def memory():  # of this process and the largest of its children, in MB
            return {k: resource.getrusage(w).ru_maxrss / 1000 for k, w in
                    (("self", resource.RUSAGE_SELF), ("children", resource.RUSAGE_CHILDREN))}
        """
    code = textwrap.dedent(start) + textwrap.dedent(code)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads memory as Linux reports it")
def test_a_longer_file_takes_no_more_memory(tmp_path, plays):
    text = plays.read_text(encoding="utf-8")
    for name, n_bytes in (("small.txt", 8_000_000), ("large.txt", 24_000_000)):
        (tmp_path / name).write_text(text * (n_bytes // len(text) + 1), encoding="utf-8")
    peaks = in_a_process_of_its_own(
        """
        from pathlib import Path
        from gptbook import corpora as t
        from functools import partial
        t.read_blocks = partial(t.read_blocks, size=1 << 19)
        peaks = []
        for name in ("small.txt", "large.txt"):
            path = Path(sys.argv[1], name)
            tokenizer = t.train_on_file(path, 1000)
            t.encode_file(tokenizer, path, path.with_suffix(".bin"))
            peaks.append(memory())
        print(json.dumps(peaks))
        """,
        tmp_path,
    )
    small, large = peaks
    assert large["self"] < small["self"] + 16 and large["children"] < small["children"] + 24, (
        peaks
    )  # MB; the file grew by 16


@pytest.mark.skipif(sys.platform != "linux", reason="reads memory as Linux reports it")
def test_a_token_file_larger_than_memory_trains_without_being_read(tmp_path):
    tokens = 20_000_000_000
    path = tmp_path / "ids.bin"
    path.touch()
    os.truncate(path, 2 * tokens)  # 40 GB of zeros that take no room on the disk
    facts = {"format": "gptbook tokens 1", "dtype": "<u2", "tokens": tokens, "bytes": 3 * tokens}
    path.with_name("ids.bin.json").write_text(json.dumps(facts))
    found = in_a_process_of_its_own(
        """
        import time, torch
        from gptbook.data import TokenDataset
        from gptbook.model import GPT, GPTConfig
        from gptbook.training import TrainConfig, Trainer
        tiny = GPTConfig(vocab_size=64, block_size=64, n_layer=1, n_head=1, n_embd=8)
        few = TokenDataset(torch.zeros(1000, dtype=torch.long), 64)
        def train(data):
            Trainer(GPT(tiny), data, few, TrainConfig(steps=20, batch_size=8, warmup=2)).fit()
        train(few)
        before = memory()["self"]
        start = time.perf_counter()
        data = TokenDataset.open(sys.argv[1], 64)
        opening = time.perf_counter() - start
        train(data)
        times = []
        for _ in range(50):
            start = time.perf_counter()
            data.batch(16)
            times.append(time.perf_counter() - start)
        next(data.windows(8)), next(data.windows(8, max_windows=16))
        print(json.dumps({"opening": opening, "batch": sorted(times)[25], "grown": memory()["self"] - before, "tokens": len(data)}))
        """,
        path,
    )
    assert found["tokens"] == tokens and found["opening"] < 1
    assert found["grown"] < 100, found  # MB; the file has 40,000
    assert found["batch"] < 0.05, found  # seconds, from places never read before
