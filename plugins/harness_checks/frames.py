"""The frame of every question.

It is a system message, template arguments, and the same words before and after the question.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from harness import HELD_OUT, Finding, Prompt, TrainingRow, quote_text
from harness.internals import chat, prompt_text
from harness_hf import select_template

FRAME_SHARE, RARE_SHARE = 0.95, 0.05  # of the rows: more have a frame, fewer have what is none
MIN_PROMPTS = 4  # prompts: what fewer have in common may be chance
MAX_FRAME_CHARS = 2000  # characters of a frame
FRAME_END_CHARACTERS = ":>]}=|#"  # how words end that stand before or after a question, and are none of it
COMPARED, RENDERED = 250, 20  # rows at least, where there are as many
Aspect = Callable[[Prompt], str | None]
Write = Callable[[Any, bool, Mapping[str, Any]], str | None]  # messages, whether the answer is opened, arguments


class Frame(NamedTuple):
    """The words before and after the questions of nearly all texts."""

    before: str
    after: str


def compare_frames(rows: Sequence[TrainingRow], tasks: Mapping[str, Any], write: Write) -> Iterator[Finding]:
    """Yield findings for frames that differ between training and evaluations.

    System messages and template arguments are compared as well. An evaluation that measures something else may well
    have another form, so only differences from all of them are reported. `write` renders messages with template
    arguments; it returns None if the template refuses them.
    """
    trained = [prompt for row in rows if not row.row.get(HELD_OUT) and (prompt := training_prompt(row))]
    # those that bring rows make prompts of theirs that none sees here
    asked = {n: [s.input for s in t.samples or () if s.input] for n, t in tasks.items() if not t.brings_rows}
    for is_chat in (True, False):
        ours = [p for p in trained if isinstance(p, list) is is_chat]
        alike = {n: [p for p in several if isinstance(p, list) is is_chat] for n, several in asked.items()}
        theirs = {n: found for n, found in alike.items() if found}
        if ours and theirs:
            if is_chat:
                yield from _check_aspect_matches_evaluations("system", "system message", system_message, ours, theirs)
                flags = list(
                    _check_aspect_matches_evaluations(
                        "arguments", "template arguments", _format_template_arguments, ours, theirs
                    )
                )
                yield from flags if flags and _do_arguments_change_prompts(rows, theirs, write) else ()
            yield from _check_question_frames_match(ours, theirs)


def find_frame(texts: Sequence[str]) -> Frame:
    r"""Return the words around the question in nearly all texts.

    These are whole lines, or words that end like a label. "Question: Why?\nAnswer:" among texts of its kind has
    "Question:" and "\nAnswer:"; words that questions merely have in common are no frame, and neither is their
    punctuation.
    """
    if len(texts) < MIN_PROMPTS or len(set(texts)) < MIN_PROMPTS:
        return Frame("", "")
    texts = texts[:: max(1, len(texts) // COMPARED)]
    before = _find_most_common_prefix([text[:MAX_FRAME_CHARS] for text in texts])
    after = _find_most_common_prefix([text[-MAX_FRAME_CHARS:][::-1] for text in texts])[::-1]
    head = max(before.rfind("\n"), *(before.rfind(end) for end in FRAME_END_CHARACTERS)) + 1
    line, words = after.find("\n"), after.split()
    if line >= 0:
        return Frame(before[:head], after[line:])
    label = words[-1] if words and words[-1][-1] in FRAME_END_CHARACTERS else ""
    place = after.rfind(label) if label[:-1] else 0  # 0: a part of a word
    return Frame(before[:head], after[place:] if place else "")


def system_message(prompt: Prompt) -> str | None:
    """Return the system message that a prompt begins with, or None."""
    first: Mapping[str, Any] = prompt[0] if isinstance(prompt, list) and prompt else {}
    return str(first.get("content")) if first.get("role") in chat.SYSTEM_ROLES else None


def last_question(prompt: Prompt) -> str:
    """Return the text or last message of a prompt.

    A message is stripped, because many templates strip white space from its ends.
    """
    return prompt if isinstance(prompt, str) else prompt_text(prompt[-1:]).strip()


def training_prompt(row: TrainingRow) -> Prompt:
    """Return a training row's prompt, with its template arguments."""
    messages = row.row.get("messages")
    prompt = messages[:-1] if isinstance(messages, list) else row.row.get("prompt", "")
    if not isinstance(prompt, list):
        return prompt if isinstance(prompt, str) else ""
    good = [m for m in prompt if isinstance(m, Mapping)]
    return chat.join_arguments(good, chat.training_template_arguments(row.row)) if len(good) == len(prompt) else ""


def _format_template_arguments(prompt: Prompt) -> str | None:
    given = chat.split_arguments(prompt)[1] if isinstance(prompt, list) else {}
    given |= {chat.TOOLS: "…"} if chat.TOOLS in given else {}  # which tools there are is a part of the question
    return json.dumps(given, sort_keys=True, default=str) if given else None


def _check_aspect_matches_evaluations(
    kind: str, what: str, of: Aspect, trained: Sequence[Prompt], asked: Mapping[str, Sequence[Prompt]]
) -> Iterator[Finding]:
    """Yield a finding if no evaluation matches an aspect of training.

    The common values are compared, or, if the values vary, whether there is one.
    """
    ours = Counter(map(of, trained))
    common = {value for value, n in ours.items() if n >= RARE_SHARE * len(trained)}
    varied = common <= {None} and ours.keys() - {None}
    known = {v is None for v in ours} if varied else common
    for prompts in asked.values():
        values = [of(p) is None if varied else of(p) for p in prompts]
        if sum(v in known for v in values) >= RARE_SHARE * len(values):
            return
    most = [count.most_common(1)[0][0] for count in (ours, Counter(of(p) for some in asked.values() for p in some))]
    one, other = ("none" if value is None else quote_text(value, 60) for value in most)
    line = f"{what} in training: {one}; in evaluation: {other} ({', '.join(asked)})"
    yield Finding("warning", line, (), "use the form in which the model will be used in both", kind)


def _do_arguments_change_prompts(
    rows: Sequence[TrainingRow], asked: Mapping[str, Sequence[Prompt]], write: Write
) -> bool:
    """Return whether evaluation arguments change the prompts of training rows.

    A changed prompt does not begin the trained text. Different arguments may give the same text, since a template may
    write an empty reasoning block into every answer.
    """
    given = {
        _format_template_arguments(p): chat.split_arguments(p)[1]
        for several in asked.values()
        for p in several
        if isinstance(p, list)
    }
    chats = [row for row in rows if row_messages(row)]
    for row in chats[:: max(1, len(chats) // RENDERED)]:
        own, messages = chat.training_template_arguments(row.row), row_messages(row)
        text = write(messages, False, own)
        for theirs in given.values():
            tools = {chat.TOOLS: own.get(chat.TOOLS) or theirs[chat.TOOLS]} if chat.TOOLS in theirs else {}
            prompt = write(messages[:-1], True, theirs | tools)
            if text is None or prompt is None or not text.startswith(prompt):
                return True
    return False


def row_messages(row: TrainingRow) -> list[Any]:
    """Return the messages of a chat row, including the answer. Empty for other rows."""
    asked = row.row.get("messages", row.row.get("prompt"))
    answered = row.row.get("completion", row.row.get("chosen", []))
    return [*asked, *(answered if isinstance(answered, list) else [])] if isinstance(asked, list) else []


def _check_question_frames_match(trained: Sequence[Prompt], asked: Mapping[str, Sequence[Prompt]]) -> Iterator[Finding]:
    """Yield a finding if training and evaluations frame questions differently.

    That is if in no evaluation the texts of both sides share a frame.
    """
    ours = [last_question(p) for p in trained]
    frame, theirs = find_frame(ours), {name: [last_question(p) for p in prompts] for name, prompts in asked.items()}
    frames = {name: find_frame(texts) for name, texts in theirs.items()}
    if all(
        _do_most_texts_lack_frame(texts, frame) or _do_most_texts_lack_frame(ours, frames[name])
        for name, texts in theirs.items()
    ):
        one, other = (f"{quote_text(a, 40)} and {quote_text(b, 40)}" for a, b in (frame, next(iter(frames.values()))))
        line = f"questions are between {one} in training, but between {other} in evaluation"
        yield Finding(
            "warning",
            f"{line} ({', '.join(asked)})",
            (),
            "use the form in which the model will be used in both",
            "frame",
        )


def _do_most_texts_lack_frame(texts: Sequence[str], frame: tuple[str, str]) -> bool:
    """Return whether nearly all texts lack a half of the frame."""
    halves = [text.startswith(frame[0]) for text in texts], [text.endswith(frame[1]) for text in texts]
    return any(sum(half) < RARE_SHARE * len(texts) for half in halves)


def _find_most_common_prefix(texts: Sequence[str]) -> str:
    """Return the longest beginning that nearly all texts have."""
    found, left = "", list(texts)
    while left:
        letter, _ = Counter(text[len(found) : len(found) + 1] for text in left).most_common(1)[0]
        left = [text for text in left if text[len(found) : len(found) + 1] == letter]
        if not letter or len(left) < FRAME_SHARE * len(texts):
            return found
        found += letter
    return found


def render_or_none(tokenizer: Any, messages: Any, template: Any, **given: Any) -> str | None:
    """Return messages as a chat template renders them. None if it rejects them."""
    try:
        chosen = select_template(template, given)
        return str(tokenizer.apply_chat_template(messages, chat_template=chosen, tokenize=False, **given))
    except Exception:  # a template with rules of its own about turns
        return None
