"""Trials of a sweep: the same recipe with one option changed, compared on the select rows.

By the rule "step" trial k + 1 is trained only when trial k was better than trial k - 1, at the sweep's risk, and the
last that was better is chosen. The tests stand in a fixed order and end at the first that is not significant, so one
that goes too far is as rare as one test says, however many values there are. By "best" all are trained, and the best
mean is chosen: which it is needs no risk, since other rows confirm it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.collection.plan import Task, trials
from harness.files import write_text
from harness.gates.decide import judge
from harness.pipeline.artifacts import artifacts_of
from harness.pipeline.evaluation import on_select
from harness.pipeline.record import Record, Stop
from harness.pipeline.session import Session
from harness.pipeline.training import Trained, keep_logs, train
from harness.records.gates import Gate, Outcome, Verdict
from harness.records.metrics import Metric
from harness.records.run import Swept, Trial
from harness.records.samples import Result, Sample
from harness.reports.training import LOGS, read_steps
from harness.schema import show
from harness.suite.tables import Sweep


def sweep(session: Session, record: Record) -> Trained | Stop:
    """Train trial after trial, by the rule "step" while each is better, and return the last that was."""
    rule = comparison_of(session)
    by, values = rule.sweep.by, rule.sweep.values
    tried: list[Trial] = []
    best: tuple[Trained, Result] | None = None
    record.swept(rule.swept(tried))
    for value, collection, adapter in zip(values, trials(session.collection), session.opened.trials, strict=True):
        trial = replace(session, collection=collection, opened=replace(session.opened, adapter=adapter))
        what = f"{rule.sweep.key} = {show(value)}"
        record.announce("sweep", f"{what}, trial {len(tried) + 1} of at most {len(values)}")
        made = train(trial, record)
        if isinstance(made, Stop):
            return made
        with record.stage("select", f"{by} on {len(rule.samples)} rows"):
            result = on_select(trial, by, made.ref, what)
        tried.append(rule.trial(value, result, best[1] if best else None, _training(made)))
        record.trial(rule.swept(tried), tried[-1])
        if tried[-1].better:
            best = made, result
        elif rule.sweep.rule == "step":
            break
    assert best  # there is nothing that the first could fail to be better than
    place = artifacts_of(best[0].session)
    record.fact("training", {**best[0].facts, **keep_logs(session, record, place.work / LOGS)})
    record.add(training=read_steps(place.adapter))
    chosen = conclude(rule.swept(tried))
    record.swept(chosen)
    record.choice(words(chosen))
    return best[0]


def comparison_of(session: Session) -> Comparison:
    """Return how the trials of a session's sweep are compared."""
    suite = session.suite
    assert suite.sweep
    task = session.collection.tasks[suite.sweep.by.partition(".")[0]]
    assert task.select  # collection or preflight read them
    return Comparison(suite.sweep, task, suite.sweep.alpha or suite.about.alpha)


def _training(made: Trained) -> dict[str, Any]:
    """Return what a Trial tells of its training; its seconds are kept in its folder for the runs that find it there."""
    note = artifacts_of(made.session).work / "trial.json"
    reused = "reused" in made.facts
    if not reused:
        write_text(note, json.dumps({"seconds": made.seconds}))
    known = json.loads(note.read_text("utf-8")) if note.is_file() else {}
    return {"reused": reused, "seconds": known.get("seconds"), "parameters": made.facts.get("trainable_parameters")}


@dataclass(frozen=True)
class Comparison:
    """How a trial is compared with the best before it, on the select rows of the sweep's evaluation."""

    sweep: Sweep
    task: Task
    alpha: float

    @property
    def samples(self) -> Sequence[Sample]:
        return self.task.select or ()

    @property
    def metric(self) -> Metric:
        return self.task.metrics[self.sweep.step.metric_name]

    def swept(self, tried: Sequence[Trial]) -> Swept:
        """Return the sweep with the trials so far."""
        about = (len(self.samples), self.metric.scale, list(self.sweep.values))
        return Swept(self.sweep.key, self.sweep.by, self.alpha, *about, trials=[*tried], rule=self.sweep.rule)

    def trial(self, value: Any, result: Result, best: Result | None, facts: dict[str, Any]) -> Trial:
        """Compare a trial with the best so far, if there is one; `facts` go into it."""
        whole = self.judge(self.bound(), result, None)
        about = {"value": value, "metric": result.metrics[self.metric.name], "digest": result.digest, **facts}
        about |= self.bounds(whole, "")
        if best is not None:
            said = self.judge(self.sweep.step, result, best)
            change = None if said.estimate is None else self.size(said.estimate, of_change=True)
            about |= {"change": change, **self.bounds(said, "change_"), "p": said.p_pass}
            about |= {"better": said.outcome is Outcome.PASS, "why": said.why}
            if self.sweep.rule == "best":
                ours, theirs = about["metric"], best.metrics[self.metric.name]
                no_better = ours <= theirs if self.metric.better == "higher" else ours >= theirs
                about["better"] = math.isfinite(ours) and not no_better
        return Trial(**about)

    def judge(self, gate: Gate, ours: Result, theirs: Result | None) -> Verdict:
        return judge(gate, self.metric, ours, theirs, self.samples, self.alpha, name=self.sweep.key)

    def bound(self) -> Gate:
        """Return a claim about a trial alone, for its interval; which number it names makes no difference to that."""
        number = 1.0 if self.metric.scale == "perplexity" else 0.5
        claim = {"min" if self.metric.better == "higher" else "max": number}
        return replace(self.sweep.step, versus=None, better_by=None, **claim)  # type: ignore[arg-type]

    def bounds(self, said: Verdict, prefix: str) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        for name in ("lower", "upper"):
            bound = getattr(said, name)
            finite = bound is not None and math.isfinite(bound)
            found[prefix + name] = self.size(bound, of_change=bool(prefix)) if finite else None
        return found

    def size(self, x: float, *, of_change: bool) -> float:
        """Return a test's number on the metric's scale; a perplexity is tested as its logarithm."""
        if self.metric.scale != "perplexity":
            return x
        return math.expm1(x) if of_change else math.exp(x)


def conclude(swept: Swept) -> Swept:
    """Return a sweep with the value that was chosen and why, once there is no trial to come."""
    last, steps = swept.trials[-1], [t.value for t in swept.trials if t.better]
    if swept.rule == "best":
        return replace(swept, chosen=steps[-1], why=f"the best of {len(swept.trials)} values")
    better = f"{show(steps[-1])} is significantly better than {show(steps[-2])}" if len(steps) > 1 else ""
    if last.better:
        why = f"{better}, and is the last value"
    else:
        lacks = f"{show(last.value)} is not shown to be better than {show(steps[-1])} ({_briefly(last)})"
        why = f"{better}, and {lacks}" if better else lacks
    return replace(swept, chosen=steps[-1], why=why)


def words(swept: Swept) -> str:
    """Return in a line which value was chosen, why, and which were not tried."""
    left = swept.values[len(swept.trials) :]
    untried = f"; not tried: {', '.join(map(show, left))}" if left else ""
    text = f"{swept.key} = {show(swept.chosen)} was chosen by {swept.by} on {swept.rows} select rows: {swept.why}"
    return text + untried


def _briefly(trial: Trial) -> str:
    return trial.why.partition(";")[0] if trial.p is None else f"p = {trial.p:.2g}"
