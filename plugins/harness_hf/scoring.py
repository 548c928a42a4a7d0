"""Log-probabilities of continuations, each shared beginning run once.

The scorer keeps the KV cache of one path of the prefix tree. Requests are walked in the tree's order, so a shared
prefix (the few-shot examples) is run once, and what branches off is packed behind it in rows (packing.py). Only places
that predict something are projected to the vocabulary. Models for which this is not valid are scored in plain padded
batches. Sharing is tried on pieces of two pairs first, and while it scores, some pairs are scored both ways before
their row counts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache, PreTrainedModel

from harness import UsageError
from harness.internals import common_prefix_length, memory_error
from harness_hf.abilities import TOLERANCE_BY_DTYPE, coarsest_dtype, find_masking_error, rope_switch_length
from harness_hf.cpu.attention import can_tile, use_tiled_attention
from harness_hf.memory import iterate_row_slices
from harness_hf.packing import PackedRow, RowPacker
from harness_hf.tokens import Pair

BUDGET = {"cpu": 512, "cuda": 4096, "mps": 1024}  # tokens of one forward pass; measured on the CPU, guessed elsewhere
PREFIX_STEPS = 4  # in which a first prefix is run, of a budget
MAX_LOGITS = 1 << 27  # numbers in one tensor of logits, at most
MIN_BUDGET_TOKENS = 16  # tokens; below that it is not the batch that does not fit
CHECK_SHARE = 0.05  # of the tokens run that may be run again to check them
PROBE_TOKENS = (20, 12, 6)  # tokens on which sharing is tried first: of two contexts' beginnings, ends, and targets
# nats per token that all checked pairs may be from their plain scores on average, as `TOLERANCE_BY_DTYPE` says of each
ON_AVERAGE = {torch.float32: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.15}
FEW_PAIRS = 8  # pairs; an average of fewer says little


class Agreement(NamedTuple):
    """KL in nats per token, and the share of unchanged top choices."""

    kl: float
    kept: float


@dataclass
class Scored:
    """Score of a pair so far.

    It has the sum of the log-probabilities, the number of tokens, and whether all were the likeliest.
    """

    total: float = 0.0
    tokens: int = 0
    greedy: bool = True

    def add(self, logprobs: Sequence[float], greedy: Sequence[bool]) -> None:
        self.merge(Scored(sum(logprobs), len(logprobs), all(greedy)))

    def merge(self, other: Scored) -> None:
        """Add the score of the text that follows."""
        self.total += other.total
        self.tokens += other.tokens
        self.greedy &= other.greedy


class Scorer:
    """Scores (context tokens, continuation tokens) pairs with one model."""

    def __init__(
        self, model: PreTrainedModel, context: int, *, batch_tokens: int | None = None, reference: bool = False
    ) -> None:
        self.model, self.context = model, context
        vocabulary = model.config.get_text_config().vocab_size
        default = min(BUDGET.get(model.device.type, 1024), max(256, MAX_LOGITS // vocabulary))
        self.budget = batch_tokens or default
        self.why_plain = "reference = true" if reference else find_masking_error(model)
        self.packs = not self.why_plain
        self.tiles = self.packs and can_tile(model)
        self.step = max(MIN_BUDGET_TOKENS, self.budget // PREFIX_STEPS)
        self.path: list[int] = []  # the tokens whose keys and values are in `cache`
        self.cache: Any = None
        self.whole = 0  # tokens of the path that were run a step at a time from the first on
        self.fresh = True  # nothing was asked since `forget`
        self.run = self.checked = 0  # tokens
        self.probed = False
        self.apart: list[float] = []  # nats per token, of the pairs that were scored both ways
        self.random = random.Random(0)  # noqa: S311 # which pairs are checked is no secret

    def score(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, Scored]]:
        """Yield (pair number, score) as each pair is done.

        If memory runs out, the budget is halved, and pairs that are not done start again. Raises RuntimeError if the
        fast path disagrees with a plain forward, before its row is yielded, and UsageError if not even one row fits in
        memory.
        """
        self.probe(pairs)
        if not self.packs:
            yield from self._score_in_padded_batches(pairs)
            return
        found = [Scored() for _ in pairs]
        while left := [i for i, (_, target) in enumerate(pairs) if found[i].tokens < len(target)]:
            for i in left:
                found[i] = Scored()
            try:
                for row in self.rows(pairs, numbers=left):
                    self._record_row_scores(row, self.logits(row), found)
                    done = [i for i, _, _ in row.targets if found[i].tokens == len(pairs[i][1])]
                    if done and (row.prefix or row.mask is not None):
                        number = self.random.choice(done)
                        cost = sum(map(len, pairs[number]))
                        if self.checked + cost <= CHECK_SHARE * self.run:  # the plain way too, while that costs little
                            self.checked += cost
                            [(_, alone)] = self._score_in_padded_batches([pairs[number]])
                            self._require_score_close_to_plain(found[number], alone)
                    yield from ((i, found[i]) for i in done)
            except RuntimeError as error:
                if not memory_error(error):
                    raise
                self._reset_prefix_cache()
                self.budget //= 2
                self.step = min(self.step, self.budget)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                if self.budget < MIN_BUDGET_TOKENS:
                    what = "not enough memory to score a single row; use a smaller dtype or model"
                    raise UsageError(f"[model]: {what}") from None

    def rows(
        self, pairs: Sequence[Pair], *, numbers: Sequence[int] | None = None, positions: int | None = None
    ) -> Iterator[PackedRow]:
        """Cut pairs into rows for `logits`. `positions` bounds the tokens of a row further."""
        numbers = range(len(pairs)) if numbers is None else numbers
        if self.packs:
            yield from RowPacker(pairs, numbers, min(self.budget, positions or self.budget)).rows()
            return
        for i in numbers:  # a row each, whole: nothing of one may depend on another
            yield from RowPacker(pairs, [i], self.context + 1).rows()

    @torch.inference_mode()
    def logits(self, row: PackedRow) -> torch.Tensor:
        """Return the logits (W, V) of the row's wanted places. They are in the model's dtype."""
        wanted = row.wanted  # no tensor: it would go to the first GPU of a model, and the head may be on another
        if not self.packs:
            whole: torch.Tensor = self.model(input_ids=self._make_ids_tensor(row.tokens), use_cache=False).logits[0]
            return whole[wanted]
        if self.cache is None:
            self.cache = DynamicCache(config=self.model.config)
        kept = common_prefix_length(self.path, row.prefix)  # what of it is in the cache already
        self._crop_prefix_cache(kept - kept % self.step if self.fresh else kept)
        size = self.step if self.fresh else self.budget
        for start in range(len(self.path), len(row.prefix), size):
            end = min(start + size, len(row.prefix))
            self._forward(row.prefix[start:end], range(start, end), None, 1)
            self.path = row.prefix[:end]
        if self.fresh:
            self.whole, self.fresh = len(row.prefix) - len(row.prefix) % self.step, False
        found = self._forward(row.tokens, row.positions, self._make_prefix_tree_mask(row), wanted or 1)
        if row.mask is None:
            self.path = row.prefix + row.tokens
        else:
            self.cache.crop(-len(row.tokens))
        return found[: len(wanted)]

    def close(self) -> None:
        """Drop the cache and the model."""
        self._reset_prefix_cache()
        self.model = None

    def _record_row_scores(self, row: PackedRow, logits: torch.Tensor, found: list[Scored]) -> None:
        """Add a row's log-probabilities to the scores of its requests."""
        asked = [pair for _, places, tokens in row.targets for pair in zip(places, tokens, strict=True)]
        if not asked:
            return
        places, tokens = torch.tensor(asked, device=logits.device).T
        logprobs, greedy = _gather_logprobs_and_greedy(logits, places, tokens)
        start = 0
        for number, _, targets in row.targets:
            end = start + len(targets)
            found[number].add(logprobs[start:end], greedy[start:end])
            start = end

    def forget(self) -> None:
        """Drop cached tokens that would differ without earlier requests.

        In half precision a token's keys depend on how many were run at once, so only whole steps of a first prefix
        stay.
        """
        self._crop_prefix_cache(self.whole)
        self.fresh = True

    def _reset_prefix_cache(self) -> None:
        self.cache, self.path, self.whole, self.fresh = None, [], 0, True

    def _crop_prefix_cache(self, tokens: int) -> None:
        if tokens < len(self.path):
            self.cache.crop(tokens - len(self.path))
            self.path = self.path[:tokens]
            self.whole = min(self.whole, tokens - tokens % self.step)

    def _forward(self, tokens: Sequence[int], positions: Sequence[int], mask: Any, keep: Any) -> torch.Tensor:
        self.run += len(tokens)
        given = {
            "input_ids": self._make_ids_tensor(tokens),
            "position_ids": self._make_ids_tensor(positions),
            "attention_mask": mask,
        }
        with use_tiled_attention() if self.tiles else nullcontext():
            done = self.model(**given, cache=self.cache, use_cache=True, logits_to_keep=keep)
        logits: torch.Tensor = done.logits[0]
        return logits

    def _make_prefix_tree_mask(self, row: PackedRow) -> torch.Tensor | None:
        """Return the additive mask (1, 1, T, P + T): all of the prefix, and the ancestors in the row."""
        if row.mask is None:
            return None
        size, before = len(row.tokens), len(row.prefix)
        mask = torch.zeros(size, before + size, dtype=self.model.dtype)
        hidden = torch.from_numpy(~row.mask)
        mask[:, before:].masked_fill_(hidden, torch.finfo(mask.dtype).min)
        return mask[None, None].to(self.model.device)

    def _make_ids_tensor(self, tokens: Sequence[int]) -> torch.Tensor:
        return torch.tensor([list(tokens)], device=self.model.device)

    def _score_in_padded_batches(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, Scored]]:
        """Score pairs in padded batches of whole sequences: the reference."""
        inputs = [(context + target)[:-1] for context, target in pairs]
        order = sorted(range(len(inputs)), key=lambda i: -len(inputs[i]))
        switch = rope_switch_length(self.model)
        while order:  # inputs of like lengths, the longest first, at most `budget` tokens with their padding
            longest = len(inputs[order[0]])
            size = max(1, self.budget // max(1, longest))
            # In company with a longer row a short one would be turned as that is.
            size = next((n for n, i in enumerate(order[:size]) if len(inputs[i]) <= switch < longest), size)
            batch, order = order[:size], order[size:]
            ids = torch.zeros(len(batch), longest, dtype=torch.long)
            seen = torch.zeros_like(ids)
            for k, i in enumerate(batch):  # padding goes to the right, where causal attention never looks
                ids[k, : len(inputs[i])] = torch.tensor(inputs[i])
                seen[k, : len(inputs[i])] = 1
            device = self.model.device
            with torch.inference_mode():
                logits = self.model(input_ids=ids.to(device), attention_mask=seen.to(device), use_cache=False).logits
            for k, i in enumerate(batch):
                context, target = pairs[i]
                places = torch.arange(len(context) - 1, len(inputs[i]), device=logits.device)
                found = Scored()
                found.add(*_gather_logprobs_and_greedy(logits[k], places, torch.tensor(target, device=logits.device)))
                yield i, found

    def probe(self, pairs: Sequence[Pair]) -> None:
        """Try prefix sharing once, and disable it if scores change.

        `why_plain` then holds the reason. It is tried on pieces of two pairs, behind their common beginning, which
        costs very little.
        """
        if self.probed or not self.packs or len(pairs) < 2:
            return
        self.probed, state = True, self.random.getstate()
        try:
            first, last, predicted = PROBE_TOKENS
            one = self.random.randrange(len(pairs))
            others = [i for i, (context, _) in enumerate(pairs) if context != pairs[one][0]] or [one]
            some = [pairs[one], pairs[self.random.choice(others)]]
            tried = [(pairs[one][0][:first] + context[-last:], target[:predicted]) for context, target in some]
            shared = [Scored() for _ in tried]
            # So many that both ends fit in a row, and the beginning does not: it goes to the cache, they behind a mask.
            for row in RowPacker(tried, range(len(tried)), 2 * (last + predicted)).rows():
                self._record_row_scores(row, self.logits(row), shared)
            self._reset_prefix_cache()
            for i, alone in self._score_in_padded_batches(tried):
                self._require_score_close_to_plain(shared[i], alone)
        except Exception as error:
            if isinstance(error, UsageError) or memory_error(error):
                raise
            self._reset_prefix_cache()
            self.apart = []
            if self.tiles:  # once more, with PyTorch's own attention
                self.tiles = self.probed = False
                self.random.setstate(state)
                self.probe(pairs)
                return
            self.packs = False
            self.why_plain = f"they were tested and failed: {' '.join(str(error).split())[:200]}"

    def _require_score_close_to_plain(self, shared: Scored, alone: Scored) -> None:
        """Raise RuntimeError if shared and plain scores differ too much.

        Each pair has a tolerance, and so has the average over the checked pairs.
        """
        if math.isnan(alone.total) and math.isnan(shared.total):
            return  # a broken model, not a broken scorer
        self.apart.append(abs(alone.total - shared.total) / max(1, alone.tokens))
        rough = coarsest_dtype(self.model)
        average = math.fsum(self.apart) / len(self.apart)
        if self.apart[-1] <= TOLERANCE_BY_DTYPE[rough] and (
            average <= ON_AVERAGE[rough] or len(self.apart) < FEW_PAIRS
        ):
            return
        raise RuntimeError(
            f"scoring: a continuation has log-probability {shared.total:.4f} with shared "
            f"prefixes, but {alone.total:.4f} alone; the average difference is {average:.4f} "
            "per token; set reference = true under [model], and report this model"
        )


def _gather_logprobs_and_greedy(
    logits: torch.Tensor, places: torch.Tensor, tokens: torch.Tensor
) -> tuple[list[float], list[bool]]:
    """Return each token's log-probability, and whether it is the likeliest.

    It is float32, of the token's place in the logits (W, V).
    """
    normal, best = [], []
    for rows in iterate_row_slices(logits):
        part = logits[rows].float()
        normal.append(part.logsumexp(-1))
        best.append(part.argmax(-1))
    norms, likeliest = torch.cat(normal), torch.cat(best)
    logprobs = logits[places, tokens].float() - norms[places]
    greedy = (likeliest[places] == tokens) & logprobs.isfinite()  # the argmax of NaN is a token like any other
    return logprobs.double().tolist(), greedy.tolist()


def kl_and_agreement(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> Agreement:
    """Return KL(before ‖ after) and the share of unchanged top choices.

    KL is in nats per token; the log-probabilities are (T, V).
    """
    pairs = list(zip(before, after, strict=True))
    tokens = sum(len(p) for p, _ in pairs)
    kl = sum(float((p.exp() * (p - q)).sum()) for p, q in pairs) / tokens
    return Agreement(kl, sum(int((p.argmax(-1) == q.argmax(-1)).sum()) for p, q in pairs) / tokens)
