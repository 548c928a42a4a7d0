"""`harness selftest` and `harness aa`: the commands, whose parsers are all that `harness --help` imports."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.options import (
    add_candidate_option,
    add_override_option,
    add_plugin_option,
    add_worker_options,
    parse_run_options,
    set_command,
)
from harness.document import Document
from harness.texts.printing import print_line

if TYPE_CHECKING:
    from harness.planning.equal_runs import EqualRuns
    from harness.selftest import ControlTrial, SelfTest

INDENT_COLUMNS = 9  # column at which what is said of a model goes on


def selftest(parser: argparse.ArgumentParser) -> None:
    """test a suite with models that its gates must block"""
    set_command(parser, _run_selftest, "harness selftest suite.toml", "harness selftest suite.toml --only untrained")
    parser.add_argument("suite", type=Path, metavar="SUITE", help="the suite's .toml file")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="run only this saboteur")
    parser.add_argument("--limit", type=int, metavar="N", help="use only the first N rows of every eval")
    add_candidate_option(parser)
    add_worker_options(parser)
    add_plugin_option(parser)
    add_override_option(parser)


def _run_selftest(args: argparse.Namespace) -> Document[SelfTest]:
    from harness.selftest import run_selftest as put_through

    to_stderr = partial(print_line, to=sys.stderr)
    found = put_through(args.suite, parse_run_options(args), only=args.only, told=_print_trial, said=to_stderr)
    return Document(found, _print_selftest, found.exit_code)


def _print_selftest(found: SelfTest) -> None:
    """Print the gates on equal models, and how many saboteurs were caught. Each was printed as it ended."""
    from harness.cli.screen import Screen

    for equal in found.equals:  # how often a gate blocked and passed two equal models
        rates = f"blocked {equal.blocked:.1%}, passed {equal.passed:.1%} of {equal.swaps} (alpha {equal.alpha:g})"
        word, style = ("clean", "green") if equal.is_within_alpha else ("BLOCKS", "bold red")
        Screen().print_entry(word.ljust(6), style, f"  {equal.gate}: equal models {rates}", INDENT_COLUMNS)
    tried = [t for t in found.trials if not t.skipped]
    caught, undecided = [t for t in tried if t.caught and not t.undecided], [t for t in tried if t.undecided]
    rest = f", {len(undecided)} not decided" if undecided else ""
    print(f"{len(caught)} of {len(tried)} saboteurs caught{rest}")


def _print_trial(trial: ControlTrial) -> None:
    from harness.cli.screen import Screen
    from harness.texts.numbers import format_duration

    screen, about = Screen(), f"{trial.name:<32} {format_duration(trial.seconds):>9}"
    if trial.skipped:
        screen.print_entry("skipped", "dim", f" {about}  {trial.skipped}", INDENT_COLUMNS)
    elif trial.undecided:
        screen.print_entry("unknown", "yellow", f" {about}  {trial.undecided}", INDENT_COLUMNS)
    elif trial.caught:
        screen.print_entry("caught", "green", f"  {about}  {trial.caught[0]}", INDENT_COLUMNS)
    else:
        screen.print_entry("SHIPS", "bold red", f"   {about}  {trial.why}", INDENT_COLUMNS)
        screen.print_line(f"        no gate blocks it; {trial.fix}", hang=INDENT_COLUMNS)


def aa(parser: argparse.ArgumentParser) -> None:
    """compare the base with itself: how often rows and verdicts differ by chance"""
    lines = (
        "harness aa suite.toml",
        "harness aa suite.toml --runs 4 --limit 100",
        "harness aa suite.toml --vary judge",
    )
    set_command(parser, _run_aa, *lines)
    parser.add_argument("suite", type=Path, metavar="SUITE", help="the suite's .toml file")
    parser.add_argument("--runs", type=int, default=8, metavar="N", help="times the base is evaluated (default: 8)")
    what = "what differs between runs, comma-separated: seed, company (order of rows), judge, dtype, processes "
    what += "(default: seed, company and judge, where the suite has them)"
    parser.add_argument("--vary", default="", metavar="SOURCES", help=what)
    parser.add_argument(
        "--limit", type=int, metavar="N", help="use only the first N rows of every eval; keep no record"
    )
    add_worker_options(parser)
    add_plugin_option(parser)
    add_override_option(parser)


def _run_aa(args: argparse.Namespace) -> Document[EqualRuns]:
    from harness.planning.equal_runs import compare_equal_runs

    vary = [name.strip() for name in args.vary.split(",") if name.strip()]
    found = compare_equal_runs(args.suite, parse_run_options(args), args.runs, vary)
    return Document(found, _print_equal_runs, found.exit_code)


def _print_equal_runs(found: EqualRuns) -> None:
    from harness.cli.screen import Screen
    from harness.planning.equal_runs import SOURCES

    screen = Screen()
    differ = " and ".join(SOURCES[name] for name in found.sources)
    screen.print_line(f"{found.runs} runs of the base, each with {differ}")
    for line in found.skipped:
        screen.print_line(f"note: {line}", hang=6)
    for flips in found.rows:
        low, high = min(flips.values), max(flips.values)
        differ = f"{flips.share:.1%} of {flips.rows:,} rows differ" if flips.share else "no row differs"
        more = f" ({flips.low:.1%} to {flips.high:.1%}), {flips.in_any:.1%} between any" if flips.share else ""
        screen.print_line(f"  {flips.metric}  {low:.3f} to {high:.3f}; {differ} between two runs{more}", hang=6)
    if not any(flips.share for flips in found.rows):
        screen.print_line("this suite is deterministic: no run gave any row another value")
    for gate in found.gates:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in gate.outcomes.items())
        limit = "" if gate.wrong is None else f"; wrong {gate.wrong:.1%} (alpha {gate.alpha:g})"
        limit += "" if gate.at_margin is None else f"; at the margin {gate.at_margin:.1%} pass"
        limit += f"; another verdict in {gate.flips:.2g} of pairs ({gate.low:.2g} to {gate.high:.2g})"
        word, style = ("clean", "green") if gate.is_within_alpha else ("WRONG", "bold red")
        screen.print_entry(word.ljust(6), style, f"  {gate.gate}: {shares} of {gate.pairs} pairs{limit}", 9)
    screen.print_line(f"kept in {found.record}" if found.record else "not kept: --limit leaves rows out")
