"""`harness plan`: the command, whose parser is all that `harness --help` imports."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict, replace
from pathlib import Path

from harness.cli.options import command, run_options, with_candidate, with_overrides, with_plugins
from harness.errors import ExitCode


def plan(parser: ArgumentParser) -> None:
    """forecast a run: what it can prove, and its time and memory"""
    examples = ("harness plan suite.toml", "harness plan suite.toml --measure", "harness plan suite.toml --limit 200")
    command(parser, _plan, *examples)
    parser.add_argument("suite", type=Path, metavar="SUITE", help="the suite's .toml file")
    parser.add_argument("--measure", action="store_true", help="train a few steps to measure time and memory")
    parser.add_argument("--rate", type=float, metavar="TOKENS", help="assume that training processes TOKENS per second")
    parser.add_argument("--limit", type=int, metavar="N", help="assume that every eval has only its first N rows")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("reports"),
        metavar="FOLDER",
        help="folder of earlier run folders (default: reports)",
    )
    parser.add_argument("--no-cache", dest="cache", action="store_false", help="assume that no answer is cached")
    with_candidate(parser)
    with_plugins(parser)
    with_overrides(parser)


def _plan(args: Namespace) -> int:
    from harness.cli.terminal import Terminal
    from harness.pipeline.run import opened
    from harness_plan import benchmark
    from harness_plan.forecast import forecast

    terminal = Terminal()
    try:
        run = opened(args.suite, replace(run_options(args), listeners=(terminal,)))
        known = benchmark.measure(run.session) if args.measure else benchmark.known(run.session)
        if args.rate is not None:
            known |= benchmark.at_rate(run.session, args.rate)
        found = forecast(run, known)
    finally:
        terminal.clear()
    if args.json:
        args.document = asdict(found)
        return ExitCode.OK
    from harness.cli.run import tell_code
    from harness_plan.terminal import tell

    tell_code(terminal, run.collection.plugins)
    tell(found, terminal)
    return ExitCode.OK
