"""Options that are a dataclass are what keywords of a signature are: listed, checked, with defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from harness.internals import schema


@dataclass(frozen=True, kw_only=True)
class Base:
    """What all have."""

    rate: float = 0.1
    steps: int = 3
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Own(Base):
    """What one has on top."""

    rate: float = 0.5
    kind: Literal["a", "b"]


def return_keywords(
    ref: str, *, progress: Any, rate: float = 0.5, steps: int = 3, kind: Literal["a", "b"], **options: Any
) -> Any:
    """Give back what was given."""
    return ref, Own(rate=rate, steps=steps, kind=kind, options=options)


@schema.accepts_options(Own)
def return_options(ref: str, options: Own, *, progress: Any) -> Any:
    """Give back what was given."""
    return ref, options


@schema.accepts_options(Own)
@contextmanager
def yield_options(ref: str, options: Own, *, progress: Any) -> Iterator[Any]:
    """Give back what was given, for a while."""
    yield ref, options


def check_and_list_errors(function: Any, options: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    schema.check_options(function, options, lambda _, what: found.append(what))
    return found


def test_a_dataclass_is_told_as_a_signature() -> None:
    """Names, types, defaults and mistakes of both are the same, and what is left goes to a library."""
    for function in (return_options, yield_options):
        (ours, more), (theirs, _) = schema.list_options(function), schema.list_options(return_keywords)
        assert {n: p.default for n, p in ours.items()} == {n: p.default for n, p in theirs.items()} and more
        assert {n: schema.type_name(schema.parameter_types(function)[n]) for n in ours} == {
            "rate": "a number", "steps": "an integer", "kind": '"a" or "b"',
        }  # fmt: skip
        assert schema.with_defaults(function, {"far": 1}) == {"rate": 0.5, "steps": 3, "far": 1}
        assert schema.has_parameter(function, "steps") and schema.has_parameter(function, "progress")
        for given in ({"kind": "c"}, {"rate": "x", "kind": "a"}, {}):
            assert check_and_list_errors(function, given) == check_and_list_errors(return_keywords, given) != []


def test_it_is_called_with_keywords_and_gets_one_object() -> None:
    """What is no field is in `options`; what the callable asks for by itself stays a keyword."""
    given: dict[str, Any] = {"progress": None, "kind": "b", "steps": 7, "far": 1}
    assert (
        return_options("x", **given)
        == return_keywords("x", **given)
        == ("x", Own(kind="b", steps=7, options={"far": 1}))
    )
    with yield_options("x", **given) as found:
        assert found == return_options("x", **given)


def test_a_keyword_that_nobody_takes_is_an_error() -> None:
    """Without a field `options` an unknown keyword is a TypeError, as it is for any callable."""

    @dataclass(frozen=True)
    class Closed:
        rate: float = 0.1

    @schema.accepts_options(Closed)
    def closed(options: Closed) -> float:
        return options.rate

    assert (closed(rate=0.3), closed()) == (0.3, 0.1)
    with pytest.raises(TypeError, match="far"):
        closed(far=1)
