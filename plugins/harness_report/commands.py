"""`harness report`, `harness history` and `harness compare`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harness import Document, UsageError, write_text
from harness.internals import missing_modules_message, reporting_write_errors


def report(parser: ArgumentParser) -> None:
    """write a run as one HTML page, or as Markdown"""
    parser.set_defaults(command=_run_report, group="look")
    parser.epilog = """examples:
  harness report reports/domain-20261126T131146Z --open
  harness report reports/new --against reports/old"""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder in reports/")
    parser.add_argument("--against", type=Path, metavar="RUN", help="compare with this run, row by row")
    parser.add_argument("--history", type=Path, metavar="FOLDER", help="also show every run of the suite in FOLDER")
    parser.add_argument("--markdown", action="store_true", help="print Markdown for a pull request instead")
    other = "write logs in another format instead: every-eval-ever"
    parser.add_argument("--as", dest="form", choices=("every-eval-ever",), metavar="FORMAT", help=other)
    where = "output (default: RUN/report.html, RUN/compare.html or RUN/every_eval_ever)"
    parser.add_argument("-o", type=Path, metavar="FILE", help=where)
    parser.add_argument("--open", action="store_true", help="open the page in a browser")


def history(parser: ArgumentParser) -> None:
    """list the verdicts of a suite's gates in every run"""
    parser.set_defaults(command=_run_history, group="look")
    parser.epilog = "examples:\n  harness history\n  harness history suites/domain.toml"
    parser.add_argument(
        "suite", nargs="?", metavar="SUITE", help="a suite's name or file (default: that of the last run)"
    )
    where = "folder of run folders (default: reports)"
    parser.add_argument("--out", type=Path, default=Path("reports"), metavar="FOLDER", help=where)


def compare(parser: ArgumentParser) -> None:
    """compare two runs: gates, metrics on the same rows, configuration"""
    parser.set_defaults(command=_run_compare, group="look")
    parser.epilog = """examples:
  harness compare                       # the last run with the one before
  harness compare reports/new reports/old
  harness compare reports/new reports/old --format markdown"""
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN", help="the run to examine (default: the last)")
    parser.add_argument(
        "against",
        type=Path,
        nargs="?",
        metavar="RUN",
        help="the run to compare with (default: its suite's previous run)",
    )
    parser.add_argument("--format", choices=("text", "markdown"), default="text", help="output format (default: text)")


def _run_report(args: Namespace) -> Document[Any]:
    from harness_report.reading import previous_run, read_folder

    if args.form:
        from harness.internals import write_every_eval_ever

        return Document({"written": [str(path) for path in write_every_eval_ever(args.run, args.o)]}, _print_paths)
    kept = read_folder(args.run)
    if args.markdown and args.against is None:
        from harness.internals import format_run_markdown

        return Document({"markdown": format_run_markdown(kept.run, kept.folder)}, _print_markdown)
    if args.markdown:
        return _run_compare(Namespace(run=args.run, against=args.against, format="markdown"))
    try:
        from harness_report import page

        if args.against is None and args.history is None:
            html, name = page.render_run(kept, previous_run(kept)), page.FILE
        else:
            from harness_report.comparison import render_comparison
            from harness_report.history import past_runs

            other = read_folder(args.against) if args.against else None
            past = past_runs(kept.run.suite, args.history) if args.history else []
            html, name = render_comparison(kept, other, past), "compare.html" if other else "history.html"
    except ModuleNotFoundError as error:
        raise UsageError(f"harness report: a page {missing_modules_message(error.name)}, or use --markdown") from None
    path = args.o or kept.folder / name
    with reporting_write_errors(path, "; free space, or use -o"):
        write_text(path, html)
    if args.open:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())
    return Document({"written": [str(path)]}, _print_paths)


def _print_paths(report: Mapping[str, Sequence[str]]) -> None:
    sys.stdout.write("".join(f"{path}\n" for path in report["written"]))


def _print_markdown(report: Mapping[str, str]) -> None:
    sys.stdout.write(report["markdown"])


def _run_history(args: Namespace) -> Document[Any]:
    from harness import read_run
    from harness.internals import find_newest, read_suite
    from harness_report.history import PastRun, history_data, history_lines, past_runs

    suite = args.suite or read_run(find_newest(args.out)).suite
    if (name := Path(suite)).suffix == ".toml":
        suite = read_suite(name).name if name.is_file() else name.stem
    if not (runs := past_runs(suite, args.out)):
        raise UsageError(f'{args.out}: contains no run of suite "{suite}"; name a suite that was run, or set --out')

    def print_text(runs: Sequence[PastRun]) -> None:
        sys.stdout.write(history_lines(suite, runs))

    return Document(runs, print_text, to_data=partial(history_data, suite))


def _run_compare(args: Namespace) -> Document[Any]:
    from harness.internals import find_newest
    from harness_report import compare
    from harness_report.reading import previous_run, read_folder

    kept = read_folder(args.run or find_newest(Path("reports")))
    other = read_folder(args.against) if args.against else previous_run(kept)
    if other is None:
        raise UsageError(f"{kept.folder}: is the first run of its suite; name the run to compare with")
    write = compare.comparison_markdown if args.format == "markdown" else compare.comparison_lines

    def print_text(comparison: compare.RunComparison) -> None:
        sys.stdout.write(write(comparison))

    return Document(compare.compare_runs(kept, other), print_text, to_data=compare.comparison_data)
