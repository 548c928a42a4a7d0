"""Answers that must not change: those of a released model, or answers that were kept. `regression`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Literal

from harness import Marking, Sample, Score, UsageError, evaluator, metric
from harness_domain.matching import LINE, Normal, targets_of


def _marks(options: Mapping[str, Any]) -> str:
    return "pairs" if options.get("earlier") == "against" else "answers"


def _check_rows(samples: Sequence[Sample], options: Mapping[str, Any], folder: Path) -> None:
    """Raise UsageError on a row without an earlier answer, where rows are to have them."""
    if _marks(options) == "answers":
        for sample in samples:
            _earlier(sample)


@evaluator(marks=_marks, check_rows=_check_rows)
@metric("same", better="higher", scale="proportion")
@metric("similar", better="higher", scale="proportion")
def regression(
    samples: Sequence[Sample],
    answers: Sequence[str],
    baseline: Sequence[str] | None,
    *,
    marking: Marking,
    earlier: Literal["target", "against"] = "target",
    ignore_case: bool = False,
    ignore_punctuation: bool = False,
    max_new_tokens: int = 64,
    stop: tuple[str, ...] = LINE,
    thought: tuple[str, ...] = (),
) -> Iterator[Score]:
    """Score whether a model answers as one did before.

    The earlier answer is the row's target, or with `earlier = "against"` what the eval's `against` answers in the same
    run: "base", a release ("released", "anchor") or another baseline. `same` is 1 where the two are one text, after
    white space is collapsed and what is to be ignored is taken off; `similar` is the ratio of words that two texts
    share in their order: 2 · matching words / all words of both (difflib's, after Ratcliff and Obershelp). Raises
    UsageError on a row without exactly one target, where targets are compared.
    """
    normal = Normal(ignore_case, ignore_punctuation)
    before = [_earlier(s) for s in samples] if earlier == "target" else baseline or ()
    for sample, said, then in zip(samples, answers, before, strict=True):
        ours, theirs = normal(said), normal(then)
        similar = SequenceMatcher(None, ours.split(), theirs.split(), autojunk=False).ratio()
        values = {"same": float(ours == theirs), "similar": similar}
        yield Score(sample.id, values, answer=said, details={"earlier": then})


def _earlier(sample: Sample) -> str:
    targets = targets_of(sample)
    if len(targets) > 1:
        raise UsageError(f'row "{sample.id}": has {len(targets)} targets, want the one answer that must not change')
    return targets[0]
