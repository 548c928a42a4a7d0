"""K-quants without llama.cpp: the scale of a block from its smallest and largest number, nothing sought."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import quantize

STEPS = {"Q4_K": 15, "Q5_K": 31}


def quantize_rows(values: Any, kind: str) -> Any:
    """Return the bytes of a matrix's rows in a type of GGUF."""
    if not kind.endswith("_K"):
        return quantize(values, GGMLQuantizationType[kind])
    return (_quantize_q6 if kind == "Q6_K" else _quantize_q4_or_q5)(values.reshape(-1, 256), kind).reshape(
        len(values), -1
    )


def _quantize_q4_or_q5(x: Any, kind: str) -> Any:
    x = x.reshape(-1, 8, 32)
    low = np.minimum(x.min(2), 0)
    steps = (x.max(2).clip(0) - low) / STEPS[kind]
    (d, scales), (dmin, lows) = (_quantize_scales(v, 63) for v in (steps, -low))
    step = (d.astype(np.float32) * scales)[..., None]
    x = np.divide(x + (dmin.astype(np.float32) * lows)[..., None], step, out=np.zeros_like(x), where=step > 0)
    q = x.round().clip(0, STEPS[kind]).astype(np.uint8)
    s, m = scales.astype(np.uint8), lows.astype(np.uint8)
    high = [v[:, :4] & 63 | v[:, 4:] >> 4 << 6 for v in (s, m)] + [s[:, 4:] & 15 | (m[:, 4:] & 15) << 4]
    fifth = [(q >> 4 << np.arange(8, dtype=np.uint8)[:, None]).sum(1, dtype=np.uint8)] if kind == "Q5_K" else []
    nibbles = (q[:, ::2] & 15 | (q[:, 1::2] & 15) << 4).reshape(len(q), -1)
    return np.concatenate([d.view(np.uint8), dmin.view(np.uint8), *high, *fifth, nibbles], 1)


def _quantize_q6(x: Any, kind: str) -> Any:
    x = x.reshape(-1, 16, 16)
    d, scales = _quantize_scales(np.abs(x).max(2) / 31, 127)
    step = (d.astype(np.float32) * scales)[..., None]
    x = np.divide(x, step, out=np.zeros_like(x), where=step > 0)
    q = (x.round().clip(-32, 31) + 32).astype(np.uint8).reshape(-1, 2, 128)
    low = (q[..., :64] & 15 | (q[..., 64:] & 15) << 4).reshape(len(q), -1)
    high = (q.reshape(-1, 2, 4, 32) >> 4 << np.arange(0, 8, 2, dtype=np.uint8)[:, None]).sum(2, dtype=np.uint8)
    return np.concatenate([low, high.reshape(len(q), -1), scales.astype(np.uint8), d.view(np.uint8)], 1)


def _quantize_scales(values: Any, most: int) -> tuple[Any, Any]:
    """Return numbers as whole multiples, at most so many, of one in F16 for each row."""
    unit = (values.max(1, keepdims=True) / most).astype(np.float16)
    wide = unit.astype(np.float32)
    return unit, np.divide(values, wide, out=np.zeros_like(values), where=wide > 0).round().clip(0, most)


def rewrite(
    source: Path,
    to: Path,
    kind: Callable[[str], str] = lambda name: "F32",
    values: Callable[[dict[str, Any]], None] = lambda tensors: None,
    said: Mapping[str, Any] | None = None,
) -> Path:
    """Write a GGUF file in F32 again: matrices in other types, after a change of the tensors, saying something else."""
    reader = GGUFReader(source)
    tensors = {t.name: np.array(t.data).reshape(*reversed(t.shape.tolist())) for t in reader.tensors}
    values(tensors)
    writer = GGUFWriter(to, "llama")
    told = {f.name: (f.contents(), *f.types) for f in reader.fields.values() if not f.name.startswith("GGUF.")}
    told.pop("general.architecture")
    for name, value in (said or {}).items():
        told[name] = (value, GGUFValueType.STRING if isinstance(value, str) else GGUFValueType.UINT32)
    for name, (value, type_, *of) in told.items():
        writer.add_key_value(name, value, type_, *of)
    for name, tensor in tensors.items():
        if tensor.ndim == 1:
            writer.add_tensor(name, tensor)
        else:
            writer.add_tensor(name, quantize_rows(tensor, kind(name)), raw_dtype=GGMLQuantizationType[kind(name)])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return to
