"""The parser of the whole command line, in the order in which `harness --help` lists the commands."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from harness import __version__
from harness.cli import ahead, cache, project, release, run
from harness.cli.brought import add_commands
from harness.cli.options import Parser

EPILOG = (
    "exit codes: 0 every blocking gate passed or is waived, 1 a gate failed, 2 interrupted, "
    "3 a bug of ours, 4 a mistake in suite, data or command, 5 nothing was gated, "
    "6 inconclusive or not evaluated, 7 refused"
)
COMMANDS = (
    *(run.run_parser, ahead.plan_parser, ahead.check_parser, project.explain_parser, project.plugins_parser),
    *(run.show_parser, project.waive_parser, ahead.selftest_parser, project.init_parser, cache.cache_parser),
    *(release.verify_parser, release.keygen_parser, release.sign_parser, release.promote_parser),
)


def parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of a command line; what it makes of words has the function of its command as `command`.

    Commands that plugins bring are looked for where the first word is none of ours.
    """
    made: argparse.ArgumentParser = Parser(
        prog="harness", description="Decide whether a fine-tuned language model may ship.", epilog=EPILOG
    )
    made.add_argument("--version", action="version", version=f"harness {__version__}")
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    if not (words and words[0] in commands.choices):
        add_commands(commands, commands.choices)
    return made
