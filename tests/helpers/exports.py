"""Edits of an export by one who wants to deceive, without a key."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.artifacts import attestation
from harness.artifacts.attestation import CLAIMS, EVIDENCE, GATES, LOCK, MANIFEST, MODEL
from harness.artifacts.digests import file_digest, hash_files, root_digest, weights_digest_of_files
from harness.artifacts.folders import list_files
from harness.gates.attempts import ID_DIGITS, hash_line
from harness.release.evidence_rows import read_rows
from harness.release.ledger_evidence import read_attempts
from harness.release.lock_reader import read_lock
from harness.release.recomputation import CandidateEvidence
from harness.texts.json_text import dumps


def reseal(export: Path, **changes: Any) -> None:
    """Make manifest and claims right again after an edit, as one who wants to deceive would, without a key."""
    manifest = json.loads((export / EVIDENCE / MANIFEST).read_text("utf-8"))
    there = {n: s for n, s in list_files(export).items() if n not in attestation.UNLISTED}
    manifest["files"] = {n: {"size": s, "sha256": file_digest(export / n)} for n, s in there.items()}
    model = {n.removeprefix("model/"): f["sha256"] for n, f in manifest["files"].items() if n.startswith("model/")}
    manifest |= {"root": root_digest(model), **changes}
    gates = json.loads((export / EVIDENCE / GATES).read_text("utf-8"))
    if "weights" not in changes:
        gates = rejudge_weights(export, manifest, gates)
    text, lock = json.dumps(manifest).encode(), (export / EVIDENCE / LOCK).read_bytes()
    (export / EVIDENCE / MANIFEST).write_bytes(text)
    lines = [attestation.Envelope(s, {}).to_json_line() + "\n" for s in attestation.make_statements(text, lock, gates)]
    (export / EVIDENCE / CLAIMS).write_text("".join(lines), "utf-8")


def rejudge_weights(export: Path, manifest: dict[str, Any], gates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Let manifest and gates speak of the weights that are there now."""
    try:
        weights = weights_digest_of_files(hash_files(export / MODEL, list_files(export / MODEL)))
    except ValueError:  # of weights that are none there is no digest
        return gates
    gates = [{**g, "digest": weights if g["digest"] == manifest["weights"] else g["digest"]} for g in gates]
    path = export / EVIDENCE / GATES
    path.write_text(json.dumps(gates), "utf-8")
    manifest["files"][f"{EVIDENCE}/{GATES}"] = {"size": path.stat().st_size, "sha256": file_digest(path)}
    manifest["weights"] = weights
    return gates


def edit_gates(export: Path, **changes: Any) -> None:
    """Change the verdict on the gate "floor"."""
    path = export / EVIDENCE / GATES
    gates = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps([{**g, **changes} if g["gate"] == "floor" else g for g in gates]), "utf-8")
    reseal(export)


def waive_gate(export: Path, waiver: dict[str, str]) -> None:
    """Waive a gate in the lock and in its verdict, as if somebody had before the run."""
    path = export / EVIDENCE / LOCK
    lock = json.loads(path.read_text("utf-8"))
    digest = next(gate["digest"] for gate in lock["gates"] if gate["id"] == waiver["gate"])
    lock["waivers"] = [{**waiver, "digest": digest}]
    path.write_text(json.dumps(lock), "utf-8")
    waive_verdict(export, lock["waivers"][0])


def waive_verdict(export: Path, waiver: dict[str, str], **changes: Any) -> None:
    """Add a waiver to the verdict on the gate "floor" alone."""
    gates = json.loads((export / EVIDENCE / GATES).read_text("utf-8"))
    parts = next(g["parts"] for g in gates if g["gate"] == "floor")
    edit_gates(export, parts={**parts, "waived": {"critical": True, "line": waiver}}, **changes)


def ledger_of_weights(manifest: dict[str, Any], weights: str) -> dict[str, Any]:
    """Return the ledger of a manifest with the lines of its candidate written anew for other weights."""
    ledger = manifest["ledger"]
    looks = [
        {**line, "weights": weights} if line["weights"] == manifest["weights"] else line for line in ledger["looks"]
    ]
    looks = [{**line, "id": hash_line(line)} for line in looks]
    ids = {old["id"]: new["id"] for old, new in zip(ledger["looks"], looks, strict=True)}
    short = {old[:ID_DIGITS]: new[:ID_DIGITS] for old, new in ids.items()}
    attempts = {
        name: {**entry, "line": ids[entry["line"]], "near": [ids[line] for line in entry["near"]]}
        for name, entry in ledger["attempts"].items()
    }
    lists = {key: sorted(short.get(id_, id_) for id_ in ledger[key]) for key in ("lines", "heads")}
    return {**ledger, **lists, "looks": looks, "attempts": attempts}


def decide_gates_again(export: Path) -> None:
    """Let the verdicts say what lock and rows give, as one who made these up would."""
    folder = export / EVIDENCE
    manifest, lock, gates = (json.loads((folder / name).read_text("utf-8")) for name in (MANIFEST, LOCK, GATES))
    reseal(export)
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    locked, recorded = read_lock(lock, manifest["candidate"]), {verdict["gate"]: verdict for verdict in gates}
    rows = read_rows(export, manifest)
    evidence = CandidateEvidence(locked, manifest, recorded, rows, read_attempts(manifest, locked, rows))
    decided = [
        verdict
        if evidence.find_obstacle(locked.gates[name])
        else json.loads(dumps(asdict(evidence.decide(locked.gates[name]))))
        for name, verdict in recorded.items()
    ]
    (folder / GATES).write_text(json.dumps(decided), "utf-8")
    reseal(export)
