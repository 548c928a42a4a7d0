"""Whether numbers that were read back are others, rounded: by the step of the very block that each of them lies in.

A code between the ends of its block's grid is the nearest to its number, so it is off by half a step at most. At an end
lies what is beyond it: by a step where the scale was chosen for the block's largest number, by what the scales lose in
the bits that they have themselves, and anywhere in the block where an importance matrix chose it.
Measured with ggml's own quantisers on normal, heavy-tailed, sparse and tiny numbers.
"""
# ruff: noqa: TID253 (imported only where a model is exported)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

from harness import CheckFailedError

F16_STEP = 2**-9  # of a block's largest number: what a step of its own, as F16 or BF16, lost before or beside it
HALF_OF_F16 = 2**-25  # of the smallest number that the scales of GGUF's blocks can be
MAX_RELATIVE_ERROR = 0.5  # of a tensor, its relative error where an importance matrix chose the scales
CHUNK_VALUES = 1 << 22  # compared at a time


class SquaredError(NamedTuple):
    """The summed squares of the errors and of the parent's numbers."""

    error: float
    total: float


@dataclass(frozen=True)
class BlockLayout:
    """Where the codes of a block lie, and their resolution.

    `begin` and `end` are bytes; `steps` is the number of steps between the lowest and the highest code, `scales` that
    of the scales.
    """

    begin: int
    end: int
    steps: int
    scales: int = 0  # none where they are F16 themselves
    lowest: int = 0x00  # the byte of the lowest codes
    highest: int = 0xFF


CODES = {
    **{
        "Q4_0": BlockLayout(2, 18, 15),
        "Q4_1": BlockLayout(4, 20, 15),
        "Q5_0": BlockLayout(2, 22, 31),
        "Q5_1": BlockLayout(4, 24, 31),
    },
    **{"Q8_0": BlockLayout(2, 34, 255, lowest=0x80, highest=0x7F)},
    **{
        "Q4_K": BlockLayout(16, 144, 15, 63),
        "Q5_K": BlockLayout(16, 176, 31, 63),
        "Q6_K": BlockLayout(0, 192, 63, 127),
    },
}
EXACT_TYPES = ("F32", "F16", "BF16")


def compare_blocks(name: str, there: Any, blocks: Any, kind: str, *, weighed: bool = False) -> SquaredError:
    """Compare a quantised tensor with its parent's.

    `blocks` are its rows' bytes; `weighed` if an importance matrix chose the scales. Returns the summed squares of the
    errors and of the parent's numbers. Raises CheckFailedError if it is another tensor.
    """
    ggml = GGMLQuantizationType[kind]
    if kind in EXACT_TYPES:
        here = dequantize(blocks, ggml)
        if not np.array_equal(here, dequantize(quantize(there, ggml), ggml)):
            raise CheckFailedError(f'"{name}" differs from its parent\'s in {kind}')
        return _sum_squared_errors(there, here)
    codes, (block, bytes_), found = CODES[kind], GGML_QUANT_SIZES[ggml], np.zeros(2)
    many = max(1, CHUNK_VALUES // there.shape[-1])
    for at in range(0, len(there), many):
        raw = blocks[at : at + many].reshape(-1, bytes_).copy()
        here, wanted = dequantize(raw, ggml), there[at : at + many].reshape(-1, block)
        raw[:, codes.begin : codes.end] = codes.lowest
        low = dequantize(raw, ggml)
        raw[:, codes.begin : codes.end] = codes.highest
        high = dequantize(raw, ggml)
        span, largest = np.abs(high - low), np.abs(wanted).max(1, keepdims=True)
        step = span / codes.steps
        slack = F16_STEP * largest + codes.steps * HALF_OF_F16
        beyond = step + (1 + codes.scales) * codes.steps * HALF_OF_F16
        if codes.scales:
            beyond = beyond + (span + np.abs(low)).max(1, keepdims=True) / (2 * codes.scales)
            beyond = np.maximum(beyond, largest) if weighed else beyond
        ends = (here == low) | (here == high)
        found += compare_rounding(name, wanted, here, step / 2 + slack + np.where(ends, beyond, 0))
    if weighed and found[0] > MAX_RELATIVE_ERROR**2 * found[1]:
        raise CheckFailedError(
            f'"{name}" differs from its parent\'s rounded value: its relative error is over {MAX_RELATIVE_ERROR}'
        )
    return SquaredError(found[0], found[1])


def compare_rounding(name: str, there: Any, here: Any, allowed: Any) -> SquaredError:
    """Return the summed squares of errors and of the parent's numbers.

    Raises CheckFailedError if an error is larger than allowed.
    """
    off = np.abs(here - there)
    if not (off <= allowed).all():  # NaN is not
        raise CheckFailedError(f'"{name}" differs from its parent\'s rounded value by up to {float(off.max()):.3g}')
    return _sum_squared_errors(there, here)


def _sum_squared_errors(there: Any, here: Any) -> SquaredError:
    off = float(np.square(here - there, dtype=np.float64).sum())
    return SquaredError(off, float(np.square(there, dtype=np.float64).sum()))
