"""What is in the safetensors files of a base or an adapter, read from their headers alone: no weights, no torch."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from harness import Safetensors, UsageError, read_safetensors, weight_files

PREFIX = "base_model.model."  # what PEFT puts before every name
LORA_PART = re.compile(r"(?P<module>.+)\.(?P<part>lora_\w+|trainable_tokens_delta)(\.(?P<rest>\w+))?")


@dataclass(frozen=True)
class Header:
    """A tensor as its file declares it: where it is, its dtype ("F32", "BF16" …) and its shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def read_headers(folder: Path, file: str = "") -> dict[str, Header]:
    """Return every tensor that a folder is read from by name, or those of one file of it.

    Raises UsageError when there is none or a file is no safetensors.
    """
    found: dict[str, Header] = {}
    names = [file] if file else weight_files(folder)
    for path in (folder / name for name in names if (folder / name).is_file()):
        for name, entry in _read(path).tensors.items():
            if name in found:
                raise UsageError(f'"{path}": tensor "{name}" is also in {found[name].file.name}; which one is meant?')
            found[name] = Header(path, entry["dtype"], tuple(entry["shape"]))
    if not found:
        wanted = file or "*.safetensors"
        raise UsageError(f'"{folder}": has no {wanted}; only safetensors are read, never pickles')
    return found


def metadata_of(file: Path) -> dict[str, str]:
    """Return the free text entries of a file's header."""
    return dict(_read(file).metadata)


def split_name(key: str) -> tuple[str, str]:
    """Split a tensor's name in an adapter: ("model.layers.0.mlp.up_proj", "lora_A"), or (module, "") of a whole one.

    What is for a bias has the bias's name for a module, and a base's own weight that was saved along is "base_layer".
    """
    name = key.removeprefix(PREFIX)
    if found := LORA_PART.fullmatch(name):
        if (found["part"], found["rest"]) == ("lora_B", "bias"):
            return f"{found['module']}.bias", "lora_bias"
        return found["module"].removesuffix(".token_adapter"), found["part"]
    if name.endswith(".base_layer.weight"):
        return name.removesuffix(".base_layer.weight"), "base_layer"
    return name.removesuffix(".weight").replace(".base_layer.bias", ".bias"), ""


def find_tensor(module: str, there: Collection[str]) -> str | None:
    """Return the name of a module's weight in a base's files, which may lack the model's own prefix, or None."""
    for name in (module, module.partition(".")[2]):
        for tensor in (f"{name}.weight", name):
            if tensor in there:
                return tensor
    return None


def _read(file: Path) -> Safetensors:
    try:
        return read_safetensors(file)
    except (OSError, ValueError) as error:
        why = str(error).removeprefix(f"{file}: ")
        raise UsageError(f'"{file}": is no whole safetensors file: {why}; fetch or train it again') from None
