"""`harness waive`, `keygen`, `sign`, `promote`, `publish`, `schema`, `plugins`, `explain`: light, for the help."""

from __future__ import annotations

import inspect
import json
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.options import PLUGIN_HELP, add_harnessfile_options, add_plugin_option, set_command
from harness.document import Document, print_nothing, to_plain_data
from harness.errors import ExitCode, UsageError, did_you_mean
from harness.texts.printing import print_line

if TYPE_CHECKING:
    from harness.plugins import Plugins
    from harness.records.waivers import Waiver
    from harness.release.publish import Repository
    from harness.release.releases import Promotion
    from harness.release.verified import VerifiedExport

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


def _run_waive(args: Namespace) -> Document[Any]:
    from harness.suite.waiving import append_waiver as add

    path, waiver = add(args.gate, args.reason, args.until, args.suite, args.by, args.plugins)
    return Document({"path": str(path), "waiver": waiver}, _print_waiver)


def _print_waiver(report: Mapping[str, Any]) -> None:
    waiver: Waiver = report["waiver"]
    print_line(f'{report["path"]}: "{waiver.gate}" ({waiver.claim}) {waiver.summary()}')


def _run_keygen(args: Namespace) -> Document[Any]:
    from harness.release.signing import generate_key

    private, public = generate_key(args.name)
    return Document({"private": str(private), "public": str(public)}, _print_keys)


def _print_keys(keys: Mapping[str, str]) -> None:
    private, public = keys["private"], keys["public"]
    print_line(private)
    print_line(public)
    print_line(f"keep {private} where only the signing step can read it; add {public} to the policy", sys.stderr)


def _run_sign(args: Namespace) -> Document[Any]:
    from harness.release.signing import sign_export

    key, root = sign_export(args.export, args.key, unrecomputed=args.unrecomputed)
    return Document({"export": str(args.export), "root": root, "key": key}, _print_signature)


def _print_signature(signature: Mapping[str, str]) -> None:
    print_line("signed {export}, root {root}, with key {key}".format_map(signature))


def _run_promote(args: Namespace) -> Document[Any]:
    from harness.release.policy import read_policy
    from harness.release.promote import promote_export, roll_back
    from harness.release.releases import promotion_history

    if args.list:
        return Document({"promotions": promotion_history(args.export)}, partial(_print_promotions, args.export))
    policy = read_policy(args.policy) if args.policy else None
    verified, folder, changes = (roll_back if args.back else promote_export)(args.export, policy, args.beside)
    code = ExitCode.OK if verified.ok else ExitCode.REFUSED
    return Document(_Promoted(verified, folder, changes), _print_promoted, code, _Promoted.to_data)


def _print_promotions(export: Path, record: Mapping[str, Sequence[Promotion]]) -> None:
    promotions = record["promotions"]
    if not promotions:
        print_line(f"{export}: nothing was promoted yet; make it the release with harness promote {export}")
    for line in promotions:
        verb = "back to" if line.back else "promoted"
        print_line(f"{line.at}  {verb} {line.root[:16]}  {line.candidate} of suite {line.suite}  by {line.by}")


@dataclass(frozen=True)
class _Promoted:
    """An export that was promoted or refused, the folder that keeps it, and what changed since the release before."""

    export: VerifiedExport
    folder: Path | None
    changes: Sequence[str]

    def to_data(self) -> dict[str, Any]:
        """Return the verification with the folder and the changes."""
        kept = str(self.folder) if self.export.ok else None
        return {**to_plain_data(self.export), "kept": kept, "changes": self.changes}


def _print_promoted(promoted: _Promoted) -> None:
    export = promoted.export
    if not export.ok:
        _print_refusal(export.folder, export)
        return
    print_line(f"released: {export.candidate} of suite {export.suite}, root {export.root}, kept in {promoted.folder}")
    for change in promoted.changes:
        print_line(change)


def _print_refusal(folder: Path | str, export: VerifiedExport) -> None:
    print_line(f"refused: {folder}: {export.refused}", sys.stderr)


def _run_publish(args: Namespace) -> Document[Any]:
    from harness.release.publish import HubUnavailableError, stage_repository, upload_repository, write_upload
    from harness.release.verify import verify_export

    export = verify_export(args.export)
    if not export.ok:
        return Document(export, partial(_print_refusal, args.export), ExitCode.REFUSED)
    if args.to:
        write_upload(export, args.repo, args.to)
        return Document(_Published(export, str(args.to), "written"), _print_published, to_data=_Published.to_data)
    try:
        with stage_repository(export, args.repo, public=args.public) as staged:
            if not _confirm_upload(args, staged):
                print_line("nothing was uploaded", sys.stderr)
                return Document({})
            address = upload_repository(staged, export.root, public=args.public)
    except HubUnavailableError as error:
        print_line(f"error: {error}", sys.stderr)
        return Document({"errors": [str(error)]}, exit_code=ExitCode.UNAVAILABLE)
    return Document(_Published(export, address, "published"), _print_published, to_data=_Published.to_data)


@dataclass(frozen=True)
class _Published:
    """An export, and the address or folder to which it was uploaded or written."""

    export: VerifiedExport
    address: str
    verb: str

    def to_data(self) -> dict[str, Any]:
        """Return the verification with the address."""
        return {**to_plain_data(self.export), "published": self.address}


def _print_published(published: _Published) -> None:
    print_line(f"{published.verb}: {published.address}, root {published.export.root}")
    print_line("short answers can be guessed from their digests in evidence/items.jsonl", sys.stderr)


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


def _run_schema(args: Namespace) -> Document[Any]:
    if args.of:
        from harness.release.file_schemas import file_schemas

        known = file_schemas()
        if args.of not in known:
            raise UsageError(f'--of "{args.of}": is not a kind of file{did_you_mean(args.of, known)}')
        made = known[args.of]
    else:
        from harness.suite.json_schema import suite_schema

        made = suite_schema(_load_plugins(args))
    return Document({"schema": made}, print_nothing if args.json else _print_schema)


def _print_schema(report: Mapping[str, Any]) -> None:
    print(json.dumps(report["schema"], indent=1, ensure_ascii=False))


def _load_plugins(args: Namespace) -> Plugins:
    """Load plugins and the harnessfile beside a suite, or here. Raises UsageError where neither of the two is there."""
    from harness.files import HARNESSFILE
    from harness.plugins import load_plugins

    suite = args.suite or Path("harness.toml")
    if args.suite and not (suite.is_file() or suite.with_name(HARNESSFILE).is_file()):
        raise UsageError(f'"{suite}" is not a suite; name a suite\'s .toml file')
    return load_plugins(suite, args.plugins)


def _run_plugins(args: Namespace) -> Document[Any]:
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
    whole = args.name is None

    def print_text(catalogue: Mapping[str, Any]) -> None:
        for line in catalogue_lines(catalogue, whole=whole):
            print_line(line)

    return Document(catalogue_data(chosen, found, tables, whole=whole), print_text)


def _run_explain(args: Namespace) -> Document[Any]:
    from harness.evaluation.checks import BUILD, check_title

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
    checks = [{"code": n, "title": titles.get(n, ""), "text": texts[n]} for n in names]
    return Document({"checks": checks}, _list_checks if args.code is None else _print_checks)


def _list_checks(report: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
    """Print a line for each check."""
    for check in report["checks"]:
        title = f"{check['title']}: " if check["title"] else ""
        print_line(f"{check['code']:<6} {title}{check['text'].partition(chr(10))[0]}")


def _print_checks(report: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
    """Print the whole text of each check."""
    from harness.texts.wrapping import join_paragraphs

    for check in report["checks"]:
        title = f" {check['title']}" if check["title"] else ""
        for line in join_paragraphs(f"{check['code']}{title}: {check['text']}"):
            print_line(line)
