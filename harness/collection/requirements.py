"""The modules that a run needs, looked for before anything is opened or asked, and the extras that bring them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.collection.collection import Collection

STATISTICS = ("numpy", "scipy")
RECOMPUTE = "recompute"  # the extra of the statistics alone, which is part of every other that can gate
EXTRAS = {
    **dict.fromkeys(STATISTICS, RECOMPUTE),
    **{"openai": "api", "anthropic": "judge", "jsonschema": "json", "lm_eval": "lm-eval"},
    **dict.fromkeys(("cryptography", "securesystemslib"), "sign"),
}


def check_requirements(collection: Collection) -> None:
    """Raise UsageError unless the modules of the statistics and of the plugins that are used are installed."""
    suite, asked = collection.suite, {i.eval for i in collection.items}
    models = [suite.model, *(s.model for s in suite.subjects.values() if s.use)]
    used = [(collection.plugins.find("loader", m.use).capabilities.needs, m.options) for m in models]
    used += [(t.capabilities.needs, t.spec.options) for t in collection.tasks.values() if t.spec.name in asked]
    own = (name for needs, options in used if needs for name in needs(dict(options)))
    needed = list(dict.fromkeys([*STATISTICS, *own]))
    if lacking := [name for name in needed if sys.modules.get(name) is None and find_spec(name) is None]:
        raise UsageError(f"{collection.suite.path}: {missing_modules_message(lacking, needed)}")


def missing_modules_message(lacking: Sequence[str], needed: Sequence[str] = ()) -> str:
    """Return which modules are not there, and the installation that brings them with the rest of `needed`."""
    names = [f'"{name}"' for name in lacking]
    extras = _extras(lacking) or _extras(needed) or [RECOMPUTE]
    modules = f"module{'s' if len(names) > 1 else ''} {', '.join(names)}"
    return f"needs the {modules}; pip install 'finetune-harness[{','.join(extras)}]'"


def _extras(modules: Sequence[str]) -> list[str]:
    return sorted({EXTRAS.get(m.partition(".")[0], "hf") for m in modules} - {RECOMPUTE})
