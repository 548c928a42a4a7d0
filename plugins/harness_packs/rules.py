"""Instructions that code can verify, by rule name and arguments.

The idea is IFEval's (Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models"); prompts and code
are our own, and short enough for models of a hundred million parameters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

FENCE = re.compile(r"(?P<mark>`{3,}+|~{3,}+)\w*\s*(?P<inner>.*?)(?P=mark)", re.DOTALL)
BULLET = re.compile(r"^\s*[-*•]\s+\S", re.MULTILINE)
NUMBERED_LINE = re.compile(r"^\s*(\d+)[.)]\s+\S", re.MULTILINE)


def lower(answer: str) -> bool:
    """Return whether no letter is a capital one."""
    return answer == answer.lower() and any(c.isalpha() for c in answer)


def upper(answer: str) -> bool:
    """Return whether every letter is a capital one."""
    return answer == answer.upper() and any(c.isalpha() for c in answer)


def bullets(answer: str, count: int) -> bool:
    """Return whether there are exactly `count` bulleted lines."""
    return len(BULLET.findall(answer)) == count


def numbered(answer: str, count: int) -> bool:
    """Return whether the numbered lines are exactly 1 to `count`."""
    return [int(n) for n in NUMBERED_LINE.findall(answer)] == list(range(1, count + 1))


def keys(answer: str, names: Sequence[str]) -> bool:
    """Return whether the answer is a JSON object with exactly these keys."""
    return isinstance(found := _parse_json_or_none(answer), dict) and sorted(found) == sorted(names)


def equals(answer: str, value: Mapping[str, Any]) -> bool:
    """Return whether the answer is this JSON object."""
    return bool(_parse_json_or_none(answer) == value)


def starts(answer: str, word: str) -> bool:
    """Return whether the answer begins with a word."""
    return re.match(rf"\W*{re.escape(word)}(?!\w)", answer) is not None


def ends(answer: str, text: str) -> bool:
    """Return whether the answer ends with a text. Quotes and white space behind it are ignored."""
    return answer.rstrip(" \n\"'”").endswith(text)


def words(answer: str, least: int, most: int) -> bool:
    """Return whether the number of words is in a range."""
    return least <= len(answer.split()) <= most


def includes(answer: str, texts: Sequence[str]) -> bool:
    """Return whether all words are in the answer."""
    return all(re.search(rf"(?<!\w){re.escape(text)}(?!\w)", answer, re.IGNORECASE) for text in texts)


def one_of(answer: str, options: Sequence[str]) -> bool:
    """Return whether the answer is one of some words. Case and a final full stop are ignored."""
    return answer.strip().rstrip(".").casefold() in [option.casefold() for option in options]


def copies(answer: str, text: str) -> bool:
    """Return whether the answer is a text, ignoring surrounding quotes."""
    return answer.strip().strip("\"'“”") == text


def items(answer: str, count: int) -> bool:
    """Return whether the answer is `count` short items between commas. They are on one line."""
    found = [item.strip() for item in answer.strip().rstrip(".").split(",")]
    return "\n" not in answer.strip() and len(found) == count and all(0 < len(i.split()) <= 3 for i in found)


def quoted(answer: str) -> bool:
    """Return whether the answer stands between double quotes."""
    text = answer.strip()
    return len(text) > 2 and text[0] in '"“' and text[-1] in '"”'


CHECKS = (lower, upper, bullets, numbered, keys, equals, starts, ends, words, includes, one_of, copies, items, quoted)
RULES: dict[str, Callable[..., bool]] = {rule.__name__: rule for rule in CHECKS}


def follows_rule(answer: str, rule: str, arguments: Mapping[str, Any]) -> bool:
    """Return whether an answer keeps a rule."""
    return RULES[rule](answer.strip(), **arguments)


def _parse_json_or_none(answer: str) -> Any:
    """Parse the answer as JSON, with or without a code fence."""
    fenced = FENCE.fullmatch(answer.strip())
    try:
        return json.loads(fenced["inner"] if fenced else answer)
    except (ValueError, RecursionError):
        return None
