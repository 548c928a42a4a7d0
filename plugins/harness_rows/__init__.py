"""Rows that other tools scored: read, paired, compared fairly, and decided as our own are."""

from __future__ import annotations

from typing import Any, Literal

from harness import UsageError, hookimpl


def rows(
    subject: Any,
    samples: Any,
    *,
    task: str = "",
    metric: str = "",
    filter: str = "",
    tool: str = "",
    better: Literal["", "higher", "lower"] = "",
    scale: Literal["", "proportion", "mean", "perplexity"] = "",
    id: str = "",
    score: str = "",
    input: str = "",
    target: str = "",
    weight: str = "",
    repeat: str = "",
    missing: Literal["refuse", "wrong"] = "refuse",
    allow: list[str] | None = None,
    only_common: bool = False,
) -> Any:
    """Read one metric of rows that another tool scored; of suites with [rows], which ask no model.

    `task`, `metric` and lm_eval's `filter` are named where a run holds several, `tool` where its files do not tell who
    wrote them, `better` and `scale` where they do not say. `id`, `score`, `input`, `target`, `weight` and `repeat` are
    columns of a table. `missing` says what a row without a score is: no verdict, or "wrong". `allow` names differences
    between the runs that are meant, such as "template"; `only_common` judges the rows that both were asked.
    """
    raise UsageError('use = "rows" reads what others scored, and asks no model; it goes with [rows], not with [model]')


@hookimpl
def harness_evaluators() -> dict[str, Any]:
    return {"rows": rows}
