"""From a chunk of rows to their scores: requests, answers, the task's filters and results, our Scores."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness import Completion, Sample, Score, Subject, UsageError
from harness_lm_eval import hub
from harness_lm_eval.metrics import EvalMetric, TaskMetric
from harness_lm_eval.tasks import LoadedTask, TaskOptions, blame_task_code, load_tasks

TUPLE = "()"  # marks a list of JSON that was a tuple
CUT_NOTE = "prompt cut from the left, tokens: "


@dataclass(frozen=True)
class DocumentRow:
    """A sample, its task, and lm_eval's requests for its document."""

    sample: Sample
    task: LoadedTask
    requests: list[Any]

    @property
    def doc(self) -> Any:
        return self.requests[0].doc

    @property
    def where(self) -> str:
        return f'task "{self.task.name}", row "{self.sample.id}"'


def score_rows(subject: Subject, samples: Sequence[Sample], asked: TaskOptions, folder: Path) -> list[Score]:
    """Score rows with lm_eval's own code.

    All requests of a kind go to the subject in one call. Raises UsageError for a row that is no document of the task.
    """
    from harness_lm_eval.model import SubjectLM

    with hub.quiet_libraries():
        served, metrics = load_tasks(asked, folder)
        lm = SubjectLM(subject, seed=asked.shots_seed, arguments=asked.template_arguments())
        template = None if asked.chat is False else lm.apply_chat_template
        rows = []
        for sample in samples:
            task, number = served.get(str(sample.row.get("task"))), sample.row.get("doc_id")
            where = f'row "{sample.id}"'
            if task is None or not isinstance(number, int) or not 0 <= number < len(task.docs):
                raise UsageError(f"{where}: is not a document of the task; lm_eval has its own rows, so remove data")
            with blame_task_code(f"{where}: its prompt cannot be built"):
                rows.append(DocumentRow(sample, task, task.requests(number, template)))
        requests = [request for row in rows for request in row.requests]
        for kind in dict.fromkeys(request.request_type for request in requests):  # each as often as its task wants
            asked_for = [r for r in requests if r.request_type == kind for _ in range(r.repeats or 1)]
            for request, answer in zip(asked_for, getattr(lm, kind)(asked_for), strict=True):
                request.resps.append(answer)
        with hub.allow_network(any(row.task.remote for row in rows)):
            for one in {row.task.name: row.task for row in rows}.values():  # apply_filters looks at _instances
                one.task._instances = [request for row in rows if row.task is one for request in row.requests]
                try:
                    with blame_task_code(f'task "{one.name}": its filters failed'):
                        one.task.apply_filters()
                finally:
                    one.task._instances = None
            return [_compute_document_score(row, metrics, lm.cut) for row in rows]


def _compute_document_score(
    row: DocumentRow, metrics: Sequence[EvalMetric], cut: Mapping[tuple[str, int], int]
) -> Score:
    measures = {m.name: m for m in row.task.measures}
    scored = [answer for r in row.requests if r.request_type != "generate_until" for answer in r.resps]
    finite = all(math.isfinite(answer[0] if isinstance(answer, tuple) else answer) for answer in scored)
    task, requests = row.task.task, sorted(row.requests, key=lambda request: request.idx)
    results: dict[str, dict[str, Any]] = {}  # by filter and metric
    with blame_task_code(f"{row.where}: its results cannot be computed"):
        for name in requests[0].filtered_resps if finite else ():
            results[name] = task.process_results(row.doc, [request.filtered_resps[name] for request in requests])
    values, weights, kept = dict[str, float](), dict[str, float](), dict[str, Any]()
    for gauge in metrics:
        measure = measures[gauge.name]
        result = results.get(measure.filter, {})
        if gauge.scale is None:
            where = f'{row.where}: metric "{measure.metric}"'
            kept |= {gauge.name: to_json(result[measure.metric], where)} if measure.metric in result else {}
        elif finite:
            values[gauge.name], weight = _compute_value_and_weight(row, measure, result)
            weights[gauge.name] = weight * (row.task.weight if gauge.alike else 1.0)
        else:
            values[gauge.name] = math.nan
    weights = {name: weight for name, weight in weights.items() if weight != 1}
    lost = max((cut.get((r.task_name, r.doc_id), 0) for r in row.requests), default=0)
    note = "a log-probability is not finite" if not finite else f"{CUT_NOTE}{lost}" if lost else None
    if any(gauge.scale is None for gauge in metrics):
        known = {"task": row.task.name, "values": kept if finite else None, **({"note": note} if note else {})}
        note = json.dumps(known, ensure_ascii=False)
    answers = [Completion.of(answer) for r in row.requests if r.request_type == "generate_until" for answer in r.resps]
    worst = max(answers, key=lambda answer: answer.rank, default=Completion())
    about: dict[str, Any] = {
        "note": note,
        "weights": weights,
        "finish_reason": worst.finish_reason,
        "tokens": worst.tokens,
    }
    answer = next((str(r.resps[0]) for r in row.requests if r.request_type == "generate_until"), None)
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = task.doc_to_choice(row.doc)  # of which the answer is the likeliest
        totals = [request.resps[0][0] for request in row.requests[: len(choices)]]
        answer = str(choices[totals.index(max(totals))])
    return Score(row.sample.id, values, answer=answer, **about)


def _compute_value_and_weight(row: DocumentRow, measure: TaskMetric, result: Mapping[str, Any]) -> tuple[float, float]:
    """Return a row's value on its metric's scale, and its weight.

    A document without a value weighs 0. Raises UsageError if the value is no number.
    """
    found = result.get(measure.metric)
    if found is None:
        return 0.0, 0.0
    try:
        if measure.aggregation in ("weighted_perplexity", "bits_per_byte"):
            nats, weight = -float(found[0]), float(found[1])
            unit = 1.0 if measure.aggregation == "weighted_perplexity" else math.log(2)
            return (nats / weight / unit, weight) if weight else (0.0, 0.0)
        value = float(found)
    except (TypeError, ValueError, IndexError):
        raise UsageError(f'{row.where}: metric "{measure.metric}" is {found!r}; it must be a number') from None
    if measure.aggregation == "nanmean" and math.isnan(value):
        return 0.0, 0.0
    return (-value if measure.aggregation == "perplexity" else value), 1.0


def aggregate_metric(scores: Sequence[Score], *, name: str, alike: bool, asked: TaskOptions, folder: Path) -> float:
    """Aggregate a metric over all rows with lm_eval's function: each task, then the tasks by size, or alike.

    NaN where a row could not be scored, and where the function refuses the values.
    """
    served, _ = load_tasks(asked, folder)
    items: dict[str, list[Any]] = {}
    for one in scores:
        known = _parse_note(one.note or "")
        if (values := known["values"]) is None:
            return math.nan
        items.setdefault(known["task"], []).extend([values[name]] if name in values else [])
    parts = []
    for task, of in ((served[task], of) for task, of in items.items() if of):
        metric = next(m.metric for m in task.measures if m.name == name)
        with blame_task_code(f'task "{task.name}": its metric "{metric}" cannot be aggregated'):
            try:
                parts.append((float(task.task.aggregation()[metric](of)), 1 if alike else len(of)))
            except (ValueError, ZeroDivisionError):
                return math.nan
    total = sum(size for _, size in parts)
    return sum(value * size for value, size in parts) / total if total else math.nan


@lru_cache(maxsize=1 << 16)  # a bootstrap asks for the same rows thousands of times
def _parse_note(note: str) -> Mapping[str, Any]:
    return {key: from_json(value) for key, value in json.loads(note).items()}


def to_json(value: Any, where: str) -> Any:
    """Convert a document's value to JSON, numpy's types included.

    `from_json` restores an equal value. Raises UsageError, which begins with `where`, for other types.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, tuple):
        return {TUPLE: [to_json(v, where) for v in value]}
    if isinstance(value, list):
        return [to_json(v, where) for v in value]
    if isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
        return {k: to_json(v, where) for k, v in value.items()}
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise UsageError(f"{where} is a {type(value).__name__}; return numbers, texts, lists or dicts")


def from_json(value: Any) -> Any:
    """Restore a value that `to_json` converted."""
    if isinstance(value, dict):
        return tuple(map(from_json, value[TUPLE])) if TUPLE in value else {k: from_json(v) for k, v in value.items()}
    return [from_json(v) for v in value] if isinstance(value, list) else value
