"""`harness waive`, `keygen`, `sign`, `promote`, `publish`, `schema`, `plugins`, `explain`: light, for the help."""

from __future__ import annotations

import inspect
import json
import re
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.options import PLUGIN_HELP, add_harnessfile_options, add_plugin_option, set_command
from harness.errors import ExitCode, UsageError, did_you_mean
from harness.texts.printing import print_line

if TYPE_CHECKING:
    from harness.plugins import Plugins
    from harness.release.publish import Repository

ORDER = ("evaluator", "adapter", "trainer", "loader", "exporter", "workers", "saboteur", "check")  # of the list


def waive(parser: ArgumentParser) -> None:
    """waive a gate's failure or a check's error until a date"""
    set_command(
        parser,
        _run_waive,
        'harness waive "no forgetting" --reason "ticket 12" --until 2027-01-31',
        'harness waive D10-exact --suite qa.toml --reason "#13" --until 2027-01-31',
    )
    parser.add_argument("gate", metavar="GATE", help="id of a gate; with --suite also the code of a check")
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why its failure is accepted")
    parser.add_argument("--until", required=True, metavar="YYYY-MM-DD", help="last day that the waiver is valid (UTC)")
    parser.add_argument(
        "--suite",
        type=Path,
        metavar="SUITE",
        help="the suite (default: the only one here or in suites/ with this gate)",
    )
    parser.add_argument("--by", metavar="NAME", help="who is responsible (default: you)")
    add_plugin_option(parser, f"for a check: {PLUGIN_HELP}")


def keygen(parser: ArgumentParser) -> None:
    """create a key pair to sign exports"""
    set_command(parser, _run_keygen, "harness keygen keys/release && cat keys/release.pub >> policy.toml")
    parser.add_argument("name", type=Path, metavar="NAME", help="writes NAME.key and NAME.pub")


def sign(parser: ArgumentParser) -> None:
    """sign the claims of an export"""
    set_command(parser, _run_sign, "harness sign exports/qa --key keys/release.key")
    parser.add_argument("export", type=Path, metavar="DIR", help="an export directory")
    parser.add_argument("--key", type=Path, required=True, metavar="FILE", help=".key file of harness keygen")
    unable = "also sign if some gates cannot be recomputed from their rows"
    parser.add_argument("--unrecomputed", action="store_true", help=unable)


def promote(parser: ArgumentParser) -> None:
    """make an export the release that later runs are compared with"""
    examples = ("harness promote exports/qa", "harness promote exports/qa --list", "harness promote exports/qa --back")
    set_command(parser, _run_promote, *examples)
    parser.add_argument("export", type=Path, metavar="DIR", help="an export directory")
    parser.add_argument("--policy", type=Path, metavar="FILE", help="policy file, as for verify")
    help = "evidence of another suite, as for verify"
    parser.add_argument("--with", action="append", default=[], dest="beside", type=Path, metavar="DIR", help=help)
    parser.add_argument("--back", action="store_true", help="go back to the previous release")
    parser.add_argument("--list", action="store_true", help="print the record of promotions")


def publish(parser: ArgumentParser) -> None:
    """verify an export and upload it to the Hugging Face Hub, without the texts of its rows"""
    examples = (
        "harness publish exports/qa team/qa-model",
        "harness publish exports/qa team/qa-model --public --yes",
        "harness publish exports/qa team/qa-model --to upload",
    )
    set_command(parser, _run_publish, *examples)
    parser.add_argument("export", type=Path, metavar="EXPORT", help="an export directory")
    parser.add_argument("repo", metavar="OWNER/NAME", help="a model repository; made if it does not exist")
    parser.add_argument("--public", action="store_true", help="publish to a public repository (default: private)")
    parser.add_argument("--yes", action="store_true", help="upload without asking")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="write what would be uploaded, and upload nothing")


def schema(parser: ArgumentParser) -> None:
    """print the JSON Schema of a suite, for editors, or of an output file"""
    examples = (
        "harness schema suite.toml > suite.schema.json",
        "harness schema --of report > report.schema.json",
    )
    set_command(parser, _run_schema, *examples)
    parser.add_argument("suite", type=Path, nargs="?", metavar="SUITE", help="suite whose harnessfile to load")
    files = "report, event, sample, lock, manifest, gates, item, claim or attempt"
    parser.add_argument("--of", metavar="FILE", help=f"schema of a file that a run or an export writes: {files}")
    add_plugin_option(parser)


def plugins(parser: ArgumentParser) -> None:
    """list the values of `use =` and their options"""
    examples = (
        "harness plugins                      # everything, in short",
        "harness plugins multiple_choice      # an evaluator: its options and metrics",
        "harness plugins train                # the keys of [train]",
    )
    set_command(parser, _run_plugins, *examples)
    parser.add_argument("name", nargs="?", metavar="NAME", help="only this plugin, name or table of a suite")
    add_harnessfile_options(parser)


def explain(parser: ArgumentParser) -> None:
    """explain a check; without a code, list all checks"""
    set_command(parser, _run_explain, "harness explain", "harness explain d10", "harness explain train-test-leak")
    parser.add_argument(
        "code", nargs="?", metavar="CODE", help="code or title of a check, as printed with its findings"
    )
    add_harnessfile_options(parser)


def _run_waive(args: Namespace) -> int:
    from harness.suite.waiving import append_waiver as add

    path, made = add(args.gate, args.reason, args.until, args.suite, args.by, args.plugins)
    args.document = {"path": str(path), "waiver": asdict(made)}
    print_line(f'{path}: "{made.gate}" ({made.claim}) {made.summary()}')
    return ExitCode.OK


def _run_keygen(args: Namespace) -> int:
    from harness.release.signing import generate_key

    private, public = generate_key(args.name)
    print_line(str(private))
    print_line(str(public))
    args.document = {"private": str(private), "public": str(public)}
    print_line(f"keep {private} where only the signing step can read it; add {public} to the policy", sys.stderr)
    return ExitCode.OK


def _run_sign(args: Namespace) -> int:
    from harness.release.signing import sign_export

    key, root = sign_export(args.export, args.key, unrecomputed=args.unrecomputed)
    args.document = {"export": str(args.export), "root": root, "key": key}
    print_line(f"signed {args.export}, root {root}, with key {key}")
    return ExitCode.OK


def _run_promote(args: Namespace) -> int:
    from harness.release.policy import read_policy
    from harness.release.promote import promote_export, roll_back
    from harness.release.releases import promotion_history

    if args.list:
        lines = promotion_history(args.export)
        args.document = {"promotions": [asdict(line) for line in lines]}
        if not lines:
            print_line(
                f"{args.export}: nothing was promoted yet; make it the release with harness promote {args.export}"
            )
        for line in lines:
            what = "back to" if line.back else "promoted"
            print_line(f"{line.at}  {what} {line.root[:16]}  {line.candidate} of suite {line.suite}  by {line.by}")
        return ExitCode.OK
    policy = read_policy(args.policy) if args.policy else None
    found, folder, changes = (roll_back if args.back else promote_export)(args.export, policy, args.beside)
    args.document = {**asdict(found), "kept": str(folder) if found.ok else None, "changes": changes}
    if not found.ok:
        print_line(f"refused: {found.folder}: {found.refused}", sys.stderr)
        return ExitCode.REFUSED
    print_line(f"released: {found.candidate} of suite {found.suite}, root {found.root}, kept in {folder}")
    for changed in changes:
        print_line(changed)
    return ExitCode.OK


def _run_publish(args: Namespace) -> int:
    from harness.release.publish import HubUnavailableError, stage_repository, upload_repository, write_upload
    from harness.release.verify import verify_export

    found = verify_export(args.export)
    if not found.ok:
        args.document = asdict(found)
        print_line(f"refused: {args.export}: {found.refused}", sys.stderr)
        return ExitCode.REFUSED
    if args.to:
        write_upload(found, args.repo, args.to)
        where = str(args.to)
    else:
        try:
            with stage_repository(found, args.repo, public=args.public) as staged:
                if not _confirm_upload(args, staged):
                    print_line("nothing was uploaded", sys.stderr)
                    return ExitCode.OK
                where = upload_repository(staged, found.root, public=args.public)
        except HubUnavailableError as error:
            print_line(f"error: {error}", sys.stderr)
            return ExitCode.UNAVAILABLE
    args.document = {**asdict(found), "published": where}
    print_line(f"{'written' if args.to else 'published'}: {where}, root {found.root}")
    print_line("short answers can be guessed from their digests in evidence/items.jsonl", sys.stderr)
    return ExitCode.OK


def _confirm_upload(args: Namespace, staged: Repository) -> bool:
    """List the files of an upload and return whether the user agrees. Raises UsageError if nobody can be asked."""
    from harness.texts.counts import count_noun

    for name, size in staged.files.items():
        print_line(f"{size:>14,}  {name}", sys.stderr)
    for name in staged.removed:
        print_line(f"{'removed':>14}  {name}", sys.stderr)
    kind = "a public" if args.public else "a private"
    what = f"{count_noun(len(staged.files), 'file')}, {staged.size / 1e6:,.1f} MB, to {kind} repository {staged.name}"
    if args.yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError(f"publishing {what} needs a confirmation, and there is no terminal; add --yes")
    print_line(f"upload {what}? [y/N]", sys.stderr)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _run_schema(args: Namespace) -> int:
    if args.of:
        from harness.release.file_schemas import file_schemas

        known = file_schemas()
        if args.of not in known:
            raise UsageError(f'--of "{args.of}": is not a kind of file{did_you_mean(args.of, known)}')
        made = known[args.of]
    else:
        from harness.suite.json_schema import suite_schema

        made = suite_schema(_load_plugins(args))
    args.document = {"schema": made}
    if not args.json:
        print(json.dumps(made, indent=1, ensure_ascii=False))
    return ExitCode.OK


def _load_plugins(args: Namespace) -> Plugins:
    """Load plugins and the harnessfile beside a suite, or here. Raises UsageError where neither of the two is there."""
    from harness.files import HARNESSFILE
    from harness.plugins import load_plugins

    suite = args.suite or Path("harness.toml")
    if args.suite and not (suite.is_file() or suite.with_name(HARNESSFILE).is_file()):
        raise UsageError(f'"{suite}" is not a suite; name a suite\'s .toml file')
    return load_plugins(suite, args.plugins)


def _run_plugins(args: Namespace) -> int:
    from harness.cli.catalogue import catalogue_data, catalogue_lines
    from harness.suite.json_schema import TABLES, table_keys

    found = _load_plugins(args)
    chosen = [p for p in found.provided.values() if args.name in (None, p.name, p.plugin)]
    numbered = {p: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", p.name)] for p in chosen}
    chosen.sort(key=lambda p: (ORDER.index(p.kind), numbered[p]))
    tables = {table: table_keys(cls) for table, cls in TABLES.items() if args.name in (None, table)}
    if not chosen and not tables:
        names = {*TABLES, *(p.name for p in found.provided.values())}
        hint = did_you_mean(args.name, names) or "; see harness plugins"
        raise UsageError(f'no plugin provides "{args.name}", and no table has this name{hint}')
    args.document = catalogue_data(chosen, found, tables, whole=args.name is None)
    for line in catalogue_lines(args.document, whole=args.name is None):
        print_line(line)
    return ExitCode.OK


def _run_explain(args: Namespace) -> int:
    from harness.evaluation.checks import BUILD, check_title
    from harness.texts.wrapping import join_paragraphs

    found = {n: p for (kind, n), p in _load_plugins(args).provided.items() if kind == "check"}
    texts = {"build": BUILD} | {name: inspect.getdoc(p.function) or "" for name, p in found.items()}
    titles = {name: title for name, p in found.items() if (title := check_title(p))}
    names = [*texts]
    if args.code is not None:  # by its code, its title, or both as a finding has them
        codes = {word.lower(): name for name in texts for word in (name, titles.get(name, name))}
        words = args.code.lower().split() or [""]
        asked = (" ".join(words), words[0], words[-1], words[0].partition("-")[0])
        if not (names := [codes[word] for word in asked if word in codes][:1]):
            hint = did_you_mean(args.code, [*texts, *titles.values()]) or "; see harness explain"
            raise UsageError(f'there is no check "{args.code}"{hint}')
    args.document = {"checks": [{"code": n, "title": titles.get(n, ""), "text": texts[n]} for n in names]}
    for name in names:
        if args.code is None:
            title = f"{titles[name]}: " if name in titles else ""
            print_line(f"{name:<6} {title}{texts[name].partition(chr(10))[0]}")
        else:
            title = f" {titles[name]}" if name in titles else ""
            for line in join_paragraphs(f"{name}{title}: {texts[name]}"):
                print_line(line)
    return ExitCode.OK
