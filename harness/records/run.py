"""What a run found, as plain data: Run -> report.json and back."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from harness.errors import ExitCode, UsageError
from harness.evaluation.checks import Flag
from harness.records.gates import Outcome, Verdict
from harness.suite.waivers import Waiver
from harness.texts.secrets import hide, struck

FORMAT = 1  # of report.json; raised when an older reader would misread


@dataclass(frozen=True)
class Report:
    """One item done: its metrics, its verdicts, its rows and seconds; `error` when it could not be evaluated."""

    id: str
    subject: str
    eval: str
    outcome: Literal["done", "error", "skipped"]
    metrics: dict[str, float] = field(default_factory=dict)
    stderr: dict[str, float] = field(default_factory=dict)
    slices: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)  # column -> value -> metric
    better: dict[str, str] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()
    n: int = 0
    of: int = 0  # rows there are; fewer were asked where the gates were decided early
    seconds: float = 0.0
    asked: int = 0  # requests to the model, of which `remembered` were answered in an earlier run or evaluation
    remembered: int = 0
    error: str | None = None
    traceback: str | None = None
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exported:
    """One `[[export]]`: where it was written, or why it was not."""

    use: str
    candidate: str
    to: str
    written: bool
    reasons: tuple[str, ...] = ()
    digest: str = ""
    bytes: int = 0


@dataclass(frozen=True)
class Trial:
    """One value of a sweep: its metric on the select rows, and the change from the trial before with its p-value.

    Bounds hold at alpha each; they are None where there is nothing to compare or nothing varies. A change is in the
    metric's units, of a perplexity a share; below zero is better where lower is. `why` is said of the change.
    `seconds` are those of its training, whenever that was, and None where nobody noted them; `parameters` those
    it trained.
    """

    value: Any
    metric: float
    lower: float | None = None
    upper: float | None = None
    change: float | None = None
    change_lower: float | None = None
    change_upper: float | None = None
    p: float | None = None
    better: bool = True
    why: str = ""
    seconds: float | None = None
    reused: bool = False
    parameters: int | None = None
    digest: str = ""


@dataclass
class Swept:
    """A sweep: the trials that were made of the `values` there are, and the value that was chosen, and why."""

    key: str  # TABLE.OPTION
    by: str  # EVAL.METRIC
    alpha: float
    rows: int
    scale: str
    values: list[Any]
    trials: list[Trial] = field(default_factory=list)
    chosen: Any = None
    why: str = ""


@dataclass
class Run:
    """One call of `harness run`. `facts` holds what a person would ask of the model and the training."""

    suite: str
    path: str
    digest: str
    seed: int
    alpha: float
    model: str
    started: str  # UTC, ISO 8601
    harness: str
    gates: int = 0  # verdicts that the suite asks of its candidates
    items: tuple[str, ...] = ()
    deselected: tuple[str, ...] = ()
    selecting: bool = False  # on the select splits, so that nothing was confirmed
    folder: str = ""
    seconds: float = 0.0
    exit_code: int = ExitCode.INTERNAL
    reports: list[Report] = field(default_factory=list)
    exports: list[Exported] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    waivers: list[Waiver] = field(default_factory=list)  # of the suite, in force or not
    conclusions: list[str] = field(default_factory=list)  # what follows from the verdicts, in words
    flags: list[Flag] = field(default_factory=list)  # what the checks found
    sweep: Swept | None = None
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)  # of every subject's weights
    versions: dict[str, str] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)  # seconds
    problem: str | None = None
    traceback: str | None = None

    @property
    def verdicts(self) -> list[Verdict]:
        return [v for r in self.reports for v in r.verdicts]

    def count(self, outcome: Outcome) -> int:
        return sum(v.outcome is outcome for v in self.verdicts)

    def judge(self) -> ExitCode:
        """Return the exit code of what was found: a failure outranks what could not be decided."""
        held = [v.outcome for v in self.verdicts if v.holds_up]
        if Outcome.FAIL in held or any(f.counts for f in self.flags):
            return ExitCode.FAILED
        if not self.verdicts:
            return ExitCode.NOTHING_GATED
        if held or any(r.outcome == "error" for r in self.reports):
            return ExitCode.INCONCLUSIVE
        whole = len(self.verdicts) == self.gates and any(v.blocking and v.decides for v in self.verdicts)
        return ExitCode.OK if whole and not self.selecting else ExitCode.INCONCLUSIVE


def to_json(run: Run) -> str:
    """Write a run as JSON; what plugins tell is struck as their options are."""
    facts = {name: struck(told) for name, told in run.facts.items()}
    return dumps({"format": FORMAT, **dataclasses.asdict(run), "facts": facts})


def dumps(value: Any) -> str:
    """Write a value as JSON without secrets; numbers that are not finite become null: JSON has no words for them."""
    return json.dumps(_finite(value), indent=1, ensure_ascii=False, default=str, allow_nan=False) + "\n"


def read_run(folder: Path) -> Run:
    """Read the run in a folder (or its report.json). Raises UsageError when there is none, or of another format."""
    path = folder / "report.json" if folder.is_dir() else folder
    try:
        data = json.loads(path.read_text("utf-8"), parse_int=_int)
    except (OSError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise UsageError(f"{path}: no report can be read: {why}; name a folder in reports/") from None
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
        raise UsageError(f"{path}: is not a report of this version of the harness")
    try:
        found: Run = _made(Run, data, "it")
    except (TypeError, ValueError) as error:
        what = f"is not a report of this version of the harness: {error}"
        raise UsageError(f"{path}: {what}; name a folder in reports/") from None
    return found


def _made(want: Any, value: Any, place: str) -> Any:
    """Return plain data as what it was; raises TypeError with the place of what is something else."""
    origin, args = get_origin(want), get_args(want)
    if origin in (Union, UnionType):
        kinds = [a for a in args if a is not type(None)]
        return None if value is None else _made(kinds[0], value, place)
    if want is float and type(value) is int:
        return float(value)
    if dataclasses.is_dataclass(want) and isinstance(value, dict) and isinstance(want, type):
        hints = _hints(want)
        if strange := [key for key in value if key not in hints]:
            raise TypeError(f'{place} has "{strange[0]}"')
        return want(**{key: _made(hints[key], v, f'"{key}"') for key, v in value.items()})
    if origin is not None and origin is not Literal:
        return _many(origin, args, value, place)
    fits = want is Any or (value in args if origin is Literal else type(value) is want)
    if isinstance(want, type) and issubclass(want, StrEnum) and isinstance(value, str):
        return want(value)
    if not fits:
        raise TypeError(f"{place} is {json.dumps(value):.40}")
    return value


def _many(origin: Any, args: tuple[Any, ...], value: Any, place: str) -> Any:
    if issubclass(origin, Mapping) and isinstance(value, dict):
        nan = args[1] is float  # which JSON has no word for
        return {key: math.nan if nan and v is None else _made(args[1], v, place) for key, v in value.items()}
    if origin is tuple and args[-1] is not Ellipsis and isinstance(value, list) and len(value) == len(args):
        return tuple(_made(kind, v, place) for kind, v in zip(args, value, strict=True))
    if issubclass(origin, Sequence) and isinstance(value, list):
        return (list if origin is list else tuple)(_made(args[0], v, place) for v in value)
    raise TypeError(f"{place} is {json.dumps(value):.40}")


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _int(digits: str) -> int:
    """Return a whole number; raises ValueError where it is none that anything was counted to."""
    if len(digits) > 19:
        raise ValueError(f"holds a number of {len(digits)} digits")
    return int(digits)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return hide(value) if isinstance(value, str) else value
