"""The package that `harness init --plugin` writes."""

from __future__ import annotations

import keyword
import re
import sys
from importlib.metadata import entry_points
from pathlib import Path
from string import Template

from harness.answers.keys import GROUP
from harness.artifacts.formats import DEVICES
from harness.errors import UsageError
from harness.texts.escaping import shorten_text

MAX_NAME_CHARS = 100  # of a package: its files must fit into any file system
TEMPLATES = Path(__file__).parent / "templates" / "plugin"


def package_files(name: str) -> dict[str, str]:
    """Return the files of a plugin package by path. Raises UsageError on a name that no package can have."""
    package = name.replace("-", "_")
    shown = shorten_text(name, 60)
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name):
        raise UsageError(f'--plugin "{shown}": is not a package name; want lower-case letters and digits, with "-"')
    if len(name) > MAX_NAME_CHARS:
        raise UsageError(f'--plugin "{shown}": has {len(name)} characters; choose at most {MAX_NAME_CHARS}')
    if keyword.iskeyword(package) or keyword.issoftkeyword(package):
        raise UsageError(f'--plugin "{name}": is a keyword of Python; choose another name')
    if DEVICES.fullmatch(name):
        raise UsageError(f'--plugin "{name}": is reserved on Windows; choose another name')
    if package in sys.stdlib_module_names or package.partition("_")[0] == "harness":
        raise UsageError(f'--plugin "{name}": is the name of another module; choose another name')
    if name in {point.name for point in entry_points(group=GROUP)}:
        raise UsageError(f'--plugin "{name}": is the name of an installed plugin; choose another name')
    texts = {path.name: path.read_text("utf-8") for path in TEMPLATES.iterdir() if path.is_file()}
    words = {"name": name, "package": package}
    return {
        "pyproject.toml": Template(texts["package.toml"]).substitute(words),
        "README.md": Template(texts["README.md"]).substitute(words),
        f"src/{package}/__init__.py": f'"""Plugin of finetune-harness: {name}."""\n',
        f"src/{package}/py.typed": "",
        f"src/{package}/plugin.py": texts["plugin.py"],
        "tests/test_plugin.py": texts["test_plugin.py"],
    }
