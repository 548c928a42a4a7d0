"""lm_eval's own Task objects, with their rows and requests. They are built one by one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any

from harness import UsageError
from harness.internals import chat
from harness_lm_eval import hub
from harness_lm_eval.find import TaskConfig, find_tasks
from harness_lm_eval.metrics import EvalMetric, TaskMetric, list_eval_metrics, task_metrics
from harness_lm_eval.names import Config

Doc = dict[str, Any]
MAX_CACHED_EVALS = 32  # evals whose tasks stay in memory
SPARE_SHOTS = 8  # examples drawn beyond those wanted, for documents that are examples themselves
# columns of a row; a document's own get "doc." in front
ROW_COLUMNS = frozenset({"id", "input", "target", "task", "doc_id"})


@dataclass(frozen=True)
class TaskOptions:
    """The options of an eval; docs/reference/options.md explains them."""

    task: str
    shots: int | None = None
    chat: bool | dict[str, Any] = False
    multiturn: bool = True
    system: str | None = None
    fixed_shots: bool = False
    shots_seed: int = 1234  # lm_eval's own
    docs: int | None = None
    include_path: str | None = None
    gen_kwargs: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("shots", self.shots, 0), ("docs", self.docs, 1)):
            if value is not None and not (isinstance(value, int) and value >= least):
                raise UsageError(f"{name} is {value}; it must be {least} or more")
        self.template_arguments()

    def template_arguments(self) -> dict[str, Any]:
        """Return the arguments of the chat template. Raises UsageError for arguments that no template can take."""
        return chat.template_arguments({}, self.chat) if isinstance(self.chat, Mapping) else {}

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> TaskOptions:
        """Pick the known options from those of a suite's table.

        Raises UsageError if no task is named, or an option is out of range.
        """
        known: dict[str, Any] = {f.name: options[f.name] for f in fields(cls) if options.get(f.name) is not None}
        if "task" not in known:
            raise UsageError('name a task, such as task = "arc_easy", or the path of a YAML')
        return cls(**known)


class FixedShots:
    """A few-shot sampler with the same examples for every document.

    Their part of the prompt is then computed once. A document that is one of them gets another in its place, last.
    Takes the place of lm_eval's random sampler.
    """

    def __init__(self, task: str, sampler: Any, seed: int) -> None:
        self.task, self.pool, self.seed = task, list(sampler.fewshot_docs()), seed
        self.doc: Doc | None = None

    def start_document(self, number: int, docs: Sequence[Doc], shots: int) -> None:
        """Set which document comes next."""
        self.doc = docs[number]

    def sample(self, n: int, eval_doc: Doc | None = None, **_: Any) -> Sequence[Doc]:
        """Return n examples, none of them the document itself."""
        drawn = random.Random(self.seed).sample(self.pool, min(n, len(self.pool)))  # noqa: S311 -- not for secrets
        spare = random.Random(self.seed + 1).sample(self.pool, min(n + SPARE_SHOTS, len(self.pool)))  # noqa: S311
        found = [d for d in drawn if d != self.doc]
        found += [d for d in spare if d != self.doc and d not in found][: n - len(found)]
        _require_examples(self.task, len(found), n)
        return found


class SampledShots:
    """The examples that lm_eval's own sampler draws: its random numbers go on from document to document.

    Every document is therefore drawn for in order, once, whatever is asked for.
    """

    def __init__(self, task: str, sampler: Any, excludes: bool) -> None:
        self.task, self.sampler, self.excludes = task, sampler, excludes
        self.found, self.number = list[Sequence[Doc]](), 0

    def start_document(self, number: int, docs: Sequence[Doc], shots: int) -> None:
        """Set which document comes next, and draw for those before it."""
        self.number = number
        if shots:
            _require_examples(self.task, len(self.sampler.fewshot_docs()) - self.excludes, shots)
        for doc in docs[len(self.found) : number + 1] if shots else ():
            self.found.append(self.sampler.sample(n=shots, eval_doc=doc if self.excludes else None))

    def sample(self, n: int, eval_doc: Doc | None = None, **_: Any) -> Sequence[Doc]:
        """Return the examples drawn for the current document."""
        return self.found[self.number]


def _require_examples(task: str, examples: int, shots: int) -> None:
    if examples < shots:
        raise UsageError(f'task "{task}": has {examples} examples, but {shots} shots were set')


@dataclass(frozen=True)
class LoadedTask:
    """A task with its documents and metrics. `weight` is that of a row in metrics that count tasks alike."""

    name: str
    task: Any
    docs: list[Any]
    measures: tuple[TaskMetric, ...]
    sampler: FixedShots | SampledShots | None
    asked: TaskOptions
    remote: bool
    weight: float = 1.0

    def requests(self, number: int, template: Callable[..., str] | None) -> list[Any]:
        """Return lm_eval's requests for one document; `template` writes chat messages."""
        task, doc = self.task, deepcopy(self.docs[number])  # a task may write into its documents
        count = task.config.num_fewshot or 0
        if self.sampler:
            self.sampler.start_document(number, self.docs, count)
        else:  # a task that draws for itself: the same for every document
            task.set_fewshot_seed(seed=self.asked.shots_seed)
        chats: dict[str, Any] = {"apply_chat_template": template is not None, "chat_template": template}
        asked = {"system_instruction": self.asked.system, "fewshot_as_multiturn": self.asked.multiturn, **chats}
        context = task.fewshot_context(doc, num_fewshot=count, gen_prefix=task.doc_to_prefix(doc), **asked)
        metadata = (task.config["task"], number, task.config.repeats)
        found = task.construct_requests(doc=doc, ctx=context, metadata=metadata, **chats)
        return found if isinstance(found, list) else [found]

    def row(self, number: int) -> dict[str, Any]:
        """Return a document as a row: prompt and target as a reader would see them, and its fields.

        Where there is no prompt the input is what is scored: the choices, or the text.
        """
        task, doc = self.task, deepcopy(self.docs[number])
        choices = task.doc_to_choice(doc) if task.config.doc_to_choice is not None else []
        prompt, target = task.doc_to_text(doc), _format_target_or_choice(task.doc_to_target(doc), choices)
        if task.OUTPUT_TYPE == "loglikelihood_rolling":
            prompt, target = target, ""
        elif not (isinstance(prompt, str) and prompt):
            prompt = "\n".join(map(str, choices)) or target
        fields = doc if isinstance(doc, Mapping) else {"doc": doc}
        told = {f"doc.{k}" if k in ROW_COLUMNS else k: _convert_to_json(v) for k, v in fields.items()}
        return {**told, "task": self.name, "doc_id": number, "input": prompt, "target": target}


Tasks = tuple[dict[str, LoadedTask], tuple[EvalMetric, ...]]
_built: dict[tuple[str, Path], Tasks] = {}


def load_tasks(asked: TaskOptions, folder: Path) -> Tasks:
    """Return the options' tasks with data, by name, and their metrics. Builds them unless they are in memory."""
    return _built.get((repr(asked), folder)) or build_tasks(asked, folder)


def build_tasks(asked: TaskOptions, folder: Path) -> Tasks:
    """Build the options' tasks as their files are now.

    Returns them by name, with their metrics, and keeps them in memory. Raises UsageError, one line.
    """
    with hub.quiet_libraries(), hub.seed_globally():
        found = find_tasks(asked.task, folder, asked.include_path, _read_yaml_with_functions)
        metrics = tuple(list_eval_metrics(found))
        made = [_build_task(leaf, asked) for leaf in found.leaves]
        each = []
        for leaf, task in zip(found.leaves, made, strict=True):
            if not (docs := list(islice(task.eval_docs, asked.docs))):
                raise UsageError(f'task "{leaf.name}": has no documents')
            sampler = _replace_fewshot_sampler(task, fixed=asked.fixed_shots, seed=asked.shots_seed)
            remote = hub.needs_hub(leaf.config)
            each.append(LoadedTask(leaf.name, task, docs, tuple(task_metrics(leaf)), sampler, asked, remote))
    rows = sum(len(one.docs) for one in each)
    built = {one.name: replace(one, weight=rows / (len(each) * len(one.docs))) for one in each}
    while len(_built) >= MAX_CACHED_EVALS:
        del _built[next(iter(_built))]
    _built[repr(asked), folder] = built, metrics
    return built, metrics


@contextmanager
def blame_task_code(what: str) -> Iterator[None]:
    """Turn exceptions of a task's own code into UsageErrors.

    That code is its templates, functions and modules. The message begins with `what`.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{what}: {format_foreign_error(error)}") from None


def format_foreign_error(error: Exception) -> str:
    """Return an error of somebody else's code as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _build_task(leaf: TaskConfig, asked: TaskOptions) -> Any:
    """Have lm_eval build a task, which reads its data.

    Raises UsageError if that fails, or `shots` or a metric does not work with the task.
    """
    from lm_eval.tasks import TaskManager

    config = dict(leaf.config)
    if options := config.get("dataset_kwargs"):  # files beside the YAML, which lm_eval looks for where it runs
        named = {
            k: _resolve_existing_paths(options[k], leaf.folder) for k in ("data_files", "data_dir") if k in options
        }
        config["dataset_kwargs"] = {**options, **named}
    with hub.allow_network(hub.needs_hub(config)) as barred:
        try:
            (task,) = TaskManager(include_defaults=False, metadata=asked.metadata or {}).load(config)["tasks"].values()
        except Exception as error:  # the YAML, the code and the data of somebody else
            raise UsageError(_describe_build_error(leaf, error, barred)) from None
    for metric in hub.list_foreign_metrics(config):
        if task._metric_fn_list.get(metric) is None:
            raise UsageError(
                f'task "{leaf.name}": its metric "{metric}" is not one of lm_eval\'s, and cannot be loaded'
            )
    if asked.shots and task.config.num_fewshot == 0:
        raise UsageError(f'task "{leaf.name}": sets num_fewshot: 0, which lm_eval enforces; remove shots')
    if asked.shots is not None:
        task.set_config("num_fewshot", asked.shots)
    if (more := asked.gen_kwargs) and task.OUTPUT_TYPE == "generate_until":
        task.set_config("generation_kwargs", more, update=True)
    return task


def _replace_fewshot_sampler(task: Any, *, fixed: bool, seed: int) -> FixedShots | SampledShots | None:
    """Replace the sampler of an lm_eval task, and return the new.

    A sampler with an order of its own keeps that order. None if the task has no sampler.
    """
    from lm_eval.api.samplers import ContextSampler

    task.set_fewshot_seed(seed=seed)
    if not hasattr(task, "sampler"):
        return None
    if fixed and type(task.sampler) is ContextSampler:
        chosen: FixedShots | SampledShots = FixedShots(task.task_name, task.sampler, seed)
    else:
        chosen = SampledShots(task.task_name, task.sampler, task.fewshot_cfg.split == task.config.test_split)
    task.sampler = chosen
    return chosen


def _describe_build_error(leaf: TaskConfig, error: Exception, barred: str) -> str:
    """Explain why a task could not be built. The usual reason is data that cannot be reached."""
    where, config = f'task "{leaf.name}"', leaf.config
    if not hub.has_remote_data(config) or not (isinstance(error, OSError) or "cache" in str(error)):
        return f"{where}: lm_eval cannot build it: {format_foreign_error(error)}"
    data = f'"{config.get("dataset_path")}"' + (f" ({config['dataset_name']})" if config.get("dataset_name") else "")
    if not barred:
        return f"{where}: its data {data} cannot be read: {format_foreign_error(error)}"
    hint = "connect to the network once, or use a YAML with local data"
    return f"{where}: its data {data} is not on this machine, and {barred}; {hint}"


def _resolve_existing_paths(value: Any, folder: Path) -> Any:
    if isinstance(value, str):
        beside = "://" not in value and glob(value, root_dir=folder, recursive=True)  # noqa: PTH207 -- any pattern
        return str(folder / value) if beside else value
    if isinstance(value, list):
        return [_resolve_existing_paths(v, folder) for v in value]
    return {k: _resolve_existing_paths(v, folder) for k, v in value.items()} if isinstance(value, Mapping) else value


def _read_yaml_with_functions(path: Path) -> Config:
    """Read a YAML as lm_eval does, the functions it names imported."""
    from lm_eval.tasks._yaml_loader import load_yaml

    with blame_task_code(f'"{path}": lm_eval cannot read it'):
        return dict(load_yaml(path, resolve_func=True))


def _format_target_or_choice(target: Any, choices: list[str]) -> str | list[str]:
    if isinstance(target, (list, tuple)):
        return [str(_format_target_or_choice(t, choices)) for t in target]
    return str(choices[target]) if isinstance(target, int) and 0 <= target < len(choices) else str(target)


def _convert_to_json(value: Any) -> Any:
    """Convert a document's field to JSON. Values that JSON does not have become text."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(k): _convert_to_json(v) for k, v in value.items()}
    return [_convert_to_json(v) for v in value] if isinstance(value, (list, tuple)) else str(value)
