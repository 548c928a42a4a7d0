"""Every task, group and tag there is, and in which file, without parsing 14,000 files; and one file, parsed.

lm_eval parses them all to find one (13 s). Here they are searched for the lines that name a task, a group or a tag:
a second, once per version of lm_eval, then kept in the user's cache (10 ms). A task's YAML is read as lm_eval reads
it but without lm_eval: includes merged, functions left as names.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness import UsageError, cache_dir, write_text

NAMING = re.compile(rb"""^["']?(task|group|tag|class|include)["']?[ ]*:(.*(?:\n(?:[ \t-]|[ \t]*#|[ \t]*$).*)*)""", re.M)
PLAIN = re.compile(rb"""\s*["']?([\w.()+-]+)["']?\s*(?:#.*)?""")  # a value that needs no YAML to be read
DEEPEST = 20  # files that include each other

Config = dict[str, Any]


@dataclass(frozen=True)
class Names:
    """Every task, group and tag: the file of a name, and the tasks of a tag."""

    files: dict[str, str] = field(default_factory=dict)
    tags: dict[str, list[str]] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.files or name in self.tags


def tasks_folder() -> Path:
    """Return the folder of lm_eval's tasks, without importing it; raises UsageError when it is not installed."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("lm_eval is not installed; pip install 'finetune-harness[lm-eval]'")
    return Path(next(iter(spec.submodule_search_locations))) / "tasks"


@lru_cache(maxsize=1)
def lm_eval_names() -> Names:
    """Return the names that lm_eval brings, from the cache where they were searched before."""
    folder = tasks_folder()
    version = importlib.metadata.version("lm_eval")
    path = cache_dir() / "lm_eval" / f"names-{version}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}.json"
    try:
        known = json.loads(path.read_bytes())
        return Names({name: f"{folder}/{file}" for name, file in known["files"].items()}, known["tags"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not there yet, or not ours
        names = search(folder)
    files = {name: os.path.relpath(file, folder) for name, file in names.files.items()}
    write_text(path, json.dumps({"files": files, "tags": names.tags}, separators=(",", ":")))
    return names


def search(root: Path) -> Names:
    """Search a folder for names as lm_eval does: of several files with one name the first counts."""
    names, paths = Names(), list[str]()
    for folder, inner, files in os.walk(str(root)):
        inner[:] = [d for d in inner if d not in ("__pycache__", ".ipynb_checkpoints")]
        paths += [f"{folder}/{file}" for file in files if file.endswith(".yaml")]
    for path in sorted(paths):
        said = _said(path)
        kind = next((k for k in ("class", "group", "task") if k in said), None)
        name = said.get("task" if kind == "class" else kind) if kind else None
        if not isinstance(name, str) or name in names:
            continue
        names.files[name] = path
        if kind != "group":
            for tag in said.get("tag", ()):
                names.tags.setdefault(tag, []).append(name)
    return names


def _said(path: str, depth: int = 0) -> dict[str, Any]:
    """Return what a file says of its names, what it includes below it; a name that is no plain text is None."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 -- 14,000 times
            found = dict(NAMING.findall(file.read()))
    except OSError:
        return {}
    said: dict[str, Any] = {}
    if (include := found.pop(b"include", None)) and depth < DEEPEST:
        for other in _listed(_value(include)):
            said |= _included(os.path.normpath(f"{os.path.dirname(path)}/{other}"), depth + 1)  # noqa: PTH120
    return said | {k.decode(): _listed(_value(v)) if k == b"tag" else _value(v) for k, v in found.items()}


_included = lru_cache(maxsize=4096)(_said)


def _value(text: bytes) -> Any:
    """Return what stands after a key, read as YAML only where that is needed."""
    if plain := PLAIN.fullmatch(text):
        return plain[1].decode()
    try:
        return loader()(b"key:" + text).get_single_data()["key"]
    except library().YAMLError:
        return None


def _listed(value: Any) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else [value] if isinstance(value, str) else []


class Function(str):
    """A function that a YAML names: the path of its module without ".py", a dot, its name."""

    __slots__ = ()


def read_yaml(path: Path, above: Sequence[Path] = ()) -> Config:
    """Read a task's YAML with what it includes, which it overrides; functions stay names. Raises UsageError."""
    path = path.resolve()
    if path in above:
        raise UsageError(f'"{path}": its includes form a cycle')
    try:
        config = dict(_parsed(path, path.stat().st_mtime_ns))
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
def _parsed(path: Path, _: int) -> Config:
    reader = loader()(path.read_bytes())
    reader.folder = path.parent
    try:
        config = reader.get_single_data()
    except library().YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        at = "" if line is None else f" line {line + 1}"
        raise UsageError(f'"{path}"{at}: is not valid YAML: {getattr(error, "problem", None) or error}') from None
    finally:
        reader.dispose()
    if not isinstance(config, dict):
        raise UsageError(f'"{path}": is not a task; write keys and values, such as "task: my_task"')
    return config


@lru_cache(maxsize=1)
def loader() -> Any:
    """Return a safe YAML loader that knows `!function`, relative to its `folder`."""
    safe: Any = getattr(library(), "CSafeLoader", None) or library().SafeLoader

    class FunctionLoader(safe):  # type: ignore[misc]
        folder = Path()

    FunctionLoader.add_constructor("!function", lambda own, node: Function(own.folder / own.construct_scalar(node)))
    return FunctionLoader


def library() -> Any:
    """Return PyYAML, which comes with lm_eval and has no types."""
    return importlib.import_module("yaml")
