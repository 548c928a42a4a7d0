"""`harness parity`; imported for the help, so it is light."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import UsageError, did_you_mean
from harness.internals import add_plugin_option, print_line, printable, set_command
from harness_served import DRAWN, GREEDILY, IDENTITY, LAYERS, WANTED

if TYPE_CHECKING:
    from harness.internals import VerifiedExport

ARITHMETICS = ("float32", "f16", "bf16", "q8")
COST = "sends about 80 requests and at most {} tokens to {}{} (layers {})"


def parity(parser: ArgumentParser) -> None:
    """check that a server answers as the model of an export"""
    examples = (
        "harness parity exports/qa --runtime http://localhost:8000/v1",
        "harness parity exports/qa --runtime http://localhost:8000/v1 --layers ids",
        "harness parity exports/qa --runtime http://localhost:8000/v1 --write qa.jsonl",
        "harness parity --still qa.jsonl --runtime http://localhost:8000/v1",
    )
    set_command(parser, _parity, *examples)
    parser.set_defaults(group="ship")
    parser.add_argument("export", type=Path, nargs="?", metavar="DIR", help="an export directory")
    parser.add_argument("--runtime", required=True, metavar="URL", help="base URL of the server, with /v1")
    parser.add_argument("--model", default="", metavar="NAME", help="model name, if it serves several")
    parser.add_argument("--base", default="", metavar="MODEL", help="trusted base of an exported adapter")
    layers = f"layers that must be the same: {', '.join(LAYERS)} (default: {','.join(WANTED)}, and no other may differ)"
    parser.add_argument("--layers", default="", metavar="NAMES", help=layers)
    parser.add_argument(
        "--suite", type=Path, metavar="SUITE", help="suite that the export passed: compares its rows, too (layer gates)"
    )
    parser.add_argument(
        "--rows", type=int, default=200, metavar="N", help="number of the suite's rows to draw (default: 200)"
    )
    add_plugin_option(parser)
    parser.add_argument("--context", type=int, default=0, metavar="TOKENS", help="make one conversation this long")
    parser.add_argument(
        "--arithmetic",
        default="",
        metavar="KIND",
        help="arithmetic of the server: float32, f16, bf16 or q8 (default: as it reports)",
    )
    parser.add_argument(
        "--reference",
        default="auto",
        metavar="DTYPE",
        help="dtype of the reference (default: auto, float32 up to 8 B parameters, else bfloat16)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed (default: 0)")
    parser.add_argument(
        "--alpha",
        type=float,
        default=0.01,
        metavar="RISK",
        help="risk of a false alarm in layer defaults (default: 0.01)",
    )
    parser.add_argument("--api-key-env", default="", metavar="NAME", help="environment variable with the server's key")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write a statement for harness verify --served")
    parser.add_argument(
        "--sign", type=Path, metavar="KEY", help="sign the statement with this .key file of harness keygen"
    )
    parser.add_argument(
        "--name", default="", metavar="TEXT", help="name of the endpoint in the statement (default: sha256 of its host)"
    )
    still = "only check whether the server is unchanged since this statement: identity and 16 tokens"
    parser.add_argument("--still", type=Path, metavar="FILE", help=still)


def parse_layers(text: str) -> tuple[str, ...]:
    """Return the layers that are named. Raises UsageError."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in LAYERS:
            raise UsageError(f'--layers "{name}": is not a layer{did_you_mean(name, LAYERS)}')
    return names


def _parity(args: Namespace) -> int:
    from harness.internals import verify_export

    if args.still:
        from harness_served.dialects import find_runtime
        from harness_served.statement import find_changes

        odd = find_changes(args.still, find_runtime(args.runtime, args.model, args.api_key_env))
        args.document = {"still": not odd, "differs": odd}
        for line in odd:
            print_line(f"differs: {line}", sys.stderr)
        if not odd:
            print_line(f"unchanged since {args.still}")
        return 1 if odd else 0
    if args.export is None:
        raise UsageError("parity: name an export's folder, or a statement with --still")
    if args.sign and not args.write:
        raise UsageError("--sign signs the file of --write; add --write FILE")
    names = parse_layers(args.layers)
    if not 0 < args.alpha <= 0.5:
        raise UsageError(f"--alpha is {args.alpha:g}; it must be more than 0 and at most 0.5")
    verified = verify_export(args.export)
    if not verified.ok:
        raise UsageError(f"{args.export}: is not an intact export, so it cannot be compared: {verified.refused}")
    args.base = _base(verified, args.base)
    found = measure_parity(args, names, verified)
    args.document |= {"export": str(args.export), "root": verified.root}
    return found


def measure_parity(args: Namespace, names: Sequence[str], export: VerifiedExport | None = None) -> int:
    """Compare a runtime with the model in a folder, which a statement is about once it is verified."""
    from harness.internals import MODEL, draw_replay_rows
    from harness_served.dialects import find_runtime
    from harness_served.layers import compare_layers
    from harness_served.parity import Parity, parity_exit_code
    from harness_served.reference import Reference
    from harness_served.statement import clean_data, write_statement

    if args.arithmetic not in ("", *ARITHMETICS):
        raise UsageError(f'--arithmetic "{args.arithmetic}": unknown{did_you_mean(args.arithmetic, ARITHMETICS)}')
    runtime = find_runtime(args.runtime, args.model, args.api_key_env)
    asked = names or [name for name in LAYERS if name != IDENTITY and (args.suite or name != "gates")]
    most = 16 + 12 * 4 + 8 * (DRAWN + GREEDILY + 40) + DRAWN
    rows = draw_replay_rows(export, args.suite, args.rows, args.seed, args.plugins) if args.suite and export else None
    print_line(COST.format(most, runtime.name, f", and {rows.rows} rows" if rows else "", ", ".join(asked)), sys.stderr)
    reference = Reference(args.export / MODEL, args.base, args.reference)
    told = runtime.identity()
    kind = args.arithmetic or _arithmetic_of(str(told.get("model_ftype", "")), reference.stored)
    made = Parity(runtime, reference, kind, args.seed, args.alpha, args.context, rows)
    began, started = time.monotonic(), _now()
    for name, layer in compare_layers(made, asked):
        print_line(f"{name:<10} {layer.verdict:<14} {layer.reason}")
    seconds = time.monotonic() - began
    if export:
        export.check_unchanged()
    if args.write:
        root, name = export.root if export else "", args.export.resolve().name
        write_statement(args.write, args.sign, name, root, made, (started, _now()), args.name)
        print_line(f"written: {args.write}", sys.stderr)
    for note in made.notes:
        print_line(f"note: {note}", sys.stderr)
    print_line(f"{runtime.requests} requests, {runtime.tokens} generated tokens, {seconds:.0f} s", sys.stderr)
    layers: dict[str, Any] = {name: asdict(layer) for name, layer in made.found.items()}
    args.document = {"runtime": runtime.name, "model": runtime.model}
    args.document |= {"told": clean_data(told, runtime), "layers": clean_data(layers, runtime)}
    args.document |= {"requests": runtime.requests, "tokens": runtime.tokens, "notes": made.notes, "seed": args.seed}
    args.document |= {"arithmetic": kind, "reference": reference.computed, "longest": made.max_prompt_tokens}
    return parity_exit_code(made.found, names or (*WANTED, *(("gates",) if rows else ())))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _arithmetic_of(told: str, stored: str) -> str:
    """Return the arithmetic of a runtime that calls the type of its file so, or keeps numbers as they are stored."""
    told = told.upper()
    if "F32" in told:
        return "float32"
    if told in ("F16", "MOSTLY_F16", "FLOAT16"):
        return "f16"
    return "q8" if told and "BF16" not in told else "bf16"


def _base(export: VerifiedExport, named: str) -> str:
    """Return the base of an exported adapter as the user names it, or an empty text for a whole model.

    What the export says of it is another's word, and is only printed: nothing is fetched or loaded for it.
    Raises UsageError unless it is the very base that the adapter was gated on, and whole.
    """
    from harness.internals import LOCK, MANIFEST, MODEL, read_json

    manifest, lock = (read_json(export.raw[name]) for name in (MANIFEST, LOCK))
    if not (about := manifest.get("adapter")):
        if f"{MODEL}/adapter_config.json" in manifest["files"]:
            raise UsageError(f"{export.folder}: is an adapter, but its evidence does not name its base; export again")
        return ""
    if about["quantization"]:
        what = "its adapter was gated on a quantised base, for which there is no reference; merge it"
        raise UsageError(f"{export.folder}: {what}")
    if not named:
        told = printable(str(lock["suite"]["model"]["path"]))
        what = f'is an adapter that was gated on "{told}", weights {about["base"][:16]}'
        raise UsageError(f"{export.folder}: {what}; name your copy of that base with --base MODEL")
    from harness_hf import open_source

    if (digest := open_source(named).digest) != about["base"]:
        there = about["base"][:16]
        raise UsageError(
            f'base "{named}": has weights {digest[:16]}, but the adapter was gated on {there}; check --base'
        )
    return named
