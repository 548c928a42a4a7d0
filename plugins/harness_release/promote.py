"""`harness promote`: record which export is the release, and go back to the one before; the record only grows."""

from __future__ import annotations

import getpass
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from harness.artifacts.attestation import EVIDENCE, MANIFEST
from harness.errors import UsageError
from harness.files import append_line, copy_range, exclusive, folder_in_place
from harness.release.policy import Policy
from harness.release.previous import RECORD, Promotion, current, releases_of, standing
from harness.release.verify import Verified, verify


def promote(export: Path, policy: Policy | None = None) -> tuple[Verified, Path | None]:
    """Verify an export, keep a copy of it, and record it as the release; returns what `verify` found, and the copy.

    Nothing is recorded when it is refused, nor a second time when it is the release already. Raises UsageError when
    the export is not there or the copy cannot be written.
    """
    found = verify(export, policy, last=current(export))
    if not found.ok:
        return found, None
    to = releases_of(export) / found.root[:16]
    with _alone(export):
        if not to.is_dir():
            try:
                with folder_in_place(to) as work:
                    shutil.copytree(export, work, dirs_exist_ok=True, copy_function=_copy)
            except OSError as error:
                raise UsageError(f"{to}: cannot be written: {error.strerror}; nothing was promoted") from None
        kept = verify(to, policy, last=current(export))
        if kept.ok and kept.root != found.root:
            raise UsageError(f"{to}: is not what was verified, root {found.root[:16]}; remove it and promote again")
        released = standing(export)
        if kept.ok and (not released or released[-1].root != found.root):
            _record(export, kept, to, back=False)
    return kept, to


def go_back(export: Path, policy: Policy | None = None) -> tuple[Verified, Path]:
    """Record the release before the last one as the release again, if it still is what it was.

    Raises UsageError when there is none.
    """
    _before(export)
    with _alone(export):
        to = releases_of(export) / _before(export).root[:16]
        found = verify(to, policy)
        if found.ok:
            _record(export, found, to, back=True)
    return found, to


def _before(export: Path) -> Promotion:
    """Return the last release with other bytes than the present one; raises UsageError when there is none."""
    released = standing(export)
    others = [line for line in released if line.root != released[-1].root]
    if not others:
        raise UsageError(f"{releases_of(export) / RECORD}: names no release before the last one; there is no way back")
    return others[-1]


@contextmanager
def _alone(export: Path) -> Iterator[None]:
    """Lock an export against other promotions; raises UsageError where its record cannot be written."""
    record = releases_of(export) / RECORD
    with ExitStack() as held:
        try:
            held.enter_context(exclusive(record))
        except OSError as error:
            raise UsageError(f"{record}: cannot be written: {error.strerror}") from None
        yield


def _record(export: Path, found: Verified, to: Path, back: bool) -> None:
    weights = json.loads((to / EVIDENCE / MANIFEST).read_text("utf-8"))["weights"]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    line = Promotion(found.root, weights, found.suite, found.candidate, found.signed_by, _user(), now, back)
    try:
        append_line(releases_of(export) / RECORD, asdict(line))
    except OSError as error:
        raise UsageError(f"{releases_of(export) / RECORD}: cannot be written: {error.strerror}") from None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return str(os.getuid())


def _copy(source: str, to: str) -> str:
    with Path(source).open("rb", buffering=0) as f, Path(to).open("wb", buffering=0) as g:
        copy_range(f, g, 0, os.fstat(f.fileno()).st_size)
    return to
