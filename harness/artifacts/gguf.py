"""Reader of GGUF headers, with the standard library alone.

Format (ggml, docs/gguf.md): magic, version, two counts, the metadata, a table of the tensors, padding, the data. The
demands are those of llama.cpp: tensors one after the other in the order of the table, each aligned.
"""

from __future__ import annotations

import math
import os
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from harness.artifacts.model_files import has_weights

SUFFIX = ".gguf"
TEMPLATE = "tokenizer.chat_template"
ROPE_FACTORS = "rope_freqs.weight"  # the tensor that each rotary frequency is divided by
READ_VERSIONS = (2, 3)
# of struct
STRUCT_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
LONGEST_NAME = 63  # bytes; ggml keeps a name in 64
MOST_DIMENSIONS = 4
TYPES = {  # number in the file -> name, elements of a block, bytes of a block
    **{0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 28: ("F64", 1, 8)},
    **{24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8)},
    **{2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24)},
    **{8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110)},
    **{12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292)},
    **{16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50)},
    **{20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136)},
    **{29: ("IQ1_M", 256, 56), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17)},
    **{40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18)},
}


@dataclass(frozen=True)
class Tensor:
    """A tensor as the table declares it: type, shape with the slowest dimension first, bytes from the file's start."""

    type: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Gguf:
    """A GGUF file's metadata and tensors. Arrays are tuples; tensors are in file order."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def find_gguf(folder: Path) -> Path | None:
    """Find the GGUF file of a folder's model.

    None if there is none, or if there are weights that transformers looks for. Raises ValueError if there are several,
    or safetensors beside it.
    """
    files = [] if has_weights(folder) else sorted(folder.glob(f"*{SUFFIX}"))
    if len(files) > 1:
        raise ValueError(f"{folder}: holds {len(files)} {SUFFIX} files; name the one that you mean")
    if files and any(folder.glob("*.safetensors")):
        raise ValueError(f"{folder}: holds a {SUFFIX} file and safetensors; keep only the one that you mean")
    return files[0] if files else None


def read_gguf_type(folder: Path) -> str:
    """Return the most common type of a GGUF file's weights. Empty if the folder has no such file."""
    if (file := find_gguf(folder)) is None:
        return ""
    sizes = Counter[str]()
    for tensor in read_gguf(file).tensors.values():
        sizes[tensor.type] += math.prod(tensor.shape)
    return sizes.most_common(1)[0][0]


def read_gguf(path: Path) -> Gguf:
    """Read the header of a GGUF file.

    Raises ValueError unless its tensors fill the file without gap or overlap.
    """
    with path.open("rb") as f:
        head = _Head(path, os.fstat(f.fileno()).st_size, f)
        if f.read(4) != b"GGUF":
            raise head.broken('does not begin with "GGUF"')
        if (version := head.number("I")) not in READ_VERSIONS:
            raise head.broken(f"its version is {version}; supported are {' and '.join(map(str, READ_VERSIONS))}")
        tensors, pairs = head.number("Q"), head.number("Q")
        metadata: dict[str, Any] = {}
        for _ in range(pairs):
            if (key := head.string()) in metadata:
                raise head.broken(f'the key "{key}" occurs twice')
            metadata[key] = head.value(head.number("I"))
        return Gguf(metadata, head.table(tensors, metadata.get("general.alignment", 32)))


@dataclass(frozen=True)
class _Head:
    path: Path
    size: int  # of the whole file in bytes
    file: IO[bytes]

    def table(self, count: int, alignment: Any) -> dict[str, Tensor]:
        declared: dict[str, tuple[int, tuple[int, ...], int]] = {}
        for _ in range(count):
            name = self.string()
            if name in declared or not 0 < len(name.encode()) <= LONGEST_NAME:
                raise self.broken(f'the name of tensor "{name[:LONGEST_NAME]}" occurs twice, is too long or is empty')
            if not 0 < (dimensions := self.number("I")) <= MOST_DIMENSIONS:
                raise self.broken(f'tensor "{name}" has {dimensions} dimensions')
            shape = tuple(reversed([self.number("Q") for _ in range(dimensions)]))
            declared[name] = self.number("I"), shape, self.number("Q")
        if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1):
            raise self.broken(f"its alignment is {alignment}")
        start = at = _align_up(self.file.tell(), alignment)
        found = {}
        for name, (number, shape, offset) in declared.items():
            if number not in TYPES:
                raise self.broken(f'tensor "{name}" has the unknown type {number}')
            kind, block, bytes_ = TYPES[number]
            if shape[-1] % block or not 0 < math.prod(shape) < 1 << 63:
                raise self.broken(f'tensor "{name}" of shape {list(shape)} cannot be of type {kind}')
            begin, size = start + offset, math.prod(shape) // block * bytes_
            if begin != at:
                raise self.broken(f'tensor "{name}" {"overlaps another" if begin < at else "comes after a gap"}')
            if begin + size > self.size:
                raise ValueError(f"{self.path}: is truncated")
            found[name] = Tensor(kind, shape, begin, begin + size)
            at = _align_up(begin + size, alignment)
        end = max((t.end for t in found.values()), default=start)
        if not found or self.size not in (end, at):
            raise self.broken(f"{self.size - end} bytes belong to no tensor" if found else "no tensor")
        return found

    def value(self, kind: int) -> Any:
        if kind in STRUCT_FORMATS:
            return self.number(STRUCT_FORMATS[kind])
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            raise self.broken(f"a value has the unknown type {kind}")
        kind, count = self.number("I"), self.number("Q")
        if kind == STRING:
            return tuple(self.string() for _ in range(count))
        if kind not in STRUCT_FORMATS:
            raise self.broken(f"an array has the unknown element type {kind}")
        layout = struct.Struct(f"<{STRUCT_FORMATS[kind]}")
        return tuple(x for (x,) in layout.iter_unpack(self.bytes(count * layout.size)))

    def number(self, layout: str) -> Any:
        return struct.unpack(f"<{layout}", self.bytes(struct.calcsize(f"<{layout}")))[0]

    def string(self) -> str:
        try:
            return self.bytes(self.number("Q")).decode()
        except UnicodeDecodeError:
            raise self.broken("a text is not valid UTF-8") from None

    def bytes(self, count: int) -> bytes:
        found = self.file.read(count) if count <= self.size else b""
        if len(found) < count:
            raise ValueError(f"{self.path}: is truncated")
        return found

    def broken(self, what: str) -> ValueError:
        return ValueError(f"{self.path}: is not a valid GGUF file: {what}")


def _align_up(at: int, alignment: int) -> int:
    return at + -at % alignment
