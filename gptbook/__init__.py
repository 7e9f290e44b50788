"A GPT built from nothing, one module per chapter of the book."

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from . import _moved

if TYPE_CHECKING:
    from .pretrained import load as load
    from .pretrained import save as save

try:
    __version__ = version("gptbook")
except PackageNotFoundError:  # imported from a source tree that was never installed
    __version__ = "0+unknown"

_moved.install()


def __getattr__(name: str) -> Any:  # PyTorch takes a second to import: not before it is needed
    if name in ("load", "save"):
        return getattr(import_module(".pretrained", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["__version__", "load", "save"]
