"""Commands about a run: `harness check`, a look ahead of it, `run` and `show`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.options import (
    add_candidate_option,
    add_override_option,
    add_plugin_option,
    add_verbosity_options,
    add_worker_options,
    parse_run_options,
    set_command,
)
from harness.errors import ExitCode, UsageError, missing_modules_message
from harness.files import write_text
from harness.texts.printing import print_line

if TYPE_CHECKING:
    from harness.cli.terminal import Terminal
    from harness.collection.collection import Collection
    from harness.pipeline.run import Options
    from harness.plugins import Plugins
    from harness.records.claims.gate import Gate
    from harness.reports.events import RunProgress

SHOWN_ROWS = 10  # rows of a gate or an eval
SHARED_MODEL_SETS = 2  # sets of loaded models that several suites share: a base and a candidate
EXIT_CODE_ORDER = (  # first what kept a suite from being judged, for the others say nothing of it; then what was judged
    ExitCode.INTERRUPTED, ExitCode.INTERNAL, ExitCode.USAGE, ExitCode.FAILED, ExitCode.INCONCLUSIVE,
    ExitCode.NOTHING_GATED, ExitCode.OK,
)  # fmt: skip


def _run_check(args: argparse.Namespace) -> int:
    from harness.cli.terminal import Terminal, print_finding
    from harness.pipeline.run import check_suite, prepare_collection

    terminal, begun = Terminal(args.v - args.q), time.monotonic()
    if args.write_clean and args.write_clean.exists():
        raise UsageError(f'--write-clean "{args.write_clean}": exists already; name a new file')
    if args.write_clean:
        args.overrides = [*args.overrides, "train.drop_leaks=true"]
    options = replace(parse_run_options(args), listeners=(terminal,))
    try:
        found, built, collection = check_suite(prepare_collection(args.suite, options), options)
    finally:
        terminal.clear_progress()
    for reading in collection.readings:
        terminal.print_line(reading)
    for warning in collection.warnings:
        terminal.print_line(f"warning: {warning}", "yellow")
    print_third_party_code(terminal, collection.plugins)
    if built:
        terminal.print_preview(built)
    for flag in found:
        print_finding(terminal, flag)
    words = [f.severity for f in found if f.ignored is None]
    counts = {word: words.count(word) for word in ("error", "warning", "note")}
    counts["warning"] += len(collection.warnings)
    told = ", ".join(f"{n} {word}{'s' if n != 1 else ''}" for word, n in counts.items())
    if args.write_clean:
        train = collection.suite.train  # its rows as they were read, without what was taken out of them
        if not (rows := [row for source, row in collection.origins if train and source != train.validation_data]):
            what = "the suite has no training rows, so there is nothing to write"
            raise UsageError(f'--write-clean "{args.write_clean}": {what}')
        write_text(args.write_clean, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        terminal.print_line(f"{args.write_clean}: {len(rows):,} training rows")
    ignored = sum(f.ignored is not None for f in found)
    terminal.print_line(f"{args.suite}: {told}, {ignored} ignored in {time.monotonic() - begun:.1f} s")
    args.document = {
        "findings": [asdict(f) for f in found],
        "warnings": collection.warnings,
        "readings": collection.readings,
        "counts": counts,
    }
    return ExitCode.USAGE if counts["error"] else ExitCode.OK


def print_third_party_code(terminal: Terminal, plugins: Plugins) -> None:
    """Print the packages of third-party code that a suite loads."""
    if others := plugins.third_party_names():
        terminal.print_line(f"loads code of other packages: {', '.join(others)}")


def _run_suites(args: argparse.Namespace) -> int:
    from harness.pipeline.run import prepare_collection
    from harness.suite.reader import read_suite

    options = parse_run_options(args)
    if args.x:
        options = replace(options, maxfail=1)
    if given := options.candidates:
        options = replace(options, candidate=given[0], candidates=given if len(given) > 1 else ())
    if args.junit_xml and len(args.suite) > 1:
        raise UsageError("--junit-xml is a single file; run the suites one by one, or read reports/*/junit.xml")
    if rows := [suite for path in args.suite if (suite := read_suite(path, options.overrides, options.candidate)).rows]:
        if len(args.suite) > 1 or args.collect_only or args.select or args.keyword or args.limit:
            raise UsageError(f"{rows[0].path}: [rows] suites take no other options; remove them")
        try:
            from harness.rows.writing import run_rows

            return run_rows(rows[0], args)
        except ModuleNotFoundError as error:
            raise UsageError(f"{rows[0].path}: {missing_modules_message(error.name)}") from None
    if args.collect_only or len(args.suite) > 1:  # a mistake in the last shows before the first runs
        collections = [prepare_collection(path, options) for path in args.suite]
        if args.collect_only:
            return max(_print_collection(collection, args) for collection in collections)
    return _run_suites_in_turn(args, options)


def _run_suites_in_turn(args: argparse.Namespace, options: Options) -> int:
    """Run suites in turn and return the worst exit code.

    The suites share loaded models; EXIT_CODE_ORDER ranks the codes.
    """
    from harness.cli.terminal import Terminal
    from harness.pipeline.run import run_suite
    from harness.reports.events import Events
    from harness.reports.report_json import to_json
    from harness.workers.loading import ModelCache

    codes, told = [], []
    others = [args.job] if args.job else []  # of what watches all runs: a job of GitHub's, a file of events
    several = len(args.suite) > 1
    with ExitStack() as closed:
        shelf = closed.enter_context(closing(ModelCache(SHARED_MODEL_SETS if several else 0)))
        others += [closed.enter_context(closing(Events(args.events)))] if args.events else []
        for path in args.suite:
            try:
                found = run_suite(path, replace(options, shelf=shelf, listeners=(Terminal(args.v - args.q), *others)))
                codes.append(ExitCode(found.exit_code))
                told.append(json.loads(to_json(found)))
            except UsageError as error:
                if not several:
                    raise
                for message in error.messages:
                    print_line(f"error: {message}", sys.stderr)
                codes.append(ExitCode.USAGE)
            if codes[-1] is ExitCode.INTERRUPTED:
                break
    args.document = {"runs": told} if several else {"run": told[0]}
    return min(codes, key=EXIT_CODE_ORDER.index)


def _print_collection(collection: Collection, args: argparse.Namespace) -> int:
    from harness.texts.counts import count_noun

    order = {name: i for i, name in enumerate(collection.tasks)}
    gates: dict[str, list[Gate]] = {name: [] for name in order}
    for gate in collection.suite.gates if args.v >= args.q else ():
        gates[gate.eval].append(gate)
    items: list[dict[str, Any]] = []
    for item in collection.items:
        rows = collection.tasks[item.eval].samples
        unread = "rows of its own" if collection.tasks[item.eval].brings_rows else "remote rows"
        items.append({"id": item.id, "rows": None if rows is None else len(rows), "gates": []})
        print_line(f"{item.id}  {unread if rows is None else count_noun(len(rows), 'row')}")
        for gate in gates[item.eval] if item.subject in collection.candidates else ():
            if gate.applies_to(item.subject):
                note = "" if gate.blocking else " (warn)"
                claim = f"{gate.metric} {gate.claim()}".strip()
                items[-1]["gates"].append({"id": gate.id, "claim": claim, "blocking": gate.blocking})
                print_line(f"    {gate.id}: {claim}{note}")
    for warning in collection.warnings:
        print_line(f"warning: {warning}", sys.stderr)
    counts = (count_noun(len(collection.items), "item"), count_noun(len(collection.suite.gates), "gate"))
    print(f"{', '.join(counts)}, {len(collection.deselected)} deselected")
    args.document = {"items": items, "warnings": collection.warnings, "deselected": collection.deselected}
    return ExitCode.OK


def _run_show(args: argparse.Namespace) -> int:
    from harness.reports.events import FILE, read_events
    from harness.reports.report_json import read_run, to_json
    from harness.reports.run_folder import find_newest

    if args.n < 1:
        raise UsageError(f"-n is {args.n}; it must be 1 or more")
    asks = args.flips or args.rows is not None or args.wrong
    names = ("report.json",) if asks else ("report.json", FILE)
    place = args.run or find_newest(Path("reports"), names)
    if place.is_dir() and not any((place / name).exists() for name in ("report.json", FILE)):
        place = find_newest(place, names)  # of the runs in a folder
    if place.is_dir() and not (place / "report.json").exists():
        if asks:
            raise UsageError(f"{place}: has no rows until its run has ended; use harness show {place}")
        return _show_unfinished_run(args, read_events(place))
    report = read_run(place)
    folder = place if place.is_dir() else place.parent
    if asks:
        from harness.cli.flips import show_flips, show_rows

        (show_flips if args.flips else show_rows)(args, report, folder)
        return ExitCode.OK
    args.document = {"run": json.loads(to_json(report))}
    if not args.json:
        from harness.cli.terminal import Terminal

        Terminal(args.v - args.q).print_run(replace(report, folder=str(folder)))
    return ExitCode.OK


def _show_unfinished_run(args: argparse.Namespace, found: RunProgress) -> int:
    """Print the state of a run that has no report.

    It may still be running, or was cut off.
    """
    progress, run = found.progress, found.run
    told = {"suite": run.suite, "state": found.state, "stage": found.stage, "heard": found.heard.isoformat()}
    signs = {"progress": progress and asdict(progress), "left_seconds": found.left}
    args.document = {"underway": {**told, **signs, "results": [asdict(r) for r in run.results]}}
    if not args.json:
        from harness.cli.terminal import Terminal

        Terminal(args.v - args.q).print_progress(found)
    return ExitCode.OK


def check(parser: argparse.ArgumentParser) -> None:
    """check suite and data for common mistakes, without training"""
    set_command(parser, _run_check, "harness check suite.toml", "harness check suite.toml --ignore D10 --limit 100")
    parser.add_argument("suite", type=Path, metavar="SUITE", help="the suite's .toml file")
    parser.add_argument("--limit", type=int, metavar="N", help="check only the first N rows of every eval")
    add_candidate_option(parser)
    add_plugin_option(parser)
    add_override_option(parser)
    parser.add_argument(
        "--ignore", action="append", default=[], metavar="CODE", help="ignore the findings of this check"
    )
    clean = "write the training rows without those found by D10 and D11, as JSON Lines"
    parser.add_argument("--write-clean", type=Path, metavar="FILE", help=clean)
    add_verbosity_options(parser)


def run(parser: argparse.ArgumentParser) -> None:
    """run a suite: evaluate, train, merge, gate, export"""
    set_command(
        parser,
        _run_suites,
        "harness run suite.toml",
        "harness run suite.toml --candidate path/to/adapter-or-model",
        "harness run suite.toml --collect-only",
        "harness run qa.toml chat.toml --on local:2",
        "harness run suite.toml -k 'merged and not quiz' -x",
        "harness run suite.toml --set train.learning_rate=1e-4 --select",
    )
    parser.add_argument(
        "suite", type=Path, metavar="SUITE", nargs="+", help="one or more suites, which share loaded models"
    )
    what = parser.add_argument_group("what to run")
    made = "gate this adapter or model instead of training one; several: the best on the selection rows"
    what.add_argument("--candidate", action="append", default=[], dest="candidates", metavar="PATH", help=made)
    add_override_option(what)
    what.add_argument("--collect-only", action="store_true", help="list the items and gates, and run nothing")
    what.add_argument(
        "--select", action="store_true", help="evaluate on selection splits only: counts no attempt, exports nothing"
    )
    part = "run only matching items; exports nothing"
    what.add_argument("-k", default="", dest="keyword", metavar="EXPRESSION", help=part)
    what.add_argument(
        "--lf",
        dest="last_failed",
        action="store_true",
        help="run only the items that failed last time; exports nothing",
    )
    what.add_argument(
        "--limit", type=int, metavar="N", help="evaluate only the first N rows of every eval; exports nothing"
    )
    when = parser.add_argument_group("when to stop, and what to reuse")
    when.add_argument("-x", action="store_true", help="stop at the first failed item")
    when.add_argument("--maxfail", type=int, default=0, metavar="N", help="stop at the N-th failed item")
    when.add_argument("--ignore", action="append", default=[], metavar="CODE", help="ignore the findings of this check")
    anew = "do not read or write cached answers"
    when.add_argument("--no-cache", dest="cache", action="store_false", help=anew)
    add_worker_options(when)
    add_plugin_option(when)
    where = parser.add_argument_group("what to write and print")
    where.add_argument(
        "--out", type=Path, default=Path("reports"), metavar="FOLDER", help="folder for run folders (default: reports)"
    )
    where.add_argument("--no-export", dest="export", action="store_false", help="evaluate and gate, but export nothing")
    where.add_argument("--junit-xml", type=Path, metavar="FILE", help="also write JUnit XML to FILE")
    where.add_argument("--events", type=Path, metavar="FILE", help="write one JSON object per event to FILE")
    where.add_argument(
        "--github",
        action="store_true",
        help="write GitHub annotations and a step summary (automatic in GitHub Actions)",
    )
    add_verbosity_options(where)


def show(parser: argparse.ArgumentParser) -> None:
    """print the report or the rows of a run"""
    set_command(
        parser,
        _run_show,
        "harness show                         # the last run",
        "harness show --flips -n 3            # rows that gates lost, won and failed",
        "harness show reports/qa-… --rows qa --wrong",
    )
    which = "run folder (default: the last run in reports/)"
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN", help=which)
    parser.add_argument("--flips", action="store_true", help="rows that gates lost, won or failed, with their answers")
    parser.add_argument(
        "--rows", nargs="?", const="", metavar="EVAL", help="rows of one eval or of all, lost ones first"
    )
    parser.add_argument("--wrong", action="store_true", help="only rows that the shipping candidate got wrong")
    parser.add_argument(
        "-n",
        type=int,
        default=SHOWN_ROWS,
        metavar="N",
        help=f"number of rows for each gate or eval (default: {SHOWN_ROWS})",
    )
    add_verbosity_options(parser)
