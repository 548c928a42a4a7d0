"""Results of a suite's earlier runs, for planning."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.collection.collection import Collection
from harness.errors import UsageError
from harness.planning.recipe_power import SeedSpread, estimate_spread
from harness.records.claims.gate import Gate
from harness.records.run import Run
from harness.records.samples import Sample
from harness.records.verdicts import Verdict
from harness.reports.report_json import read_run, relative_paths
from harness.reports.run_folder import metric_value, read_answers
from harness.stats.arrays import np
from harness.texts.json_text import MALFORMED

MIN_ROWS = 30  # rows of an earlier run from which on it says more than the defaults


@dataclass(frozen=True)
class PastRows:
    """Rows of an earlier run, with value and weight by id.

    Both sides have them. Rows of weight 0 on all sides are left out. Without a run they are rows at hand.
    """

    run: Run | None
    samples: Sequence[Sample]
    ours: Mapping[str, tuple[float, float]]
    theirs: Mapping[str, tuple[float, float]] | None


class History:
    """The earlier runs of a suite's model, newest first."""

    def __init__(self, out: Path, collection: Collection) -> None:
        suite, self.runs, self.rows = collection.suite, list[Run](), cache(read_answers)
        for path in sorted(out.glob(f"{suite.name}-*T*Z*/report.json"), key=lambda p: p.parent.name, reverse=True):
            with suppress(UsageError):  # not a report of this version: nothing to learn
                run = read_run(path)
                self.runs += [run] if run.model in (suite.model.path, relative_paths(suite.model.path, run)) else []

    def verdict(self, gate: Gate, candidate: str, fewest: int = MIN_ROWS) -> tuple[Verdict, Run] | None:
        """Return the last verdict on a question, with its run.

        It must have enough rows to learn from.
        """
        asked = (gate.id, candidate, gate.metric, gate.versus, gate.relative)
        for run in self.runs:
            for v in run.verdicts:
                relative = v.terms is not None and v.terms.relative
                if (v.gate, v.candidate, v.metric, v.versus, relative) == asked and v.n >= fewest and v.method:
                    return v, run
        return None

    def past_rows(self, gate: Gate, candidate: str) -> PastRows | None:
        """Return the rows of the last verdict.

        None if they were not kept, or do not hold the metric row by row.
        """
        if (found := self.verdict(gate, candidate)) is None:
            return None
        run, name = found[1], gate.metric_name
        try:
            subjects = (candidate, gate.versus) if gate.versus else (candidate,)
            sides = [self.rows(Path(run.folder), subject, gate.eval) for subject in subjects]
            told = [
                {i: (metric_value(r, name), float(r["weights"].get(name, r["weight"]))) for i, r in s.items()}
                for s in sides
            ]
            samples = [_make_sample(i, r) for i, r in sides[0].items()]
            samples = [s for s in samples if any(s.id in side and side[s.id][1] for side in told)]
            told = [{s.id: side[s.id] for s in samples if s.id in side} for side in told]
        except (UsageError, *MALFORMED):
            return None
        known = all(s.id in side and all(map(math.isfinite, side[s.id])) for s in samples for side in told)
        return PastRows(run, samples, told[0], told[1] if gate.versus else None) if known else None

    def seed_spread(self, gate: Gate, candidate: str) -> SeedSpread | None:
        """Return a recipe's seed spread at its gate's last verdict. None if unknown."""
        found = self.verdict(gate, candidate)
        if found is None or not found[1].runs:
            return None
        run, name = found[1], gate.metric_name
        try:
            sides = [self.rows(Path(run.folder), subject, gate.eval) for subject in (candidate, *run.runs)]
            values = np.array([[metric_value(side[i], name) for i in sides[0]] for side in sides], dtype=np.float64)
            if gate.versus:
                base = self.rows(Path(run.folder), gate.versus, gate.eval)
                values -= np.array([metric_value(base[i], name) for i in sides[0]], dtype=np.float64)
        except (UsageError, *MALFORMED):
            return None
        return estimate_spread(values) if np.isfinite(values).all() else None

    def seconds(self, subject: str, evaluation: str) -> float | None:
        """Return the last uncached evaluation's seconds per row."""
        asked = (subject, evaluation, "done")
        reports = (r for run in self.runs for r in run.results if (r.subject, r.eval, r.outcome) == asked)
        return next((r.seconds / r.n for r in reports if r.n and not r.cache_hits), None)


def _make_sample(name: str, row: Mapping[str, Any]) -> Sample:
    first, second = (one and str(one) for one in (row["cluster"], row.get("second_cluster")))
    return Sample(name, row=dict(row["doc"]), cluster=first, key=str(row.get("key", "")), second_cluster=second)


def run_name(run: Run) -> str:
    """Return the name of a run's folder without the suite's."""
    return Path(run.folder).name.removeprefix(f"{run.suite}-")
