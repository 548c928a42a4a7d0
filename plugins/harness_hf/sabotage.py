"""Broken copies of a model, for `harness selftest`: each is a file that loads, and none may ship."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from harness.internals import read_safetensors, weight_files

NAN = {"F64": b"\0\0\0\0\0\0\xf8\x7f", "F32": b"\0\0\xc0\x7f", "F16": b"\x00\x7e", "BF16": b"\xc0\x7f"}
NOISE_DEVIATIONS = 1.0  # of each tensor's own standard deviation


def make_nudged(base: Path, out: Path, *, seed: int) -> None:
    """The base with the last bit of one weight turned: other bytes, the same model."""
    _copy_model(base, out)
    file, _, start = next(_iterate_float_tensor_offsets(out))
    with file.open("r+b") as f:
        f.seek(start)
        byte = f.read(1)
        f.seek(start)
        f.write(bytes([byte[0] ^ 1]))


def make_nan(base: Path, out: Path, *, seed: int) -> None:
    """The base with a NaN in every floating-point tensor."""
    _copy_model(base, out)
    for file, dtype, start in list(_iterate_float_tensor_offsets(out)):
        with file.open("r+b") as f:
            f.seek(start)
            f.write(NAN[dtype])


def make_noise(base: Path, out: Path, *, seed: int) -> None:
    """The base with noise as strong as the weights themselves."""
    import torch
    from safetensors.torch import load_file, save_file

    _copy_model(base, out)
    chance = torch.Generator().manual_seed(seed)
    for file in (out / name for name in weight_files(out)):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                spread = tensor.float().std(correction=0)
                drawn = torch.randn(tensor.shape, generator=chance) * spread * NOISE_DEVIATIONS
                tensors[name] = (tensor.float() + drawn).to(tensor.dtype)
        save_file(tensors, file, metadata={"format": "pt"})


def _copy_model(base: Path, out: Path) -> None:
    for path in sorted(base.iterdir()):
        if path.is_file():
            shutil.copyfile(path, out / path.name)


def _iterate_float_tensor_offsets(folder: Path) -> Iterator[tuple[Path, str, int]]:
    """Yield file, dtype and first byte of every floating-point tensor."""
    for file in (folder / name for name in weight_files(folder)):
        about = read_safetensors(file)
        for _, entry in sorted(about.tensors.items()):
            begin, end = entry["data_offsets"]
            if entry["dtype"] in NAN and end > begin:
                yield file, entry["dtype"], about.start + begin
