"""A PEFT folder: the adapter's configuration, its weights, and what our trainer wrote beside them."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from harness import UsageError, schema

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
CHECKED: dict[str, Any] = {"r": int, "lora_alpha": float, "rank_pattern": dict, "alpha_pattern": dict}
CHECKED |= {"target_modules": list[str] | str | None, "modules_to_save": list[str] | None}
NOTES = ("unsloth_",)  # how keys begin that other tools note there, and PEFT leaves alone
NOTE = "harness-adapter.json"  # the trainer's: digest and dtype of the base, recipe, facts


def read_config(adapter: Path) -> Any:
    """Return the LoraConfig of a PEFT folder; raises UsageError when it or the weights are missing or no LoRA."""
    from peft import LoraConfig

    if (adapter / "adapters.safetensors").is_file():
        what = "is of mlx_lm and not of PEFT; fuse it with mlx_lm.fuse, and name the folder of the fused model"
        raise UsageError(f'adapter "{adapter}": {what}')
    for name in (CONFIG, WEIGHTS):
        if not (adapter / name).is_file():
            why = "; pickles are not read, save it as safetensors" if (adapter / "adapter_model.bin").exists() else ""
            raise UsageError(f'adapter "{adapter}": has no {name}{why or "; name a PEFT folder"}')
    try:
        raw = json.loads((adapter / CONFIG).read_text("utf-8"))
        if (what := raw.get("peft_type")) != "LORA":
            raise UsageError(f'adapter "{adapter}": is of type {what}, only LORA is known here')
        plain, known = LoraConfig(), {field.name for field in dataclasses.fields(LoraConfig)}
        if new := sorted(n for n, value in raw.items() if value and n not in known and not n.startswith(NOTES)):
            raise UsageError(
                f'adapter "{adapter}": its {CONFIG} has "{new[0]}", which this PEFT does not know; update peft, or '
                "remove it where it is no field of PEFT's but a note of another tool"
            )
        for name, want in CHECKED.items():  # what PEFT takes as it is, and fails at later
            value = raw.get(name, getattr(plain, name))
            if not schema.fits(value, want) or (want is float and not math.isfinite(value)):
                raise UsageError(
                    f'adapter "{adapter}": its {CONFIG} has {name} = {schema.show(value)}, want {schema.kind(want)}'
                )
        return LoraConfig.from_peft_type(**{name: value for name, value in raw.items() if name in known})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f'adapter "{adapter}": its {CONFIG} cannot be read: {" ".join(str(error).split())}') from None


def read_note(adapter: Path) -> dict[str, Any]:
    """Return what our trainer wrote beside an adapter, or nothing for one made elsewhere."""
    try:
        note: dict[str, Any] = json.loads((adapter / NOTE).read_text("utf-8"))
        if not isinstance(note, dict):
            raise ValueError("is no JSON object")
        return note
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f'adapter "{adapter}": its {NOTE} cannot be read: {error}; train again') from None
