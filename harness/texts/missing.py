"""Markers that tools write for a missing value, in lower case."""

from __future__ import annotations

MISSING_VALUES = frozenset(("", "#n/a", "<na>", "n/a", "nan", "nat", "null"))
DOUBTFUL_LABELS = MISSING_VALUES | {"na", "none"}  # sodium, and no category
MISSING_SCORES = DOUBTFUL_LABELS | {"-"}
