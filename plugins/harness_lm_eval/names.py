"""An index of lm_eval's tasks, groups and tags, and their YAMLs.

lm_eval's TaskManager parses 14,000 files to find one: a subprocess asks it once per version of lm_eval, and the answer
stays in the user's cache. A task's YAML is read as lm_eval reads it but without lm_eval: includes merged, functions
left as names.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness import UsageError, cache_dir, write_text
from harness.internals import missing_modules_message, subprocess_call

Config = dict[str, Any]


@dataclass(frozen=True)
class TaskNames:
    """Every task, group and tag: the file of a name, and the tasks of a tag."""

    files: dict[str, str] = field(default_factory=dict)
    tags: dict[str, list[str]] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.files or name in self.tags


def tasks_folder() -> Path:
    """Return the folder of lm_eval's tasks without importing it.

    Raises UsageError if lm_eval is not installed.
    """
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(missing_modules_message("lm_eval"))
    return Path(next(iter(spec.submodule_search_locations))) / "tasks"


@lru_cache(maxsize=1)
def lm_eval_names() -> TaskNames:
    """Return the names that lm_eval brings, cached by its version. Raises UsageError if they cannot be listed."""
    folder = tasks_folder()
    version = importlib.metadata.version("lm_eval")
    path = cache_dir() / "lm_eval" / f"names-{version}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}.json"
    try:
        known = json.loads(path.read_bytes())
        return TaskNames({name: f"{folder}/{file}" for name, file in known["files"].items()}, known["tags"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not there yet, or not ours
        names = TaskNames(
            **subprocess_call.call_module("harness_lm_eval.index", {}, "lm_eval: its tasks could not be listed")
        )
    files = {name: os.path.relpath(file, folder) for name, file in names.files.items()}
    write_text(path, json.dumps({"files": files, "tags": names.tags}, separators=(",", ":")))
    return names


def index_folder(root: Path) -> TaskNames:
    """Index a user's folder of tasks as lm_eval does: of several files with one name the first counts."""
    names = TaskNames()
    paths = [p for p in root.glob("**/*.yaml") if not {"__pycache__", ".ipynb_checkpoints"} & {*p.parts}]
    for path in sorted(paths, key=Path.as_posix):
        try:
            config = read_yaml(path)
        except UsageError:
            continue  # an error where the task is used
        kind = next((key for key in ("class", "group", "task") if key in config), "")
        name = config.get("task" if kind == "class" else kind)
        if not isinstance(name, str) or name in names:
            continue
        names.files[name] = str(path)
        tags = config.get("tag") or ()
        for tag in () if kind == "group" else [tags] if isinstance(tags, str) else tags:
            names.tags.setdefault(str(tag), []).append(name)
    return names


class YamlFunction(str):
    """A function that a YAML names: the path of its module without ".py", a dot, its name."""

    __slots__ = ()


def read_yaml(path: Path, above: Sequence[Path] = ()) -> Config:
    """Read a task's YAML, merged over its includes.

    Functions stay names. Raises UsageError if a file is missing or invalid, or includes form a cycle.
    """
    path = path.resolve()
    if path in above:
        raise UsageError(f'"{path}": its includes form a cycle')
    try:
        config = dict(_read_task_yaml(path, path.stat().st_mtime_ns))
    except OSError:
        where = f'"{above[-1]}": includes "{path.name}", which' if above else f'"{path}":'
        raise UsageError(f"{where} does not exist") from None
    merged: Config = {}
    includes = config.pop("include", None) or ()
    for other in [includes] if isinstance(includes, str) else includes:
        included = read_yaml(path.parent / other, (*above, path))
        merged |= {key: value for key, value in included.items() if key != "task_list"}
    return merged | config


@lru_cache(maxsize=4096)
def _read_task_yaml(path: Path, _: int) -> Config:
    reader = make_yaml_loader()(path.read_bytes())
    reader.folder = path.parent
    try:
        config = reader.get_single_data()
    except import_yaml().YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        at = "" if line is None else f" line {line + 1}"
        raise UsageError(f'"{path}"{at}: is not valid YAML: {getattr(error, "problem", None) or error}') from None
    finally:
        reader.dispose()
    if not isinstance(config, dict):
        raise UsageError(f'"{path}": is not a task; write keys and values, such as "task: my_task"')
    return config


@lru_cache(maxsize=1)
def make_yaml_loader() -> Any:
    """Return a safe YAML loader that knows `!function`.

    The function's path is relative to the loader's `folder`.
    """
    safe: Any = getattr(import_yaml(), "CSafeLoader", None) or import_yaml().SafeLoader

    class FunctionLoader(safe):  # type: ignore[misc]
        folder = Path()

    FunctionLoader.add_constructor("!function", lambda own, node: YamlFunction(own.folder / own.construct_scalar(node)))
    return FunctionLoader


def import_yaml() -> Any:
    """Return PyYAML, which comes with lm_eval and has no types."""
    return importlib.import_module("yaml")
