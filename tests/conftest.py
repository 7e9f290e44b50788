"What several test files need."

import shutil
import signal
from collections.abc import Iterator

import pytest

# a suite that a shell starts in the background ignores Ctrl-C, and so would what it starts
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup


@pytest.fixture(scope="module")
def browser() -> Iterator:  # playwright.Browser
    "Chromium: the system's, or Playwright's own; without one the tests are skipped."
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next((found for name in names if (found := shutil.which(name))), None)
    with playwright.sync_playwright() as driver:
        try:
            started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium to open a page with: {str(error).splitlines()[0]}")
        yield started
        started.close()
