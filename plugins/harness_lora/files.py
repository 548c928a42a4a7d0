"""Files of a base and of an adapter: tensors from their headers alone, configuration, what our trainer wrote beside."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from harness import UsageError
from harness.internals import read_safetensors, schema, weight_files

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
FIELD_TYPES: dict[str, Any] = {"r": int, "lora_alpha": float, "rank_pattern": dict, "alpha_pattern": dict}


class AdapterTensor(NamedTuple):
    """The module of an adapter's tensor, and its part there."""

    module: str
    part: str


FIELD_TYPES |= {"target_modules": list[str] | str | None, "modules_to_save": list[str] | None}
NOTES = ("unsloth_",)  # how keys begin that other tools note there, and PEFT leaves alone
ADAPTER_NOTE = "harness-adapter.json"  # the trainer's: digest and dtype of the base, recipe, facts
LORA_PART = re.compile(r"(?P<module>.+)\.(?P<part>lora_\w+|trainable_tokens_delta)(\.(?P<rest>\w+))?")


@dataclass(frozen=True)
class Header:
    """A tensor as its file declares it: where it is, its dtype ("F32", "BF16" …) and its shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def read_headers(folder: Path, file: str = "") -> dict[str, Header]:
    """Read the tensor headers of a folder, or of one file.

    Raises UsageError if there is no safetensors file, one cannot be read, or two have the same tensor.
    """
    found: dict[str, Header] = {}
    names = [file] if file else weight_files(folder)
    for path in (folder / name for name in names if (folder / name).is_file()):
        try:
            tensors = read_safetensors(path).tensors
        except (OSError, ValueError) as error:
            why = str(error).removeprefix(f"{path}: ")
            raise UsageError(f'"{path}": cannot be read: {why}; download or train it again') from None
        for name, entry in tensors.items():
            if name in found:
                raise UsageError(
                    f'"{path}": tensor "{name}" is also in {found[name].file.name}; remove one of the files'
                )
            found[name] = Header(path, entry["dtype"], tuple(entry["shape"]))
    if not found:
        raise UsageError(
            f'"{folder}": has no {file or "*.safetensors"}; pickles are not read, so save it as safetensors'
        )
    return found


def split_name(key: str) -> AdapterTensor:
    """Split a tensor's name in an adapter: ("model.layers.0.mlp.up_proj", "lora_A"), or (module, "") of a whole one.

    What is for a bias has the bias's name for a module, and a base's own weight that was saved along is "base_layer".
    """
    name = key.removeprefix("base_model.model.")  # what PEFT puts before every name
    if found := LORA_PART.fullmatch(name):
        if (found["part"], found["rest"]) == ("lora_B", "bias"):
            return AdapterTensor(f"{found['module']}.bias", "lora_bias")
        return AdapterTensor(found["module"].removesuffix(".token_adapter"), found["part"])
    if name.endswith(".base_layer.weight"):
        return AdapterTensor(name.removesuffix(".base_layer.weight"), "base_layer")
    return AdapterTensor(name.removesuffix(".weight").replace(".base_layer.bias", ".bias"), "")


def find_tensor(module: str, there: Collection[str]) -> str | None:
    """Return the name of a module's weight in a base's files. They may lack the model's own prefix."""
    names = (f"{name}{end}" for name in (module, module.partition(".")[2]) for end in (".weight", ""))
    return next((name for name in names if name in there), None)


def adapter_error(adapter: Path, why: str) -> UsageError:
    return UsageError(f'adapter "{adapter}": {why}')


def read_config(adapter: Path) -> Any:
    """Read the LoraConfig of a PEFT folder.

    Raises UsageError if it or the weights are missing, or it is invalid or no LoRA.
    """
    from peft import LoraConfig

    if (adapter / "adapters.safetensors").is_file():
        what = "was trained by mlx_lm, not PEFT; fuse it with mlx_lm.fuse, and name the folder of the fused model"
        raise adapter_error(adapter, what)
    for name in (CONFIG, WEIGHTS):
        if not (adapter / name).is_file():
            why = "; pickles are not read, save it as safetensors" if (adapter / "adapter_model.bin").exists() else ""
            raise adapter_error(adapter, f"has no {name}{why or '; name a PEFT folder'}")
    try:
        raw = json.loads((adapter / CONFIG).read_text("utf-8"))
        if (what := raw.get("peft_type")) != "LORA":
            raise adapter_error(adapter, f"is of type {what}, but only LORA is supported")
        plain, known = LoraConfig(), {field.name for field in dataclasses.fields(LoraConfig)}
        if new := sorted(n for n, value in raw.items() if value and n not in known and not n.startswith(NOTES)):
            what = (
                f'its {CONFIG} has "{new[0]}", which the installed PEFT does not know; update peft, '
                "or remove it if it is"
            )
            raise adapter_error(adapter, f"{what} only a note of another tool")
        for name, want in FIELD_TYPES.items():  # what PEFT takes as it is, and fails at later
            value = raw.get(name, getattr(plain, name))
            if not schema.matches_type(value, want) or (want is float and not math.isfinite(value)):
                raise adapter_error(
                    adapter,
                    f"its {CONFIG} has {name} = {schema.format_toml(value)}; it must be {schema.type_name(want)}",
                )
        return LoraConfig.from_peft_type(**{name: value for name, value in raw.items() if name in known})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise adapter_error(adapter, f"its {CONFIG} cannot be read: {' '.join(str(error).split())}") from None


def read_note(adapter: Path) -> dict[str, Any]:
    """Read the note of our trainer beside an adapter.

    Empty for an adapter made elsewhere. Raises UsageError if it cannot be read.
    """
    try:
        note: dict[str, Any] = json.loads((adapter / ADAPTER_NOTE).read_text("utf-8"))
        if not isinstance(note, dict):
            raise ValueError("is not a JSON object")
        return note
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise adapter_error(adapter, f"its {ADAPTER_NOTE} cannot be read: {error}; train again") from None
