"""Words of a text, to find leaks and near-duplicates.

In a language without spaces each character is a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from harness.texts.folding import fold_case

# of languages that are written without spaces: Thai to Myanmar, Khmer, kana, Han; each character is a word
UNSPACED_SCRIPTS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
WORD = re.compile(rf"[{UNSPACED_SCRIPTS}]|[^\W_{UNSPACED_SCRIPTS}]+")  # an underscore is Markdown's
ALONE = re.compile(rf"[{UNSPACED_SCRIPTS}]")
UNSPACED_SHINGLE = 5  # characters, where one other word changes more shingles
# hyphens and joints that no one sees
INVISIBLE_CHARACTERS = dict.fromkeys((0xAD, *range(0x200B, 0x2010), 0x2060, 0xFEFF))


def count_words(words: Sequence[str]) -> float:
    """Count words. In a language without spaces two characters are one."""
    return sum(0.5 if ALONE.fullmatch(word) else 1.0 for word in words)


def is_unspaced(words: Sequence[str]) -> bool:
    """Return whether most words are from a language without spaces."""
    return 2 * sum(ALONE.fullmatch(word) is not None for word in words) > len(words)


def split_answer(text: str) -> tuple[str, ...]:
    """Split an answer into words, without punctuation that ends sentences. See D11-punctuation."""
    return tuple(word for part in normalize_text(text).split() if (word := part.strip(".,!?")))


def split_words(text: str) -> list[str]:
    return WORD.findall(normalize_text(text))


def normalize_text(text: str) -> str:
    """Normalize invisible differences in a text.

    These are case, forms of characters, and invisible characters.
    """
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", fold_case(unicodedata.normalize("NFKC", text.translate(INVISIBLE_CHARACTERS))))


def split_grams(words: Sequence[str]) -> Iterator[Any]:
    """Yield words and pairs of words.

    In a language without spaces, yield sequences of characters.
    """
    if is_unspaced(words):
        yield from zip(*(words[k:] for k in range(UNSPACED_SHINGLE)), strict=False)
        return
    yield from words
    yield from pairwise(words)
