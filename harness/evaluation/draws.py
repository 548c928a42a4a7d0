"""Several answers a row: drawn with seeds of their own, and merged to one score.

An evaluator knows nothing of it: it is called once a draw.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from statistics import stdev
from typing import Any, Unpack

from harness import plugin_errors
from harness.collection.collection import Task
from harness.collection.draws import SPREAD
from harness.errors import UsageError
from harness.records.completion import Completion
from harness.records.models import Generation, Subject
from harness.records.samples import Draw, Prompt, Sample, Score


class SampledSubject:
    """A subject that samples its answers as an eval configures. All else is delegated to the wrapped subject."""

    def __init__(self, subject: Subject, task: Task) -> None:
        self._subject, self._task = subject, task
        self._rows: dict[str, list[str]] = {}  # ids by prompt
        self._asked = Counter[str]()
        self._draw = 0
        self._lock = threading.Lock()

    def start_draw(self, rows: Sequence[Sample], draw: int) -> None:
        """Begin to answer some rows for the n-th time."""
        self._rows, self._asked, self._draw = {}, Counter(), draw
        for row in rows:
            self._rows.setdefault(repr(row.input), []).append(row.id)

    def generate(self, prompts: Sequence[Prompt], **options: Unpack[Generation]) -> list[str]:
        """Answer each prompt; see `Subject`. Raises UsageError where the evaluator samples by itself."""
        if sampling := self._task.sampling:
            if options.get("sampling"):
                raise UsageError(f'"{self._task.spec.use}" samples answers by itself; remove temperature')
            with self._lock:  # an evaluator may ask from several threads
                options["sampling"] = replace(sampling, seeds=tuple(map(self._make_seed, prompts)))
        return self._subject.generate(prompts, **options)

    def _make_seed(self, prompt: Prompt) -> int:
        """Derive a 32-bit seed from the suite's seed, row, turn and draw.

        A prompt that belongs to no row counts by its text. With `seeds = "own"` the subject's name enters as well.
        """
        key = repr(prompt)
        ids, turn = self._rows.get(key, [key]), self._asked[key]
        self._asked[key] += 1
        own = [self._subject.name] if self._task.spec.seeds == "own" else []
        what = [self._task.seed, ids[turn % len(ids)], turn // len(ids), self._draw, *own]
        return int.from_bytes(hashlib.sha256(json.dumps(what).encode()).digest()[:4])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._subject, name)


def merge_draws(task: Task, rows: Iterable[Sample], draws: Sequence[Sequence[Score]]) -> list[Score]:
    """Merge the draws of each row into one score.

    Rows without a score in some draw are left out. Raises UsageError if the draws of a row have different weights or
    lost values.
    """
    scores = [{score.id: score for score in draw} for draw in draws]
    complete = (row.id for row in rows if all(row.id in draw for draw in scores))
    return [_merge_draws_of_row(task, [draw[i] for draw in scores]) for i in complete]


def expected_best(values: Sequence[float], k: int) -> float:
    """Return the mean of the maximum over all subsets of k values.

    For 0/1 values this is pass@k, 1 - C(n - c, k) / C(n, k) with c of n correct (Chen et al. 2021, arXiv:2107.03374).
    """
    ways = (math.comb(rank, k - 1) for rank in range(len(values)))  # in which the value of this rank is the best
    return math.fsum(n * value for n, value in zip(ways, sorted(values), strict=True)) / math.comb(len(values), k)


def _merge_draws_of_row(task: Task, scores: Sequence[Score]) -> Score:
    first = scores[0]
    if any((s.weight, s.weights) != (first.weight, first.weights) or s.lost or s.partly_lost for s in scores):
        raise UsageError(f'row "{first.id}": its answers have different weights, or lost values; remove repeats')
    draws = tuple(Draw(s.values, s.answer, s.note, s.finish_reason, s.tokens) for s in scores)
    values = {name: [d.values.get(name, math.nan) for d in draws] for name in first.values}
    merged = {name: math.fsum(each) / len(each) for name, each in values.items()}
    for name, each in values.items():
        merged |= {
            metric: value for metric, value in _iterate_draw_metrics(task, name, each, draws) if metric in task.metrics
        }
    worst = max((Completion("", d.finish_reason) for d in draws), key=lambda one: one.rank).finish_reason
    tokens = [d.tokens for d in draws if d.tokens is not None]
    details = {name: value for s in reversed(scores) for name, value in s.details.items()}
    return replace(
        first, values=merged, draws=draws, details=details, finish_reason=worst, tokens=max(tokens, default=None)
    )


def _iterate_draw_metrics(
    task: Task, name: str, values: Sequence[float], draws: Sequence[Draw]
) -> Iterable[tuple[str, float]]:
    """Yield the draw metrics of one row, named as in `collection.draws`."""
    yield from ((f"{name}.pass@{j}", expected_best(values, j)) for j in task.spec.pass_at)
    yield f"{name}.all@{len(values)}", min(values)
    yield name + SPREAD, stdev(values)
    if votes := task.capabilities.votes:
        made = (votes(d.answer or "", dict(task.spec.options)) for d in draws)
        cast = [plugin_errors.checked_return(votes, vote, Hashable, "a hashable value") for vote in made]
        counts = Counter(cast)
        yield f"{name}.maj@{len(values)}", values[cast.index(max(cast, key=counts.__getitem__))]  # the first of equals
