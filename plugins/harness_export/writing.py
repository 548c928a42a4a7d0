"""Export of a Llama as a GGUF file.

The file is written a tensor at a time, or comes from another tool, and is read back through transformers. K-quants are
made by llama.cpp's own quantizer, from a file in the model's own dtype.
"""
# ruff: noqa: TID253 (imported only where a model is exported)

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.quants import dequantize, quant_shape_to_byte_shape, quantize
from safetensors import safe_open

from harness import CONVERSION_NOTES, CheckFailedError, UsageError
from harness.internals import ROPE_FACTORS, Gguf, read_gguf, shorten, subprocess_call, template_digest
from harness_export.k_quants import K_QUANTS
from harness_export.llama import Llama, gguf_metadata, gguf_tensor_name, read_llama_config, reorder_heads
from harness_export.rounding import CODES, EXACT_TYPES, compare_blocks
from harness_hf import ModelTokenizer, resolve_folder
from harness_lora import Header, read_headers

FILE = "model.gguf"
FINE_TENSORS = {"token_embd.weight", "output.weight"}  # what a few bits hurt most
COARSE_TYPES = ("Q4", "Q5")
# how the keys begin in which llama.cpp says that an importance matrix chose the scales
IMATRIX_PREFIX = "quantize.imatrix."
UNSURE_TYPES = ("Q5_1", "Q5_0", "Q4_1", "Q4_0")  # in which such a matrix chooses the codes as well
KEPT_SIZES = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim", "hidden_act"]
KEPT_SIZES += ("num_key_value_heads", "max_position_embeddings", "vocab_size", "tie_word_embeddings")
TEXTS = (
    "The committee met on Tuesday.  It's 1,234.50 euros; don't they'll say?",
    "def mean(values):\n    return sum(values) / len(values)\n\n\n# 2024-11-03  \t done",
    "Größe, naïve, 東京で会いましょう, Привет, مرحبا, \N{WAVING HAND SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-3}",
    " leading, trailing  \r\n\r\n  12345678901 AbC'S x²  ",
)


def write_gguf(folder: Path, to: Path, quantization: str, path: Path | None = None) -> Path:
    """Write a model to `to`/model.gguf and compare the two.

    Or take the file at `path` for it. Memory: its largest tensor, and the model to read it back. Raises UsageError if
    it cannot be written so, CheckFailedError if the file that is read back is another model.
    """
    llama, there = read_llama_config(folder), read_headers(folder)
    # layers stand by their numbers
    order = sorted(there, key=lambda name: [(int(p) if p.isdigit() else -1, p) for p in re.split(r"(\d+)", name)])
    names = {name: tensor for tensor in order if (name := gguf_tensor_name(tensor, llama))}
    if path:
        shutil.copyfile(path, to / FILE)
    elif quantization in K_QUANTS:
        with tempfile.TemporaryDirectory(dir=to) as work:
            dtypes = {there[tensor].dtype for tensor in names.values()}
            _write_gguf(
                folder, Path(work) / FILE, min(dtypes) if dtypes in ({"BF16"}, {"F16"}) else "F32", llama, names
            )
            asked = {"source": str(Path(work) / FILE), "to": str(to / FILE), "quantization": quantization}
            subprocess_call.call_module(
                "harness_export.k_quants", asked, f'export "gguf": {quantization} could not be written'
            )
    else:
        _write_gguf(folder, to / FILE, quantization, llama, names)
    for licence in sorted(folder.glob("LICEN[CS]E*")) + sorted(folder.glob("NOTICE*")):
        shutil.copyfile(licence, to / licence.name)
    facts = _verify_gguf_round_trip(folder, to, names, llama) | ({"made": "elsewhere"} if path else {})
    (to / CONVERSION_NOTES).write_text(json.dumps({"facts": facts}), "utf-8")
    return to


def _write_gguf(folder: Path, to: Path, quantization: str, llama: Llama, names: Mapping[str, str]) -> None:
    there = read_headers(folder)
    kinds = {name: _choose_tensor_type(name, there[tensor], quantization) for name, tensor in names.items()}
    writer = GGUFWriter(to, "llama")
    writer.add_file_type(int(LlamaFileType["ALL_F32" if quantization == "F32" else f"MOSTLY_{quantization}"]))
    writer.add_quantization_version(2)
    adds: dict[type, Any] = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    adds |= {str: writer.add_string, list: writer.add_array}
    for key, value in gguf_metadata(folder, llama):
        adds[type(value)](key, value)
    for name, tensor in names.items():
        shape, kind = there[tensor].shape, kinds[name]
        size = int(np.prod(quant_shape_to_byte_shape(shape, kind), dtype=np.int64))
        writer.add_tensor_info(name, shape, np.dtype(np.float32), size, raw_dtype=kind)
    if llama.scaling:
        writer.add_tensor_info(ROPE_FACTORS, (llama.head // 2,), np.dtype(np.float32), llama.head * 2)
    with ExitStack() as stack:
        stack.callback(writer.close)
        source = _Tensors(stack, there, llama)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, tensor in names.items():
            writer.write_tensor_data(source.written(name, tensor, kinds[name]))
        if llama.scaling:
            writer.write_tensor_data(np.array(llama.factors(), np.float32))


class _Tensors:
    """The tensors of a model in llama.cpp's layout, read on demand."""

    def __init__(self, stack: ExitStack, there: Mapping[str, Header], llama: Llama) -> None:
        self.there, self.llama = there, llama
        files = {header.file for header in there.values()}
        self.opened = {file: stack.enter_context(safe_open(file, "pt")) for file in files}

    def tensor(self, name: str, tensor: str) -> Any:
        """Return a tensor in float32, its rows in llama.cpp's order."""
        read = self.opened[self.there[tensor].file].get_tensor(tensor)
        return np.ascontiguousarray(reorder_heads(name, read.float().numpy(), self.llama))

    def written(self, name: str, tensor: str, kind: GGMLQuantizationType) -> Any:
        """Return a tensor's bytes in the file.

        Raises CheckFailedError at NaN, UsageError where the type cannot hold it.
        """
        values = self.tensor(name, tensor)
        if not np.isfinite(values).all():
            raise CheckFailedError(f'export "gguf": "{tensor}" is not finite')
        with np.errstate(over="ignore"):
            blocks = quantize(values, kind)
        if not np.isfinite(dequantize(blocks, kind)).all():
            raise UsageError(f'export "gguf": "{tensor}" has values too large for {kind.name}; use "BF16" or "F32"')
        return blocks


def _choose_tensor_type(name: str, header: Header, quantization: str) -> GGMLQuantizationType:
    if len(header.shape) == 1:
        return GGMLQuantizationType.F32
    kind = GGMLQuantizationType[
        "Q8_0" if name in FINE_TENSORS and quantization.startswith(COARSE_TYPES) else quantization
    ]
    try:
        quant_shape_to_byte_shape(header.shape, kind)
    except ValueError:
        what = f"has rows of {header.shape[-1]} values, which do not divide into blocks of {kind.name}"
        raise UsageError(f'export "gguf": "{name}" {what}; use "F16"') from None
    return kind


def check_gguf_types(file: Path) -> Gguf:
    """Read a GGUF file and check its tensor types.

    Raises UsageError if it is not a Llama's, coarser than its label, or of a type that cannot be compared here.
    """
    try:
        found = read_gguf(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"path: {error}") from None
    if (architecture := found.metadata.get("general.architecture")) != "llama":
        raise UsageError(f'path: "{file}" has the architecture {architecture}, and only llama is supported')
    number = found.metadata.get("general.file_type")
    if type(number) is not int or number not in {int(known) for known in LlamaFileType}:
        raise UsageError(f'path: "{file}" has the general.file_type {number}, which llama.cpp does not define')
    said = LlamaFileType(number).name.partition("_")[2]
    least = _count_bits_per_weight(re.sub("_[SML]$", "", said))
    for name, tensor in found.tensors.items():
        if tensor.type not in (*CODES, *EXACT_TYPES):
            raise UsageError(
                f'path: "{file}" is labelled {said}, but "{name}" is {tensor.type}, which cannot be compared here'
            )
        if (
            _count_bits_per_weight(tensor.type) < least
        ):  # rows that are no whole blocks of it are in a finer one; llama.cpp sees to it
            raise UsageError(f'path: "{file}" is labelled {said}, but "{name}" is {tensor.type}, which is coarser')
        if tensor.type in UNSURE_TYPES and _has_importance_matrix(found):
            what = f'quantised with an importance matrix, which cannot be compared; quantise "{name}" without one'
            raise UsageError(f'path: "{file}" holds "{name}" in {tensor.type}, {what}')
    return found


def _has_importance_matrix(found: Gguf) -> bool:
    return any(key.startswith(IMATRIX_PREFIX) for key in found.metadata)


def _count_bits_per_weight(kind: str) -> float:
    """Return a type's bits per number. Infinite if no tensor can have the type."""
    found = GGMLQuantizationType.__members__.get(kind)
    return math.inf if found is None else 8 * GGML_QUANT_SIZES[found][1] / GGML_QUANT_SIZES[found][0]


def _verify_gguf_round_trip(folder: Path, to: Path, names: Mapping[str, str], llama: Llama) -> dict[str, Any]:
    """Compare a GGUF file, and transformers' reading of it, with the model.

    Raises CheckFailedError if they differ by more than rounding.
    """
    from transformers import AutoConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    file = check_gguf_types(to / FILE)
    if odd := set(names) ^ (file.tensors.keys() - {ROPE_FACTORS}):
        raise CheckFailedError(f'export "gguf": "{min(odd)}" is not both in the model and in the file')
    back = resolve_folder(str(to))
    there = read_headers(back)
    if odd := set(names.values()) ^ (there.keys() - ({"lm_head.weight"} if llama.tied else set())):
        raise CheckFailedError(
            f'export "gguf": "{min(odd)}" is not both in the model and in the file that was read back'
        )
    weighed, wrong, total = _has_importance_matrix(file), 0.0, 0.0
    with ExitStack() as stack:
        source, read = (_Tensors(stack, headers, llama) for headers in (read_headers(folder), there))
        # Each must be the model's, rounded, and what was read of it, bit for bit, what the gguf package makes of it.
        for name, tensor in names.items():
            wanted, place = source.tensor(name, tensor), file.tensors[name]
            if place.shape != wanted.shape:
                raise CheckFailedError(
                    f'export "gguf": "{name}" has shape {[*place.shape]}, but {[*wanted.shape]} in the model'
                )
            raw = np.fromfile(to / FILE, np.uint8, place.end - place.begin, offset=place.begin)
            blocks = raw.reshape(*place.shape[:-1], -1)
            off, all_ = compare_blocks(name, wanted, blocks, place.type, weighed=weighed)
            wrong, total = wrong + off, total + all_
            if not np.array_equal(dequantize(blocks, GGMLQuantizationType[place.type]), read.tensor(name, tensor)):
                raise CheckFailedError(f'export "gguf": "{tensor}" was read back with other values')
    before, after = (AutoConfig.from_pretrained(str(f), local_files_only=True) for f in (folder, back))
    said = {name: (getattr(before, name), getattr(after, name)) for name in KEPT_SIZES}
    said["rms_norm_eps"] = np.float32(before.rms_norm_eps), np.float32(after.rms_norm_eps)
    for name, (old, new) in said.items():
        if old != new:
            raise CheckFailedError(
                f'export "gguf": {name} is {old} in the model, but {new} in the file that was read back'
            )
    old, new = (LlamaRotaryEmbedding(config).inv_freq.numpy() for config in (before, after))
    if not np.allclose(old, new, rtol=1e-5, atol=0):
        raise CheckFailedError('export "gguf": the rotary frequencies that were read back differ')
    compare_tokenizers(folder, back)
    if template_digest(to) != template_digest(folder):
        raise CheckFailedError("the chat template that was read back differs")
    kinds = Counter(tensor.type for tensor in file.tensors.values() if len(tensor.shape) > 1)
    told = ", ".join(f"{many} {kind}" for kind, many in kinds.most_common())
    return {"relative_error": round(math.sqrt(wrong / max(total, 1e-300)), 6), "tensors": told}


def compare_tokenizers(folder: Path, back: Path) -> None:
    """Raise CheckFailedError if the tokenizers of two folders differ.

    They must split texts into the same tokens, stop at the same ones and have the same chat template.
    """
    ours, theirs = ModelTokenizer.of(str(folder)), ModelTokenizer.of(str(back))
    if ours.tokenizer.chat_template != theirs.tokenizer.chat_template:
        raise CheckFailedError("the chat template that was read back differs")
    for text in TEXTS:
        if ours.encode_prompts([text]) != theirs.encode_prompts([text]):
            raise CheckFailedError(f'the tokenizer that was read back splits "{shorten(text, 24)}" into other tokens')
    special = [(t.tokenizer.bos_token_id, t.tokenizer.eos_token_id, t.stop_ids) for t in (ours, theirs)]
    if special[0] != special[1]:
        raise CheckFailedError("the tokenizer that was read back has other special tokens")
