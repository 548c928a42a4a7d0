"""Rows that ask nothing, repeat an earlier row, or contradict another one.

`harness init` leaves such rows out, and the checks report them, by the same rules.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Collection, Hashable, Sequence
from typing import NamedTuple

from harness.data.identity import canonical_text
from harness.texts.missing import MISSING_VALUES


class StatedPreference(NamedTuple):
    """Which answer to a question a row prefers.

    `rejected` is the answer that it rejects, or None where the row has a single answer that is `wanted` or not.
    """

    question: str
    answer: str
    rejected: str | None = None
    wanted: bool = True


def is_missing(text: str) -> bool:
    """Return whether a text is empty, or marks a missing value as tools write it."""
    return " ".join(text.split()).lower() in MISSING_VALUES


def normalize_question(text: str) -> str:
    """Return a question in NFC with single spaces; case, fractions and powers keep their meaning."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def make_pair_key(question: str, answer: str) -> tuple[str, str]:
    """Return what a question and its answer have in common with a repeat of them in another spelling."""
    return canonical_text(question), canonical_text(answer)


def find_repeats(keys: Sequence[Collection[Hashable]]) -> dict[int, int]:
    """Return the rows that have a key of an earlier row, with the number of that row.

    A row that repeats another one does not make a later row a repeat.
    """
    first, repeats = dict[Hashable, int](), dict[int, int]()
    for i, own in enumerate(keys):
        earlier = next((first[key] for key in own if key in first), None)
        if earlier is None:
            first |= dict.fromkeys(own, i)
        else:
            repeats[i] = earlier
    return repeats


def group_by_question(questions: Sequence[str]) -> list[list[int]]:
    """Return the rows that ask the same, by their first rows."""
    groups = defaultdict[str, list[int]](list)
    for i, question in enumerate(questions):
        groups[normalize_question(question)].append(i)
    return [*groups.values()]


def find_conflicts(questions: Sequence[str], answers: Sequence[Hashable]) -> list[list[int]]:
    """Return the rows of each question that has several answers."""
    groups = group_by_question(questions)
    return [group for group in groups if len({answers[i] for i in group}) > 1]


def find_contradictions(preferences: Sequence[StatedPreference]) -> list[tuple[int, int]]:
    """Return the rows that prefer what an earlier row rejects, behind that row."""
    first, contradictions = dict[StatedPreference, int](), list[tuple[int, int]]()
    for i, stated in enumerate(preferences):
        question, answer = make_pair_key(stated.question, stated.answer)
        if stated.rejected is None:
            own = StatedPreference(question, answer, None, stated.wanted)
            opposite = own._replace(wanted=not stated.wanted)
        else:
            own = StatedPreference(question, answer, canonical_text(stated.rejected))
            opposite = StatedPreference(question, canonical_text(stated.rejected), answer)
        first.setdefault(own, i)
        if opposite in first and own != opposite:
            contradictions.append((first[opposite], i))
    return contradictions
