"""What a release has beside what decides it: promotions, signatures, the card, a replay; and what suites may say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.internals import attach

if TYPE_CHECKING:  # what is imported when it is asked for
    from harness_release.replay import Again as Again
    from harness_release.replay import again as again
    from harness_release.signing import enveloped as enveloped
    from harness_release.signing import signer_of as signer_of

__getattr__, _ = attach(__name__, __file__)
