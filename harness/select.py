"""Which items to run: `-k` and `--lf`. What a chosen item's gates compare with is chosen too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.collect import Item, Plan, matches
from harness.errors import UsageError
from harness.gate import Outcome
from harness.report import Report
from harness.store import last_run


def select(plan: Plan, keyword: str, last: Path | None) -> Plan:
    """Return the plan with the items that match `keyword` and, given the reports' folder `last`, failed last time.

    Raises UsageError when nothing is left.
    """
    chosen = {i.id for i in plan.items if matches(keyword, i.id)}
    if last is not None:
        known = last_run(last, plan.suite.name)
        chosen &= {r.id for r in known.reports if failed(r) or r.outcome == "skipped"}
    if not chosen:
        why = f'-k "{keyword}"' if keyword else "--lf"
        raise UsageError(f"{why}: selects none of {len(plan.items)} items; see --collect-only")
    wanted = chosen | {b for item in plan.items if item.id in chosen for b in _baselines(plan, item)}
    items = tuple(i for i in plan.items if i.id in wanted)
    return replace(plan, items=items, deselected=tuple(i.id for i in plan.items if i.id not in wanted))


def failed(report: Report) -> bool:
    """Say whether an item could not be evaluated, or a blocking gate on it did not pass."""
    return report.outcome == "error" or any(v.blocking and v.outcome is not Outcome.PASS for v in report.verdicts)


def _baselines(plan: Plan, item: Item) -> list[str]:
    if item.subject not in plan.candidates:
        return []
    versus = {g.versus for g in plan.gates(item.subject) if g.eval == item.eval and g.versus}
    return [replace(item, subject=name).id for name in versus]
