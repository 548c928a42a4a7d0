"""Statements in evidence/claims.intoto.jsonl, and names of the evidence files.

The statements are in-toto v1 (https://in-toto.io/Statement/v1) about one digest, in DSSE 1.0 envelopes, one a line. The
payload of a statement has the same bytes no matter which program writes it, so a reader can make it again from the
evidence and compare.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

FORMAT_VERSION = 1  # of evidence/; raised when an older `verify` would misread
LEDGER_FORMAT = 1  # of a line of the ledger of attempts, of which evidence holds the ids
MODEL, EVIDENCE, CARD = "model", "evidence", "README.md"
MANIFEST, LOCK, GATES, ITEMS = "manifest.json", "suite.lock.json", "gates.json", "items.jsonl"
REPORT, CLAIMS, FINGERPRINT = "report.json", "claims.intoto.jsonl", "fingerprint.json"
UNLISTED = (f"{EVIDENCE}/{MANIFEST}", f"{EVIDENCE}/{CLAIMS}")  # a manifest cannot list itself, nor what names it
COMPANIONS = {CARD, *(f"{EVIDENCE}/{name}" for name in (LOCK, GATES, ITEMS, REPORT, FINGERPRINT))}  # the model

PAYLOAD = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
RELEASE = "urn:finetune-harness:release:v1"  # raised when the same evidence would be told in other words
SERVED = "urn:finetune-harness:served:v1"  # what answers is the export, as `harness parity` writes it
PROVENANCE = "https://slsa.dev/provenance/v1"
RUN = "urn:finetune-harness:run"  # what built it, as SLSA asks; it stands for no platform, and claims no level
NUMBERS = ("value", "baseline", "estimate", "lower", "upper", "threshold", "alpha", "n")
WORDS = ("metric", "claim", "versus", "method", "outcome", "blocking")


@dataclass(frozen=True)
class Envelope:
    """One line: a statement's bytes, and signatures by the id of their key (64 raw bytes each)."""

    payload: bytes
    signatures: Mapping[str, bytes]

    def to_json_line(self) -> str:
        signed = [{"keyid": k, "sig": base64.b64encode(s).decode()} for k, s in self.signatures.items()]
        payload = base64.b64encode(self.payload).decode()
        return json.dumps({"payload": payload, "payloadType": PAYLOAD, "signatures": signed})


def make_statements(manifest: bytes, lock: bytes, gates: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """Return the statements about an export: an in-toto test result, the release in our own words, and provenance.

    `manifest` and `lock` are the files' bytes. Raises KeyError, TypeError or ValueError when they are malformed.
    """
    told, locked = json.loads(manifest), json.loads(lock)
    suite, subject = locked["suite"], [{"name": told["name"], "digest": {"sha256": told["root"]}}]
    # a waived gate, and one that only warns, that did not pass count as warned
    passed = [g["gate"] for g in gates if g["outcome"] == "PASS"]
    warned = [g["gate"] for g in gates if g["outcome"] != "PASS" and (recorded_waiver(g) or not g["blocking"])]
    failed = [g["gate"] for g in gates if g["gate"] not in passed and g["gate"] not in warned]
    test_result = {
        "result": "FAILED" if failed else "WARNED" if warned else "PASSED",
        "configuration": [
            {"name": suite["file"], "digest": {"sha256": suite["digest"]}},
            {"name": "evidence/suite.lock.json", "digest": {"sha256": hashlib.sha256(lock).hexdigest()}},
        ],
        "passedTests": passed,
        "warnedTests": warned,
        "failedTests": failed,
    }
    words = {g["gate"]: {k: g[k] for k in WORDS if g.get(k) is not None} for g in gates}
    numbers = {g["gate"]: {k: format_decimal(g[k]) for k in NUMBERS if g.get(k) is not None} for g in gates}
    parts = {g["gate"]: _format_decimals(g["parts"]) for g in gates}
    chosen = {k: format_decimal(v) if isinstance(v, float) else v for k, v in told.get("chosen", {}).items()}
    release = {
        "manifest": {"sha256": hashlib.sha256(manifest).hexdigest()},
        "candidate": told["candidate"],
        "weights": told["weights"],
        **({"made_of": told["made_of"]} if "made_of" in told else {}),
        "base": {"path": suite["model"]["path"], "digest": locked["subjects"]["base"]},
        "data": {name: d["sha256"] for name, d in locked["data"].items()},
        "suite": {"name": suite["name"], "digest": suite["digest"]},
        "harness": locked["harness"],
        "started": told["started"],
        "ignored": told["ignored"],
        "plugins": third_party_plugins(locked),
        **({"chosen": chosen} if "chosen" in told else {}),
        "gates": {gate: {**said, **numbers[gate], "parts": parts[gate]} for gate, said in words.items()},
    }
    provenance = _make_provenance_predicate(told, locked, lock)
    told_of = {TEST_RESULT: test_result, RELEASE: release, PROVENANCE: provenance}
    return [statement_bytes(kind, subject, predicate) for kind, predicate in told_of.items()]


def recorded_waiver(verdict: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the waiver that a verdict of the evidence has."""
    part = verdict["parts"].get("waived")
    return part["line"] if part else None


def recorded_attempt(verdict: Mapping[str, Any]) -> int:
    """Return which attempt a verdict of the evidence is, 0 where none was counted."""
    part = verdict["parts"].get("attempt")
    return int(part["number"]) if part else 0


def _format_decimals(value: Any) -> Any:
    """Return plain data with each float as a decimal text, which every program writes alike."""
    if isinstance(value, Mapping):
        return {key: _format_decimals(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_format_decimals(inner) for inner in value]
    return format_decimal(value) if isinstance(value, float) else value


def _make_provenance_predicate(told: Mapping[str, Any], locked: Mapping[str, Any], lock: bytes) -> dict[str, Any]:
    """Make the SLSA provenance predicate of a run.

    It has the invocation and the inputs; the lock, which it refers to, has every option and package.
    """
    suite = locked["suite"]
    models = {key.partition("::")[0]: about["weights"] for key, about in told["evaluations"].items()}
    digests = {"evidence/suite.lock.json": hashlib.sha256(lock).hexdigest(), f"suite {suite['file']}": suite["digest"]}
    digests |= {f"model {k}": v for k, v in (models | locked["subjects"]).items() if k != told["candidate"]}
    digests |= {f"rows {name}": rows["sha256"] for name, rows in locked["data"].items()}
    digests |= {f"plugin {one['name']}": one["code"] for one in locked["plugins"]}
    return {
        "buildDefinition": {
            "buildType": f"{RUN}:v1",
            "externalParameters": {"suite": suite["file"], "options": told["invocation"]},
            "resolvedDependencies": [{"name": n, "digest": {"sha256": d}} for n, d in digests.items() if d],
        },
        "runDetails": {
            "builder": {"id": RUN, "version": {"finetune-harness": locked["harness"]}},
            "metadata": {"startedOn": told["started"]},
        },
    }


def third_party_plugins(lock: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a lock's plugins from other distributions than the harness."""
    own, *plugins = lock["plugins"]
    labels = {own["distribution"]} - {None} if "(not as" not in str(own["distribution"]) else set()
    return [p for p in plugins if p["distribution"] not in labels]


def read_envelopes(text: str) -> list[Envelope]:
    """Read the lines of claims.intoto.jsonl.

    Raises ValueError unless each is exactly as `Envelope.to_json_line` writes it.
    """
    if not text.endswith("\n"):
        raise ValueError("the last line is truncated")
    found = []
    for number, line in enumerate(text[:-1].split("\n"), 1):
        try:
            data = json.loads(line)
            payload = base64.b64decode(data["payload"], validate=True)
            signed = {str(s["keyid"]): base64.b64decode(s["sig"], validate=True) for s in data["signatures"]}
        except (KeyError, TypeError, ValueError, RecursionError):
            raise ValueError(f"line {number} is not a DSSE envelope") from None
        envelope = Envelope(payload, signed)
        if envelope.to_json_line() != line:
            raise ValueError(f"line {number} is not a DSSE envelope as written by the harness")
        found.append(envelope)
    return found


def statement_bytes(kind: str, subject: Sequence[Any], predicate: Mapping[str, Any]) -> bytes:
    """Serialize a statement as canonical JSON, always the same bytes."""
    statement = {"_type": STATEMENT, "subject": subject, "predicateType": kind, "predicate": predicate}
    return json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()


def format_decimal(number: float) -> str:
    """Format a number with the fewest digits that identify it. There is no exponent."""
    return format(Decimal(repr(number)), "f")
