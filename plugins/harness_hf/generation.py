"""Answers, many at a time: greedy, or drawn with a seed per row.

Rows stop one by one, on a stop token or a stop string of their own; a finished row leaves the batch at once and the
batch is filled again from the queue. Prompts are padded on the left and sorted by length; a beginning that all of
them share (the few-shot examples) is run once.

Imports torch: import this module inside functions.
"""

from __future__ import annotations

import inspect
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.nn.functional import pad
from transformers.cache_utils import Cache, DynamicLayer

from harness.errors import Finding, UsageError
from harness.records.models import Sampling
from harness_hf.packing import common
from harness_hf.scoring import ONCE, out_of_memory, precision, switch_of, unshareable
from harness_hf.tokens import Tokens

ROWS = 64  # answered at a time, at most
KEPT = {"cpu": 1 << 14, "cuda": 1 << 16}  # tokens in the cache of a batch, at most
PREFILL = 2048  # prompt tokens of one forward pass
WORTH_SHARING = 32  # tokens: a shorter beginning in common is run with each prompt
GROWTH = 64  # columns added to the cache at a time
TRIAL = (32, 4)  # tokens of a prompt, and of its answer, on which a way to answer is tried
LIKELY = 10  # tokens whose log-probabilities are compared


def generate(
    model: Any,
    tokens: Tokens,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    stop: Sequence[str],
    context: int,
    sampling: Sampling | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[tuple[int, str]]:
    """Answer prompts; yield (number of the prompt, answer) as soon as an answer ends.

    A text ends before the first stop string or stop token, or where the context ends. In float32 the answers do not
    depend on which prompts are answered together. `tell` hears of a model whose cache does not give what a plain
    forward gives; its answers are computed without. Raises RuntimeError when the model's logits are not finite,
    UsageError when not even one row fits in memory.
    """
    special = {i for i in map(tokens.special, stop) if i is not None}  # decoded text does not show them
    ending = Ending(tokens, frozenset(tokens.stops | _stops_of(model) | special), tuple(stop))
    seeds = sampling.seeds if sampling else (None,) * len(prompts)
    answers = [
        Answer(i, p, min(max_new_tokens, context - len(p)), ending, seed)
        for i, (p, seed) in enumerate(zip(prompts, seeds, strict=True))
    ]
    choose = Draw(sampling) if sampling else likeliest
    finished: Iterable[Answer] = answers
    if max_new_tokens > 0 and answers:
        way = _way(model, answers)
        if way is _whole:
            tell("it has no cache that gives what a plain forward gives: answers are computed whole, token by token")
        finished = way(model, answers, choose)
    for answer in finished:
        yield answer.number, answer.text()


Choose = Callable[[torch.Tensor, Sequence["Answer"]], torch.Tensor]  # logits (B, V) and their rows -> tokens (B,)
Way = Callable[[Any, Sequence["Answer"], Choose], Iterator["Answer"]]
FOUND: WeakKeyDictionary[Any, Way] = WeakKeyDictionary()  # by model


def likeliest(logits: torch.Tensor, _: Sequence[Answer]) -> torch.Tensor:
    """Return the token of the largest logit, the first of equals."""
    return logits.argmax(-1)


@dataclass(frozen=True)
class Draw:
    """Draws each row's token with the row's own random numbers: temperature, then top-k, then top-p."""

    sampling: Sampling

    def __call__(self, logits: torch.Tensor, answers: Sequence[Answer]) -> torch.Tensor:
        share, token = (
            (logits.float() / self.sampling.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
        )
        if self.sampling.top_k:
            share[:, self.sampling.top_k :] = 0
            share /= share.sum(-1, keepdim=True)
        share *= share.cumsum(-1) - share < self.sampling.top_p  # the likeliest always stays
        edges = share.cumsum(-1)
        luck = torch.tensor([[answer.luck()] for answer in answers], device=edges.device)
        place = torch.searchsorted(edges, luck * edges[:, -1:], right=True).clamp(max=edges.shape[-1] - 1)
        return token.gather(-1, place)[:, 0]


@dataclass(frozen=True)
class Ending:
    """What ends an answer: stop tokens, and stop strings in the decoded text."""

    tokens: Tokens
    stops: frozenset[int]
    strings: tuple[str, ...]

    def cut(self, text: str) -> str:
        """Return the text before the first stop string."""
        found = [at for s in self.strings if s and (at := text.find(s)) >= 0]
        return text[: min(found)] if found else text

    def reached(self, ids: Sequence[int]) -> bool:
        """Say whether the last token completed a stop string; only as many tokens as could hold one are decoded."""
        if not self.strings:
            return False
        longest = max(len(s.encode()) for s in self.strings) + 4  # a token holds a byte at least; 4: half characters
        tail = self.tokens.decode(ids[-longest:])
        if self.cut(tail) == tail:
            return False
        text = self.tokens.decode(ids)
        return self.cut(text) != text


@dataclass
class Answer:
    """One prompt and what was answered so far."""

    number: int
    prompt: list[int]
    limit: int
    ending: Ending
    seed: int | None = None
    ids: list[int] = field(default_factory=list)

    def take(self, token: int) -> bool:
        """Add a token; say whether the answer goes on."""
        if token in self.ending.stops:
            return False
        self.ids.append(token)
        return len(self.ids) < self.limit and not self.ending.reached(self.ids)

    def luck(self) -> float:
        """Return the random number from 0 to 1 of the token that comes next; it depends on seed and place alone."""
        return random.Random(f"{self.seed} {len(self.ids)}").random()  # noqa: S311 -- not for secrets

    def text(self) -> str:
        return self.ending.cut(self.ending.tokens.decode(self.ids))


def _way(model: Any, answers: Sequence[Answer]) -> Way:
    """Return the fastest way to answer whose logits are a plain forward's, tried once on pieces of two prompts."""
    if model not in FOUND:
        length, new = TRIAL
        prompts = sorted((answer.prompt for answer in answers), key=len)
        ending = Ending(answers[0].ending.tokens, frozenset(), ())
        pieces = [Answer(i, p[-length:], new, ending) for i, p in enumerate([prompts[0], prompts[-1]])]
        tried = [] if unshareable(model) else [_many]
        tried += [_alone] if "cache" in inspect.signature(model.forward).parameters else []
        FOUND[model] = next((way for way in tried if _right(model, way, pieces)), _whole)
    return FOUND[model]


def _right(model: Any, way: Way, answers: Sequence[Answer]) -> bool:
    """Answer one way, and compare the logits of the last tokens with those of a plain forward."""
    last: dict[int, torch.Tensor] = {}

    def choose(logits: torch.Tensor, answers: Sequence[Answer]) -> torch.Tensor:
        last.update((answer.number, row) for answer, row in zip(answers, logits.float(), strict=True))
        return logits.argmax(-1)

    answers = [replace(answer, ids=[]) for answer in answers]
    try:
        for _ in way(model, answers, choose):
            pass
        with torch.inference_mode():
            plain = [_plain(model, answer.prompt + answer.ids[:-1]).float() for answer in answers]
    except Finding:
        return True  # not finite: told when it answers
    except Exception as error:
        if isinstance(error, UsageError) or (isinstance(error, RuntimeError) and out_of_memory(error)):
            raise
        return False
    for i, wanted in enumerate(plain):
        likely = wanted.topk(min(LIKELY, len(wanted))).indices
        apart = (wanted.log_softmax(-1) - last[i].log_softmax(-1))[likely].abs().max()
        if apart > ONCE[precision(model)]:
            return False
    return True


def _many(model: Any, answers: Sequence[Answer], choose: Choose) -> Iterator[Answer]:
    """Answer in batches; when memory runs out, halve them and start the unfinished answers again."""
    longest = max(len(a.prompt) + a.limit for a in answers)
    size = max(1, min(ROWS, KEPT.get(model.device.type, KEPT["cpu"]) // longest))
    queue = deque(sorted(answers, key=lambda a: -len(a.prompt)))
    shared = common(min(a.prompt for a in answers), max(a.prompt for a in answers))
    shared = min(shared, len(queue[-1].prompt) - 1)  # each row needs a token of its own to go on from
    batch = Batch(model, queue[0].prompt[:shared] if len(answers) > 1 and shared >= WORTH_SHARING else [], choose)
    while queue or batch.rows:
        try:
            if len(batch.rows) <= size // 2:
                while queue and len(batch.rows) < size:
                    yield from batch.join(_next(queue, size - len(batch.rows), len(batch.prefix)))
            yield from batch.step()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            size = _smaller(size)
            for answer in batch.rows:
                answer.ids.clear()
            queue.extendleft(reversed(batch.rows))
            batch = Batch(model, batch.prefix, choose)


def _next(queue: deque[Answer], room: int, prefix: int) -> list[Answer]:
    """Take prompts off the queue, as many as there is room for and as one forward pass should hold."""
    width = len(queue[0].prompt) - prefix
    return [queue.popleft() for _ in range(min(room, len(queue), max(1, PREFILL // width)))]


def _smaller(size: int) -> int:
    if size == 1:
        raise UsageError("[model]: not enough memory to answer a single prompt; use a smaller dtype or model") from None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return size // 2


class Batch:
    """The answers in work. Column j of `seen` and of the cache is the same token; columns not `seen` are padding."""

    def __init__(self, model: Any, prefix: list[int], choose: Choose) -> None:
        self.model, self.prefix, self.choose = model, prefix, choose
        self.rows: list[Answer] = []
        self.start: Cache | None = None  # the prefix, one row
        self.cache: Cache | None = None
        self.seen = torch.zeros(0, 0, dtype=torch.long, device=model.device)  # (B, L)

    @torch.inference_mode()
    def join(self, answers: list[Answer]) -> list[Answer]:
        """Run new prompts, put them with the others, and return those that end at their first token."""
        self.rows += answers  # first of all, so that nothing is lost when memory runs out
        before, width = len(self.prefix), max(len(a.prompt) for a in answers) - len(self.prefix)
        ids = torch.zeros(len(answers), width, dtype=torch.long)
        seen = torch.ones(len(answers), before + width, dtype=torch.long)
        for i, answer in enumerate(answers):
            own = answer.prompt[before:]
            ids[i, width - len(own) :] = torch.tensor(own)
            seen[i, before : before + width - len(own)] = 0
        cache = self._started(len(answers))
        seen = seen.to(self.model.device)
        tokens = self._forward(ids.to(self.model.device), seen, cache, answers)
        goes_on = [answer.take(token) for answer, token in zip(answers, tokens, strict=True)]
        kept = [i for i, on in enumerate(goes_on) if on]
        self.rows = self.rows[: -len(answers)] + [answers[i] for i in kept]
        if kept:
            _select(cache, kept)
            self._merge(cache, seen[kept])
        return [answer for answer, on in zip(answers, goes_on, strict=True) if not on]

    @torch.inference_mode()
    def step(self) -> list[Answer]:
        """Give each row its next token; return the rows that ended."""
        if not self.rows:
            return []
        ids = torch.tensor([[answer.ids[-1]] for answer in self.rows], device=self.model.device)
        self.seen = pad(self.seen, (0, 1), value=1)
        tokens = self._forward(ids, self.seen, self.cache, self.rows)
        goes_on = [answer.take(token) for answer, token in zip(self.rows, tokens, strict=True)]
        ended = [answer for answer, on in zip(self.rows, goes_on, strict=True) if not on]
        if ended:
            kept = [i for i, on in enumerate(goes_on) if on]
            self.rows = [self.rows[i] for i in kept]
            self.seen = self.seen[kept]
            if kept:
                _select(self.cache, kept)
            else:
                self.cache, self.seen = None, self.seen[:, :0]
        return ended

    def _forward(self, ids: torch.Tensor, seen: torch.Tensor, cache: Any, answers: Sequence[Answer]) -> list[int]:
        """Return the next token of each row; without rows to choose for, only fill the cache."""
        positions = (seen.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        done = self.model(
            input_ids=ids, attention_mask=seen, position_ids=positions, cache=cache, use_cache=True, logits_to_keep=1
        )
        found: list[int] = _chosen(done.logits[:, -1], answers, self.choose).tolist() if answers else []
        return found

    def _started(self, rows: int) -> Cache:
        """Return a cache that holds the prefix in each of so many rows."""
        layers = self.model.config.get_text_config().num_hidden_layers
        if self.prefix and self.start is None:
            self.start = Cache(layers=[Roomy() for _ in range(layers)])
            for at in range(0, len(self.prefix), PREFILL):
                part = torch.tensor([self.prefix[at : at + PREFILL]], device=self.model.device)
                seen = torch.ones(1, at + part.shape[1], dtype=torch.long, device=self.model.device)
                self._forward(part, seen, self.start, [])
        cache = Cache(layers=[Roomy() for _ in range(layers)])
        if self.start is not None:
            for layer, known in zip(cache.layers, self.start.layers, strict=True):
                layer.update(known.keys.expand(rows, -1, -1, -1), known.values.expand(rows, -1, -1, -1))
        return cache

    def _merge(self, cache: Cache, seen: torch.Tensor) -> None:
        """Put new rows below the others, both padded on the left to one length."""
        if self.cache is None:
            self.cache, self.seen = cache, seen
            return
        length = max(self.seen.shape[1], seen.shape[1])
        self.seen = torch.cat([_left(s, length, -1) for s in (self.seen, seen)])
        for layer, new in zip(self.cache.layers, cache.layers, strict=True):
            keys = torch.cat([_left(states, length, -2) for states in (layer.keys, new.keys)])
            values = torch.cat([_left(states, length, -2) for states in (layer.values, new.values)])
            layer.put(keys, values)


class Roomy(DynamicLayer):  # type: ignore[misc] # transformers is not typed
    """A cache layer with room to grow: a step writes a column, where DynamicLayer copies everything."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self._room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._room is None or self._room[0].shape[-2] < end:
            old = (self.keys, self.values) if start else (key_states[..., :0, :], value_states[..., :0, :])
            self._room = (pad(old[0], (0, 0, 0, end + GROWTH - start)), pad(old[1], (0, 0, 0, end + GROWTH - start)))
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[..., start:end, :] = new
        self.keys, self.values = (room[..., :end, :] for room in self._room)
        self.is_initialized = True
        return self.keys, self.values

    def put(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Replace what is there."""
        self.keys, self.values, self._room = keys, values, None


def _select(cache: Any, rows: list[int]) -> None:
    for layer in cache.layers:
        layer.put(layer.keys[rows], layer.values[rows])


def _left(x: torch.Tensor, length: int, dim: int) -> torch.Tensor:
    """Pad a dimension, -1 or -2, on the left with zeros."""
    missing = length - x.shape[dim]
    return pad(x, (missing, 0) if dim == -1 else (0, 0, missing, 0))


def _alone(model: Any, answers: Sequence[Answer], choose: Choose) -> Iterator[Answer]:
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
                token = int(_chosen(done.logits[:, -1], [answer], choose))
            cache, seen, ended = done.cache, len(ids), not answer.take(token)
        yield answer


def _whole(model: Any, answers: Sequence[Answer], choose: Choose) -> Iterator[Answer]:
    """Answer one by one, without a cache: right wherever a plain forward is."""
    for answer in answers:
        ended = False
        while not ended:
            with torch.inference_mode():
                logits = _plain(model, answer.prompt + answer.ids)[None]
                ended = not answer.take(int(_chosen(logits, [answer], choose)))
        yield answer


def _plain(model: Any, ids: list[int]) -> torch.Tensor:
    """Return the logits (V) after some tokens."""
    logits: torch.Tensor = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1]
    return logits


def _chosen(logits: torch.Tensor, answers: Sequence[Answer], choose: Choose) -> torch.Tensor:
    if not bool(logits.max(-1).values.isfinite().all()):  # the argmax of NaN is a token like any other
        raise Finding("generation: the model's logits are not finite")
    return choose(logits, answers)


def _stops_of(model: Any) -> set[int]:
    """Return the stop tokens that the model's own configurations name."""
    found: set[int] = set()
    for config in (model.config, getattr(model, "generation_config", None)):
        eos = getattr(config, "eos_token_id", None)
        found |= {eos} if isinstance(eos, int) else set(eos or ())
    return found
