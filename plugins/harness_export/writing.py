"""Write a Llama as a GGUF file, a tensor at a time, and read it back through transformers.

Imports torch and numpy: import this module inside functions.
"""
# ruff: noqa: TID253 (imported only where a model is exported)

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.quants import dequantize, quant_shape_to_byte_shape, quantize
from safetensors import safe_open

from harness import CheckFailed, UsageError
from harness.internals import ROPE_FACTORS, template_digest
from harness_export.llama import Llama, metadata_of, name_of, read_config, reorder
from harness_hf import Tokens, resolve
from harness_lora import Header, read_headers

FILE = "model.gguf"
FINE = {"token_embd.weight", "output.weight"}  # what a few bits hurt most
COARSE = ("Q4", "Q5")
KEPT = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim", "hidden_act"]
KEPT += ("num_key_value_heads", "max_position_embeddings", "vocab_size", "tie_word_embeddings")
TEXTS = (
    "The committee met on Tuesday.  It's 1,234.50 euros; don't they'll say?",
    "def mean(values):\n    return sum(values) / len(values)\n\n\n# 2024-11-03  \t done",
    "Größe, naïve, 東京で会いましょう, Привет, مرحبا, \N{WAVING HAND SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-3}",
    " leading, trailing  \r\n\r\n  12345678901 AbC'S x²  ",
)


def export(folder: Path, to: Path, quantization: str) -> Path:
    """Write the model in a folder to `to`/model.gguf; memory: its largest tensor, and to read it back the model.

    Raises UsageError when it cannot be written so, CheckFailed when what was read back is another model.
    """
    llama, there = read_config(folder), read_headers(folder)
    names = {name: tensor for tensor in sorted(there, key=_in_order) if (name := name_of(tensor, llama))}
    kinds = {name: _kind(name, there[tensor], quantization) for name, tensor in names.items()}
    writer = _writer(to / FILE, folder, llama, quantization)
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
    for path in sorted(folder.glob("LICEN[CS]E*")) + sorted(folder.glob("NOTICE*")):
        shutil.copyfile(path, to / path.name)
    _check(folder, to, names, kinds, llama)
    return to


class _Tensors:
    """The tensors of a model's folder as llama.cpp has them, read when they are asked for."""

    def __init__(self, stack: ExitStack, there: Mapping[str, Header], llama: Llama) -> None:
        self.there, self.llama = there, llama
        files = {header.file for header in there.values()}
        self.opened = {file: stack.enter_context(safe_open(file, "pt")) for file in files}

    def tensor(self, name: str, tensor: str) -> Any:
        """Return a tensor in float32, its rows in llama.cpp's order."""
        read = self.opened[self.there[tensor].file].get_tensor(tensor)
        return np.ascontiguousarray(reorder(name, read.float().numpy(), self.llama))

    def written(self, name: str, tensor: str, kind: GGMLQuantizationType) -> Any:
        """Return a tensor's bytes in the file; raises CheckFailed at NaN, UsageError where the type cannot hold it."""
        values = self.tensor(name, tensor)
        if not np.isfinite(values).all():
            raise CheckFailed(f'export "gguf": "{tensor}" is not finite')
        with np.errstate(over="ignore"):
            blocks = quantize(values, kind)
        if not np.isfinite(dequantize(blocks, kind)).all():
            raise UsageError(f'export "gguf": "{tensor}" has values too large for {kind.name}; use "BF16" or "F32"')
        return blocks


def _writer(path: Path, folder: Path, llama: Llama, quantization: str) -> Any:
    writer = GGUFWriter(path, "llama")
    named = {"F32": "ALL_F32"}.get(quantization, f"MOSTLY_{quantization}")
    writer.add_file_type(int(LlamaFileType[named]))
    writer.add_quantization_version(2)
    for key, value in (*llama.metadata(), *metadata_of(folder, llama.vocabulary)):
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    return writer


def _in_order(name: str) -> list[Any]:
    """Sort layers by their numbers."""
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", name)]


def _kind(name: str, header: Header, quantization: str) -> GGMLQuantizationType:
    if len(header.shape) == 1:
        return GGMLQuantizationType.F32
    kind = GGMLQuantizationType["Q8_0" if name in FINE and quantization.startswith(COARSE) else quantization]
    try:
        quant_shape_to_byte_shape(header.shape, kind)
    except ValueError:
        raise UsageError(
            f'export "gguf": "{name}" has rows of {header.shape[-1]}, which are no whole blocks of {kind.name}; '
            'use "F16"'
        ) from None
    return kind


def _check(
    folder: Path, to: Path, names: Mapping[str, str], kinds: Mapping[str, GGMLQuantizationType], llama: Llama
) -> None:
    """Compare what transformers reads of the file with the model; raises CheckFailed where it is another one.

    Each tensor must be, bit for bit, what the gguf package makes of the blocks that were to be written.
    """
    from transformers import AutoConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    back = resolve(str(to))
    there = read_headers(back)
    if odd := set(names.values()) ^ (there.keys() - ({"lm_head.weight"} if llama.tied else set())):
        raise CheckFailed(f'export "gguf": "{min(odd)}" is in the model or in what was read back, and not in both')
    with ExitStack() as stack:
        source, read = (_Tensors(stack, headers, llama) for headers in (read_headers(folder), there))
        for name, tensor in names.items():
            wanted = dequantize(source.written(name, tensor, kinds[name]), kinds[name])
            if not np.array_equal(wanted, read.tensor(name, tensor)):
                raise CheckFailed(f'export "gguf": "{tensor}" was read back with other values')
    before, after = (AutoConfig.from_pretrained(str(f), local_files_only=True) for f in (folder, back))
    said = {name: (getattr(before, name), getattr(after, name)) for name in KEPT}
    said["rms_norm_eps"] = np.float32(before.rms_norm_eps), np.float32(after.rms_norm_eps)
    for name, (old, new) in said.items():
        if old != new:
            raise CheckFailed(f'export "gguf": {name} is {old} in the model, and {new} in what was read back')
    old, new = (LlamaRotaryEmbedding(config).inv_freq.numpy() for config in (before, after))
    if not np.allclose(old, new, rtol=1e-5, atol=0):
        raise CheckFailed('export "gguf": the rotary frequencies read back are others')
    ours, theirs = Tokens.of(str(folder)), Tokens.of(str(back))
    for text in TEXTS:
        if ours.texts([text]) != theirs.texts([text]):
            raise CheckFailed(f'export "gguf": the tokenizer read back cuts "{text[:24]}…" into other tokens')
    special = [(t.tokenizer.bos_token_id, t.tokenizer.eos_token_id, t.stops) for t in (ours, theirs)]
    if special[0] != special[1]:
        raise CheckFailed('export "gguf": the tokenizer read back has other special tokens')
    if ours.tokenizer.chat_template != theirs.tokenizer.chat_template or template_digest(to) != template_digest(folder):
        raise CheckFailed('export "gguf": the chat template read back is another one')
