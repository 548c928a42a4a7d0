"""An answer in work: its tokens so far, what ends it, and how its next token is chosen.

A thought under a budget is closed by force, token by token, so that one within its budget has the bits of any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from harness import CheckFailedError, Completion, FinishReason, Sampling, ThoughtBudget, UsageError
from harness_hf.tokens import ModelTokenizer


@dataclass(frozen=True)
class StopCondition:
    """Stop tokens and stop strings that end an answer.

    The strings are looked for in the decoded text.
    """

    tokens: ModelTokenizer
    stops: frozenset[int]
    strings: tuple[str, ...]

    def cut_text(self, text: str) -> str:
        """Return the text before the first stop string."""
        found = [at for s in self.strings if s and (at := text.find(s)) >= 0]
        return text[: min(found)] if found else text

    def is_reached(self, ids: Sequence[int]) -> bool:
        """Return whether the last token completed a stop string. Decodes a tail first."""
        if not self.strings:
            return False
        longest = max(len(s.encode()) for s in self.strings) + 4  # a token holds a byte at least; 4: half characters
        tail = self.tokens.decode(ids[-longest:])
        if self.cut_text(tail) == tail:
            return False
        text = self.tokens.decode(ids)
        return self.cut_text(text) != text


@dataclass
class AnswerState:
    """One prompt and its answer so far.

    `bound` is the finish reason at `limit`; `ended` is set at the end.
    """

    number: int
    prompt: list[int]
    limit: int
    ending: StopCondition
    seed: int | None = None
    bound: FinishReason = "length"
    thinking: ThoughtState | None = None  # where its thought has a budget
    ids: list[int] = field(default_factory=list)
    ended: FinishReason = ""

    def append(self, token: int) -> bool:
        """Add a token; return whether the answer goes on."""
        if token in self.ending.stops and self.forced_token is None:
            self.ended = "eos"
            return False
        self.ids.append(token)
        most = self.limit
        if self.thinking:
            self.thinking.update(self.ids)
            most = min(most, self.thinking.most)
        full: FinishReason = "" if len(self.ids) < most else self.bound if most == self.limit else "length"
        self.ended = "stop" if self.ending.is_reached(self.ids) else full
        return not self.ended

    @property
    def forced_token(self) -> int | None:
        """Return the next token if a thought budget forces one."""
        return self.thinking.pending[0] if self.thinking and self.thinking.pending else None

    def append_generated(self, tokens: Sequence[int]) -> None:
        """Append tokens generated elsewhere, then any forced ones.

        Generated tokens are dropped from the end of the answer, or the first forced token, on.
        """
        for token in tokens:
            if self.forced_token is not None or not self.append(token):
                break
        while not self.ended and (fed := self.forced_token) is not None:
            self.append(fed)

    @property
    def free_tokens(self) -> int:
        """The most tokens that may come next by themselves."""
        most = self.limit - len(self.ids)
        return min(most, self.thinking.free_tokens(len(self.ids))) if self.thinking else most

    def restart(self) -> None:
        """Forget all that was answered."""
        self.ids.clear()
        self.ended = ""
        if self.thinking:
            self.thinking = self.thinking.marks.start_thought(self.prompt)

    @property
    def noise_key(self) -> int:
        """Return the 64 bits that seed the next token's noise. They depend on seed and place alone."""
        digest = hashlib.sha256(f"{self.seed} {len(self.ids)}".encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)

    def to_completion(self) -> Completion:
        text = self.ending.cut_text(self.ending.tokens.decode(self.ids))
        forced = self.thinking is not None and self.thinking.forced
        return Completion(text, self.ended, len(self.ids) + (self.ended == "eos"), forced=forced)


Choose = Callable[[torch.Tensor, Sequence[AnswerState]], torch.Tensor]  # logits (B, V) and their rows -> tokens (B,)


def choose_greedily(logits: torch.Tensor, _: Sequence[AnswerState]) -> torch.Tensor:
    """Return the token of the largest logit, the first of equals."""
    return logits.argmax(-1)


def draw_tokens(sampling: Sampling, logits: torch.Tensor, answers: Sequence[AnswerState]) -> torch.Tensor:
    """Draw each row's token (B,) from logits (B, V): temperature, then top-k, then top-p, then the Gumbel maximum.

    argmax(logits / T + g) with g = -log(-log u) is a sample of the softmax (Gumbel 1954; Maddison, Tarlow and Minka
    2014). As u is hashed from seed, place and token, two models that nearly agree draw the same token nearly always:
    no rank or cumulated sum moves between them.
    """
    scaled = logits.double() / sampling.temperature
    if sampling.top_k or sampling.top_p < 1:
        scaled = scaled.masked_fill(~_mask_top_k_top_p_tokens(sampling, scaled), -torch.inf)
    return scaled.sub_(_compute_log_exponential_noise([a.noise_key for a in answers], scaled)).argmax(-1)


def _mask_top_k_top_p_tokens(sampling: Sampling, scaled: torch.Tensor) -> torch.Tensor:
    """Return the mask (B, V) of tokens kept by top-k, then top-p. The likeliest always stays."""
    share, token = scaled.softmax(-1).sort(dim=-1, descending=True, stable=True)
    if sampling.top_k:
        share[:, sampling.top_k :] = 0
        share /= share.sum(-1, keepdim=True)
    kept = (share > 0) & (share.cumsum(-1) - share < sampling.top_p)
    kept[:, 0] = True
    return torch.zeros_like(kept).scatter_(-1, token, kept)


def _compute_log_exponential_noise(keys: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Return log(-log u) (B, V), u uniform: 32 bits of SplitMix64 (Steele, Lea and Flood 2014) at key and token."""
    rows = torch.tensor(keys, dtype=torch.int64, device=like.device)[:, None]
    bits = rows + torch.arange(1, like.shape[-1] + 1, device=like.device) * -0x61C8864680B583EB  # wraps around
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        bits ^= (bits >> shift) & ((1 << (64 - shift)) - 1)  # the mask makes the shift a logical one
        bits *= factor
    bits ^= (bits >> 31) & ((1 << 33) - 1)
    uniform = ((bits >> 32) & 0xFFFFFFFF).to(like.dtype).add_(0.5).mul_(2.0**-32)
    return uniform.log_().neg_().log_()


def choose_tokens(logits: torch.Tensor, answers: Sequence[AnswerState], choose: Choose) -> torch.Tensor:
    """Return the next token (B,) of each row, forced or chosen.

    Raises CheckFailedError if logits (B, V) are not finite.
    """
    if not bool(logits.max(-1).values.isfinite().all()):  # the argmax of NaN is a token like any other
        raise CheckFailedError("generation: the model's logits are not finite")
    tokens = choose(logits, answers)
    for i, answer in enumerate(answers):
        if (fed := answer.forced_token) is not None:
            tokens[i] = fed
    return tokens


@dataclass(frozen=True)
class ThoughtMarkers:
    """Thought markers of a tokenizer, with token limits.

    `budget` limits the thought, `answer` the answer, in tokens.
    """

    tokens: ModelTokenizer
    budget: ThoughtBudget
    answer: int

    @classmethod
    def of(cls, tokens: ModelTokenizer, budget: ThoughtBudget, answer: int) -> ThoughtMarkers:
        """Return the marks; raises UsageError where texts do not show them."""
        for mark in (budget.begin, budget.end):
            if tokens.special_token_id(mark) is not None:
                what = f'the mark "{mark}" is a special token of this model, which answers do not contain'
                raise UsageError(f"thought_budget: {what}; remove thought_budget and thought")
        return cls(tokens, budget, answer)

    @property
    def closing_ids(self) -> list[int]:
        """The tokens that close a thought."""
        return self.tokens.encode_plain(self.budget.end)

    @property
    def max_tokens(self) -> int:
        """Return the token limit of thought, closing mark and answer together."""
        return max(self.budget.tokens, self.answer) + len(self.closing_ids) + self.answer

    def start_thought(self, prompt: Sequence[int]) -> ThoughtState:
        """Return the thought state of an answer without tokens. It has begun if the prompt opened the thought."""
        return ThoughtState(self, begun=self.may_be_complete(self.budget.begin, prompt, last=True))

    def may_be_complete(self, mark: str, ids: Sequence[int], *, last: bool = False) -> bool:
        """Return whether the last token may have completed a mark. With `last` only blanks may follow it."""
        tail = self.tokens.decode(ids[-len(mark.encode()) - 4 :])  # a token holds a byte at least; 4: half characters
        return tail.rstrip().endswith(mark) if last else mark in tail


@dataclass
class ThoughtState:
    """Progress of an answer's thought. `pending` tokens are forced, regardless of the model."""

    marks: ThoughtMarkers
    begun: bool
    ended: int | None = None  # how many tokens there were
    forced: bool = False
    pending: list[int] = field(default_factory=list)

    def update(self, ids: Sequence[int]) -> None:
        """Take note of a new last token."""
        if self.pending:
            self.pending.pop(0)
            self.ended = None if self.pending else len(ids)
            return
        budget = self.marks.budget
        self.begun = self.begun or self.marks.may_be_complete(budget.begin, ids)
        if not self.begun or self.ended is not None:
            return
        if self.marks.may_be_complete(budget.end, ids):
            self.ended = len(ids)
        elif len(ids) >= budget.tokens:
            self.pending, self.forced = self.marks.closing_ids, True

    @property
    def most(self) -> int:
        """Return the limit on all tokens, as known by now."""
        if not self.begun:
            return self.marks.answer
        return self.marks.max_tokens if self.ended is None else self.ended + self.marks.answer

    def free_tokens(self, known: int) -> int:
        """Return the number of tokens until something is forced or ends.

        `known` counts the tokens so far.
        """
        return max(1, (self.marks.budget.tokens if self.begun and self.ended is None else self.most) - known)
