"""The attempts of an export, from the lines of the ledger in its evidence.

The lines remain their producer's word: whoever writes a ledger anew has another one, which the evidence of the last
release tells apart (`ledger = "known"` in a policy).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.gates.attempts import (
    ID_DIGITS,
    AttemptNumber,
    LedgerExtract,
    Line,
    derive_attempt,
    find_line_error,
    role_of_candidate,
)
from harness.release.evidence_rows import EvidenceRows
from harness.release.lock_reader import LockedSuite


def read_attempts(manifest: Mapping[str, Any], locked: LockedSuite, rows: EvidenceRows) -> dict[str, AttemptNumber]:
    """Return which attempt each evaluation of the candidate is.

    Raises ValueError where the ledger's lines are not what they were, or not about this candidate under the lock's
    claims.
    """
    ledger, candidate = manifest["ledger"], manifest["candidate"]
    looks = {line["id"]: line for line in _require_lines(ledger)}
    recorded = ledger["attempts"]
    evaluated = {name for name in locked.evals if f"{candidate}::{name}" in manifest["evaluations"]}
    for name in sorted(evaluated):
        if name not in recorded and (name in locked.attempts or _counts_as_attempt(name, locked, rows)):
            raise ValueError(f'the attempt of "{name}" is not in the ledger')
    if stray := sorted(recorded.keys() - (evaluated & locked.attempts.keys())):
        raise ValueError(f'the attempt of "{stray[0]}" is not one of the lock')
    attempts = {}
    for name, entry in recorded.items():
        if missing := [line for line in (entry["line"], *entry["near"]) if line not in looks]:
            raise ValueError(f'the attempt of "{name}" has a line that is missing ({missing[0][:ID_DIGITS]})')
        extract = LedgerExtract(entry["line"], tuple(entry["near"]), tuple(looks.values()))
        if error := _find_extract_error(extract, manifest, locked, locked.attempts[name]):
            raise ValueError(f'the attempt of "{name}" {error}')
        attempts[name] = derive_attempt(extract, locked.base)
    return attempts


def _counts_as_attempt(name: str, locked: LockedSuite, rows: EvidenceRows) -> bool:
    """Return whether an evaluation has rows that ask something, and a metric that is not a plain count."""
    asks = locked.evals[name].get("private") or any(sample.key for sample in rows.samples.get(name, ()))
    return bool(asks) and not all(metric.is_count for metric in locked.metrics.get(name, {}).values())


def _require_lines(ledger: Mapping[str, Any]) -> list[Line]:
    """Return the looks. Raises ValueError where one was changed, or is not in the ledger."""
    looks: list[Line] = ledger["looks"]
    for line in looks:
        if error := find_line_error(line):
            raise ValueError(f"a line of the ledger {error}")
        if line["id"][:ID_DIGITS] not in ledger["lines"]:
            raise ValueError(f"a line of the ledger is not listed ({line['id'][:ID_DIGITS]})")
    if len({line["id"] for line in looks}) < len(looks):
        raise ValueError("a line of the ledger occurs twice")
    return looks


def _find_extract_error(
    extract: LedgerExtract, manifest: Mapping[str, Any], locked: LockedSuite, claimed: Mapping[str, str]
) -> str:
    """Return what is wrong with the lines of one evaluation, or an empty text."""
    own = next(line for line in extract.lines if line["id"] == extract.line)
    expected = {
        "role": role_of_candidate(manifest["candidate"], is_copy=locked.parent is not None),
        "weights": manifest["weights"],
        "base": locked.base,
        **claimed,
    }
    for key, value in expected.items():
        if own[key] != value:
            return f"is of another {key} than the lock's"
    if own["id"] not in extract.near:
        return "is not among those at its rows"
    for line in extract.lines[: extract.lines.index(own)]:  # later looks count for later attempts
        at_same_rows = (line["role"], line["rows"], line["project"]) == (own["role"], own["rows"], own["project"])
        if at_same_rows and line["id"] not in extract.near:
            return f"leaves out an earlier one at the same rows ({line['id'][:ID_DIGITS]})"
    if stray := [line["id"] for line in extract.lines if line["id"] in extract.near and line["role"] != own["role"]]:
        return f"counts one in another role ({stray[0][:ID_DIGITS]})"
    return ""
