"""What `--on` names: workers on this machine, or those that a plugin provides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.errors import UsageError, did_you_mean
from harness.plugins import Plugins
from harness.workers.local import Local
from harness.workers.protocol import Workers, typed

LOCAL, KIND, PYTHON = "local", "workers", "python"


def workers(on: str, plugins: Plugins, options: Mapping[str, Any]) -> Workers | None:
    """Return the workers that answer for a model of these options, not started; None for this process.

    `on` is NAME:PLACE. A model whose loader has an option `python` and is given one needs a process of that interpreter
    in any case. Raises UsageError where there are none such, or not so many.
    """
    python = options.get(PYTHON)
    name, _, place = on.partition(":")
    if not on:
        return Local("1", python) if python else None
    if name == LOCAL:
        return Local(place, python)
    known = [LOCAL, *(n for kind, n in plugins.provided if kind == KIND)]
    if name not in known:
        raise UsageError(f"{typed(on)}: there are no such workers{did_you_mean(name, known)}")
    made: Workers = plugins.find(KIND, name).function(place, python=python)
    return made
