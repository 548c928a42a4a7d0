"""Several labels of a row at once: `multilabel`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness import Sample, Score, Subject, evaluator, metric
from harness.internals import fold_case
from harness_domain.matching import LINE, generate_all, require_targets


@evaluator()
@metric("f1", better="higher", scale="proportion")
@metric("exact", better="higher", scale="proportion")
def multilabel(
    subject: Subject, samples: Sequence[Sample], *,
    separator: str = ",", max_new_tokens: int = 32, stop: tuple[str, ...] = LINE, thought: tuple[str, ...] = (),
) -> Iterator[Score]:  # fmt: skip
    """Score the labels that an answer lists against those of the target, in any order.

    Both are texts such as "sport, politics"; case and white space around a label do not count, and "none" is a label
    like others. `f1` of a row is 2 · common labels / labels of both (example-based F1, Tsoumakas and Katakis 2007),
    `exact` is 1 where both sets are equal. Raises UsageError on a row without a target.
    """
    wanted = [_split_labels(separator.join(require_targets(sample)), separator) for sample in samples]
    replies = generate_all(subject, samples, max_new_tokens, stop, thought)
    for sample, target, (answer, details) in zip(samples, wanted, replies, strict=True):
        listed = _split_labels(answer, separator)
        f1 = 2 * len(listed & target) / (len(listed) + len(target))
        yield Score(sample.id, {"f1": f1, "exact": float(listed == target)}, answer=answer, details=details)


def _split_labels(text: str, separator: str) -> set[str]:
    return {label for part in text.split(separator) if (label := fold_case(" ".join(part.split())))}
