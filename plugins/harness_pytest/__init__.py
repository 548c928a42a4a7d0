"""The pytest fixture `harness_gate`: a test passes where a claim about rows that another tool scored is proven."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness import GateResult

OPTION = "--harness-inconclusive"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for the outcome of an unproven claim."""
    group = parser.getgroup("finetune-harness")
    group.addoption(
        OPTION,
        choices=("fail", "skip"),
        default="fail",
        help="outcome of a test whose claim is not proven (default: fail)",
    )


@dataclass(frozen=True)
class Claims:
    """Claims on rows. Each fails the test unless it is proven."""

    rows: tuple[Any, ...]
    said: dict[str, Any]
    inconclusive: str
    claimed: list[str] = field(default_factory=list)

    def worse_by_at_most(self, margin: float | str) -> GateResult:
        """Claim that the candidate loses at most a margin. Returns the result."""
        return self._require_claim_proven(worse_by_at_most=margin)

    def better_by(self, margin: float | str) -> GateResult:
        """Claim that the candidate is better by more than that."""
        return self._require_claim_proven(better_by=margin)

    def at_least(self, limit: float) -> GateResult:
        """Claim that the candidate alone is at least that."""
        return self._require_claim_proven(min=limit)

    def at_most(self, limit: float) -> GateResult:
        """Claim that the candidate alone is at most that."""
        return self._require_claim_proven(max=limit)

    def _require_claim_proven(self, **claim: Any) -> GateResult:
        import harness
        from harness.internals import verdict_text

        __tracebackhide__ = True
        self.claimed.extend(claim)
        gated, why = None, ""
        try:
            gated = harness.gate(*self.rows, **{**self.said, **claim})
        except harness.UsageError as error:
            why = str(error)
        if gated is None:  # outside of the except block, or pytest shows the error twice
            pytest.fail(why, pytrace=False)
        claimed = gated.verdict.claim + verdict_text.format_margin_points(gated.verdict)
        summary = f"{gated.outcome} {gated.verdict.gate}: {claimed}; {gated.verdict.why}"
        if gated.outcome == "INCONCLUSIVE" and self.inconclusive == "skip":
            pytest.skip(f"{summary}\n{gated}")
        if gated.outcome != "PASS":
            pytest.fail(f"{summary}\n{gated}", pytrace=False)
        return gated


@pytest.fixture
def harness_gate(request: pytest.FixtureRequest) -> Iterator[Callable[..., Claims]]:
    """Return a function that makes Claims about scored rows.

    It takes rows of a base and a candidate, and the options of `harness gate`. A test that names rows and claims
    nothing of them ends in an error, since it tested nothing.
    """
    made: list[Claims] = []

    def gate(*rows: Any, **said: Any) -> Claims:
        made.append(Claims(rows, said, request.config.getoption(OPTION)))
        return made[-1]

    yield gate
    if any(not one.claimed for one in made):
        what = "harness_gate(…) without a claim tests nothing"
        pytest.fail(f"{what}; add .worse_by_at_most(…), .better_by(…), .at_least(…) or .at_most(…)", pytrace=False)
