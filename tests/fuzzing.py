"What damaged files and strange settings look like, and what must become of them: a sentence, or the same numbers."

import json
import shutil
import tempfile
import warnings
from dataclasses import fields
from pathlib import Path

import torch
from hypothesis import strategies as st
from small_book import ROOT

from gptbook.files import read_json
from gptbook.model import GPT, GPTConfig
from gptbook.pretrained import load_pretrained, load_tokenizer, read_config
from gptbook.runs import read_checkpoint, write_checkpoint
from gptbook.settings import TrainConfig
from gptbook.tokenizer import BPETokenizer, well_formed

CORPUS = ROOT / "tests/fuzz_corpus"
DOCUMENTED = (ValueError, OSError)
TEXT = "But, soft! what light through yonder window breaks? 1623 Hä?\n" * 4

_home = tempfile.TemporaryDirectory(prefix="gptbook-fuzz-")
HOME = Path(_home.name)
SMALL = BPETokenizer.train(TEXT, 280, ["<|endoftext|>", "<|user|>"])
SHIPPED = load_tokenizer("shakespeare")
torch.manual_seed(0)
MODEL = GPT(GPTConfig(280, 8, 1, 2, 8))


def _make_sources() -> dict[str, bytes]:  # file name: content
    "Small files of this package."
    SMALL.save(HOME / "whole")
    MODEL.save_pretrained(HOME / "whole")
    facts = {"step": 3, "training": {"steps": 9}, "model": {}, "data": {}}
    write_checkpoint(HOME / "whole", facts, {"model.w": torch.arange(9.0)}, [{"loss": 1.5}])
    return {path.name: path.read_bytes() for path in (HOME / "whole").iterdir()}


SOURCES = _make_sources()

numbers = st.integers() | st.floats() | st.sampled_from([2**31, 2**63, 10**30, -1, 0])
leaves = st.none() | st.booleans() | numbers | st.text(max_size=8)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)
bytes_damage = st.fixed_dictionaries(
    {
        "turn": st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), max_size=3),
        "cut": st.none() | st.integers(0, 2**20),
    }
)
# one place, or the end: two at once can hit a number and the name of its hash, which nothing notices
one_damage = st.fixed_dictionaries(
    {
        "turn": st.tuples(st.integers(0, 2**20), st.integers(1, 255)).map(lambda one: [one]),
        "cut": st.none(),
    }
) | st.fixed_dictionaries({"turn": st.just([]), "cut": st.integers(0, 2**20)})
# a way into a tree of JSON, and what is put there; "deep": lists within lists
tree_damage = st.fixed_dictionaries(
    {
        "way": st.lists(st.integers(0, 400), min_size=1, max_size=5),
        "value": values | st.just("deep"),
    }
)


def damage_bytes(
    data: bytes,  # a whole file
    case: dict,  # which bytes to turn, where to cut; places count from the start, and wrap around
) -> bytes:
    "Turn bytes, and cut the end off."
    damaged = bytearray(data)
    for place, bits in case["turn"]:
        damaged[place % len(data)] ^= bits
    return bytes(damaged if case["cut"] is None else damaged[: case["cut"] % (len(data) + 1)])


def damage_tree(
    data: bytes,  # a JSON file
    case: dict,  # a way, and the value to put at its end
) -> bytes:
    "Replace one field of a JSON file."
    tree = node = json.loads(data)
    deep = json.loads("[" * 300 + "]" * 300)
    for depth, turn in enumerate(case["way"], 1):
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key = keys[turn % len(keys)]
        if depth == len(case["way"]) or not isinstance(node[key], dict | list) or not node[key]:
            node[key] = deep if case["value"] == "deep" else case["value"]
            break
        node = node[key]
    return json.dumps(tree).encode()


def folder_with(
    name: str,  # of the damaged file
    data: bytes,  # its content
) -> Path:
    "A whole folder but for one file."
    folder = HOME / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for other, content in SOURCES.items():
        (folder / other).write_bytes(data if other == name else content)
    return folder


def refused(
    error: BaseException,  # what was raised
    name: str,  # of the damaged file
) -> bool:
    "Whether an error is a sentence that names the file."
    return isinstance(error, DOCUMENTED) and name in str(error)


def check_text(case: dict) -> None:
    "Any text comes back, also piece by piece, and the fast way is the slow way."
    text = case["text"] * case["times"]
    for tokenizer in (SMALL, SHIPPED):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == well_formed(text)
        assert ids == tokenizer.encode_slowly(text)
        assert "".join(tokenizer.decode_stream(ids)) == well_formed(text)
        every = tokenizer.encode(text, "all")
        assert tokenizer.decode(every) == well_formed(text)


def check_tokenizer_file(case: dict) -> None:
    "A damaged tokenizer.json is refused by name, or is a tokenizer that can be used."
    damage = damage_tree if "way" in case else damage_bytes
    folder = folder_with("tokenizer.json", damage(SOURCES["tokenizer.json"], case))
    try:
        with warnings.catch_warnings(record=True):
            tokenizer = load_tokenizer(folder)
            tokenizer.decode(tokenizer.encode(TEXT))
    except Exception as error:
        if not refused(error, "tokenizer.json"):
            raise


def check_config_file(case: dict) -> None:
    "A damaged config.json is refused by name, or is a configuration that is valid."
    damage = damage_tree if "way" in case else damage_bytes
    folder = folder_with("config.json", damage(SOURCES["config.json"], case))
    try:
        with warnings.catch_warnings(record=True):
            config, _ = read_config(folder)
            assert GPTConfig(**{f.name: getattr(config, f.name) for f in fields(config)}) == config
            load_pretrained(folder)
    except Exception as error:
        if not (refused(error, "config.json") or refused(error, "model.safetensors")):
            raise


def check_settings(case: dict) -> None:
    "Settings are refused by a sentence, or made; a name that there is not, as Python says it."
    for kind in (GPTConfig, TrainConfig):
        try:
            kind(**case["settings"])
        except ValueError as error:
            assert str(error)
        except TypeError as error:
            assert kind.__name__ in str(error)


def check_weights_file(case: dict) -> None:
    "Damaged weights are refused by name, or are the very same."
    folder = folder_with("model.safetensors", damage_bytes(SOURCES["model.safetensors"], case))
    try:
        model = load_pretrained(folder)
    except Exception as error:
        if not refused(error, "model.safetensors"):
            raise
        return
    state = MODEL.state_dict()
    assert all(torch.equal(state[name], t) for name, t in model.state_dict().items())


def check_checkpoint_file(case: dict) -> None:
    "A damaged checkpoint is refused by name, or has the very same numbers."
    name = "checkpoint.safetensors"
    folder = folder_with(name, damage_bytes(SOURCES[name], case))
    try:
        _, tensors = read_checkpoint(folder)
    except Exception as error:
        if not refused(error, name):
            raise
        return
    assert torch.equal(tensors["model.w"], torch.arange(9.0))


def check_json(case: dict) -> None:
    "Whatever the bytes are: an object, or a sentence."
    path = HOME / "any.json"
    path.write_bytes(case["text"].encode("utf-8", "surrogatepass"))
    try:
        assert isinstance(read_json(path), dict)
    except Exception as error:
        if not refused(error, "any.json"):
            raise


text = st.text(max_size=60) | st.sampled_from(["<|endoftext|>", " ", "\r\n", "'s", "\u3000"])
names = st.sampled_from([f.name for kind in (GPTConfig, TrainConfig) for f in fields(kind)])
KINDS = {  # name: (what is tried, what must hold)
    "text": (st.fixed_dictionaries({"text": text, "times": st.integers(0, 20)}), check_text),
    "tokenizer": (bytes_damage | tree_damage, check_tokenizer_file),
    "config": (bytes_damage | tree_damage, check_config_file),
    "settings": (
        st.fixed_dictionaries({"settings": st.dictionaries(names | st.text(max_size=5), values)}),
        check_settings,
    ),
    "weights": (one_damage, check_weights_file),
    "checkpoint": (one_damage, check_checkpoint_file),
    "json": (st.fixed_dictionaries({"text": st.text()}), check_json),
}
