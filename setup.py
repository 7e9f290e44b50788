"Packaging: every fact about the package is read from settings.ini, and stated nowhere else."

import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(interpolation=None)
config.read(here / "settings.ini", encoding="utf-8")
facts = config["DEFAULT"]


def lines(key: str) -> list[str]:
    "The non-empty lines of a setting."
    return [line.strip() for line in facts[key].splitlines() if line.strip()]


def readme() -> str:
    "README.md as a package index shows it: a relative address means nothing there."
    text = (here / "README.md").read_text(encoding="utf-8")
    raw = facts["repository"].replace("github.com", "raw.githubusercontent.com") + "/main/"
    page = facts["repository"] + "/blob/main/"
    text = re.sub(r"(!\[[^]]*\]\()(?!https?:|#)", rf"\g<1>{raw}", text)
    return re.sub(r"(?<!!)(\[[^]]*\]\()(?!https?:|#)", rf"\g<1>{page}", text)


extras = {name: lines(f"{name}_requirements") for name in ("viz", "pretrained", "study", "dev")}
extras["dev"] += extras["viz"] + extras["pretrained"] + extras["study"]

setup(
    name=facts["name"],
    version=facts["version"],
    description=facts["description"],
    long_description=readme(),
    long_description_content_type="text/markdown",
    author=facts["author"],
    license=facts["license"],
    license_files=["LICENSE"],
    keywords=facts["keywords"],
    classifiers=[
        "Intended Audience :: Education",
        "Intended Audience :: Developers",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=f">={facts['min_python']}",
    install_requires=lines("requirements"),
    extras_require=extras,
    packages=find_packages(include=["gptbook", "gptbook.*"]),
    package_data={"gptbook": ["py.typed", "assets/**/*"]},
    entry_points={
        "console_scripts": lines("console_scripts"),
        "nbdev": ["gptbook=gptbook._modidx:d"],
    },
    zip_safe=False,
)
