"""The result of `harness verify`, with the bytes that it read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from harness.artifacts.attestation import EVIDENCE
from harness.artifacts.folders import FolderError, ForeignFolder
from harness.artifacts.stamps import Stamps, find_change, read_stamps
from harness.errors import UsageError
from harness.release.policy import ExportRefusedError


@dataclass
class VerifiedExport:
    """The result of a verification: passed steps and any refusal.

    `unable` gives the reason for each gate that was decided and could not be decided again, `missing` the message about
    a module that this needs.
    """

    folder: str
    ok: bool = False
    refused: str = ""
    root: str = ""
    suite: str = ""
    candidate: str = ""
    signed_by: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)  # what nobody demanded, and nothing looked at
    steps: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unable: dict[str, str] = field(default_factory=dict)
    missing: str = ""
    recorded: list[str] = field(default_factory=list)  # gates that block, whose PASS could not be decided again
    read: dict[str, str] = field(default_factory=dict)  # the sha256 of files of the evidence, as they were read

    def __post_init__(self) -> None:
        self.raw: dict[str, bytes] = {}  # these files themselves, which whatever follows speaks of; not in the document
        self.stamps: Stamps = {}

    def find_change(self) -> str:
        """Return the first path that changed since the verification. Raises OSError."""
        return find_change(self.stamps, read_stamps(Path(self.folder)))

    def check_unchanged(self) -> None:
        """Raise UsageError where the export changed since it was verified."""
        try:
            changed = self.find_change()
        except OSError as error:
            raise UsageError(f"{error.filename or self.folder}: cannot be read: {error.strerror}") from None
        if changed:
            raise UsageError(f"{self.folder}: {changed} changed while it was verified; verify it again")


@dataclass
class SuiteComparison:
    """The result of comparing a lock with a suite.

    `differences` has one line each, `notes` list the parts not compared, `same` names the evals with identical rows.
    """

    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)


def read_evidence_file(export: Path, name: str) -> bytes:
    """Read a small file of the evidence, never through a link."""
    try:
        return ForeignFolder(export).read(f"{EVIDENCE}/{name}")
    except FolderError as error:
        raise ExportRefusedError(error.problem) from None
