"""Case folding."""

from __future__ import annotations


def fold_case(text: str) -> str:
    """Return a text without case, as Unicode folds it, and the Turkish İ as i.

    Unicode's own folding of İ keeps its dot as a character of its own, so "İstanbul" would not be "istanbul".
    """
    return text.casefold().replace("i\u0307", "i")
