"""Checks for required modules, before anything is opened.

Missing modules are reported with the packages to install.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from harness import plugin_errors
from harness.errors import UsageError, missing_modules_message

if TYPE_CHECKING:
    from harness.collection.collection import Collection

STATISTICS = ("numpy", "scipy")


def check_requirements(collection: Collection) -> None:
    """Raise UsageError if a required module is not installed.

    Modules are required by the statistics and by the plugins in use.
    """
    suite, asked = collection.suite, {i.eval for i in collection.items}
    models = [suite.model, *(s.model for s in suite.subjects.values() if s.use)]
    used = [(collection.plugins.find("loader", m.use).capabilities.needs, m.options) for m in models]
    used += [(t.capabilities.needs, t.spec.options) for t in collection.tasks.values() if t.spec.name in asked]
    own = (
        name
        for needs, options in used
        if needs
        for name in plugin_errors.checked_items(needs, needs(dict(options)), str, "names of modules")
    )
    needed = list(dict.fromkeys([*STATISTICS, *own]))
    if lacking := [name for name in needed if sys.modules.get(name) is None and find_spec(name) is None]:
        raise UsageError(f"{collection.suite.path}: {missing_modules_message(*lacking)}")
