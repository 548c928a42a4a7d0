"""The evidence of an export as `harness verify` read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.artifacts.attestation import GATES, LOCK, MANIFEST
from harness.artifacts.strict_json import read_json
from harness.release.verified import VerifiedExport


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


def read_evidence(found: VerifiedExport) -> ReadEvidence:
    """Parse an export's evidence from the bytes that were verified."""
    return ReadEvidence(*(read_json(found.raw[name]) for name in (MANIFEST, LOCK, GATES)))
