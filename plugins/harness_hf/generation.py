"""Answers, many at a time: greedy, or drawn with a seed per row.

Rows stop one by one, on a stop token or a stop string of their own; a finished row leaves the batch at once and the
batch is filled again from the queue. Prompts are padded on the left and sorted by length. A beginning that all of
them share (the few-shot examples) is run once; on a CPU its keys and values may be kept once as well (cpu/cascade.py).
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness import CheckFailedError, Completion, Generate, UsageError
from harness.internals import common_prefix_length, memory_error
from harness_hf.abilities import TOLERANCE_BY_DTYPE, coarsest_dtype, find_masking_error, rope_switch_length
from harness_hf.answers import (
    AnswerState,
    Choose,
    StopCondition,
    ThoughtMarkers,
    choose_greedily,
    choose_tokens,
    draw_tokens,
)
from harness_hf.batch import Batch
from harness_hf.tokens import ModelTokenizer

MAX_BATCH_ROWS = 64  # answered at a time, at most
MAX_CACHED_TOKENS = {"cpu": 1 << 14, "cuda": 1 << 16}  # tokens in the cache of a batch, at most
WORTH_SHARING = 32  # tokens: a shorter beginning in common is run with each prompt
TRIAL_TOKENS = (32, 4)  # tokens of a prompt, and of its answer, on which a way to answer is tried
TOP_TOKENS = 10  # tokens whose log-probabilities are compared


def generate_completions(
    model: PreTrainedModel,
    tokens: ModelTokenizer,
    prompts: Sequence[list[int]],
    how: Generate,
    *,
    context: int,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[tuple[int, Completion]]:
    """Yield a completion for each prompt as soon as it ends.

    Yields (number of the prompt, completion). A text ends before the first stop string or stop token, at its token
    limit, or where the context ends. In float32 the answers do not depend on which prompts are answered together.
    `tell` is called for a model with a cache that does not reproduce a plain forward; its answers are computed without.
    Raises RuntimeError if the model's logits are not finite, UsageError if not even one row fits in memory.
    """
    special = {i for i in map(tokens.special_token_id, how.stop) if i is not None}  # decoded text does not show them
    ending = StopCondition(tokens, frozenset(tokens.stop_ids | _list_stop_tokens(model) | special), tuple(how.stop))
    seeds = how.drawn.seeds if how.drawn else (None,) * len(prompts)
    marks = ThoughtMarkers.of(tokens, how.thought_budget, how.max_new_tokens) if how.thought_budget else None
    most = marks.max_tokens if marks else how.max_new_tokens
    answers = [
        AnswerState(i, p, min(most, room), ending, seed, "length" if most <= room else "context", begun)
        for i, (p, seed) in enumerate(zip(prompts, seeds, strict=True))
        for room, begun in [(context - len(p), marks.start_thought(p) if marks else None)]
    ]
    choose = partial(draw_tokens, how.drawn) if how.drawn else choose_greedily
    if how.max_new_tokens <= 0 or not answers:
        yield from ((answer.number, Completion("", "length", 0)) for answer in answers)
        return
    if (way := _choose_verified_generation_way(model, answers)) is _answer_without_cache:
        tell("its cache does not reproduce a plain forward: answers are generated without a cache")
    for answer in way(model, answers, choose):
        yield answer.number, answer.to_completion()


Way = Callable[[Any, Sequence[AnswerState], Choose], Iterator[AnswerState]]
CHOSEN_WAYS: WeakKeyDictionary[Any, Way] = WeakKeyDictionary()  # by model


def _choose_verified_generation_way(model: PreTrainedModel, answers: Sequence[AnswerState]) -> Way:
    """Return the fastest way to answer that reproduces plain logits. Each is tried once, on pieces of two prompts."""
    ending = StopCondition(answers[0].ending.tokens, frozenset(), ())
    prompts = sorted((answer.prompt for answer in answers), key=len)
    some, (length, new) = (prompts[0], prompts[-1]), TRIAL_TOKENS
    if model not in CHOSEN_WAYS:
        pieces = [AnswerState(i, prompt[-length:], new, ending) for i, prompt in enumerate(some)]
        tried: list[Way] = [] if find_masking_error(model) else [answer_in_batches]
        tried += [_answer_one_by_one] if "cache" in inspect.signature(model.forward).parameters else []
        CHOSEN_WAYS[model] = next((way for way in tried if is_right(model, way, pieces)), _answer_without_cache)
    if (
        CHOSEN_WAYS[model] is not answer_in_batches
        or not (shared := _count_worthwhile_prefix_tokens(answers))
        or model.device.type != "cpu"
    ):
        return CHOSEN_WAYS[model]
    from harness_hf.cpu import cascade

    ends = [prompt[:WORTH_SHARING] + prompt[shared:][-length:] for prompt in some]
    trial = [AnswerState(i, ids, new, ending) for i, ids in enumerate(ends)]
    cascading = partial(answer_in_batches, kind=cascade.CascadeBatch)
    return cascading if cascade.is_usable(model, lambda: is_right(model, cascading, trial)) else answer_in_batches


def is_right(model: PreTrainedModel, way: Way, answers: Sequence[AnswerState]) -> bool:
    """Return whether a way to answer reproduces plain logits.

    The logits of the last tokens are compared with those of a plain forward. Non-finite ones pass: answering reports
    them.
    """
    last: dict[int, Tensor] = {}

    def choose(logits: Tensor, answers: Sequence[AnswerState]) -> Tensor:
        last.update((answer.number, row) for answer, row in zip(answers, logits.float(), strict=True))
        return logits.argmax(-1)

    answers = [replace(answer, ids=[]) for answer in answers]
    try:
        list(way(model, answers, choose))
        with torch.inference_mode():
            plain = [_compute_next_logits(model, answer.prompt + answer.ids[:-1]).float() for answer in answers]
    except CheckFailedError:
        return True  # not finite: told when it answers
    except Exception as error:
        if isinstance(error, UsageError) or memory_error(error):
            raise
        return False
    for i, wanted in enumerate(plain):
        likely = wanted.topk(min(TOP_TOKENS, len(wanted))).indices
        if (wanted.log_softmax(-1) - last[i].log_softmax(-1))[likely].abs().max() > TOLERANCE_BY_DTYPE[
            coarsest_dtype(model)
        ]:
            return False
    return True


def answer_in_batches(
    model: PreTrainedModel, answers: Sequence[AnswerState], choose: Choose, *, kind: type[Batch] | None = None
) -> Iterator[AnswerState]:
    """Yield answers generated in batches.

    If memory runs out, batches are halved and the unfinished answers start again. Raises UsageError if not even one row
    fits in memory.
    """
    prefix = answers[0].prompt[: _count_worthwhile_prefix_tokens(answers)]
    kind = kind or Batch
    longest = max(len(a.prompt) + a.limit for a in answers) - (0 if kind.copies_prefix else len(prefix))
    size = max(1, min(MAX_BATCH_ROWS, MAX_CACHED_TOKENS.get(model.device.type, MAX_CACHED_TOKENS["cpu"]) // longest))
    queue = _sort_longest_first(answers)
    batch = kind(model, prefix, choose, size=size)
    while queue or batch.rows:
        try:
            if len(batch.rows) <= size // 2:
                while queue and len(batch.rows) < size:  # as many as there is room for, and one forward should hold
                    most = max(1, batch.prefill // (len(queue[0].prompt) - len(prefix)))
                    taken = min(size - len(batch.rows), len(queue), most)
                    yield from batch.join([queue.popleft() for _ in range(taken)])
            yield from batch.step()
        except RuntimeError as error:
            if not memory_error(error):
                raise
            if size == 1:
                what = "not enough memory to answer a single prompt; use a smaller dtype or model"
                raise UsageError(f"[model]: {what}") from None
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            size //= 2
            for answer in batch.rows:
                answer.restart()
            queue = _sort_longest_first([*batch.rows, *queue])
            batch = kind(model, prefix, choose, size=size)


def _count_worthwhile_prefix_tokens(answers: Sequence[AnswerState]) -> int:
    """Count the tokens of a common prefix worth sharing. 0 if it is too short or there is one prompt."""
    prompts = [answer.prompt for answer in answers]
    shared = common_prefix_length(min(prompts), max(prompts))
    shared = min(shared, min(map(len, prompts)) - 1)  # each row needs a token of its own to go on from
    return shared if len(answers) > 1 and shared >= WORTH_SHARING else 0


def _sort_longest_first(answers: Sequence[AnswerState]) -> deque[AnswerState]:
    return deque(sorted(answers, key=lambda a: -len(a.prompt)))


def _answer_one_by_one(model: PreTrainedModel, answers: Sequence[AnswerState], choose: Choose) -> Iterator[AnswerState]:
    """Answer one by one with the model's own cache: for models whose layers are not plain attention."""
    takes, switch = inspect.signature(model.forward).parameters, rope_switch_length(model)
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
                token = int(choose_tokens(done.logits[:, -1], [answer], choose))
            cache, seen, ended = done.cache, len(ids), not answer.append(token)
        yield answer


def _answer_without_cache(
    model: PreTrainedModel, answers: Sequence[AnswerState], choose: Choose
) -> Iterator[AnswerState]:
    """Answer one by one, without a cache: right wherever a plain forward is."""
    for answer in answers:
        with torch.inference_mode():
            while answer.append(
                int(choose_tokens(_compute_next_logits(model, answer.prompt + answer.ids)[None], [answer], choose))
            ):
                pass
        yield answer


def _compute_next_logits(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """Return the logits (V) after some tokens."""
    logits: Tensor = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1]
    return logits


def _list_stop_tokens(model: PreTrainedModel) -> set[int]:
    """Return the stop tokens that the model's own configurations name."""
    found: set[int] = set()
    for config in (model.config, getattr(model, "generation_config", None)):
        eos = getattr(config, "eos_token_id", None)
        found |= {eos} if isinstance(eos, int) else set(eos or ())
    return found
