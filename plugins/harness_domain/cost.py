"""Metrics of a model's cost: size and latency."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from statistics import median

from harness import Sample, Score, Subject, UsageError, evaluator, metric

WHOLE_MODEL = "model"  # the id of the one row an evaluation without data gets


def ratio_of_medians(scores: Sequence[Score]) -> float:
    """Return the ratio of the two models' median seconds."""
    return median_seconds(scores) / median([s.values["seconds"] / s.values["latency_ratio"] for s in scores])


def median_seconds(scores: Sequence[Score]) -> float:
    """Return the median over rows. NaN if a row could not be timed, since NaN cannot be sorted."""
    seconds = [s.values["seconds"] for s in scores]
    return median(seconds) if all(map(math.isfinite, seconds)) else math.nan


@evaluator(uncached=True)  # an answer that is remembered takes no time
@metric("latency_ratio", better="lower", scale="other", combine=ratio_of_medians)
@metric("seconds", better="lower", scale="other", combine=median_seconds)
def latency(
    subject: Subject, samples: Sequence[Sample], *, against: Subject,
    new_tokens: int = 16, rounds: int = 3, batch: int = 1,
) -> Iterator[Score]:  # fmt: skip
    """Time batched generation, in turns with another model.

    A batch is `batch` answers of at most `new_tokens` tokens each. Each row is generated `rounds` times by both models
    in the same process, with the `batch` - 1 rows after it, in alternating order, so that a slow machine slows down
    both. The metrics are computed from the rows' medians: their ratio, and the median seconds of the whole batch.
    Raises UsageError if `rounds`, `new_tokens` or `batch` is below 1.
    """
    for sample, mine, other in _iterate_median_latencies(subject, samples, against, new_tokens, rounds, batch):
        timed = mine > 0 and other > 0  # no answer takes no time: a clock or a cache is at fault
        values = {"latency_ratio": mine / other if timed else math.nan, "seconds": mine if timed else math.nan}
        yield Score(sample.id, values)


@evaluator(uncached=True)
@metric("within", better="higher", scale="proportion")
def latency_within(
    subject: Subject, samples: Sequence[Sample], *, ms: float, against: Subject, new_tokens: int = 16
) -> Iterator[Score]:
    """Score 1 if a request takes less than `ms` milliseconds.

    `min = 0.95` thus claims a quantile. Raises UsageError unless `ms` is more than 0.
    """
    if not 0 < ms < math.inf:
        raise UsageError(f"latency_within: ms is {ms:g}; it must be more than 0")
    for sample, mine, _ in _iterate_median_latencies(subject, samples, against, new_tokens, 1, 1):
        yield Score(sample.id, {"within": float(1000 * mine < ms) if mine > 0 else math.nan})


def _iterate_median_latencies(
    subject: Subject, samples: Sequence[Sample], against: Subject, new_tokens: int, rounds: int, batch: int
) -> Iterator[tuple[Sample, float, float]]:
    """Yield each row with the median seconds of both models.

    Raises UsageError if `new_tokens`, `rounds` or `batch` is below 1.
    """
    if min(rounds, new_tokens, batch) < 1:
        given = f"rounds is {rounds}, new_tokens is {new_tokens} and batch is {batch}"
        raise UsageError(f"latency: {given}; each must be 1 or more")
    if not samples:
        return
    together = [[samples[(i + k) % len(samples)] for k in range(batch)] for i in range(len(samples))]
    for model in (subject, against):  # the first answer pays for what is set up once
        _time_generation(model, together[0], new_tokens)
    for sample, rows in zip(samples, together, strict=True):
        ours, theirs = list[float](), list[float]()
        pair = [(subject, ours), (against, theirs)]
        for turn in range(rounds):
            for model, seconds in pair if turn % 2 == 0 else reversed(pair):
                seconds.append(_time_generation(model, rows, new_tokens))
        yield sample, median(ours), median(theirs)


def _time_generation(model: Subject, rows: Sequence[Sample], new_tokens: int) -> float:
    start = time.perf_counter()
    model.generate([row.input for row in rows], max_new_tokens=new_tokens)
    return time.perf_counter() - start


@metric("bytes", better="lower", scale="count")
@metric("parameters", better="lower", scale="count")
def size(subject: Subject, samples: Sequence[Sample]) -> Iterator[Score]:
    """Count a model's parameters and the bytes of its weights.

    Needs no data. Raises UsageError if data is given, or the model does not report its size.
    """
    nbytes, parameters = getattr(subject, "nbytes", None), getattr(subject, "parameters", None)
    if nbytes is None or parameters is None:
        raise UsageError(f'size: "{subject.name}" does not report its size; use a model that runs locally')
    for sample in samples:
        if sample.id != WHOLE_MODEL:  # a count is a sum over rows: data would count the model once per row
            raise UsageError('size: uses no data; remove "data" from this eval')
        yield Score(sample.id, {"bytes": float(nbytes), "parameters": float(parameters)})
