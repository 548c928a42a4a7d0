"""`harness parity`; imported for the help, so it is light."""

from __future__ import annotations

import secrets
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import Document, ExitCode, UsageError, did_you_mean
from harness.internals import add_plugin_option, find_alpha_error, print_line, set_command
from harness_served import DRAWN, GREEDILY, IDENTITY, LAYERS, REQUIRED_LAYERS

if TYPE_CHECKING:
    from harness.internals import VerifiedExport
    from harness_served.parity import LayerVerdict, Parity
    from harness_served.runtime import Runtime

MOST_TOKENS = 16 + 12 * 4 + 8 * (3 * DRAWN + GREEDILY + 2 * 40) + DRAWN  # some are drawn twice
COST = "sends about 80 requests and at most {} tokens to {}{} (layers {})"


def parity(parser: ArgumentParser) -> None:
    """check that a server answers as the model of an export"""
    examples = (
        "harness parity exports/qa --runtime http://localhost:8000/v1",
        "harness parity exports/qa --runtime http://localhost:8000/v1 --layers ids",
        "harness parity exports/qa --runtime http://localhost:8000/v1 --write qa.jsonl",
        "harness parity exports/qa --runtime http://localhost:8000/v1 --fingerprint",
    )
    set_command(parser, _run_parity, *examples)
    parser.set_defaults(group="ship")
    parser.add_argument("export", type=Path, metavar="DIR", help="an export directory")
    parser.add_argument("--runtime", required=True, metavar="URL", help="base URL of the server, with /v1")
    replica = "base URL of a replica, which is compared by itself, too; repeat it for others"
    parser.add_argument("--replica", action="append", default=[], metavar="URL", help=replica)
    parser.add_argument("--model", default="", metavar="NAME", help="model name, if it serves several")
    parser.add_argument("--base", default="", metavar="MODEL", help="trusted base of an exported adapter")
    default = f"{','.join(REQUIRED_LAYERS)}, and no other may differ"
    layers = f"layers that must be the same: {', '.join(LAYERS)} (default: {default})"
    parser.add_argument("--layers", default="", metavar="NAMES", help=layers)
    parser.add_argument(
        "--suite", type=Path, metavar="SUITE", help="suite that the export passed: compares its rows, too (layer gates)"
    )
    parser.add_argument(
        "--rows", type=int, default=200, metavar="N", help="number of the suite's rows to draw (default: 200)"
    )
    add_plugin_option(parser)
    parser.add_argument(
        "--context",
        type=int,
        default=0,
        metavar="TOKENS",
        help="context that the server must have (default: the export's); makes one conversation this long",
    )
    parser.add_argument(
        "--arithmetic",
        default="",
        metavar="KIND",
        help="arithmetic of the server: float32, f16, bf16 or q8 (default: the export's, or a finer one it reports)",
    )
    parser.add_argument(
        "--reference",
        default="auto",
        metavar="DTYPE",
        help="dtype of the reference (default: auto, float32 up to 8 B parameters, else bfloat16)",
    )
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="random seed (default: drawn)")
    parser.add_argument(
        "--alpha",
        type=float,
        default=0.01,
        metavar="RISK",
        help="risk of a false alarm in each of the layers defaults and sampling (default: 0.01)",
    )
    parser.add_argument("--api-key-env", default="", metavar="NAME", help="environment variable with the server's key")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write a statement for harness verify --served")
    parser.add_argument(
        "--sign", type=Path, metavar="KEY", help="sign the statement with this .key file of harness keygen"
    )
    parser.add_argument(
        "--name", default="", metavar="TEXT", help="name of the endpoint in the statement (default: sha256 of its host)"
    )
    fingerprint = "compare 40 probes of the export's fingerprint alone, without loading its weights"
    parser.add_argument("--fingerprint", action="store_true", help=fingerprint)
    add_connection(parser)


def add_connection(parser: ArgumentParser) -> None:
    """Add the options of how a server is asked."""
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS", help="time for an answer (default: 60)"
    )
    retries = "tries after a failed request, with growing pauses (default: 2)"
    parser.add_argument("--retries", type=int, default=2, metavar="N", help=retries)
    concurrency = "requests at the same time, so that they are batched (default: 1)"
    parser.add_argument("--concurrency", type=int, default=1, metavar="N", help=concurrency)


def parse_layers(text: str) -> tuple[str, ...]:
    """Return the layers that are named. Raises UsageError."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in LAYERS:
            raise UsageError(f'--layers "{name}": is not a layer{did_you_mean(name, LAYERS)}')
    return names


def _run_parity(args: Namespace) -> Document[dict[str, Any]]:
    from harness_api import ServerUnavailableError

    if args.fingerprint:
        return _compare_fingerprint(args)
    from harness.internals import open_named_base, reporting_model_errors
    from harness_hf import open_source

    if args.sign and not args.write:
        raise UsageError("--sign signs the file of --write; add --write FILE")
    names = parse_layers(args.layers)
    if why := find_alpha_error(args.alpha):
        raise UsageError(f"--alpha is {args.alpha:g}; {why}")
    try:
        runtimes = find_runtimes(args)  # a mistake in a URL is reported before a large export is hashed
    except ServerUnavailableError as error:
        print_line(f"error: {error}", sys.stderr)
        return Document({"errors": list(error.messages)}, exit_code=ExitCode.UNAVAILABLE)
    verified = _verify_before_comparison(args.export)
    source = open_named_base(verified, args.base, open_source)
    args.base = source.path if source else ""
    with reporting_model_errors(verified):
        compared = measure_parity(args, names, verified, runtimes)
    return replace(compared, value=compared.value | {"export": str(args.export), "root": verified.root})


def _verify_before_comparison(export: Path) -> VerifiedExport:
    """Verify an export. Raises UsageError if it is not intact."""
    from harness.internals import verify_export

    verified = verify_export(export)
    if not verified.ok:
        raise UsageError(f"{export}: is not an intact export, so it cannot be compared: {verified.refused}")
    return verified


def _compare_fingerprint(args: Namespace) -> Document[dict[str, Any]]:
    """Compare servers with the fingerprint of an export. Raises UsageError."""
    from harness_api import ServerUnavailableError
    from harness_served.fingerprint import compare_fingerprint, find_notes, read_export_fingerprint
    from harness_served.parity import DIFFERS, SAME, missed_replicas
    from harness_served.statement import clean_data

    if args.layers or args.suite or args.write:
        raise UsageError("--fingerprint compares probes alone; remove --layers, --suite and --write")
    _check_arithmetic(args)
    verified = _verify_before_comparison(args.export)
    made, root = read_export_fingerprint(verified), verified.root
    seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    how = {"arithmetic": args.arithmetic, "context": args.context, "concurrency": args.concurrency}
    began, found, failure = time.monotonic(), list[str](), None
    report: dict[str, Any] = {"export": str(args.export), "root": root, "seed": seed, "fingerprint": []}
    try:
        for runtime in find_runtimes(args):
            layer = compare_fingerprint(runtime, made, seed, **how)
            found.append(layer.verdict)
            notes = find_notes(runtime, made, runtime.identity())
            told = {"url": runtime.server.url, **asdict(layer), "requests": runtime.requests, "notes": notes}
            report["fingerprint"].append(clean_data(told, runtime))
            print_line(f"{layer.verdict:<14} {layer.reason}")
            for note in notes:
                print_line(f"note: {note}", sys.stderr)
            chances = missed_replicas(int(layer.numbers.get("probes", 0)))
            shares = ", ".join(f"{share:.1%} of {k}" for k, share in chances.items())
            seconds = time.monotonic() - began
            print_line(f"{runtime.requests} requests, {seconds:.1f} s; misses one replica: {shares}", sys.stderr)
    except ServerUnavailableError as error:
        failure = error
        print_line(f"error: {error}", sys.stderr)
    if failure:
        report["errors"] = list(failure.messages)
    if DIFFERS in found:
        return Document(report, exit_code=ExitCode.FAILED)
    if failure:
        return Document(report, exit_code=ExitCode.UNAVAILABLE)
    return Document(report, exit_code=ExitCode.OK if {*found} == {SAME} else ExitCode.INCONCLUSIVE)


def _check_arithmetic(args: Namespace) -> None:
    """Raise UsageError at an arithmetic that is unknown."""
    from harness_served.precision import ARITHMETICS

    if args.arithmetic not in ("", *ARITHMETICS):
        raise UsageError(f'--arithmetic "{args.arithmetic}": unknown{did_you_mean(args.arithmetic, ARITHMETICS)}')


def find_runtimes(args: Namespace) -> list[Runtime]:
    """Return the server, and its replicas. Raises UsageError."""
    from harness_served.dialects import find_runtime

    if args.concurrency < 1:
        raise UsageError(f"--concurrency is {args.concurrency}; it must be 1 or more")
    how = {"timeout": args.timeout, "retries": args.retries}
    return [find_runtime(url, args.model, args.api_key_env, **how) for url in (args.runtime, *args.replica)]


def measure_parity(
    args: Namespace, names: Sequence[str], export: VerifiedExport | None = None, runtimes: Sequence[Runtime] = ()
) -> Document[dict[str, Any]]:
    """Compare runtimes with a folder's model, and print each layer as it is compared.

    A statement is about the root of the verified export, if there is one. Results from before a server gave up are in
    the document.
    """
    from harness.internals import MODEL, draw_replay_rows
    from harness_api import ServerUnavailableError
    from harness_served.parity import Parity, merge_replicas, parity_exit_code
    from harness_served.precision import find_arithmetic
    from harness_served.reference import Reference
    from harness_served.statement import write_statement

    _check_arithmetic(args)
    runtimes = runtimes or find_runtimes(args)
    seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    asked = names or [name for name in LAYERS if name != IDENTITY and (args.suite or name != "gates")]
    rows = draw_replay_rows(export, args.suite, args.rows, seed, args.plugins) if args.suite and export else None
    more = f", and {rows.rows} rows" if rows else ""
    each = f" and {len(runtimes) - 1} replicas of it" if len(runtimes) > 1 else ""
    print_line(COST.format(MOST_TOKENS, f"{runtimes[0].name}{each}", more, ", ".join(asked)), sys.stderr)
    reference = Reference(args.export / MODEL, args.base, args.reference)
    made, started = list[Parity](), _format_now()
    for runtime in runtimes:
        reported = str(runtime.identity().get("model_ftype") or "")
        kind = args.arithmetic or find_arithmetic(reference.stored, reported, bool(reference.gguf))
        how = {"declared": bool(args.arithmetic), "concurrency": args.concurrency, "again": rows}
        made.append(Parity(runtime, reference, kind, seed, args.alpha, args.context, **how))
    failure = _compare_replicas(args, made, asked)
    found = merge_replicas(made)
    wanted = names or (*REQUIRED_LAYERS, *(("gates",) if rows else ()))
    if export and not failure:
        export.check_unchanged()
    if args.write and not failure:
        root, name = export.root if export else "", args.export.resolve().name
        write_statement(args.write, args.sign, name, root, made, (started, _format_now()), args.name)
        print_line(f"written: {args.write}", sys.stderr)
    report = _describe_comparison(made) | {"seed": seed, "reference": reference.computed}
    if failure is None:
        return Document(report, exit_code=parity_exit_code(found, wanted))
    report["errors"] = list(failure.messages)
    if parity_exit_code(found, ()) == ExitCode.FAILED:
        return Document(report, exit_code=ExitCode.FAILED)
    is_unavailable = isinstance(failure, ServerUnavailableError)
    return Document(report, exit_code=ExitCode.UNAVAILABLE if is_unavailable else ExitCode.USAGE)


def _compare_replicas(args: Namespace, made: Sequence[Parity], asked: Sequence[str]) -> UsageError | None:
    """Compare each replica and print its layers, notes and costs.

    Returns the first error that ended a comparison early.
    """
    from harness_served.layers import compare_layers
    from harness_served.parity import missed_replicas

    began, failure = time.monotonic(), None
    for number, parity in enumerate(made):
        if len(made) > 1:
            print_line(f"replica {number + 1}: {parity.runtime.server.url}")
        try:
            for name, layer in compare_layers(parity, asked):
                print_line(f"{name:<10} {layer.verdict:<14} {layer.reason}")
        except UsageError as error:
            failure = failure or error
            print_line(f"error: {error}", sys.stderr)
    for note in dict.fromkeys(note for parity in made for note in parity.notes):
        print_line(f"note: {note}", sys.stderr)
    requests, tokens = (sum(getattr(p.runtime, name) for p in made) for name in ("requests", "tokens"))
    print_line(f"{requests} requests, {tokens} generated tokens, {time.monotonic() - began:.0f} s", sys.stderr)
    if len(made) == 1 and (answers := made[0].compared_answers):
        shares = ", ".join(f"{share:.1%} of {k}" for k, share in missed_replicas(answers).items())
        print_line(f"a wrong replica escapes {answers} answers with a chance of {shares}; use --replica", sys.stderr)
    return failure


def _describe_comparison(made: Sequence[Parity]) -> dict[str, Any]:
    """Return the document of a comparison: what was found of all, and of each replica."""
    from harness_served.parity import merge_replicas, missed_replicas
    from harness_served.statement import clean_data

    def layers(found: Mapping[str, LayerVerdict], parity: Parity) -> Any:
        return clean_data({name: asdict(layer) for name, layer in found.items()}, parity.runtime)

    first, found = made[0], merge_replicas(made)
    requests, tokens = (sum(getattr(p.runtime, name) for p in made) for name in ("requests", "tokens"))
    document = {"runtime": first.runtime.name, "model": first.runtime.model, "layers": layers(found, first)}
    document |= {"told": clean_data(first.heard.get("identity", {}), first.runtime)}
    document |= {"requests": requests, "tokens": tokens, "arithmetic": first.arithmetic}
    document |= {"notes": list(dict.fromkeys(note for parity in made for note in parity.notes))}
    document |= {"longest": first.max_prompt_tokens, "missed_replicas": missed_replicas(first.compared_answers)}
    replicas = [{"url": p.runtime.server.url, "layers": layers(p.found, p)} for p in made]
    return document | ({"replicas": replicas} if len(made) > 1 else {})


def _format_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
