"""Parts of the harness that lie outside its core, in plugins of the same distribution, found by their entry points."""

from __future__ import annotations

from functools import cache
from typing import Any

DISTRIBUTION = "finetune-harness"
GROUP = "harness.parts"
HARNESSFILE = "harnessfile.py"  # beside a suite: plugins of its own


@cache
def part(name: str) -> Any:
    """Import a part by its name; what another distribution offers under this name is never looked at."""
    from importlib.metadata import distribution  # it brings email and socket, which `harness verify` does without

    (point,) = distribution(DISTRIBUTION).entry_points.select(group=GROUP, name=name)
    return point.load()
