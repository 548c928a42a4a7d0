"""What a statement of `harness parity` says, and whether a policy's [served] takes it. With the standard library alone.

It is about an endpoint at a time, and kept beside the export, which is sealed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from harness.artifacts.attestation import SERVED, STATEMENT, Envelope, read_envelopes
from harness.artifacts.strict import MALFORMED, read_json
from harness.errors import UsageError
from harness.release.demands import SKEW
from harness.release.policy import ExportRefused, Policy, signers

SAME, COUNT = "same", "count"  # a verdict; by what ids were seen where only their number is told


def read_served(path: Path) -> tuple[Envelope, Mapping[str, Any], str]:
    """Return a statement's envelope, its predicate and the root it is about. Raises UsageError where it is none."""
    try:
        text = path.read_text("utf-8")
        envelope = Envelope(text.encode(), {}) if "_type" in read_json(text) else read_envelopes(text)[0]
        statement = read_json(envelope.payload)
        if (statement["_type"], statement["predicateType"]) != (STATEMENT, SERVED):
            raise ValueError(f"its predicate is {statement['predicateType']}")
        told = statement["predicate"]
        dict(told["layers"]), dict(told["runtime"]), datetime.fromisoformat(told["ended"]).astimezone()
        return envelope, told, str(statement["subject"][0]["digest"]["sha256"])
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}; name what harness parity --write wrote") from None
    except MALFORMED as error:
        why = " ".join(str(error).split())
        raise UsageError(f"{path}: is no statement of harness parity: {type(error).__name__}: {why}") from None


def held(path: Path | None, root: str, policy: Policy | None, now: datetime) -> str:
    """Return what a statement says of an export with this root.

    Raises ExportRefused where it is of another, says less than [served] demands, is too old, or no key of the policy
    signed it.
    """
    if path is None:
        raise ExportRefused("the policy wants a statement of harness parity ([served]); give it, --served FILE")
    envelope, told, about = read_served(path)
    if about != root:
        raise ExportRefused(f"{path} is about root {about[:16]}, this export has {root[:16]}")
    if policy and not signers(envelope, policy):
        raise ExportRefused(f"{path} is signed by no key of the policy")
    if (ended := datetime.fromisoformat(told["ended"])) > now + SKEW:
        raise ExportRefused(f"{path} is of {told['ended']}, which is yet to come")
    layers, runtime = told["layers"], told["runtime"]
    if differs := [name for name, layer in layers.items() if layer["verdict"] == "differs"]:
        raise ExportRefused(f'"{differs[0]}" differs: {layers[differs[0]]["says"]}')
    if wanted := policy.served if policy else None:
        for name in wanted.layers:
            verdict = layers[name]["verdict"] if name in layers else "not looked at"
            if verdict != SAME:
                raise ExportRefused(f'"{name}": {verdict}, and the policy wants it the same ([served] layers)')
            if name == "ids" and layers[name]["seen"] == COUNT and not wanted.by_count:
                raise ExportRefused('"ids" was seen by count alone, which the policy does not take ([served] by_count)')
        if wanted.max_age_days is not None and now - ended > timedelta(days=wanted.max_age_days):
            limit = f"the policy allows {wanted.max_age_days:g} ([served] max_age_days)"
            raise ExportRefused(f"the statement is {(now - ended).days} days old, {limit}")
        if wanted.runtimes and not any(_is_one(runtime, spec) for spec in wanted.runtimes):
            there = f"{runtime['kind']} {runtime.get('version') or 'of no told version'}"
            wants = f"the policy wants {' or '.join(wanted.runtimes)} ([served] runtimes)"
            raise ExportRefused(f"{there} answered, {wants}")
    same = ", ".join(name for name, layer in layers.items() if layer["verdict"] == SAME)
    by = "" if policy else ", by whom is not known: no policy"
    return f"{runtime['name']} answered as the export on {told['ended']}: {same}{by}"


def _is_one(runtime: Mapping[str, Any], spec: str) -> bool:
    """Return whether a runtime is NAME, or NAME>=VERSION and says its version."""
    kind, _, least = spec.partition(">=")
    told = str(runtime.get("version") or "")
    return kind.strip() == runtime["kind"] and (not least or (bool(told) and _numbers(told) >= _numbers(least)))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
