"""Evaluation of a task's samples, by Inspect in this process."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import inspect_ai  # noqa: TID253 -- this module is imported when rows are scored
from inspect_ai._util.error import PrerequisiteError  # noqa: TID253
from inspect_ai._util.registry import (  # noqa: TID253
    registry_info,
    registry_params,
    set_registry_info,
    set_registry_params,
)
from inspect_ai.model import GenerateConfig, Model  # noqa: TID253

from harness import FinishReason, Metric, Sample, Score, Subject, UsageError
from harness.internals import parse_sample_scores
from harness_inspect.model import FINISH_REASONS, SCORING, SubjectAPI
from harness_inspect.options import InspectOptions
from harness_inspect.tasks import MAX_ERROR_CHARS, list_metrics, list_rows, load_task, scorer_names


def score_samples(
    subject: Subject, samples: Sequence[Sample], options: InspectOptions, folder: Path
) -> Iterator[Score]:
    """Yield a score for each sample that did not fail.

    The first has details on all samples: failures and ignored settings.
    """
    task = load_task(options, folder)
    _require_same_samples(task, samples, options)
    api = SubjectAPI(subject, options)
    places = {sample.id: place for place, sample in enumerate(samples)}
    found = sorted(_run_samples_in_inspect(task, api, options, {*places}), key=lambda one: places[str(one.id)])
    metrics = [metric.name for metric in list_metrics(task, options)]
    scores, failed = list[Score](), dict[str, str]()
    for one in found:
        if one.error or not (values := _extract_metric_values(one, metrics, options)):
            failed[str(one.id)] = (
                _shorten_error_to_one_line(one.error.message) if one.error else "no scorer gave it a value"
            )
        else:
            scores.append(_make_score(one, values))
    if failed and not scores:
        raise UsageError(f'task "{options.task}": all {len(failed)} samples failed: {next(iter(failed.values()))}')
    told: dict[str, Any] = {"failed": failed} if failed else {}
    told |= {"ignored": [*api.ignored]} if api.ignored else {}
    yield from (replace(score, details=told) if told and not i else score for i, score in enumerate(scores))


def _make_score(sample: Any, values: dict[str, float]) -> Score:
    """Make a sample's score, with its finish reason."""
    output, limit = sample.output, sample.limit
    reason: FinishReason = FINISH_REASONS.get(output.stop_reason, "eos") if output.choices else ""
    return Score(
        str(sample.id),
        values,
        answer=output.completion,
        note=f"ended at its {limit.type} limit" if limit else None,
        finish_reason="limit" if limit else reason,
        tokens=output.usage.output_tokens if output.usage else None,
    )


def _require_same_samples(task: inspect_ai.Task, samples: Sequence[Sample], options: InspectOptions) -> None:
    """Raise UsageError if the task's samples differ from those listed."""
    here = {row["id"]: row for row in list_rows(task)}
    for sample in samples:
        if sample.id not in here or here[sample.id]["input"] != sample.input:
            why = "has other samples than when it was listed; give its shuffle a seed"
            raise UsageError(f'task "{options.task}": {why}')


def _run_samples_in_inspect(
    task: inspect_ai.Task, api: SubjectAPI, options: InspectOptions, ids: set[str]
) -> list[Any]:
    """Run samples in Inspect, and return them from its log. Raises UsageError if it cannot run them."""
    guarded = inspect_ai.task_with(
        copy(task),
        dataset=task.dataset.filter(lambda sample: str(sample.id) in ids),  # eval's sample_id would be a pattern
        scorer=[_forbid_scorer_model_calls(name, s) for name, s in zip(scorer_names(task), task.scorer, strict=True)],
    )
    quiet: dict[str, Any] = {"display": "none", "log_level": "critical", "log_format": "eval", "log_realtime": False}
    quiet |= {"score_display": False, "log_model_api": False, "acp_server": False, "ctl_server": False}
    with TemporaryDirectory() as folder, _restore_logging_on_exit():
        try:
            logs = inspect_ai.eval(
                guarded,
                model=Model(api, GenerateConfig()),
                epochs=1,
                fail_on_error=False,
                max_samples=len(ids),
                max_connections=len(ids),  # else Inspect begins with 20 at a time
                sandbox=options.sandbox or None,
                log_dir=folder,
                **options.limits(task),
                **quiet,
            )
            samples = [sample for log in logs for sample in log.samples or ()]  # which are read from the folder
        except PrerequisiteError as error:
            raise UsageError(f'task "{options.task}": {_shorten_error_to_one_line(str(error))}') from None
    if not logs or logs[0].status == "cancelled":  # which Inspect makes of an interrupt
        raise KeyboardInterrupt
    if refused := api.misuse or api.batcher.error:
        raise refused
    if (status := logs[0].status) != "success":
        fault = logs[0].error
        raise UsageError(f'task "{options.task}": {_shorten_error_to_one_line(fault.message if fault else status)}')
    return samples


def _forbid_scorer_model_calls(name: str, scorer: Any) -> Any:
    """Return a scorer that may not ask the model under test."""

    async def score(state: Any, target: Any) -> Any:
        token = SCORING.set(name)
        try:
            return await scorer(state, target)
        finally:
            SCORING.reset(token)

    set_registry_info(score, registry_info(scorer))
    set_registry_params(score, registry_params(scorer))
    return score


@contextmanager
def _restore_logging_on_exit() -> Iterator[None]:
    """Restore the root logger's handlers and level. Inspect replaces them."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _extract_metric_values(sample: Any, metrics: Sequence[str], options: InspectOptions) -> dict[str, float]:
    """Return a sample's values by metric. Raises UsageError at one that cannot be judged."""
    given = {name: {"value": score.value} for name, score in (sample.scores or {}).items()}
    found = {name: number for name, _, number in parse_sample_scores(given) if name in metrics}
    for name, number in found.items():
        if isinstance(number, str):
            raise UsageError(f'task "{options.task}": scorer "{name}" {number}')
        if Metric(name, "higher", options.scale).is_share and not (0 <= number <= 1 or math.isnan(number)):
            what = f'scorer "{name}" gave {number:g} to sample "{sample.id}"'
            raise UsageError(f'task "{options.task}": {what}, which is not between 0 and 1; set scale = "mean"')
    return {name: float(n) for name, n in found.items() if not math.isnan(float(n))}


def _shorten_error_to_one_line(text: str) -> str:
    return (text.strip().splitlines() or ["it does not say why"])[-1 if "Traceback" in text else 0][:MAX_ERROR_CHARS]
