"""From prompts to tokens, once and in one place: special tokens at most once, splits where lm_eval splits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from harness import Prompt, UsageError
from harness.internals import chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Pair = tuple[list[int], list[int]]  # tokens of the context, tokens of the continuation
DEFAULT_CONTEXT = 2048  # where neither config nor tokenizer names one, as in lm_eval


class Tokens:
    """A tokenizer, and what of it must be the same in scoring, generation and preflight."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    @classmethod
    def of(cls, path: str) -> Tokens:
        from harness_hf.models import load_tokenizer

        return cls(load_tokenizer(path))

    @property
    def prefix(self) -> int:
        """The token a text without a prompt is conditioned on: BOS, else EOS."""
        token = self.tokenizer.bos_token_id
        token = self.tokenizer.eos_token_id if token is None else token
        if token is None:
            raise UsageError("tokenizer: has neither a BOS nor an EOS token, so a text without a prompt has no start")
        return int(token)

    def context(self, named: int | None) -> int:
        """Return the most tokens of a model whose config names so many, or none."""
        if named is None and self.tokenizer.model_max_length < 1e9:
            named = int(self.tokenizer.model_max_length)
        return named or DEFAULT_CONTEXT

    @cached_property
    def front(self) -> list[int]:
        """The special tokens that the tokenizer puts in front of a text by itself, usually BOS or nothing."""
        plain, [whole] = self.plain("a"), self._encode(["a"], special=True)
        return whole[: next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)]

    def prompts(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Encode prompts: text as it is, messages through the chat template with the answer's turn opened.

        A text that brings its own BOS gets no second one.
        """
        texts = [p if isinstance(p, str) else self.render(p) for p in prompts]
        encoded = zip(prompts, texts, self._encode(texts, special=False), strict=True)
        return [self._fronted(text, ids) if isinstance(prompt, str) else ids for prompt, text, ids in encoded]

    def _fronted(self, text: str, ids: list[int]) -> list[int]:
        bos = self.tokenizer.bos_token
        return ids if bos and text.startswith(bos) else self.front + ids

    def render(self, messages: list[dict[str, str]]) -> str:
        """Write chat messages as the template does, with the answer's turn opened; raises UsageError.

        What the template is given beside them stands on the first message (`harness.data.chat`).
        """
        if not self.tokenizer.chat_template:
            raise UsageError("tokenizer: has no chat template, so it cannot take messages; give text prompts")
        if kind := chat.media_in(messages):
            raise UsageError(f'a message has a part of type "{kind}", and the model reads text; leave such rows out')
        turns, given = chat.split(messages)
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **given))
        except Exception as error:  # whatever the template raises about the roles it was given
            raise UsageError(f"chat template: refuses the messages: {' '.join(str(error).split())}") from None

    def pairs(self, pairs: Sequence[tuple[Prompt, str]], *, as_lm_eval: bool = False) -> list[Pair]:
        """Encode prompts and their continuations; without a prompt the context is the BOS before every text.

        The whole is encoded, the context is encoded, spaces that end the context go with the continuation. After
        messages, and where a token straddles the boundary, the continuation is encoded by itself. `as_lm_eval` cuts
        what straddles where the context's tokens end, and scores the BOS that the tokenizer adds to a whole text as
        well, behind another one.
        """
        contexts = [prompt.rstrip() if isinstance(prompt, str) else prompt for prompt, _ in pairs]
        wholes = [prompt + text if isinstance(prompt, str) else text for prompt, text in pairs]
        firsts: dict[str, int] = {}  # a context that many continuations share is encoded once
        keys = [firsts.setdefault(repr(context), i) for i, context in enumerate(contexts)]
        encoded = dict(zip(firsts.values(), self.prompts([contexts[i] for i in firsts.values()]), strict=True))
        found: list[Pair] = []
        for i, ((prompt, text), ids) in enumerate(zip(pairs, self._encode(wholes, special=False), strict=True)):
            if not isinstance(prompt, str):
                found.append((encoded[keys[i]], ids))
            elif prompt == "":
                ids = self._fronted(text, ids)
                # What stands before the text is the tokenizer's own front, a BOS in the text, or else `prefix`.
                given = len(self.front) if self.front and ids[: len(self.front)] == self.front else 0
                given = given or int(ids[:1] == [self.prefix])
                found.append((ids[:given], ids[given:]) if given and not as_lm_eval else ([self.prefix], ids))
            else:
                rest = wholes[i][len(contexts[i]) :] if text else ""
                context, ids = encoded[keys[i]], self._fronted(wholes[i], ids)
                straddled = len(context) >= len(ids) or (ids[: len(context)] != context and not as_lm_eval)
                behind = self.plain(rest) if straddled and rest else ids[len(context) :]
                found.append((context or [self.prefix], behind))
        return found

    @cached_property
    def stops(self) -> set[int]:
        """EOS, and the special token that ends an answer in the chat template."""
        eos = self.tokenizer.eos_token_id
        found = set() if eos is None else {int(eos)}
        if self.tokenizer.chat_template:
            mark = "\N{BULLET}answer\N{BULLET}"
            turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}]
            try:
                text = str(self.tokenizer.apply_chat_template(turns, tokenize=False))
            except Exception:  # a template with rules of its own about turns; EOS remains
                return found
            found |= set(self.plain(text.rpartition(mark)[2].lstrip())[:1]) & self._special
        return found

    @cached_property
    def _special(self) -> set[int]:
        added = self.tokenizer.added_tokens_decoder
        return set(self.tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}

    def special(self, text: str) -> int | None:
        """Return the special token that a text is, or None."""
        found = self.tokenizer.convert_tokens_to_ids(text)  # an unknown text is the unknown token
        return found if found in self._special and self.tokenizer.convert_ids_to_tokens(found) == text else None

    def plain(self, text: str) -> list[int]:
        """Encode a text without anything in front of it."""
        return self._encode([text], special=False)[0]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _encode(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        if not texts:
            return []
        return list(self.tokenizer(list(texts), add_special_tokens=special, verbose=False)["input_ids"])
