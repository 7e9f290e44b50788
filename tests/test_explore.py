"Controls where something is missing: matplotlib, ipywidgets, IPython, a kernel."

import subprocess
import sys


def run(code: str, *missing: str) -> subprocess.CompletedProcess:
    "Run code in a fresh Python in which some packages cannot be imported."
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in missing)
    command = [sys.executable, "-c", f"import sys\n{blocked}{code}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_text_controls_need_only_the_standard_library() -> None:
    code = (
        "from gptbook.explore import _Control, _read_knobs\n"
        "f = lambda n: 'x' * n\n"
        "control = _Control(f, _read_knobs(f, {'n': (1, 5, 1)}))\n"
        "assert '<pre>xxx</pre>' in control.page() and control.live() is None\n"
        "assert 'torch' not in sys.modules"
    )
    done = run(code, "matplotlib", "ipywidgets", "IPython", "PIL")
    assert done.returncode == 0, done.stderr


def test_no_display_says_what_to_install() -> None:
    code = "from gptbook.explore import explore\nexplore(lambda n: 'x', n=(1, 5, 1))"
    done = run(code, "IPython")
    assert done.returncode != 0 and "pip install 'gptbook[viz]'" in done.stderr


def test_without_a_kernel_only_the_page_half_is_shown() -> None:
    code = (
        "from IPython.utils.capture import capture_output\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "InteractiveShell.instance()\n"
        "from gptbook.explore import animate, explore\n"
        "with capture_output() as shown:\n"
        "    explore(lambda n: 'x' * n, n=(1, 5, 1))\n"
        "    animate(str, 3)\n"
        "assert [sorted(o.data) for o in shown.outputs] == 2 * [['text/html', 'text/plain']]"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_the_error_of_the_function_says_where() -> None:
    code = "from gptbook.explore import explore\nexplore(lambda n: 1 / (n - 3), n=(1, 5, 1))"
    done = run(code)
    assert "ZeroDivisionError" in done.stderr
    assert "explore called <lambda> with {'n': 3}" in done.stderr


def test_what_the_module_offers() -> None:
    import gptbook.explore

    assert set(gptbook.explore.__all__) == {"explore", "animate", "TokenView", "show_tokens"}
