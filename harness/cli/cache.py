"""`harness cache`: what is kept to be fast, and how to make room."""

from __future__ import annotations

import argparse
import re
import time
from typing import TYPE_CHECKING

from harness.cli.options import set_command
from harness.errors import ExitCode, UsageError
from harness.texts.escaping import printable
from harness.texts.numbers import format_bytes
from harness.texts.printing import print_line

if TYPE_CHECKING:
    from harness.artifacts.artifact_cache import Entry

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def _run_cache(args: argparse.Namespace) -> int:
    from harness.artifacts.artifact_cache import KINDS, list_entries, remove_entries, select_removable
    from harness.files import cache_dir

    folder, most = cache_dir(), None
    if args.size is not None:
        if not (asked := re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", args.size.strip().upper())):
            raise UsageError(f'--size is "{args.size}"; give bytes, for instance 500M or 20G')
        most = int(float(asked[1]) * UNITS[asked[2]])
    if args.older is not None and args.older < 0:
        raise UsageError(f"--older is {args.older:g}; give days, 0 or more")
    found = list_entries(folder)
    args.document = {"folder": str(folder), "entries": [_convert_entry_to_json(e) for e in found], "removed": []}
    if args.older is None and most is None:
        if args.prune:
            raise UsageError("--prune needs a limit: --older DAYS or --size BYTES")
        print_line(f"{folder}: {format_bytes(sum(e.bytes for e in found))}")
        for kind in ("answers", *KINDS, "damaged"):
            if some := [e for e in found if e.kind == kind]:
                what = {"answers": "answers of models", "damaged": "damaged files, kept aside"} | KINDS
                size = format_bytes(sum(e.bytes for e in some))
                print_line(f"  {kind:<10} {len(some):>5}  {size:>10}  {_describe_last_use(some)}  {what[kind]}")
        return ExitCode.OK
    gone = select_removable(found, args.older, most)
    if args.prune:
        remove_entries(folder, gone)
        args.document["removed"] = [_convert_entry_to_json(e) for e in gone]
    for entry in gone:
        print_line(f"  {printable(entry.name)}  {format_bytes(entry.bytes)}  {_describe_last_use([entry])}")
    said = "removed" if args.prune else "would be removed; --prune removes them"
    print_line(f"{len(gone)} of {len(found)} entries, {format_bytes(sum(e.bytes for e in gone))}, {said}")
    return ExitCode.OK


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


def _convert_entry_to_json(entry: Entry) -> dict[str, object]:
    return {"kind": entry.kind, "name": entry.name, "bytes": entry.bytes, "used": entry.used}


def _describe_last_use(some: list[Entry]) -> str:
    """Return the range of days since entries were last used."""
    days = sorted({max(0, int((time.time() - e.used) // 86400)) for e in some})
    return f"used {days[0]} days ago" if len(days) == 1 else f"used {days[0]} to {days[-1]} days ago"
