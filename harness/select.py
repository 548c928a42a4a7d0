"""Which items to run: `-k` and `--lf`. What a chosen item's gates compare with or wait for is chosen too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.collect import Item, Plan, matches
from harness.errors import UsageError
from harness.gate import Verdict
from harness.report import Report, Run
from harness.store import last_run


def select(plan: Plan, keyword: str, last: Path | None) -> Plan:
    """Return the plan with the items that match `keyword` and, given the reports' folder `last`, failed last time.

    Raises UsageError when nothing is left.
    """
    chosen = {i.id for i in plan.items if matches(keyword, i.id)}
    if last is not None:
        known = last_run(last, plan.suite.name)
        missed = {(r.subject, r.eval) for r in known.reports if r.outcome != "done"}
        missed |= {(v.candidate, v.metric.partition(".")[0]) for v in known.verdicts if _missed(known, v)}
        chosen &= {r.id for r in known.reports if (r.subject, r.eval) in missed}
    if not chosen:
        why = f'-k "{keyword}"' if keyword else "--lf"
        raise UsageError(f"{why}: selects none of {len(plan.items)} items; see --collect-only")
    wanted = chosen | {other for item in plan.items if item.id in chosen for other in _needed(plan, item)}
    items = tuple(i for i in plan.items if i.id in wanted)
    return replace(plan, items=items, deselected=tuple(i.id for i in plan.items if i.id not in wanted))


def failed(report: Report) -> bool:
    """Say whether an item could not be evaluated, or a blocking gate on it did not pass."""
    return report.outcome == "error" or any(v.missed for v in report.verdicts)


def _missed(run: Run, verdict: Verdict) -> bool:
    """Say whether a verdict, or that of the `any_of` it stands in, keeps the candidate from shipping."""
    group = (v for v in run.verdicts if v.gate == verdict.group and v.candidate == verdict.candidate)
    return verdict.missed or any(v.missed for v in group)


def _needed(plan: Plan, item: Item) -> list[str]:
    """Name the items that the gates on an item need: baselines, and what the gates they wait for are about."""
    if item.subject not in plan.candidates:
        return []
    about = {e for g in plan.gates(item.subject) if item.eval in (own := plan.evals(g)) for e in own}
    gates = [g for g in plan.gates(item.subject) if g.eval in about]
    found = [replace(item, eval=e) for e in about]
    found += [replace(item, subject=g.versus, eval=g.eval) for g in gates if g.versus]
    tasks = [plan.tasks[i.eval] for i in (item, *found) if plan.tasks[i.eval].marks == "pairs"]
    found += [replace(item, subject=t.spec.against, eval=t.spec.name) for t in tasks]
    return [i.id for i in found]
