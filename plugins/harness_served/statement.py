"""What was found of a runtime, as an in-toto statement about the export's root; and whether it still answers so."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
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
    read_served,
    statement_bytes,
)
from harness_served.conversations import user_message
from harness_served.parity import DIFFERS, Parity
from harness_served.runtime import GREEDY, Runtime

QUESTION = [user_message("What is the capital of France?")]
SAID = 16  # tokens of an answer that is kept, for `--still`
VERSIONS = ("version", "build_info")
MAX_WORD_CHARS = 2000  # of a text of the server's


def clean_data(value: Any, runtime: Runtime) -> Any:
    """Return data with a server's own words escaped, shortened, and without the secrets that it was sent."""
    if isinstance(value, Mapping):
        return {clean_data(str(k), runtime): clean_data(v, runtime) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean_data(one, runtime) for one in value]
    return printable(runtime.server.peer.redact(value, MAX_WORD_CHARS)) if isinstance(value, str) else value


def write_statement(
    path: Path, key: Path | None, name: str, root: str, made: Parity, times: tuple[str, str], about: str
) -> None:
    """Write a statement, signed where there is a key; `about` is how its endpoint is called.

    Else it is called by the sha256 of its host, which whoever guesses the host can compute: it is short, not secret.
    Raises UsageError where it cannot be signed.
    """
    runtime = made.runtime
    told = runtime.identity()
    host = urlsplit(runtime.server.url).netloc
    version = next((str(told[key]) for key in VERSIONS if told.get(key)), "")
    numbers = {
        name: {n: format_decimal(float(v)) for n, v in layer.numbers.items()} for name, layer in made.found.items()
    }
    predicate = {
        "endpoint": {"name": about} if about else {"sha256": hashlib.sha256(host.encode()).hexdigest()},
        "runtime": clean_data(
            {"kind": runtime.kind, "name": runtime.name, "version": version, "model": runtime.model}, runtime
        ),
        "identity": digest_value(told),
        "layers": clean_data({n: {**asdict(layer), "numbers": numbers[n]} for n, layer in made.found.items()}, runtime),
        "reference": {"dtype": made.reference.computed, "arithmetic": made.arithmetic},
        "seed": made.seed,
        "alpha": format_decimal(made.alpha),
        "longest": made.max_prompt_tokens,
        "started": times[0],
        "ended": times[1],
        "sample_answer": clean_data(runtime.chat(QUESTION, SAID, GREEDY).text, runtime),
    }
    statement = statement_bytes(SERVED, [{"name": name, "digest": {"sha256": root}}], predicate)
    signer = load_signer(key, "--sign") if key else None
    write_text(path, (make_envelope(statement, signer).to_json_line() if signer else statement.decode()) + "\n")


def find_changes(path: Path, runtime: Runtime) -> list[str]:
    """Return what is otherwise than when a statement was written: what it tells of itself, and 16 tokens.

    Raises UsageError where it is no statement.
    """
    told = read_served(path)[-1].predicate
    odd = []
    if told["runtime"]["model"] != clean_data(runtime.model, runtime) or told["runtime"]["kind"] != runtime.kind:
        was = f"{told['runtime']['name']}, model {told['runtime']['model']}"
        odd.append(f"{was} answered then, but now {runtime.name}, model {runtime.model}")
    elif told["identity"] != digest_value(runtime.identity()):
        odd.append("the server's own identity has changed")
    if told["sample_answer"] != clean_data(runtime.chat(QUESTION, SAID, GREEDY).text, runtime):
        odd.append("it answers a test prompt differently")
    differs = [name for name, layer in told["layers"].items() if layer["verdict"] == DIFFERS]
    return odd + [f'"{name}" differed when the statement was written' for name in differs]
