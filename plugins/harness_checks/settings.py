"""D23: settings of a suite under which a verdict says little: a limit, a risk, a pattern, gates that only warn."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from harness import Finding, Gate
from harness.internals import Suite, Task

FEW_ROWS = 50  # of an evaluation that a gate judges, where a limit leaves so many
HIGH_RISK = 0.2  # alpha


def find_weak_settings(tasks: Mapping[str, Task], suite: Suite, gates: Sequence[Gate]) -> Iterator[Finding]:
    """Yield findings for settings that weaken a verdict.

    They are those of a trial run, or let any model pass.
    """
    gated = {gate.eval for gate in gates if gate.metric}
    for name, task in tasks.items():
        limit = task.spec.limit
        if name in gated and limit and limit <= FEW_ROWS and len(task.samples or ()) == limit:
            what = f'"{name}" has limit = {limit}, so its gates judge {limit} rows'
            yield Finding("warning", what, (), "remove limit once the suite works", "limit")
        pattern = str(task.spec.options.get("pattern", "")) if task.spec.use == "regex" else ""
        if pattern and _does_pattern_match_empty_text(pattern):
            what = f'"{name}": the pattern {pattern!r} matches an empty answer, so every answer is right'
            yield Finding("warning", what, (), "write a pattern that a wrong answer does not match", "pattern")
    if (alpha := suite.header.alpha) > HIGH_RISK and gates:
        what = f"alpha is {alpha:g}: of models that break a gate, up to {alpha:.0%} pass it"
        yield Finding("warning", what, (), "the usual risk is 0.05", "alpha")
    if gates and all(gate.severity == "warn" for gate in gates):
        what = 'no gate blocks: every gate has severity = "warn"'
        yield Finding("warning", what, (), 'remove severity = "warn" from the gates that must hold', "blocking")


def _does_pattern_match_empty_text(pattern: str) -> bool:
    try:
        return re.search(pattern, "") is not None
    except re.error:  # which the evaluator refuses
        return False
