"""Module attributes that are imported on access."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any


def attach_lazily(package: str, file: str) -> tuple[Callable[[str], Any], list[str]]:
    """Return `__getattr__` and `__all__` of a module: what it, or the stub beside it, imports by `import x as x`."""
    stub = Path(file).with_suffix(".pyi")
    tree = ast.parse((stub if stub.is_file() else Path(file)).read_text("utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    places = {a.asname: f"{node.module}:{a.name}" for node in imports for a in node.names if a.asname}
    return lazy_getattr(package, places), sorted(places)


def lazy_getattr(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package that gives `places`: name -> module, or module:name under another name."""

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, attribute = places[name].partition(":")
        there, own = import_module(module), attribute or name
        return getattr(there, own) if hasattr(there, own) else import_module(f"{module}.{own}")

    return find
