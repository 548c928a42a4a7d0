"""`harness.gate`: rows that another tool scored, gated from Python; files, lists, mappings and frames alike."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.records.outcomes import Outcome
from harness.records.run import Run
from harness.records.verdicts import Verdict
from harness.rows import arguments, suites, writing
from harness.rows.missing_options import require_options
from harness.rows.records import COLUMNS as NAMES
from harness.rows.records import SIDES
from harness.rows.suites import JudgedRows
from harness.rows.wording import words_for
from harness.texts.escaping import printable

CHOICES = {
    "better": (None, "higher", "lower"),
    "scale": (None, "proportion", "mean", "perplexity"),
    "missing": ("refuse", "wrong"),
}
COLUMNS = ("to_pylist", "to_list", "tolist")  # how a column of Arrow, polars or pandas, or of NumPy, becomes a list


@dataclass(frozen=True)
class GateResult:
    """The result of a gate on rows.

    Its outcome is PASS, FAIL, INCONCLUSIVE or ERROR, so that it has no truth value; `bool()` raises TypeError.
    """

    _judged: JudgedRows

    @property
    def verdict(self) -> Verdict:
        """The verdict, with estimate, bounds and why."""
        return self._judged.verdicts[0]

    @property
    def outcome(self) -> Outcome:
        """The outcome of the gate."""
        return self.verdict.outcome

    @cached_property
    def run(self) -> Run:
        """It as a run, which `report` writes."""
        return writing.make_run(self._judged)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row a pair: its name, and what each side scored, None where it has no score."""
        (one,) = self._judged.measured.values()
        name, sides = one.metric.name, one.results.items()
        scores = {side: {s.id: s.values[name] for s in result.scores} for side, result in sides}
        return [{"id": s.id, **{side: own.get(s.id) for side, own in scores.items()}} for s in one.samples]

    def report(self, path: str | Path = "reports") -> Path:
        """Write report, page and evidence into a new folder below `path`.

        Returns the folder. Raises UsageError if it cannot be created, and OSError if a file cannot be written.
        """
        writing.write_run(self._judged, self.run, Path(path))
        self._judged.plugins.hook.harness_run_finish(run=self.run)
        return Path(self.run.folder)

    def __bool__(self) -> bool:
        raise TypeError("a verdict is PASS, FAIL, INCONCLUSIVE or ERROR, not true or false; compare .outcome")

    def __str__(self) -> str:
        return "\n".join(writing.format_gate(self._judged, self.run))

    def _repr_html_(self) -> str:
        return self.run._repr_html_()


def gate_rows(base: Any, candidate: Any = None, **options: Any) -> GateResult:
    """Gate the rows of a candidate, with or without a base.

    `options` are the keywords of `harness.gate`.
    """
    if candidate is None and options.get("base_score"):  # a table with a column for each side
        candidate = base
    given = {"base": base, "candidate": candidate} if candidate is not None else {"candidate": base}
    with words_for("python"):
        return _gate_rows(given, Namespace(**options, rows=[*given]))


def _gate_rows(given: Mapping[str, Any], args: Namespace) -> GateResult:
    """Gate rows by side, as the command would by `args`."""
    _require_valid_arguments(args)
    args.slice, allowed = ([v] if isinstance(v, str) else [*v] for v in (args.slice, args.allow))
    args.allow = ",".join(allowed)
    args.cluster = args.cluster if args.cluster is None or isinstance(args.cluster, str) else [*args.cluster]
    held = {side: rows for side, rows in given.items() if not isinstance(rows, (str, Path))}
    paths = {side: f"{side} in Python" if side in held else str(Path(rows).absolute()) for side, rows in given.items()}
    named = any(isinstance(rows, Mapping) for rows in held.values())

    def prepare(trial: Namespace) -> suites.PreparedRows:
        claim = arguments.parse_gate(trial)
        options = ({"id": "id", "score": "score"} if named else {}) | arguments.parse_rows_options(trial)
        about = {"cluster": arguments.parse_clusters(trial.cluster), "slices": trial.slice}
        suite = suites.make_rows_suite(claim, paths, options, trial.alpha, **about)
        lines = {side: enumerate(_iterate_lines(rows, side), 1) for side, rows in held.items()}
        return suites.prepare_rows(suite, runs=suites.read_runs(suite, lines))

    return GateResult(suites.decide_rows(require_options(args, prepare)))


def _require_valid_arguments(args: Namespace) -> None:
    """Raise UsageError if an argument has a wrong type or value.

    The command's options define the types. Decimals become floats in place.
    """
    for name in ("min", "max", "cap", "alpha", "worse_by_at_most", "better_by"):
        value, share = getattr(args, name), name in ("worse_by_at_most", "better_by")
        if isinstance(value, Decimal):
            setattr(args, name, value := float(value))
        number = isinstance(value, Real) and not isinstance(value, bool)
        if value is not None and not number and not (share and isinstance(value, str) and value.endswith("%")):
            raise UsageError(f"{name} is {value!r:.60}; give a number" + (', or a share such as "2%"' if share else ""))
    ends = () if args.range is None else args.range
    if ends and not (isinstance(ends, Sequence) and len(ends) == 2 and all(isinstance(x, Real) for x in ends)):
        raise UsageError(f"range is {ends!r:.60}; give the lowest and the highest score, such as (1, 5)")
    if not isinstance(args.repeats, int):
        raise UsageError(f"repeats is {args.repeats!r:.60}; give the number of answers per row")
    for name, known in CHOICES.items():
        if (value := getattr(args, name)) not in known:
            words = ", ".join(f'"{one}"' for one in known if one)
            raise UsageError(f"{name} is {value!r:.60}; give one of {words}")
    for name in (*NAMES, *SIDES, "metric", "tool"):
        if not isinstance(getattr(args, name), (str, type(None))):
            raise UsageError(f"{name} is {getattr(args, name)!r:.60}; give a name")


def _iterate_lines(rows: Any, side: str) -> Iterator[Mapping[str, Any]]:
    """Yield rows from Python objects as the lines of a table.

    These are scores by name, data frames, or lists of mappings. Raises UsageError for any other type.
    """
    names = getattr(rows, "column_names", None) or getattr(rows, "columns", None)
    if isinstance(rows, Mapping):
        yield from ({"id": str(name), "score": _convert_numpy_scalar(score)} for name, score in rows.items())
    elif names is not None:
        if twice := [str(name) for name, n in Counter(names).items() if n > 1]:
            raise UsageError(f'{side}: the column "{printable(twice[0])}" occurs twice; rename one, or drop it')
        columns = []
        for column in (rows[name] for name in names):
            how = next((how for how in COLUMNS if hasattr(column, how)), None)
            columns.append(list(getattr(column, how)()) if how else list(column))
        yield from (dict(zip(map(str, names), row, strict=True)) for row in zip(*columns, strict=True))
    elif isinstance(rows, (list, tuple)) and all(isinstance(row, Mapping) for row in rows):
        yield from ({name: _convert_numpy_scalar(value) for name, value in row.items()} for row in rows)
    else:
        raise UsageError(
            f"{side}: is of type {type(rows).__name__}; give a path, dicts, names with scores, or a data frame"
        )


def _convert_numpy_scalar(value: Any) -> Any:
    """Return a number of NumPy as Python's."""
    return value.item() if hasattr(value, "item") and not hasattr(value, "__len__") else value
