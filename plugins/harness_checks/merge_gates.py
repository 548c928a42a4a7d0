"""D29: a merge that ships although no gate compares it with the adapter that was merged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from harness import Finding, Gate, checker
from harness.internals import ADAPTER, MERGED, Suite, Task, choose_merge_margin, count_units
from harness_checks.recipe import adapter_options

GATE_ID = "the merge keeps what was trained"


@checker(title="ungated-merge")
def ungated_merge(tasks: Mapping[str, Task], suite: Suite, gates: Sequence[Gate]) -> Iterator[Finding]:
    """A merge that ships without a comparison with its adapter.

    A gate against the base passes a merge that lost half of what was trained. A merge can lose it: the sum of base and
    adapter is rounded, and an adapter that was trained on a 4-bit base is merged into weights that it never saw
    (peft#1035, unsloth#2142). The finding shows a gate to add, on the metric by which other gates measure the task.
    """
    adapted = suite.train is not None and adapter_options(suite) is not None
    if suite.candidate:
        adapted = suite.candidate.adapter is not None
    merges = dict.fromkeys(export.from_ for export in suite.exports if export.from_.startswith(MERGED))
    against = [gate for gate in gates if gate.versus == ADAPTER]
    lacking = [name for name in merges if not any(gate.applies_to(name) for gate in against)]
    if not (adapted and gates and lacking):
        return
    lines = _format_gate(tasks, suite, [gate for gate in gates if any(map(gate.applies_to, lacking))])
    fix = "add this gate" if lines else f'add a gate with versus = "{ADAPTER}" and worse_by_at_most'
    what = f"no gate compares {' and '.join(lacking)}, which is exported, with the adapter that was merged"
    yield Finding("warning", what, lines, fix)


def _format_gate(tasks: Mapping[str, Task], suite: Suite, gates: Sequence[Gate]) -> list[str]:
    """Return the lines of a gate on the first proportion that a gate is on, preferably one against a baseline.

    Empty if there is none, since other metrics need a margin in their own unit.
    """
    for gate in sorted(gates, key=lambda gate: gate.better_by is None):
        if (task := tasks.get(gate.eval)) is None or task.compares or task.spec.stop == "early":
            continue
        metric, rows = task.metrics.get(gate.metric_name), task.rows_of(gate.metric_name)
        if metric is None or not metric.is_share or metric.combine or metric.is_agreement or not rows:
            continue
        made = Gate(GATE_ID, gate.metric, versus=ADAPTER, worse_by_at_most=0.0)
        margin = choose_merge_margin(count_units(made, rows)[""][1], suite.header.alpha)
        lines = ["[[gate]]", f'id = "{made.id}"', f'metric = "{made.metric}"', f'versus = "{ADAPTER}"']
        return [*lines, f"worse_by_at_most = {margin:g}"]
    return []
