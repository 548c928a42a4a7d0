"""Waivers: a named person answers, until a date, for a gate that did not pass or a check's error that is ignored.

Never silent, never for ever.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.artifacts.digests import digest_value
from harness.errors import Mistakes
from harness.files import read_text
from harness.gates.waivers import describe_claim, find_waiver_error
from harness.records.claims.gate import DERIVED_FIELDS, Gate
from harness.records.waivers import IGNORED, Waiver

if TYPE_CHECKING:
    from harness.records.findings import Finding
    from harness.records.verdicts import Verdict
    from harness.suite.tables import Eval, Suite

WAIVERS_SUFFIX = ".waivers.jsonl"  # behind the name of a suite
# of an eval, beside its name
FORM = ("separator", "encoding")
CLAIM_KEYS = (
    *("use", "data", "columns", "cluster", "limit", "stop", "fewshot_data", "against", "options"),
    *("chat_template_kwargs", "template", "rows_at_most", "thought_budget", *FORM),
    *("temperature", "top_p", "top_k", "repeats", "pass_at", "seeds"),
)
NO_RECIPE = ("where", "processes", "shard", "watch", "watch_rows")  # of [train]


def find_suite_waiver_error(waiver: Waiver, gate: Gate | None, suite: Suite, today: date) -> str:
    """Return the reason a waiver does not count, or an empty text.

    Without a gate it must be for a check.
    """
    if gate is not None:
        return find_waiver_error(waiver, describe_claim(gate), claim_digest(gate, suite), today)
    if waiver.claim != IGNORED:
        return "is for a gate that this suite does not have"
    if date.fromisoformat(waiver.until) < today:
        return f"expired on {waiver.until}"
    if waiver.digest != check_digest(waiver.gate, suite):
        return "is for another suite with the same words: its model, [adapter], [train] or an eval changed"
    return ""


def claim_digest(gate: Gate, suite: Suite) -> str:
    """Return the sha256 of everything a gate claims, 64 hex digits.

    It covers every key of the gate but its id, the suite's alpha where it has none, and the eval and the baseline it
    names. A gate that is changed afterwards is another claim.
    """
    return digest_value(_make_claim_identity(gate, suite))


def check_digest(code: str, suite: Suite) -> str:
    """Return the sha256 that a check's waiver is bound to.

    Its 64 hex digits cover the check's code, model, adapter, training and evals.
    """
    tables = {"model": suite.model, "adapter": suite.adapter, "train": suite.train}
    keys = {name: dataclasses.asdict(table).items() if table else () for name, table in tables.items()}
    told = {n: {k: v for k, v in some if k not in NO_RECIPE and (v or k not in FORM)} for n, some in keys.items()}
    return digest_value({"check": code, **told, "evals": [[e.name, _make_eval_identity(e)] for e in suite.evals]})


def waivers_file(suite: Path) -> Path:
    """Return the file beside a suite that holds its waivers."""
    return suite.with_name(f"{suite.stem}{WAIVERS_SUFFIX}")


def read_waivers(suite: Path) -> list[Waiver]:
    """Return the waivers beside a suite, the oldest first. Raises UsageError with every line that cannot be read."""
    if not (path := waivers_file(suite)).is_file():
        return []
    mistakes, found = Mistakes(), []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
            if not isinstance(told, dict) or not all(isinstance(v, str) for v in told.values()):
                raise TypeError("not an object of texts")
            found.append(Waiver(**told))
            date.fromisoformat(found[-1].until)
        except (ValueError, TypeError, RecursionError):
            want = ", ".join(f'"{f.name}"' for f in dataclasses.fields(Waiver))
            mistakes.add(f"{path}:{number}", f"is not a waiver; it needs the texts {want}, dates as YYYY-MM-DD")
    mistakes.raise_errors()
    return found


def active_waiver(waivers: Sequence[Waiver], gate: Gate, suite: Suite, today: date) -> Waiver | None:
    """Return the newest waiver in force for a gate."""
    return next(
        (w for w in reversed(waivers) if w.gate == gate.id and not find_suite_waiver_error(w, gate, suite, today)), None
    )


def active_check_waivers(waivers: Sequence[Waiver], suite: Suite, today: date) -> dict[str, Waiver]:
    """Return the newest waiver in force for each check. Keys are the names the waivers were given for."""
    return {w.gate: w for w in waivers if w.claim == IGNORED and not find_suite_waiver_error(w, None, suite, today)}


def invalid_waivers(waivers: Sequence[Waiver], suite: Suite, today: date) -> list[str]:
    """Explain each waiver that does not count.

    One is left out if a newer waiver for the same gate or check does count. Files of waivers without a suite are
    reported too.
    """
    known, checks = {g.id: g for g in suite.gates}, active_check_waivers(waivers, suite, today)
    beside = suite.path.parent.glob(f"*{WAIVERS_SUFFIX}")
    left = [path for path in beside if not path.with_name(path.name.removesuffix(WAIVERS_SUFFIX) + ".toml").exists()]
    said = [
        (
            f"{path}: there is no suite of this name, so these waivers do not count; rename the file if "
            "the suite was renamed"
        )
        for path in sorted(left)
    ]
    for waiver in waivers:
        gate = known.get(waiver.gate) if waiver.claim != IGNORED else None
        newer = active_waiver(waivers, gate, suite, today) if gate else checks.get(waiver.gate)
        if (why := find_suite_waiver_error(waiver, gate, suite, today)) and not newer:
            said.append(f'the waiver of {waiver.by} for "{waiver.gate}" {why}, so it does not count')
    return list(dict.fromkeys(said))


def unneeded_waivers(waivers: Sequence[Waiver], verdicts: Sequence[Verdict], flags: Sequence[Finding]) -> list[str]:
    """Return a line for each waiver that was not needed.

    That is one for a gate with passing verdicts only, or for a check without an error.
    """
    passed = {v.gate for v in verdicts} - {v.gate for v in verdicts if v.outcome != "PASS"}
    found = {name for f in flags if f.severity == "error" for name in f.names}
    idle = [w for w in waivers if (verdicts and w.gate not in found if w.claim == IGNORED else w.gate in passed)]
    unique = dict.fromkeys((w.by, w.gate) for w in idle)
    return [f'the waiver of {by} for "{gate}" was not needed' for by, gate in unique]


def _make_claim_identity(gate: Gate, suite: Suite) -> dict[str, Any]:
    neutral = {"id", *DERIVED_FIELDS}
    keys = {f.name: getattr(gate, f.name) for f in dataclasses.fields(gate) if f.name not in neutral}
    if set(gate.on) == set(suite.copies):  # as collection fills it in where copies are compared with their parents
        keys["on"] = []
    spec = next((e for e in suite.evals if e.name == gate.eval), None)
    baseline = suite.subjects.get(gate.versus or "")
    return {
        **keys,
        "alpha": gate.alpha or suite.header.alpha,
        "eval": spec and _make_eval_identity(spec),
        "baseline": dataclasses.asdict(dataclasses.replace(baseline, where="")) if baseline else None,
    }


def _make_eval_identity(spec: Eval) -> dict[str, Any]:
    return {key: getattr(spec, key) for key in CLAIM_KEYS}
