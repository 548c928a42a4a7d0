"""The evidence of an export that `harness verify` has looked at, read again as the very bytes that it saw."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.artifacts.attestation import EVIDENCE, GATES, LOCK, MANIFEST
from harness.artifacts.strict import read_json
from harness.errors import UsageError
from harness.release.verify import Verified


@dataclass(frozen=True)
class ReadEvidence:
    """The evidence of an export that was verified, as data."""

    manifest: Mapping[str, Any]
    lock: Mapping[str, Any]
    gates: list[Mapping[str, Any]]

    @property
    def files(self) -> dict[str, str]:
        """The sha256 of every file that the manifest lists, by name."""
        return {name: str(about["sha256"]) for name, about in self.manifest["files"].items()}


def read_evidence(found: Verified) -> ReadEvidence:
    """Read evidence again that was verified. Raises UsageError where it has changed since."""
    data = []
    for name in (MANIFEST, LOCK, GATES):
        path = Path(found.folder) / EVIDENCE / name
        raw = path.read_bytes()
        if hashlib.sha256(raw).hexdigest() != found.read[name]:
            raise UsageError(f"{path}: changed while it was verified; verify it again")
        data.append(read_json(raw))
    return ReadEvidence(*data)
