"""Commands about a run: `harness check`, a look ahead of it, `run` and `show`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
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
from harness.document import Document, to_plain_data
from harness.errors import ExitCode, UsageError, missing_modules_message
from harness.files import write_text
from harness.texts.numbers import format_duration
from harness.texts.printing import print_line

if TYPE_CHECKING:
    from harness.cli.terminal import Terminal
    from harness.collection.collection import Collection, Item
    from harness.pipeline.run import Options
    from harness.plugins import Plugins
    from harness.records.claims.gate import Gate
    from harness.records.findings import Built, Finding
    from harness.records.run import Run
    from harness.reports.events import RunProgress

SHOWN_ROWS = 10  # rows of a gate or an eval
SHARED_MODEL_SETS = 2  # sets of loaded models that several suites share: a base and a candidate
EXIT_CODE_ORDER = (  # first what kept a suite from being judged, for the others say nothing of it; then what was judged
    ExitCode.INTERRUPTED, ExitCode.INTERNAL, ExitCode.USAGE, ExitCode.FAILED, ExitCode.INCONCLUSIVE,
    ExitCode.NOTHING_GATED, ExitCode.OK,
)  # fmt: skip


@dataclass(frozen=True)
class _CheckReport:
    """What `harness check` found of a suite, and how many clean rows it wrote."""

    suite: Path
    collection: Collection
    findings: Sequence[Finding]
    built: Built | None
    clean_rows: tuple[Path, int] | None
    seconds: float

    @property
    def counts(self) -> dict[str, int]:
        """The number of findings of each severity, without the ignored; warnings of the collection count as well."""
        severities = [f.severity for f in self.findings if f.ignored is None]
        counts = {severity: severities.count(severity) for severity in ("error", "warning", "note")}
        counts["warning"] += len(self.collection.warnings)
        return counts

    def to_data(self) -> dict[str, Any]:
        """Return the findings and what the collection tells."""
        told = {"warnings": self.collection.warnings, "readings": self.collection.readings}
        return {"findings": to_plain_data(self.findings), **told, "counts": self.counts}


def _run_check(args: argparse.Namespace) -> Document[_CheckReport]:
    from harness.cli.terminal import Terminal
    from harness.pipeline.run import check_suite, prepare_collection

    terminal, begun = Terminal(args.v - args.q), time.monotonic()
    if args.write_clean and args.write_clean.exists():
        raise UsageError(f'--write-clean "{args.write_clean}": exists already; name a new file')
    if args.write_clean:
        args.overrides = [*args.overrides, "train.drop_leaks=true"]
    options = replace(parse_run_options(args), listeners=(terminal,))
    try:
        findings, built, collection = check_suite(prepare_collection(args.suite, options), options)
    finally:
        terminal.clear_progress()
    clean_rows = (args.write_clean, _write_clean_rows(args.write_clean, collection)) if args.write_clean else None
    seconds = time.monotonic() - begun
    checked = _CheckReport(args.suite, collection, findings, built, clean_rows, seconds)
    code = ExitCode.USAGE if checked.counts["error"] else ExitCode.OK
    return Document(checked, partial(_print_checked_suite, terminal), code, _CheckReport.to_data)


def _write_clean_rows(path: Path, collection: Collection) -> int:
    """Write the training rows as they were read, without those that leak, and return their number."""
    train = collection.suite.train
    rows = [row for source, row in collection.origins if train and source != train.validation_data]
    if not rows:
        raise UsageError(f'--write-clean "{path}": the suite has no training rows, so there is nothing to write')
    write_text(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(rows)


def _print_checked_suite(terminal: Terminal, checked: _CheckReport) -> None:
    from harness.cli.terminal import print_finding
    from harness.texts.counts import count_noun

    collection = checked.collection
    for reading in collection.readings:
        terminal.print_line(reading)
    for warning in collection.warnings:
        terminal.print_line(f"warning: {warning}", "yellow")
    print_third_party_code(terminal, collection.plugins)
    if checked.built:
        terminal.print_preview(checked.built)
    for finding in checked.findings:
        print_finding(terminal, finding)
    if checked.clean_rows:
        path, rows = checked.clean_rows
        terminal.print_line(f"{path}: {rows:,} training rows")
    counts = ", ".join(count_noun(n, severity) for severity, n in checked.counts.items())
    ignored = sum(f.ignored is not None for f in checked.findings)
    terminal.print_line(f"{checked.suite}: {counts}, {ignored} ignored in {format_duration(checked.seconds)}")


def print_third_party_code(terminal: Terminal, plugins: Plugins) -> None:
    """Print the packages of third-party code that a suite loads."""
    if others := plugins.third_party_names():
        terminal.print_line(f"loads code of other packages: {', '.join(others)}")


def _run_suites(args: argparse.Namespace) -> Document[Any]:
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
            print_text = partial(_print_collections, args.v >= args.q)
            return Document(collections, print_text, to_data=_convert_collections)
    return _run_suites_in_turn(args, options)


def _run_suites_in_turn(args: argparse.Namespace, options: Options) -> Document[list[Run]]:
    """Run suites in turn. The terminal prints each while it runs.

    The suites share loaded models; the exit code is the worst by EXIT_CODE_ORDER.
    """
    from harness.cli.terminal import Terminal
    from harness.pipeline.run import run_suite
    from harness.reports.events import Events
    from harness.workers.loading import ModelCache

    codes: list[ExitCode] = []
    runs: list[Run] = []
    others = [args.job] if args.job else []  # of what watches all runs: a job of GitHub's, a file of events
    several = len(args.suite) > 1
    with ExitStack() as closed:
        shelf = closed.enter_context(closing(ModelCache(SHARED_MODEL_SETS if several else 0)))
        others += [closed.enter_context(closing(Events(args.events)))] if args.events else []
        for path in args.suite:
            try:
                found = run_suite(path, replace(options, shelf=shelf, listeners=(Terminal(args.v - args.q), *others)))
                codes.append(ExitCode(found.exit_code))
                runs.append(found)
            except UsageError as error:
                if not several:
                    raise
                for message in error.messages:
                    print_line(f"error: {message}", sys.stderr)
                codes.append(ExitCode.USAGE)
            if codes[-1] is ExitCode.INTERRUPTED:
                break
    exit_code = min(codes, key=EXIT_CODE_ORDER.index)
    return Document(runs, exit_code=exit_code, to_data=_convert_runs if several else _convert_single_run)


def _convert_runs(runs: Sequence[Run]) -> dict[str, Any]:
    return {"runs": [_convert_run(run) for run in runs]}


def _convert_single_run(runs: Sequence[Run]) -> dict[str, Any]:
    return {"run": _convert_run(runs[0])}


def _convert_run(run: Run) -> Any:
    from harness.reports.report_json import to_json

    return json.loads(to_json(run))


def _list_item_gates(collection: Collection, item: Item) -> list[Gate]:
    """Return the gates that an item's result decides: none if its subject is no candidate."""
    if item.subject not in collection.candidates:
        return []
    return [gate for gate in collection.suite.gates if gate.eval == item.eval and gate.applies_to(item.subject)]


def _convert_collections(collections: Sequence[Collection]) -> dict[str, Any]:
    """Return the items of a suite; of several suites, each with its path."""
    if len(collections) == 1:
        return _convert_collection(collections[0])
    return {"suites": [{"suite": str(c.suite.path), **_convert_collection(c)} for c in collections]}


def _convert_collection(collection: Collection) -> dict[str, Any]:
    items = []
    for item in collection.items:
        rows = collection.tasks[item.eval].samples
        gates = [
            {"id": gate.id, "claim": _describe_claim(gate), "blocking": gate.blocking}
            for gate in _list_item_gates(collection, item)
        ]
        items.append({"id": item.id, "rows": None if rows is None else len(rows), "gates": gates})
    return {"items": items, "warnings": collection.warnings, "deselected": collection.deselected}


def _describe_claim(gate: Gate) -> str:
    return f"{gate.metric} {gate.claim()}".strip()


def _print_collections(with_gates: bool, collections: Sequence[Collection]) -> None:
    from harness.texts.counts import count_noun

    for collection in collections:
        for item in collection.items:
            task = collection.tasks[item.eval]
            unread = "rows of its own" if task.brings_rows else "remote rows"
            rows = unread if task.samples is None else count_noun(len(task.samples), "row")
            print_line(f"{item.id}  {rows}")
            for gate in _list_item_gates(collection, item) if with_gates else ():
                note = "" if gate.blocking else " (warn)"
                print_line(f"    {gate.id}: {_describe_claim(gate)}{note}")
        for warning in collection.warnings:
            print_line(f"warning: {warning}", sys.stderr)
        counts = (count_noun(len(collection.items), "item"), count_noun(len(collection.suite.gates), "gate"))
        print(f"{', '.join(counts)}, {len(collection.deselected)} deselected")


def _run_show(args: argparse.Namespace) -> Document[Any]:
    from harness.reports.events import EVENTS, read_events
    from harness.reports.report_json import read_run
    from harness.reports.run_folder import find_newest

    if args.n < 1:
        raise UsageError(f"-n is {args.n}; it must be 1 or more")
    asks = args.flips or args.rows is not None or args.wrong
    names = ("report.json",) if asks else ("report.json", EVENTS)
    place = args.run or find_newest(Path("reports"), names)
    if place.is_dir() and not any((place / name).exists() for name in ("report.json", EVENTS)):
        place = find_newest(place, names)  # of the runs in a folder
    if place.is_dir() and not (place / "report.json").exists():
        if asks:
            raise UsageError(f"{place}: has no rows until its run has ended; use harness show {place}")
        return _show_unfinished_run(args, read_events(place))
    report = read_run(place)
    folder = place if place.is_dir() else place.parent
    if asks:
        from harness.cli.flips import show_flips, show_rows

        return (show_flips if args.flips else show_rows)(args, report, folder)
    from harness.cli.terminal import Terminal

    def print_text(runs: Sequence[Run]) -> None:
        Terminal(args.v - args.q).print_run(replace(runs[0], folder=str(folder)))

    return Document([report], print_text, to_data=_convert_single_run)


def _show_unfinished_run(args: argparse.Namespace, found: RunProgress) -> Document[RunProgress]:
    """Return the state of a run that has no report.

    It may still be running, or was cut off.
    """
    from harness.cli.terminal import Terminal

    return Document(found, Terminal(args.v - args.q).print_progress, to_data=_convert_progress)


def _convert_progress(found: RunProgress) -> dict[str, Any]:
    run = found.run
    told = {"suite": run.suite, "state": found.state, "stage": found.stage, "heard": found.heard.isoformat()}
    signs = {"progress": to_plain_data(found.progress), "left_seconds": found.left}
    return {"underway": {**told, **signs, "results": to_plain_data(run.results)}}


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
