"""Commands that installed plugins bring: entry points of the group `harness.commands`."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Collection

from harness.cli.options import with_json
from harness.errors import RAISES, UsageError

GROUP = "harness.commands"


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser], own: Collection[str]) -> None:
    """Add a parser for each command that a plugin brings; `own` are the names that are taken.

    An entry point is a function of the command's parser, whose docstring is the help: it adds the arguments, and sets
    `command`, a function of the parsed arguments that returns the exit code, and perhaps `group`, under which the help
    lists it. With --json, which every command has, stdout gets what the function left in `args.document`.
    Raises UsageError where it cannot be
    loaded, or has a name that is taken.
    """
    from importlib.metadata import entry_points  # it brings email and socket, which `harness verify` does without

    taken = set(own)
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        where = f'command "{point.name}" of {point.value}'
        if point.name in taken:
            raise UsageError(f"{where}: there is one of this name; give it another")
        taken.add(point.name)
        try:
            build = point.load()
            help = (inspect.getdoc(build) or "").partition("\n")[0]
            parser = commands.add_parser(point.name, help=help, description=help)
            build(parser)
            with_json(parser, point.name)
        except RAISES as error:
            raise UsageError(f"{where}: cannot be loaded: {type(error).__name__}: {error}") from error
