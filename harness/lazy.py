"""Names of a package whose modules are imported when a name is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package that gives `places`: name -> module.

    `module:name` says that the name there is another, `module:` that the module itself is meant.
    """

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, colon, attribute = places[name].partition(":")
        found = import_module(module)
        return getattr(found, attribute or name) if attribute or not colon else found

    return find
