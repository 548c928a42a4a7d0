"""`harness check`: a look ahead of a run."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.options import command, run_options, with_candidate, with_overrides, with_plugins, with_verbosity
from harness.errors import ExitCode, UsageError
from harness.files import write_text

if TYPE_CHECKING:
    from harness.cli.terminal import Terminal
    from harness.collection.collected import Collection
    from harness.plugins import Plugins


def _check(args: argparse.Namespace) -> int:
    from harness.cli.terminal import Terminal, tell_flag
    from harness.pipeline.run import check_suite, prepare

    terminal, begun = Terminal(args.v - args.q), time.monotonic()
    if args.write_clean and args.write_clean.exists():
        raise UsageError(f'--write-clean "{args.write_clean}": is there already; name a file that is not')
    if args.write_clean:
        args.overrides = [*args.overrides, "train.drop_leaks=true"]
    options = replace(run_options(args), listeners=(terminal,))
    try:
        found, built, collection = check_suite(prepare(args.suite, options), options)
    finally:
        terminal.clear()
    for warning in collection.warnings:
        terminal.line(f"warning: {warning}", "yellow")
    tell_code(terminal, collection.plugins)
    if built:
        terminal.preview(built)
    for flag in found:
        tell_flag(terminal, flag)
    words = [f.severity for f in found if f.ignored is None]
    counts = {word: words.count(word) for word in ("error", "warning", "note")}
    counts["warning"] += len(collection.warnings)
    told = ", ".join(f"{n} {word}{'s' if n != 1 else ''}" for word, n in counts.items())
    if args.write_clean:
        _write_clean(args.write_clean, collection, terminal)
    ignored = sum(f.ignored is not None for f in found)
    terminal.line(f"{args.suite}: {told}, {ignored} ignored in {time.monotonic() - begun:.1f} s")
    args.document = {"findings": [asdict(f) for f in found], "warnings": collection.warnings, "counts": counts}
    return ExitCode.USAGE if counts["error"] else ExitCode.OK


def _write_clean(path: Path, collection: Collection, terminal: Terminal) -> None:
    """Write the rows that are trained on, as they were read, without what was taken out of them."""
    train = collection.suite.train
    if not (rows := [row for source, row in collection.origins if train and source != train.validation_data]):
        raise UsageError(f'--write-clean "{path}": the suite trains on no rows, so there is nothing to write')
    write_text(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    terminal.line(f"{path}: {len(rows):,} training rows")


def tell_code(terminal: Terminal, plugins: Plugins) -> None:
    """Name the code that runs with a suite and did not come with the harness."""
    if others := plugins.of_others():
        terminal.line(f"runs code of others: {', '.join(others)}")


def check(one: argparse.ArgumentParser) -> None:
    """look for what usually goes wrong, without training"""
    command(one, _check, "harness check suite.toml", "harness check suite.toml --ignore D10 --limit 100")
    one.add_argument("suite", type=Path, metavar="SUITE")
    one.add_argument("--limit", type=int, metavar="N", help="only the first N rows of every eval")
    with_candidate(one)
    with_plugins(one)
    with_overrides(one)
    one.add_argument("--ignore", action="append", default=[], metavar="CODE", help="a finding that does not count")
    clean = "write the training rows without those of which D10 and D11 tell, as JSON Lines"
    one.add_argument("--write-clean", type=Path, metavar="FILE", help=clean)
    with_verbosity(one)
