"""Optional abilities of plugin callables, one frozen class per kind.

A plugin declares them with the kind's decorator, which sets attributes of the function, or with methods of a subclass
of the kind's base class (`harness.protocols`). Only `of` reads them.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

from harness.protocols import Options
from harness.records.findings import Built
from harness.records.metrics import Metric
from harness.records.models import ModelRef, Source, Subject
from harness.records.samples import Prompt, Sample, Score

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
ARGUMENTS: dict[str, dict[str, tuple[str, ...]]] = {  # of optional methods; NAME= is a keyword, "…" the table's options
    "evaluator": {
        "metrics_for": ("options", "folder?"),
        "rows_for": ("options", "folder"),
        "check": ("options", "folder", "path"),
        "check_rows": ("samples", "options", "folder"),
        "needs": ("options",),
        "remarks": ("scores",),
        "adversaries": ("options",),
        "estimate": ("options", "samples", "models", "answers"),
        "counts": ("metric", "sample"),
        "votes": ("answer", "options"),
        "marks": ("options",),
    },
    "loader": {
        "open": ("path", "…"),
        "identity": ("ref", "…"),
        "probe": ("path",),
        "reads": ("path",),
        "needs": ("options",),
        "fingerprint": ("ref", "base="),
    },
    "adapter": {"needs": ("options",)},
    "trainer": {"needs": ("options",), "build": ("ref", "adapter", "rows", "seed=", "…")},
    "exporter": {"check": ("model", "options"), "open_options": ("options",)},
}
MIN_NAME_SIMILARITY = 0.8  # how much alike a name and a capability are, for the name to be a misspelt one


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """Optional abilities of a callable. Raises TypeError for a value of another type than its default's."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if want := _find_capability_type_error(field, getattr(self, field.name)):
                raise TypeError(f"{field.name} is {getattr(self, field.name)!r}; it must be {want}")

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Self:
        """Read a callable's capabilities. Raises TypeError if one has a wrong type."""
        found = {f.name: getattr(function, f.name) for f in fields(cls) if hasattr(function, f.name)}
        return cls(**{name: value for name, value in found.items() if not getattr(value, "is_optional", False)})


@dataclass(frozen=True, kw_only=True)
class LoaderCapabilities(Capabilities):
    """Of `load(refs, *, …)`.

    `identity` names all that an answer depends on, `probe` looks at a candidate's folder, and `reads(path)` names the
    files there that a model is loaded from. `fingerprint(ref, base)` returns a `Fingerprint`, with which a server is
    compared; `base` is a folder, or None. `live(model, ref, *, base, processing_class)` is a context manager that
    yields a Subject of a model in memory, which is being trained.
    """

    open: Callable[..., Source] | None = None
    identity: Callable[..., str | None] | None = None
    probe: Callable[[str], object] | None = None
    reads: Callable[[Path], Iterable[str]] | None = None
    needs: Callable[[Options], Iterable[str]] | None = None
    fingerprint: Callable[[ModelRef, Path | None], Any] | None = None
    live: Callable[..., AbstractContextManager[Subject]] | None = None
    remote: bool = False  # a candidate's path is a name, not a folder
    piece: int = 1  # times as many requests as others' models are given at once: what serves wants dozens
    lacks: Sequence[str] = ()  # what its subjects cannot that others can: "token_kl", or a base in "4-bit"


@dataclass(frozen=True, kw_only=True)
class AdapterCapabilities(Capabilities):
    """Of `adapter(*, …)`."""

    reads_foreign: bool = False  # it reads and merges adapters made elsewhere, where the suite has no [adapter]
    measured_like: Sequence[str] = ()  # adapters with the same options, which `harness plan` measures beside it
    needs: Callable[[Options], Iterable[str]] | None = None
    whole: bool = False  # it returns None: all weights are trained, and what a trainer writes is a whole model


@dataclass(frozen=True, kw_only=True)
class TrainerCapabilities(Capabilities):
    """Capabilities of `train(ref, adapter, rows, out, *, progress, seed, …)`.

    `look` is a `check` that imports no library.
    """

    look: Callable[..., object] | None = None
    check: Callable[..., object] | None = None
    needs: Callable[[Options], Iterable[str]] | None = None
    build: Callable[..., Built] | None = None
    measure: Callable[..., Mapping[str, Any]] | None = None
    memory: Callable[..., Mapping[str, int]] | None = None  # bytes that each process needs at least
    columns: Sequence[str] = ()  # what a row must have, where that is not an answer or a text to learn


@dataclass(frozen=True, kw_only=True)
class EvaluatorCapabilities(Capabilities):
    """Capabilities of an evaluator.

    It is `evaluate(subject, samples, *, …)`, or `mark(samples, answers, baseline_answers, *, marking, …)`.
    """

    metrics_for: Callable[..., Iterable[Metric]] | None = None
    rows_for: Callable[[Options, Path], list[dict[str, Any]]] | None = None
    check: Callable[[Options, Path, str], object] | None = None
    needs: Callable[[Options], Iterable[str]] | None = None
    remarks: Callable[[Sequence[Score]], Iterable[str]] | None = None
    adversaries: Callable[[Options], Mapping[str, Callable[[Prompt], str]]] | None = None
    estimate: Callable[[Options, Sequence[Sample], int, Sequence[Callable[[Prompt], str]]], str] | None = None
    check_rows: Callable[[Sequence[Sample], Options, Path], object] | None = None
    counts: Callable[[str, Sample], bool] | None = None  # whether a row counts in a metric
    marks: str | Callable[..., str] = ""  # "answers" or "pairs", or a function of the options that says which
    asks: Sequence[str] = ()  # methods of a subject that not every loader's has, such as "token_kl"
    uncached: bool = False  # it measures time, and gets models that remember nothing
    votes: Callable[[str, Options], Hashable] | None = None  # what an answer is a vote for, where several are compared
    json_targets: bool = False  # a target is any JSON value, of which it gets the text


@dataclass(frozen=True, kw_only=True)
class ExporterCapabilities(Capabilities):
    """Of `export(ref, to, *, …)`."""

    check: Callable[[Path, Options], object] | None = None
    open_options: Callable[[Options], Mapping[str, Any]] | None = None
    converts: bool = False  # it makes other weights, which are a candidate of their own


@dataclass(frozen=True, kw_only=True)
class CheckCapabilities(Capabilities):
    """Of `check(…)`."""

    title: str = ""  # its name beside its code, in kebab-case
    leaks: bool = False  # it tells which rows of an evaluation were trained on


KINDS = {kind.__name__.removesuffix("Capabilities").lower(): kind for kind in Capabilities.__subclasses__()}


def find_mistakes(kind: str, function: Callable[..., Any]) -> Iterator[str]:
    """Yield the mistakes in the capabilities that a callable declares.

    These are values of a wrong type and names that look like a misspelt capability.
    """
    if kind not in KINDS:
        return
    try:
        able = KINDS[kind].of(function)
        yield from _find_argument_errors(kind, able)
    except TypeError as error:
        yield str(error)
    known = [f.name for f in fields(KINDS[kind])]
    for name in vars(function) if inspect.isfunction(function) else vars(type(function)):
        close = difflib.get_close_matches(name, known, n=1, cutoff=MIN_NAME_SIMILARITY)
        if close and name not in known and not name.startswith("_"):
            yield f'"{name}" is not a capability; did you mean "{close[0]}"?'


def _find_argument_errors(kind: str, able: Capabilities) -> Iterator[str]:
    """Yield which optional methods cannot be called with their arguments."""
    for name, arguments in ARGUMENTS.get(kind, {}).items():
        method = getattr(able, name)
        try:
            signature = inspect.signature(method) if callable(method) else None
        except ValueError:  # a built-in function without one
            continue
        if signature is None:
            continue
        given = [a for a in arguments if a.isalpha()]
        known = [a[:-1] for a in arguments if a[-1] == "=" or (a[-1] == "?" and a[:-1] in signature.parameters)]
        bind = signature.bind_partial if "…" in arguments else signature.bind
        try:
            bind(*given, **dict.fromkeys(known))
        except TypeError as error:
            yield f"{name}{signature} must accept ({', '.join((*given, *known))}): {error}"


def _find_capability_type_error(field: Field[Any], value: Any) -> str:
    """Describe the type that a capability's value should have. Empty if it has it."""
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


def _make_capability_decorator(kind: Callable[P, Capabilities], name: str) -> Callable[P, Callable[[F], F]]:
    """Return the decorator of a kind.

    The decorator raises TypeError for an unknown capability or a value of a wrong type.
    """

    def declare(*args: P.args, **given: P.kwargs) -> Callable[[F], F]:
        try:
            inspect.signature(kind).bind(*args, **given)
        except TypeError as error:
            raise TypeError(f"{name}() {error}") from None
        kind(*args, **given)

        def attach(function: F) -> F:
            vars(function).update(given)
            return function

        return attach

    return declare


loader = _make_capability_decorator(LoaderCapabilities, "loader")
"""Declare what a loader can do beyond being called."""
adapter = _make_capability_decorator(AdapterCapabilities, "adapter")
"""Declare what an adapter can do beyond being called."""
trainer = _make_capability_decorator(TrainerCapabilities, "trainer")
"""Declare what a trainer can do beyond being called."""
evaluator = _make_capability_decorator(EvaluatorCapabilities, "evaluator")
"""Declare what an evaluator can do beyond being called."""
exporter = _make_capability_decorator(ExporterCapabilities, "exporter")
"""Declare what an exporter can do beyond being called."""
checker = _make_capability_decorator(CheckCapabilities, "checker")
"""Declare what a check can do beyond being called."""
