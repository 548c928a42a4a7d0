"""The header of a safetensors file, read without torch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from harness.files import open_file
from harness.texts.json_text import read_json

LONGEST_HEADER = 100_000_000  # bytes, what the safetensors library itself accepts
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8}
BITS |= {"I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32}
BITS |= {"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}


@dataclass(frozen=True)
class Safetensors:
    """A safetensors file's header: where its data starts, its tensors (dtype, shape, data_offsets), its free text."""

    start: int
    tensors: Mapping[str, dict[str, Any]]
    metadata: Mapping[str, str]


def read_safetensors(path: Path) -> Safetensors:
    """Read a safetensors file's header.

    Raises ValueError unless its tensors fill the file without gap or overlap. Format: eight bytes, the length of a JSON
    object {tensor: {"dtype", "shape", "data_offsets"}}, the object, the data.
    """
    with open_file(path, follow=True) as f:
        return read_header(f, path)


def read_header(f: IO[bytes], path: Path) -> Safetensors:
    size = os.fstat(f.fileno()).st_size
    head = f.read(8)
    length = int.from_bytes(head, "little") if len(head) == 8 else size
    if 8 + length > size:
        raise ValueError(f"{path}: is not a safetensors file, or is truncated")
    if not 0 < length <= LONGEST_HEADER:
        raise ValueError(f"{path}: is not a safetensors file: its header would be {length} bytes long")
    try:
        header = read_json(f.read(length))
    except RecursionError:
        raise ValueError(f"{path}: is not a safetensors file: its header is nested too deeply") from None
    except ValueError as error:
        why = str(error) if "twice" in str(error) else "its header is not JSON"
        raise ValueError(f"{path}: is not a safetensors file: {why}") from None
    metadata = header.pop("__metadata__", None) or {} if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError(f"{path}: is not a safetensors file: its header is malformed")
    placed = []
    for name, entry in header.items():
        if not _is_valid_tensor_entry(entry):
            raise ValueError(f'{path}: tensor "{name}" is malformed')
        begin, end = entry["data_offsets"]
        bits = math.prod(entry["shape"]) * BITS[entry["dtype"]]
        if bits % 8 or end - begin != bits // 8:
            raise ValueError(f'{path}: tensor "{name}" has {end - begin} bytes, but its shape needs {bits / 8:.0f}')
        placed.append((begin, end, name))
    at, left = 0, size - 8 - length
    for begin, end, name in sorted(placed):  # they lie one behind the other and end where the file does
        if begin != at:
            raise ValueError(f'{path}: tensor "{name}" {"overlaps another" if begin < at else "comes after a gap"}')
        at = end
    if at > left:
        raise ValueError(f"{path}: is truncated")
    if at < left:
        raise ValueError(f"{path}: holds {left - at} bytes that belong to no tensor")
    return Safetensors(8 + length, header, metadata)


def _is_valid_tensor_entry(entry: Any) -> bool:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [_, _] as offsets} if len(entry) == 3:
            return dtype in BITS and all(type(x) is int and 0 <= x < 1 << 63 for x in (*shape, *offsets))
    return False
