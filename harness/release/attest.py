"""`harness verify --as`: what was found of an export in the words of other tools, once it is verified.

Each format is a module of its own. They write from the very bytes of the evidence that were verified.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness.errors import UsageError, did_you_mean
from harness.release.verified import VerifiedExport
from harness.texts.json_text import MALFORMED

FORMATS = ("cyclonedx", "model-signing")


def make_writer(kind: str, key: Path | None) -> Callable[[VerifiedExport], str]:
    """Return a function that writes a verified export in a `--as` format, and an empty text of a refused one.

    Raises UsageError if the format is unknown, needs a key or takes none, or the key has the wrong kind.
    The returned function raises one if the export changed or its evidence is malformed.
    """
    make: Callable[[VerifiedExport], str]
    match kind:  # each is imported where it is wanted: verifying alone imports none
        case "cyclonedx":
            from harness.release import cyclonedx

            make = cyclonedx.cyclonedx_writer(key)
        case "model-signing":
            from harness.release import model_signing

            make = model_signing.model_signing_writer(key)
        case _:
            raise UsageError(f'--as "{kind}": is not a known format{did_you_mean(kind, FORMATS)}')

    def write(found: VerifiedExport) -> str:
        if found.ok:
            found.check_unchanged()
        try:
            return make(found)
        except MALFORMED as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UsageError(f"--as {kind}: {found.folder}: the evidence is malformed: {why}") from None

    return write
