"""`harness plan`: the command, whose parser is all that `harness --help` imports."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict, replace
from pathlib import Path

from harness.cli.options import command, run_options, with_candidate, with_overrides, with_plugins
from harness.errors import ExitCode


def plan(parser: ArgumentParser) -> None:
    """before any training: what a run can prove, takes and needs"""
    examples = ("harness plan suite.toml", "harness plan suite.toml --measure", "harness plan suite.toml --limit 200")
    command(parser, _plan, *examples)
    parser.add_argument("suite", type=Path, metavar="SUITE")
    parser.add_argument("--measure", action="store_true", help="train a few steps to measure time and memory")
    parser.add_argument("--rate", type=float, metavar="TOKENS", help="as if it trained on so many tokens a second")
    parser.add_argument("--limit", type=int, metavar="N", help="as if every eval had only its first N rows")
    parser.add_argument("--out", type=Path, default=Path("reports"), metavar="FOLDER", help="where earlier runs are")
    parser.add_argument("--no-cache", dest="cache", action="store_false", help="as if nothing were remembered")
    with_candidate(parser)
    with_plugins(parser)
    with_overrides(parser)


def _plan(args: Namespace) -> int:
    from harness.cli.terminal import Terminal
    from harness.pipeline.measurements import known as known_measurements
    from harness.pipeline.run import opened
    from harness.planning import benchmark
    from harness.planning.forecast import forecast

    terminal = Terminal()
    try:
        run = opened(args.suite, replace(run_options(args), listeners=(terminal,)))
        known = benchmark.measure(run.session) if args.measure else known_measurements(run.session)
        if args.rate is not None:
            known |= benchmark.at_rate(run.session, args.rate)
        found = forecast(run, known)
    finally:
        terminal.clear()
    if args.json:
        args.document = asdict(found)
        return ExitCode.OK
    from harness.cli.plan_report import tell
    from harness.cli.run import tell_code

    tell_code(terminal, run.collection.plugins)
    tell(found, terminal)
    return ExitCode.OK
