"""Several candidates that were made elsewhere: all are measured on the select rows, and one goes on to be confirmed.

What the confirm rows say of the one is as if it had been alone: the others never met them, so there is one attempt.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from harness.artifacts.digests import digest_of, weights_digest
from harness.collection.plan import Plan
from harness.errors import ExitCode, UsageError
from harness.pipeline.session import Options, prepare
from harness.records.gates import Gate, Outcome
from harness.records.run import Run
from harness.schema import show

ENDED = (ExitCode.INTERRUPTED, ExitCode.INTERNAL, ExitCode.USAGE)  # after which there is nothing to compare
UNTOLD = ("base_model_name_or_path", "auto_mapping", "revision", "inference_mode")  # of no matter to what a LoRA is


@dataclass(frozen=True)
class Measured:
    """A candidate on the select rows: what ships of it, how many of its blocking gates passed, and what drives."""

    given: str
    run: Run
    subject: str
    passed: int
    gates: int
    metric: float

    @property
    def told(self) -> str:
        """What it came to, in words."""
        number = "not measured" if math.isnan(self.metric) else f"{self.metric:.4g}"
        return f"{self.given} {self.passed} of {self.gates} gates, {number}"


@dataclass(frozen=True)
class Chosen:
    """The candidate to confirm, and in a line how it was chosen."""

    given: str
    why: str


def among(path: Path, options: Options, run_one: Callable[[Path, Options], Run]) -> Chosen | Run:
    """Measure candidates on select rows, each in a run of its own, and return the best, or the run that ended it all.

    The best passes the most blocking gates there; among equals its metric of the first gate decides, and then the
    order in which they were given. Raises UsageError where they cannot be told apart or chosen between.
    """
    if options.select:
        raise UsageError(
            "--select: several candidates are measured on the select rows anyway; give one, or leave it out"
        )
    given = list(options.candidates)
    _tell_apart(given)
    plans = [prepare(path, replace(options, candidate=one, candidates=(), listeners=())) for one in given]
    driver = _driver(plans[0])
    found: list[Measured] = []
    for one, plan in zip(given, plans, strict=True):
        alone = replace(options, candidate=one, candidates=(), select=True, export=False, junit_xml=None)
        run = run_one(path, alone)
        if run.exit_code in ENDED:
            return run
        found.append(_measured(one, run, plan, driver))
    better = plans[0].tasks[driver.eval].metrics[driver.metric_name].better
    best = max(found, key=lambda m: _rank(m, better))
    if math.isnan(best.metric):
        return best.run
    rows = len(plans[0].tasks[driver.eval].select or ())
    told = "; ".join(m.told for m in found)
    why = f"of {len(found)} candidates {best.given} was chosen on select rows, by gates passed and then {driver.metric}"
    return Chosen(best.given, f"{why} ({rows} rows): {told}; it alone met the rows that confirm")


def _driver(plan: Plan) -> Gate:
    """Return the first blocking gate on rows to select by, whose metric decides among equals."""
    if not any(t.spec.select for t in plan.tasks.values()):
        what = 'several are chosen between on select rows, and no eval has any; give one select = "data/select.jsonl"'
        raise UsageError(f"{plan.suite.path}: --candidate: {what}, or name one candidate")
    for gate in plan.suite.gates:
        if gate.blocking and gate.metric and plan.tasks[gate.eval].spec.select:
            return gate
    what = "several are chosen between by their gates, and no blocking gate is on an eval with select rows"
    raise UsageError(f"{plan.suite.path}: --candidate: {what}; add one, or name one candidate")


def _measured(given: str, run: Run, plan: Plan, driver: Gate) -> Measured:
    """Return what a run on select rows says of what would ship."""
    subject = next((e.from_ for e in plan.suite.exports if e.from_ in plan.candidates), "")
    made = [c for c in plan.candidates if c not in plan.suite.copies]
    subject = subject or made[-1]
    verdicts = [v for v in run.verdicts if v.candidate == subject and v.blocking]
    reports = [r for r in run.reports if (r.subject, r.eval, r.outcome) == (subject, driver.eval, "done")]
    metric = reports[0].metrics.get(driver.metric_name, math.nan) if reports else math.nan
    return Measured(given, run, subject, sum(v.outcome is Outcome.PASS for v in verdicts), len(verdicts), metric)


def _rank(measured: Measured, better: str) -> tuple[bool, int, float]:
    if math.isnan(measured.metric):
        return (False, 0, 0.0)
    return (True, measured.passed, measured.metric if better == "higher" else -measured.metric)


def _tell_apart(given: list[str]) -> None:
    """Raise UsageError at two candidates that are one: of one path or name, or with the same weights."""
    seen: dict[str, str] = {}
    for one in given:
        if (same := seen.get(identity := _identity(Path(one)))) is not None:
            raise UsageError(f"--candidate {show(one)}: is {show(same)}, with the same weights; name it once")
        seen[identity] = one


def _identity(folder: Path) -> str:
    """Return what two candidates have in common that are one: weights, and for an adapter how they are applied."""
    config = folder / "adapter_config.json"
    try:
        folder = folder.parent if folder.is_file() else folder
        about = json.loads(config.read_text("utf-8")) if config.is_file() else {}
        return digest_of([weights_digest(folder), {k: v for k, v in about.items() if k not in UNTOLD}])
    except (OSError, ValueError, AttributeError):  # a name, or what is told where it is opened
        return str(folder)
