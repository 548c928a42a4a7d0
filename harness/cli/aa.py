"""`harness aa`: the command, whose parser is all that `harness --help` imports."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from harness.cli.options import (
    add_override_option,
    add_plugin_option,
    add_worker_options,
    parse_run_options,
    set_command,
)


def aa(parser: argparse.ArgumentParser) -> None:
    """compare the base with itself: how often rows and verdicts differ by chance"""
    set_command(parser, _aa, "harness aa suite.toml", "harness aa suite.toml --runs 4 --limit 100")
    parser.add_argument("suite", type=Path, metavar="SUITE", help="the suite's .toml file")
    parser.add_argument("--runs", type=int, default=8, metavar="N", help="times the base is evaluated (default: 8)")
    parser.add_argument("--limit", type=int, metavar="N", help="use only the first N rows of every eval")
    add_worker_options(parser)
    add_plugin_option(parser)
    add_override_option(parser)


def _aa(args: argparse.Namespace) -> int:
    from harness.cli.screen import Screen
    from harness.planning.equal_runs import compare_equal_runs

    found, screen = compare_equal_runs(args.suite, parse_run_options(args), args.runs), Screen()
    screen.print_line(f"{found.runs} runs of the base, each with another seed and its rows in another order")
    for line in found.skipped:
        screen.print_line(f"note: {line}", hang=6)
    for flips in found.rows:
        low, high = min(flips.values), max(flips.values)
        differ = f"{flips.share:.1%} of {flips.rows:,} rows differ" if flips.share else "no row differs"
        screen.print_line(f"  {flips.metric}  {low:.3f} to {high:.3f}; {differ} between two runs", hang=6)
    for gate in found.gates:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in gate.outcomes.items())
        limit = "" if gate.wrong is None else f"; wrong {gate.wrong:.1%} (alpha {gate.alpha:g})"
        limit += "" if gate.at_margin is None else f"; at the margin {gate.at_margin:.1%} pass"
        word, style = ("clean", "green") if gate.is_within_alpha else ("WRONG", "bold red")
        screen.print_entry(word.ljust(6), style, f"  {gate.gate}: {shares} of {gate.pairs} pairs{limit}", 9)
    args.document = asdict(found)
    return found.exit_code
