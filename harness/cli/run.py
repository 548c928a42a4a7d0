"""Commands about a run: `harness run` and `harness show`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.options import Commands, command, with_overrides, with_plugins, with_verbosity
from harness.cli.streams import say
from harness.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from harness.collection.plan import Plan
    from harness.pipeline.session import Options
    from harness.records.gates import Gate


SHELF = 2  # sets of loaded models that several suites share: a base and a candidate
WORST = (  # first what kept a suite from being judged, for the others say nothing of it; then what was judged
    ExitCode.INTERRUPTED, ExitCode.INTERNAL, ExitCode.USAGE, ExitCode.FAILED, ExitCode.INCONCLUSIVE,
    ExitCode.NOTHING_GATED, ExitCode.OK,
)  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """`harness run SUITE…`"""
    from harness.pipeline.run import Options, prepare

    options = Options(
        overrides=tuple(args.set),
        candidate=args.candidate,
        out=args.out,
        keyword=args.k,
        maxfail=1 if args.x else args.maxfail,
        last_failed=args.lf,
        limit=args.limit,
        export=not args.no_export,
        select=args.select,
        cache=not args.no_cache,
        plugins=tuple(args.p),
        on=args.on,
        ignore=tuple(args.ignore),
        junit_xml=args.junit_xml,
    )
    if args.junit_xml and len(args.suite) > 1:
        raise UsageError("--junit-xml is one file; run the suites one by one, or read reports/*/junit.xml")
    if args.collect_only or len(args.suite) > 1:  # a mistake in the last shows before the first runs
        plans = [prepare(path, options) for path in args.suite]
        if args.collect_only:
            return max(_print_plan(plan, args.v - args.q) for plan in plans)
    return _run_each(args.suite, options, args.v - args.q)


def _run_each(suites: Sequence[Path], options: Options, verbosity: int) -> int:
    """Run suites one after the other, which share loaded models; return the worst exit code."""
    from dataclasses import replace

    from harness.cli.terminal import Terminal
    from harness.pipeline.run import run_suite
    from harness.workers.loading import Shelf

    codes = []
    with closing(Shelf(SHELF if len(suites) > 1 else 0)) as shelf:
        for path in suites:
            given = replace(options, shelf=shelf, listeners=(Terminal(verbosity),))
            try:
                codes.append(ExitCode(run_suite(path, given).exit_code))
            except UsageError as error:
                if len(suites) == 1:
                    raise
                for message in error.messages:
                    say(f"error: {message}", sys.stderr)
                codes.append(ExitCode.USAGE)
            if codes[-1] is ExitCode.INTERRUPTED:
                break
    return min(codes, key=WORST.index)


def _print_plan(plan: Plan, verbosity: int) -> int:
    order = {name: i for i, name in enumerate(plan.tasks)}
    gates: dict[str, list[Gate]] = {name: [] for name in order}
    for gate in plan.suite.gates if verbosity >= 0 else ():
        gates[max(plan.evals(gate), key=order.__getitem__) if gate.any_of else gate.eval].append(gate)
    for item in plan.items:
        rows = plan.tasks[item.eval].samples
        say(f"{item.id}  {'remote' if rows is None else len(rows)} rows")
        for gate in gates[item.eval] if item.subject in plan.candidates else ():
            if gate.applies_to(item.subject):
                note = f' (one of "{gate.group}")' if gate.group else "" if gate.blocking else " (warn)"
                say(f"    {gate.id}: {f'{gate.metric} {gate.claim()}'.strip()}{note}")
    for warning in plan.warnings:
        say(f"warning: {warning}", sys.stderr)
    print(f"{len(plan.items)} items, {len(plan.suite.gates)} gates, {len(plan.deselected)} deselected")
    return ExitCode.OK


def show(args: argparse.Namespace) -> int:
    """`harness show RUN`: the report again, or the rows that changed."""
    from harness.cli.flips import print_flips
    from harness.cli.terminal import Terminal
    from harness.reports.report_json import read_run

    report = read_run(args.run)
    if args.flips:
        print_flips(report, args.run if args.run.is_dir() else args.run.parent)
    else:
        Terminal(args.v - args.q).show(report)
    return ExitCode.OK


def run_parser(commands: Commands) -> None:
    """Add `harness run`."""
    one = command(commands, "run", run, "run a suite: measure, train, merge, gate, export")
    one.add_argument("suite", type=Path, metavar="SUITE", nargs="+", help="one, or several that share loaded models")
    one.add_argument("--collect-only", action="store_true", help="list the items and gates, run nothing")
    one.add_argument("-k", default="", metavar="EXPRESSION", help="only items that match, e.g. 'merged and not quiz'")
    one.add_argument("-x", action="store_true", help="stop at the first item that fails")
    one.add_argument("--maxfail", type=int, default=0, metavar="N", help="stop at the N-th item that fails")
    one.add_argument("--lf", action="store_true", help="only items that failed in the last run")
    one.add_argument("--limit", type=int, metavar="N", help="only the first N rows of every eval; nothing ships")
    one.add_argument("--out", type=Path, default=Path("reports"), metavar="FOLDER", help="where run folders go")
    one.add_argument("--select", action="store_true", help="on the select splits, to choose: no attempt, nothing ships")
    one.add_argument("--no-export", action="store_true", help="measure and gate, export nothing")
    one.add_argument("--no-cache", action="store_true", help="ask the models again, and remember nothing")
    one.add_argument("--candidate", metavar="PATH", help="gate this adapter or merged model instead of training one")
    one.add_argument(
        "--on",
        default=os.environ.get("HARNESS_ON", ""),
        metavar="WORKERS",
        help="where models answer: local:N for N processes here, or what a plugin provides (HARNESS_ON)",
    )
    with_plugins(one)
    with_overrides(one)
    one.add_argument(
        "--ignore", action="append", default=[], metavar="CODE", help="a check's finding that does not count"
    )
    one.add_argument("--junit-xml", type=Path, metavar="FILE", help="write JUnit XML there too")
    with_verbosity(one)


def show_parser(commands: Commands) -> None:
    """Add `harness show`."""
    one = command(commands, "show", show, "print a run's report again")
    one.add_argument("run", type=Path, metavar="RUN", help="a folder in reports/")
    one.add_argument("--flips", action="store_true", help="the rows that changed, with both answers")
    with_verbosity(one)
