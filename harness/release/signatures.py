"""Who signed an envelope, of those whom a policy trusts. Needs securesystemslib, imported where it is asked."""

from __future__ import annotations

from harness.artifacts.attestation import CLAIMS, PAYLOAD, Envelope
from harness.errors import UsageError
from harness.release.policy import Policy


class ExportRefused(Exception):
    """An export that must not be deployed, and why, in one line."""


def signers(envelope: Envelope, policy: Policy) -> set[str]:
    """Return the ids of the policy's keys that signed an envelope; raises ExportRefused where a signature is wrong."""
    try:
        from securesystemslib.dsse import Envelope as Signed
        from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
        from securesystemslib.signer import Signature, SSlibKey
    except ModuleNotFoundError as error:
        raise UsageError(f"--policy needs the module {error.name}; pip install 'finetune-harness[sign]'") from None
    keys = {k.keyid: SSlibKey(k.keyid, "ed25519", k.scheme, {"public": k.public.lower()}) for k in policy.keys}
    whole = Signed(envelope.payload, PAYLOAD, {})
    by = set()
    for keyid, signature in envelope.signatures.items():
        if keyid in keys:
            try:
                keys[keyid].verify_signature(Signature(keyid, signature.hex()), whole.pae())
            except (UnverifiedSignatureError, VerificationError):
                name = next(k.name for k in policy.keys if k.keyid == keyid) or keyid[:16]
                what = f'the signature by key "{name}" is wrong, whoever else signed'
                raise ExportRefused(f"{what}; have that line taken out of {CLAIMS}, or sign again") from None
            by.add(keyid)
    return by
