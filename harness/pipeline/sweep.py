"""Trials of a sweep: the same recipe with one option changed, compared step by step on the select rows.

Trial k + 1 is trained only when trial k was better than trial k - 1, at the sweep's risk, and the last that was better
is chosen. The tests stand in a fixed order and end at the first that is not significant, so one that goes too far
is as rare as one test says, however many values there are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.collection.collect import Task
from harness.files import write_text
from harness.gates.decide import judge
from harness.records.findings import Flag
from harness.records.gates import Gate, Outcome, Verdict
from harness.records.metrics import Metric
from harness.records.run import Swept, Trial
from harness.records.samples import Result
from harness.schema import show
from harness.suite.tables import Suite, Sweep


def tell_apart(sweep: Sweep | None, each: Sequence[Sequence[Flag]]) -> list[Flag]:
    """Return what was found of all trials once, and before what was found of some of them which those are."""
    found = [flag for flag in each[0] if all(flag in others for others in each)]
    for value, flags in zip(sweep.values if sweep else (), each, strict=False):
        what = f"with {sweep.option} = {show(value)}: " if sweep else ""
        found += [replace(flag, what=what + flag.what) for flag in flags if flag not in found]
    return found


def trained(facts: Mapping[str, Any], work: Path, seconds: float) -> dict[str, Any]:
    """Return what a Trial tells of its training; its seconds are kept in its folder for the runs that find it there."""
    note = work / "trial.json"
    reused = "reused" in facts
    if not reused:
        write_text(note, json.dumps({"seconds": seconds}))
    known = json.loads(note.read_text("utf-8")) if note.is_file() else {}
    return {"reused": reused, "seconds": known.get("seconds"), "parameters": facts.get("trainable_parameters")}


class Climb:
    """The trials so far, and the best of them, which is the last that was better than the one before."""

    def __init__(self, suite: Suite, task: Task) -> None:
        assert suite.sweep and task.select  # collection or preflight read them
        self.sweep, self.task = suite.sweep, task
        self.samples, self.gate = task.select, suite.sweep.step
        self.metric: Metric = task.metrics[self.gate.metric_name]
        self.best: Result | None = None
        alpha = suite.sweep.alpha or suite.about.alpha
        about = (len(self.samples), self.metric.scale, list(suite.sweep.values))
        self.swept = Swept(suite.sweep.key, suite.sweep.by, alpha, *about)

    def add(self, value: Any, result: Result, facts: dict[str, Any]) -> Trial:
        """Compare a trial with the best so far, of which it takes the place if it is better; `facts` go into it."""
        whole = self.judge(self.bound(), result, None)
        about = {"value": value, "metric": result.metrics[self.metric.name], "digest": result.digest, **facts}
        about |= self.bounds(whole, "")
        if self.best is not None:
            said = self.judge(self.gate, result, self.best)
            change = None if said.estimate is None else self.size(said.estimate, of_change=True)
            about |= {"change": change, **self.bounds(said, "change_"), "p": said.p_pass}
            about |= {"better": said.outcome is Outcome.PASS, "why": said.why}
        trial = Trial(**about)
        self.swept.trials.append(trial)
        if trial.better:
            self.best = result
        return trial

    def judge(self, gate: Gate, ours: Result, theirs: Result | None) -> Verdict:
        return judge(gate, self.metric, ours, theirs, self.samples, self.swept.alpha, name=self.sweep.key)

    def bound(self) -> Gate:
        """Return a claim about a trial alone, for its interval; which number it names makes no difference to that."""
        number = 1.0 if self.metric.scale == "perplexity" else 0.5
        claim = {"min" if self.metric.better == "higher" else "max": number}
        return replace(self.gate, versus=None, better_by=None, **claim)  # type: ignore[arg-type]

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

    def conclude(self) -> str:
        """Say which value was chosen and why, once there is no trial to come."""
        swept, (*_, last) = self.swept, self.swept.trials
        steps = [t.value for t in swept.trials if t.better]
        swept.chosen = steps[-1]
        better = f"{show(steps[-1])} is significantly better than {show(steps[-2])}" if len(steps) > 1 else ""
        if last.better:
            swept.why = f"{better}, and is the last value"
        else:
            lacks = f"{show(last.value)} is not shown to be better than {show(swept.chosen)} ({_briefly(last)})"
            swept.why = f"{better}, and {lacks}" if better else lacks
        left = swept.values[len(swept.trials) :]
        untried = f"; not tried: {', '.join(map(show, left))}" if left else ""
        text = f"{swept.key} = {show(swept.chosen)} was chosen by {swept.by} on {swept.rows} select rows: {swept.why}"
        return text + untried


def _briefly(trial: Trial) -> str:
    return trial.why.partition(";")[0] if trial.p is None else f"p = {trial.p:.2g}"
