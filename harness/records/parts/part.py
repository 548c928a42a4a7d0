"""Part: one thing that a verdict holds beside its core. Condition: gate keys that act by a part.

A part owns its sentence, its rows of a table and its effect on the outcome, all in one file; whoever shows or compares
a verdict iterates over its parts, and names none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from harness.records.outcomes import Outcome

if TYPE_CHECKING:
    from harness.records.claims.gate import ClaimTerms, Gate
    from harness.records.metrics import Metric
    from harness.records.result_text import TestedResult
    from harness.records.samples import Sample, Score
    from harness.records.verdicts import Verdict
    from harness.records.waivers import Waiver

MAX_EXAMPLES = 3  # ids of rows that a sentence gives as examples


class Slot(IntEnum):
    """Where the sentence of a part is shown."""

    HEADLINE = 0  # in place of the result
    ESTIMATE = 1  # within the result, after its number of rows
    DETAIL = 2  # after the result


class TableRow(NamedTuple):
    """A row of a verdict's table. It is `open` if it did not pass and counts."""

    outcome: Outcome
    name: str
    sentence: str
    rows: int
    remark: str = ""
    open: bool = False


@dataclass(frozen=True)
class Part:
    """A part of a verdict. A reader that does not know a critical one refuses the verdict."""

    critical: bool = field(default=False, init=False)

    name: ClassVar[str]
    slot: ClassVar[Slot] = Slot.DETAIL
    order: ClassVar[int] = 0  # among the sentences of its slot, and among effects
    of_result: ClassVar[bool] = True  # its sentence is shown only beside a result
    is_advice: ClassVar[bool] = False  # it says what would decide the claim
    is_warning: ClassVar[bool] = False  # the run warns of it, too
    is_shared: ClassVar[bool] = False  # it is the same for all verdicts of a run, which say it once
    estimand: ClassVar[str] = ""  # the name of an estimate that is not the plain difference of two values
    registry: ClassVar[dict[str, type[Part]]] = {}

    def sentence(self, terms: ClaimTerms | None, *, tests: bool = True) -> str:
        """Return what the part says, without names of tests unless `tests`. Empty if nothing."""
        return ""

    def remarks(self, terms: ClaimTerms | None) -> Sequence[str]:
        """Return what else the part says, each after the result."""
        return ()

    def table(self, terms: ClaimTerms | None, *, tests: bool = True) -> Sequence[TableRow]:
        """Return the part's rows of the verdict's table."""
        return ()

    def apply(self, outcome: Outcome) -> Outcome:
        """Return the outcome that the part makes of another. Applied twice it gives the same."""
        return outcome

    def anonymize(self) -> Part:
        """Return the part without values of private rows."""
        return self

    @property
    def where(self) -> str:
        """The name of the rows that the verdict's estimate is about, if it is not about all of them."""
        return ""

    @property
    def deciding_result(self) -> TestedResult | None:
        """The result that decides, if it is not that of all rows."""
        return None

    @property
    def units(self) -> int | None:
        """The number of independent units, if it is not that of rows."""
        return None

    @property
    def values(self) -> Sequence[float]:
        """The metric's values of several runs whose mean is claimed."""
        return ()

    @property
    def waiver(self) -> Waiver | None:
        """The waiver that excuses a missing PASS."""
        return None

    @classmethod
    def class_of(cls, name: str, content: Any) -> Any:
        """Return the class of a part by its name.

        Any type for an unknown one that is not critical. Raises TypeError for another.
        """
        if name in cls.registry:
            return cls.registry[name]
        if not isinstance(content, Mapping) or content.get("critical") is not False:
            raise TypeError(f'the verdict has a part "{name}" that this version of the harness does not know')
        return Any


class SideScores(NamedTuple):
    """The rows that a gate is about, with the scores of each subject by id."""

    metric: Metric
    rows: Sequence[Sample]
    sides: Mapping[str, Mapping[str, Score]]


class EvalFacts(NamedTuple):
    """What a condition may ask of the evaluation that its gate is on."""

    use: str  # the name of its evaluator
    generates: bool
    has_data: bool
    trains: bool
    missing_leak_check: str = ""


class Condition:
    """Gate keys under which a claim holds.

    `keys` is the dataclass that declares them with their defaults. `stricter` says of each key whose number can be
    compared whether a larger one is stricter (1) or a smaller one (-1).
    """

    keys: type
    stricter: Mapping[str, int] = {}
    needs_finish_reasons = False

    def is_set(self, gate: Gate) -> bool:
        """Return whether a gate has the condition."""
        raise NotImplementedError

    def find_mistakes(self, gate: Gate) -> Iterator[str]:
        """Yield mistakes in the keys themselves."""
        yield from ()

    def find_metric_mistakes(self, gate: Gate, metric: Metric) -> Iterator[str]:
        """Yield mistakes in the keys for a metric."""
        yield from ()

    def find_eval_mistakes(self, gate: Gate, facts: EvalFacts) -> Iterator[str]:
        """Yield mistakes in the keys for an evaluation."""
        yield from ()

    def phrase(self, gate: Gate) -> str:
        """Return what the condition adds to the claim in words."""
        return ""

    def implies(self, gate: Gate, claim: Gate) -> bool:
        """Return whether a gate's condition is as strict as that of another claim."""
        return True

    def find_obstacle(self, gate: Gate, rows: SideScores) -> Part | None:
        """Return the part that decides a gate on its rows before any test; its `apply` gives the outcome.

        Every row has a score, though its value may be lost; a gate of which one has none is an ERROR before.
        """
        return None

    def find_objection(self, gate: Gate, verdict: Verdict) -> Part | None:
        """Return the part that keeps a tested gate from passing; its `apply` gives the outcome."""
        return None

    def forecast_note(self, gate: Gate) -> str:
        """Return what a forecast of the gate leaves out of account."""
        return ""


def format_example_ids(ids: Sequence[str]) -> str:
    """Format the first ids of a list as examples."""
    return "for instance " + ", ".join(f'"{i}"' for i in ids[:MAX_EXAMPLES])
