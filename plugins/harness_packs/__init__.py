"""Rows that come with the harness: packs, which show forgetting without a hub, and small sources of data.

`[[eval]] use = "pack"`, and `data = "builtin:capitals"` or `"builtin:topics"`.
"""

from __future__ import annotations

from typing import Any

from harness import Evaluator, hookimpl
from harness_packs.pack import pack
from harness_packs.store import read_builtin


@hookimpl
def harness_evaluators() -> dict[str, Evaluator]:
    return {"pack": pack}


@hookimpl
def harness_read_samples(path: str) -> list[dict[str, Any]] | None:
    """Return the rows of `builtin:NAME`, in a fixed random order."""
    return read_builtin(path)
