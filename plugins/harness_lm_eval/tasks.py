"""lm_eval's own Task objects, built one by one, and what the harness asks of them: rows, and requests of a document."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any

from harness import UsageError, chat
from harness_lm_eval import hub, shots
from harness_lm_eval.find import Leaf, find
from harness_lm_eval.metrics import Gauge, Measure, gauges, measures
from harness_lm_eval.reading import Config

KEPT = 32  # evals whose tasks stay in memory
OURS = frozenset({"id", "input", "target", "task", "doc_id"})  # columns of a row; a document's own get "doc." in front


@dataclass(frozen=True)
class Asked:
    """The options of an eval, in a form that can be looked up: what is built for them is built once."""

    task: str
    shots: int | None = None
    chat: bool = False
    multiturn: bool = True
    system: str | None = None
    fixed_shots: bool = True
    shots_seed: int = 1234  # lm_eval's own
    docs: int | None = None
    include_path: str | None = None
    gen_kwargs: str = "null"  # JSON
    metadata: str = "null"
    arguments: str = "{}"  # of the chat template

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Asked:
        """Pick what is known from the options of a suite's table, and check it; raises UsageError."""
        known: dict[str, Any] = {f.name: options[f.name] for f in fields(cls) if options.get(f.name) is not None}
        if "task" not in known:
            raise UsageError('say which task: task = "arc_easy", or the path of a YAML')
        for name, least in (("shots", 0), ("docs", 1)):
            if name in known and not (isinstance(known[name], int) and known[name] >= least):
                raise UsageError(f"{name} is {known[name]}, want {least} or more")
        if isinstance(given := known.get("chat"), Mapping):
            known |= {"chat": True, "arguments": json.dumps(chat.arguments_of({}, given), sort_keys=True)}
        for name in ("gen_kwargs", "metadata"):
            if name in known:
                known[name] = json.dumps(known[name], sort_keys=True)
        return cls(**known)


@dataclass(frozen=True)
class Served:
    """A task with its documents, its metrics, and what a row of it weighs in metrics that count tasks alike."""

    name: str
    task: Any
    docs: list[Any]
    measures: tuple[Measure, ...]
    sampler: shots.Fixed | shots.Drawn | None
    asked: Asked
    remote: bool
    weight: float = 1.0

    def requests(self, number: int, template: Callable[..., str] | None) -> list[Any]:
        """Return lm_eval's requests for one document; `template` writes chat messages."""
        task, doc = self.task, deepcopy(self.docs[number])  # a task may write into its documents
        count = task.config.num_fewshot or 0
        if self.sampler:
            self.sampler.before(number, self.docs, count)
        else:  # a task that draws for itself: the same for every document
            task.set_fewshot_seed(seed=self.asked.shots_seed)
        context = task.fewshot_context(
            doc,
            num_fewshot=count,
            system_instruction=self.asked.system,
            apply_chat_template=template is not None,
            fewshot_as_multiturn=self.asked.multiturn,
            chat_template=template,
            gen_prefix=task.doc_to_prefix(doc),
        )
        found = task.construct_requests(
            doc=doc,
            ctx=context,
            metadata=(task.config["task"], number, task.config.repeats),
            apply_chat_template=template is not None,
            chat_template=template,
        )
        return found if isinstance(found, list) else [found]

    def row(self, number: int) -> dict[str, Any]:
        """Return a document as a row: prompt and target as a reader would see them, and its fields.

        Where there is no prompt the input is what is scored: the choices, or the text.
        """
        task, doc = self.task, deepcopy(self.docs[number])
        choices = task.doc_to_choice(doc) if task.config.doc_to_choice is not None else []
        prompt, target = task.doc_to_text(doc), _target(task.doc_to_target(doc), choices)
        if task.OUTPUT_TYPE == "loglikelihood_rolling":
            prompt, target = target, ""
        elif not (isinstance(prompt, str) and prompt):
            prompt = "\n".join(map(str, choices)) or target
        fields = doc if isinstance(doc, Mapping) else {"doc": doc}
        return {
            **{f"doc.{k}" if k in OURS else k: _plain(v) for k, v in fields.items()},
            **{"task": self.name, "doc_id": number, "input": prompt, "target": target},
        }


Tasks = tuple[dict[str, Served], tuple[Gauge, ...]]
_built: dict[tuple[Asked, Path], Tasks] = {}


def serve(asked: Asked, folder: Path) -> Tasks:
    """Return the tasks behind the options, with their data, by name; and their metrics. Builds them where need be."""
    return _built.get((asked, folder)) or build(asked, folder)


def build(asked: Asked, folder: Path) -> Tasks:
    """Build the tasks behind the options as their files are now; raises UsageError, one line."""
    with hub.quiet(), hub.seeded():
        found = find(asked.task, folder, asked.include_path, _read_functions)
        metrics = tuple(gauges(found))
        made = [_build(leaf, asked) for leaf in found.leaves]
        each = [_serve(leaf, task, asked) for leaf, task in zip(found.leaves, made, strict=True)]
    rows = sum(len(one.docs) for one in each)
    built = {one.name: replace(one, weight=rows / (len(each) * len(one.docs))) for one in each}
    while len(_built) >= KEPT:
        del _built[next(iter(_built))]
    _built[asked, folder] = built, metrics
    return built, metrics


def rows(asked: Asked, folder: Path) -> list[dict[str, Any]]:
    """Return one row a document, of all tasks, task by task; the first of each is tried out. Raises UsageError."""
    served, _ = build(asked, folder)
    found = []
    with hub.quiet():
        for one in served.values():
            try:
                one.requests(0, None)
                some = [one.row(number) for number in range(len(one.docs))]
            except UsageError:
                raise
            except Exception as error:  # templates and functions of the task
                raise UsageError(f'task "{one.name}": fails on a document: {said(error)}') from None
            found += [{"id": _id(row, len(served)), **row} for row in some]
    return found


def _id(row: Mapping[str, Any], tasks: int) -> str:
    return f"{row['task']}:{row['doc_id']}" if tasks > 1 else str(row["doc_id"])


def said(error: Exception) -> str:
    """Return an error of somebody else's code as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _serve(leaf: Leaf, task: Any, asked: Asked) -> Served:
    docs = list(islice(task.eval_docs, asked.docs))
    if not docs:
        raise UsageError(f'task "{leaf.name}": has no documents')
    sampler = shots.install(task, fixed=asked.fixed_shots, seed=asked.shots_seed)
    return Served(leaf.name, task, docs, tuple(measures(leaf)), sampler, asked, hub.needs_hub(leaf.config))


def _build(leaf: Leaf, asked: Asked) -> Any:
    """Have lm_eval make a task of its configuration, which reads its data; raises UsageError."""
    from lm_eval.tasks import TaskManager

    config = _beside(leaf)
    metadata = json.loads(asked.metadata) or {}
    with hub.network(hub.needs_hub(config)) as barred:
        try:
            (task,) = TaskManager(include_defaults=False, metadata=metadata).load(config)["tasks"].values()
        except Exception as error:  # the YAML, the code and the data of somebody else
            raise UsageError(_why(leaf, error, barred)) from None
    for metric in hub.foreign_metrics(config):
        if task._metric_fn_list.get(metric) is None:
            raise UsageError(f'task "{leaf.name}": its metric "{metric}" is none of lm_eval\'s, and cannot be loaded')
    if asked.shots and task.config.num_fewshot == 0:
        raise UsageError(f'task "{leaf.name}": says num_fewshot: 0, which lm_eval keeps; remove shots')
    if asked.shots is not None:
        task.set_config("num_fewshot", asked.shots)
    if (more := json.loads(asked.gen_kwargs)) and task.OUTPUT_TYPE == "generate_until":
        task.set_config("generation_kwargs", more, update=True)
    return task


def _why(leaf: Leaf, error: Exception, barred: str) -> str:
    """Return why a task could not be built; data that cannot be reached is the usual reason."""
    where, config = f'task "{leaf.name}"', leaf.config
    if not hub.remote_data(config) or not (isinstance(error, OSError) or "cache" in str(error)):
        return f"{where}: lm_eval cannot build it: {said(error)}"
    data = f'"{config.get("dataset_path")}"' + (f" ({config['dataset_name']})" if config.get("dataset_name") else "")
    if not barred:
        return f"{where}: its data {data} cannot be read: {said(error)}"
    hint = "connect once, or give a YAML with local data"
    return f"{where}: its data {data} is not on this machine, and {barred}; {hint}"


def _beside(leaf: Leaf) -> Config:
    """Return the configuration with data files that are beside the YAML made absolute; lm_eval looks where it runs."""
    config = dict(leaf.config)
    if options := config.get("dataset_kwargs"):
        found = {k: _located(v, leaf.folder) if k in ("data_files", "data_dir") else v for k, v in options.items()}
        config["dataset_kwargs"] = found
    return config


def _located(value: Any, folder: Path) -> Any:
    if isinstance(value, str):
        beside = "://" not in value and glob(value, root_dir=folder, recursive=True)  # noqa: PTH207 -- any pattern
        return str(folder / value) if beside else value
    if isinstance(value, list):
        return [_located(v, folder) for v in value]
    return {k: _located(v, folder) for k, v in value.items()} if isinstance(value, Mapping) else value


def _read_functions(path: Path) -> Config:
    """Read a YAML as lm_eval does, the functions it names imported."""
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        return dict(load_yaml(path, resolve_func=True))
    except Exception as error:  # a module of the task that cannot be imported, for instance
        raise UsageError(f'"{path}": lm_eval cannot read it: {said(error)}') from None


def _target(target: Any, choices: list[str]) -> str | list[str]:
    if isinstance(target, (list, tuple)):
        return [str(_target(t, choices)) for t in target]
    if isinstance(target, int) and 0 <= target < len(choices):
        return str(choices[target])
    return str(target)


def _plain(value: Any) -> Any:
    """Return a field of a document as JSON has it; what JSON has not becomes text."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else str(value)
