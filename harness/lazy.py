"""Module attributes that are imported on access."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def attach_lazily(package: str, file: str) -> tuple[Callable[[str], Any], list[str]]:
    """Return `__getattr__` and `__all__` of a module: what its own source imports by `import x as x`."""
    tree = ast.parse(Path(file).read_text("utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    places = {
        a.asname: (str(node.module), a.name) for node in imports for a in node.names if a.asname and a.asname[0] != "_"
    }

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, attribute = places[name]
        there = import_module(module)
        return getattr(there, attribute) if hasattr(there, attribute) else import_module(f"{module}.{attribute}")

    return find, sorted(places)
