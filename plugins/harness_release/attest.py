"""`harness verify --as`: what was found of an export in the words of other tools, once it is verified.

Each format is a module of its own. They write from the very bytes of the evidence that were verified.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from harness.artifacts.strict import MALFORMED
from harness.errors import UsageError, did_you_mean
from harness.release.policy import Policy
from harness.release.verified import Verified

FORMATS = {"vsa": "vsa", "cyclonedx": "cyclonedx", "model-signing": "model_signing"}


def writer(kind: str, policy: Policy | None, name: str, key: Path | None) -> Callable[[Verified], str]:
    """Return what writes a verified export in a format, under a policy of a file's `name`.

    Of an export that was refused it is a summary, and else nothing.

    Raises UsageError where the format needs a policy or a key, or knows none, or the key is not of its kind. What it
    returns raises one where the evidence does not say what the format asks.
    """
    if kind not in FORMATS:
        raise UsageError(f'--as "{kind}": is not a known format{did_you_mean(kind, FORMATS)}')
    make: Callable[[Verified], str] = import_module(f"harness_release.{FORMATS[kind]}").writer(policy, name, key)

    def write(found: Verified) -> str:
        if found.ok:
            found.check_unchanged()
        try:
            return make(found)
        except MALFORMED as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UsageError(f"--as {kind}: {found.folder}: the evidence is malformed: {why}") from None

    return write
