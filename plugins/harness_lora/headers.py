"""What is in safetensors files, read from their headers alone: no weights, no torch.

Format: eight bytes, the length of a JSON object {tensor: {"dtype", "shape", "data_offsets"}}, the object, the data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UsageError

PREFIX = "base_model.model."  # what PEFT puts before every name
LORA_PART = re.compile(r"(?P<module>.+)\.(?P<part>lora_\w+|trainable_tokens\w*)(\.weight|\.bias)?")
LONGEST_HEADER = 100_000_000  # what the safetensors library itself accepts


@dataclass(frozen=True)
class Header:
    """A tensor as its file declares it: where it is, its dtype ("F32", "BF16" …) and its shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def read_headers(folder: Path, files: str = "*.safetensors") -> dict[str, Header]:
    """Return every tensor of a folder by name; raises UsageError when there is none or a file is no safetensors."""
    found: dict[str, Header] = {}
    for file in sorted(folder.glob(files)):
        for name, entry in _header_of(file).items():
            if name != "__metadata__":
                found[name] = Header(file, str(entry["dtype"]), tuple(entry["shape"]))
    if not found:
        raise UsageError(f'"{folder}": has no {files}; only safetensors are read, never pickles')
    return found


def metadata_of(file: Path) -> dict[str, str]:
    """Return the free text entries of a file's header."""
    return dict(_header_of(file).get("__metadata__", {}))


def split_name(key: str) -> tuple[str, str]:
    """Split a tensor's name in an adapter: ("model.layers.0.mlp.up_proj", "lora_A"), or (module, "") of a whole one."""
    name = key.removeprefix(PREFIX)
    found = LORA_PART.fullmatch(name)
    return (found["module"], found["part"]) if found else (name.removesuffix(".weight"), "")


def find_tensor(module: str, there: Collection[str]) -> str | None:
    """Return the name of a module's weight in a base's files, which may lack the model's own prefix, or None."""
    for name in (module, module.partition(".")[2]):
        for tensor in (f"{name}.weight", name):
            if tensor in there:
                return tensor
    return None


def _header_of(file: Path) -> Mapping[str, Any]:
    try:
        with file.open("rb") as f:
            length = int.from_bytes(f.read(8), "little")
            if not 0 < length <= LONGEST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            header: Mapping[str, Any] = json.loads(f.read(length))
            return header
    except (OSError, ValueError) as error:
        raise UsageError(f'"{file}": is no whole safetensors file: {error}; fetch or train it again') from None
