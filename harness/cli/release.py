"""`harness verify`: whether an export is what passed."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from harness.cli.options import PLUGIN_HELP, command, with_plugins
from harness.cli.streams import say
from harness.errors import ExitCode, UsageError
from harness.parts import part


def _verify(args: argparse.Namespace) -> int:
    """`harness verify DIR`: are these the bytes that passed? Without torch, without network."""
    from harness.release.policy import read_policy
    from harness.release.previous import current
    from harness.release.verify import verify

    if (args.replay is None) != (args.suite is None):
        raise UsageError("--replay asks the rows of a suite: give both --replay N and --suite SUITE, or neither")
    last = None
    with suppress(UsageError):  # a record that cannot be read is told by `harness promote`
        last = current(args.export)
    policy = read_policy(args.policy) if args.policy else None
    found = verify(args.export, policy, recompute=args.recompute, last=last)
    if found.ok and args.replay is not None:
        again = part("replay")(args.export, args.suite, args.replay, args.seed, args.plugins)
        found.notes += again.notes
        found.ok = not again.differs
        if again.differs:
            found.refused = f"replay: {again.differs}"
        else:
            found.steps["replay"] = again.says
    if args.json:
        args.document = asdict(found)
    else:
        for name, told in found.steps.items():
            say(f"{name}: {told}")
        for note in found.notes:
            say(f"note: {note}")
        if found.ok:
            say(f"verified: {found.candidate} of suite {found.suite}, root {found.root}")
    if not found.ok:
        say(f"refused: {args.export}: {found.refused}", sys.stderr)
    return ExitCode.OK if found.ok else ExitCode.REFUSED


def verify(one: argparse.ArgumentParser) -> None:
    """check that an export is what passed, without torch and network"""
    command(
        one,
        _verify,
        "harness verify exports/qa",
        "harness verify exports/qa --policy policy.toml --recompute",
        "harness verify exports/qa --replay 20 --suite suite.toml",
    )
    one.add_argument("export", type=Path, metavar="DIR", help="what an [[export]] wrote")
    one.add_argument("--policy", type=Path, metavar="FILE", help="the keys you trust, and what you demand")
    one.add_argument("--recompute", action="store_true", help="judge again from the rows in it; needs numpy and scipy")
    one.add_argument("--replay", type=int, metavar="N", help="ask the model N random rows again; needs torch")
    one.add_argument("--suite", type=Path, metavar="SUITE", help="for --replay: your copy of the suite that it passed")
    one.add_argument("--seed", type=int, metavar="N", help="for --replay: which rows; drawn anew unless given")
    with_plugins(one, f"for --replay: {PLUGIN_HELP}")
