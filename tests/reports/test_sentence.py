"""The sentence of a run, and the gate that decided it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harness.records.changes import Change
from harness.records.claims.gate import ClaimTerms, Gate
from harness.records.findings import Finding
from harness.records.parts.waived import Waived
from harness.records.run import Exported, ItemResult, Run
from harness.records.verdicts import Outcome, Verdict
from harness.records.waivers import Waiver
from harness.reports.summary import (
    deciding_verdict,
    distance_to_limit,
    largest_gain,
    run_outcome,
    sort_worst_first,
    ungated_losses,
    verdict_sentence,
)

BETTER = Gate("better", "qa.acc", versus="base", better_by=0.0)
PASSED = Verdict("floor", "merged", Outcome.PASS, "", "qa.acc", "at least 0.5", True)
PASSED = replace(
    PASSED, estimate=0.8, lower=0.7, upper=0.9, threshold=0.5, terms=ClaimTerms(Gate("floor", "qa.acc", min=0.5))
)
CLOSE = replace(PASSED, gate="close", lower=0.55, upper=0.95)
FAILED = replace(PASSED, gate="fails", outcome=Outcome.FAIL, estimate=0.3, lower=0.2, upper=0.4)
OPEN = replace(PASSED, gate="open", outcome=Outcome.INCONCLUSIVE, estimate=0.5, lower=0.4, upper=0.6)
WARN = replace(FAILED, gate="warns", blocking=False)
WAIVED = FAILED.with_parts(Waived(Waiver("fails", "", "r", "9999-01-01", "ada", "2026-01-01", "")))
ASIDE = replace(FAILED, candidate="adapter", decides=False)
WRITTEN = Exported("folder", "merged", "out", True)
REFUSED = Exported("folder", "merged", "out", False, ("a reason",))


def make_run(*verdicts: Verdict, **fields: Any) -> Run:
    reports = [ItemResult("s::merged::qa", "merged", "qa", "done", better={"acc": "higher", "loss": "lower"})]
    reports[0] = replace(reports[0], verdicts=verdicts)
    codes = [v.outcome for v in verdicts if v.blocks_release]
    given: dict[str, Any] = {"exit_code": int(bool(codes)), "gates": len(verdicts), "results": reports}
    return Run("s", "s.toml", "", 0, 0.05, "m", "2026-11-26T09:00:00+00:00", "0", **given | fields)


SAID = {
    "merged may ship: 2 of 2 gates passed": make_run(PASSED, CLOSE),
    "merged may ship: 1 of 1 gate passed": make_run(PASSED, exports=[WRITTEN]),
    "nothing ships: one gate failed, one is not proven": make_run(PASSED, FAILED, OPEN),
    "nothing ships: two gates are not proven": make_run(OPEN, OPEN),
    "nothing ships: one gate could not be decided": make_run(replace(OPEN, outcome=Outcome.ERROR)),
    "merged may ship: 1 of 2 gates passed, one is waived": make_run(PASSED, WAIVED),
    "merged may ship: 1 of 2 gates passed, one that only warns failed": make_run(PASSED, WARN),
    "merged may ship: 1 of 1 gate passed; one more on adapter, of which one gate failed": make_run(PASSED, ASIDE),
    "merged may ship: 2 of 2 gates passed; two more on adapter": make_run(
        PASSED, CLOSE, *(replace(v, candidate="adapter", decides=False) for v in (PASSED, CLOSE))
    ),
    "nothing ships: a reason": make_run(PASSED, exports=[REFUSED]),
    "merged may ship: 1 of 2 gates passed, nf4 may not: one gate failed": make_run(
        PASSED, replace(FAILED, candidate="nf4"), exports=[WRITTEN, replace(REFUSED, candidate="nf4")]
    ),
    "nothing ships: no gate was decided": make_run(),
    "nothing ships: the run ended early before a gate was decided": make_run(problem="interrupted"),
    "nothing ships: one gate failed, the run ended early": make_run(FAILED, problem="interrupted"),
    "nothing ships: one check failed": make_run(PASSED, findings=[Finding("error", "what")], exit_code=1),
    "nothing ships: 1 of 2 gates were not decided": make_run(PASSED, gates=2, exit_code=6),
    "nothing ships: a run on selection splits confirms nothing": make_run(PASSED, selecting=True, exit_code=6),
    "nothing ships: no blocking gate is on the shipping candidate": make_run(replace(PASSED, blocking=False)),
}


@pytest.mark.parametrize("sentence", SAID)
def test_sentence_hides_no_failure(sentence: str) -> None:
    """The sentence says what ships, and counts what failed apart from what is not proven."""
    assert verdict_sentence(SAID[sentence]) == sentence


def test_worst_gate_comes_first() -> None:
    """What holds something up comes first, worst outcome first, then the bound that is closest to its limit."""
    run = make_run(PASSED, CLOSE, OPEN, WAIVED, FAILED, WARN)
    assert [v.gate for v in sort_worst_first(run)] == ["fails", "open", "fails", "warns", "close", "floor"]
    assert (deciding_verdict(run) or PASSED).gate == "fails"
    assert deciding_verdict(make_run(PASSED, CLOSE, WARN)) == CLOSE
    assert deciding_verdict(make_run()) is None


def test_gain_is_what_a_gate_proved_of_what_ships() -> None:
    """Of shares of rows first; no gain is one that is not claimed, not proven, or of what does not ship."""
    better = replace(PASSED, gate="better", estimate=0.1, terms=ClaimTerms(BETTER, "proportion"))
    longer = replace(better, gate="longer", estimate=9.0, terms=ClaimTerms(BETTER, "mean"))
    assert largest_gain(make_run(PASSED, longer, better)) == better and largest_gain(make_run(PASSED, longer)) == longer
    for v in (
        OPEN,
        PASSED,
        replace(better, terms=ClaimTerms(replace(BETTER, better_by=None, worse_by_at_most=0.1))),
        replace(better, decides=False),
    ):
        assert largest_gain(make_run(v)) is None


def test_losses_that_no_gate_says_are_proven() -> None:
    """They are of what was made, of metrics that are named, the largest share of rows first."""
    lost = Change("qa", "acc", 0.9, 0.8, 60, 1, 7, (), (), -0.1, -0.19, -0.02, "proportion", "adapter", "merged")
    worse = replace(lost, metric="loss", scale="mean", estimate=3.0, lower=2.0, upper=4.0)
    more = replace(PASSED, gate="loss", metric="qa.loss", terms=ClaimTerms(Gate("loss", "qa.loss", max=1.0)))
    assert ungated_losses(make_run(PASSED, more, changes=(worse, lost))) == [lost, worse]
    assert (
        ungated_losses(
            make_run(PASSED, changes=(replace(worse, upper=None), replace(lost, estimate=0.1, lower=0.1, upper=0.2)))
        )
        == []
    )
    assert ungated_losses(make_run(replace(PASSED, versus="adapter"), changes=(lost,))) == []


BROKEN = replace(OPEN, outcome=Outcome.ERROR)
CAME = {
    "PASS": [make_run(PASSED, WAIVED)],
    "FAIL": [make_run(FAILED)],
    "INCONCLUSIVE": [make_run(OPEN, exit_code=6), make_run(exit_code=5)],
    "ERROR": [
        make_run(PASSED, edited=True),
        make_run(BROKEN, OPEN, exit_code=6),
        make_run(exit_code=5, problem="disk full"),
    ],
}


@pytest.mark.parametrize(("came", "run"), [(came, run) for came, runs in CAME.items() for run in runs])
def test_glyph_of_a_run_is_its_sentences(came: str, run: Run) -> None:
    """A run that ships is a PASS, whatever was waived; one that was edited is none."""
    assert run_outcome(run) == came


def test_distance_is_in_half_widths() -> None:
    """From the bound that must clear the limit, on the side that the claim or the metric's direction says."""
    assert distance_to_limit(PASSED) == pytest.approx(2)
    assert distance_to_limit(FAILED) == pytest.approx(-3)
    assert distance_to_limit(
        replace(PASSED, terms=ClaimTerms(Gate("loss", "qa.loss", max=1.0)), threshold=1.0)
    ) == pytest.approx(1)
    assert distance_to_limit(
        replace(PASSED, terms=ClaimTerms(replace(BETTER, better_by=0.1), better="lower"), threshold=1.1)
    ) == pytest.approx(2)
    assert distance_to_limit(replace(PASSED, lower=0.8, upper=0.8)) == float("inf")
    assert distance_to_limit(replace(OPEN, lower=None)) == float("-inf")
    assert distance_to_limit(replace(PASSED, terms=None)) == float("inf")
