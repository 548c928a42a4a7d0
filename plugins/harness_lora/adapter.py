"""An adapter's configuration: checked against PEFT's real one, against a base, and against what can be merged."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from harness import Mistakes, Progress, UsageError, did_you_mean
from harness.internals import schema, subprocess_call, suggest_option
from harness_lora.fields import (
    FULL_PRECISION_FIELDS,
    MOVES_BASE,
    ON_FLOATS,
    PREPARED_FIELDS,
    REFUSED_FIELDS,
    RESERVED_FIELDS,
    UNTRAINED_FIELDS,
    refused_fields,
)
from harness_lora.files import (
    WEIGHTS,
    AdapterTensor,
    adapter_error,
    find_tensor,
    read_config,
    read_headers,
    read_note,
    split_name,
)
from harness_lora.targets import matches_target

Told = Callable[[Progress], None] | None  # who hears how far a merge is

if TYPE_CHECKING:
    from peft import LoraConfig


def check_targets(targets: Collection[str] | None, names: Iterable[str], *, option: str = "target_modules") -> None:
    """Raise UsageError for patterns that match no module of a model.

    There is a line for each pattern of the option.
    """
    names, mistakes = list(names), Mistakes()
    kind = "parameter" if option == "target_parameters" else "module"
    last = {name.rpartition(".")[2] for name in names}
    # A list matches whole names or their ends, a string is a regular expression of the whole name, as in PEFT.
    for target in sorted(_list_names_unless_text(targets)):
        if not any(matches_target(target, name, expression=False) for name in names):
            mistakes.add(f'{option} "{target}"', f"matches no {kind} of the base{did_you_mean(target, last)}")
    if isinstance(targets, str) and targets != "all-linear" and not any(re.fullmatch(targets, n) for n in names):
        mistakes.add(
            f'target_modules "{targets}"',
            "this expression matches no module of the base; to match the ends of names, write a list",
        )
    mistakes.raise_errors()


@dataclass(frozen=True)
class Lora:
    """A LoRA: `fields` of PEFT's LoraConfig, and the keywords of a BitsAndBytesConfig when the base is in 4 bits."""

    fields: Mapping[str, Any]
    quantization: Mapping[str, Any] | None = None

    def check(self) -> None:
        """Check the options by building PEFT's configuration and a layer.

        Raises UsageError for options that PEFT refuses or the harness does not support.
        """
        import torch
        from peft.tuners.lora import Linear

        self._require_valid_lora_fields()
        if (start := self.fields.get("init_lora_weights", True)) in PREPARED_FIELDS:
            raise UsageError(f'init_lora_weights "{start}": {PREPARED_FIELDS[start]}')
        if self.quantization and str(start).startswith(ON_FLOATS):
            raise UsageError(f'init_lora_weights "{start}": cannot be computed on a 4-bit base; use lora')
        if "lm_head" in {name.rpartition(".")[2] for name in _list_names_unless_text(self.fields["target_modules"])}:
            why = "TRL computes the loss from this module's weight alone, so an adapter on it would not be trained"
            raise UsageError(f'target_modules "lm_head": {why}; use modules_to_save')
        if isinstance(self.fields["target_modules"], str):
            for name in ("layers_to_transform", "layers_pattern"):
                if self.fields.get(name) is not None:
                    what = "needs target_modules as a list of names, not a text"
                    raise UsageError(f'option "{name}": {what}; set target_modules = ["q_proj", "v_proj"] or the like')
        config = self.peft_config()
        if str(start).startswith(MOVES_BASE) and config.use_rslora and (config.rank_pattern or config.alpha_pattern):
            raise UsageError(
                "use_rslora: with patterns, PEFT cannot convert such an adapter into a plain LoRA; remove one of them"
            )
        config.use_bdlora = None  # depends on the names of a model's layers
        try:  # PEFT checks rank, dropout, initialisation and variants only where it makes a layer
            with torch.random.fork_rng(devices=[]):
                Linear(torch.nn.Linear(64, 64), "default", config, r=config.r, lora_alpha=config.lora_alpha)
        except (ValueError, TypeError, AttributeError, ImportError, NotImplementedError) as error:
            raise UsageError(f"LoraConfig: {' '.join(str(error).split())}") from None

    def _require_valid_lora_fields(self) -> None:
        from peft import LoraConfig

        hints, mistakes = get_type_hints(LoraConfig), Mistakes()
        hints["init_lora_weights"] = bool | str  # PEFT spells a pattern as a literal
        known = {f.name for f in dataclasses.fields(LoraConfig)}
        not_done = {**UNTRAINED_FIELDS, **refused_fields(known), **(FULL_PRECISION_FIELDS if self.quantization else {})}
        for name, value in self.fields.items():
            # the class of a field that is a configuration of its own, which PEFT makes of a table
            nested: Any = next((arg for arg in get_args(hints.get(name)) if dataclasses.is_dataclass(arg)), None)
            if name in RESERVED_FIELDS:
                mistakes.add(f'option "{name}"', f"cannot be set: {RESERVED_FIELDS[name]}; remove it")
            elif name not in known:
                mistakes.add(f'option "{name}"', f"is not a field of PEFT's LoraConfig{suggest_option(name, known)}")
            elif name in not_done:
                how = f"{not_done[name]}{', or' if '; use ' in not_done[name] else ';'} remove it"
                mistakes.add(f'option "{name}"', f"is not supported in training: {how}")
            elif not schema.matches_type(value, want := dict if nested else hints[name]):
                mistakes.add(f'option "{name}"', f"is {schema.format_toml(value)}; it must be {schema.type_name(want)}")
            elif nested:  # PEFT drops what it does not know of these without a word
                keys = {f.name for f in dataclasses.fields(nested)}
                for key in sorted(set(value) - keys):
                    what = f"is not a field of PEFT's {nested.__name__}{did_you_mean(key, keys)}"
                    mistakes.add(f'option "{name}.{key}"', what)
        mistakes.raise_errors()

    def peft_config(self) -> Any:
        """Return a new LoraConfig.

        PEFT writes into it, so it is not kept. Raises UsageError if PEFT refuses a field.
        """
        from peft import LoraConfig

        try:
            return LoraConfig(task_type="CAUSAL_LM", **copy.deepcopy(dict(self.fields)))
        except (TypeError, ValueError, ImportError) as error:
            raise UsageError(f"LoraConfig: {' '.join(str(error).split())}") from None

    def check_targets(self, base: str) -> None:
        """Raise UsageError if the options do not fit the base.

        An option may name modules that the base lacks, or PEFT may refuse to adapt them there.
        """
        from harness_lora.skeleton import CheckpointLayout, adapt_skeleton, adapted_targets
        from harness_lora.targets import check_adaptable, check_reached, restrict_targets

        layout = CheckpointLayout(Path(base), there := read_headers(Path(base)))
        names = [name for name, _ in layout.model.named_modules()]
        stored = [n.removesuffix(".weight") for n in there if n.endswith(".weight")]  # experts are modules only there
        check_targets(self.fields["target_modules"], names + stored)
        mistakes, known = Mistakes(), [*names, *stored, *layout.shapes]
        for key in (*(self.fields.get("rank_pattern") or {}), *(self.fields.get("alpha_pattern") or {})):
            if not any(re.match(rf"(.*\.)?({key})$", name) for name in known):
                mistakes.add(f'rank_pattern or alpha_pattern "{key}"', "matches no module of the base; remove it")
        mistakes.raise_errors()
        for option in ("modules_to_save", "exclude_modules"):
            check_targets(_list_names_unless_text(self.fields.get(option)), names + stored, option=option)
        self._require_trainable_embeddings(Path(base))
        targeted, matrices = self.fields["target_modules"], [n for n in stored if len(there[f"{n}.weight"].shape) > 1]
        for name in matrices if self.fields.get("lora_bias") else ():
            end = name.rpartition(".")[2]
            wanted = _list_names_unless_text(targeted) or [end] * (end not in ("embed_tokens", "lm_head"))
            if not _list_names_unless_text(targeted) and targeted != "all-linear":
                wanted = [end] * bool(re.fullmatch(str(targeted), name))
            if any(name == w or name.endswith(f".{w}") for w in wanted) and f"{name}.bias" not in there:
                raise UsageError(f'lora_bias: "{name}" has no bias to merge it into; name other target_modules')
        check_reached(self.fields["target_modules"], layout.model)
        check_adaptable(self.peft_config(), layout.model)
        adapted = adapt_skeleton(layout.model, restrict_targets(self.peft_config(), layout.model))
        check_targets(adapted.peft_config["default"].target_modules, names)
        parameters = (target.parameter for _, target in adapted_targets(adapted))
        check_targets(self.fields.get("target_parameters"), parameters, option="target_parameters")

    def _require_trainable_embeddings(self, base: Path) -> None:
        """Raise UsageError if an embedding or head would not be trained.

        Also if it would be trained apart from the one it is tied to, or a token is not in the vocabulary.
        """
        from peft.utils.constants import EMBEDDING_LAYER_NAMES

        fields, config = self.fields, json.loads((base / "config.json").read_text("utf-8"))
        chosen = [("target_modules", name) for name in _list_names_unless_text(fields["target_modules"])]
        if not fields.get("ensure_weight_tying"):
            chosen += [("modules_to_save", name) for name in _list_names_unless_text(fields.get("modules_to_save"))]
        for option, name in chosen:
            if config.get("tie_word_embeddings") and name.rpartition(".")[2] in EMBEDDING_LAYER_NAMES:
                why = "the base ties its embedding to its head, and only one would be trained"
                raise UsageError(f'{option} "{name}": {why}; use modules_to_save with ensure_weight_tying')
        tokens = fields.get("trainable_token_indices") or []
        given = [t for of in tokens.values() for t in of] if isinstance(tokens, dict) else tokens
        for token in given:
            if not 0 <= token < config.get("vocab_size", token + 1):
                size = config["vocab_size"]
                raise UsageError(f"trainable_token_indices: there is no token {token} in a vocabulary of {size}")
        if config.get("tie_word_embeddings") and tokens:
            why = "the base ties its embedding to its head, and TRL cannot compute the loss with such a head"
            raise UsageError(f"trainable_token_indices: {why}; use modules_to_save with ensure_weight_tying")

    def check_fits(self, base: str, base_digest: str, adapter: Path) -> None:
        """Raise UsageError unless a folder holds an adapter for this base.

        Also if it was trained with a field that cannot be evaluated here.
        """
        config = read_config(adapter)
        plain = type(config)()
        for name, why in REFUSED_FIELDS.items():
            if getattr(config, name) != getattr(plain, name):
                raise adapter_error(
                    adapter, f'was trained with "{name}", which cannot be evaluated here: {why}; train without it'
                )
        made_for = read_note(adapter).get("base_digest")
        if made_for and base_digest and made_for != base_digest:
            what = f"was trained on weights {made_for[:16]}, but the base has {base_digest[:16]}"
            raise adapter_error(adapter, f"{what}; name the base that it was trained on")
        _require_adapter_shapes_fit_base(base, adapter, config)
        _require_adapter_loads_in_peft(base, adapter, config)

    def check_merge(self, variant: str, base: str, adapter: Path | None = None) -> None:
        """Raise UsageError if an adapter cannot be merged onto this variant.

        Without a folder, an adapter of this configuration is meant.
        """
        from harness_lora.plan import check_base, check_mergeable, find_merge_error
        from harness_lora.skeleton import CheckpointLayout, adapt_skeleton, adapted_targets, whole_trained_parameters
        from harness_lora.targets import restrict_targets

        self._require_known_merge_base(variant)
        there, _ = check_base(Path(base))
        layout = CheckpointLayout(Path(base), there)
        config = read_config(adapter) if adapter else restrict_targets(self.peft_config(), layout.model)
        check_mergeable(config, trained=adapter is not None)
        adapted = adapt_skeleton(layout.model, config)
        chosen = [target.parameter for _, target in adapted_targets(adapted)]
        for parameter in chosen:
            if parameter in layout.twins:
                pair = (name.removesuffix(".weight") for name in (parameter, layout.twins[parameter]))
                raise UsageError(f"[merge] {find_merge_error(*pair)}")
        for parameter in (*chosen, *whole_trained_parameters(adapted)):
            layout.tensors(parameter)

    def _require_known_merge_base(self, variant: str) -> None:
        if variant not in ("original", "dequantized"):
            raise UsageError(f'[merge] base "{variant}": unknown; known: "original", "dequantized"')
        if variant == "dequantized" and not self.quantization:
            raise UsageError('[merge] base "dequantized": the adapter was trained on a full base; use "original"')

    def merge(self, base: str, adapter: Path, out: Path, *, variant: str, progress: Told = None) -> None:
        """Write base + adapter to the empty folder `out`: safetensors, configuration, tokenizer.

        "original" adds to the base as it is on disk, "dequantized" to the base as the 4-bit model has it.
        Raises UsageError on what cannot be merged, RuntimeError when the result is not finite or not what it must be.
        """
        from harness_lora.merge import merge_folder
        from harness_lora.plan import check_mergeable

        self._require_known_merge_base(variant)
        check_mergeable(read_config(adapter), trained=True)
        self.check_fits(base, "", adapter)
        merge_folder(Path(base), adapter, out, self.quantization if variant == "dequantized" else None, progress)

    def verify(self, base: str, adapter: Path, merged: Path, *, variant: str, progress: Told = None) -> dict[str, Any]:
        """Compare a merged model with its adapter in a subprocess.

        Returns the facts. The adapter stands on the base that was merged onto: in 4 bits for "dequantized", as it is
        for "original", which for an adapter trained on 4 bits is another model than the one that was trained. Raises
        CheckFailedError if they differ, and UsageError if it cannot run.
        """
        quantization = dict(self.quantization) if self.quantization else None
        onto, trained = (quantization, None) if variant == "dequantized" else (None, quantization)
        asked = {"base": base, "adapter": str(adapter), "merged": str(merged), "quantization": onto, "trained": trained}
        lost = "merge: the merged model could not be verified"
        heard = (lambda *sign: progress(Progress(*sign))) if progress else None
        return subprocess_call.call_module("harness_lora.parity", asked, lost, heard=heard)


def _list_names_unless_text(names: Any) -> list[str]:
    return [] if names is None or isinstance(names, str) else list(names)


def _require_adapter_loads_in_peft(base: str, adapter: Path, config: LoraConfig) -> None:
    """Raise UsageError unless PEFT can load all of an adapter's tensors.

    They are loaded into the base's model without weights.
    """
    import torch
    from peft import set_peft_model_state_dict

    from harness_hf import adapter_errors_in_one_line, check_loaded_tensors
    from harness_lora.skeleton import CheckpointLayout, adapt_skeleton, adapted_targets

    layout = CheckpointLayout(Path(base), read_headers(Path(base)))
    with adapter_errors_in_one_line(adapter):
        adapted = adapt_skeleton(layout.model, config)
        made = read_headers(adapter, WEIGHTS).items()
        empty = {k: torch.empty(h.shape, device="meta") for k, h in made if ".lora_monteclora_" not in k}  # made later
        if config.use_rslora and adapted.peft_config["default"].rank_pattern != config.rank_pattern:
            why = "has separate experts and use_rslora, and PEFT loads it with another scale than in training"
            raise adapter_error(adapter, f"{why}; train it again, or merge it with the library that trained it")
        check_loaded_tensors(set_peft_model_state_dict(adapted, empty, low_cpu_mem_usage=True), adapter, "default")
    for _, target in adapted_targets(adapted):
        if target.parameter not in layout.by_parameter and target.parameter not in layout.twins:
            raise adapter_error(
                adapter, f'the base has no "{target.parameter}", which it adapts; check which base it was trained on'
            )


def _require_adapter_shapes_fit_base(base: str, adapter: Path, config: LoraConfig) -> None:
    """Raise UsageError if an adapter's shapes do not fit the base.

    Compares every B·A and every whole tensor with its weight; a Conv1D stores its weight transposed.
    """
    from peft.utils.constants import EMBEDDING_LAYER_NAMES

    there, theirs = read_headers(Path(base)), read_headers(adapter, WEIGHTS)
    if raw := next((key for key in theirs if re.search(r"\.lora_\w+\.default(\.|$)", key)), None):
        what = f'"{raw}" contains the name of an adapter in memory; remove ".default", as save_pretrained does'
        raise adapter_error(adapter, what)
    if raw := next((key for key in theirs if "_orig_mod." in key), None):
        what = f'"{raw}" contains the prefix of a compiled model; remove "_orig_mod." from the names in {WEIGHTS}'
        raise adapter_error(adapter, what)
    made = {split_name(key): header.shape for key, header in theirs.items()}
    for module, part in made:  # what has another name in the base's files than in its model is left to PEFT
        shape, tensor = _find_base_tensor_shape(made, module, part, config), find_tensor(module, there)
        if shape is not None and tensor and there[tensor].shape not in (shape, shape[::-1] if part else shape):
            what = f'"{module}" has shape {list(shape)}, but {list(there[tensor].shape)} in the base'
            how = "name the base that it was trained on"
            if module.rpartition(".")[2] in EMBEDDING_LAYER_NAMES and shape[1:] == there[tensor].shape[1:]:
                how = (
                    f"if tokens were added, save the base after resize_token_embeddings({shape[0]}), and name that one"
                )
            raise adapter_error(adapter, f"{what}; {how}")


def _find_base_tensor_shape(
    made: Mapping[AdapterTensor, tuple[int, ...]], module: str, part: str, config: LoraConfig
) -> tuple[int, ...] | None:
    """Return the shape that an adapter part implies for its weight. None if it implies none."""
    shape = made[AdapterTensor(module, part)]
    if part in ("", "base_layer", "lora_bias"):
        return shape
    if part == "lora_embedding_A":
        return (shape[-1], *made.get(AdapterTensor(module, "lora_embedding_B"), ())[:1])
    if part != "lora_A":
        return None
    before, b = shape[-1], made.get(AdapterTensor(module, "lora_B"), ())
    if config.use_bdlora and any(name in module for name in config.use_bdlora.target_modules_bd_a or ()):
        before *= config.use_bdlora.nblocks
    return (*b[:1], before)
