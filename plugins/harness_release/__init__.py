"""What a release has beside what decides it: promotions, signatures, the card, a replay; and what suites may say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.internals import lazily

if TYPE_CHECKING:
    from harness_release.replay import Again, again
    from harness_release.signing import enveloped, signer_of

__all__ = ["Again", "again", "enveloped", "signer_of"]
LATER = dict.fromkeys(("Again", "again"), "harness_release.replay")
__getattr__ = lazily(__name__, LATER | dict.fromkeys(("enveloped", "signer_of"), "harness_release.signing"))
