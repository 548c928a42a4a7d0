"""`harness.gate`: rows that another tool scored, gated from Python; files, lists, mappings and frames alike."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness import Outcome, Run, UsageError, Verdict, did_you_mean
from harness_rows import commands, suites, writing
from harness_rows.suites import JudgedRows

NO_OPTIONS = ("rows", "command", "group", "out", "junit_xml", "write_suite", "github")  # which are of the command alone
COLUMNS = ("to_pylist", "to_list", "tolist")  # how a column of Arrow, polars or pandas, or of NumPy, becomes a list


@dataclass(frozen=True)
class Gated:
    """What came of a gate on rows: PASS, FAIL, INCONCLUSIVE or ERROR, which is no truth value."""

    found: JudgedRows

    @property
    def verdict(self) -> Verdict:
        """The verdict, with estimate, bounds and why."""
        return self.found.verdicts[0]

    @property
    def outcome(self) -> Outcome:
        """What was decided."""
        return self.verdict.outcome

    @cached_property
    def run(self) -> Run:
        """It as a run, which `report` writes."""
        return writing.run_of(self.found)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row a pair: its name, and what each side scored, None where it has no score."""
        (one,) = self.found.measured.values()
        name, sides = one.metric.name, one.results.items()
        scores = {side: {s.id: s.values[name] for s in result.scores} for side, result in sides}
        return [{"id": s.id, **{side: own.get(s.id) for side, own in scores.items()}} for s in one.samples]

    def report(self, path: str | Path = "reports") -> Path:
        """Write report, page and evidence into a new folder there, and return it. Raises UsageError where it cannot."""
        writing.write_run(self.found, self.run, Path(path))
        self.found.plugins.hook.harness_run_finish(run=self.run)
        return Path(self.run.folder)

    def __bool__(self) -> bool:
        raise TypeError("a verdict is PASS, FAIL, INCONCLUSIVE or ERROR, not true or false; compare .outcome")

    def __str__(self) -> str:
        return "\n".join(writing.lines(self.found, self.run))

    def _repr_html_(self) -> str:
        return self.run._repr_html_()


def gate(base: Any, candidate: Any = None, **said: Any) -> Gated:
    """Gate rows of a base and a candidate, or of a candidate alone, and count it as an attempt.

    Rows are a path, a list of dicts, a mapping from names to scores, or a frame of pandas, polars or Arrow. All else
    is said in the words of `harness gate`: `worse_by_at_most=0.02`, `metric="TASK:NAME"`, `better="lower"`.

    Raises UsageError where rows cannot be read or compared, or nothing is claimed.
    """
    given = {"base": base, "candidate": candidate} if candidate is not None else {"candidate": base}
    held = {side: rows for side, rows in given.items() if not isinstance(rows, (str, Path))}
    parser = ArgumentParser()  # so that what was said is as the command has it
    commands.gate(parser)
    known = {name: v for name, v in vars(parser.parse_args([*given])).items() if name not in NO_OPTIONS}
    if odd := [name for name in said if name not in known]:
        raise UsageError(f'gate: unknown argument "{odd[0]}"{did_you_mean(odd[0], known)}')
    listed = {name: v.split(",") if isinstance(v := said.get(name, ()), str) else [*v] for name in ("slice", "allow")}
    args = Namespace(**known | said | {"rows": [*given], "slice": listed["slice"], "allow": ",".join(listed["allow"])})
    options = commands.options_of(args)
    if any(isinstance(rows, Mapping) for rows in held.values()):
        options = {"id": "id", "score": "score"} | options
    paths = {side: f"{side} in Python" if side in held else str(Path(rows).absolute()) for side, rows in given.items()}
    about = {"cluster": commands.clusters_of(args.cluster), "slices": args.slice}
    suite = suites.suite_of(commands.claim_of(args), paths, options, args.alpha, **about)
    lines = {side: enumerate(_lines(rows, side), 1) for side, rows in held.items()}
    return Gated(suites.judged(suite, runs=suites.runs_of(suite, lines)))


def _lines(rows: Any, side: str) -> Iterator[Mapping[str, Any]]:
    """Yield rows of whatever holds them as the lines of a table. Raises UsageError where that is none."""
    names = getattr(rows, "column_names", None) or getattr(rows, "columns", None)
    if isinstance(rows, Mapping):
        yield from ({"id": str(name), "score": _plain(score)} for name, score in rows.items())
    elif names is not None:
        columns = []
        for column in (rows[name] for name in names):
            how = next((how for how in COLUMNS if hasattr(column, how)), None)
            columns.append(list(getattr(column, how)()) if how else list(column))
        yield from (dict(zip(map(str, names), row, strict=True)) for row in zip(*columns, strict=True))
    elif isinstance(rows, (list, tuple)) and all(isinstance(row, Mapping) for row in rows):
        yield from ({name: _plain(value) for name, value in row.items()} for row in rows)
    else:
        raise UsageError(f"{side}: is a {type(rows).__name__}; give a path, dicts, names with scores, or a data frame")


def _plain(value: Any) -> Any:
    """Return a number of NumPy as Python's."""
    return value.item() if hasattr(value, "item") else value
