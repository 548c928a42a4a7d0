"""`harness gate`: a claim about rows that another tool scored."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.document import Document
from harness.errors import UsageError, missing_modules_message

if TYPE_CHECKING:
    from argparse import _ArgumentGroup

    from harness.records.run import Run
    from harness.rows.suites import PreparedRows


def gate(parser: ArgumentParser) -> None:
    """gate rows that another tool scored: lm_eval's files, a table"""
    parser.set_defaults(command=_run_gate, group="run")
    parser.usage = "harness gate [OPTIONS] BASE CANDIDATE"
    parser.epilog = """examples:
  harness gate base.csv candidate.csv    # names what is missing, with a command
  harness gate runs/base runs/candidate --worse-by-at-most 0.02
  harness gate runs/base runs/candidate --better-by 0 --metric gsm8k:exact_match
  harness gate base.csv candidate.csv --worse-by-at-most 0.02 --score correct"""
    what = "files or folders with scored rows, or FILE#COLUMN=VALUE; only CANDIDATE with --min or --max"
    parser.add_argument("rows", nargs="+", metavar="BASE CANDIDATE", help=what)
    claim = parser.add_argument_group("claim")
    claim.add_argument(
        "--worse-by-at-most",
        type=_parse_margin,
        metavar="X",
        help="largest loss: 0.02 is 2 points of a proportion, 2%% is 2%% of the base's value",
    )
    claim.add_argument("--better-by", type=_parse_margin, metavar="X", help="smallest gain; 0: any gain")
    claim.add_argument("--min", type=float, metavar="X", help="lowest value, without a baseline (a weaker claim)")
    claim.add_argument("--max", type=float, metavar="X", help="highest value, without a baseline")
    claim.add_argument("--cap", type=float, metavar="X", help="the most that one row may count, up or down")
    what = "lowest and highest possible score of a row, e.g. 1 5"
    claim.add_argument("--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help=what)
    claim.add_argument(
        "--alpha", type=float, default=0.05, metavar="RISK", help="risk of passing a model at the limit (default: 0.05)"
    )
    rows = add_rows_options(parser)
    rows.add_argument(
        "--slice", action="append", default=[], metavar="COLUMN", help="column of the slices; names the worst"
    )
    out = parser.add_argument_group("what to write and print")
    out.add_argument(
        "--out", type=Path, default=Path("reports"), metavar="FOLDER", help="folder for run folders (default: reports)"
    )
    out.add_argument("--junit-xml", type=Path, metavar="FILE", help="also write JUnit XML to FILE")
    out.add_argument("--write-suite", type=Path, metavar="FILE", help="write the claim as a suite for harness run")
    out.add_argument(
        "--github",
        action="store_true",
        help="write GitHub annotations and a step summary (automatic in GitHub Actions)",
    )


def add_rows_options(parser: ArgumentParser) -> _ArgumentGroup:
    """Add the options for reading rows and for accepting differences.

    Returns the group of the reading options.
    """
    from harness.rows.records import COLUMNS

    rows = parser.add_argument_group("which rows to read, and how")
    rows.add_argument(
        "--metric", default="", metavar="TASK:NAME[,FILTER]", help="task and metric, if a run has several"
    )
    rows.add_argument(
        "--as", dest="tool", default="", metavar="TOOL", help="format: lm_eval, table, … (default: detected)"
    )
    way = rows.add_mutually_exclusive_group()
    way.add_argument("--higher", dest="better", action="store_const", const="higher", help="higher is better")
    way.add_argument("--lower", dest="better", action="store_const", const="lower", help="lower is better")
    rows.add_argument(
        "--scale", choices=("proportion", "mean", "perplexity"), help="how the values of rows are combined"
    )
    for name in COLUMNS:
        rows.add_argument(f"--{name}", metavar="COLUMN", help=HELP.get(name, f"column of a row's {name}"))
    for side in ("base", "candidate"):
        rows.add_argument(
            f"--{side}-score", metavar="COLUMN", help=f"column of the {side}'s score, in a table with both"
        )
    rows.add_argument("--repeats", type=int, default=0, metavar="N", help="number of answers per row")
    shared = 'column whose rows are not independent; twice for two columns, "none" for no column'
    rows.add_argument("--cluster", action="append", metavar="COLUMN", help=shared)
    fair = parser.add_argument_group("what to accept")
    missing = (
        "rows without a score: refuse, or wrong: the worst value to prove the claim, the best to "
        "refute it (default: refuse)"
    )
    fair.add_argument("--missing", choices=("refuse", "wrong"), default="refuse", help=missing)
    fair.add_argument(
        "--allow", default="", metavar="NAMES", help="accept these differences: template,shots,…; identical"
    )
    fair.add_argument("--only-common", action="store_true", help="use only rows that are in both")
    return rows


HELP = {
    "id": 'column of a row\'s id; "a.b" reads b in the objects of a',
    "input": 'column of what was asked; "none" pairs rows by id',
    "target": 'column of what is expected; "none" for no column',
    "answer": "column of the model's answer, which reports show",
}


def _parse_margin(text: str) -> float | str:
    try:
        return text if text.endswith("%") else float(text)
    except ValueError:
        raise ArgumentTypeError(f'"{text}" is not a number, or a share such as 2%') from None


def _run_gate(args: Namespace) -> Document[Run]:
    """Read, decide, write and print. Raises UsageError where the libraries that decide are not there."""
    try:
        from harness.rows import suites, writing
        from harness.rows.missing_options import require_options

        found = suites.decide_rows(require_options(args, _prepare_gate))
        if args.write_suite:
            places = {side: str(Path(path).expanduser().absolute()) for side, path in _name_sides(args).items()}
            writing.write_suite(found, args.write_suite, places)
        return writing.conclude_gate(found, args)
    except ModuleNotFoundError as error:
        raise UsageError(f"gate: {missing_modules_message(error.name)}") from None


def _prepare_gate(args: Namespace) -> PreparedRows:
    """Read and compare the rows that a command names. Raises UsageError."""
    from harness.rows.arguments import parse_clusters, parse_gate, parse_rows_options
    from harness.rows.suites import make_rows_suite, prepare_rows

    claim = parse_gate(args)
    about = {"cluster": parse_clusters(args.cluster), "slices": args.slice}
    return prepare_rows(make_rows_suite(claim, _name_sides(args), parse_rows_options(args), args.alpha, **about))


def _name_sides(args: Namespace) -> dict[str, str]:
    """Return the paths that a command names, by side."""
    return dict(zip(("base", "candidate")[-len(args.rows) :], args.rows, strict=True))
