"""The files of a folder that make up its model.

Weights are found as transformers finds them; docs/reference/runtimes.md describes other readers. If a folder holds more
(a second set of weights, a tokenizer of another library, notes on a quantisation), the rest is not the model that was
judged, and does not ship.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.artifacts.safetensors import read_safetensors
from harness.files import open_file

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CONFIG, TOKENIZER = "config.json", "tokenizer.json"
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NOTE_PREFIX = "harness-"  # how the names of notes begin that are kept beside a model, and never shipped
CONFIGURATIONS = {
    CONFIG, "generation_config.json", TOKENIZER, "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "preprocessor_config.json", "processor_config.json",
    "video_preprocessor_config.json", ADAPTER,
}  # fmt: skip
OF_OTHERS = {
    "params.json", "hf_quant_config.json", "quantize_config.json", "quant_config.json", "quant_model_description.json",
    "modules.json", "chat_template.json",
}  # fmt: skip
TEMPLATE = "chat_template.jinja"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".npz", ".onnx")  # weights of other kinds
# keys that some obey: a draft's verifier, other weights, another configuration, heads of a draft, what MLX quantised
OTHER_CONFIGURATIONS = (
    "speculators_config",
    "transformers_weights",
    "configuration_files",
    "medusa_num_heads",
    "quantization",
)
SHARD_PATTERN = re.compile(r"shard-\d+-model-\d+-of-\d+\.safetensors$")
FLOATS = {"F64", "F32", "F16", "BF16"}
HEAD = "lm_head.weight"
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", "embeddings.weight")
CHUNK_BYTES = 1 << 20  # bytes compared at a time


def weight_files(folder: Path) -> list[str]:
    """List a model's safetensors as transformers finds them.

    A single file precedes an index, and an index gives the files that it names. Without either, or if the index cannot
    be read, all safetensors are returned: readers differ there, and the loader reports it.
    """
    there = sorted(p.name for p in folder.glob("*.safetensors"))
    if not (folder / CONFIG).is_file() and ADAPTER_WEIGHTS in there:
        return [ADAPTER_WEIGHTS]
    if SINGLE in there:
        return [SINGLE]
    named = _list_shards(folder / INDEX)
    return [name for name in there if name in named] if named else there


def has_weights(folder: Path) -> bool:
    """Return whether a folder has weights that transformers finds by name."""
    return (folder / SINGLE).is_file() or (folder / INDEX).is_file()


def _list_shards(index: Path) -> set[str]:
    """Return the files that an index of shards names. Empty if it cannot be read."""
    weight_map = (_read_json_object_or_none(index) or {}).get("weight_map")
    return {str(file) for file in weight_map.values()} if isinstance(weight_map, dict) else set()


def extra_files(folder: Path, names: Iterable[str] | None = None) -> list[str]:
    """Return files that other readers would take for the model.

    The model itself is not read from them. `names` defaults to the whole folder.
    """
    names = sorted(p.name for p in folder.iterdir()) if names is None else sorted(names)
    weights, config = weight_files(folder), _read_json_object_or_none(folder / CONFIG) or {}
    known = (
        _is_transformers_config(config) or ADAPTER_WEIGHTS in names
    )  # so that a training's own notes are known for such
    return [name for name in names if "/" not in name and not _is_read_by_loader(name, weights, names, known=known)]


def _read_json_object_or_none(path: Path) -> dict[str, Any] | None:
    """Read a JSON object, or return None. Its loader reports any error."""
    try:
        told: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _is_transformers_config(config: Mapping[str, Any]) -> bool:
    """Return whether transformers, not just another loader, reads a configuration."""
    return bool(config.keys() & {"model_type", "architectures"})


def _is_read_by_loader(name: str, weights: Collection[str], names: Collection[str], *, known: bool) -> bool:
    if name.startswith(NOTE_PREFIX):
        return True  # a note of ours, which nobody else knows
    if name.endswith(".safetensors"):
        return name in weights
    if name.endswith(".gguf"):
        return not weights
    if name.endswith(".safetensors.index.json"):
        return name == INDEX and SINGLE not in weights
    if name.endswith(".model") or name == "tekken.json":
        return not (known and TOKENIZER in names)
    if name.endswith(".json"):
        return name in CONFIGURATIONS or not (known or name in OF_OTHERS)
    if name.endswith(PICKLE_SUFFIXES):
        return False
    return name == TEMPLATE or not name.endswith(".jinja")  # what is left is text, which nobody obeys


def ambiguity_error(folder: Path, *, tied: bool = False) -> str:
    """Explain how readers would load different models from a folder.

    Empty if they agree. `tied` applies if the configuration does not say whether the head is the embedding; only the
    model's class knows then. Raises ValueError if a weight file is not a complete safetensors file.
    """
    index, weights = folder / INDEX, weight_files(folder)
    if SINGLE in weights and (others := _list_shards(index) - {SINGLE}):
        return f"{INDEX}: names {min(others)}, and {SINGLE} exists as well; remove the one that is not the model"
    if (config := _read_json_object_or_none(folder / CONFIG)) is None:
        return ""  # of no model of transformers, or told where it is read
    if (folder / ADAPTER).is_file() and has_weights(folder) and _is_transformers_config(config):
        return (
            f"{ADAPTER}: is an adapter in a model's folder, which transformers applies and "
            "other readers ignore; remove it, or merge it"
        )
    for key in OTHER_CONFIGURATIONS:
        if config.get(key):
            return f'{CONFIG}: "{key}" changes the model for some readers and not for others; remove it'
    if shard := next((name for name in sorted(p.name for p in folder.iterdir()) if SHARD_PATTERN.match(name)), ""):
        return (
            f"{shard}: is part of a distributed checkpoint, which transformers reads and "
            "other readers ignore; remove it"
        )
    tensors: dict[str, _Tensor] = {}
    for file in (folder / name for name in weights):
        about = read_safetensors(file)
        for name, entry in about.tensors.items():
            begin, end = (about.start + at for at in entry["data_offsets"])
            tensors[name] = _Tensor(entry["dtype"], tuple(entry["shape"]), file, begin, end)
    how = _get_setting_with_text_fallback(config, "quantization_config") or _get_setting_with_text_fallback(
        config, "compression_config"
    )
    floats = tensors and all(tensor.dtype in FLOATS for tensor in tensors.values())
    if floats and isinstance(how, dict) and how.get("quantization_mode") != "online":
        what = f"says {how.get('quant_method') or 'some method'}, but no tensor is quantised; remove it"
        return f'{CONFIG}: "quantization_config" {what}'
    said = _get_setting_with_text_fallback(config, "tie_word_embeddings")
    if said is True or (said is None and tied):
        ends = (HEAD, EMBEDDINGS)
        head, embedding = (next((name for name in sorted(tensors) if name.endswith(end)), None) for end in ends)
        if head and embedding and not tensors[head].same(tensors[embedding]):
            what = f'"tie_word_embeddings" is true, but {head} differs from {embedding}'
            return f"{CONFIG}: {what}; set it to false"
    return ""


def _get_setting_with_text_fallback(config: Mapping[str, Any], key: str) -> Any:
    """Return a setting of a configuration, else of its text model."""
    text, said = config.get("text_config"), config.get(key)
    return text.get(key) if said is None and isinstance(text, dict) else said


@dataclass(frozen=True)
class _Tensor:
    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int

    def same(self, other: _Tensor) -> bool:
        if (self.dtype, self.shape) != (other.dtype, other.shape):
            return False
        with open_file(self.file, follow=True) as one, open_file(other.file, follow=True) as two:
            one.seek(self.begin)
            two.seek(other.begin)
            left = self.end - self.begin
            while left and (data := one.read(min(CHUNK_BYTES, left))):
                if data != two.read(len(data)):
                    return False
                left -= len(data)
        return not left
