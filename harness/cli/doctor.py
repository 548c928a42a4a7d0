"""`harness doctor`: the command, whose parser is all that `harness --help` imports."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.cli.options import add_worker_options, set_command
from harness.document import Document
from harness.errors import ExitCode

if TYPE_CHECKING:
    from harness.cli.doctor_report import MachineCheck


def doctor(parser: ArgumentParser) -> None:
    """examine this machine, and report problems that would stop a run"""
    set_command(
        parser, _run_doctor, "harness doctor", "harness doctor --on local:2", "harness doctor --python vllm/bin/python"
    )
    parser.add_argument("--device", default="auto", help='device, as in [model]: "auto", "cpu", "cuda" …')
    parser.add_argument(
        "--python", metavar="PATH", help="examine the environment of this interpreter, as in [model] python"
    )
    add_worker_options(parser)


def _run_doctor(args: Namespace) -> Document[Any]:
    """Examine this machine.

    The exit code is 4 if a run would fail.
    """
    from harness.cli.doctor_report import FAILS, examine_machine

    lines = examine_machine(args.device, args.on, args.python)
    code = ExitCode.USAGE if any(line.state == FAILS for line in lines) else ExitCode.OK
    return Document({"lines": lines}, _print_machine, code)


def _print_machine(report: Mapping[str, Sequence[MachineCheck]]) -> None:
    from harness.cli.doctor_report import FAILS, SIGNS
    from harness.cli.terminal import Terminal

    terminal = Terminal()
    for line in report["lines"]:
        style = "red" if line.state == FAILS else ""
        terminal.print_line(f"{SIGNS[line.state]} {line.name:<13} {line.text}", style, hang=16)
