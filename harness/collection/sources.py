"""Data files and data sets as collection reads them: each once, and remote ones only when it is time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.collection.context import Context
from harness.data.rows import is_remote, read_rows
from harness.errors import UsageError
from harness.records.frozen import isolated
from harness.suite.tables import Eval


class Sources:
    """The rows of a suite's sources."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._read: dict[str, list[dict[str, Any]]] = {}  # rows by source

    def rows(self, source: str, where: str) -> list[dict[str, Any]] | None:
        """Read a source once it may be read, and once only; None when it is remote and not yet time, or wrong."""
        if is_remote(source) and not self.context.remote:
            return None
        try:
            if source not in self._read:
                self._read[source] = read_rows(source, self.context.suite.path.parent, self._ask, where)
            return self._read[source]
        except UsageError as error:
            self.context.mistakes.found.extend(error.messages)
            return None

    def own_rows(self, brings: Any, spec: Eval) -> list[dict[str, Any]] | None:
        """Return the rows that an evaluator brings itself, once it may be slow to read them, or None."""
        if not self.context.remote:
            return None
        try:
            rows: list[dict[str, Any]] = isolated(brings(isolated(dict(spec.options)), self.context.suite.path.parent))
        except UsageError as error:
            self.context.mistakes.found.extend(f"{spec.where}: {m}" for m in error.messages)
            return None
        if not rows:
            self.context.mistakes.add(spec.where, f'"{spec.use}" has no rows; an empty evaluation proves nothing')
        return rows or None

    def _ask(self, source: str) -> list[dict[str, Any]] | None:
        found: list[dict[str, Any]] | None = self.context.plugins.hook.harness_read_samples(path=source)
        return isolated(found)


def overlap(cluster: str | None, chosen: Sequence[Mapping[str, Any]], confirm: Sequence[Mapping[str, Any]]) -> str:
    """Return in words what two splits have in common, rows or clusters, or nothing."""
    kinds: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("are in", lambda row: repr(sorted((k, v) for k, v in row.items() if k != "id")))  # whatever it is called
    ]
    if cluster and all(row.get(cluster) is not None for row in (*chosen, *confirm)):
        kinds.append((f'share their "{cluster}" with', lambda row: str(row[cluster])))
    for how, of in kinds:
        known = {of(row) for row in confirm}
        if both := [i for i, row in enumerate(chosen) if of(row) in known]:
            return f'{len(both)} of {len(chosen)} rows {how} "data", for instance row {both[0]}'
    return ""
