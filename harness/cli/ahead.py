"""Commands that look ahead of a run: `harness check` and `harness selftest`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.options import command, run_options, with_overrides, with_plugins, with_verbosity, with_workers
from harness.cli.streams import say
from harness.errors import ExitCode, UsageError
from harness.files import write_text

if TYPE_CHECKING:
    from harness.cli.terminal import Terminal
    from harness.collection.collected import Collection
    from harness.plugins import Plugins
    from harness.selftest import ControlTrial

HANG = 9  # column at which what selftest says of a model goes on


def _check(args: argparse.Namespace) -> int:
    import time

    from harness.cli.terminal import Terminal, tell_flag
    from harness.pipeline.run import check_suite, prepare

    terminal, begun = Terminal(args.v - args.q), time.monotonic()
    if args.write_clean and args.write_clean.exists():
        raise UsageError(f'--write-clean "{args.write_clean}": is there already; name a file that is not')
    if args.write_clean:
        args.overrides = [*args.overrides, "train.drop_leaks=true"]
    options = run_options(args)
    found, built, collection = check_suite(prepare(args.suite, options), options)
    for warning in collection.warnings:
        terminal.line(f"warning: {warning}", "yellow")
    tell_code(terminal, collection.plugins)
    if built:
        terminal.preview(built)
    for flag in found:
        tell_flag(terminal, flag)
    words = [f.severity for f in found if f.ignored is None]
    counts = {word: words.count(word) for word in ("error", "warning", "note")}
    told = ", ".join(f"{n} {word}{'s' if n != 1 else ''}" for word, n in counts.items())
    if args.write_clean:
        _write_clean(args.write_clean, collection, terminal)
    ignored = sum(f.ignored is not None for f in found)
    terminal.line(f"{args.suite}: {told}, {ignored} ignored in {time.monotonic() - begun:.1f} s")
    args.document = {"findings": [asdict(f) for f in found], "warnings": collection.warnings, "counts": counts}
    return ExitCode.USAGE if counts["error"] else ExitCode.OK


def _write_clean(path: Path, collection: Collection, terminal: Terminal) -> None:
    """Write the rows that are trained on, as they were read, without what was taken out of them."""
    import json

    train = collection.suite.train
    rows = [row for source, row in collection.origins if train and source != train.validation_data]
    if not rows:
        raise UsageError(f'--write-clean "{path}": the suite trains on no rows, so there is nothing to write')
    write_text(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    terminal.line(f"{path}: {len(rows):,} training rows")


def tell_code(terminal: Terminal, plugins: Plugins) -> None:
    """Name the code that runs with a suite and did not come with the harness."""
    if others := plugins.of_others():
        terminal.line(f"runs code of others: {', '.join(others)}")


def _selftest(args: argparse.Namespace) -> int:
    from harness.cli.screen import Screen
    from harness.selftest import selftest as put_through

    to_stderr = partial(say, to=sys.stderr)
    found = put_through(args.suite, run_options(args), only=args.only, told=print_trial, said=to_stderr)
    for equal in found.equals:  # how often a gate blocked and passed two equal models
        rates = f"blocked {equal.blocked:.1%}, passed {equal.passed:.1%} of {equal.swaps} (alpha {equal.alpha:g})"
        word, style = ("clean", "green") if equal.clean else ("BLOCKS", "bold red")
        Screen().entry(word.ljust(6), style, f"  {equal.gate}: equal models {rates}", HANG)
    tried = [t for t in found.trials if not t.skipped]
    caught, undecided = [t for t in tried if t.caught and not t.undecided], [t for t in tried if t.undecided]
    rest = f", {len(undecided)} not judged" if undecided else ""
    print(f"{len(caught)} of {len(tried)} impostors caught{rest}")
    args.document = {"trials": [asdict(t) for t in found.trials], "equals": [asdict(e) for e in found.equals]}
    return found.exit_code


def print_trial(trial: ControlTrial) -> None:
    """Print what became of an impostor: what kept it from shipping, or that nothing did."""
    from harness.cli.screen import Screen, duration

    screen, about = Screen(), f"{trial.name:<32} {duration(trial.seconds):>9}"
    if trial.skipped:
        screen.entry("skipped", "dim", f" {about}  {trial.skipped}", HANG)
    elif trial.undecided:
        screen.entry("unknown", "yellow", f" {about}  {trial.undecided}", HANG)
    elif trial.caught:
        screen.entry("caught", "green", f"  {about}  {trial.caught[0]}", HANG)
    else:
        screen.entry("SHIPS", "bold red", f"   {about}  {trial.why}", HANG)
        screen.line(f"        no gate keeps it back; {trial.fix}", hang=HANG)


def check(one: argparse.ArgumentParser) -> None:
    """look for what usually goes wrong, without training"""
    command(one, _check, "harness check suite.toml", "harness check suite.toml --ignore D10 --limit 100")
    one.add_argument("suite", type=Path, metavar="SUITE")
    one.add_argument("--limit", type=int, metavar="N", help="only the first N rows of every eval")
    with_plugins(one)
    with_overrides(one)
    one.add_argument("--ignore", action="append", default=[], metavar="CODE", help="a finding that does not count")
    clean = "write the training rows without those of which D10 and D11 tell, as JSON Lines"
    one.add_argument("--write-clean", type=Path, metavar="FILE", help=clean)
    with_verbosity(one)


def selftest(one: argparse.ArgumentParser) -> None:
    """put models that must not ship through a suite"""
    command(one, _selftest, "harness selftest suite.toml", "harness selftest suite.toml --only untrained")
    one.add_argument("suite", type=Path, metavar="SUITE")
    one.add_argument("--only", action="append", default=[], metavar="NAME", help="only this impostor")
    one.add_argument("--limit", type=int, metavar="N", help="only the first N rows of every eval")
    with_workers(one)
    with_plugins(one)
    with_overrides(one)
