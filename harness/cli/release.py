"""`harness waive`, `keygen`, `sign`, `promote`, `schema`, `plugins` and `explain`; light, for the help imports it."""

from __future__ import annotations

import inspect
import json
import re
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.options import PLUGIN_HELP, command, with_harnessfile, with_plugins
from harness.errors import ExitCode, UsageError, did_you_mean
from harness.texts.printing import say

if TYPE_CHECKING:
    from harness.plugins import Plugins

ORDER = ("evaluator", "adapter", "trainer", "loader", "exporter", "workers", "saboteur", "check")  # of the list


def waive(parser: ArgumentParser) -> None:
    """let a gate be broken, or a check's error be ignored, until a date, in writing"""
    command(
        parser,
        _waive,
        'harness waive "no forgetting" --reason "known rows, ticket 12" --until 2027-01-31',
        'harness waive D10-exact --suite suite.toml --reason "asked in both on purpose" --until 2027-01-31',
    )
    parser.add_argument("gate", metavar="GATE", help="the id of a gate; with --suite also the code of a check")
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why it may be broken or ignored")
    parser.add_argument("--until", required=True, metavar="YYYY-MM-DD", help="the last day it counts, UTC")
    parser.add_argument(
        "--suite", type=Path, metavar="SUITE", help="unless only one here or in suites/ has such a gate"
    )
    parser.add_argument("--by", metavar="NAME", help="who answers for it; you, unless you say")
    with_plugins(parser, f"for a check: {PLUGIN_HELP}")


def keygen(parser: ArgumentParser) -> None:
    """write a key to sign exports, and its public half"""
    command(parser, _keygen, "harness keygen keys/release && cat keys/release.pub >> policy.toml")
    parser.add_argument("name", type=Path, metavar="NAME", help="NAME.key and NAME.pub are written")


def sign(parser: ArgumentParser) -> None:
    """sign what an export claims"""
    command(parser, _sign, "harness sign exports/qa --key keys/release.key")
    parser.add_argument("export", type=Path, metavar="DIR")
    parser.add_argument("--key", type=Path, required=True, metavar="FILE", help="the .key file of harness keygen")
    unable = "sign gates that cannot be judged again from their rows, on their producer's word"
    parser.add_argument("--unrecomputed", action="store_true", help=unable)


def promote(parser: ArgumentParser) -> None:
    """make an export the release that next runs are compared with"""
    examples = ("harness promote exports/qa", "harness promote exports/qa --list", "harness promote exports/qa --back")
    command(parser, _promote, *examples)
    parser.add_argument("export", type=Path, metavar="DIR")
    parser.add_argument("--policy", type=Path, metavar="FILE", help="as for verify")
    help = "evidence of another suite, as for verify"
    parser.add_argument("--with", action="append", default=[], dest="beside", type=Path, metavar="DIR", help=help)
    parser.add_argument("--back", action="store_true", help="to the release before")
    parser.add_argument("--list", action="store_true", help="print the record of promotions")


def schema(parser: ArgumentParser) -> None:
    """print the JSON Schema of a suite, for editors, or of what is written"""
    examples = (
        "harness schema suite.toml > suite.schema.json   # and in it: #:schema suite.schema.json",
        "harness schema --of report > report.schema.json",
    )
    command(parser, _schema, *examples)
    parser.add_argument("suite", type=Path, nargs="?", metavar="SUITE", help="with the harnessfile beside it")
    files = "report, event, sample, lock, manifest, gates, item, claim or attempt"
    parser.add_argument("--of", metavar="FILE", help=f"of a file that a run or an export writes: {files}")
    with_plugins(parser)


def plugins(parser: ArgumentParser) -> None:
    """list what may stand after `use =`, and the options of each"""
    examples = (
        "harness plugins                      # everything, in short",
        "harness plugins multiple_choice      # one evaluator: what it reads, its options and metrics",
        "harness plugins train                # the keys of [train]",
    )
    command(parser, _plugins, *examples)
    parser.add_argument("name", nargs="?", metavar="NAME", help="only what this plugin, name or table of a suite has")
    with_harnessfile(parser)


def explain(parser: ArgumentParser) -> None:
    """say why a check is there; without a code, list all"""
    command(parser, _explain, "harness explain", "harness explain d10", "harness explain train-test-leak")
    parser.add_argument("code", nargs="?", metavar="CODE", help="a code or a title, as a finding names them")
    with_harnessfile(parser)


def _waive(args: Namespace) -> int:
    from harness.suite.waiving import waive as add

    path, made = add(args.gate, args.reason, args.until, args.suite, args.by, args.plugins)
    args.document = {"path": str(path), "waiver": asdict(made)}
    say(f'{path}: "{made.gate}" ({made.claim}) {made.says()}')
    return ExitCode.OK


def _keygen(args: Namespace) -> int:
    from harness.release.signing import keygen

    private, public = keygen(args.name)
    say(str(private))
    say(str(public))
    args.document = {"private": str(private), "public": str(public)}
    say(f"keep {private} where only the signing step can read it; add {public} to the policy", sys.stderr)
    return ExitCode.OK


def _sign(args: Namespace) -> int:
    from harness.release.signing import sign

    key, root = sign(args.export, args.key, unrecomputed=args.unrecomputed)
    args.document = {"export": str(args.export), "root": root, "key": key}
    say(f"signed {args.export}, root {root}, with key {key}")
    return ExitCode.OK


def _promote(args: Namespace) -> int:
    from harness.release.policy import read_policy
    from harness.release.previous import history
    from harness.release.promote import go_back, promote

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
    found, folder, changes = (go_back if args.back else promote)(args.export, policy, args.beside)
    args.document = {**asdict(found), "kept": str(folder) if found.ok else None, "changes": changes}
    if not found.ok:
        say(f"refused: {found.folder}: {found.refused}", sys.stderr)
        return ExitCode.REFUSED
    say(f"released: {found.candidate} of suite {found.suite}, root {found.root}, kept in {folder}")
    for changed in changes:
        say(changed)
    return ExitCode.OK


def _schema(args: Namespace) -> int:
    if args.of:
        from harness.release.file_schemas import file_schemas

        known = file_schemas()
        if args.of not in known:
            raise UsageError(f'--of "{args.of}": no file is called so{did_you_mean(args.of, known)}')
        made = known[args.of]
    else:
        from harness.suite.json_schema import json_schema

        made = json_schema(_loaded(args))
    args.document = {"schema": made}
    if not args.json:
        print(json.dumps(made, indent=1, ensure_ascii=False))
    return ExitCode.OK


def _loaded(args: Namespace) -> Plugins:
    """Load plugins and the harnessfile beside a suite, or here. Raises UsageError where neither of the two is there."""
    from harness.files import HARNESSFILE
    from harness.plugins import load_plugins

    suite = args.suite or Path("harness.toml")
    if args.suite and not (suite.is_file() or suite.with_name(HARNESSFILE).is_file()):
        raise UsageError(f'"{suite}" is no suite, whose harnessfile could be read')
    return load_plugins(suite, args.plugins)


def _plugins(args: Namespace) -> int:
    from harness.cli.catalogue import as_data, described
    from harness.suite.json_schema import TABLES, keys_of

    found = _loaded(args)
    chosen = [p for p in found.provided.values() if args.name in (None, p.name, p.plugin)]
    numbered = {p: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", p.name)] for p in chosen}
    chosen.sort(key=lambda p: (ORDER.index(p.kind), numbered[p]))
    tables = {table: keys_of(cls) for table, cls in TABLES.items() if args.name in (None, table)}
    if not chosen and not tables:
        names = {*TABLES, *(p.name for p in found.provided.values())}
        hint = did_you_mean(args.name, names) or "; see harness plugins"
        raise UsageError(f'no plugin provides "{args.name}", and no table is called so{hint}')
    args.document = as_data(chosen, found, tables, whole=args.name is None)
    for line in described(args.document, whole=args.name is None):
        say(line)
    return ExitCode.OK


def _explain(args: Namespace) -> int:
    from harness.evaluation.checks import BUILD, title_of
    from harness.texts.wrapping import paragraphs

    found = {n: p for (kind, n), p in _loaded(args).provided.items() if kind == "check"}
    texts = {"build": BUILD} | {name: inspect.getdoc(p.function) or "" for name, p in found.items()}
    titles = {name: title for name, p in found.items() if (title := title_of(p))}
    names = [*texts]
    if args.code is not None:  # by its code, its title, or both as a finding has them
        codes = {word.lower(): name for name in texts for word in (name, titles.get(name, name))}
        words = args.code.lower().split() or [""]
        asked = (" ".join(words), words[0], words[-1], words[0].partition("-")[0])
        if not (names := [codes[word] for word in asked if word in codes][:1]):
            hint = did_you_mean(args.code, [*texts, *titles.values()]) or "; see harness explain"
            raise UsageError(f'no check "{args.code}"{hint}')
    args.document = {"checks": [{"code": n, "title": titles.get(n, ""), "text": texts[n]} for n in names]}
    for name in names:
        if args.code is None:
            title = f"{titles[name]}: " if name in titles else ""
            say(f"{name:<6} {title}{texts[name].partition(chr(10))[0]}")
        else:
            title = f" {titles[name]}" if name in titles else ""
            for line in paragraphs(f"{name}{title}: {texts[name]}"):
                say(line)
    return ExitCode.OK
