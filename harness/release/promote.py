"""`harness promote`: record which export is the release, and go back to the one before; the record only grows.

Of one model, by its root, the newest evidence is kept.
"""

from __future__ import annotations

import getpass
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.artifacts.attestation import CLAIMS, EVIDENCE, GATES, MANIFEST, read_envelopes
from harness.artifacts.folders import FolderError, ForeignFolder, parse_record
from harness.errors import UsageError
from harness.files import append_line, copy_range, hold_exclusively, open_file, replace_folder, reporting_write_errors
from harness.release.policy import Policy
from harness.release.releases import RECORD, Promotion, active_releases, current_release, releases_folder
from harness.release.verified import VerifiedExport
from harness.release.verify import verify_export
from harness.texts.json_text import MALFORMED
from harness.texts.numbers import format_metric

MAX_CHANGES = 5  # changes of a kind that are listed
Moved = tuple[VerifiedExport, Path | None, list[str]]  # what was found, the copy that is the release now, what changed


def promote_export(export: Path, policy: Policy | None = None, beside: Sequence[Path] = ()) -> Moved:
    """Verify an export, keep a copy, and record it as the release.

    `beside` are exports with evidence of other suites. Returns the verification, the copy, and the changes since the
    last release. A kept copy of the same model is replaced by one of a later run, or by one of the same run with a new
    signature. Nothing is recorded if the export is refused, or already is the release. Raises UsageError if the export
    is missing, changes meanwhile, or cannot be copied.
    """
    found = verify_export(export, policy, last=current_release(export), beside=beside)
    if not found.ok:
        return found, None, []
    to = releases_folder(export) / found.root[:16]
    with _lock_export(export):
        before, anew = (
            _read_folder_evidence(current_release(export)),
            _is_newer_evidence(_parse_evidence(found.raw), _read_folder_evidence(to)),
        )
        if anew:
            with reporting_write_errors(to, "; nothing was promoted"), replace_folder(to) as work:
                shutil.copytree(export, work, symlinks=True, dirs_exist_ok=True, copy_function=_copy_to_new_file)
                copied = verify_export(work, policy, last=current_release(export), beside=beside)
                if not copied.ok or copied.root != found.root:
                    why = copied.refused or "another model"
                    raise UsageError(f"{export}: changed while it was copied: {why}; nothing was promoted")
        kept = verify_export(to, policy, last=current_release(export), beside=beside)
        if kept.ok and kept.root != found.root:
            raise UsageError(f"{to}: differs from the verified root {found.root[:16]}; remove it and promote again")
        released = active_releases(export)
        if kept.ok and (anew or not released or released[-1].root != found.root):
            _record_promotion(export, kept, back=False)
    return kept, to, _describe_changes(before, _parse_evidence(kept.raw))


def roll_back(export: Path, policy: Policy | None = None, beside: Sequence[Path] = ()) -> Moved:
    """Record the previous release as the release again, if it still verifies.

    Returns the same as `promote_export`. Raises UsageError if there is no previous release.
    """
    _find_previous_release(export)
    with _lock_export(export):
        before, to = (
            _read_folder_evidence(current_release(export)),
            releases_folder(export) / _find_previous_release(export).root[:16],
        )
        found = verify_export(to, policy, beside=beside)
        if found.ok:
            _record_promotion(export, found, back=True)
    return found, to, _describe_changes(before, _parse_evidence(found.raw))


@dataclass(frozen=True)
class _Told:
    """Evidence as compared between releases. Its manifest, the verdicts by gate, and the ids of the signing keys."""

    manifest: Mapping[str, Any]
    gates: Mapping[str, Mapping[str, Any]]
    keys: frozenset[str]


def _read_folder_evidence(folder: Path | None) -> _Told | None:
    """Read a folder's evidence for comparison. None if it is missing or cannot be read."""
    if folder is None:
        return None
    evidence = ForeignFolder(folder)
    try:
        return _parse_evidence({name: evidence.read(f"{EVIDENCE}/{name}") for name in (MANIFEST, GATES, CLAIMS)})
    except FolderError:
        return None


def _parse_evidence(raw: Mapping[str, bytes]) -> _Told | None:
    """Parse the bytes of evidence files for comparison. None if they are malformed."""
    try:
        manifest, gates = (parse_record(raw[name]) for name in (MANIFEST, GATES))
        envelopes = read_envelopes(raw[CLAIMS].decode("utf-8"))
        datetime.fromisoformat(manifest["started"])
        return _Told(manifest, {g["gate"]: g for g in gates}, frozenset(k for e in envelopes for k in e.signatures))
    except MALFORMED:
        return None


def _is_newer_evidence(one: _Told | None, kept: _Told | None) -> bool:
    """Return whether evidence should replace the kept evidence.

    It does if it is from a later run, or from the same run with a new signature.
    """
    if one is None or kept is None:
        return kept is None
    if one.manifest == kept.manifest:
        return not one.keys <= kept.keys
    return datetime.fromisoformat(one.manifest["started"]) > datetime.fromisoformat(kept.manifest["started"])


def _describe_changes(before: _Told | None, now: _Told | None) -> list[str]:
    """Describe changes since the last release, one line per kind.

    The kinds are gates, numbers and signatures; each lists at most `MAX_CHANGES`.
    """
    if before is None or now is None:
        return []
    gates = [f'"{gate}" is new' for gate in now.gates if gate not in before.gates]
    gates += [f'"{gate}" was removed' for gate in before.gates if gate not in now.gates]
    numbers = []
    for gate in (gate for gate in now.gates if gate in before.gates):
        old, new = before.gates[gate], now.gates[gate]
        claims = [f"{g['metric']} {g['claim']}".strip() for g in (old, new)]
        gates += [f'"{gate}" claims {claims[1]}, was {claims[0]}'] if claims[0] != claims[1] else []
        outcomes = [f"{g['outcome']}{' (waived)' if g.get('waiver') else ''}" for g in (old, new)]
        gates += [f'"{gate}" is {outcomes[1]}, was {outcomes[0]}'] if outcomes[0] != outcomes[1] else []
        values = [format_metric(g["value"] if g["estimate"] is None else g["estimate"]) for g in (old, new)]
        if any(old[key] != new[key] for key in ("value", "estimate", "lower", "upper")):
            numbers.append(f'"{gate}" {values[1]}, was {values[0]}')
    signed = [", ".join(sorted(key[:16] for key in keys)) or "nobody" for keys in (now.keys, before.keys)]
    signatures = [f"by {signed[0]}, was by {signed[1]}"] if now.keys != before.keys else []
    told = {"gates": gates, "numbers": numbers, "signatures": signatures}
    for said in told.values():
        said[MAX_CHANGES:] = [f"and {len(said) - MAX_CHANGES} more"] if len(said) > MAX_CHANGES else []
    return [f"{what}: {'; '.join(said)}" for what, said in told.items() if said]


def _find_previous_release(export: Path) -> Promotion:
    """Return the last release with a root unlike the current one's. Raises UsageError if there is none."""
    released = active_releases(export)
    if not (others := [line for line in released if line.root != released[-1].root]):
        raise UsageError(f"{releases_folder(export) / RECORD}: names no release before the last one to go back to")
    return others[-1]


@contextmanager
def _lock_export(export: Path) -> Iterator[None]:
    """Lock an export against concurrent promotions. Raises UsageError if its record cannot be written."""
    record = releases_folder(export) / RECORD
    with ExitStack() as held:
        with reporting_write_errors(record):
            held.enter_context(hold_exclusively(record))
        yield


def _record_promotion(export: Path, found: VerifiedExport, back: bool) -> None:
    manifest = parse_record(found.raw[MANIFEST])
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name, and Windows has no module of names
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    now, about = datetime.now(UTC).isoformat(timespec="seconds"), (found.suite, found.candidate, found.signed_by)
    line = Promotion(found.root, manifest["weights"], *about, user, now, manifest["started"], back)
    record = releases_folder(export) / RECORD
    with reporting_write_errors(record):
        append_line(record, asdict(line))


def _copy_to_new_file(source: str, to: str) -> str:
    with open_file(Path(source)) as f, Path(to).open("xb", buffering=0) as g:
        copy_range(f, g, 0, os.fstat(f.fileno()).st_size)
    return to
