"""Checks for a required system and modules, before anything is opened.

Missing modules are reported with the packages to install.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from harness import plugin_errors
from harness.errors import UsageError, missing_modules_message

if TYPE_CHECKING:
    from harness.collection.collection import Collection

STATISTICS = ("numpy", "scipy")
NEEDS_POSIX = "runs models, which needs Linux or macOS; on Windows use WSL (gate, verify, show and init run on Windows)"


def check_requirements(collection: Collection) -> None:
    """Raise UsageError if the system runs no models, or a required module is not installed."""
    if not hasattr(os, "fork"):
        raise UsageError(f"{collection.suite.path}: {NEEDS_POSIX}")
    if lacking := find_missing_modules(collection):
        raise UsageError(f"{collection.suite.path}: {missing_modules_message(*lacking)}")


def find_missing_modules(collection: Collection) -> list[str]:
    """Return the required modules that are not installed.

    Modules are required by the statistics and by the plugins in use.
    """
    suite, plugins = collection.suite, collection.plugins
    models = [suite.model, *(s.model for s in suite.subjects.values() if s.use)]
    used = [(plugins.find("loader", m.use).capabilities.needs, m.options) for m in models]
    if suite.adapter:
        used.append((plugins.find("adapter", suite.adapter.use).capabilities.needs, suite.adapter.options))
    if suite.train and suite.trains:
        used.append((plugins.find("trainer", suite.train.use).capabilities.needs, suite.train.options))
    evaluated = {item.eval for item in collection.items}
    used += [(t.capabilities.needs, t.spec.options) for t in collection.tasks.values() if t.spec.name in evaluated]
    needed = [*STATISTICS]
    for needs, options in used:
        if needs:
            needed += plugin_errors.checked_items(needs, needs(dict(options)), str, "names of modules")
    return [name for name in dict.fromkeys(needed) if sys.modules.get(name) is None and find_spec(name) is None]
