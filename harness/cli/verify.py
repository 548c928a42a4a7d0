"""`harness verify`."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.artifacts.attestation import EVIDENCE, ITEMS, MODEL
from harness.cli.options import PLUGIN_HELP, add_plugin_option, set_command
from harness.document import Document
from harness.errors import ExitCode, UsageError
from harness.texts.printing import print_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.release.policy import Policy
    from harness.release.verified import VerifiedExport

STRICT_NAME = Path("strict")  # the policy of this name is the harness's own; a file called so is ./strict


def _run_verify(args: argparse.Namespace) -> Document[Any]:
    from harness.artifacts.folders import FolderError, restore_export
    from harness.release.verified import VerifiedExport

    if args.seed is not None and args.replay is None:
        raise UsageError("--seed chooses the rows of --replay; add --replay N, or remove --seed")
    if args.sources and (args.export / EVIDENCE).is_dir():
        raise UsageError("--sources is for gated rows, and this is an export; remove --sources")
    if _is_rows_evidence(args.export) or args.sources:
        from harness.rows.bundle_verification import verify_bundle

        return verify_bundle(args.export, args, _read_policy(args)[0])
    if args.replay is not None and args.suite is None:
        raise UsageError("--replay needs the suite whose rows to ask; add --suite SUITE")
    if args.told_as and args.json:
        raise UsageError("--as prints a document of its own; remove --json")
    if args.sign_with and not args.told_as:
        raise UsageError("--sign-with signs the document of --as; add --as, or use harness sign for the export")
    try:
        with restore_export(args.export) as export:
            return _verify_export(args, export)
    except FolderError as error:  # of a published folder, of which no export can be made
        refused = VerifiedExport(str(args.export), refused=f"digests: {error.problem}")
        return Document(refused, partial(_print_refusal, args.export), ExitCode.REFUSED)


def _print_refusal(folder: Path, export: VerifiedExport) -> None:
    print_line(f"refused: {folder}: {export.refused}", sys.stderr)


def _is_rows_evidence(folder: Path) -> bool:
    """Return whether a folder holds the evidence of `harness gate`, and no part of an export."""
    return (folder / ITEMS).is_file() and not any((folder / name).exists() for name in (EVIDENCE, MODEL))


def _verify_export(args: argparse.Namespace, export: Path) -> Document[VerifiedExport]:
    """Verify an export."""
    policy, demands = _read_policy(args)
    write = _make_document_writer(args) if args.told_as else None
    found = _run_verification_steps(args, export, policy)
    statement = write(found) if write else None
    code = ExitCode.OK if found.ok else ExitCode.REFUSED
    return Document(found, partial(_print_verification, args.export, demands, statement), code)


def _print_verification(folder: Path, demands: Sequence[str], statement: str | None, found: VerifiedExport) -> None:
    """Print the steps and their result.

    A statement for another tool is printed alone on stdout, and all else on stderr.
    """
    where = sys.stderr if statement is not None else None
    told = [("demands", line) for line in demands] + [("not checked", line) for line in found.unchecked]
    told += [*found.steps.items(), *(("note", line) for line in found.notes)]
    for name, line in told:
        print_line(f"{name}: {line}", where)
    if found.ok:
        about = f"{found.candidate} of suite {found.suite}, root {found.root}"
        if found.recorded:
            names = ", ".join(f'"{gate}"' for gate in found.recorded)
            about = f"not verified: {about}: files match, but its producer's word is taken for {names}"
        else:
            about = f"verified: {about}"
        print_line(about, where)
    print(statement or "", end="")
    if not found.ok:
        _print_refusal(folder, found)


def _run_verification_steps(args: argparse.Namespace, export: Path, policy: Policy | None) -> VerifiedExport:
    """Run the requested verification steps in order."""
    from harness.release.releases import current_release
    from harness.release.verify import verify_export

    last, unreadable = None, ""
    try:
        last = current_release(args.export)
    except UsageError as error:
        unreadable = str(error)
    copy = args.suite if args.replay is None else None  # a replay compares what it asks
    found = verify_export(export, policy, last=last, beside=args.beside, suite=copy, served=args.served)
    if unreadable and found.ok and policy and policy.ledger != "any":
        found.ok, found.refused = False, f'{unreadable}; the policy requires ledger = "{policy.ledger}"'
    elif unreadable:
        found.notes.append(unreadable)
    if found.ok and args.replay is not None:
        from harness.pipeline.replay import replay_rows

        again = replay_rows(found, args.suite, args.replay, args.seed, args.plugins)
        found.notes += again.notes
        found.ok = not again.differs
        if again.differs:
            found.refused = f"replay: {again.differs}"
        else:
            found.steps["replay"] = again.summary
    return found


def _read_policy(args: argparse.Namespace) -> tuple[Policy | None, list[str]]:
    """Read the policy.

    The second value is the text of the strict policy in lines, since no file shows it; else it is empty. Raises
    UsageError if `--policy strict` has no --key, or --key is given without it.
    """
    from harness.release import policy

    if args.policy != STRICT_NAME:
        if args.key is not None:
            raise UsageError("--key goes with --policy strict; in a policy file write keys as [[key]]")
        return policy.read_policy(args.policy) if args.policy else None, []
    if args.key is None:
        raise UsageError("--policy strict needs a trusted key; add --key FILE, the .pub file of harness keygen")
    return policy.read_policy(args.key, strict=True), policy.STRICT_POLICY.splitlines()


def _make_document_writer(args: argparse.Namespace) -> Callable[[VerifiedExport], str]:
    from harness.release.attest import make_writer

    return make_writer(args.told_as, args.sign_with)


def verify(parser: argparse.ArgumentParser) -> None:
    """check that an export has the bytes that passed, without torch or network"""
    set_command(
        parser,
        _run_verify,
        "harness verify exports/qa",
        "harness verify exports/qa --policy strict --key release.pub",
        "harness verify exports/qa --policy policy.toml --suite suite.toml",
        "harness verify exports/qa --replay 20 --suite suite.toml",
        "harness verify exports/qa --policy policy.toml --as cyclonedx > qa.cdx.json",
        "harness verify reports/gate-…/gate",
    )
    parser.add_argument("export", type=Path, metavar="DIR", help="an export directory")
    parser.add_argument(
        "--policy", type=Path, metavar="FILE", help='file with trusted keys and requirements, or "strict"'
    )
    parser.add_argument("--key", type=Path, metavar="FILE", help="for --policy strict: .pub file of the trusted key")
    help = "evidence of another suite on the same model, for a policy with all_of"
    parser.add_argument("--with", action="append", default=[], dest="beside", type=Path, metavar="DIR", help=help)
    of_rows = "of gated rows: the original files, BASE CANDIDATE, to be compared with the rows in the evidence"
    parser.add_argument("--sources", nargs="+", metavar="PATH", help=of_rows)
    parser.add_argument(
        "--replay",
        type=int,
        metavar="N",
        help="run the model on N random rows again and compare its answers; needs torch",
    )
    yours = "your copy of the suite: compare its lock and rows"
    parser.add_argument("--suite", type=Path, metavar="SUITE", help=yours)
    parser.add_argument("--seed", type=int, metavar="N", help="random seed for --replay (default: random)")
    add_plugin_option(parser, f"for --replay: {PLUGIN_HELP}")
    formats = "print the result as cyclonedx (bill of materials) or model-signing"
    parser.add_argument("--as", dest="told_as", metavar="FORMAT", help=formats)
    parser.add_argument("--sign-with", type=Path, metavar="FILE", help="private key that signs the document of --as")
    served = "statement of harness parity --write that a server answers as this export"
    parser.add_argument("--served", type=Path, metavar="FILE", help=served)
