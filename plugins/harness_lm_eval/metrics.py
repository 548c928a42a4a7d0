"""The metrics of a task, told from its YAML: how lm_eval makes them of documents, and how the harness does."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness import Scale, UsageError
from harness_lm_eval.find import NamedTasks, TaskConfig
from harness_lm_eval.names import Config, YamlFunction

Direction = Literal["higher", "lower"]
OUTPUTS = ("multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until")
SHARES = frozenset({"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"})  # from 0 to 1 on a document
SCALES: Mapping[str, Scale] = {  # of those of lm_eval's aggregations that a sum over rows can make
    **{"mean": "mean", "nanmean": "mean", "bits_per_byte": "mean"},
    **{"perplexity": "perplexity", "weighted_perplexity": "perplexity"},
}
MEANS = frozenset({"mean", "nanmean"})  # the mean over a group's documents is the group's, as lm_eval has it
OTHER_METRIC = "other"  # every aggregation that needs all documents at once


@dataclass(frozen=True)
class TaskMetric:
    """A metric of one task: its name here, lm_eval's name and filter, and how lm_eval aggregates it."""

    name: str
    metric: str
    filter: str
    aggregation: str
    better: Direction


@dataclass(frozen=True)
class EvalMetric:
    """A metric of an eval: a sum over rows on a scale, or, without one, made of each task's documents at once.

    `alike` counts every task of a group alike, whatever its size.
    """

    name: str
    better: Direction
    scale: Scale | None
    alike: bool = False


def list_eval_metrics(found: NamedTasks) -> list[EvalMetric]:
    """Return the metrics that all tasks have in common.

    A group that lists its aggregated metrics has only those. Raises UsageError if a task cannot be served, or no metric
    is left.
    """
    each = [{m.name: m for m in task_metrics(leaf)} for leaf in found.leaves]
    kept = []
    for same in ([m[name] for m in each] for name in each[0] if all(name in m for m in each)):
        first = same[0]
        of = (a for a in found.averaged if a.metric == first.metric)
        averaged = next((a for a in of if a.filters is None or first.filter in a.filters), None)
        if found.averaged and averaged is None:
            continue
        share = first.metric in SHARES and first.aggregation in MEANS
        scale: Scale | None = "proportion" if share else SCALES.get(first.aggregation)
        if len(same) > 1 and not {m.aggregation for m in same} <= MEANS:
            scale = None
        kept.append(EvalMetric(first.name, first.better, scale, bool(averaged and averaged.alike)))
    if not kept:
        raise UsageError(f'task "{found.name}": its tasks have no metric in common; name them one by one')
    return kept


def task_metrics(leaf: TaskConfig) -> list[TaskMetric]:
    """Return the metrics of one task. Raises UsageError if the task cannot be served."""
    config, where = leaf.config, f'task "{leaf.name}"'
    if config.get("doc_to_image") or config.get("doc_to_audio"):
        raise UsageError(f"{where}: contains images or sound, but the harness evaluates text only")
    if config.get("unsafe_code"):
        raise UsageError(f"{where}: runs code that the model generates, which the harness does not allow")
    output = config.get("output_type", "generate_until")
    if "class" not in config and output not in OUTPUTS:
        known = ", ".join(f'"{o}"' for o in OUTPUTS)
        raise UsageError(f'{where}: output_type is "{output}"; it must be one of {known}')
    try:
        found = list(_iterate_metrics_of_task_class(leaf) if "class" in config else _iterate_declared_metrics(config))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        said = f"{type(error).__name__}: {error}"
        raise UsageError(f"{where}: its metrics cannot be read from its YAML: {said}") from None
    if not found:
        raise UsageError(f'task "{leaf.name}": has no metric with higher_is_better; add it to the task\'s YAML')
    return found


def _iterate_declared_metrics(config: Config) -> Iterator[TaskMetric]:
    """Yield the metrics that a YAML lists, for each filter. Metrics without a known direction are left out."""
    filters = [f["name"] for f in config.get("filter_list") or ()] or ["none"]
    if (listed := config.get("metric_list")) is None:
        defaults = _import_filled_metric_registry().DEFAULT_METRIC_REGISTRY[config.get("output_type", "generate_until")]
        listed = [{"metric": metric} for metric in defaults]
    for entry in listed:
        metric = entry["metric"].rpartition(".")[2] if isinstance(entry["metric"], YamlFunction) else entry["metric"]
        known = "higher_is_better" in entry  # its registry raises without the None
        higher = (
            entry["higher_is_better"]
            if known
            else _import_filled_metric_registry().higher_is_better_registry.get(metric, None)
        )
        if not isinstance(higher, bool):
            continue
        told = "aggregation" in entry
        aggregation = (
            entry["aggregation"]
            if told
            else _find_row_aggregation_name(_import_filled_metric_registry().metric_agg_registry.get(metric, None))
        )
        kind = aggregation if aggregation in SCALES else OTHER_METRIC
        for name in filters:
            ours = metric if len(filters) == 1 else f"{metric}@{name}"
            yield TaskMetric(ours, metric, name, kind, "higher" if higher else "lower")


def _find_row_aggregation_name(function: Any) -> str:
    """Return lm_eval's name of an aggregation function.

    It is "other" unless a sum over rows can make the aggregation.
    """
    import numpy as np

    if function is np.mean:
        return "mean"
    known = _import_filled_metric_registry().aggregation_registry
    return next((name for name in SCALES if known.get(name) is function), OTHER_METRIC)


def _iterate_metrics_of_task_class(leaf: TaskConfig) -> Iterator[TaskMetric]:
    """Yield the metrics of a task that is a Python class. An instance without data names them."""
    cls = leaf.config["class"]
    if isinstance(cls, YamlFunction):
        from lm_eval.tasks._yaml_loader import _import_fun_from_str

        cls = _import_fun_from_str(str(cls))
    bare = cls.__new__(cls)
    directions = bare.higher_is_better()
    for metric, function in bare.aggregation().items():
        if isinstance(higher := directions.get(metric), bool):
            yield TaskMetric(
                metric, metric, "none", _find_row_aggregation_name(function), "higher" if higher else "lower"
            )


def _import_filled_metric_registry() -> Any:
    """Return lm_eval's registry, filled: 0.2 s, where a YAML does not say all by itself."""
    importlib.import_module("lm_eval.api.metrics")
    return importlib.import_module("lm_eval.api.registry")
