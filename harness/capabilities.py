"""What a plugin's callable can do beyond being called: one frozen description for each kind of callable.

A plugin declares it with the decorator of the kind, or as attributes of the function, which is the same: the
decorator sets them. Only `of` reads them.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import Field, dataclass, fields
from typing import Any, ParamSpec, Self, TypeVar

Given = Callable[..., Any] | None
F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
CLOSE = 0.8  # how much alike a name and a capability are, for the name to be a misspelt one


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """A description; raises TypeError at a value of another type than its default's."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if want := _wanted(field, getattr(self, field.name)):
                raise TypeError(f"{field.name} is {getattr(self, field.name)!r}; it must be {want}")

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Self:
        """Return what a callable declares; raises TypeError where that is of a wrong type."""
        return cls(**{f.name: getattr(function, f.name) for f in fields(cls) if hasattr(function, f.name)})


@dataclass(frozen=True, kw_only=True)
class LoaderCapabilities(Capabilities):
    """Of `load(refs, *, …)`.

    `identity` names all that an answer depends on, `probe` looks at a candidate's folder, and `reads(path)` names the
    files there that a model is loaded from.
    """

    open: Given = None
    identity: Given = None
    probe: Given = None
    reads: Given = None
    needs: Given = None
    remote: bool = False  # a candidate's path is a name, not a folder
    piece: int = 1  # times as many requests as others' models are given at once: what serves wants dozens
    lacks: tuple[str, ...] = ()  # what its subjects cannot that others can: "token_kl", or a base in "4-bit"


@dataclass(frozen=True, kw_only=True)
class AdapterCapabilities(Capabilities):
    """Of `adapter(*, …)`."""

    reads_foreign: bool = False  # it reads and merges adapters made elsewhere, where the suite has no [adapter]
    measured_like: tuple[str, ...] = ()  # adapters with the same options, which `harness plan` measures beside it
    whole: bool = False  # it returns None: all weights are trained, and what a trainer writes is a whole model


@dataclass(frozen=True, kw_only=True)
class TrainerCapabilities(Capabilities):
    """Of `train(ref, adapter, rows, out, *, progress, seed, …)`; `look` is a `check` that imports no library."""

    look: Given = None
    check: Given = None
    build: Given = None
    measure: Given = None
    memory: Given = None  # bytes that each process holds at least, by what they are
    columns: tuple[str, ...] = ()  # what a row must have, where that is not an answer or a text to learn


@dataclass(frozen=True, kw_only=True)
class EvaluatorCapabilities(Capabilities):
    """Of `evaluate(subject, samples, *, …)`, or of `mark(samples, answers, baseline_answers, *, marking, …)`."""

    metrics_for: Given = None
    rows_for: Given = None
    check: Given = None
    needs: Given = None
    remarks: Given = None
    adversaries: Given = None
    estimate: Given = None
    check_rows: Given = None
    counts: Given = None  # whether a row counts in a metric; the others have weight 0 in it
    marks: str | Callable[..., str] = ""  # "answers" or "pairs", or a function of the options that says which
    asks: tuple[str, ...] = ()  # methods of a subject that not every loader's has, such as "token_kl"
    uncached: bool = False  # it measures time, and gets models that remember nothing
    json_targets: bool = False  # a target is any JSON value, of which it gets the text


@dataclass(frozen=True, kw_only=True)
class ExporterCapabilities(Capabilities):
    """Of `export(ref, to, *, …)`."""

    check: Given = None
    open_options: Given = None
    converts: bool = False  # it makes other weights, which are a candidate of their own


@dataclass(frozen=True, kw_only=True)
class CheckCapabilities(Capabilities):
    """Of `check(…)`."""

    title: str = ""  # its name beside its code, in kebab-case
    leaks: bool = False  # it tells which rows of an evaluation were trained on


KINDS = {kind.__name__.removesuffix("Capabilities").lower(): kind for kind in Capabilities.__subclasses__()}


def mistakes_of(kind: str, function: Callable[..., Any]) -> Iterator[str]:
    """Yield what is wrong with the capabilities that a callable of a kind declares."""
    if kind not in KINDS:
        return
    try:
        KINDS[kind].of(function)
    except TypeError as error:
        yield str(error)
    known = [f.name for f in fields(KINDS[kind])]
    for name in vars(function) if inspect.isfunction(function) else ():
        close = difflib.get_close_matches(name, known, n=1, cutoff=CLOSE)
        if close and name not in known and not name.startswith("_"):
            yield f'"{name}" is not a capability; did you mean "{close[0]}"?'


def _wanted(field: Field[Any], value: Any) -> str:
    """Return what the value of a capability must be, or nothing where it is that."""
    if isinstance(field.default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(field.default, int):
        return "" if type(value) is int and value > 0 else "a whole number above 0"
    if field.default == ():
        return "" if isinstance(value, (tuple, list)) and all(isinstance(name, str) for name in value) else "names"
    if field.default is None:
        return "" if value is None or callable(value) else "a function"
    if field.type == "str":
        return "" if isinstance(value, str) else "a text"
    return "" if callable(value) or value in ("", "answers", "pairs") else '"answers", "pairs" or a function'


def _declares(kind: Callable[P, Capabilities]) -> Callable[P, Callable[[F], F]]:
    """Return the decorator of a kind; it raises TypeError at a capability that there is not."""

    def declare(*args: P.args, **given: P.kwargs) -> Callable[[F], F]:
        kind(*args, **given)

        def attach(function: F) -> F:
            vars(function).update(given)
            return function

        return attach

    return declare


loader = _declares(LoaderCapabilities)
"""Declare what a loader can do beyond being called."""
adapter = _declares(AdapterCapabilities)
"""Declare what an adapter can do beyond being called."""
trainer = _declares(TrainerCapabilities)
"""Declare what a trainer can do beyond being called."""
evaluator = _declares(EvaluatorCapabilities)
"""Declare what an evaluator can do beyond being called."""
exporter = _declares(ExporterCapabilities)
"""Declare what an exporter can do beyond being called."""
checker = _declares(CheckCapabilities)
"""Declare what a check can do beyond being called."""
