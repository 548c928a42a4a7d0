"""The package that `harness init --plugin` writes."""

from __future__ import annotations

import re
import sys
from importlib.metadata import entry_points
from pathlib import Path
from string import Template

from harness.answers.keys import GROUP
from harness.errors import UsageError

TEMPLATES = Path(__file__).parent / "templates" / "plugin"


def package_files(name: str) -> dict[str, str]:
    """Return the files of a plugin package by path. Raises UsageError on a name that no package can have."""
    package = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name):
        raise UsageError(f'--plugin "{name}": is not a package name; want lower-case letters and digits, with "-"')
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
