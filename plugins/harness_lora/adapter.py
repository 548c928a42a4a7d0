"""An adapter's configuration: checked against PEFT's real one, against a base, and against what can be merged."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from harness.errors import Mistakes, UsageError, did_you_mean
from harness.schema import fits, kind, show
from harness.subject import Progress
from harness_lora.headers import find_tensor, read_headers, split_name
from harness_lora.targets import check_targets

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
NOTE = "harness-adapter.json"  # the trainer's: digest and dtype of the base, recipe, facts

OURS = {  # fields of LoraConfig that are not the user's, and why
    "task_type": "it is always CAUSAL_LM",
    "peft_type": "it is always LORA",
    "inference_mode": "the trainer sets it",
    "base_model_name_or_path": "it is the model's",
    "revision": "it is the model's",
    "auto_mapping": "PEFT sets it",
    "peft_version": "PEFT sets it",
}
PREPARED = {"eva", "corda", "loftq", "lora_ga"}  # initialisations that need data or a rewritten base on disk
MOVES_BASE = ("pissa", "olora")  # move a part of the base's weight into the adapter; the trainer moves it back


@dataclass(frozen=True)
class Lora:
    """A LoRA: `fields` of PEFT's LoraConfig, and the keywords of a BitsAndBytesConfig when the base is in 4 bits."""

    fields: Mapping[str, Any]
    quantization: Mapping[str, Any] | None = None

    def check(self) -> None:
        """Build the real configuration and a layer with it; raises UsageError on what PEFT refuses or we do not do."""
        self._check_names()
        start = self.fields.get("init_lora_weights", True)
        moves = isinstance(start, str) and start.startswith(MOVES_BASE)
        if start in PREPARED:
            raise UsageError(f'init_lora_weights "{start}": needs a preparation that is not done here')
        if moves and self.quantization:
            raise UsageError(f'init_lora_weights "{start}": cannot move weights of a 4-bit base; use lora')
        config = self.peft_config()
        if moves and config.use_rslora and (config.rank_pattern or config.alpha_pattern):
            raise UsageError("use_rslora: with patterns, PEFT cannot turn such an adapter into a plain LoRA; drop one")
        _try_layer(config)

    def _check_names(self) -> None:
        from peft import LoraConfig

        known, mistakes = {f.name for f in dataclasses.fields(LoraConfig)} - set(OURS), Mistakes()
        hints = get_type_hints(LoraConfig) | {"init_lora_weights": bool | str}  # PEFT spells a pattern as a literal
        for name, value in self.fields.items():
            if name in OURS:
                mistakes.add(f'option "{name}"', f"cannot be set: {OURS[name]}; remove it")
            elif name not in known:
                mistakes.add(f'option "{name}"', f"is no field of PEFT's LoraConfig{did_you_mean(name, known)}")
            elif not fits(value, hints[name]):
                mistakes.add(f'option "{name}"', f"is {show(value)}, want {kind(hints[name])}")
        mistakes.raise_if_any()

    def peft_config(self) -> Any:
        """Return a new LoraConfig (PEFT writes into it, so it is not kept)."""
        from peft import LoraConfig

        try:
            return LoraConfig(task_type="CAUSAL_LM", **copy.deepcopy(dict(self.fields)))
        except (TypeError, ValueError, ImportError) as error:
            raise UsageError(f"LoraConfig: {' '.join(str(error).split())}") from None

    def check_targets(self, base: str) -> None:
        """Raise UsageError when `target_modules` or a pattern matches no module in the headers of the base's folder."""
        names = [n.removesuffix(".weight") for n in read_headers(Path(base)) if n.endswith(".weight")]
        patterns = [*self.fields.get("rank_pattern", {}), *self.fields.get("alpha_pattern", {})]
        check_targets(self.fields["target_modules"], names, patterns)

    def check_fits(self, base: str, base_digest: str, adapter: Path) -> None:
        """Raise UsageError when the folder `adapter` holds no adapter, or one that was made for another base."""
        read_config(adapter)
        made_for = read_note(adapter).get("base_digest")
        if made_for and base_digest and made_for != base_digest:
            raise UsageError(
                f'adapter "{adapter}": was trained on weights {made_for[:16]}, the base is {base_digest[:16]}; '
                "name the base it was trained on"
            )
        _check_shapes(base, adapter)

    def check_merge(self, variant: str) -> None:
        """Raise UsageError when an adapter of this configuration cannot be merged this way."""
        from harness_lora.merge import check_mergeable

        if variant not in ("original", "dequantized"):
            raise UsageError(f'[merge] base "{variant}": unknown; known: "original", "dequantized"')
        if variant == "dequantized" and not self.quantization:
            raise UsageError('[merge] base "dequantized": the adapter was trained on a full base; use "original"')
        check_mergeable(self.peft_config())

    def merge(
        self,
        base: str,
        adapter: Path,
        out: Path,
        *,
        variant: str,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        """Write base + adapter to the empty folder `out`: safetensors, configuration, tokenizer.

        "original" adds to the base as it is on disk, "dequantized" to the base as the 4-bit model has it.
        Raises UsageError on what cannot be merged, RuntimeError when the result is not finite or not what it must be.
        """
        from harness_lora.merge import check_mergeable, merge_folder

        self.check_merge(variant)
        config = read_config(adapter)
        check_mergeable(config, trained=True)
        self.check_fits(base, "", adapter)
        quantization = self.quantization if variant == "dequantized" else None
        merge_folder(Path(base), adapter, out, config, quantization, read_note(adapter), progress)

    def verify(self, base: str, adapter: Path, merged: Path, *, variant: str) -> dict[str, Any]:
        """Read a merged model back in a process of its own, compare it with the adapter, and return the facts.

        The adapter stands on the base that was merged onto: in 4 bits for "dequantized", as it is for "original",
        which for an adapter trained on 4 bits is another model than the one that was trained. Raises Finding.
        """
        from harness_lora.parity import Question, ask

        quantization = dict(self.quantization) if self.quantization else None
        onto, trained = (quantization, None) if variant == "dequantized" else (None, quantization)
        return ask(Question(base, str(adapter), str(merged), onto, trained))


def read_config(adapter: Path) -> Any:
    """Return the LoraConfig of a PEFT folder; raises UsageError when it or the weights are missing or no LoRA."""
    from peft import LoraConfig, PeftConfig

    for name in (CONFIG, WEIGHTS):
        if not (adapter / name).is_file():
            why = "; pickles are not read, save it as safetensors" if (adapter / "adapter_model.bin").exists() else ""
            raise UsageError(f'adapter "{adapter}": has no {name}{why or "; name a PEFT folder"}')
    try:
        config = PeftConfig.from_pretrained(str(adapter))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f'adapter "{adapter}": its {CONFIG} cannot be read: {" ".join(str(error).split())}') from None
    if not isinstance(config, LoraConfig):
        raise UsageError(f'adapter "{adapter}": is of type {config.peft_type}, only LORA is known here')
    return config


def read_note(adapter: Path) -> dict[str, Any]:
    """Return what our trainer wrote beside an adapter, or nothing for one made elsewhere."""
    try:
        note: dict[str, Any] = json.loads((adapter / NOTE).read_text("utf-8"))
        return note
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f'adapter "{adapter}": its {NOTE} cannot be read: {error}; train again') from None


def _check_shapes(base: str, adapter: Path) -> None:
    """Compare every B·A and every whole tensor with the weight it is for; a Conv1D stores its weight transposed."""
    there = read_headers(Path(base))
    made = {split_name(key): header.shape for key, header in read_headers(adapter, WEIGHTS).items()}
    for (module, part), shape in made.items():
        if part not in ("lora_A", ""):
            continue
        tensor = find_tensor(module, there)
        if tensor is None:
            raise UsageError(
                f'adapter "{adapter}": the base has no "{module}", which it adapts; was it made for another?'
            )
        if part:
            shape = (*made.get((module, "lora_B"), ())[:1], shape[-1])
        if there[tensor].shape not in (shape, shape[::-1] if part else shape):
            raise UsageError(
                f'adapter "{adapter}": "{module}" is {list(shape)}, in the base it is {list(there[tensor].shape)}; '
                "name the base it was made for"
            )


def _try_layer(config: Any) -> None:
    """Make one adapted layer, because PEFT checks rank, dropout, initialisation and variants only there."""
    import torch
    from peft.tuners.lora import Linear

    try:
        with torch.random.fork_rng(devices=[]):
            Linear(torch.nn.Linear(64, 64), "default", copy.deepcopy(config), r=config.r, lora_alpha=config.lora_alpha)
    except (ValueError, TypeError, AttributeError, ImportError, NotImplementedError) as error:
        raise UsageError(f"LoraConfig: {' '.join(str(error).split())}") from None
