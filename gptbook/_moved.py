"""Old names, and where they are now. They work for one more version, with a DeprecationWarning.

Version 0.2 gave the disk, the network and other programs' formats rooms of their own. Whoever wrote
`from gptbook.data import load_text` keeps running; CHANGELOG.md has the list.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

_CORPORA = (
    "Corpus corpora fetch_package fetch_url load_text play_to_script write_tokens"  # from data
)
MOVED: dict[str, dict[str, str]] = {  # module: old name: its place now
    "data": {
        **{name: f"corpora.{name}" for name in _CORPORA.split()},
        **{name: f"files.{name}" for name in ("atomic", "cache_folder", "file_sha256")},
    },
    "tokenizer": {
        **{name: f"corpora.{name}" for name in ("read_blocks", "count_file", "encode_file")},
        **{name: f"pretrained.{name}" for name in ("from_vocabulary", "load_tokenizer")},
        "DIGITS_APART_SPLIT": "pretrained.DIGITS_APART_SPLIT",
        "NUMBERS_APART_SPLIT": "pretrained.NUMBERS_APART_SPLIT",
        "TokenView": "explore.TokenView",
        "show_tokens": "explore.show_tokens",
    },
    "training": {
        **{name: f"runs.{name}" for name in ("LivePlot", "TensorBoard", "plot_losses")},
        "learning_rate_share": "training.learning_rate_factor",
    },
    "generation": {
        **{
            n: f"decoding.{n}"
            for n in ("CompiledGPT", "Int8Linear", "compile_decoding", "quantize")
        },
        "shape_logits": "generation.warp_logits",
    },
    "transfer": {"finetune_flops": "training.training_flops"},
    "distributed": {
        "Context": "distributed.ProcessGroup",
        "LOST": "distributed.LOST_CONNECTION",
    },
    "cli": {
        **{n: f"launch.{n}" for n in ("NO_LIMIT", "choose_device", "choose_precision")},
        "open_tokenizer": "pretrained.load_tokenizer",
        "open_run": "launch.open_run",
    },
}


class _Loader(SourceFileLoader):
    "Loads a module, and gives it an answer to its old names."

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        moved = MOVED[module.__name__.rpartition(".")[2]]

        def find(name: str) -> Any:
            if name not in moved:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            place, _, new = moved[name].rpartition(".")
            told = f"{module.__name__}.{name} is gptbook.{place}.{new} now"
            warnings.warn(told, DeprecationWarning, stacklevel=2)
            return getattr(importlib.import_module(f"gptbook.{place}"), new)

        module.__dict__["__getattr__"] = find


class _Finder(MetaPathFinder):
    "Finds the modules that had other names in them."

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        if package != "gptbook" or name not in MOVED:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


def install() -> None:
    "Answer to old names from now on."
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
