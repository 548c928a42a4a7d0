"""`harness plan`: the command, whose parser is all that `harness --help` imports."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.gate import add_rows_options
from harness.cli.options import (
    add_candidate_option,
    add_override_option,
    add_plugin_option,
    parse_run_options,
    set_command,
)
from harness.document import Document

if TYPE_CHECKING:
    from harness.cli.terminal import Terminal
    from harness.planning.forecast import Forecast
    from harness.plugins import Plugins


def plan(parser: ArgumentParser) -> None:
    """forecast a run: what it can prove, and its time and memory; or what two files of scored rows can"""
    examples = (
        "harness plan suite.toml", "harness plan suite.toml --measure", "harness plan suite.toml --limit 200",
        "harness plan base.csv candidate.csv --score correct",
    )  # fmt: skip
    set_command(parser, _run_plan, *examples)
    parser.add_argument("suite", type=Path, metavar="SUITE", help="the suite's .toml file, or the base's scored rows")
    parser.add_argument("other", nargs="?", metavar="CANDIDATE", help="the candidate's scored rows")
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
    add_candidate_option(parser)
    add_plugin_option(parser)
    add_override_option(parser)
    add_rows_options(parser)


def _run_plan(args: Namespace) -> Document[Any]:
    if args.other is not None or args.base_score:
        from harness.cli.plan_rows import plan_rows

        return plan_rows(args)
    from harness.cli.terminal import Terminal
    from harness.pipeline.measurements import read_measurements as known_measurements
    from harness.pipeline.run import open_run
    from harness.planning import benchmark
    from harness.planning.forecast import make_forecast

    terminal = Terminal()
    try:
        run = open_run(args.suite, replace(parse_run_options(args), listeners=(terminal,)))
        known = benchmark.measure_suite(run.session) if args.measure else known_measurements(run.session)
        if args.rate is not None:
            known |= benchmark.forecast_at_rate(run.session, args.rate)
        found = make_forecast(run, known)
    finally:
        terminal.clear_progress()
    return Document(found, partial(_print_plan, terminal, run.collection.plugins))


def _print_plan(terminal: Terminal, plugins: Plugins, forecast: Forecast) -> None:
    from harness.cli.plan_report import print_forecast
    from harness.cli.run import print_third_party_code

    print_third_party_code(terminal, plugins)
    print_forecast(forecast, terminal)
