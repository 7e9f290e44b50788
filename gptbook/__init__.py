"A GPT built from nothing, one module per chapter of the book."
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("gptbook")
except PackageNotFoundError:  # imported from a source tree that was never installed
    __version__ = "0+unknown"
