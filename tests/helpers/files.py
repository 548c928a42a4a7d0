"""Files of weights, byte by byte: safetensors with any header, and the head of a GGUF file."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
Row = tuple[str, tuple[int, ...], int, int]  # name, shape, type, offset
ROWS: list[Row] = [("a", (2, 32), 8, 0), ("b", (3,), 0, 96)]  # Q8_0: 68 bytes, padded to 96
PAIRS = [("general.architecture", "llama"), ("tokenizer.chat_template", "{{ messages }}"), ("n", 7)]


def write(path: Path, header: Any, data: bytes = bytes(16), length: int | None = None) -> Path:
    """Write a safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def text(value: str) -> bytes:
    """Return a text as GGUF holds it: its length in bytes before it."""
    return struct.pack("<Q", len(value.encode())) + value.encode()


def encode_gguf_header(rows: list[Row], pairs: list[tuple[str, str | int]], version: int = 3) -> bytes:
    """Lay out a head as the format's description does: strings are type 8, 32-bit numbers type 4."""
    out = b"GGUF" + struct.pack("<IQQ", version, len(rows), len(pairs))
    for key, value in pairs:
        told = struct.pack("<I", 8) + text(value) if isinstance(value, str) else struct.pack("<II", 4, value)
        out += text(key) + told
    for name, shape, kind, offset in rows:
        dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        out += text(name) + dims + struct.pack("<IQ", kind, offset)
    return out + bytes(-len(out) % 32)
