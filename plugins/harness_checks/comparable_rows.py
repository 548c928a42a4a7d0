"""Rows of training and of evaluations as texts and words that are compared."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness import Sample, TrainingRow
from harness.internals import fold_case, prompt_text
from harness_checks.frames import MOST, find_frame, system_message

BARE = 3  # words at least of a question that is compared without what stands around all of its kind
# of languages that are written without spaces: Thai to Myanmar, Khmer, kana, Han; each character is a word
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")  # an underscore is Markdown's
ALONE = re.compile(rf"[{UNSPACED}]")
UNSEEN = dict.fromkeys((0xAD, *range(0x200B, 0x2010), 0x2060, 0xFEFF))  # hyphens and joints that no one sees


def is_unspaced(words: Sequence[str]) -> bool:
    """Return whether most words are single characters of a language without spaces."""
    return 2 * sum(ALONE.fullmatch(word) is not None for word in words) > len(words)


@dataclass(frozen=True)
class ComparableRow:
    """A row as it is compared: how to name it, its keys for equality, its words."""

    name: str
    sample: str
    keys: tuple[str, ...]
    words: Sequence[str] = field(repr=False)
    asked: int = 0  # of the words, from the first
    shown: str = ""
    bare: str = ""  # the question alone, without a frame
    whole: str = field(default="", repr=False)  # all of the text
    answer: tuple[str, ...] = ()  # what is wanted, where something is asked


def texts_of_rows(rows: Sequence[TrainingRow]) -> list[ComparableRow]:
    """Return training rows as texts, less the frame that they share."""
    before, after = find_frame([row.prompt for row in rows if row.prompt])
    found = []
    for row in rows:
        messages = row.row.get("prompt", row.row.get("messages"))
        own = [m for m in messages if isinstance(m, Mapping)] if isinstance(messages, list) else []
        parts = [prompt_text([m]) for m in own if m.get("role") not in ("assistant", "system", "developer")]
        if "text" in row.row:
            parts = [line for line in row.answer.splitlines() if len(_words(line)) >= BARE]
        bare = row.prompt.removeprefix(before).removesuffix(after)
        one = _text(f"training row {row.number}", str(row.number), row.prompt, row.answer, parts, bare)
        found.append(replace(one, answer=_answer_words(row.answer) if row.prompt else ()))
    return found


def texts_of_samples(samples: Sequence[Sample]) -> list[ComparableRow]:
    """Return evaluated rows as texts, less the system message and the frame that they share."""
    systems = Counter(system_message(s.input) for s in samples)
    fixed = max(systems.values(), default=0) >= MOST * len(samples)  # else it may be what the question is about
    asked = [prompt_text(s.input[1:] if fixed and system_message(s.input) is not None else s.input) for s in samples]
    before, after = find_frame([text for text in asked if text])
    found = []
    for sample, bare in zip(samples, asked, strict=True):
        whole, rest = prompt_text(sample.input), str(sample.row.get("text", ""))
        rest = rest or (sample.target if isinstance(sample.target, str) else " ".join(sample.target[:1]))
        bare = bare.removeprefix(before).removesuffix(after)
        one = _text(f'row "{sample.id}"', sample.id, whole, "" if whole else rest, (), bare)
        found.append(replace(one, answer=_answer_words(" ".join(sample.targets[:1])) if whole else ()))
    return found


def _text(name: str, sample: str, asked: str, rest: str, parts: Iterable[str], bare: str) -> ComparableRow:
    prompt = _words(asked)
    words = prompt + _words(rest)
    keys = (" ".join(prompt), " ".join(words), *(" ".join(_words(part)) for part in parts))
    unique = tuple(key for key in dict.fromkeys(keys) if key)
    alone = _words(bare)
    own, whole = " ".join(alone) if len(alone) >= BARE else "", f"{asked}\n{rest}"
    return ComparableRow(name, sample, unique, words, len(prompt) or len(words), asked or rest, own, whole)


def _answer_words(text: str) -> tuple[str, ...]:
    """Return the words of an answer with their punctuation, but for what ends a sentence; see D11-punctuation."""
    return tuple(word for part in normalize_text(text).split() if (word := part.strip(".,!?")))


def _words(text: str) -> list[str]:
    return WORD.findall(normalize_text(text))


def normalize_text(text: str) -> str:
    """Return a text without what one cannot see of it: case, forms of characters, invisible ones."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", fold_case(unicodedata.normalize("NFKC", text.translate(UNSEEN))))
