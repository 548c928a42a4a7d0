"""Old paths of modules that plugins import from: each is a module whose names are looked up when they are asked for."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

MOVED = {
    "harness.check": ("harness.records.findings", "harness.evaluation.checks"),
    "harness.copies": ("harness.release.conversions",),
    "harness.marking": ("harness.evaluation.grading",),
    "harness.measure": ("harness.plan.benchmark",),
    "harness.paths": ("harness.files",),
    "harness.report": ("harness.records.run", "harness.reports.report_json"),
    "harness.result": ("harness.records.samples", "harness.records.metrics"),
    "harness.subject": ("harness.records.models",),
    "harness.wheel": ("harness.data.pypi",),
}


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
