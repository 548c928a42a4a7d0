"""Rows as D10 compares them: their keys for equality, their words, and the question without what surrounds it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness import Sample, TrainingRow
from harness.internals import chat, prompt_text, split_answer, split_words
from harness_checks.frames import FRAME_SHARE, find_frame, system_message

MIN_BARE_WORDS = 3  # words at least of a question that is compared without what stands around all of its kind


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
    question: str = ""  # without the system message, which varies less than what is asked


def texts_of_rows(rows: Sequence[TrainingRow]) -> list[ComparableRow]:
    """Return training rows as texts, less the frame that they share."""
    before, after = find_frame([row.prompt for row in rows if row.prompt])
    found = []
    for row in rows:
        messages = row.row.get("prompt", row.row.get("messages"))
        own = [m for m in messages if isinstance(m, Mapping)] if isinstance(messages, list) else []
        turns = [m for m in own if m.get("role") not in chat.SYSTEM_ROLES]
        parts = [prompt_text([m]) for m in turns if m.get("role") != "assistant"]
        parts += [prompt_text(turns if "prompt" in row.row else turns[:-1])] if len(turns) < len(own) else []
        if "text" in row.row:
            parts = [line for line in row.answer.splitlines() if len(split_words(line)) >= MIN_BARE_WORDS]
        bare = row.prompt.removeprefix(before).removesuffix(after)
        one = _make_comparable_row(f"training row {row.number}", str(row.number), row.prompt, row.answer, parts, bare)
        found.append(replace(one, answer=split_answer(row.answer) if row.prompt else ()))
    return found


def texts_of_samples(samples: Sequence[Sample]) -> list[ComparableRow]:
    """Return evaluated rows as texts, less a shared system message and frame."""
    systems = Counter(system_message(s.input) for s in samples)
    fixed = max(systems.values(), default=0) >= FRAME_SHARE * len(samples)  # else it may be what the question is about
    asked = [prompt_text(s.input[1:] if fixed and system_message(s.input) is not None else s.input) for s in samples]
    before, after = find_frame([text for text in asked if text])
    questions = [_find_question(s) for s in samples]
    vague = fixed or len(systems) >= len({*questions})  # then the question is a part of the system message
    found = []
    for sample, bare, question in zip(samples, asked, questions, strict=True):
        whole, rest = prompt_text(sample.input), str(sample.row.get("text", ""))
        rest = rest or (sample.target if isinstance(sample.target, str) else " ".join(sample.target[:1]))
        bare = bare.removeprefix(before).removesuffix(after)
        one = _make_comparable_row(f'row "{sample.id}"', sample.id, whole, "" if whole else rest, (), bare)
        wanted = " ".join(sample.targets[:1]) or prompt_text(sample.row.get("chosen", ""))  # of a pair, the better one
        answer = split_answer(wanted) if whole else ()
        found.append(replace(one, answer=answer, question="" if vague else question))
    return found


def _find_question(sample: Sample) -> str:
    """Return a chat's words without its system messages. Empty if they are few."""
    if not isinstance(sample.input, list):
        return ""
    words = split_words(prompt_text([m for m in sample.input if m.get("role") not in chat.SYSTEM_ROLES]))
    return " ".join(words) if len(words) >= MIN_BARE_WORDS else ""


def _make_comparable_row(
    name: str, sample: str, asked: str, rest: str, parts: Iterable[str], bare: str
) -> ComparableRow:
    prompt = split_words(asked)
    words = prompt + split_words(rest)
    keys = (" ".join(prompt), " ".join(words), *(" ".join(split_words(part)) for part in parts))
    unique = tuple(key for key in dict.fromkeys(keys) if key)
    alone = split_words(bare)
    own, whole = " ".join(alone) if len(alone) >= MIN_BARE_WORDS else "", f"{asked}\n{rest}"
    return ComparableRow(name, sample, unique, words, len(prompt) or len(words), asked or rest, own, whole)
