"""`harness verify --as`: what was found of an export in the words of other tools, once it is verified.

Each format is a module of its own. They write from the very bytes of the evidence that were verified.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness.errors import UsageError, did_you_mean
from harness.release.verify import MALFORMED, Verified
from harness_release.evidence import read_evidence


def writer(kind: str, policy: Path | None, key: Path | None) -> Callable[[Verified], str]:
    """Return what writes a verified export in a format; of one that was refused a summary, and else nothing.

    Raises UsageError where the format needs a policy or a key, or knows none, or the key is not of its kind. What it
    returns raises one where the evidence does not say what the format asks.
    """
    formats = {"vsa": _vsa, "cyclonedx": _cyclonedx, "model-signing": _model_signing}
    if kind not in formats:
        raise UsageError(f'--as "{kind}": no such format{did_you_mean(kind, formats)}')
    make = formats[kind](policy, key)

    def write(found: Verified) -> str:
        try:
            return make(found)
        except MALFORMED as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UsageError(f"--as {kind}: {found.folder}: the evidence is malformed: {why}") from None

    return write


def _vsa(policy: Path | None, key: Path | None) -> Callable[[Verified], str]:
    from harness_release import vsa

    if policy is None:
        raise UsageError("--as vsa says that a policy was met; give --policy FILE too")
    return partial(vsa.summary, vsa.policy_of(policy), vsa.signer(key))


def _cyclonedx(policy: Path | None, key: Path | None) -> Callable[[Verified], str]:
    from harness_release import cyclonedx

    if key:
        raise UsageError("--as cyclonedx is not signed; leave out --sign-with, or sign what is printed")
    return lambda found: cyclonedx.bom(found, read_evidence(found)) if found.ok else ""


def _model_signing(policy: Path | None, key: Path | None) -> Callable[[Verified], str]:
    from harness_release import model_signing

    if key is None:
        raise UsageError("--as model-signing is a signature; give --sign-with FILE, a private EC key")
    private = model_signing.private_key(key)
    return lambda found: model_signing.bundle(found, read_evidence(found), private) if found.ok else ""
