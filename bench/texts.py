"""The texts that are scored and continued: passages of Python's own documentation, so nothing is downloaded.

A multiple-choice document is the beginning of a passage and four endings, of which three are other passages' own.
With SmolLM2's tokenizer a beginning has about 47 tokens and an ending 8, between those of ARC and of HellaSwag.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

CHOICES = 4
BEGINNING, ENDING = 36, 6  # words
Pair = tuple[str, str]


@dataclass(frozen=True)
class Document:
    """The beginning of a passage, its possible endings, and the number of its own."""

    beginning: str
    endings: tuple[str, ...]
    gold: int

    @property
    def worked(self) -> str:
        """The document with its answer, as an example in a prompt."""
        return self.beginning + self.endings[self.gold]


def read_passages() -> list[str]:
    """Return the paragraphs of prose that have enough words, in a fixed random order."""
    from pydoc_data.topics import topics

    found = set()
    for page in topics.values():
        for paragraph in re.split(r"\n\s*\n", page):
            words = paragraph.split()
            prose = re.match(r"[A-Z][a-z]*\s", paragraph) and "::=" not in paragraph
            if prose and len(words) >= BEGINNING + ENDING:
                found.add(" ".join(words))
    return random.Random(17).sample(sorted(found), len(found))


def make_documents(number: int, shots: int, *, words: int = BEGINNING) -> tuple[list[Document], list[Document]]:
    """Return so many documents, and others that are worked examples; their beginnings have so many words.

    Raises ValueError when there are fewer.
    """
    parts = [text.split() for text in read_passages()]
    if number + shots > len(parts):
        raise ValueError(f"{number} documents and {shots} shots wanted; there are {len(parts)} passages")
    beginnings = [" ".join(p[BEGINNING - words : BEGINNING]) for p in parts]
    endings = [" " + " ".join(p[BEGINNING : BEGINNING + ENDING]) for p in parts]
    chosen = (*range(number), *range(len(parts) - shots, len(parts)))
    every = [_make_document(i, beginnings[i], endings) for i in chosen]
    return every[:number], every[number:]


def make_pairs(asked: Sequence[Document], examples: Sequence[Document]) -> list[Pair]:
    """Return each document's (context, ending) pairs, behind the same worked examples."""
    front = "".join(example.worked + "\n\n" for example in examples)
    return [(front + document.beginning, ending) for document in asked for ending in document.endings]


def chosen(totals: Sequence[float]) -> list[int]:
    """Return the number of the likeliest ending of each document."""
    rows = (totals[i : i + CHOICES] for i in range(0, len(totals), CHOICES))
    return [max(range(CHOICES), key=row.__getitem__) for row in rows]


def _make_document(number: int, beginning: str, endings: Sequence[str]) -> Document:
    draw, own = random.Random(number), endings[number]
    wrong = draw.sample(sorted({*endings} - {own}), CHOICES - 1)
    mixed = draw.sample([own, *wrong], CHOICES)
    return Document(beginning, tuple(mixed), mixed.index(own))
