"""An in-toto statement on a runtime, about the export's root."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness import digest_value, write_text
from harness.internals import (
    SERVED,
    format_decimal,
    load_signer,
    make_envelope,
    printable,
    statement_bytes,
)
from harness_served.parity import Parity, merge_replicas
from harness_served.runtime import Runtime

VERSIONS = ("version", "build_info")
MAX_WORD_CHARS = 2000  # of a text of the server's


def clean_data(value: Any, runtime: Runtime) -> Any:
    """Redact, shorten and escape a server's texts in data."""
    if isinstance(value, Mapping):
        return {clean_data(str(k), runtime): clean_data(v, runtime) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean_data(one, runtime) for one in value]
    return printable(runtime.server.peer.redact(value, MAX_WORD_CHARS)) if isinstance(value, str) else value


def write_statement(
    path: Path, key: Path | None, name: str, root: str, made: Sequence[Parity], times: tuple[str, str], about: str
) -> None:
    """Write a statement about a server and its replicas.

    It is signed if there is a key. `about` names the endpoint; by default it is the sha256 of its host, which anyone
    can compute from a guess of the host: it is short, not secret. Raises UsageError if the statement cannot be signed.
    """
    first, found = made[0], merge_replicas(made)
    runtime, told = first.runtime, first.heard["identity"]
    host = urlsplit(runtime.server.url).netloc
    version = next((str(told[key]) for key in VERSIONS if told.get(key)), "")
    numbers = {name: {n: format_decimal(float(v)) for n, v in layer.numbers.items()} for name, layer in found.items()}
    predicate = {
        "endpoint": {"name": about} if about else {"sha256": hashlib.sha256(host.encode()).hexdigest()},
        "runtime": clean_data(
            {"kind": runtime.kind, "name": runtime.name, "version": version, "model": runtime.model}, runtime
        ),
        "identity": digest_value(told),
        "layers": clean_data({n: {**asdict(layer), "numbers": numbers[n]} for n, layer in found.items()}, runtime),
        "reference": {"dtype": first.reference.computed, "arithmetic": first.arithmetic},
        "seed": first.seed,
        "alpha": format_decimal(first.alpha),
        "longest": first.max_prompt_tokens,
        "replicas": len(made),
        "started": times[0],
        "ended": times[1],
    }
    statement = statement_bytes(SERVED, [{"name": name, "digest": {"sha256": root}}], predicate)
    signer = load_signer(key, "--sign") if key else None
    write_text(path, (make_envelope(statement, signer).to_json_line() if signer else statement.decode()) + "\n")
