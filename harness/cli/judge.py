"""Commands about judges: `harness judge calibrate` and `harness judge disputes`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.cli.options import Commands, command
from harness.cli.streams import say
from harness.errors import ExitCode


def judge_calibrate(args: argparse.Namespace) -> int:
    """`harness judge calibrate LABELS`: hold a judge against human labels."""
    from harness_judge.calibrate import calibrate, describe

    def warn(text: str) -> None:
        say(f"warning: {text}", sys.stderr)

    where = {"evaluation": args.eval, "run": args.run, "subject": args.subject, "out": args.out}
    found, path = calibrate(args.labels, args.suite, **where, warn=warn)
    for line in describe(found):
        say(line)
    print(f'next: calibration = "{path.name}", by its path from the suite, in the judged [[eval]]', file=sys.stderr)
    return ExitCode.OK


def judge_disputes(args: argparse.Namespace) -> int:
    """`harness judge disputes RUN`: the rows over which a judge was of two minds."""
    from harness_judge.disputes import describe, disputed, judged

    rows = list(judged(args.run))
    chosen = [(item, row) for item, row in rows if disputed(row)]
    for item, row in rows if args.all else chosen:
        for line in (*describe(item, row), ""):
            say(line)
    print(f"{len(chosen)} of {len(rows)} judged rows are disputed")
    return ExitCode.OK


def judge_parser(commands: Commands) -> None:
    """Add `harness judge` and its two commands."""
    judge = commands.add_parser("judge", help="measure a judge", description="measure a judge")
    jobs = judge.add_subparsers(required=True, metavar="COMMAND")
    one = command(jobs, "calibrate", judge_calibrate, "hold a suite's judge against human labels: kappa and its bound")
    one.add_argument("labels", type=Path, metavar="LABELS", help="rows with id and label, and the answers or --run")
    one.add_argument("--suite", type=Path, required=True, metavar="SUITE", help="the suite whose judge it is")
    one.add_argument("--eval", metavar="NAME", help="the judged eval, where there are several")
    one.add_argument("--run", type=Path, metavar="RUN", help="a folder in reports/: the labels are of its rows")
    one.add_argument("--subject", default="merged", metavar="NAME", help="whose answers in that run (merged)")
    one.add_argument("--out", type=Path, metavar="FILE", help="where to write (LABELS with .calibration.json)")
    one = command(jobs, "disputes", judge_disputes, "read the rows whose verdicts differ or are lacking, with reasons")
    one.add_argument("run", type=Path, metavar="RUN", help="a folder in reports/")
    one.add_argument("--all", action="store_true", help="every judged row")
