"""A SLSA verification summary: that an export met a policy, or did not, for those who deploy it further.

https://slsa.dev/verification_summary/v1. The levels are our own: none says how anything was built.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.artifacts.attestation import CLAIMS, EVIDENCE, MODEL, STATEMENT, Envelope, read_envelopes, statement_bytes
from harness.artifacts.digests import file_digest, root_digest
from harness.artifacts.folders import list_files
from harness.artifacts.strict_json import MALFORMED, read_json
from harness.errors import UsageError
from harness.release.evidence import read_evidence
from harness.release.policy import ExportRefusedError, Policy, check_signers, verified_signers
from harness.release.signing import load_signer, make_envelope
from harness.release.verified import VerifiedExport
from harness.texts.escaping import printable
from harness.version import __version__

KIND = "https://slsa.dev/verification_summary/v1"
URN, LEVEL = "urn:finetune-harness", "FINETUNE_HARNESS"


def vsa_writer(policy: Policy | None, name: str, key: Path | None) -> Callable[[VerifiedExport], str]:
    """Return a writer of verification summaries under a policy.

    A `key` signs them. Raises UsageError without a policy, or for an unusable key.
    """
    if policy is None:
        raise UsageError("--as vsa states that a policy was met; add --policy FILE")
    about = {"uri": f"{URN}:policy:{quote(name)}", "digest": {"sha256": policy.digest}}
    return partial(make_summary, about, load_signer(key, "--sign-with") if key else None)


def make_summary(policy: Mapping[str, Any], signer: Any, found: VerifiedExport) -> str:
    """Return the summary of an export that was verified, or refused: a statement, or in an envelope signed by `signer`.

    Of an export whose model cannot be hashed there is none, and a note says why.
    """
    name, model = Path(found.folder).resolve().name, Path(found.folder) / MODEL
    try:
        root = found.root or root_digest({name: file_digest(model / name) for name in list_files(model)})
    except (OSError, ValueError) as error:
        found.notes.append(f"no summary was written, since there are no bytes that it could be about: {error}")
        return ""
    claims = found.read.get(CLAIMS)
    told = {
        "verifier": {"id": f"{URN}:verify", "version": {"finetune-harness": __version__}},
        "timeVerified": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "resourceUri": f"{URN}:export:{quote(name)}",
        "policy": policy,
        "inputAttestations": [{"name": f"{EVIDENCE}/{CLAIMS}", "digest": {"sha256": claims}}] if claims else [],
        "verificationResult": "PASSED" if found.ok else "FAILED",
        "verifiedLevels": verified_levels(found) if found.ok else ["FAILED"],
        "slsaVersion": "1.1",
        **({} if found.ok else {f"{URN}:refused": found.refused}),
    }
    statement = statement_bytes(KIND, [{"name": name, "digest": {"sha256": root}}], told)
    return (make_envelope(statement, signer).to_json_line() if signer else statement.decode()) + "\n"


def verified_levels(found: VerifiedExport) -> list[str]:
    """Return the verified levels of an export, beyond its bytes.

    An export with waivers is GATED_WITH_WAIVERS instead of GATED, so no waiver goes unmentioned.
    """
    evidence = read_evidence(found)
    blocking = [g for g in evidence.gates if g["blocking"]]
    waived = any(g["outcome"] != "PASS" for g in blocking) or bool(evidence.manifest.get("ignored"))
    left = [g for g in blocking if g["gate"] in found.unable or g["outcome"] == "ERROR"]
    held = {
        "GATED_WITH_WAIVERS" if waived else "GATED": True,
        "SIGNED": bool(found.signed_by),
        "RECOMPUTED": "recompute" in found.steps and not left,
        "REPLAYED": "replay" in found.steps,
    }
    return [f"{LEVEL}_{name}" for name, holds in held.items() if holds]


def require_summary(path: Path, found: VerifiedExport, policy: Policy | None) -> str:
    """Check the summaries of a file about a verified export; describe them.

    Raises ExportRefusedError if one is about another root or FAILED, they are under several policies, or too few keys
    of the policy signed them, and UsageError if the file holds no summary.
    """
    try:
        text = path.read_text("utf-8")
        envelopes = [Envelope(text.encode(), {})] if "_type" in text[:200] else read_envelopes(text)
        said = [_parse_summary(envelope) for envelope in envelopes]
    except OSError as error:
        raise UsageError(f"--summary {path}: cannot be read: {error.strerror}") from None
    except MALFORMED as error:
        why = " ".join(str(error).split())
        raise UsageError(f"--summary {path}: is not a verification summary: {type(error).__name__}: {why}") from None
    for envelope, (root, result, says, _) in zip(envelopes, said, strict=True):
        if root != found.root:
            raise ExportRefusedError(f"{path} is about root {root[:16]}, but this export has {found.root[:16]}")
        if policy and not verified_signers(envelope, policy):
            raise ExportRefusedError(f"{path} is not signed with a key of the policy")
        if result != "PASSED":
            raise ExportRefusedError(f"{path} says {json.dumps(says)}")
    if len({about for *_, about in said}) > 1:
        raise ExportRefusedError(f"{path} has summaries under several policies; name a file with one")
    if not policy:
        return f"{said[0][2]}, signer unknown: no policy"
    return f"{said[0][2]}, signed by {', '.join(check_signers(envelopes, policy, str(path)))}"


def _parse_summary(envelope: Envelope) -> tuple[str, str, str, str]:
    """Return a summary's root, result, one-line description and policy. Raises ValueError on another predicate type."""
    statement = read_json(envelope.payload)
    told = statement["predicate"]
    if (statement["_type"], statement["predicateType"]) != (STATEMENT, KIND):
        raise ValueError(f"its predicate is {statement['predicateType']}")
    (subject,) = statement["subject"]
    root, result = str(subject["digest"]["sha256"]), str(told["verificationResult"])
    says = f"{result} on {told['timeVerified']} under {told['policy']['uri']}, {', '.join(told['verifiedLevels'])}"
    return root, result, printable(says), json.dumps(told["policy"], sort_keys=True)
