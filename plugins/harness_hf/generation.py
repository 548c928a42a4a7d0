"""Answers, many at a time: greedy, or drawn with a seed per row.

Rows stop one by one, on a stop token or a stop string of their own; a finished row leaves the batch at once and the
batch is filled again from the queue. Prompts are padded on the left and sorted by length. A beginning that all of
them share (the few-shot examples) is run once; where the attention allows (`cascade`), its keys and values are kept
once as well (see `attention.beside`).
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from harness import CheckFailed, Generate, Said, UsageError
from harness.internals import out_of_memory
from harness_hf.abilities import ONCE, precision, switch_of, unshareable
from harness_hf.answers import Answer, Choose, Ending, Marks, chosen, draw, likeliest
from harness_hf.attention import beside, can_cascade
from harness_hf.tokens import Tokens
from harness_workers import common

ROWS = 64  # answered at a time, at most
KEPT = {"cpu": 1 << 14, "cuda": 1 << 16}  # tokens in the cache of a batch, at most
WORTH_SHARING = 32  # tokens: a shorter beginning in common is run with each prompt
TRIAL = (32, 4)  # tokens of a prompt, and of its answer, on which a way to answer is tried
LIKELY = 10  # tokens whose log-probabilities are compared
PREFILL = {"cpu": 512, "cuda": 2048}  # prompt tokens of one forward pass; on a CPU more of them only need more padding
GROWTH = 64  # columns added to the cache at a time


def generate(
    model: PreTrainedModel,
    tokens: Tokens,
    prompts: Sequence[list[int]],
    how: Generate,
    *,
    context: int,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[tuple[int, Said]]:
    """Answer prompts; yield (number of the prompt, answer) as soon as an answer ends.

    A text ends before the first stop string or stop token, or where the context ends. In float32 the answers do not
    depend on which prompts are answered together. `tell` hears of a model whose cache does not give what a plain
    forward gives; its answers are computed without. Raises RuntimeError when the model's logits are not finite,
    UsageError when not even one row fits in memory.
    """
    special = {i for i in map(tokens.special, how.stop) if i is not None}  # decoded text does not show them
    ending = Ending(tokens, frozenset(tokens.stops | _stops_of(model) | special), tuple(how.stop))
    seeds = how.drawn.seeds if how.drawn else (None,) * len(prompts)
    marks = Marks.of(tokens, how.thought_budget, how.max_new_tokens) if how.thought_budget else None
    most = marks.longest if marks else how.max_new_tokens
    answers = [
        Answer(i, p, min(most, room), ending, seed, "length" if most <= room else "context", begun)
        for i, (p, seed) in enumerate(zip(prompts, seeds, strict=True))
        for room, begun in [(context - len(p), marks.thinking(p) if marks else None)]
    ]
    choose = partial(draw, how.drawn) if how.drawn else likeliest
    if how.max_new_tokens <= 0 or not answers:
        yield from ((answer.number, Said("", "length", 0)) for answer in answers)
        return
    if (way := _way(model, answers)) is _whole:
        tell("its cache does not reproduce a plain forward: answers are generated without a cache")
    for answer in way(model, answers, choose):
        yield answer.number, answer.said()


Way = Callable[[Any, Sequence[Answer], Choose], Iterator[Answer]]
FOUND: WeakKeyDictionary[Any, Way] = WeakKeyDictionary()  # by model
CASCADES: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def _way(model: PreTrainedModel, answers: Sequence[Answer]) -> Way:
    """Return the fastest way to answer whose logits are a plain forward's, tried once on pieces of two prompts."""
    ending = Ending(answers[0].ending.tokens, frozenset(), ())
    prompts = sorted((answer.prompt for answer in answers), key=len)
    some, (length, new) = (prompts[0], prompts[-1]), TRIAL
    if model not in FOUND:
        pieces = [Answer(i, prompt[-length:], new, ending) for i, prompt in enumerate(some)]
        tried: list[Way] = [] if unshareable(model) else [_many]
        tried += [_alone] if "cache" in inspect.signature(model.forward).parameters else []
        FOUND[model] = next((way for way in tried if _right(model, way, pieces)), _whole)
    if FOUND[model] is not _many or not (shared := _shared(answers)) or not can_cascade(model):
        return FOUND[model]
    if model not in CASCADES:
        ends = [prompt[:WORTH_SHARING] + prompt[shared:][-length:] for prompt in some]
        CASCADES[model] = _right(model, CASCADING, [Answer(i, ids, new, ending) for i, ids in enumerate(ends)])
    return CASCADING if CASCADES[model] else _many


def _right(model: PreTrainedModel, way: Way, answers: Sequence[Answer]) -> bool:
    """Answer one way, and compare the logits of the last tokens with those of a plain forward."""
    last: dict[int, Tensor] = {}

    def choose(logits: Tensor, answers: Sequence[Answer]) -> Tensor:
        last.update((answer.number, row) for answer, row in zip(answers, logits.float(), strict=True))
        return logits.argmax(-1)

    answers = [replace(answer, ids=[]) for answer in answers]
    try:
        list(way(model, answers, choose))
        with torch.inference_mode():
            plain = [_plain(model, answer.prompt + answer.ids[:-1]).float() for answer in answers]
    except CheckFailed:
        return True  # not finite: told when it answers
    except Exception as error:
        if isinstance(error, UsageError) or out_of_memory(error):
            raise
        return False
    for i, wanted in enumerate(plain):
        likely = wanted.topk(min(LIKELY, len(wanted))).indices
        if (wanted.log_softmax(-1) - last[i].log_softmax(-1))[likely].abs().max() > ONCE[precision(model)]:
            return False
    return True


def _many(
    model: PreTrainedModel, answers: Sequence[Answer], choose: Choose, *, cascade: bool = False
) -> Iterator[Answer]:
    """Answer in batches; when memory runs out, halve them and start the unfinished answers again."""
    prefix = answers[0].prompt[: _shared(answers)]
    longest = max(len(a.prompt) + a.limit for a in answers) - len(prefix) * cascade
    size = max(1, min(ROWS, KEPT.get(model.device.type, KEPT["cpu"]) // longest))
    queue = _longest_first(answers)
    batch = Batch(model, prefix, choose, size=size, cascade=cascade)
    while queue or batch.rows:
        try:
            if len(batch.rows) <= size // 2:
                while queue and len(batch.rows) < size:  # as many as there is room for, and one forward should hold
                    most = max(1, batch.prefill // (len(queue[0].prompt) - len(prefix)))
                    taken = min(size - len(batch.rows), len(queue), most)
                    yield from batch.join([queue.popleft() for _ in range(taken)])
            yield from batch.step()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if size == 1:
                what = "not enough memory to answer a single prompt; use a smaller dtype or model"
                raise UsageError(f"[model]: {what}") from None
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            size //= 2
            for answer in batch.rows:
                answer.restart()
            queue = _longest_first([*batch.rows, *queue])
            batch = Batch(model, prefix, choose, size=size, cascade=cascade)


CASCADING = partial(_many, cascade=True)


def _shared(answers: Sequence[Answer]) -> int:
    """Count the tokens that all prompts begin with, 0 where they are not worth sharing."""
    prompts = [answer.prompt for answer in answers]
    shared = common(min(prompts), max(prompts))
    shared = min(shared, min(map(len, prompts)) - 1)  # each row needs a token of its own to go on from
    return shared if len(answers) > 1 and shared >= WORTH_SHARING else 0


def _longest_first(answers: Sequence[Answer]) -> deque[Answer]:
    return deque(sorted(answers, key=lambda a: -len(a.prompt)))


def _alone(model: PreTrainedModel, answers: Sequence[Answer], choose: Choose) -> Iterator[Answer]:
    """Answer one by one with the model's own cache: for models whose layers are not plain attention."""
    takes, switch = inspect.signature(model.forward).parameters, switch_of(model)
    for answer in answers:
        cache, seen, ended = None, 0, False
        while not ended:
            ids = answer.prompt + answer.ids
            if cache is None or seen <= switch < len(ids):  # what is kept was turned otherwise
                cache, seen = None, 0
            options: dict[str, Any] = {"cache": cache, "use_cache": True}
            if "position_ids" in takes:  # without them some models count from 0 at every token
                options["position_ids"] = torch.arange(seen, len(ids), device=model.device)[None]
            with torch.inference_mode():
                done = model(input_ids=torch.tensor([ids[seen:]], device=model.device), **options)
                token = int(chosen(done.logits[:, -1], [answer], choose))
            cache, seen, ended = done.cache, len(ids), not answer.take(token)
        yield answer


def _whole(model: PreTrainedModel, answers: Sequence[Answer], choose: Choose) -> Iterator[Answer]:
    """Answer one by one, without a cache: right wherever a plain forward is."""
    for answer in answers:
        with torch.inference_mode():
            while answer.take(int(chosen(_plain(model, answer.prompt + answer.ids)[None], [answer], choose))):
                pass
        yield answer


def _plain(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """Return the logits (V) after some tokens."""
    logits: Tensor = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1]
    return logits


def _stops_of(model: PreTrainedModel) -> set[int]:
    """Return the stop tokens that the model's own configurations name."""
    found: set[int] = set()
    for config in (model.config, getattr(model, "generation_config", None)):
        eos = getattr(config, "eos_token_id", None)
        found |= {eos} if isinstance(eos, int) else set(eos or ())
    return found


class Batch:
    """The answers in work. Their own tokens end in the last column of the cache; before them is padding."""

    def __init__(self, model: PreTrainedModel, prefix: list[int], choose: Choose, *, size: int, cascade: bool) -> None:
        self.model, self.prefix, self.choose, self.size = model, prefix, choose, size
        self.prefill = PREFILL.get(model.device.type, PREFILL["cuda"])
        self.cascade = cascade and bool(prefix)
        self.before = 0 if self.cascade else len(prefix)  # columns of the prefix in the rows' cache
        self.rows: list[Answer] = []
        self.pads: list[int] = []  # columns of padding of each row, after the prefix
        self.start: Cache | None = None  # the prefix, one row
        self.cache = self._empty()

    @torch.inference_mode()
    def join(self, answers: list[Answer]) -> list[Answer]:
        """Run new prompts, put them with the others, and return those that end at their first token."""
        self.rows += answers  # first of all, so that nothing is lost when memory runs out
        own = [answer.prompt[len(self.prefix) :] for answer in answers]
        width = max(map(len, own))
        pads = [width - len(ids) for ids in own]
        ids = torch.tensor([[0] * pad + mine for pad, mine in zip(pads, own, strict=True)], device=self.model.device)
        if self.prefix and self.start is None:
            start = self._empty()
            for at in range(0, len(self.prefix), self.prefill):
                part = torch.tensor([self.prefix[at : at + self.prefill]], device=self.model.device)
                places = torch.arange(at + part.shape[1], device=self.model.device)[None]  # (1, L)
                options = {"attention_mask": torch.ones_like(places), "position_ids": places[:, at:]}
                self.model(input_ids=part, **options, cache=start, use_cache=True, logits_to_keep=1)
            self.start = start
        cache = self._empty()
        if self.start is not None and not self.cascade:  # else it is kept apart
            for layer, known in zip(cache.layers, self.start.layers, strict=True):
                layer.update(known.keys.expand(len(ids), -1, -1, -1), known.values.expand(len(ids), -1, -1, -1))
        goes_on = [True] * len(self.pads) + self._forward(ids, pads, cache, answers)
        missing = cache.get_seq_length() - self.cache.get_seq_length()
        if not self.pads:
            self.cache, missing = cache, 0
        else:  # below the rows that are there, all ending in the last column
            self._shift(max(missing, 0))
            for layer, new in zip(self.cache.layers, cache.layers, strict=True):
                layer.append(new)
        self.pads += [pad + max(-missing, 0) for pad in pads]
        return self._retire(goes_on)

    @torch.inference_mode()
    def step(self) -> list[Answer]:
        """Give each row its next token; return the rows that ended."""
        if not self.rows:
            return []
        if self.cache.layers[0].full and min(self.pads) >= GROWTH:
            self._shift(-min(self.pads))
        ids = torch.tensor([[answer.ids[-1]] for answer in self.rows], device=self.model.device)
        return self._retire(self._forward(ids, self.pads, self.cache, self.rows))

    def _forward(self, ids: Tensor, pads: Sequence[int], cache: Any, answers: Sequence[Answer]) -> list[bool]:
        """Run new tokens (B, T), give each row its next one, and return which rows go on."""
        known = cache.get_seq_length()
        columns = torch.arange(known + ids.shape[1], device=ids.device)  # (L,)
        padding = torch.tensor([[self.before + pad] for pad in pads], device=ids.device)  # (B, 1): where it ends
        places = columns + len(self.prefix) - padding  # (B, L); the rows' own tokens count from the prefix on
        given = {"input_ids": ids, "attention_mask": ((columns < self.before) | (columns >= padding)).long()}
        given["position_ids"] = places[:, known:].clamp(min=0)
        with beside(self.start) if self.cascade else nullcontext():
            done = self.model(**given, cache=cache, use_cache=True, logits_to_keep=1)
        tokens = chosen(done.logits[:, -1], answers, self.choose).tolist()
        return [answer.take(token) for answer, token in zip(answers, tokens, strict=True)]

    def _empty(self) -> Cache:
        layers = self.model.config.get_text_config().num_hidden_layers
        return Cache(layers=[Layer(self.size, self.before) for _ in range(layers)])

    def _shift(self, by: int) -> None:
        """Put so many columns of padding before all rows, or take them away."""
        if by:
            self.pads = [pad + by for pad in self.pads]
            for layer in self.cache.layers:
                layer.shift(by)

    def _retire(self, goes_on: Sequence[bool]) -> list[Answer]:
        """Remove the rows that ended, and return them; the last rows take their places."""
        ended = [answer for answer, on in zip(self.rows, goes_on, strict=True) if not on]
        count = len(self.rows) - len(ended)
        free = [i for i in range(count) if not goes_on[i]]
        last = [i for i in range(count, len(goes_on)) if goes_on[i]]
        for to, row in zip(free, last, strict=True):
            self.rows[to], self.pads[to] = self.rows[row], self.pads[row]
        del self.rows[count:], self.pads[count:]
        if not count:
            self.cache = self._empty()
        elif ended:
            for layer in self.cache.layers:
                layer.keep(count, free, last)
        return ended


class Layer(DynamicLayer):  # type: ignore[misc] # transformers is not typed
    """Keys and values (B, G, L, D) in a room with more rows and columns than are used, so that they stay in place."""

    keys: Tensor
    values: Tensor

    def __init__(self, size: int, before: int) -> None:
        super().__init__()
        self.size, self.before = size, before  # rows at most; columns of the prefix, which never move
        self._room: list[Tensor] = []

    @property
    def full(self) -> bool:
        """Whether the next column needs a larger room."""
        return bool(self._room) and self.get_seq_length() == self._room[0].shape[-2]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        rows, start = len(key_states), self.get_seq_length()
        end = start + key_states.shape[-2]
        self._reach(rows, end, like=(key_states, value_states))
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:rows, :, start:end] = new
        return self._show(rows, end)

    def append(self, other: Layer) -> None:
        """Put the rows of a layer that has no more columns below those of this one."""
        rows, end, own = len(self.keys), self.keys.shape[-2], other.keys.shape[-2] - self.before
        more = rows + len(other.keys)
        self._reach(more, end)
        for room, new in zip(self._room, (other.keys, other.values), strict=True):
            room[rows:more, :, : self.before] = new[:, :, : self.before]
            room[rows:more, :, self.before : end - own] = 0  # not seen, but NaN times 0 is NaN
            room[rows:more, :, end - own : end] = new[:, :, self.before :]
        self._show(more, end)

    def shift(self, by: int) -> None:
        """Move the columns after the prefix to the right, padding before them, or so many to the left."""
        rows, end, before = len(self.keys), self.keys.shape[-2], self.before
        self._reach(rows, end + by)
        for room in self._room:
            own = room[:rows, :, before + max(-by, 0) : end].clone()
            room[:rows, :, before : before + max(by, 0)] = 0
            room[:rows, :, before + max(by, 0) : end + by] = own
        self._show(rows, end + by)

    def keep(self, count: int, free: Sequence[int], last: Sequence[int]) -> None:
        """Keep the first rows, after some of the last have taken the places of those that ended."""
        end = self.keys.shape[-2]
        for room in self._room:
            for to, row in zip(free, last, strict=True):
                room[to, :, :end] = room[row, :, :end]
        self._show(count, end)

    def _show(self, rows: int, end: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (room[:rows, :, :end] for room in self._room)
        self.is_initialized = True
        return self.keys, self.values

    def _reach(self, rows: int, columns: int, like: Sequence[Tensor] = ()) -> None:
        """Have room for so many rows and columns, with what is there in it."""
        there = self._room[0].shape if self._room else (0, 0, 0, 0)
        if rows <= there[0] and columns <= there[2]:
            return
        height = rows if rows <= there[0] or not self._room else max(rows, min(2 * rows, self.size))
        width = there[2] if columns <= there[2] else columns + GROWTH
        old = (self.keys, self.values) if self._room else tuple(state[:0, :, :0] for state in like)
        room = [state.new_empty(max(height, there[0]), state.shape[1], width, state.shape[3]) for state in old]
        for new, state in zip(room, old, strict=True):
            new[: len(state), :, : state.shape[2]] = state
        self._room = room
