"""Evals as tasks: each with its evaluator, the metrics this declares, its rows and its worked examples."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from harness import capabilities, plugin_errors, schema
from harness.collection import draws
from harness.collection.collection import Task
from harness.collection.context import Context
from harness.collection.datasets import DatasetLoader, describe_overlap
from harness.data import chat
from harness.data.fewshot import find_form_error
from harness.data.identity import add_question_keys
from harness.data.resolver import resolve_suite_rows
from harness.data.rows import to_samples
from harness.errors import Mistakes, UsageError, did_you_mean, missing_modules_message
from harness.records.claims.gate import PARENT
from harness.records.copies import copy_record, detach_copy
from harness.records.metrics import ENDINGS, Metric
from harness.records.models import ExtendedSubject
from harness.records.samples import Sample
from harness.suite.tables import Eval, find_name_error

Rows = list[dict[str, Any]]
Samples = tuple[Sample, ...]
REASONING_TOKENS = 512  # tokens: where a thought has no budget, it and its answer seldom fit into fewer


def make_task(context: Context, sources: DatasetLoader, spec: Eval) -> Task | None:
    """Return an eval as a task. None if its evaluator or its metrics are unavailable."""
    _check_eval(context, spec)
    complain, function = (
        context.mistakes_at(spec.where),
        context.find_plugin("evaluator", spec.use, spec.options, spec.where),
    )
    samples, chosen = _load_eval_and_select_samples(context, sources, spec, function)
    if function is None:
        return None
    suite = context.suite
    task = Task(spec, function, {}, samples, folder=suite.path.parent, select=chosen, seed=suite.header.seed)
    parents = (PARENT,) if suite.copies else ()
    beside = (*(context.baselines if task.marks == "pairs" else ("base", *parents)), *context.candidates)
    if task.compares and spec.against not in beside:
        complain(f'against is "{spec.against}", which is not a model of the suite{did_you_mean(spec.against, beside)}')
    if what := _find_unknown_method_error(context, task):
        complain(what)
    for name in sorted({*task.capabilities.asks} & {*_list_unsupported_features(context, suite.model.use)}):
        what = f'needs {name}, which the loader "{suite.model.use}" does not provide'
        complain(f'"{spec.use}" {what}; use = "hf" in [model]')
    _check_reasoning_budget(context, spec, task)
    _check_loaders(context, spec, task)
    if task.marks and not spec.cluster and samples:
        samples = cluster_by_prompt(samples)
    _warn_of_repeated_questions(context, spec, samples or ())
    if samples and (what := find_rows_at_most_error(spec, len(samples))):
        complain(what)
    try:
        made = task.capabilities.metrics_for
        given = {"folder": task.folder} if made and schema.has_parameter(made, "folder") else {}
        declared = made(detach_copy(dict(spec.options)), **given) if made else getattr(function, "metrics", ())
        metrics = dict[str, Metric]()
        for m in plugin_errors.checked_items(made or function, declared, Metric, "Metrics"):
            if metrics.setdefault(m.name, one := copy_record(Metric, m)) != one:
                what = f': declares the metric "{m.name}" twice, and differently; rename one'
                raise plugin_errors.plugin_error(made or function, what)
    except UsageError as error:
        context.mistakes.messages.extend(f"{spec.where}: {m}" for m in error.messages)
        return None
    except ModuleNotFoundError as error:
        complain(missing_modules_message(error.name))
        return None
    except Exception as error:  # the plugin's own code; the line says whose
        complain(f'"{spec.use}" failed to name its metrics: {plugin_errors.error_location(error) or error}')
        return None
    if not metrics:
        complain(f'"{spec.use}" declares no metric; decorate it with @metric')
    task = replace(task, metrics=metrics, samples=samples)
    for mistake in draws.find_draw_mistakes(task):
        complain(mistake)
    if not task.generates:
        return task
    return replace(task, metrics=metrics | draws.make_draw_metrics(task) | _select_finish_metrics(context, task))


def add_shots(context: Context, sources: DatasetLoader, task: Task) -> Task:
    """Add worked examples: from `fewshot_data`, else the first training source; never a row of the eval."""
    spec, train = task.spec, context.suite.train
    if (source := spec.fewshot_data or (train.sources[0] if train else None)) is None:
        context.mistakes.add(spec.where, "few-shot prompts need worked examples; name them with fewshot_data")
        return task
    table = spec if spec.fewshot_data or not train else train
    if task.samples is None or (rows := sources.read_rows(source, table)) is None:
        return task
    columns, template = spec.columns, spec.template
    if train and not spec.fewshot_data and (train.template or not (columns or template)):  # read as it is trained on
        columns, template = train.columns, train.template
    with context.mistakes.collecting():
        pairs = resolve_suite_rows(rows, columns, template, kept=list_named_columns(spec)).rows
        how: dict[str, Any] = {"columns": columns, "template": template, "json_targets": task.capabilities.json_targets}
        pool = to_samples(pairs, spec.where, cluster=None, slices=(), **how)
        own = {_make_prompt_key(s) for s in task.samples}
        usable = (s for s in pool if s.input and s.target and all(s.target))
        shots = tuple(s for s in usable if _make_prompt_key(s) not in own)
        if error := find_form_error([s.input for s in task.samples], shots):
            context.mistakes.add(spec.where, f'"{source}": {error}')
        return replace(task, shots=shots)
    return task


def _warn_of_repeated_questions(context: Context, spec: Eval, samples: Samples) -> None:
    """Warn of rows that repeat a question, unless they are in a cluster already.

    They are no new evidence. With stop = "early" they are a mistake.
    """
    asking = [s for s in samples if s.key]
    rows, distinct = len(asking), len({s.key for s in asking})
    if distinct == rows:
        return
    clustered = all(s.cluster for s in asking) and len({(s.key, s.cluster) for s in asking}) == distinct
    if clustered and spec.stop != "early":
        return
    told = f"{rows - distinct} of {rows} rows repeat another row's question, {distinct} are distinct"
    if spec.stop == "early":
        context.mistakes.add(spec.where, f'{told}; remove the repeated rows, or stop = "early"')
    else:
        context.warnings.append(f"{spec.where}: {told}; rows with the same question count as one cluster")


def cluster_by_prompt(samples: Samples) -> Samples:
    """Return samples with those of one prompt in a cluster: several answers to it are not independent."""
    prompts = [_make_prompt_key(s) for s in samples]
    first = {prompt: s.id for prompt, s in reversed(list(zip(prompts, samples, strict=True)))}
    if len(first) == len(samples):
        return samples
    return tuple(replace(s, cluster=first[prompt]) for prompt, s in zip(prompts, samples, strict=True))


def _select_finish_metrics(context: Context, task: Task) -> dict[str, Metric]:
    """Return the metrics of how answers ended that an eval has: those that gates name, and of thoughts always."""
    thinks = {"thought_cut": task.spec.options.get("thought"), "forced": task.spec.thought_budget is not None}
    named = {g.metric_name for g in context.suite.gates if g.metric and g.eval == task.spec.name} - {*thinks}
    named |= {name for name, has in thinks.items() if has}
    return {name: metric for name, metric in ENDINGS.items() if name in named and name not in task.metrics}


def _check_eval(context: Context, spec: Eval) -> None:
    complain = context.mistakes_at(spec.where)
    if not re.fullmatch(r"[\w-]+", spec.name):  # no ".", which parts EVAL from METRIC
        complain(f'name is {schema.format_toml(spec.name)}; use only letters, digits, "_" and "-"')
    elif what := find_name_error(spec.name):
        complain(what)
    if len(spec.clusters) > 2 or len({*spec.clusters}) < len(spec.clusters):
        complain(f"cluster names {len(spec.clusters)} columns; name one, or two different ones")
    if spec.limit is not None and spec.limit < 1:
        complain(f"limit is {spec.limit}; it must be 1 or more")
    if spec.rows_at_most is not None and spec.stop == "early":
        complain('rows_at_most and stop = "early" both spend the risk on interim analyses; remove one of them')


def find_rows_at_most_error(spec: Eval, rows: int) -> str:
    """Return an error if there are more rows than `rows_at_most`.

    This is the declared maximum over all looks. Empty if there are not more.
    """
    if spec.rows_at_most is None or spec.rows_at_most >= rows:
        return ""
    what = f"rows_at_most is {spec.rows_at_most}, but there are {rows} rows already"
    return f"{what}; give the largest number that there will ever be"


def _check_reasoning_budget(context: Context, spec: Eval, task: Task) -> None:
    """Check the thought budget of an eval.

    A budget that cannot be kept is a mistake. Warn if a thought without one shares few tokens with its answer.
    """
    marks, budget, complain = spec.options.get("thought"), spec.thought_budget, context.mistakes_at(spec.where)
    named, _ = schema.list_options(task.function)
    if budget is None:
        most = spec.options.get("max_new_tokens", named["max_new_tokens"].default) if marks and task.generates else None
        if isinstance(most, int) and most < REASONING_TOKENS:
            what = f"max_new_tokens = {most} must hold reasoning and answer"
            what = f"{what}; set thought_budget, or {REASONING_TOKENS} or more"
            context.warnings.append(f"{spec.where}: thought: {what}")
        return
    if budget < 1:
        complain(f"thought_budget is {budget}; it must be 1 or more")
    if not (isinstance(marks, list | tuple) and len(marks) == 2 and all(marks)):
        complain('thought_budget needs the marks around the reasoning; add thought = ["<think>", "</think>"]')


def _check_loaders(context: Context, spec: Eval, task: Task) -> None:
    """Check that the suite's loaders support an eval's generation settings."""
    complain = context.mistakes_at(spec.where)
    asked = {s.use or context.suite.model.use for s in context.suite.subjects.values() if not s.released}
    for use in sorted({context.suite.model.use, *asked}):
        lacks = _list_unsupported_features(context, use)
        if spec.thought_budget is not None and "thought_budget" in lacks:
            what = f'the loader "{use}" cannot end a model\'s reasoning; remove it, and set reasoning_effort in body'
            complain(f"thought_budget: {what}")
        if task.sampling and "sampling" in lacks:
            complain(f'temperature: the loader "{use}" cannot sample answers; remove it')


def _list_unsupported_features(context: Context, use: str) -> tuple[str, ...]:
    """Return the features that a loader lacks. Empty for an unknown loader."""
    loader = context.plugins.provided.get(("loader", use))
    return loader.capabilities.lacks if loader else ()


def _find_unknown_method_error(context: Context, task: Task) -> str:
    """Return which of an evaluator's `asks` no model has, or an empty text."""
    known = {name for name in dir(ExtendedSubject) if not name.startswith("_")}
    loaders = (p for p in context.plugins.provided.values() if p.kind == "loader")
    known.update(*(p.capabilities.lacks for p in loaders))
    if (odd := next((name for name in task.capabilities.asks if name not in known), None)) is None:
        return ""
    return str(
        plugin_errors.plugin_error(task.function, f': asks for "{odd}", which no model has{did_you_mean(odd, known)}')
    )


def _load_eval_and_select_samples(
    context: Context, sources: DatasetLoader, spec: Eval, function: Callable[..., Any] | None
) -> tuple[Samples | None, Samples | None]:
    """Return the samples of an eval and of its select split.

    Each is None if it does not exist, is not read yet, or is wrong.
    """
    brings = capabilities.EvaluatorCapabilities.of(function).rows_for if function else None
    complain = context.mistakes_at(spec.where)
    if spec.chat_template_kwargs and spec.data is None:
        complain(f'{chat.ARGUMENTS} applies to prompts from "data", and "{spec.use}" has none; remove it')
    if spec.template is not None and spec.data is None:
        complain(f'template applies to rows of "data", and "{spec.use}" has none; remove it')
    if spec.data is None and brings is None:
        return (Sample("model"),), None  # an evaluation of the model itself, such as its size
    if spec.data is not None and brings is not None:
        complain(f'"{spec.use}" brings its own rows; remove "data"')
        return None, None
    rows = sources.read_rows(spec.data, spec) if spec.data is not None else sources.read_evaluator_rows(brings, spec)
    chosen: Samples | None = None
    if spec.select is not None and spec.data is None:
        complain('"select" needs "data": an eval without data has no rows to choose on')
        return None, None
    if spec.select is not None:
        other = sources.read_rows(spec.select, spec)
        if other is not None and rows is not None and (both := describe_overlap(spec.clusters, other, rows)):
            complain(f'select "{spec.select}": {both}; rows used to choose a candidate cannot confirm it')
        chosen = _make_checked_samples(context, spec, other, function) or None if other is not None else None
        rows = other if context.selecting else rows
    return (None if rows is None else _make_checked_samples(context, spec, rows, function)), chosen


def _make_checked_samples(
    context: Context, spec: Eval, rows: Rows, function: Callable[..., Any] | None
) -> Samples | None:
    """Convert rows to samples that their evaluator accepts. None, with mistakes, if they are wrong."""
    able = capabilities.EvaluatorCapabilities.of(function) if function else capabilities.EvaluatorCapabilities()
    about: dict[str, Any] = {"columns": spec.columns, "cluster": spec.cluster, "slices": spec.slices}
    about |= {"template": spec.template, "json_targets": able.json_targets}
    if spec.data is not None:
        where = f'{spec.where} data "{spec.data}"'
        if (resolved := context.resolve_rows(rows, spec, where, kept=list_named_columns(spec))) is None:
            return None
        rows = resolved.rows
    rows = rows[: spec.limit or None][: context.limit or None]
    if spec.data is not None and not context.are_readable(rows, spec.columns, spec.template, spec.where):
        return None
    told = Mistakes()
    if function:
        schema.check_options(function, spec.options, told.add)
    with context.mistakes.collecting():
        given = spec.chat_template_kwargs if spec.data is not None else None
        samples = add_question_keys(to_samples(rows, spec.where, **about, arguments=given), spec.template)
        if told.messages or not able.check_rows:
            return samples
        try:
            with context.mistakes.collecting(f"{spec.where}:"):
                seen = (detach_copy(samples), detach_copy(dict(spec.options)), context.suite.path.parent)
                plugin_errors.refuse_returned_error(able.check_rows, able.check_rows(*seen))
                return samples
        except ModuleNotFoundError as error:
            context.mistakes.add(spec.where, missing_modules_message(error.name))
        except Exception as error:  # the plugin's own code; the line says whose
            context.mistakes.add(
                spec.where, f'"{spec.use}" failed to check its rows: {plugin_errors.error_location(error) or error}'
            )
    return None


def list_named_columns(spec: Eval) -> list[str]:
    """Return the columns that an eval names for something else than input and target."""
    return [*spec.clusters, *spec.slices, *(value for value in spec.options.values() if isinstance(value, str))]


def _make_prompt_key(sample: Sample) -> str:
    """Return a key that identifies a prompt. Arguments of the chat template are left out."""
    return repr(chat.split_arguments(sample.input)[0] if isinstance(sample.input, list) else sample.input)
