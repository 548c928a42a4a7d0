"""From prompts to tokens, once and in one place: special tokens at most once, answers cut behind their prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from harness import Prompt, UsageError
from harness.internals import REPLACEMENT_CHARACTER, chat, encoding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Pair = tuple[list[int], list[int]]  # tokens of the context, tokens of the continuation
Template = str | Mapping[str, str] | None  # of a tokenizer: one, or several by name
Split = tuple[list[int], encoding.AnswerTokens]  # tokens of a prompt as generation opens it, and of what follows
AS_IT_IS: dict[str, Any] = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
CONTEXT_TOKENS = 4  # tokens before one by which it is decoded as in its text
DEFAULT_CONTEXT = 2048  # where neither config nor tokenizer names one, as in lm_eval


class ModelTokenizer:
    """A tokenizer with rules shared by scoring, generation and preflight."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    @classmethod
    def of(cls, path: str) -> ModelTokenizer:
        from harness_hf.models import load_tokenizer

        return cls(load_tokenizer(path))

    @property
    def prefix_id(self) -> int:
        """The token a text without a prompt is conditioned on: BOS, else EOS."""
        token = self.tokenizer.bos_token_id
        token = self.tokenizer.eos_token_id if token is None else token
        if token is None:
            raise UsageError(
                "tokenizer: has neither a BOS nor an EOS token, so a text without a prompt has no "
                "start; use a tokenizer that has one"
            )
        return int(token)

    def context_limit(self, named: int | None) -> int:
        """Return the context length in tokens.

        It is that of the config (`named`), else the tokenizer's, else DEFAULT_CONTEXT.
        """
        if named is None and self.tokenizer.model_max_length < 1e9:
            named = int(self.tokenizer.model_max_length)
        return named or DEFAULT_CONTEXT

    @cached_property
    def leading_ids(self) -> list[int]:
        """Return the special tokens that the tokenizer puts before a text. That is usually BOS or none."""
        plain, [whole] = self.encode_plain("a"), self._tokenize_texts(["a"], special=True)
        return whole[: next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)]

    def encode_prompts(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Encode prompts: text as it is, messages through the chat template with the answer's turn opened.

        A text that brings its own BOS gets no second one.
        """
        return self.encode_texts(
            [self._render_prompt(prompt) for prompt in prompts], [not isinstance(p, str) for p in prompts]
        )

    def encode_texts(self, texts: Sequence[str], rendered: Sequence[bool]) -> list[list[int]]:
        """Encode texts behind the tokenizer's leading tokens. A `rendered` text has them from its template."""
        encoded = zip(texts, rendered, self._tokenize_texts(texts, special=False), strict=True)
        return [ids if whole else self._prepend_leading_ids(text, ids) for text, whole, ids in encoded]

    def texts_of(self, ids: Sequence[int]) -> list[str]:
        """Return the text of each token in its place. The last of several tokens has their character."""
        found, begun = list[str](), 0
        for i in range(len(ids)):
            before, after = (self.tokenizer.decode(ids[begun:end], **AS_IT_IS) for end in (i, i + 1))
            whole = not after.endswith(REPLACEMENT_CHARACTER)
            found.append(after[len(before.rstrip(REPLACEMENT_CHARACTER)) :] if whole else "")
            begun = max(begun, i - CONTEXT_TOKENS) if whole else begun
        return found

    def _render_prompt(self, prompt: Prompt) -> str:
        return prompt if isinstance(prompt, str) else self.render(prompt)

    def _prepend_leading_ids(self, text: str, ids: list[int]) -> list[int]:
        bos = self.tokenizer.bos_token
        return ids if bos and text.startswith(bos) else self.leading_ids + ids

    def render(self, messages: Sequence[Mapping[str, Any]], *, opened: bool = True, template: Template = None) -> str:
        """Render chat messages with the template.

        `opened` says whether the answer's turn is opened. Further arguments of the template stand on the first message
        (`harness.data.chat`). `template` replaces the tokenizer's own. Raises UsageError if there is none, if it
        rejects the messages, and if they hold media.
        """
        if not (template or self.tokenizer.chat_template):
            raise UsageError("tokenizer: has no chat template, so it cannot take messages; give text prompts")
        if kind := chat.find_media(messages):
            raise UsageError(f'a message has a part of type "{kind}", but the model reads only text; remove such rows')
        turns, given = chat.split_arguments(messages)
        chosen = select_template(template, given)
        given |= {"tokenize": False, "add_generation_prompt": opened, "chat_template": chosen}
        try:
            return str(self.tokenizer.apply_chat_template(turns, **given))
        except Exception as error:  # whatever the template raises about the roles it was given
            raise UsageError(f"chat template: rejects the messages: {' '.join(str(error).split())}") from None

    def encode_pairs(self, pairs: Sequence[tuple[Prompt, str]], *, as_lm_eval: bool = False) -> list[Pair]:
        """Encode prompts and continuations, optionally by lm_eval's rule.

        `as_lm_eval` gives the white space that ends a text prompt to the continuation, cuts a token that spans both
        where the context's tokens end, and scores the BOS that the tokenizer adds to a whole text, behind another one.
        Messages, and all else without it, are split as by `split_pairs`.
        """
        if not as_lm_eval:
            return [(context, answer.ids) for context, answer in self.split_pairs(pairs)]
        found: list[Pair] = []
        stripped = [(p.rstrip(), p[len(p.rstrip()) :] + t) if isinstance(p, str) else (p, t) for p, t in pairs]
        for (prompt, text), (context, ids) in zip(stripped, self._encode_contexts_and_wholes(stripped), strict=True):
            if not isinstance(prompt, str):
                found.append((context, self._answer(context, ids, text).ids))
            elif pairs[len(found)][0] == "":
                found.append(([self.prefix_id], ids))
            else:
                beyond = len(context) >= len(ids) and pairs[len(found)][1]
                found.append((context or [self.prefix_id], self.encode_plain(text) if beyond else ids[len(context) :]))
        return found

    def split_pairs(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Split]:
        """Encode prompts and continuations, split where generation opens the answer.

        `harness.data.encoding` has the rule. Without a prompt the context is the front of every text: the tokenizer's
        own leading tokens, a BOS that the text brings, or `prefix_id`.
        """
        found = list[Split]()
        for (prompt, text), (context, ids) in zip(pairs, self._encode_contexts_and_wholes(pairs), strict=True):
            if prompt == "":
                given = (
                    len(self.leading_ids)
                    if self.leading_ids and ids[: len(self.leading_ids)] == self.leading_ids
                    else 0
                )
                given = given or int(ids[:1] == [self.prefix_id])
                found.append((ids[:given] or [self.prefix_id], encoding.AnswerTokens(ids[given:], alone=False)))
            else:
                found.append((context or [self.prefix_id], self._answer(context, ids, text)))
        return found

    def _answer(self, context: list[int], whole: list[int], text: str) -> encoding.AnswerTokens:
        """Cut an answer from the tokens of prompt and answer. Empty if there is no text."""
        answer = encoding.cut_answer(context, whole, partial(self.encode_plain, text))
        return answer if text else encoding.AnswerTokens([], alone=False)

    def _encode_contexts_and_wholes(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Pair]:
        """Encode each prompt, alone and with its continuation.

        A prompt shared by several pairs is rendered and encoded once.
        """
        firsts: dict[str, int] = {}
        keys = [firsts.setdefault(repr(prompt), i) for i, (prompt, _) in enumerate(pairs)]
        rendered = [not isinstance(prompt, str) for prompt, _ in pairs]
        opened = {i: self._render_prompt(pairs[i][0]) for i in firsts.values()}
        encoded = dict(zip(opened, self.encode_texts([*opened.values()], [rendered[i] for i in opened]), strict=True))
        wholes = self.encode_texts([opened[key] + text for key, (_, text) in zip(keys, pairs, strict=True)], rendered)
        return [(encoded[key], whole) for key, whole in zip(keys, wholes, strict=True)]

    @cached_property
    def stop_ids(self) -> set[int]:
        """Return EOS and the chat template's end-of-turn token."""
        eos = self.tokenizer.eos_token_id
        found = set() if eos is None else {int(eos)}
        if self.tokenizer.chat_template:
            mark = "\N{BULLET}answer\N{BULLET}"
            turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}]
            try:
                text = str(self.tokenizer.apply_chat_template(turns, tokenize=False))
            except Exception:  # a template with rules of its own about turns; EOS remains
                return found
            found |= set(self.encode_plain(text.rpartition(mark)[2].lstrip())[:1]) & self._special_ids
        return found

    @cached_property
    def _special_ids(self) -> set[int]:
        added = self.tokenizer.added_tokens_decoder
        return set(self.tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}

    @cached_property
    def special_tokens(self) -> list[str]:
        """Return the texts of the special tokens."""
        return [str(token) for token in self.tokenizer.convert_ids_to_tokens(sorted(self._special_ids))]

    def special_token_id(self, text: str) -> int | None:
        """Return the special token that a text is, or None."""
        found = self.tokenizer.convert_tokens_to_ids(text)  # an unknown text is the unknown token
        return found if found in self._special_ids and self.tokenizer.convert_ids_to_tokens(found) == text else None

    def encode_plain(self, text: str) -> list[int]:
        """Encode a text without anything in front of it."""
        return self._tokenize_texts([text], special=False)[0]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _tokenize_texts(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        if not texts:
            return []
        return list(self.tokenizer(list(texts), add_special_tokens=special, verbose=False)["input_ids"])


def select_template(template: Template, arguments: Mapping[str, Any]) -> str | None:
    """Return the chat template that transformers takes for these arguments, where a tokenizer has several by name."""
    if template is None or isinstance(template, str):
        return template
    return template.get("tool_use" if arguments.get(chat.TOOLS) and "tool_use" in template else "default")
