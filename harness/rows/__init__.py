"""Rows that other tools scored: read, paired, compared fairly, and decided as our own are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness import schema
from harness.errors import UsageError
from harness.hookspec import hookimpl
from harness.rows.records import RowsOptions

if TYPE_CHECKING:
    from harness.protocols import Evaluator


@schema.accepts_options(RowsOptions)
def rows(subject: Any, samples: Any, options: RowsOptions) -> Any:
    """Read one metric of rows that another tool scored.

    It is for suites with [rows], which run no model.

    `task`, `metric` and lm_eval's `filter` select one if a run holds several, `tool` names the format if the files do
    not tell it, and `better` and `scale` describe the metric if they do not. `id`, `score`, `input`, `target`,
    `answer`, `weight` and `repeat` are columns of a table ("a.b" is b in the objects of a), `base_score` and
    `candidate_score` those of each side in one table, and `input = "none"` or `target = "none"` reads none. `repeats`
    is the number of answers per row. `missing` decides about a row or a repeat without a score: no verdict, or "wrong".
    `allow` names differences between the runs that are intended, such as "template"; `only_common` judges the rows that
    both runs have.
    """
    raise UsageError('use = "rows" reads scored rows and runs no model; it needs [rows] instead of [model]')


@hookimpl
def harness_evaluators() -> dict[str, Evaluator]:
    return {"rows": rows}
