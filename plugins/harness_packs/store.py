"""Bundled rows, each file verified by the digest of its bytes."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from harness import UsageError, did_you_mean

Row = dict[str, Any]
PACK_FOLDER = Path(__file__).parent
SOURCES = {  # name -> sha256 of its file
    "capitals": "e34121a60298e90ad3979df44f398cfe8f4dd6e02059a75a8e32b32e62a12db2",
    "topics": "be6b0261a03cb6f5b72170b36ebfe3afb875d6fb60da4db52af2f7a11e33d64d",
}
FACTS = "facts"  # those of general-v1 that are not capitals of countries, to choose by where capitals confirm
PACKS = {"general-v1": "986508c3220a9e7597afef1e017eb911cce2eb0a19149ec925ee6fa1aa0b7644"}


def read_builtin(path: str) -> list[Row] | None:
    """Return the rows of `builtin:NAME`, or None for another source.

    A name with a slice is another source: the caller cuts it. Raises UsageError if there is no such name, or if the
    file was changed.
    """
    name = path.removeprefix("builtin:")
    if name == path or name.endswith("]"):
        return None
    if name == FACTS:
        return [row for row in read_pack("general-v1") if row["part"] == "facts" and row["kind"] != "capitals"]
    if name not in SOURCES:
        raise UsageError(f'data "{path}": is unknown{did_you_mean(name, [*SOURCES, FACTS])}')
    return _read_rows_matching_digest(name, SOURCES[name], f'data "{path}"')


def read_pack(name: str, pinned: str = "") -> list[Row]:
    """Return the rows of a pack.

    Raises UsageError on a name there is not, on a file that was changed, and on another digest than the one `pinned`,
    of which 8 hex digits will do.
    """
    if name not in PACKS:
        raise UsageError(f'pack "{name}": is unknown{did_you_mean(name, PACKS)}')
    if pinned and not re.fullmatch("[0-9a-f]{8,64}", pinned):
        raise UsageError(f'digest is "{pinned}"; give 8 to 64 hex digits')
    if not PACKS[name].startswith(pinned):
        what = f'pack "{name}": has the digest {PACKS[name][: max(12, len(pinned))]}, but the suite pins {pinned}'
        raise UsageError(f"{what}; its rows differ from those evaluated before, so pin the new digest")
    return _read_rows_matching_digest(name, PACKS[name], f'pack "{name}"')


def _read_rows_matching_digest(name: str, digest: str, where: str) -> list[Row]:
    path = PACK_FOLDER / f"{name}.jsonl"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{where}: {path}: cannot be read: {error.strerror}; install the package again") from None
    if (found := hashlib.sha256(content).hexdigest()) != digest:
        what = f"{path} has the digest {found[:12]} instead of {digest[:12]}, so it was changed"
        raise UsageError(f"{where}: {what}; install the package again")
    return [json.loads(line) for line in content.splitlines()]
