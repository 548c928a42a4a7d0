"""`harness doctor`: the command, whose parser is all that `harness --help` imports."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from harness.cli.options import add_worker_options, set_command
from harness.errors import ExitCode


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


def _run_doctor(args: Namespace) -> int:
    """Print the checks of this machine.

    Returns exit code 4 if a run would fail.
    """
    from harness.cli.doctor_report import FAILS, SIGNS, examine_machine
    from harness.cli.terminal import Terminal

    found, terminal = examine_machine(args.device, args.on, args.python), Terminal()
    for line in found:
        terminal.print_line(
            f"{SIGNS[line.state]} {line.name:<13} {line.text}", "red" if line.state == FAILS else "", hang=16
        )
    args.document = {"lines": [asdict(line) for line in found]}
    return ExitCode.USAGE if any(line.state == FAILS for line in found) else ExitCode.OK
