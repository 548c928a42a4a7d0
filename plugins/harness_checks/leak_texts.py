"""Training rows and evaluated ones as the texts that leaks are looked for in."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness import Prompt, Sample, TrainingRow, text_of
from harness_checks.frames import MOST, frame_of, system_of, unframed

BARE = 3  # words at least of a question that is compared without what stands around all of its kind
WORD = re.compile(r"[^\W_]+")  # an underscore is Markdown's
UNSEEN = dict.fromkeys((0xAD, *range(0x200B, 0x2010), 0x2060, 0xFEFF))  # hyphens and joints that no one sees


@dataclass(frozen=True)
class Text:
    """A row as it is compared: how to name it, its keys for equality, its words."""

    name: str
    sample: str
    keys: tuple[str, ...]
    words: Sequence[str] = field(repr=False)
    asked: int = 0  # of the words, from the first
    shown: str = ""
    bare: str = ""  # the question alone, without a frame
    whole: str = field(default="", repr=False)  # all of the text


def of_rows(rows: Sequence[TrainingRow]) -> list[Text]:
    """Return training rows as texts, less the frame that they share."""
    frame = frame_of([row.prompt for row in rows if row.prompt])
    return [_of_training(row, frame) for row in rows]


def _of_training(row: TrainingRow, frame: tuple[str, str]) -> Text:
    messages = row.row.get("prompt", row.row.get("messages"))
    parts = [text_of([m]) for m in messages if _is_asked(m)] if isinstance(messages, list) else []
    if "text" in row.row:
        parts = [line for line in row.answer.splitlines() if len(_words(line)) >= BARE]
    bare = unframed(row.prompt, frame)
    return _text(f"training row {row.number}", str(row.number), row.prompt, row.answer, parts, bare)


def of_samples(samples: Sequence[Sample]) -> list[Text]:
    """Return evaluated rows as texts, less the system message and the frame that they share."""
    systems = Counter(system_of(s.input) for s in samples)
    fixed = max(systems.values(), default=0) >= MOST * len(samples)  # else it may be what the question is about
    asked = [_without_system(s.input) if fixed else text_of(s.input) for s in samples]
    frame = frame_of([text for text in asked if text])
    return [_of_sample(s, unframed(text, frame)) for s, text in zip(samples, asked, strict=True)]


def _of_sample(sample: Sample, bare: str) -> Text:
    asked = text_of(sample.input)
    target = sample.target if isinstance(sample.target, str) else " ".join(sample.target[:1])
    text = str(sample.row.get("text", ""))
    return _text(f'row "{sample.id}"', sample.id, asked, "" if asked else text or target, (), bare)


def _without_system(prompt: Prompt) -> str:
    return text_of(prompt[1:] if system_of(prompt) is not None else prompt)


def _is_asked(message: Any) -> bool:
    return isinstance(message, Mapping) and message.get("role") not in ("assistant", "system", "developer")


def _text(name: str, sample: str, asked: str, rest: str, parts: Iterable[str], bare: str) -> Text:
    prompt = _words(asked)
    words = prompt + _words(rest)
    keys = (" ".join(prompt), " ".join(words), *(" ".join(_words(part)) for part in parts))
    unique = tuple(key for key in dict.fromkeys(keys) if key)
    alone = _words(bare)
    about = {"bare": " ".join(alone) if len(alone) >= BARE else "", "whole": f"{asked}\n{rest}"}
    return Text(name, sample, unique, words, len(prompt) or len(words), asked or rest, **about)


def _words(text: str) -> list[str]:
    return WORD.findall(plain(text))


def plain(text: str) -> str:
    """Return a text without what one cannot see of it: case, forms of characters, invisible ones."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", text.translate(UNSEEN)).casefold()
    return unicodedata.normalize("NFKC", folded)
