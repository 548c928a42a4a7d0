"""OpenSSF model signatures of a model folder, for `model_signing verify key`.

The predicate is https://model_signing/signature/v1.0, in a Sigstore bundle without a log entry. Keys are ECDSA keys.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.artifacts.attestation import MODEL, PAYLOAD, statement_bytes
from harness.errors import UsageError
from harness.release.evidence import ReadEvidence, read_evidence
from harness.release.signing import read_private_key
from harness.release.verified import VerifiedExport

KIND = "https://model_signing/signature/v1.0"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
CURVES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}


def model_signing_writer(key: Path | None) -> Callable[[VerifiedExport], str]:
    """Return a writer of model signatures by an EC private key.

    Raises UsageError for any other key, and for a curve that model_signing does not accept.
    """
    if key is None:
        raise UsageError("--as model-signing writes a signature; add --sign-with FILE, a private EC key")
    private = read_private_key(key, "--sign-with")
    if getattr(getattr(private, "curve", None), "name", "") not in CURVES:
        make = f"openssl ecparam -name prime256v1 -genkey -noout -out {key}"
        raise UsageError(
            f"--sign-with {key}: is not an EC key such as P-256, which model-signing needs; create one with {make}"
        )
    return lambda found: sign_bundle(found, read_evidence(found), private) if found.ok else ""


def sign_bundle(found: VerifiedExport, evidence: ReadEvidence, private: Any) -> str:
    """Return a signed Sigstore bundle over the files in model/. It uses the digests that were verified."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from securesystemslib.dsse import Envelope

    files = {n.removeprefix(f"{MODEL}/"): sha for n, sha in evidence.files.items() if n.startswith(f"{MODEL}/")}
    ordered = sorted(files, key=lambda name: name.split("/"))  # as the root digest has them
    predicate = {
        "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
        "resources": [{"name": name, "algorithm": "sha256", "digest": files[name]} for name in ordered],
    }
    statement = statement_bytes(KIND, [{"name": MODEL, "digest": {"sha256": found.root}}], predicate)
    digest = getattr(hashes, CURVES[private.curve.name])()
    signature = private.sign(Envelope(statement, PAYLOAD, {}).pae(), ec.ECDSA(digest))
    told = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    public = private.public_key().public_bytes(*told)
    envelope = {
        "payload": base64.b64encode(statement).decode(),
        "payloadType": PAYLOAD,
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
    }
    material = {"publicKey": {"hint": hashlib.sha256(public).hexdigest()}, "tlogEntries": []}
    return json.dumps({"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope}) + "\n"
