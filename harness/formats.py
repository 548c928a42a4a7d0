"""What may lie in a model's folder: data in formats that cannot run code, and configurations that fetch none."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.evidence import read_safetensors, walk
from harness.gguf import read_gguf

SUFFIXES = {".safetensors", ".gguf", ".json", ".jinja", ".txt", ".model", ".md"}
NAMES = re.compile(r"(LICEN[CS]E|NOTICE)[\w.-]*|USE_POLICY[\w.-]*")
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04", b"\x1f\x8b", b"#!", b"\x7fELF", b"MZ")
LARGEST_JSON = 256 << 20  # bytes; the largest tokenizers have some 40 MB
INDEX = ".safetensors.index.json"
ADAPTER = "adapter_config.json"
CONFIGURATIONS = {ADAPTER, "config.json", "generation_config.json", "tokenizer_config.json"}
# Keys of configurations that make a library import or fetch code: transformers' auto_map and custom pipelines, its
# attention switch (CVE-2026-4372), what PEFT passes on to a tokenizer, the class PEFT imports for a base.
FORBIDDEN = {"auto_map", "trust_remote_code", "custom_pipelines", "custom_generate", "tokenizer_kwargs"}
FORBIDDEN |= {"auto_mapping", "_attn_implementation_internal", "_experts_implementation_internal"}


class Unsafe(ValueError):
    """A file that may not be deployed: its name in the model's folder, and why."""


def is_allowed(path: Path) -> bool:
    """Say whether a file is, by its name, of a kind that may be deployed."""
    return path.suffix in SUFFIXES or NAMES.fullmatch(path.name) is not None


def check_files(model: Path) -> str:
    """Return what was looked at; raises Unsafe at a file of a format that is not allowed, or not what it says."""
    count, tensors = 0, dict[str, set[str]]()
    for name, _ in walk(model):
        count += 1
        path = model / name
        if not is_allowed(path):
            raise Unsafe(f"{name}: files of this kind are not allowed; allowed are {', '.join(sorted(SUFFIXES))}")
        with path.open("rb") as f:
            head = f.read(8)
        if path.suffix == ".safetensors":
            tensors[name] = set(_safetensors(name, path))
        elif path.suffix == ".gguf":
            _gguf(name, path)
        elif head.startswith(PICKLES):
            raise Unsafe(f"{name}: is an archive, a pickle or a program, whatever its name says")
    _disjoint(tensors)
    check_indexes(model, tensors)
    return f"{count} files"


def check_indexes(model: Path, tensors: Mapping[str, Collection[str]] | None = None) -> None:
    """Raise Unsafe unless every index of shards names files beside it, and exactly the tensors that they hold."""
    for path in sorted(model.glob(f"*{INDEX}")):
        if tensors is None:
            tensors = {p.name: _safetensors(p.name, p) for p in model.glob("*.safetensors")}
        _check_index(path, tensors)


def check_configuration(model: Path) -> str:
    """Return what was looked at; raises Unsafe at a configuration that would have code or weights fetched."""
    count = 0
    for name, size in walk(model):
        if not name.endswith(".json"):
            continue
        data, count = _read_configuration(name, model / name, size), count + 1
        if name.rpartition("/")[2] == ADAPTER and data.get("base_model_name_or_path"):
            raise Unsafe(f"{name}: names a base to fetch; who deploys an adapter chooses its base himself")
    return f"{count} configurations"


def check_candidate(model: Path) -> None:
    """Raise Unsafe at a configuration or an index of a candidate that `verify` would refuse in its export.

    An adapter may name its base, and files may be links, as in a download cache.
    """
    for path in sorted(model.glob("*.json")):
        _read_configuration(path.name, path, path.stat().st_size)
    check_indexes(model)


def _read_configuration(name: str, path: Path, size: int) -> Any:
    if size > LARGEST_JSON:
        raise Unsafe(f"{name}: {size} bytes are no configuration")
    data = _json(name, path)
    if name.endswith(("tokenizer.json", "vocab.json")) or name.endswith(INDEX):
        return data  # what they hold are words and names of tensors
    for key, value in _items(data):
        _check_key(name, key, value)
    if name.rpartition("/")[2] in CONFIGURATIONS and not isinstance(data, dict):
        raise Unsafe(f"{name}: is no JSON object")
    return data


def _check_key(name: str, key: str, value: Any) -> None:
    if key in FORBIDDEN and value not in (None, False):
        raise Unsafe(f'{name}: "{key}" would have code loaded')
    if key.endswith("_implementation") and isinstance(value, str) and re.search(r"[/:@]", value):
        raise Unsafe(f'{name}: "{key}" would have a kernel fetched')


def _items(data: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key with its value, however deep."""
    todo = [data]
    while todo:
        here = todo.pop()
        if isinstance(here, dict):
            yield from here.items()
            todo.extend(here.values())
        elif isinstance(here, list):
            todo.extend(here)


def _safetensors(name: str, path: Path) -> list[str]:
    try:
        return list(read_safetensors(path).tensors)
    except ValueError as error:
        raise Unsafe(f"{name}: {str(error).removeprefix(f'{path}: ')}") from None


def _gguf(name: str, path: Path) -> None:
    try:
        read_gguf(path)
    except ValueError as error:
        raise Unsafe(f"{name}: {str(error).removeprefix(f'{path}: ')}") from None


def _disjoint(tensors: dict[str, set[str]]) -> None:
    seen: dict[str, str] = {}
    for file, names in tensors.items():
        for tensor in names:
            if (other := seen.setdefault(tensor, file)) != file and Path(file).parent == Path(other).parent:
                raise Unsafe(f'{file}: tensor "{tensor}" is also in {other}')


def _check_index(path: Path, tensors: Mapping[str, Collection[str]]) -> None:
    weight_map = _json(path.name, path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise Unsafe(f"{path.name}: has no weight_map")
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or "/" in file or "\\" in file or file not in tensors:
            raise Unsafe(f"{path.name}: {json.dumps(file)} is no file beside it")
        if tensor not in tensors[file]:
            raise Unsafe(f'{path.name}: "{tensor}" is not in {file}')
    for file in sorted(set(weight_map.values())):
        if lost := set(tensors[file]) - weight_map.keys():
            raise Unsafe(f'{path.name}: does not name "{min(lost)}" of {file}')


def _json(name: str, path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"), object_pairs_hook=_strict, parse_constant=no_constant)
    except RecursionError:
        raise Unsafe(f"{name}: is nested too deeply") from None
    except ValueError as error:
        raise Unsafe(f"{name}: is not JSON: {' '.join(str(error).split())}") from None


def no_constant(name: str) -> None:
    """Refuse NaN and the infinities, which Python reads and JSON does not know."""
    raise ValueError(f"it holds {name}")


def _strict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two values under one key are read in two ways by two programs."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found
