"""Encoding of training rows into tokens and labels.

Answers stand behind prompts as generation opens them. Scoring and generation encode with `ModelTokenizer.split_pairs`
and `ModelTokenizer.encode_prompts`; the code here calls the same methods, so that a row is trained on the tokens that
are scored. Context turns are not learnt: `weight = 0` (OpenAI's format of rows), `train = false` (axolotl's).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from harness import UsageError
from harness.internals import chat, encoding
from harness_hf.tokens import ModelTokenizer

CONTEXT_MARKS = {"weight": "0 or 1", "train": "true or false"}
NO_TURN = "\N{OBJECT REPLACEMENT CHARACTER}"  # a content that no turn begins with
IGNORED_LABEL = -100  # the label of a token that is not learnt


@dataclass(frozen=True)
class EncodedRow:
    """A training row in tokens: those of its prompt, those behind it, and a mask over both of what is learnt.

    `alone` says that the answer was encoded by itself, because a token would span the end of its prompt.
    """

    prompt: list[int]
    answer: list[int]
    learnt: list[bool]
    alone: bool = False

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.answer

    @property
    def labels(self) -> list[int]:
        """The tokens that are learnt at their places, and -100 elsewhere."""
        return [i if learnt else IGNORED_LABEL for i, learnt in zip(self.ids, self.learnt, strict=True)]


@dataclass(frozen=True)
class RowEncoder:
    """Encoder of training rows into tokens.

    `template` replaces the tokenizer's chat template. In a row with a prompt only the completion is learnt, unless
    `completion_only` is off. With `assistant_only` a chat template's generation markers select the tokens of its turns
    that are learnt.
    """

    tokens: ModelTokenizer
    template: str | None = None
    completion_only: bool = True
    assistant_only: bool = False

    def encode(self, row: Mapping[str, Any]) -> EncodedRow:
        """Encode a row of prompt and completion, of messages, or of text.

        Raises UsageError if the tokenizer or its template rejects the row.
        """
        if isinstance(row.get("messages", row.get("prompt")), list):
            return self._mask_context_turns(row, self._encode_chat(row))
        prompt, answer = row.get("prompt", ""), row["completion"] if "prompt" in row else row["text"]
        [encoded] = self.encode_answers(prompt, [answer])
        if "prompt" not in row or not self.completion_only:
            return replace(encoded, learnt=[True] * len(encoded.ids))
        return encoded

    def encode_answers(
        self, prompt: Any, answers: Sequence[Any], arguments: Mapping[str, Any] | None = None
    ) -> list[EncodedRow]:
        """Encode several answers to one prompt, each with its end.

        All are texts or all are messages. The prompts of the results are the same.
        """
        if isinstance(prompt, str):
            return [self._encode_prompt_answer_and_eos(prompt, answer) for answer in answers]
        found = [self._encode_prompt_and_answer_turns(prompt, answer, arguments or {}) for answer in answers]
        shortest = min(len(one.prompt) for one in found)
        return [_move_answer_boundary(one, shortest) for one in found]

    def _encode_prompt_answer_and_eos(self, prompt: str, answer: str) -> EncodedRow:
        end = self.tokens.tokenizer.eos_token_id
        if end is None:
            raise UsageError("tokenizer: has no EOS token, so training texts have no end; use a tokenizer that has one")
        alone = False
        if prompt:
            [(opened, (ids, alone))] = self.tokens.split_pairs([(prompt, answer)])
        else:  # behind nothing but what the tokenizer puts in front
            [ids], front = self.tokens.encode_prompts([answer]), self.tokens.leading_ids
            opened, ids = (front, ids[len(front) :]) if ids[: len(front)] == front else ([], ids)
        ids = ids if ids[-1:] == [end] else [*ids, end]
        return EncodedRow(opened, ids, [False] * len(opened) + [True] * len(ids), alone)

    def _encode_chat(self, row: Mapping[str, Any]) -> EncodedRow:
        arguments = chat.training_template_arguments(row)
        if "messages" not in row:
            encoded = self._encode_prompt_and_answer_turns(row["prompt"], row["completion"], arguments)
            everything = not self.completion_only
        else:
            turns, everything = row["messages"], True
            asked = len(turns) - 1 if turns[-1].get("role") == "assistant" else len(turns)
            try:
                encoded = self._encode_prompt_and_answer_turns(turns[:asked], turns[asked:], arguments)
            except UsageError:  # a template that takes no conversation but a whole one
                encoded = self._encode_prompt_and_answer_turns([], turns, arguments)
        if self.assistant_only:
            inside = self._compute_assistant_mask(row_turns(row), arguments)
            both = [a and (everything or b) for a, b in zip(inside, encoded.learnt, strict=True)]
            return replace(encoded, learnt=both)
        return replace(encoded, learnt=[True] * len(encoded.ids)) if everything else encoded

    def _encode_prompt_and_answer_turns(
        self, prompt: Sequence[Any], answer: Sequence[Any], arguments: Mapping[str, Any]
    ) -> EncodedRow:
        """Encode messages, split where the answer's turn is opened.

        If the template opens the turn otherwise than it writes it (D8), they are split where the two part.
        """
        write = partial(self.tokens.render, template=self.template)
        text = write(chat.join_arguments([*prompt, *answer], arguments), opened=False)
        opened = write(chat.join_arguments(prompt, arguments)) if prompt and answer else ""
        [whole, begin] = self.tokens.encode_texts([text, opened], [True, True])
        found = encoding.AnswerTokens(whole, alone=True)
        if opened and text.startswith(opened):
            found = encoding.cut_answer(begin, whole, lambda: self.tokens.encode_plain(text[len(opened) :]))
        if found.alone and (self.assistant_only or found.ids is whole):
            begin = whole[: encoding.shared_length(begin, whole)]
            found = encoding.AnswerTokens(whole[len(begin) :], alone=False)
        return EncodedRow(begin, found.ids, [False] * len(begin) + [True] * len(found.ids), found.alone)

    def _compute_assistant_mask(self, turns: Sequence[Any], arguments: Mapping[str, Any]) -> list[bool]:
        """Return which tokens lie between the template's generation markers. Raises UsageError if none does."""
        given = {"return_dict": True, "return_assistant_tokens_mask": True, "chat_template": self.template}
        made = self.tokens.tokenizer.apply_chat_template(list(turns), **given, **arguments)
        if 1 not in (mask := made["assistant_masks"]):
            why = "the chat template's generation markers enclose no token of a row"
            raise UsageError(f"[train] assistant_only_loss: {why}; put the markers around the assistant's answers")
        return list(map(bool, mask))

    def _mask_context_turns(self, row: Mapping[str, Any], encoded: EncodedRow) -> EncodedRow:
        """Stop the tokens of context turns from being learnt.

        A turn's tokens reach from where it begins to where the next one does.
        """
        turns, ids, learnt = row_turns(row), encoded.ids, list(encoded.learnt)
        if not any(map(is_context_turn, turns)):
            return encoded

        def write(some: Sequence[Any]) -> str:
            arguments = chat.training_template_arguments(row)
            return self.tokens.render(chat.join_arguments(some, arguments), opened=False, template=self.template)

        text = write(turns)
        begins = [_find_turn_start(turns, at, text, write) for at in range(len(turns))]
        for at in (at for at, turn in enumerate(turns) if is_context_turn(turn)):
            ends = begins[at], min((b for b in begins[at + 1 :] if b > begins[at]), default=len(text))
            first, last = (encoding.shared_length(self.tokens.encode_plain(text[:end]), ids) for end in ends)
            learnt[first:last] = [False] * (last - first)
        return replace(encoded, learnt=learnt)


def row_turns(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the messages of a row, including its answer. A row of texts has none."""
    asked, answered = row.get("messages", row.get("prompt")), row.get("completion")
    return [*asked, *(answered if isinstance(answered, list) else [])] if isinstance(asked, list) else []


def is_context_turn(turn: Mapping[str, Any]) -> bool:
    """Return whether a turn is marked as not learnt."""
    return any(turn.get(mark) is not None and not turn[mark] for mark in CONTEXT_MARKS)


def _find_turn_start(turns: Sequence[Mapping[str, Any]], at: int, text: str, write: Callable[..., str]) -> int:
    """Return where a turn begins in a text: where the turns before it end, or the text is another for another turn."""
    with suppress(UsageError):  # a template with rules of its own about turns
        before = write(turns[:at]) if at else ""
        if text.startswith(before):
            return len(before)
    changed = [*turns[:at], {"role": turns[at]["role"], "content": NO_TURN}, *turns[at + 1 :]]
    return encoding.shared_length(text, write(changed))


def _move_answer_boundary(row: EncodedRow, tokens: int) -> EncodedRow:
    """Return a row with only the first `tokens` as its prompt.

    That is where another answer to the same prompt parts from it.
    """
    ids = row.ids
    return replace(row, prompt=ids[:tokens], answer=ids[tokens:], learnt=[i >= tokens for i in range(len(ids))])
