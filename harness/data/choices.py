"""Which of several choices an answer names."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any


def find_choice_index(answer: Any, options: Sequence[str], labels: Sequence[Any] = ()) -> int | None:
    """Return the number of a choice, from 0, by its label, its text, its letter from A or its number from 0.

    None if the answer names none of them.
    """
    if answer in labels:
        answer = labels.index(answer)
    elif isinstance(answer, str) and answer in options:
        answer = options.index(answer)
    elif isinstance(answer, str) and len(answer) == 1 and answer in string.ascii_uppercase:
        answer = string.ascii_uppercase.index(answer)
    elif isinstance(answer, str) and answer.isdecimal():
        answer = int(answer)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(options):
        return answer
    return None
