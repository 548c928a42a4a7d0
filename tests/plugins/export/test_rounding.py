"""What rounds a parent's numbers is told from what does not, by the step of each block."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("gguf")
np = pytest.importorskip("numpy")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from harness.errors import CheckFailedError  # noqa: E402
from harness_export.rounding import CODES, compare_blocks  # noqa: E402
from tests.helpers.k_quants import quantize_rows  # noqa: E402

SCALES = {"Q6_K": 208}  # where the scale of a block lies, if not in front
WIDE = {"Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q8_0": 34, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210}
ERRORS = {"Q4": 0.2, "Q5": 0.1, "Q6": 0.05, "Q8": 0.02}


def draw_matrix(seed: int, kind: str, size: float = 0.02) -> Any:
    """Return a random matrix: normal or heavy-tailed, its rows and blocks of sizes of their own."""
    random = np.random.default_rng(seed)
    made = random.normal(size=(6, 512)) if kind == "normal" else random.standard_t(3, (6, 512))
    blocks = 10 ** random.uniform(-1, 1, (6, 16))
    return (size * made * np.repeat(blocks, 32, 1)).astype(np.float32)


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 1 << 30), kind=st.sampled_from(["normal", "heavy"]), size=st.sampled_from([1e-4, 0.02, 30.0])
)
@pytest.mark.parametrize("type_", CODES)
def test_what_was_rounded_is_its_parents(type_: str, seed: int, kind: str, size: float) -> None:
    """Every format passes on random numbers of every size, with a relative error that is its own."""
    values = draw_matrix(seed, kind, size)
    off, whole = compare_blocks("w", values, quantize_rows(values, type_), type_)
    assert 0 < (off / whole) ** 0.5 < ERRORS[type_[:2]]


@settings(max_examples=8, deadline=None, derandomize=True)  # some seeds, as 2181, hide a code in rounding
@given(seed=st.integers(0, 1 << 30), weighed=st.booleans())
@pytest.mark.parametrize("type_", CODES)
def test_what_was_not_is_named(type_: str, seed: int, *, weighed: bool) -> None:
    """Rows swapped, one scale changed by a tenth, one code changed: each is told by the tensor's name.

    With an importance matrix a code at the end of its grid may stand for any number of the block.
    """
    values, random = draw_matrix(seed, "normal"), np.random.default_rng(seed)
    blocks = quantize_rows(values, type_)
    scaled, coded = (blocks.copy().reshape(-1, WIDE[type_]) for _ in range(2))
    at, block = SCALES.get(type_, 0), random.integers(len(scaled))
    scaled[block, at : at + 2] = (scaled[block, at : at + 2].view(np.float16) * np.float16(1.1)).view(np.uint8)
    coded[block, CODES[type_].end - 3] ^= 0x40 if type_ == "Q8_0" else 0x44
    for damaged in (blocks[::-1], scaled.reshape(blocks.shape), coded.reshape(blocks.shape))[: 2 if weighed else 3]:
        with pytest.raises(CheckFailedError, match='"w" differs from its parent'):
            compare_blocks("w", values, damaged, type_, weighed=weighed)


@pytest.mark.parametrize("type_", ["F32", "F16", "BF16"])
def test_plain_types_are_exact(type_: str) -> None:
    """One bit of one number is another number."""
    values = draw_matrix(1, "normal")
    blocks = quantize_rows(values, type_)
    compare_blocks("w", values, blocks, type_)
    changed = blocks.copy()
    changed.view(np.uint8)[2, 4] ^= 1
    with pytest.raises(CheckFailedError, match=f'"w" differs from its parent\'s in {type_}'):
        compare_blocks("w", values, changed, type_)


def test_grid_that_is_all_ends_is_no_excuse() -> None:
    """A scale so small that each number lies beyond the grid does not pass for rounding, nor one that is NaN."""
    values = draw_matrix(1, "normal")
    for type_ in CODES:
        at = SCALES.get(type_, 0)
        for scale in (np.float16(1e-5), np.float16("nan")):
            blocks = quantize_rows(values, type_).reshape(-1, WIDE[type_])
            blocks[:, at : at + 2] = np.array([scale]).view(np.uint8)
            with pytest.raises(CheckFailedError, match='"w" differs from its parent'):
                compare_blocks("w", values, blocks, type_)
