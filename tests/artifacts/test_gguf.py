"""A GGUF file's head: what llama.cpp would refuse is refused, and every byte of it counts."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.artifacts.digests import file_digest, template_digest, weights_digest
from harness.artifacts.formats import UnsafeFileError, check_files
from harness.artifacts.gguf import TYPES, Tensor, read_gguf
from tests.helpers.files import PAIRS, ROWS, Row, encode_gguf_header


def write(
    folder: Path, rows: list[Row] = ROWS, pairs: list[tuple[str, str | int]] = PAIRS, data: int = 108, version: int = 3
) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.gguf").write_bytes(encode_gguf_header(rows, pairs, version) + bytes(data))
    return folder / "model.gguf"


@pytest.mark.parametrize("data", [108, 128])
def test_head_is_read(tmp_path: Path, data: int) -> None:
    """Metadata and tensors come back, whether or not the last tensor is padded."""
    path = write(tmp_path, data=data)
    found = read_gguf(path)
    start = path.stat().st_size - data
    assert dict(PAIRS) == dict(found.metadata)
    assert found.tensors == {
        "a": Tensor("Q8_0", (2, 32), start, start + 68),
        "b": Tensor("F32", (3,), start + 96, start + 108),
    }


BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "an old version": (lambda f: write(f, version=1), "its version is 1; supported are"),
    "the other end first": (lambda f: write(f, version=3 << 24), "version"),
    "a key twice": (lambda f: write(f, pairs=[("n", 1), ("n", 2)]), 'the key "n" occurs twice'),
    "a tensor twice": (
        lambda f: write(f, [ROWS[0], ("a", (3,), 0, 96)]),
        'the name of tensor "a" occurs twice, is too long or is empty',
    ),
    "an overlap": (lambda f: write(f, [ROWS[0], ("b", (3,), 0, 64)]), 'tensor "b" overlaps'),
    "a gap": (lambda f: write(f, [ROWS[0], ("b", (3,), 0, 128)], data=140), 'tensor "b" comes after a gap'),
    "another order": (lambda f: write(f, ROWS[::-1]), 'tensor "b" comes after a gap'),
    "out of bounds": (lambda f: write(f, data=100), ": is truncated"),
    "hidden bytes": (lambda f: write(f, data=200), "92 bytes belong to no tensor"),
    "an unknown type": (lambda f: write(f, [("a", (32,), 4, 0)]), 'tensor "a" has the unknown type 4'),
    "half a block": (lambda f: write(f, [("a", (2, 33), 8, 0)]), r"shape \[2, 33\] cannot be of type Q8_0"),
    "too large a shape": (lambda f: write(f, [("a", (1 << 40, 1 << 40), 0, 0)]), "cannot be of type F32"),
    "five dimensions": (lambda f: write(f, [("a", (1, 1, 1, 1, 1), 0, 0)]), "5 dimensions"),
    "a long name": (lambda f: write(f, [("a" * 64, (3,), 0, 0)]), "too long"),
    "no tensor": (lambda f: write(f, []), "no tensor"),
    "an odd alignment": (lambda f: write(f, pairs=[("general.alignment", 24)]), "its alignment is 24"),
}


@pytest.mark.parametrize(("breaks", "why"), BROKEN.values(), ids=BROKEN)
def test_broken_head_is_refused(tmp_path: Path, breaks: Callable[[Path], Path], why: str) -> None:
    """Each is one line that names the file, of the reader and of `verify`."""
    path = breaks(tmp_path)
    with pytest.raises(ValueError, match=why) as error:
        read_gguf(path)
    assert str(error.value).startswith(f"{path}: ")
    with pytest.raises(UnsafeFileError, match=r"^model\.gguf: "):
        check_files(tmp_path)


def test_every_cut_and_flip_is_survived(tmp_path: Path) -> None:
    """Whatever a byte of the head becomes, the answer is a ValueError or a head, never another exception."""
    whole, draw = write(tmp_path).read_bytes(), random.Random(7)
    path = tmp_path / "model.gguf"
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"model\.gguf"):
            read_gguf(path)
    refused = 0
    for _ in range(500):
        at = draw.randrange(len(whole) - 108)
        path.write_bytes(whole[:at] + bytes([draw.randrange(256)]) + whole[at + 1 :])
        try:
            read_gguf(path)
        except ValueError:
            refused += 1
    assert refused > 100


def test_gguf_is_hashed_whole(tmp_path: Path) -> None:
    """The digest of such a model is its file's, and so changes with the metadata; the template is the one inside."""
    path = write(tmp_path)
    assert weights_digest(tmp_path) == file_digest(path)
    before = template_digest(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}", "utf-8")
    assert template_digest(tmp_path) == before
    (tmp_path / "chat_template.jinja").write_text("{{ others }}", "utf-8")
    with pytest.raises(ValueError, match="in two files that differ"):
        template_digest(tmp_path)
    for other, told in {
        "second.gguf": "holds 2 .gguf files; name the one that you mean",
        "another.safetensors": "holds a .gguf file and safetensors; keep only the one that you mean",
    }.items():
        (tmp_path / other).write_bytes(b"x")
        with pytest.raises(ValueError, match=told):
            weights_digest(tmp_path)
        (tmp_path / other).unlink()


def test_sizes_of_blocks_are_those_of_ggml() -> None:
    """The table is the one of the gguf package, for every type that both know."""
    gguf = pytest.importorskip("gguf")
    theirs = {kind.value: (kind.name, *size) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {n: t for n, t in TYPES.items() if n in theirs} == {n: t for n, t in theirs.items() if n in TYPES}
    assert len(TYPES.keys() & theirs.keys()) > 25
