"""`harness judge …`: a judge held against people, and the rows over which it was of two minds."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import Document
from harness.internals import printable

if TYPE_CHECKING:
    from harness_judge.calibration import Calibration


def judge(parser: ArgumentParser) -> None:
    """compare a judge with human labels"""
    parser.set_defaults(group="look")
    jobs = parser.add_subparsers(required=True, metavar="COMMAND")
    help = "compare a suite's judge with human labels: kappa and its bound"
    example = "examples:\n  harness judge calibrate labels.jsonl --suite suite.toml"
    one = jobs.add_parser("calibrate", help=help, description=help, epilog=example)
    one.set_defaults(command=_run_calibrate)
    one.add_argument(
        "labels", type=Path, metavar="LABELS", help="file of rows with id and label, and the answers or --run"
    )
    one.add_argument("--suite", type=Path, required=True, metavar="SUITE", help="the suite that has the judge")
    one.add_argument("--eval", metavar="NAME", help="the judged eval, if there are several")
    one.add_argument("--run", type=Path, metavar="RUN", help="run folder with the labelled answers")
    one.add_argument("--subject", default="merged", metavar="NAME", help="whose answers in that run (default: merged)")
    one.add_argument("--out", type=Path, metavar="FILE", help="output file (default: LABELS with .calibration.json)")
    help = "list the rows whose verdicts differ or are missing, with reasons"
    example = "examples:\n  harness judge disputes reports/qa-20261126T131146Z --all"
    one = jobs.add_parser("disputes", help=help, description=help, epilog=example)
    one.set_defaults(command=_run_disputes)
    one.add_argument("run", type=Path, metavar="RUN", help="run folder in reports/")
    one.add_argument("--all", action="store_true", help="list every judged row")


def _run_calibrate(args: Namespace) -> Document[Any]:
    from harness_judge.calibrate import calibrate_judge

    given = {"evaluation": args.eval, "run": args.run, "subject": args.subject, "out": args.out}
    given["warn"] = lambda text: print(printable(f"warning: {text}"), file=sys.stderr)
    found, path = calibrate_judge(args.labels, args.suite, **given)
    return Document((found, path), _print_calibration, to_data=_convert_calibration)


def _convert_calibration(calibration: tuple[Calibration, Path]) -> dict[str, Any]:
    _, path = calibration
    return {"written": str(path), "calibration": json.loads(path.read_text("utf-8"))}


def _print_calibration(calibration: tuple[Calibration, Path]) -> None:
    from harness_judge.calibrate import calibration_report

    found, path = calibration
    for line in calibration_report(found):
        print(printable(line))
    print(f'next: set calibration = "{path.name}", relative to the suite, in the judged [[eval]]', file=sys.stderr)


def _run_disputes(args: Namespace) -> Document[Any]:
    from harness_judge.disputes import is_disputed, iterate_judged_rows

    rows = list(iterate_judged_rows(args.run))
    disputed = [(item, row) for item, row in rows if is_disputed(row)]
    shown = [{"item": item, "row": row} for item, row in (rows if args.all else disputed)]
    return Document({"judged": len(rows), "disputed": len(disputed), "rows": shown}, _print_disputes)


def _print_disputes(report: Mapping[str, Any]) -> None:
    from harness_judge.disputes import describe_dispute

    for shown in report["rows"]:
        for line in (*describe_dispute(shown["item"], shown["row"]), ""):
            print(printable(line))
    print(f"{report['disputed']} of {report['judged']} judged rows are disputed")
