"""A task's YAML, read as lm_eval reads it but without lm_eval: includes merged, functions left as names."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness import UsageError

Config = dict[str, Any]


class Function(str):
    """A function that a YAML names: the path of its module without ".py", a dot, its name."""

    __slots__ = ()


def read_yaml(path: Path, above: Sequence[Path] = ()) -> Config:
    """Read a task's YAML with what it includes, which it overrides; functions stay names. Raises UsageError."""
    path = path.resolve()
    if path in above:
        raise UsageError(f'"{path}": its includes go in a circle')
    try:
        config = dict(_parsed(path, path.stat().st_mtime_ns))
    except OSError:
        where = f'"{above[-1]}": includes "{path.name}", which' if above else f'"{path}":'
        raise UsageError(f"{where} is not there") from None
    merged: Config = {}
    includes = config.pop("include", None) or ()
    for other in [includes] if isinstance(includes, str) else includes:
        included = read_yaml(path.parent / other, (*above, path))
        included.pop("task_list", None)
        merged |= included
    return merged | config


@lru_cache(maxsize=4096)
def _parsed(path: Path, _: int) -> Config:
    reader = loader()(path.read_bytes())
    reader.folder = path.parent
    try:
        config = reader.get_single_data()
    except library().YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        at = "" if line is None else f" line {line + 1}"
        raise UsageError(f'"{path}"{at}: is no YAML: {getattr(error, "problem", None) or error}') from None
    finally:
        reader.dispose()
    if not isinstance(config, dict):
        raise UsageError(f'"{path}": is no task: want keys and values, such as "task: my_task"')
    return config


@lru_cache(maxsize=1)
def loader() -> Any:
    """Return a safe YAML loader that knows `!function`, relative to its `folder`."""
    safe: Any = getattr(library(), "CSafeLoader", None) or library().SafeLoader

    class Loader(safe):  # type: ignore[misc]
        folder = Path()

    def function(reader: Any, node: Any) -> Function:
        return Function(reader.folder / reader.construct_scalar(node))

    Loader.add_constructor("!function", function)
    return Loader


def library() -> Any:
    """Return PyYAML, which comes with lm_eval and has no types."""
    return importlib.import_module("yaml")
