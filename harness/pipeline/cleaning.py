"""Training rows that leak or are broken, taken out: `[train] drop_leaks`, and `harness check --write-clean`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from harness.collection.plan import Plan
from harness.errors import UsageError
from harness.evaluation.checks import Checks, data_objects
from harness.records.models import ModelRef

CHECKS = ("D10", "D11")
TRAINED = ("training data", "validation data")  # under which they name rows


def cleaned(plan: Plan, base: ModelRef, checks: Checks) -> Plan:
    """Return a plan without the training rows of which an error or a warning counts, looking until there are none.

    Its warnings say how many these are. Raises UsageError where no row is left.
    """
    rows, taken = list(zip(plan.training or (), plan.origins, strict=False)), Counter[str]()
    whole, where = len(rows), f"{plan.suite.path}: [train] drop_leaks"
    while rows:
        training, origins = zip(*rows, strict=True)
        plan = replace(plan, training=training, origins=origins)
        found = checks.run("data", CHECKS, **data_objects(plan, base, lambda: None))
        flags = [flag for flag in found if flag.severity != "note" and flag.ignored is None]
        odd = {int(i): flag.code for flag in reversed(flags) for name in TRAINED for i in flag.rows.get(name, ())}
        taken.update(odd.values())
        rows = [row for i, row in enumerate(rows, 1) if i not in odd]
        if not odd:
            codes = ", ".join(f"{code} {n}" for code, n in sorted(taken.items())) or "none is found"
            told = f"{where}: {whole - len(rows):,} of {whole:,} rows are taken out: {codes}"
            return replace(plan, warnings=(*plan.warnings, told))
    raise UsageError(f"{where}: no row is left of {whole:,}; look with harness check")
