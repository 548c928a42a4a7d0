"""Gates with `clean_only`: judged without the rows that leak, which is said, and which can prove nothing by itself.

Which rows those are is told by the contamination check alone, before anything is measured. A finding that is ignored
does not stop the run; its rows are left out all the same, so that no flag of a command line chooses a gate's rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness.artifacts.digests import digest_value
from harness.gates.gate_input import as_error, error_verdict
from harness.records.claims.gate import Gate
from harness.records.parts.leaked import LeakedRows
from harness.records.parts.slices import Slices
from harness.records.samples import Sample
from harness.records.verdict_text import complete
from harness.records.verdicts import Outcome, Verdict

if TYPE_CHECKING:
    from harness.plugins import Plugins
    from harness.records.findings import Finding

CHECK = "D10"  # the only check that is heard; it must declare that it tells leaks, and be the harness's own
KINDS = tuple(f"{CHECK}-{kind}" for kind in ("exact", "inside", "coverage", "near", "group"))
Leaks = Mapping[str, Mapping[str, str]]  # evaluation -> id of a row -> the code it was told under


def collect_leaks(flags: Iterable[Finding]) -> Leaks | None:
    """Return the rows that the contamination check reported as leaks.

    Notes do not count, only errors and warnings. None if the check could not look.
    """
    leaks: dict[str, dict[str, str]] = {}
    for flag in flags:
        if flag.code.partition("-")[0] != CHECK:
            continue
        if flag.code not in KINDS:
            return None
        for name, ids in flag.rows.items() if flag.severity != "note" else ():
            for i in ids:
                leaks.setdefault(name, {}).setdefault(i, flag.code)
    return leaks


def is_left_out(flag: Finding, gates: Sequence[Gate]) -> bool:
    """Return whether all gates on a finding's rows ignore them. There must be such a gate, with `clean_only`."""
    affected = [g for g in gates if g.eval in flag.rows]
    return flag.code in KINDS and bool(affected) and all(g.clean_only for g in affected)


def soften_findings(flags: Iterable[Finding], gates: Sequence[Gate]) -> list[Finding]:
    """Return the findings, with errors on left-out rows as warnings. See `is_left_out`."""
    result = []
    for flag in flags:
        if flag.severity == "error" and is_left_out(flag, gates):
            names = ", ".join(f'"{g.id}"' for g in gates if g.eval in flag.rows)
            flag = replace(
                flag, severity="warning", fix=f"the gate ignores rows of {names} (clean_only); better {flag.fix}"
            )
        result.append(flag)
    return result


def has_leak_check(plugins: Plugins) -> bool:
    """Return whether the contamination check is there, and the harness's own: no other may choose a gate's rows."""
    provided = plugins.provided.get(("check", CHECK))
    return provided is not None and provided.capabilities.leaks and plugins.is_own(provided)


def count_left_out(
    leaks: Leaks, gates: Sequence[Gate], rows: Mapping[str, Sequence[Sample]]
) -> dict[str, dict[str, Any]]:
    """Count the rows that `clean_only` gates leave out.

    For every evaluation with such a gate, with the number of its rows, and the sha256 of the ids and codes left out.
    """
    by_eval = {}
    for name in dict.fromkeys(g.eval for g in gates if g.clean_only):
        ids = {s.id for s in rows[name]}  # of one that another on the same data outnumbers, not all that leak
        leaking = sorted((i, code) for i, code in leaks.get(name, {}).items() if i in ids)
        by_eval[name] = {"rows": len(leaking), "of": len(rows[name]), "sha256": digest_value(leaking)}
    return by_eval


def decide_without_leaks(
    gate: Gate,
    samples: Sequence[Sample],
    leaks: Leaks | None,
    ask: Callable[[Collection[str]], Verdict],
    *,
    name: str,
    alpha: float,
) -> Verdict:
    """Decide a gate on the rows that do not leak.

    `ask` decides it without the ids that it gets. The verdict is ERROR if leaks were not looked for, if they are most
    rows of the gate or of a slice, if they leave a slice too small to have to prove its claim, or if the verdict with
    them is. A claim refuted with the leaked rows is not proven without them.
    """
    if leaks is None:
        why = f"clean_only: {CHECK} did not look for leaked rows, so which rows are clean is unknown"
        return error_verdict(gate, name, why, alpha)
    leaking = leaks.get(gate.eval, {})
    rows = {s.id: s for part in gate.rows_by_slice(samples).values() for s in part}
    without = frozenset(i for i in rows if i in leaking)
    counts = Counter(leaking[i] for i in without)
    codes = {code: counts[code] for code in KINDS if counts[code]}
    if why := _find_too_many_leaks_error(gate, samples, without):
        by_code = ", ".join(f"{code} {n}" for code, n in codes.items())
        verdict = error_verdict(gate, name, f"{why} ({by_code})", alpha)
        return complete(verdict, LeakedRows(len(without), len(rows), codes))
    whole = ask(())
    if not without:
        return complete(whole, LeakedRows(of=len(rows)))
    clean = ask(without)
    refuted = clean.outcome is Outcome.PASS and whole.outcome is Outcome.FAIL
    gone = LeakedRows(len(without), len(rows), codes, whole.value, whole.baseline, refuted)
    if whole.outcome is Outcome.ERROR:
        why = f"with the {len(without)} leaked rows: {whole.why}"
        return complete(as_error(replace(clean, outcome=Outcome.ERROR), why), gone)
    slices = whole.get(Slices), clean.get(Slices)
    large, left = ({s.name for s in part.slices if not s.alarm} if part else set() for part in slices)
    if clean.outcome is not Outcome.ERROR and (small := sorted(large - left)):
        why = f"{small[0]}: without the leaked rows fewer than min_n = {gate.min_n} of its rows are left"
        return complete(as_error(replace(clean, outcome=Outcome.ERROR), why), gone)
    if refuted:
        clean = replace(clean, p_pass=max(clean.p_pass or 0.0, whole.p_pass or 0.0))
    return complete(clean, gone)


def _find_too_many_leaks_error(gate: Gate, samples: Sequence[Sample], without: Collection[str]) -> str:
    """Explain why the rows without leaks cannot be judged. Empty if they can."""
    for name, rows in gate.rows_by_slice(samples).items():
        gone = sum(s.id in without for s in rows)
        where, left = f"{name}: " if name else "", len(rows) - gone
        if 2 * gone > len(rows):
            return f"{where}{gone} of {len(rows)} rows are leaked: the rest is a different evaluation"
        if gate.slice and len(rows) >= gate.min_n > left:
            return f"{where}{gone} of {len(rows)} rows are leaked; {left} are left, fewer than min_n = {gate.min_n}"
    return ""
