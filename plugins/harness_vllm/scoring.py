"""Log-probabilities through vLLM's prefix cache, without stale rows.

vLLM computes no rows for the positions of a prompt that it finds in its cache, and returns stale memory for them (its
issue 42019). The row of position i comes from the hidden state of i - 1, so the rows of a continuation are valid if no
more than len(context) - 1 tokens came from the cache. That count is of a request's first turn: a request that is
preempted for lack of memory and restarted reads more of the cache and keeps the count. So no more requests are made at
once than the cache has room for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness import CheckFailedError, UsageError

if TYPE_CHECKING:
    from harness_vllm.engine import VLLM, EngineOutput

Pair = tuple[list[int], list[int]]  # tokens of the context, tokens of the continuation
TOLERANCE_NATS = {"float32": 1e-3}  # nats per token that the two may differ by
HALF_TOLERANCE_NATS = 0.1  # in half precision, where a row beside others differs
SHARED_PROMPT = "It was a bright cold day in April, and the clocks were striking thirteen. "
TARGET_ENDS = ("one", "two red", "three more of", "4", "five: the", "six, and", "seven.", "eight and then")


class NotFiniteError(CheckFailedError):
    """Log-probabilities of a model that are not finite.

    `compare_prefix_cache` ignores the error, since it is reported when scores are requested.
    """


@dataclass(frozen=True)
class ScoredWindow:
    """The result of scoring a window.

    `total` is the log-probability of its target in nats, `greedy` whether each token was the likeliest.
    """

    total: float
    greedy: bool


def score_windows(engine: VLLM, windows: Sequence[Pair], *, reads: bool = True) -> list[ScoredWindow]:
    """Score each window's target after its context.

    Equal windows are scored once. With `reads`, the first window that could share a prefix warms the cache, and windows
    that read too much of it are scored again without. Raises CheckFailedError if a score is not finite, or if vLLM
    returns no valid row for a token.
    """
    keyed = [(tuple(context), tuple(target)) for context, target in windows]
    distinct = sorted(set(keyed))
    long = [pair for pair in distinct if reads and len(pair[0]) > engine.block]  # no other finds a block to read
    found: dict[Any, ScoredWindow] = {}
    for wave in [long[:1], *_iterate_waves_fitting_cache(engine, long[1:])] if long else ():
        for pair, output in zip(wave, engine.score([[*c, *t] for c, t in wave], reads=True), strict=True):
            if _is_target_uncached(output, pair):
                found[pair] = _sum_target_logprobs(output, pair)
    for wave in _iterate_waves_fitting_cache(engine, [pair for pair in distinct if pair not in found]):
        for pair, output in zip(wave, engine.score([[*c, *t] for c, t in wave], reads=False), strict=True):
            if not _is_target_uncached(output, pair):
                had = output.num_cached_tokens
                raise CheckFailedError(
                    f"vllm: read {had} tokens from its prefix cache despite a request not to; scores are stale"
                )
            found[pair] = _sum_target_logprobs(output, pair)
    return [found[pair] for pair in keyed]


def compare_prefix_cache(engine: VLLM, windows: Sequence[Pair], name: str, dtype: str) -> None:
    """Check that scores are equal with and without the prefix cache.

    Raises UsageError if they differ by more than the tolerance of the dtype, in nats per token.
    """
    engine.forget()
    try:
        plain = score_windows(engine, windows, reads=False)
        engine.forget()
        shared = score_windows(engine, windows)
    except NotFiniteError:
        return
    finally:
        engine.forget()
    for (_, target), one, other in zip(windows, plain, shared, strict=True):
        apart = abs(one.total - other.total) / len(target)
        if not apart <= TOLERANCE_NATS.get(dtype, HALF_TOLERANCE_NATS):
            what = f"scores differ by {apart:.3g} nats per token when it uses its prefix cache"
            raise UsageError(
                f'model "{name}": vLLM\'s {what}, so they prove nothing; use = "hf", or another version of vLLM'
            )


def _is_target_uncached(output: EngineOutput, pair: tuple[tuple[int, ...], tuple[int, ...]]) -> bool:
    """Return whether every row of a target was computed for it."""
    return output.num_cached_tokens is not None and output.num_cached_tokens <= len(pair[0]) - 1


def _sum_target_logprobs(output: EngineOutput, pair: tuple[tuple[int, ...], tuple[int, ...]]) -> ScoredWindow:
    context, target = pair
    rows = (output.prompt_logprobs or ())[len(context) :]
    if len(rows) != len(target) or not all(row and token in row for row, token in zip(rows, target, strict=True)):
        raise CheckFailedError("vllm: sent no log-probability for a token of a continuation")
    given = [row[token] for row, token in zip(rows, target, strict=True) if row]
    total = math.fsum(each.logprob for each in given)
    if not math.isfinite(total):
        raise NotFiniteError("scoring: the model's log-probabilities are not finite")
    return ScoredWindow(total, all(each.rank == 1 for each in given))


def _iterate_waves_fitting_cache(engine: VLLM, pairs: Sequence[Any]) -> Iterator[list[Any]]:
    """Split pairs into batches that fit into the cache. No request is then preempted and restarted."""
    wave, room = list[Any](), 0
    for pair in pairs:
        blocks = 1 + math.ceil((len(pair[0]) + len(pair[1]) + 1) / engine.block)
        if wave and blocks * engine.block > room:
            yield wave
            wave, room = [], 0
        room = (room if wave else engine.room) - blocks * engine.block
        wave.append(pair)
    if wave:
        yield wave
