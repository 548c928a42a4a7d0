"""`harness cache`: what is kept to be fast, and how to make room."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.options import set_command
from harness.document import Document
from harness.errors import UsageError
from harness.texts.escaping import printable
from harness.texts.numbers import format_bytes
from harness.texts.printing import print_line

if TYPE_CHECKING:
    from harness.artifacts.artifact_cache import Entry

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class _Cache:
    """The entries of a cache, and those that go: None if no limit was given."""

    folder: Path
    entries: Sequence[Entry]
    removable: Sequence[Entry] | None = None
    pruned: bool = False

    def to_data(self) -> dict[str, Any]:
        """Return the entries, and those that were removed."""
        removed = self.removable or () if self.pruned else ()
        entries, gone = (
            [{"kind": e.kind, "name": e.name, "bytes": e.bytes, "used": e.used} for e in some]
            for some in (self.entries, removed)
        )
        return {"folder": str(self.folder), "entries": entries, "removed": gone}


def _run_cache(args: argparse.Namespace) -> Document[_Cache]:
    from harness.artifacts.artifact_cache import list_entries, remove_entries, select_removable
    from harness.files import cache_dir

    folder, most = cache_dir(), None
    if args.size is not None:
        if not (asked := re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", args.size.strip().upper())):
            raise UsageError(f'--size is "{args.size}"; give bytes, for instance 500M or 20G')
        most = int(float(asked[1]) * UNITS[asked[2]])
    if args.older is not None and args.older < 0:
        raise UsageError(f"--older is {args.older:g}; give days, 0 or more")
    entries = list_entries(folder)
    if args.older is None and most is None:
        if args.prune:
            raise UsageError("--prune needs a limit: --older DAYS or --size BYTES")
        return Document(_Cache(folder, entries), _print_cache, to_data=_Cache.to_data)
    gone = select_removable(entries, args.older, most)
    if args.prune:
        remove_entries(folder, gone)
    return Document(_Cache(folder, entries, gone, args.prune), _print_cache, to_data=_Cache.to_data)


def _print_cache(cache: _Cache) -> None:
    """Print the size of each kind of entry, or the entries that go."""
    from harness.artifacts.artifact_cache import KINDS

    if cache.removable is None:
        print_line(f"{cache.folder}: {format_bytes(sum(e.bytes for e in cache.entries))}")
        kinds = {"answers": "answers of models"} | KINDS | {"damaged": "damaged files, kept aside"}
        for kind, contents in kinds.items():
            if some := [e for e in cache.entries if e.kind == kind]:
                size = format_bytes(sum(e.bytes for e in some))
                print_line(f"  {kind:<10} {len(some):>5}  {size:>10}  {_describe_last_use(some)}  {contents}")
        return
    for entry in cache.removable:
        print_line(f"  {printable(entry.name)}  {format_bytes(entry.bytes)}  {_describe_last_use([entry])}")
    size = format_bytes(sum(e.bytes for e in cache.removable))
    ending = "removed" if cache.pruned else "would be removed; --prune removes them"
    print_line(f"{len(cache.removable)} of {len(cache.entries)} entries, {size}, {ending}")


def cache(parser: argparse.ArgumentParser) -> None:
    """list the cache, or free space"""
    set_command(parser, _run_cache, "harness cache", "harness cache --older 30", "harness cache --size 20G --prune")
    parser.add_argument(
        "--older", type=float, metavar="DAYS", help="remove entries unused for DAYS days (with --prune)"
    )
    parser.add_argument(
        "--size", metavar="BYTES", help="remove the longest unused until BYTES remain, e.g. 20G (with --prune)"
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help="remove the entries, which are only listed otherwise; refused while another harness uses the cache",
    )


def _describe_last_use(some: Sequence[Entry]) -> str:
    """Return the range of days since entries were last used."""
    days = sorted({max(0, int((time.time() - e.used) // 86400)) for e in some})
    return f"used {days[0]} days ago" if len(days) == 1 else f"used {days[0]} to {days[-1]} days ago"
