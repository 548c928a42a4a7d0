"""Heads of safetensors and GGUF files."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from harness.artifacts.formats import UnsafeFileError, check_files
from harness.artifacts.gguf import read_gguf
from harness.artifacts.safetensors import read_safetensors
from tests.fuzz.breaking import draw_json_edits, dump_json
from tests.fuzz.driving import fuzz
from tests.helpers.files import PAIRS, ROWS, encode_gguf_header

HEADER: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "F4", "shape": [4], "data_offsets": [16, 18]},
    "c": {"dtype": "BF16", "shape": [], "data_offsets": [18, 20]},
}
LENGTHS = st.none() | st.sampled_from([0, 1, 2**31, 2**63, 2**64 - 1]) | st.integers(0, 300)
NUMBERS = [0, 1, 4, 8, 9, 63, 255, 2**16, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1]
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from(["<B", "<I", "<Q", "cut"]),
        st.sampled_from(NUMBERS) | st.integers(0, 2**64 - 1),
    ),
    min_size=1,
    max_size=4,
)


def encode_safetensors(header: Any, length: int | None, data: int) -> bytes:
    text = dump_json(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)


def patch_bytes(whole: bytes, edits: list[tuple[float, str, int]]) -> bytes:
    """Write numbers over a file's bytes, at places that are mostly of the head."""
    for where, layout, number in edits:
        at = int(where * len(whole))
        if layout == "cut":
            whole = whole[:at]
            continue
        size = struct.calcsize(layout)
        whole = whole[:at] + struct.pack(layout, number % (1 << 8 * size)) + whole[at + size :]
    return whole


def check_read_or_refused(path: Path, data: bytes, read: Callable[[Path], Any]) -> None:
    """See that a file is read, or refused by the reader and by `verify` with their own exceptions."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    for look, kind in ((lambda: read(path), ValueError), (lambda: check_files(path.parent), UnsafeFileError)):
        with suppress(kind):
            look()


@fuzz(st.builds(encode_safetensors, draw_json_edits(HEADER), LENGTHS, st.sampled_from([20, 20, 0, 19, 21])))
def test_safetensors(data: bytes, world: Path) -> None:
    """A header of anything is a ValueError or a header, and for `verify` Unsafe or a file."""
    check_read_or_refused(world / "st/model.safetensors", data, read_safetensors)


@fuzz(EDITS.map(lambda edits: patch_bytes(encode_safetensors(HEADER, None, 20), edits)))
def test_safetensors_bytes(data: bytes, world: Path) -> None:
    """Bytes of a safetensors file written over are told."""
    check_read_or_refused(world / "st/model.safetensors", data, read_safetensors)


@fuzz(EDITS.map(lambda edits: patch_bytes(encode_gguf_header(ROWS, PAIRS) + bytes(108), edits)))
def test_gguf(data: bytes, world: Path) -> None:
    """Counts, lengths, types and offsets of a GGUF file written over are told."""
    check_read_or_refused(world / "gguf/model.gguf", data, read_gguf)
