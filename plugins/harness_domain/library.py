"""Any metric of the library `evaluate` on answers: by name, by the path of a script, or a local one.

The local ones need no network: chrF, the F-score of character n-grams, and macro-F1 and balanced accuracy of labels.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache, partial
from pathlib import PurePath
from typing import Any, Literal

from harness import Metric, Sample, Score, Subject, UsageError, evaluator
from harness_domain.choices import multiple_choice, right_choice, row_choices
from harness_domain.matching import LINE, MatchOptions, generate_all, require_targets

MOST_CLASSES = 50  # that each row's note names, so that a part of the rows numbers them as all do
LOCAL_PREFIX = "local:"  # a metric of this package, which needs no network
MAX_NGRAM_CHARS = 6  # n-grams of 1 to 6 characters
RECALL_WEIGHT = 2.0  # how many times recall weighs what precision weighs
Counts = tuple[tuple[int, int, int], ...]  # per order: n-grams of the answer, of the target, shared


def _make_evaluate_metric(options: Mapping[str, Any]) -> list[Metric]:
    """Return the metric that a suite's table configures. It loads no library, since collection calls it."""
    metric = str(options.get("metric", ""))
    name = str(options.get("key") or PurePath(metric.removeprefix(LOCAL_PREFIX)).stem)
    ours = {"metric", "key", "better", "choices", "gold", "max_new_tokens", "stop", "thought"}
    combined = partial(
        compute_metric, metric=metric, key=name, options={k: v for k, v in options.items() if k not in ours}
    )
    return [Metric(name, options.get("better", "higher"), "other", combined)]


@evaluator(metrics_for=_make_evaluate_metric, needs=lambda options: ("evaluate",))
def hf_metric(
    subject: Subject, samples: Sequence[Sample], *,
    metric: str, key: str | None = None, better: Literal["higher", "lower"] = "higher",
    choices: str | list[str] | None = None, gold: str = "gold",
    max_new_tokens: int = 32, stop: tuple[str, ...] = LINE, thought: tuple[str, ...] = (), **options: Any,
) -> Iterator[Score]:  # fmt: skip
    """Generate answers, and score them with a metric of `evaluate`.

    `options` go to its compute(). With `choices` an answer is the likeliest choice, and the target the correct one, as
    in multiple_choice. `metric` is "local:chrf", "local:macro_f1" or "local:balanced_accuracy", the path of a metric
    script, or a name that `evaluate.load` finds (on the hub, once). `key` names the entry of its result, if that is not
    the metric's own name; the harness names the metric by `key`, else by its name. A metric of classes receives
    numbers: the targets themselves if they are numbers, else their places in the sorted targets; an answer that is no
    target is one more class. Averaging over classes is up to the metric: scikit-learn's macro-F1 is the mean over those
    in targets or answers (of the rows drawn, in a bootstrap), and over `labels` if that option names them. Raises
    UsageError if it cannot be loaded, and on a row without a target.
    """
    module = _load_local_or_evaluate_metric(metric)  # before anything slow
    found: Iterator[tuple[str | None, dict[str, Any]]]
    if choices is None:
        wanted = [require_targets(s) for s in samples]
        found = generate_all(subject, samples, max_new_tokens, stop, thought)
    else:
        each = [row_choices(s, choices) for s in samples]
        wanted = [[one[0][right_choice(s, gold, *one)]] for s, one in zip(samples, each, strict=True)]
        scores = multiple_choice(subject, samples, choices=choices, gold=gold)
        found = ((score.answer, dict(score.details)) for score in scores)
    classes = sorted({t.strip() for some in wanted for t in some})
    known = (
        {"classes": classes}
        if _find_single_target_dtype(module).startswith("int") and len(classes) <= MOST_CLASSES
        else {}
    )
    for sample, targets, (said, details) in zip(samples, wanted, found, strict=True):
        note = json.dumps({"targets": targets, **known}, ensure_ascii=False)
        yield Score(sample.id, {}, answer=said, note=note, details=details)


def compute_metric(scores: Sequence[Score], *, metric: str, key: str, options: Mapping[str, Any]) -> float:
    """Compute a metric over all rows, from answers and noted targets.

    NaN if a row has no answer, or the metric rejects the answers, such as words instead of numbers. Raises UsageError
    if it fails on the options, or its result has no number under `key`.
    """
    module, answers = _load_local_or_evaluate_metric(metric), [s.answer for s in scores if s.answer is not None]
    if len(answers) < len(scores):
        return math.nan
    notes = [json.loads(s.note or "{}") for s in scores]
    classes = {c for note in notes for c in note.get("classes", ())}
    try:
        inputs = _convert_to_metric_inputs(module, metric, answers, [note["targets"] for note in notes], classes)
        result = module.compute(**inputs, **options)
    except ValueError:
        return math.nan
    except TypeError as error:
        raise UsageError(f'metric "{metric}": failed: {error}; check its options') from None
    if key not in result or isinstance(result[key], str):
        known = ", ".join(f'"{k}"' for k in result)
        raise UsageError(f'metric "{metric}": has no result "{key}"; set key to one of {known}')
    return float(result[key])


def _convert_to_metric_inputs(
    module: Any, metric: str, answers: list[str], targets: list[list[str]], classes: set[str]
) -> dict[str, list[Any]]:
    """Shape answers and targets as the metric declares them: texts, lists of texts, class numbers or numbers."""
    if not (kind := _find_single_target_dtype(module)):
        return {"predictions": answers, "references": targets}
    if any(len(t) > 1 for t in targets):
        raise UsageError(f'metric "{metric}": needs exactly one target per row; use another metric, or one target')
    single = [t[0] for t in targets]
    if kind.startswith("int"):  # as they are, else sorted targets from 0; an answer that is none is one more
        said, single = [a.strip() for a in answers], [t.strip() for t in single]
        labels = sorted(classes | set(single))
        numbers = all(label.lstrip("-").isdecimal() for label in labels)
        ids = {label: int(label) if numbers else i for i, label in enumerate(labels)}
        foreign = max(ids.values()) + 1
        return {"predictions": [ids.get(a, foreign) for a in said], "references": [ids[t] for t in single]}
    if kind.startswith("float"):
        return {"predictions": [float(a) for a in answers], "references": [float(t) for t in single]}
    return {"predictions": answers, "references": single}


def _find_single_target_dtype(module: Any) -> str:
    """Return the dtype that a metric declares for its single target. Empty if a row may have several."""
    if isinstance(module, (Chrf, LabelMetric)):
        return ""
    features = module.features if isinstance(module.features, list) else [module.features]
    return "" if any(not hasattr(f["references"], "dtype") for f in features) else str(features[0]["references"].dtype)


@cache
def _load_local_or_evaluate_metric(metric: str) -> Any:
    if made := LOCAL_METRICS.get(metric):
        return made()
    known = ", ".join(f'"{name}"' for name in LOCAL_METRICS)
    if metric.startswith(LOCAL_PREFIX):
        raise UsageError(f'metric "{metric}": is unknown; known: {known}')
    try:
        import evaluate

        return evaluate.load(metric, keep_in_memory=True)
    except Exception as error:  # the hub, the file, or the imports and the code of somebody's script
        why = " ".join(str(error).split()) or type(error).__name__
        hint = f"a metric name needs network access once; without it give the path of a metric script, or {known}"
        raise UsageError(f'metric "{metric}": cannot be loaded: {why}; {hint}') from None


class LabelMetric:
    """A mean over the labels that are targets: of their F1 (`macro_f1`), or of their recall (`balanced_accuracy`).

    Sokolova and Lapalme 2009, Information Processing and Management 45:427. Answers are compared after white space is
    collapsed and Unicode composed; one that is no label is wrong, and no label of its own.
    """

    def __init__(self, name: Literal["macro_f1", "balanced_accuracy"]) -> None:
        self.name = name

    def compute(self, *, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        """Compute it over all rows. Raises UsageError where a row has several targets."""
        if any(len(targets) > 1 for targets in references):
            raise UsageError(f'metric "{LOCAL_PREFIX}{self.name}": needs exactly one target per row')
        said, wanted = (
            [_normalize_label(text) for text in texts] for texts in (predictions, (t for (t,) in references))
        )
        right = Counter(a for a, b in zip(said, wanted, strict=True) if a == b)
        given, there = Counter(said), Counter(wanted)
        f1 = self.name == "macro_f1"
        shares = (2 * right[x] / (given[x] + n) if f1 else right[x] / n for x, n in there.items())
        return {self.name: math.fsum(shares) / len(there)}


@lru_cache(maxsize=1 << 16)  # a bootstrap asks for the same rows thousands of times
def _normalize_label(text: str) -> str:
    return MatchOptions(ignore_case=False, ignore_punctuation=False).normalize(text)


class Chrf:
    """chrF as the library would compute it: 0 to 100 over all rows, of several targets the best per row.

    Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation"; counts are summed over
    the rows first, whitespace is ignored, and orders that answer or target are too short for are left out.
    """

    def compute(self, *, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        """Compute it without the library's Arrow table: 15 ms a call, and a bootstrap makes thousands."""
        rows = [_find_best_ngram_counts(a, tuple(several)) for a, several in zip(predictions, references, strict=True)]
        orders = [[sum(column) for column in zip(*order, strict=True)] for order in zip(*rows, strict=True)]
        return {"chrf": 100 * _compute_chrf_score(orders)}


@lru_cache(maxsize=1 << 16)  # a bootstrap asks for the same rows thousands of times
def _find_best_ngram_counts(answer: str, targets: tuple[str, ...]) -> Counts:
    """Return the n-gram counts of an answer and its best-fitting target."""
    found: list[Counts] = []
    for target in targets:
        texts = ["".join(text.split()) for text in (answer, target)]
        orders = [
            [Counter(t[i : i + n] for i in range(len(t) - n + 1)) for t in texts] for n in range(1, MAX_NGRAM_CHARS + 1)
        ]
        # an order the target is too short for says nothing about the answer
        found.append(tuple(((a.total() if t else 0), t.total(), (a & t).total()) for a, t in orders))
    return max(found, key=_compute_chrf_score)


def _compute_chrf_score(counts: Sequence[Sequence[int]]) -> float:
    rates = [(shared / ours, shared / theirs) for ours, theirs, shared in counts if ours and theirs]
    precision, recall = (sum(r) / len(rates) for r in zip(*rates, strict=True)) if rates else (0.0, 0.0)
    below = RECALL_WEIGHT**2 * precision + recall
    return (1 + RECALL_WEIGHT**2) * precision * recall / below if below else 0.0


LOCAL_METRICS: dict[str, Callable[[], Any]] = {
    f"{LOCAL_PREFIX}chrf": Chrf,
    f"{LOCAL_PREFIX}macro_f1": partial(LabelMetric, "macro_f1"),
    f"{LOCAL_PREFIX}balanced_accuracy": partial(LabelMetric, "balanced_accuracy"),
}
