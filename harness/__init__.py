"""Decide whether a fine-tuned language model may ship: `run`, and everything that a plugin may import.

A name is looked up when it is asked for, so that a plugin that is listed costs no more than its own module;
`__init__.pyi` says where each is defined.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.lazy import attach_lazily
from harness.version import __version__ as __version__

if TYPE_CHECKING:
    from typing import Literal

    from harness import GateResult, Run

__getattr__, _names = attach_lazily(__name__, __file__)
__all__ = [*_names, "gate", "run"]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def run(
    suite: str | Path,
    *,
    overrides: Sequence[str] = (),
    candidate: str | Path | None = None,
    candidates: Sequence[str | Path] = (),
    out: str | Path = "reports",
    keyword: str = "",
    maxfail: int = 0,
    last_failed: bool = False,
    limit: int | None = None,
    export: bool = True,
    select: bool = False,
    cache: bool = True,
    plugins: Sequence[str] = (),
    on: str = "",
    patience: float = 600.0,
    ignore: Sequence[str] = (),
    junit_xml: str | Path | None = None,
    listeners: Sequence[object] = (),
) -> Run:
    """Run a suite as `harness run` does, without printing.

    `overrides` are "table.key=value". `candidate` is a folder that is gated instead of training; of several
    `candidates`, the best on the select rows is gated. `keyword` is an expression such as "merged and not quiz"; with
    `last_failed`, only items that failed before run. `limit` is the number of rows of each evaluation. `plugins` are
    module names, or "no:NAME". `on` is "NAME:PLACE" of a worker backend, `patience` is in seconds. `ignore` has codes
    of checks. `listeners` are plugin objects with hooks to call.

    Raises UsageError for a mistake in the suite, the data or the options, RuntimeError if a plugin calls sys.exit().
    """
    from harness.pipeline.run import Options, run_suite

    options = Options(
        overrides=tuple(overrides),
        candidate=None if candidate is None else str(candidate),
        candidates=tuple(map(str, candidates)),
        out=Path(out),
        keyword=keyword,
        maxfail=maxfail,
        last_failed=last_failed,
        limit=limit,
        export=export,
        select=select,
        cache=cache,
        plugins=tuple(plugins),
        on=on,
        patience=patience,
        ignore=tuple(ignore),
        junit_xml=None if junit_xml is None else Path(junit_xml),
        listeners=tuple(listeners),
    )
    try:
        return run_suite(Path(suite), options)
    except SystemExit as error:  # or the caller would end with the plugin's exit code
        raise RuntimeError(f"a plugin called sys.exit({error.code!r})") from error


def gate(
    base: Any,
    candidate: Any = None,
    *,
    worse_by_at_most: float | str | None = None,
    better_by: float | str | None = None,
    min: float | None = None,
    max: float | None = None,
    cap: float | None = None,
    range: Sequence[float] | None = None,
    alpha: float = 0.05,
    metric: str = "",
    tool: str = "",
    better: Literal["higher", "lower"] | None = None,
    scale: Literal["proportion", "mean", "perplexity"] | None = None,
    id: str | None = None,
    score: str | None = None,
    input: str | None = None,
    target: str | None = None,
    answer: str | None = None,
    base_score: str | None = None,
    candidate_score: str | None = None,
    weight: str | None = None,
    repeat: str | None = None,
    repeats: int = 0,
    cluster: str | Sequence[str] | None = None,
    slice: str | Sequence[str] = (),
    missing: Literal["refuse", "wrong"] = "refuse",
    allow: str | Sequence[str] = (),
    only_common: bool = False,
) -> GateResult:
    """Gate rows scored by another tool, as `harness gate` does.

    Nothing is printed. Rows are a path, a list of dicts, a mapping of names to scores, or a frame of pandas, polars or
    Arrow; a single argument is the candidate, for `min` or `max`. Exactly one claim is given: `worse_by_at_most`,
    `better_by` (in the metric's units, or a share such as "2%"), `min` or `max`. `alpha` is the risk that a model on
    the limit passes, `range` the lowest and highest score of a row, `metric` "TASK:NAME[,FILTER]", `tool` the format of
    the files. `id`, `score`, `input`, `target`, `answer`, `weight`, `repeat`, `cluster` and `slice` name columns,
    `base_score` and `candidate_score` those of each side in one table ("a.b" is b in the objects of a). The call counts
    as an attempt.

    Raises UsageError if the rows cannot be read, paired or compared fairly, or the claim is missing or wrong.
    """
    given = dict(locals())
    from harness.rows import api

    return api.gate_rows(**given)
