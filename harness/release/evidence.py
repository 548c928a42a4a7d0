"""The evidence of an export as `harness verify` read it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.artifacts.attestation import GATES, LOCK, MANIFEST, MODEL
from harness.artifacts.folders import ForeignFolder, parse_record
from harness.errors import CheckFailedError, UsageError, is_library_error, missing_extra_error, resource_error
from harness.records.models import Source
from harness.release.verified import VerifiedExport
from harness.texts.escaping import printable


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
    return ReadEvidence(*(parse_record(found.raw[name]) for name in (MANIFEST, LOCK, GATES)))


def read_listed_file(export: VerifiedExport, name: str) -> bytes:
    """Return the content of a file that the verified manifest lists.

    Raises FolderError where it is missing, UsageError where it is not the content that was verified.
    """
    content = ForeignFolder(Path(export.folder)).read(name)
    listed = read_evidence(export).files.get(name)
    if hashlib.sha256(content).hexdigest() != listed:
        raise UsageError(f"{export.folder}: {name} changed while it was verified; verify it again")
    return content


@contextmanager
def reporting_model_errors(export: VerifiedExport) -> Iterator[None]:
    """Turn what a library raises at a setting of the export's model into one line."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, (UsageError, CheckFailedError)) or resource_error(error) or not is_library_error(error):
            raise
        if missing := missing_extra_error(error):
            raise UsageError(f"{export.folder}: its model {missing}") from error
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UsageError(f"{export.folder}: its model cannot be used: {reason}") from error


def open_named_base(export: VerifiedExport, named: str, open_source: Callable[[str], Source]) -> Source | None:
    """Open the base that a user names for a verified export, None if no base is named or needed.

    The export's own name for its base is only printed: nothing is fetched or loaded for it. Raises UsageError if the
    export is an adapter and no base is named, if its base was quantised, or if the named base has other weights than
    the export was gated on.
    """
    evidence = read_evidence(export)
    adapter = evidence.manifest.get("adapter")
    if adapter is None and f"{MODEL}/adapter_config.json" in evidence.manifest["files"]:
        raise UsageError(f"{export.folder}: is an adapter, but its evidence does not name its base; export again")
    if adapter and adapter["quantization"]:
        reason = "its adapter was gated on a quantised base, which is not loaded here; merge it"
        raise UsageError(f"{export.folder}: {reason}")
    expected = str(adapter["base"] if adapter else evidence.lock["subjects"]["base"])
    if not named:
        if adapter is None:
            return None
        name = printable(str(evidence.lock["suite"]["model"]["path"]))
        reason = f'is an adapter that was gated on "{name}", weights {expected[:16]}'
        raise UsageError(f"{export.folder}: {reason}; name your copy of that base with --base MODEL")
    source = open_source(named)
    if source.digest != expected:
        reason = f"has weights {source.digest[:16]}, but the export was gated on {expected[:16]}"
        raise UsageError(f'base "{named}": {reason}; check --base')
    return source
