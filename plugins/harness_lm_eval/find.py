"""Resolution of a task's name to its tasks, without importing lm_eval.

Each task comes with its configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness import UsageError, did_you_mean
from harness_lm_eval.names import Config, TaskNames, index_folder, lm_eval_names, read_yaml, tasks_folder

Reader = Callable[[Path], Config]
GROUP_KEYS = frozenset({"group", "group_alias", "task", "aggregate_metric_list", "metadata"})  # lm_eval's GroupConfig
MAX_GROUP_DEPTH = 20  # groups within groups


@dataclass(frozen=True)
class TaskConfig:
    """A task: its name, its configuration with includes and a group's overrides merged, and the folder of its YAML."""

    name: str
    config: Config
    folder: Path


@dataclass(frozen=True)
class GroupMetric:
    """A metric that a group's YAML aggregates: of these filters (None: all), each task `alike` or by its size."""

    metric: str
    filters: frozenset[str] | None = None
    alike: bool = False


@dataclass(frozen=True)
class NamedTasks:
    """The tasks of a name, and the metrics that a group aggregates.

    `averaged` is empty if the group's YAML names none.
    """

    name: str
    leaves: tuple[TaskConfig, ...]
    averaged: tuple[GroupMetric, ...] = ()


def find_tasks(task: str, folder: Path, include_path: str | None = None, read: Reader | None = None) -> NamedTasks:
    """Resolve a task, group, tag or YAML path to its tasks.

    A path is relative to `folder`. `include_path` is a folder with tasks that go before lm_eval's own. `read` reads one
    YAML; by default functions in it stay names. Raises UsageError if there is no such task, a YAML cannot be read, or
    lm_eval is not installed.
    """
    tasks_folder()
    expand = _Expansion(task, folder, include_path, read or read_yaml)
    if task.endswith((".yaml", ".yml")) or "/" in task:
        path = (folder / task).expanduser()
        if not path.is_file():
            raise UsageError(f'task "{task}": there is no such file in "{folder}"')
    elif task in expand.names.files:
        path = Path(expand.names.files[task])
    elif task in expand.names.tags:
        return NamedTasks(task, expand.leaves(expand.tasks(task, {}, 0)))
    else:
        hint = did_you_mean(task, [*expand.names.files, *expand.names.tags])
        raise UsageError(f'task "{task}": is not a task of lm_eval{hint}')
    config = expand.read(path)
    if "class" in config or "group" not in config:
        return NamedTasks(task, (expand.leaf(config, path.parent, {}),))
    listed, averaged = config.get("aggregate_metric_list") or (), []
    for entry in [listed] if isinstance(listed, Mapping) else listed:
        filters = entry.get("filter_list")
        named = [filters] if isinstance(filters, str) else filters
        alike = entry.get("weight_by_size") is False
        averaged.append(GroupMetric(entry["metric"], None if named is None else frozenset(named), alike))
    return NamedTasks(task, expand.leaves(expand.group(config, path.parent, {}, 0)), tuple(averaged))


class _Expansion:
    """From a name to its tasks, as lm_eval's TaskFactory goes."""

    def __init__(self, asked: str, folder: Path, include_path: str | None, read: Reader) -> None:
        self.asked, self.folder, self.include_path, self.read = asked, folder, include_path, read

    @cached_property
    def names(self) -> TaskNames:
        """All known names, those of `include_path` before lm_eval's own.

        They are read on demand: a task by path needs none.
        """
        own = lm_eval_names()
        if self.include_path is None:
            return own
        extra = (self.folder / self.include_path).expanduser()
        if not extra.is_dir():
            raise UsageError(f'include_path is "{self.include_path}", but there is no such folder in "{self.folder}"')
        more = index_folder(extra)
        return TaskNames({**own.files, **more.files}, {**own.tags, **more.tags})

    def leaves(self, found: Iterator[TaskConfig]) -> tuple[TaskConfig, ...]:
        if not (leaves := {leaf.name: leaf for leaf in found}):
            raise UsageError(f'task "{self.asked}": is a group without tasks')
        return tuple(leaves.values())

    def tasks(self, name: str, overrides: Config, depth: int) -> Iterator[TaskConfig]:
        """Yield the tasks of a name within a group."""
        if depth > MAX_GROUP_DEPTH:
            raise UsageError(f'task "{self.asked}": its groups contain each other')
        rest = {k: v for k, v in overrides.items() if k != "task"}
        if name not in self.names.files:
            for one in sorted(self.names.tags[name]):
                yield from self.tasks(one, rest, depth + 1)
            return
        path = Path(self.names.files[name])
        config = self.read(path)
        if "class" not in config and "group" in config:
            yield from self.group(config, path.parent, rest, depth + 1)
        else:
            yield self.leaf(config, path.parent, {"task": name, **overrides})

    def group(self, config: Config, folder: Path, overrides: Config, depth: int) -> Iterator[TaskConfig]:
        """Yield the tasks of a group: names, names with overrides, and groups and tasks written on the spot."""
        overrides = {**{k: v for k, v in config.items() if k not in GROUP_KEYS}, **overrides}
        members = config.get("task")
        for member in members if isinstance(members, list) else ():
            if isinstance(member, str):
                yield from self.member(member, overrides, config, folder, depth)
            elif "group" in member and member["group"] in self.names:
                own = {k: v for k, v in member.items() if k != "group"}
                yield from self.tasks(member["group"], {**overrides, **own}, depth)
            elif "group" in member:
                yield from self.group(member, folder, overrides, depth + 1)
            elif "task" in member:
                yield from self.member(str(member["task"]), {**overrides, **member}, config, folder, depth)
            else:
                raise UsageError(f'task "{self.asked}": its group has an entry without "task:" and without "group:"')

    def member(self, name: str, overrides: Config, group: Config, folder: Path, depth: int) -> Iterator[TaskConfig]:
        if name in self.names:
            yield from self.tasks(name, overrides, depth)
        elif "dataset_path" in overrides or "custom_dataset" in overrides:  # written on the spot
            yield self.leaf({}, folder, {**overrides, "task": f"{group['group']}::{name}"})
        else:
            hint = did_you_mean(name, self.names.files) or "; check include_path, which must name its folder"
            raise UsageError(f'task "{self.asked}": its group names "{name}", which is not a task{hint}')

    def leaf(self, config: Config, folder: Path, overrides: Config) -> TaskConfig:
        config = {k: v for k, v in {**config, **overrides}.items() if k not in ("tag", "group", "task_list")}
        name = config.get("task")
        if not isinstance(name, str):
            raise UsageError(f'task "{self.asked}": its YAML has no "task:" with a name, and no "group:"')
        return TaskConfig(name, config, folder)
