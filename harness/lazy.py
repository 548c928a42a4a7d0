"""Names whose modules are imported when they are asked for: of a package, and of modules under their old paths."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

# Old paths of modules that plugins import from.
MOVED = {
    "harness.check": ("harness.records.findings", "harness.evaluation.checks"),
    "harness.copies": ("harness.release.conversions",),
    "harness.marking": ("harness.evaluation.grading",),
    "harness.paths": ("harness.files",),
    "harness.report": ("harness.records.run", "harness.reports.report_json"),
    "harness.result": ("harness.records.samples", "harness.records.metrics"),
    "harness.subject": ("harness.records.models",),
    "harness.wheel": ("harness.data.pypi",),
}


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


class Moved(ModuleType):
    """A module under its old path."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):  # inspect asks all modules for their __file__, which must import none
            for place in MOVED[self.__name__]:
                if hasattr(module := import_module(place), name):
                    return getattr(module, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def keep_old_paths() -> None:
    """Let every old path be imported, as a module and as an attribute of the package."""
    for path in MOVED:
        package, _, name = path.rpartition(".")
        setattr(sys.modules[package], name, sys.modules.setdefault(path, Moved(path)))
