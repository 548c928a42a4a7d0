"""`harness keygen` and `harness sign`: the one step that needs a key, and nothing but the key and the evidence.

Ed25519 in DSSE envelopes by securesystemslib, offline. The key is written and read as PEM, PKCS 8.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from harness.artifacts import attestation
from harness.artifacts.attestation import CARD, CLAIMS, EVIDENCE
from harness.artifacts.folders import ForeignFolder
from harness.errors import UsageError, missing_modules_message
from harness.files import open_file, reporting_write_errors, write_text
from harness.release.verify import verify_export
from harness.texts.secrets import TOKENS

SECRETS = {what: re.compile(pattern.encode()) for what, pattern in TOKENS.items()}


class SignedExport(NamedTuple):
    """The id of the signing key, and the signed root digest."""

    keyid: str
    root: str


def generate_key(name: Path) -> tuple[Path, Path]:
    """Generate a key pair as NAME.key and NAME.pub.

    The private NAME.key is readable by its owner alone, NAME.pub is a table for a policy. Raises UsageError if one of
    them exists or cannot be written.
    """
    signer = _import_signer().generate_ed25519()
    public = signer.public_key
    private, told = (name.with_name(name.name + suffix) for suffix in (".key", ".pub"))
    for path in (private, told):
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path}: exists already; keys are never overwritten, so choose another name")
    text = f'[[key]]\nname = "{name.name}"\nkeyid = "{public.keyid}"\npublic = "{public.keyval["public"]}"\n'
    try:
        name.parent.mkdir(parents=True, exist_ok=True)
        for path, data, mode in ((private, signer.private_bytes, 0o600), (told, text.encode(), 0o644)):
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as f:
                f.write(data)
    except OSError as error:
        raise UsageError(f"{error.filename or name}: cannot be written: {error.strerror}") from None
    return private, told


def sign_export(folder: Path, key: Path, *, unrecomputed: bool = False) -> SignedExport:
    """Verify an export and sign its claims.

    Exports that are inconsistent or contain a secret are not signed. Gates are recomputed from their rows; with
    `unrecomputed` a gate that cannot be recomputed is trusted. The new envelopes are appended, so that each signer's
    lines stay as they are. Raises UsageError if the export is not signed.
    """
    signer = load_signer(key)
    found = verify_export(folder)
    left = [f'gate "{gate}" cannot be decided again: {why}' for gate, why in found.unable.items()]
    if not found.ok:
        raise UsageError(f"{folder}: is not signed: {found.refused}")
    if found.missing:
        raise UsageError(f"{folder}: is not signed: {left[0]}")
    if left and not unrecomputed:
        raise UsageError(f"{folder}: is not signed: {left[0]}; to sign nevertheless use --unrecomputed")
    _check_secrets(folder)
    found.check_unchanged()
    keyid, path, text = str(signer.public_key.keyid), folder / EVIDENCE / CLAIMS, found.raw[CLAIMS].decode()
    envelopes = attestation.read_envelopes(text)
    signed = {e.payload for e in envelopes if keyid in e.signatures}
    new = [make_envelope(p, signer) for p in dict.fromkeys(e.payload for e in envelopes) if p not in signed]
    with reporting_write_errors(path):
        write_text(path, text + "".join(f"{e.to_json_line()}\n" for e in new), below=folder)
    return SignedExport(keyid, found.root)


def make_envelope(payload: bytes, signer: Any) -> attestation.Envelope:
    """Return a statement in an envelope that one key signed."""
    from securesystemslib.dsse import Envelope

    signature = Envelope(payload, attestation.PAYLOAD, {}).sign(signer)
    return attestation.Envelope(payload, {str(signature.keyid): bytes.fromhex(signature.signature)})


def _check_secrets(folder: Path) -> None:
    """Raise UsageError when card or evidence hold a token: what is signed is shown around."""
    export = ForeignFolder(folder)
    for name in (name for name in export.list_files() if name == CARD or name.startswith(f"{EVIDENCE}/")):
        with export.open(name) as f:
            for number, line in enumerate(f, 1):
                if what := next((what for what, pattern in SECRETS.items() if pattern.search(line)), ""):
                    raise UsageError(
                        f"{folder / name}:{number}: looks like {what}; remove it from the suite and run it again"
                    )


def load_signer(key: Path, option: str = "--key") -> Any:
    """Load a signer for an Ed25519 key. Raises UsageError if the key is unusable."""
    private = read_private_key(key, option)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if not isinstance(private, Ed25519PrivateKey):
        raise UsageError(f"{option} {key}: is not an Ed25519 key; create one with harness keygen")
    return _import_signer()(private)


def read_private_key(key: Path, option: str) -> Any:
    """Read a private key, which nobody else may read. Raises UsageError."""
    _import_signer()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        with open_file(key, follow=True) as f:
            mode, data = os.fstat(f.fileno()).st_mode, f.read()
        private = load_pem_private_key(data, None)
    except OSError as error:
        raise UsageError(f"{option} {key}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise UsageError(f"{option} {key}: is not a private key in PEM: {' '.join(str(error).split())}") from None
    except Exception as error:  # cryptography's own, for keys it does not know
        raise UsageError(f"{option} {key}: cannot be used: {' '.join(str(error).split())}") from None
    if mode & 0o077:
        raise UsageError(f"{option} {key}: others than its owner can read or write it; chmod 600 {key}")
    return private


def _import_signer() -> Any:
    try:
        import cryptography  # noqa: F401
        from securesystemslib.signer import CryptoSigner
    except ModuleNotFoundError as error:
        raise UsageError(f"signing: {missing_modules_message(error.name)}") from None
    return CryptoSigner
