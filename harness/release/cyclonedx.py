"""A CycloneDX 1.6 bill of materials of an export: the model, what it was made of, and what its gates found."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.answers import keys
from harness.artifacts.attestation import CLAIMS, EVIDENCE, GATES, MODEL, format_decimal
from harness.errors import UsageError
from harness.release.evidence import ReadEvidence, read_evidence
from harness.release.verified import VerifiedExport

MODEL_TYPE = "machine-learning-model"
SPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:finetune-harness")  # of serial numbers
WEIGHTS = "sha256 of its tensors as digested by the harness, not of a single file"
ROWS = "sha256 of its rows as digested by the harness, not of a file"
TREE = "sha256 is the root digest of model/, as in OpenSSF model signing"
Part = dict[str, Any]


def cyclonedx_writer(key: Path | None) -> Callable[[VerifiedExport], str]:
    """Return a writer of bills of materials. Raises UsageError if a key is given, since they are not signed."""
    if key:
        raise UsageError("--as cyclonedx is not signed; remove --sign-with, or sign its output")
    return lambda found: write_bom(found, read_evidence(found)) if found.ok else ""


def write_bom(found: VerifiedExport, evidence: ReadEvidence) -> str:
    """Return the bill of materials as JSON. The same evidence and notes give the same text."""
    lock, manifest = evidence.lock, evidence.manifest
    data = [
        _make_part(
            "data", f"rows:{name}", name, rows["sha256"], f"{rows['rows']} rows; {ROWS}", data=[{"type": "dataset"}]
        )
        for name, rows in lock["data"].items()
    ]
    files = [_make_part("file", name, name, sha) for name, sha in evidence.files.items()]
    plugins = []
    for number, one in enumerate(lock["plugins"]):
        name, version, *changed = [*(one["distribution"] or "").split(" ", 2), ""][:3]
        whole = bool(name) and not "".join(changed)  # else its code is not that of the package
        about = (
            {"group": name, "version": version, "purl": _make_library_part("", name, version)["purl"]} if whole else {}
        )
        label = f", of {one['distribution']}" if name and not whole else ""
        says = f"a plugin{label}; sha256 of its code"
        plugins.append(_make_part("library", f"plugin:{number}", one["name"], one["code"], says, **about))
    packages = [_make_library_part(f"package:{n}", n, v) for n, v in lock["packages"].items() if n != keys.CORE]
    parts = [*data, *plugins, *packages, *(f for f in files if not f["name"].startswith(f"{MODEL}/"))]
    tool = {"type": "application", "name": "finetune-harness", "version": lock["harness"]}
    model = _make_model_part(found, evidence) | {"components": [f for f in files if f["name"].startswith(f"{MODEL}/")]}
    made = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(SPACE, json.dumps(found.read, sort_keys=True))}",
        "version": 1,
        "metadata": {"timestamp": manifest["started"], "tools": {"components": [tool]}, "component": model},
        "components": parts,
        "dependencies": [{"ref": "model", "dependsOn": [part["bom-ref"] for part in data]}],
        "declarations": _make_passed_gate_declarations(evidence),
    }
    return json.dumps(made, indent=1) + "\n"


def _make_model_part(found: VerifiedExport, evidence: ReadEvidence) -> Part:
    lock, manifest = evidence.lock, evidence.manifest
    before = {"base": {"candidate": lock["suite"]["model"]["path"], "weights": lock["subjects"].get("base", "")}}
    before = {"parent": manifest["made_of"]} | before if "made_of" in manifest else before
    ancestors = [_make_part(MODEL_TYPE, ref, one["candidate"], one["weights"], WEIGHTS) for ref, one in before.items()]
    metrics = dict.fromkeys(
        json.dumps(m) for g in evidence.gates for m in _iterate_gate_metrics(g)
    )  # several gates ask the same
    failed = [f'gate "{g["gate"]}" is {g["outcome"]}: {g["why"]}' for g in evidence.gates if g["outcome"] != "PASS"]
    card = {
        "modelParameters": {"task": "text-generation", "datasets": [{"ref": f"rows:{name}"} for name in lock["data"]]},
        "quantitativeAnalysis": {"performanceMetrics": [json.loads(metric) for metric in metrics]},
        "considerations": {"technicalLimitations": [*failed, *found.notes]},
        "properties": [{"name": "finetune-harness:weights", "value": manifest["weights"]}],
    }
    claims = {"alg": "SHA-256", "content": found.read[CLAIMS]}
    return _make_part(
        MODEL_TYPE, "model", manifest["name"], found.root, f"{manifest['candidate']}; {TREE}",
        version=found.root[:16], modelCard=card, pedigree={"ancestors": ancestors},
        externalReferences=[{"type": "attestation", "url": f"{EVIDENCE}/{CLAIMS}", "hashes": [claims]}],
    )  # fmt: skip


def _iterate_gate_metrics(gate: Mapping[str, Any]) -> Iterator[Part]:
    """Yield the numbers of a gate: the metric, what it changed from the baseline, and the bounds on each slice.

    Bounds are one-sided, at the gate's risk each.
    """
    value, versus, name = _format_decimal_or_empty(gate, "value"), gate["versus"], gate["metric"]
    bounds = {"confidenceInterval": found} if (found := _make_confidence_interval(gate)) else {}
    slices = gate["parts"].get("slices")
    of = {"slice": slices["driver"]} if slices else {}  # whose numbers are the gate's
    if value:
        yield {"type": name, "value": value, **of, **({} if versus else bounds)}
    if versus and bounds:
        yield {
            "type": f"{name}, change from {versus}",
            "value": _format_decimal_or_empty(gate, "estimate"),
            **of,
            **bounds,
        }
    for one in slices["slices"] if slices else ():
        if found := _make_confidence_interval(one):
            told = f"{name}, change from {versus}" if versus else name
            yield {"type": told, "slice": one["name"], "confidenceInterval": found}


def _make_confidence_interval(told: Mapping[str, Any]) -> dict[str, str]:
    found = {
        "lowerBound": _format_decimal_or_empty(told, "lower"),
        "upperBound": _format_decimal_or_empty(told, "upper"),
    }
    return {key: number for key, number in found.items() if number}


def _format_decimal_or_empty(told: Mapping[str, Any], key: str) -> str:
    return "" if told[key] is None else format_decimal(told[key])


def _make_library_part(ref: str, name: str, version: str) -> Part:
    return _make_part("library", ref, name, version=version, purl=f"pkg:pypi/{quote(name.lower())}@{quote(version)}")


def _make_part(kind: str, ref: str, name: str, sha256: str = "", says: str = "", **more: Any) -> Part:
    hashed = {"hashes": [{"alg": "SHA-256", "content": sha256}]} if sha256 else {}
    return {"type": kind, "bom-ref": ref, "name": name, **({"description": says} if says else {}), **hashed, **more}


def _make_passed_gate_declarations(evidence: ReadEvidence) -> Part:
    """Return one CycloneDX claim for each passed gate. Each cites gates.json as its evidence."""
    file = f"{EVIDENCE}/{GATES}"
    claims = [
        {"bom-ref": f"gate:{g['gate']}", "target": "model", "predicate": f"{g['metric']} {g['claim']}".strip()}
        | {"reasoning": g["why"], "evidence": ["gates"]}
        for g in evidence.gates
        if g["outcome"] == "PASS"
    ]
    found = {"bom-ref": "gates", "propertyName": file, "data": [{"name": file, "contents": {"url": file}}]}
    return {"claims": claims, "evidence": [found]}
