"""Statements of `harness parity`, and their check against a policy's [served].

Each statement is about one endpoint, and is kept beside the export, which is sealed. Uses the standard library alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

from harness.artifacts.attestation import SERVED, STATEMENT, Envelope, read_envelopes
from harness.errors import UsageError
from harness.release.policy import ExportRefusedError, Policy, ServedDemands, check_signers, verified_signers
from harness.release.policy_checks import SKEW
from harness.texts.escaping import printable
from harness.texts.json_text import MALFORMED, read_json

SAME_VERDICT = "same"
SEEN_BY_COUNT = "count"  # of ids, where only their number is reported


@dataclass(frozen=True)
class ServedStatement:
    """A statement of `harness parity`: what it says, the root that it is about, and its envelope."""

    envelope: Envelope
    predicate: Mapping[str, Any]
    root: str

    @property
    def endpoint(self) -> str:
        """The endpoint's name or sha256, or "" if unstated."""
        told = dict(self.predicate.get("endpoint") or {})
        return str(told.get("name") or f"sha256:{told['sha256']}" if told else "")

    @property
    def model(self) -> str:
        return str(self.predicate["runtime"].get("model") or "")

    @property
    def arithmetic(self) -> str:
        return str(dict(self.predicate.get("reference") or {}).get("arithmetic") or "")

    @property
    def longest(self) -> int:
        """The tokens of the longest conversation, 0 if unstated."""
        return int(self.predicate.get("longest") or 0)


def read_served(path: Path) -> list[ServedStatement]:
    """Return the statements in a file, one a line. Raises UsageError where it holds anything else."""
    try:
        text = path.read_text("utf-8")
        envelopes = [Envelope(text.encode(), {})] if "_type" in text[:200] else read_envelopes(text)
        return [_parse_served_statement(envelope) for envelope in envelopes]
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read: {error.strerror}; name a file that harness parity --write wrote"
        ) from None
    except MALFORMED as error:
        why = " ".join(str(error).split())
        raise UsageError(f"{path}: is not a statement of harness parity: {type(error).__name__}: {why}") from None


def _parse_served_statement(envelope: Envelope) -> ServedStatement:
    statement = read_json(envelope.payload)
    if (statement["_type"], statement["predicateType"]) != (STATEMENT, SERVED):
        raise ValueError(f"its predicate is {statement['predicateType']}")
    told = statement["predicate"]
    for layer in dict(told["layers"]).values():
        str(layer["verdict"]), str(layer["reason"]), str(layer["seen"])
    str(told["runtime"]["kind"]), str(told["runtime"]["name"])
    datetime.fromisoformat(told["ended"]).astimezone()
    (subject,) = statement["subject"]
    found = ServedStatement(envelope, told, str(subject["digest"]["sha256"]))
    _ = found.endpoint, found.model, found.arithmetic, found.longest
    return found


def require_served_statement(path: Path | None, root: str, policy: Policy | None, now: datetime) -> str:
    """Check the statements of a file about an export; summarise them.

    Each must be about the export with this root, meet [served], and be about the same endpoint. Together they must be
    signed by as many of the policy's keys as it requires. Raises ExportRefusedError otherwise.
    """
    if path is None:
        raise ExportRefusedError("the policy requires a statement of harness parity ([served]); add --served FILE")
    found = read_served(path)
    for one in found:
        _require_acceptable_statement(one, path, root, policy, now)
    if len({(one.endpoint, one.model, str(one.predicate["runtime"]["kind"])) for one in found}) > 1:
        raise ExportRefusedError(f"{path} has statements about several endpoints; name a file about one")
    by = check_signers([one.envelope for one in found], policy, str(path)) if policy else []
    first = found[0]
    same = ", ".join(name for name, layer in first.predicate["layers"].items() if layer["verdict"] == SAME_VERDICT)
    who = f"signed by {', '.join(by)}" if by else "signer unknown: no policy"
    about = f'endpoint {first.endpoint or "unknown"}, model "{first.model}", {first.arithmetic or "no"} arithmetic'
    about += f", longest conversation {first.longest} tokens"
    ended, name = first.predicate["ended"], first.predicate["runtime"]["name"]
    return printable(f"{name} answered as the export on {ended}: {same}; {about}; {who}")


def _require_acceptable_statement(
    one: ServedStatement, path: Path, root: str, policy: Policy | None, now: datetime
) -> None:
    """Raise ExportRefusedError unless a statement is acceptable.

    It must be about this root, signed with a key of the policy, not from the future, without differing layers, and must
    meet [served].
    """
    if one.root != root:
        raise ExportRefusedError(f"{path} is about root {one.root[:16]}, but this export has {root[:16]}")
    if policy and not verified_signers(one.envelope, policy):
        raise ExportRefusedError(f"{path} is not signed with a key of the policy")
    if (ended := datetime.fromisoformat(one.predicate["ended"])) > now + SKEW:
        raise ExportRefusedError(f"{path} is dated {one.predicate['ended']}, which is in the future")
    layers = one.predicate["layers"]
    if differs := [name for name, layer in layers.items() if layer["verdict"] == "differs"]:
        raise ExportRefusedError(printable(f'"{differs[0]}" differs: {layers[differs[0]]["reason"]}'))
    if policy and policy.served:
        for demand in fields(ServedDemands):
            wanted = getattr(policy.served, demand.name)
            if wanted not in (None, [], False) and (why := CHECKS[demand.name](one, policy.served, now - ended)):
                raise ExportRefusedError(printable(f"{why} ([served] {demand.name})"))


def _find_layers_error(one: ServedStatement, wanted: ServedDemands, _: timedelta) -> str:
    for name in wanted.layers:
        layer = one.predicate["layers"].get(name, {"verdict": "not checked", "seen": ""})
        if layer["verdict"] != SAME_VERDICT:
            return f'layer "{name}" is "{layer["verdict"]}", but the policy requires "same"'
        if name == "ids" and layer["seen"] == SEEN_BY_COUNT and not wanted.by_count:
            return '"ids" was compared by count only, which the policy does not allow without by_count'
    return ""


def _find_age_error(_: ServedStatement, wanted: ServedDemands, age: timedelta) -> str:
    assert wanted.max_age_days is not None
    too_old = age > timedelta(days=wanted.max_age_days)
    return (
        f"the statement is {age.days} days old, but the policy allows {wanted.max_age_days:g} days" if too_old else ""
    )


def _find_runtimes_error(one: ServedStatement, wanted: ServedDemands, _: timedelta) -> str:
    runtime = one.predicate["runtime"]
    there = f"{runtime['kind']} {runtime.get('version') or 'of unknown version'}"
    taken = any(_is_matching_runtime(runtime, spec) for spec in wanted.runtimes)
    return "" if taken else f"{there} answered, but the policy requires {' or '.join(wanted.runtimes)}"


def _find_endpoint_error(one: ServedStatement, wanted: ServedDemands, _: timedelta) -> str:
    """Return that another endpoint answered: one is its name, or HOST:PORT where the statement has its sha256."""
    listed = [wanted.endpoint] if isinstance(wanted.endpoint, str) else wanted.endpoint or []
    hashes = {f"sha256:{hashlib.sha256(name.encode()).hexdigest()}" for name in listed}
    taken = one.endpoint in {*listed, *hashes} - {""}
    return (
        "" if taken else f"endpoint {one.endpoint or 'unknown'} answered, but the policy requires {' or '.join(listed)}"
    )


def _find_unlisted_value_error(
    name: Literal["model", "arithmetic"], one: ServedStatement, wanted: ServedDemands, _: timedelta
) -> str:
    listed, there = getattr(wanted, name), getattr(one, name)
    listed = [listed] if isinstance(listed, str) else listed
    return "" if there and there in listed else f'{name} is "{there}", but the policy requires {" or ".join(listed)}'


def _find_conversation_length_error(one: ServedStatement, wanted: ServedDemands, _: timedelta) -> str:
    assert wanted.longest is not None
    there = f"the longest conversation has {one.longest} tokens"
    return "" if one.longest >= wanted.longest else f"{there}, but the policy requires {wanted.longest}"


CHECKS: Mapping[str, Callable[[ServedStatement, ServedDemands, timedelta], str]] = {
    "layers": _find_layers_error,
    "runtimes": _find_runtimes_error,
    "by_count": lambda *_: "",  # a leave, of which "layers" makes use
    "max_age_days": _find_age_error,
    "endpoint": _find_endpoint_error,
    "model": partial(_find_unlisted_value_error, "model"),
    "arithmetic": partial(_find_unlisted_value_error, "arithmetic"),
    "longest": _find_conversation_length_error,
}


def _is_matching_runtime(runtime: Mapping[str, Any], spec: str) -> bool:
    """Return whether a runtime matches NAME or NAME>=VERSION. An unreported version matches no minimum."""
    kind, _, least = spec.partition(">=")
    told = str(runtime.get("version") or "")
    return kind.strip() == runtime["kind"] and (
        not least or (bool(told) and _parse_version(told) >= _parse_version(least))
    )


def _parse_version(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
