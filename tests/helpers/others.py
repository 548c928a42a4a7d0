"""Rows of other tools in tests: how `harness gate` ended, and tables with a row an answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

CLAIM = ("--worse-by-at-most", "0.02")


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


def make_asked_rows(scores: Iterable[Any], **more: Any) -> list[dict[str, Any]]:
    """Return a row a score, each with a question of its own."""
    rows = ((f"q-{i}", f"What is {i}?", str(i), score) for i, score in enumerate(scores))
    return [{**dict(zip(("id", "input", "target", "score"), row, strict=True)), **more} for row in rows]
