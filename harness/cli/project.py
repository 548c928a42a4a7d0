"""Commands about a project and what it ships: `harness init`, `waive` and `verify`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.options import PLUGIN_HELP, command, with_plugins
from harness.cli.streams import say
from harness.errors import ExitCode, UsageError
from harness.parts import part

if TYPE_CHECKING:
    from harness.release.policy import Policy

STRICT = Path("strict")  # the policy of this name is the harness's own; a file called so is ./strict
EXAMPLES = Path(__file__).parent / "examples"  # a folder a task, of files that are written as they lie there
ROWS, SCHEMA = ("data/train.jsonl", "data/test.jsonl"), "suite.schema.json"
TASKS = {  # each runs and passes as it is, on a model that it builds; what a folder lacks is that of qa
    "classify": ("suite.toml", "data/train.csv", "data/test.csv"),
    "qa": ("suite.toml", "harnessfile.py", *ROWS),
    "chat": ("suite.toml", *ROWS),
    "tools": ("suite.toml", *ROWS),
    "preference": ("suite.toml", *ROWS),
    "candidate": ("suite.toml", "train.toml", *ROWS),
}


def _init(args: argparse.Namespace) -> int:
    """Write a suite that runs and passes, for a task or on a table, and the suites' JSON Schema, which editors read."""
    from harness.files import write_text
    from harness.plugins import load_plugins

    table = part("init_table")
    task, of_data = args.task or "qa", [f"--{name}" for name in table.OPTIONS if getattr(args, name) is not None]
    if args.data and args.task:
        raise UsageError("--task brings rows of its own, and --data names yours; give one of them")
    if of_data and not args.data:
        raise UsageError(f"{of_data[0]}: is about a table, which --data FILE names")
    suite, folder = args.folder / "suite.toml", shlex.quote(str(args.folder))
    for name in (*(table.FILES if args.data else TASKS[task]), SCHEMA):
        if (args.folder / name).exists():
            raise UsageError(f"{args.folder / name}: is there already; choose an empty folder")
    if args.data:
        files, told = table.files_of(args)
        commands = [f"harness {word} {shlex.quote(str(suite))}" for word in ("check", "plan", "run")]
    else:
        owns = {name: EXAMPLES / task / name for name in TASKS[task]}
        files = {n: (own if own.exists() else EXAMPLES / "qa" / n).read_text("utf-8") for n, own in owns.items()}
        told, commands = {}, [f"harness run {shlex.quote(str(suite))}"]
        if len(suites := suites_of(task)) > 1:  # which find each other in their folder
            commands = [f"cd {folder}"] * (args.folder != Path()) + [f"harness run {name}" for name in suites]
    for name, text in files.items():
        write_text(args.folder / name, text)
    made = part("suite_schema")(load_plugins(suite))  # with the plugins of a harnessfile that is among them
    files[SCHEMA] = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
    write_text(args.folder / SCHEMA, files[SCHEMA])
    print(*(args.folder / name for name in files), sep="\n")
    args.document = {"written": [str(args.folder / name) for name in files], **told}
    print(f"next: {' && '.join(commands)}", file=sys.stderr)
    return ExitCode.OK


def suites_of(task: str) -> list[str]:
    """Return the suites of a task in the order in which they are run."""
    return [name for name in ("train.toml", "suite.toml") if name in TASKS[task]]


def _waive(args: argparse.Namespace) -> int:
    from harness.suite.waivers import waive as add

    path, made = add(args.gate, args.reason, args.until, args.suite, args.by, args.plugins)
    args.document = {"path": str(path), "waiver": asdict(made)}
    say(f'{path}: "{made.gate}" ({made.claim}) {made.says()}')
    return ExitCode.OK


def init(one: argparse.ArgumentParser) -> None:
    """write a suite on your table, or with example data, that runs"""
    command(
        one,
        _init,
        "harness init mine && harness run mine/suite.toml",
        "harness init --task chat mine",
        "harness init mine --data mood.csv --input message --label mood",
    )
    one.add_argument("--task", choices=TASKS, help="what the model is to do with example data, by default qa")
    one.add_argument("--data", metavar="FILE", help="your rows: .csv, .tsv, .json, .jsonl or .parquet, cut in three")
    one.add_argument("--input", metavar="COLUMN", help="of --data: what is asked; found where it is clear")
    one.add_argument("--label", metavar="COLUMN", help="of --data: the label or answer that is wanted; likewise")
    one.add_argument("--group", metavar="COLUMN", help="of --data: whose rows stay together, as of a user; likewise")
    one.add_argument("--separator", metavar="CHARACTER", help="of --data: what parts its columns; likewise")
    one.add_argument("--encoding", metavar="NAME", help="of --data: such as utf-16 or cp1252; likewise")
    one.add_argument("--model", metavar="PATH", help="of --data: the base, as in [model]; by default SmolLM2-135M")
    one.add_argument("folder", type=Path, nargs="?", default=Path(), metavar="FOLDER")


def waive(one: argparse.ArgumentParser) -> None:
    """let a gate be broken, or a check's error be ignored, until a date, in writing"""
    command(
        one,
        _waive,
        'harness waive "no forgetting" --reason "known rows, ticket 12" --until 2027-01-31',
        'harness waive D10-exact --suite suite.toml --reason "asked in both on purpose" --until 2027-01-31',
    )
    one.add_argument("gate", metavar="GATE", help="the id of a gate; with --suite also the code of a check")
    one.add_argument("--reason", required=True, metavar="TEXT", help="why it may be broken or ignored")
    one.add_argument("--until", required=True, metavar="YYYY-MM-DD", help="the last day it counts, UTC")
    one.add_argument("--suite", type=Path, metavar="SUITE", help="unless only one here or in suites/ has such a gate")
    one.add_argument("--by", metavar="NAME", help="who answers for it; you, unless you say")
    with_plugins(one, f"for a check: {PLUGIN_HELP}")


def _verify(args: argparse.Namespace) -> int:
    from harness.release.previous import current
    from harness.release.signatures import ExportRefused
    from harness.release.verify import verify

    if (args.export / "items.jsonl").is_file() or args.sources:  # what `harness gate` left, and no export
        return int(part("rows_bundle")(args.export, args, _policy(args)[0]))
    if args.replay is not None and args.suite is None:
        raise UsageError("--replay asks the rows of a suite; name it, --suite SUITE")
    if args.told_as and args.json:
        raise UsageError("--as prints a document of its own; leave out --json")
    if args.sign_with and not args.told_as:
        raise UsageError("--sign-with signs what --as prints; give --as too, or harness sign to sign the export")
    write = part("attest")(args.told_as, args.policy, args.sign_with) if args.told_as else None
    last = None
    with suppress(UsageError):  # a record that cannot be read is told by `harness promote`
        last = current(args.export)
    copy = args.suite if args.replay is None else None  # a replay compares what it asks
    policy, demands = _policy(args)
    found = verify(
        args.export, policy, recompute=args.recompute, last=last, beside=args.beside, suite=copy, served=args.served
    )
    if found.ok and args.replay is not None:
        again = part("replay")(args.export, args.suite, args.replay, args.seed, args.plugins)
        found.notes += again.notes
        found.ok = not again.differs
        if again.differs:
            found.refused = f"replay: {again.differs}"
        else:
            found.steps["replay"] = again.says
    if found.ok and args.summary:
        try:
            found.steps["summary"] = part("summary")(args.summary, found, policy)
        except ExportRefused as error:
            found.ok, found.refused = False, f"summary: {error}"
    document = write(found) if write else ""
    where = sys.stderr if write else None
    if args.json:
        args.document = asdict(found)
    else:
        told = [("demands", line) for line in demands] + [("not looked at", line) for line in found.overlooked]
        told += [*found.steps.items(), *(("note", line) for line in found.notes)]
        for name, line in told:
            say(f"{name}: {line}", where)
        if found.ok:
            say(f"verified: {found.candidate} of suite {found.suite}, root {found.root}", where)
    print(document, end="")
    if not found.ok:
        say(f"refused: {args.export}: {found.refused}", sys.stderr)
    return ExitCode.OK if found.ok else ExitCode.REFUSED


def _policy(args: argparse.Namespace) -> tuple[Policy | None, list[str]]:
    """Return what is demanded, and the lines of it where no file says so."""
    from harness.release import policy

    if args.policy != STRICT:
        if args.key is not None:
            raise UsageError("--key goes with --policy strict; a policy of your own has its keys as [[key]]")
        return policy.read_policy(args.policy) if args.policy else None, []
    if args.key is None:
        raise UsageError("--policy strict trusts the key that you name: --key FILE, the .pub file of harness keygen")
    return policy.read_policy(args.key, strict=True), policy.STRICT.splitlines()


def verify(one: argparse.ArgumentParser) -> None:
    """check that an export is what passed, without torch and network"""
    command(
        one,
        _verify,
        "harness verify exports/qa",
        "harness verify exports/qa --policy strict --key release.pub",
        "harness verify exports/qa --policy policy.toml --suite suite.toml",
        "harness verify exports/qa --replay 20 --suite suite.toml",
        "harness verify exports/qa --policy policy.toml --as vsa --sign-with keys/deploy.key > qa.vsa.json",
        "harness verify reports/gate-…/gate --recompute",
    )
    one.add_argument("export", type=Path, metavar="DIR", help="what an [[export]] wrote")
    one.add_argument("--policy", type=Path, metavar="FILE", help='the keys you trust, and what you demand, or "strict"')
    one.add_argument("--key", type=Path, metavar="FILE", help="for --policy strict: the .pub file of the key you trust")
    help = "evidence of another suite about the same model, for a policy with all_of"
    one.add_argument("--with", action="append", default=[], dest="beside", type=Path, metavar="DIR", help=help)
    one.add_argument("--recompute", action="store_true", help="decide again from the rows in it; needs numpy and scipy")
    of_rows = "of rows that others scored: read these files again; BASE CANDIDATE"
    one.add_argument("--sources", nargs="+", metavar="PATH", help=of_rows)
    one.add_argument("--replay", type=int, metavar="N", help="ask the model N random rows again; needs torch")
    yours = "your copy of the suite: lock and rows are compared with it"
    one.add_argument("--suite", type=Path, metavar="SUITE", help=yours)
    one.add_argument("--seed", type=int, metavar="N", help="for --replay: which rows; drawn anew unless given")
    with_plugins(one, f"for --replay: {PLUGIN_HELP}")
    formats = "print what was found as vsa (a SLSA summary), cyclonedx (a bill of materials) or model-signing"
    one.add_argument("--as", dest="told_as", metavar="FORMAT", help=formats)
    one.add_argument("--sign-with", type=Path, metavar="FILE", help="for --as: your private key, of which it is signed")
    served = "that harness parity --write wrote: what answers is this export"
    one.add_argument("--served", type=Path, metavar="FILE", help=served)
    one.add_argument("--summary", type=Path, metavar="FILE", help="that another printed --as vsa, of this very model")
