"""`harness blame`: which training rows may have made a gate fail, and whether training without them shows it."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.options import (
    add_override_option,
    add_plugin_option,
    add_worker_options,
    parse_run_options,
    set_command,
)
from harness.document import Document, to_plain_data
from harness.errors import UsageError
from harness.texts.counts import count_noun

if TYPE_CHECKING:
    from harness.cause.blame import Blame
    from harness.cause.proof import Proof
    from harness.cli.screen import Screen

SHOWN_ROWS = 10  # lost rows and groups
MAX_TEXT_CHARS = 160  # characters of a text
NO_CLAIM = "a list to read, no claim"


def blame(parser: ArgumentParser) -> None:
    """name training rows that may have made a gate fail"""
    examples = (
        "harness blame qa.toml reports/qa-… --gate 'no forgetting: capitals'",
        "harness blame qa.toml reports/qa-… --gate 'no forgetting: capitals' --rows 6 --retrain",
        "harness blame qa.toml reports/qa-… --gate 'no forgetting: capitals' --by source,template --retrain",
    )
    set_command(parser, _run_blame, *examples)
    parser.add_argument("suite", type=Path, metavar="SUITE", help="the suite that was run")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder of a suite that trained")
    parser.add_argument("--gate", required=True, metavar="ID", help="the gate that did not pass")
    number = parser.add_mutually_exclusive_group()
    number.add_argument("--rows", type=int, metavar="N", help="number of suspects (default: 10)")
    number.add_argument("--share", type=float, metavar="S", help="suspects as a share of the training rows")
    kinds = "suspect the first of these groups, and not rows: source, group, template, answer"
    number.add_argument("--by", type=_parse_kinds, default=(), metavar="KIND,…", help=kinds)
    trains = "train again without the suspects, and without other rows as controls; print a verdict"
    parser.add_argument("--retrain", action="store_true", help=trains)
    least = "number of control trainings, at least 5 (default: 5)"
    parser.add_argument("--controls", type=int, metavar="N", help=least)
    given = parser.add_argument_group("options that the run was made with")
    add_override_option(given)
    given.add_argument("--limit", type=int, metavar="N", help="only the first N rows of every eval were used")
    given.add_argument(
        "--ignore", action="append", default=[], metavar="CODE", help="findings of this check were ignored"
    )
    add_worker_options(parser)
    add_plugin_option(parser)


def _parse_kinds(text: str) -> tuple[str, ...]:
    from harness.cause.suspects import KINDS

    kinds = tuple(text.split(","))
    if odd := [kind for kind in kinds if kind not in KINDS]:
        raise ArgumentTypeError(f'"{odd[0]}" is not one of {", ".join(KINDS)}')
    return kinds


def _run_blame(args: Namespace) -> Document[Any]:
    """Find suspects, and with --retrain a proof.

    The suspects are printed before the trainings, which take hours.
    """
    from harness.cause.blame import BlameQuestion, find_suspects
    from harness.cause.proof import MIN_CONTROLS, prove_cause, write_suspects
    from harness.cli.terminal import Terminal

    if args.controls is not None and not args.retrain:
        raise UsageError("--controls is of no use without --retrain; add --retrain")
    terminal = Terminal()
    try:
        asked = BlameQuestion(args.gate, args.rows, args.share, args.by)
        found = find_suspects(args.suite, args.run, asked, replace(parse_run_options(args), listeners=(terminal,)))
        if not args.retrain:
            return Document(found, partial(_print_suspects, terminal), to_data=_convert_suspects)
        terminal.clear_progress()
        _print_suspects(terminal, found)
        proof = prove_cause(found, MIN_CONTROLS if args.controls is None else args.controls)
    finally:
        terminal.clear_progress()
    proven = found, proof, write_suspects(found)
    return Document(proven, partial(_print_proof, terminal), to_data=_convert_proof)


def _convert_suspects(found: Blame) -> dict[str, Any]:
    rows, verdict = found.rows, found.verdict
    about: dict[str, Any] = {"run": str(found.folder), "gate": verdict.gate, "candidate": verdict.candidate}
    about |= {
        "claim": NO_CLAIM,
        "choosing": rows.choosing,
        "confirming": len(rows.confirming),
        "trained": found.trained,
    }
    suspects = {"lost": rows.lost, "suspects": found.suspects, "groups": found.groups}
    return {**about, **to_plain_data(suspects)}


def _convert_proof(proven: tuple[Blame, Proof, Path]) -> dict[str, Any]:
    found, proof, path = proven
    return {**_convert_suspects(found), "proof": to_plain_data(proof), "file": str(path)}


def _print_proof(screen: Screen, proven: tuple[Blame, Proof, Path]) -> None:
    """Print the verdict in one sentence, then every metric and slice.

    The path of the suspects follows.
    """
    from harness.cli.screen import short_path
    from harness.texts.numbers import format_metric

    _, proof, path = proven
    screen.print_line(f"{proof.verdict}: {proof.told}", "bold")
    rows = [["", "before", "without", "controls", "difference"]]
    for one in (proof.effect, *proof.costs):
        controls = [one.from_test_scale(value) for value in one.controls]
        values = [one.from_test_scale(value) for value in (one.before, one.without)]
        spread = f"{format_metric(min(controls))} to {format_metric(max(controls))}"
        rows.append([one.name, *map(format_metric, values), spread, one.format()])
    screen.print_columns(rows)
    for name in proof.unmeasured:
        screen.print_line(f"not measured: {name}, which needs a judge or another model")
    if not proof.reproduced:
        what = "the same training made other weights than in the run, since its data or its libraries have changed"
        screen.print_line(f"note: {what}", "yellow")
    screen.print_line("not every training row was searched: others may have a part in it, too")
    screen.print_line(f"suspects  {short_path(path)}", hang=10)
    screen.print_line('next      [train] drop = "…" leaves them out; that run is a further attempt', hang=10)


def _print_suspects(screen: Screen, found: Blame) -> None:
    """Print the lost rows, the suspects and groups of training rows.

    Only lost rows of the choosing part are shown; the confirming part is not looked at.
    """
    rows = found.rows
    lost = f"{len(rows.lost)} of the {count_noun(rows.choosing, 'row')} that choose"
    screen.print_line(f'gate "{found.verdict.gate}" on {found.verdict.candidate}: {NO_CLAIM}', "bold")
    screen.print_line(f"lost  {lost}; the other {len(rows.confirming)} were not looked at", "bold")
    for row in rows.lost[:SHOWN_ROWS]:
        screen.print_line(f"  {row.id}  {_quote_short_text(row.prompt)}", hang=4)
        screen.print_line(
            f"    answered {_quote_short_text(row.answer)}, wanted {_quote_short_text(row.target)}", hang=4
        )
    screen.print_line(f"suspects  {len(found.suspects)} of {count_noun(found.trained, 'training row')}", "bold")
    for one in found.suspects:
        told = (
            f"{_quote_short_text(one.prompt)} -> {_quote_short_text(one.answer)}"
            if one.prompt
            else _quote_short_text(one.answer)
        )
        screen.print_line(f"  {one.score:.3f}  training row {one.number}, {one.source}  {told}", hang=9)
    screen.print_line("groups  by how far their rows lie above all rows, in standard errors", "bold")
    for group in found.groups[:SHOWN_ROWS]:
        named = f"{group.kind} {_quote_short_text(group.value)}  {count_noun(len(group.numbers), 'row')}"
        screen.print_line(f"  {group.score:5.1f}  {named}", hang=9)


def _quote_short_text(text: str) -> str:
    from harness.evaluation.checks import quote_text

    return quote_text(text, MAX_TEXT_CHARS)
