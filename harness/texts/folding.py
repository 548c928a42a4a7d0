"""Case folding."""

from __future__ import annotations


def fold_case(text: str) -> str:
    """Fold case as Unicode does, and İ to i.

    Unicode's own folding of the Turkish İ keeps its dot as a character of its own, so "İstanbul" would not be
    "istanbul".
    """
    return text.casefold().replace("i\u0307", "i")
