"""Encoding of training rows into tokens and labels.

Answers stand behind prompts as generation opens them. Scoring and generation encode with `ModelTokenizer.split_pairs`
and `ModelTokenizer.encode_prompts`; the code here calls the same methods, so that a row is trained on the tokens that
are scored. Context turns are not learnt: `weight = 0` (OpenAI's format of rows), `train = false` (axolotl's).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, pairwise
from typing import Any

from harness import UsageError
from harness.internals import chat, encoding
from harness_hf.tokens import ModelTokenizer, select_template
from harness_hf.turns import RenderedTurns, Span

CONTEXT_MARKS = {"weight": "0 or 1", "train": "true or false"}
GENERATION_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")
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

    In a row with a prompt only the completion is learnt, unless `completion_only` is off. Of messages only the
    assistant's turns are, unless `assistant_only` is off: what lies between the chat template's generation markers, and
    without markers what the assistant writes, from where generation opens a turn to where the next one begins.
    """

    tokens: ModelTokenizer
    completion_only: bool = True
    assistant_only: bool = True

    def encode(self, row: Mapping[str, Any]) -> EncodedRow:
        """Encode a row of prompt and completion, of messages, or of text.

        Raises UsageError if the tokenizer or its template rejects the row.
        """
        if isinstance(row.get("messages", row.get("prompt")), list):
            return self._encode_chat(row)
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
        arguments, turns = chat.training_template_arguments(row), row_turns(row)
        ends_with_answer = turns[-1].get("role") == "assistant"
        asked = len(row["prompt"]) if "prompt" in row else len(turns) - ends_with_answer
        has_markers = self.assistant_only and self._has_generation_markers(arguments)
        in_place = has_markers or len(turns) - asked != 1
        try:
            encoded = self._encode_prompt_and_answer_turns(turns[:asked], turns[asked:], arguments, in_place=in_place)
        except UsageError:  # a template that takes no conversation but a whole one
            encoded = self._encode_prompt_and_answer_turns([], turns, arguments, in_place=True)
        first = asked if "prompt" in row and self.completion_only else 0
        if self.assistant_only and not has_markers:
            return self._learn_answers(encoded, turns, first, asked, arguments)
        learnt = encoded.learnt if first else [True] * len(encoded.ids)
        if has_markers:
            marks = self._compute_assistant_mask(turns, arguments)
            learnt = [a and b for a, b in zip(marks, learnt, strict=True)]
        return self._mask_context_turns(replace(encoded, learnt=learnt), turns, arguments)

    def _encode_prompt_and_answer_turns(
        self,
        prompt: Sequence[Any],
        answer: Sequence[Any],
        arguments: Mapping[str, Any],
        *,
        in_place: bool = False,
    ) -> EncodedRow:
        """Encode messages, split where the answer's turn is opened.

        If the template opens the turn otherwise than it writes it (D8), they are split where the two part. An answer
        that is encoded `in_place` is never encoded alone.
        """
        text = self.tokens.render(chat.join_arguments([*prompt, *answer], arguments), opened=False)
        opened = self.tokens.render(chat.join_arguments(prompt, arguments)) if prompt and answer else ""
        [whole, begin] = self.tokens.encode_texts([text, opened], [True, True])
        found = encoding.AnswerTokens(whole, alone=True)
        if opened and text.startswith(opened):
            found = encoding.cut_answer(begin, whole, lambda: self.tokens.encode_plain(text[len(opened) :]))
        if found.alone and (in_place or found.ids is whole):
            begin = whole[: encoding.shared_length(begin, whole)]
            found = encoding.AnswerTokens(whole[len(begin) :], alone=False)
        return EncodedRow(begin, found.ids, [False] * len(begin) + [True] * len(found.ids), found.alone)

    def _learn_answers(
        self, encoded: EncodedRow, turns: Sequence[Any], first: int, asked: int, arguments: Mapping[str, Any]
    ) -> EncodedRow:
        """Mark what the assistant writes in turns from the `first` on as learnt, except for context turns.

        The row was split behind its first `asked` turns.
        """
        answers = [i for i in range(first, len(turns)) if turns[i].get("role") == "assistant"]
        answers = [i for i in answers if not is_context_turn(turns[i])]
        if not answers:
            raise UsageError('has no message with the role "assistant" to learn from; remove it')
        learnt, last = [False] * len(encoded.ids), len(turns) - 1
        if encoded.prompt and asked == last == answers[-1]:
            learnt = list(encoded.learnt)
            answers = answers[:-1]
        if answers:
            rendered = self._render_turns(turns, arguments)
            for begin, end in self._count_tokens(encoded, rendered, [rendered.find_answer(i) for i in answers]):
                learnt[begin:end] = [True] * (end - begin)
        return replace(encoded, learnt=learnt)

    def _has_generation_markers(self, arguments: Mapping[str, Any]) -> bool:
        template = select_template(self.tokens.tokenizer.chat_template, arguments)
        return bool(template and GENERATION_MARKER.search(template))

    def _compute_assistant_mask(self, turns: Sequence[Any], arguments: Mapping[str, Any]) -> list[bool]:
        """Return which tokens lie between the template's generation markers. Raises UsageError if none does."""
        given = {"return_dict": True, "return_assistant_tokens_mask": True}
        made = self.tokens.tokenizer.apply_chat_template(list(turns), **given, **arguments)
        if 1 not in (mask := made["assistant_masks"]):
            problem = "has no token between the chat template's generation markers"
            raise UsageError(f"{problem}; put the markers around the assistant's answers")
        return list(map(bool, mask))

    def _mask_context_turns(
        self, encoded: EncodedRow, turns: Sequence[Any], arguments: Mapping[str, Any]
    ) -> EncodedRow:
        """Stop the tokens of context turns from being learnt."""
        if not (context := [i for i, turn in enumerate(turns) if is_context_turn(turn)]):
            return encoded
        learnt, rendered = list(encoded.learnt), self._render_turns(turns, arguments)
        for begin, end in self._count_tokens(encoded, rendered, [rendered.find_turn(i) for i in context]):
            learnt[begin:end] = [False] * (end - begin)
        return replace(encoded, learnt=learnt)

    def _render_turns(self, turns: Sequence[Any], arguments: Mapping[str, Any]) -> RenderedTurns:
        def render(part: Sequence[Any], *, opened: bool = False) -> str:
            return self.tokens.render(chat.join_arguments(part, arguments), opened=opened)

        return RenderedTurns(turns, render(turns), render, self.tokens.special_tokens)

    def _count_tokens(
        self, encoded: EncodedRow, rendered: RenderedTurns, spans: Sequence[Span]
    ) -> Iterator[tuple[int, int]]:
        """Yield each span in tokens. A token that spans the end of one is not in it."""
        counts = self._count_tokens_before(encoded.ids, rendered, [place for span in spans for place in span])
        yield from zip(counts[::2], counts[1::2], strict=True)

    def _count_tokens_before(self, ids: list[int], rendered: RenderedTurns, places: Sequence[int]) -> list[int]:
        """Return how many of a row's tokens are those of its text up to each place.

        The text is cut before special tokens, and each part is encoded once: long conversations take linear time.
        """
        text = rendered.text
        starts = [0, *(place for place in rendered.find_special_tokens() if place > 0)]
        whole = self._encode_rendered([text])[0]
        parts = self._encode_rendered([text[begin:end] for begin, end in pairwise([*starts, len(text)])])
        if [*chain.from_iterable(parts)] != whole:  # a special token that takes the white space around it
            starts, parts = [0], [whole]
        numbers = [bisect_right(starts, place) - 1 for place in places]
        cut = self._encode_rendered([text[starts[n] : place] for n, place in zip(numbers, places, strict=True)])
        tokens_before = [0, *accumulate(map(len, parts))]
        shared, counts = encoding.shared_length(whole, ids), list[int]()
        for n, part in zip(numbers, cut, strict=True):
            begin = tokens_before[n]
            more = encoding.shared_length(part, ids[begin : begin + len(part)]) if begin <= shared else 0
            counts.append(min(begin, shared) + more)
        return counts

    def _encode_rendered(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokens.encode_texts(texts, [True] * len(texts))


def row_turns(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the messages of a row, including its answer. A row of texts has none."""
    asked, answered = row.get("messages", row.get("prompt")), row.get("completion")
    return [*asked, *(answered if isinstance(answered, list) else [])] if isinstance(asked, list) else []


def is_context_turn(turn: Mapping[str, Any]) -> bool:
    """Return whether a turn is marked as not learnt."""
    return any(turn.get(mark) is not None and not turn[mark] for mark in CONTEXT_MARKS)


def _move_answer_boundary(row: EncodedRow, tokens: int) -> EncodedRow:
    """Return a row with only the first `tokens` as its prompt.

    That is where another answer to the same prompt parts from it.
    """
    ids = row.ids
    return replace(row, prompt=ids[:tokens], answer=ids[tokens:], learnt=[i >= tokens for i in range(len(ids))])
