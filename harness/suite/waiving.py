"""`harness waive`: a waiver is written beside the suite. What counts of it is for `harness.suite.waivers`."""

from __future__ import annotations

import dataclasses
import getpass
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path

from harness.errors import UsageError, did_you_mean
from harness.files import append_line, reporting_write_errors
from harness.gates.waivers import describe_claim
from harness.plugins import load_plugins
from harness.records.waivers import IGNORED, Waiver
from harness.suite.lines import read_gate_lines
from harness.suite.reader import read_suite
from harness.suite.tables import Suite
from harness.suite.waivers import check_digest, claim_digest, waivers_file


def append_waiver(
    gate: str, reason: str, until: str, suite: Path | None, by: str | None, plugins: Sequence[str] = ()
) -> tuple[Path, Waiver]:
    """Append a waiver to its suite's file, and return both.

    Without `suite` it is the only one with such a gate in this folder or in suites/; a check's code needs `suite`, and
    perhaps `plugins`. Raises UsageError if there is no such gate or check, if the gate does not block, or if reason,
    name or date is invalid.
    """
    found = _read_suite_with_gate(gate, suite, plugins)
    today = datetime.now(UTC).date()
    why = _require_one_line_text("--reason", reason, "give the reason for the waiver")
    with suppress(OSError, KeyError):  # a container's user may have no name
        by = getpass.getuser() if by is None else by
    name = _require_one_line_text("--by", by or "", "give the name of the responsible person")
    try:
        last = date.fromisoformat(until)
    except ValueError:
        raise UsageError(f'--until "{until}": is not a date; write one such as {today.isoformat()}') from None
    if last < today:
        raise UsageError(f'--until "{until}": is in the past; today is {today.isoformat()}')
    declared = next((g for g in found.gates if g.id == gate), None)
    if declared and not declared.blocking:
        raise UsageError(f'{found.path}: gate "{gate}" does not block: it only warns')
    digest = claim_digest(declared, found) if declared else check_digest(gate, found)
    claim = describe_claim(declared) if declared else IGNORED
    made = Waiver(gate, claim, why, last.isoformat(), name, today.isoformat(), digest)
    path = waivers_file(found.path)
    with reporting_write_errors(path):
        append_line(path, dataclasses.asdict(made))
    return path, made


def _require_one_line_text(option: str, text: str, instead: str) -> str:
    """Return a text as one line. Raises UsageError if it is empty or cannot be encoded."""
    if not (line := " ".join(text.split())):
        raise UsageError(f"{option}: is empty; {instead}")
    try:
        line.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{option}: is not valid text; {instead}") from None
    return line


def _read_suite_with_gate(gate: str, suite: Path | None, plugins: Sequence[str]) -> Suite:
    if suite is not None:
        found = read_suite(suite)
        ids = [g.id for g in found.gates]
        if gate not in ids:
            provided = load_plugins(suite, plugins).provided.values()
            codes = ["build", *(p.name for p in provided if p.kind == "check")]
            titles = [p.capabilities.title for p in provided if p.kind == "check" and p.capabilities.title]
            if gate not in titles and gate.partition("-")[0] not in codes:
                raise UsageError(f'{suite}: there is no gate "{gate}"{did_you_mean(gate, [*ids, *codes, *titles])}')
        return found
    gates = {
        path: read_gate_lines(path) for folder in (Path(), Path("suites")) for path in sorted(folder.glob("*.toml"))
    }
    having = [path for path, ids in gates.items() if gate in ids]
    if len(having) > 1:
        raise UsageError(f'gate "{gate}": is in {" and ".join(map(str, having))}; choose one with --suite')
    if not having:
        known = did_you_mean(gate, {i for ids in gates.values() for i in ids})
        raise UsageError(f'no suite here or in suites/ has a gate "{gate}"{known or "; name the suite with --suite"}')
    return read_suite(having[0])
