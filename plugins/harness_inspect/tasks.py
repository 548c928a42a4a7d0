"""Inspect's tasks: loaded once, and what the harness asks of them: metrics, rows, and whether they may run here."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import Metric, UsageError, did_you_mean
from harness_inspect.options import InspectOptions

if TYPE_CHECKING:
    from inspect_ai import Task as InspectTask

MIN_VERSION = (0, 3, 285)
MAX_CACHED_TASKS = 8  # tasks in memory
ROW_COLUMNS = ("id", "input", "target")  # columns of a row, which metadata of these names does not replace
MAX_ERROR_CHARS = 200  # characters of another library's error


def load_task(options: InspectOptions, folder: Path) -> Any:
    """Load a task of Inspect.

    It is the same object while its file and arguments do not change. Raises UsageError.
    """
    require_version()
    path, at, name = options.task.partition("@")
    spec, content = options.task, ""
    if at or path.endswith(".py"):
        file = (folder / path).resolve()
        if not file.is_file():
            raise UsageError(f'task "{options.task}": there is no file "{file}"')
        spec, content = f"{file}{at}{name}", hashlib.sha256(file.read_bytes()).hexdigest()
    task = _load_single_task(spec, json.dumps(options.args or {}, sort_keys=True, default=str), content, options.task)
    if error := find_scorer_error(task) or find_sandbox_error(task, options.sandbox):
        raise UsageError(f'task "{options.task}": {error}')
    return task


def require_version() -> None:
    """Raise UsageError if Inspect is too old or too new.

    Raises ModuleNotFoundError if there is none.
    """
    import inspect_ai  # noqa: F401

    installed = version("inspect_ai")
    numbers = tuple(int(part) for part in installed.split(".")[:3] if part.isdecimal())
    if not (MIN_VERSION <= numbers < (0, 4)):
        wanted = ".".join(map(str, MIN_VERSION))
        raise UsageError(f"inspect_ai {installed} is installed; pip install 'inspect_ai>={wanted}'")


@functools.lru_cache(maxsize=MAX_CACHED_TASKS)
def _load_single_task(spec: str, args: str, content: str, said: str) -> Any:
    """Load the only task of a specification.

    `content` is the digest of its file, a key of the cache. Raises UsageError unless there is exactly one.
    """
    from inspect_ai._eval.loader import load_tasks
    from inspect_ai._util.registry import registry_params

    try:
        tasks = load_tasks([spec], json.loads(args))
    except Exception as error:  # the task's own code
        raise UsageError(f'task "{said}": cannot be loaded: {describe_error(error)}') from None
    if len(tasks) != 1:
        names = ", ".join(f'"{task.name}"' for task in tasks)
        fix = f"it has {names}; name one, as FILE@NAME" if tasks else "there is no such task; check its name"
        raise UsageError(f'task "{said}": {fix}')
    if unused := sorted(json.loads(args).keys() - registry_params(tasks[0]).keys()):
        raise UsageError(f'task "{said}": has no argument "{unused[0]}"; remove it from args')
    return tasks[0]


def describe_error(error: BaseException) -> str:
    """Return an error of a task's own code in one line."""
    first = (str(error).strip().splitlines() or [""])[0][:MAX_ERROR_CHARS]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def find_scorer_error(task: InspectTask) -> str:
    """Explain why a task's scorers cannot be trusted.

    Empty if no reason is found; scorers are not called for it.
    """
    from inspect_ai._util.registry import registry_params, registry_unqualified_name

    if not task.scorer:
        return "has no scorer, so nothing would be measured"
    graders = {"grader"} & {*(task.model_roles or {})}
    for scorer in task.scorer:
        name, given = registry_unqualified_name(scorer), registry_params(scorer)
        if name.startswith("model_graded") and not given.get("model") and not graders:
            return f'scorer "{name}" has the model grade its own answers; give it another model'
    return ""


def find_sandbox_error(task: InspectTask, named: str) -> str:
    """Return why the sandbox of a task cannot be used."""
    specs = [task.sandbox, *(sample.sandbox for sample in task.dataset)]
    wanted = {named} if named else {spec.type for spec in specs if spec}
    if "local" in wanted and named != "local":
        return 'runs in the sandbox "local", which isolates nothing; set sandbox = "local" if you trust it'
    if "docker" in wanted and not shutil.which("docker"):
        return "needs docker, which is not installed; install it, or run the task elsewhere and gate its log"
    return ""


def scorer_names(task: InspectTask) -> list[str]:
    """Return the scorers' names as in a log. A repeated name gets a number."""
    from inspect_ai.scorer._scorer import unique_scorer_name

    names: list[str] = []
    for scorer in task.scorer:
        names.append(unique_scorer_name(scorer, names))
    return names


def list_metrics(task: InspectTask, options: InspectOptions) -> list[Metric]:
    """Return a metric for each score: one a scorer, or one for each key of a scorer that gives several."""
    names = scorer_names(task)
    if options.scorer and options.scorer not in names:
        raise UsageError(f'scorer is "{options.scorer}"; the task has no such{did_you_mean(options.scorer, names)}')
    found = []
    for name, scorer in zip(names, task.scorer, strict=True):
        if options.scorer in ("", name):
            keys = list(_iterate_declared_score_keys(name, scorer))
            found += [f"{name}/{key}" for key in keys] or [name]
    return [Metric(name, "higher", options.scale) for name in found]


def _iterate_declared_score_keys(name: str, scorer: Any) -> Iterator[str]:
    """Yield the keys of a scorer's table of values.

    They are those of the metrics that it declares. Raises UsageError at a pattern.
    """
    from inspect_ai.scorer._scorer import scorer_metrics

    declared = scorer_metrics(scorer)
    for one in [declared] if isinstance(declared, Mapping) else declared:
        for key in one if isinstance(one, Mapping) else ():
            if "*" in key:
                raise UsageError(f'scorer "{name}" gives scores by the pattern "{key}"; declare a metric for each key')
            yield key


def list_rows(task: InspectTask) -> list[dict[str, Any]]:
    """Return the samples of a task as rows: a conversation, what is wanted, and the metadata."""
    rows, known = [], set[str]()
    for number, sample in enumerate(task.dataset, 1):
        sample.id = number if sample.id is None else sample.id  # as Inspect counts them
        row = {"id": str(sample.id), "input": list(_iterate_messages(sample)), "target": sample.target}
        if row["id"] in known:
            raise UsageError(f'two samples have the id "{row["id"]}"; give each its own')
        known.add(row["id"])
        about = {key: value for key, value in (sample.metadata or {}).items() if key not in ROW_COLUMNS}
        rows.append({**about, **({"choices": sample.choices} if sample.choices else {}), **row})
    return rows


def _iterate_messages(sample: Any) -> Iterator[dict[str, str]]:
    if isinstance(sample.input, str):
        yield {"role": "user", "content": sample.input}
        return
    for message in sample.input:
        yield {"role": message.role, "content": message.text}
