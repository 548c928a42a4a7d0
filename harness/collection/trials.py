"""The trials of a sweep, each a plan of its own."""

from __future__ import annotations

from dataclasses import replace

from harness.collection.plan import Plan


def trials(plan: Plan) -> list[Plan]:
    """Return the plan with each value of its sweep, or without a sweep the plan itself."""
    if plan.suite.sweep is None:
        return [plan]
    return [replace(plan, suite=plan.suite.trial(value)) for value in plan.suite.sweep.values]
