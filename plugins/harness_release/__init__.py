"""What a release has beside what decides it: promotions, signatures, the card, a replay; and what suites may say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.internals import lazily

if TYPE_CHECKING:
    from harness_release.signing import enveloped, signer_of

__all__ = ["enveloped", "signer_of"]
__getattr__ = lazily(__name__, dict.fromkeys(__all__, "harness_release.signing"))
