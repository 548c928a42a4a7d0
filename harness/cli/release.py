"""Commands about what ships: `harness verify`, `harness keygen`, `harness sign` and `harness promote`."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import suppress
from pathlib import Path

from harness.cli.options import PLUGIN_HELP, Commands, command, with_plugins
from harness.cli.streams import say
from harness.errors import ExitCode, UsageError


def verify(args: argparse.Namespace) -> int:
    """`harness verify DIR`: are these the bytes that passed? Without torch, without network."""
    from harness.release.policy import read_policy
    from harness.release.promote import current
    from harness.release.verify import verify

    if (args.replay is None) != (args.suite is None):
        raise UsageError("--replay asks the rows of a suite: give both --replay N and --suite SUITE, or neither")
    last = None
    with suppress(UsageError):  # a record that cannot be read is told by `harness promote`
        last = current(args.export)
    policy = read_policy(args.policy) if args.policy else None
    found = verify(args.export, policy, recompute=args.recompute, last=last)
    if found.ok and args.replay is not None:
        from harness.replay import replay

        again = replay(args.export, args.suite, args.replay, args.seed, args.p)
        found.notes += again.notes
        found.ok = not again.differs
        if again.differs:
            found.refused = f"replay: {again.differs}"
        else:
            found.steps["replay"] = again.says
    if args.json:
        args.document = json.loads(found.as_json())
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


def keygen(args: argparse.Namespace) -> int:
    """`harness keygen NAME`: a key to sign with, and the table of it for a policy."""
    from harness.release.signing import keygen

    private, public = keygen(args.name)
    say(str(private))
    say(str(public))
    args.document = {"private": str(private), "public": str(public)}
    say(f"keep {private} where only the signing step can read it; add {public} to the policy", sys.stderr)
    return ExitCode.OK


def sign(args: argparse.Namespace) -> int:
    """`harness sign DIR --key FILE`: put a name to what an export claims."""
    from harness.release.signing import sign

    key = sign(args.export, args.key)
    args.document = {"export": str(args.export), "key": key}
    say(f"signed {args.export} with key {key}")
    return ExitCode.OK


def promote(args: argparse.Namespace) -> int:
    """`harness promote DIR`: make an export the release that the next ones are compared with, or go back by one."""
    from dataclasses import asdict

    from harness.release.policy import read_policy
    from harness.release.promote import go_back, history, promote

    if args.list:
        lines = history(args.export)
        args.document = {"promotions": [asdict(line) for line in lines]}
        if not lines:
            say(f"{args.export}: nothing was promoted yet; harness promote {args.export} makes it the release")
        for line in lines:
            what = "back to" if line.back else "promoted"
            say(f"{line.at}  {what} {line.root[:16]}  {line.candidate} of suite {line.suite}  by {line.by}")
        return ExitCode.OK
    policy = read_policy(args.policy) if args.policy else None
    found, folder = (go_back if args.back else promote)(args.export, policy)
    args.document = {**json.loads(found.as_json()), "kept": str(folder) if found.ok else None}
    if not found.ok:
        say(f"refused: {found.folder}: {found.refused}", sys.stderr)
        return ExitCode.REFUSED
    say(f"released: {found.candidate} of suite {found.suite}, root {found.root}, kept in {folder}")
    return ExitCode.OK


def verify_parser(commands: Commands) -> None:
    """Add `harness verify`."""
    examples = (
        "harness verify exports/qa",
        "harness verify exports/qa --policy policy.toml --recompute",
        "harness verify exports/qa --replay 20 --suite suite.toml",
    )
    one = command(
        commands, "verify", verify, "check that an export is what passed, without torch and network", *examples
    )
    one.add_argument("export", type=Path, metavar="DIR", help="what an [[export]] wrote")
    one.add_argument("--policy", type=Path, metavar="FILE", help="the keys you trust, and what you demand")
    one.add_argument("--recompute", action="store_true", help="judge again from the rows in it; needs numpy and scipy")
    one.add_argument("--replay", type=int, metavar="N", help="ask the model N random rows again; needs torch")
    one.add_argument("--suite", type=Path, metavar="SUITE", help="for --replay: your copy of the suite that it passed")
    one.add_argument("--seed", type=int, metavar="N", help="for --replay: which rows; drawn anew unless given")
    with_plugins(one, f"for --replay: {PLUGIN_HELP}")


def keygen_parser(commands: Commands) -> None:
    """Add `harness keygen`."""
    examples = ("harness keygen keys/release && cat keys/release.pub >> policy.toml",)
    one = command(commands, "keygen", keygen, "write a key to sign exports, and its public half", *examples)
    one.add_argument("name", type=Path, metavar="NAME", help="NAME.key and NAME.pub are written")


def sign_parser(commands: Commands) -> None:
    """Add `harness sign`."""
    one = command(
        commands, "sign", sign, "sign what an export claims", "harness sign exports/qa --key keys/release.key"
    )
    one.add_argument("export", type=Path, metavar="DIR")
    one.add_argument("--key", type=Path, required=True, metavar="FILE", help="the .key file of harness keygen")


def promote_parser(commands: Commands) -> None:
    """Add `harness promote`."""
    examples = ("harness promote exports/qa", "harness promote exports/qa --list", "harness promote exports/qa --back")
    one = command(
        commands, "promote", promote, "make an export the release that next runs are compared with", *examples
    )
    one.add_argument("export", type=Path, metavar="DIR")
    one.add_argument("--policy", type=Path, metavar="FILE", help="as for verify")
    one.add_argument("--back", action="store_true", help="to the release before")
    one.add_argument("--list", action="store_true", help="print the record of promotions")
