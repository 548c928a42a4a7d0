"""Digests: what exactly was measured, trained and shipped."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

CHUNK = 1 << 22  # bytes hashed at a time


def weights_digest(folder: Path) -> str:
    """Return the sha256 of the tensors in a folder's *.safetensors, 64 hex digits.

    Hashed are each tensor's name, dtype, shape and bytes in order of names, so the digest does not depend
    on how the tensors are spread over files nor on metadata. Raises ValueError when there is no tensor, when
    a file is no safetensors or is cut short, or when two files hold a tensor of one name.
    """
    tensors: dict[str, tuple[Path, int, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        start, header = safetensors_header(path)
        for name, entry in header.items():
            if name in tensors:
                raise ValueError(f'{path}: tensor "{name}" is also in {tensors[name][0].name}')
            tensors[name] = (path, start, entry)
    if not tensors:
        raise ValueError(f"{folder}: holds no tensor in *.safetensors")
    total = hashlib.sha256()
    for name, (path, start, entry) in sorted(tensors.items()):
        total.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
        begin, end = entry["data_offsets"]
        _hash_range(total, path, start + begin, end - begin)
    return total.hexdigest()


def digest_of(value: Any) -> str:
    """Return the sha256 of a value's canonical JSON, 64 hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str, ensure_ascii=False).encode()).hexdigest()


def file_digests(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size in bytes and sha256 of every file under a folder, by its path with forward slashes."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as f:
            digest = hashlib.file_digest(f, "sha256").hexdigest()
        found[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": digest}
    return found


def safetensors_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Return where a safetensors file's data starts, and its tensors: name -> dtype, shape, data_offsets.

    Raises ValueError when the file is no safetensors or is shorter than its header says.
    """
    size = path.stat().st_size
    with path.open("rb") as f:
        head = f.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if 8 + length > size:
            raise ValueError(f"{path}: is no safetensors file, or is cut short")
        try:
            header: dict[str, Any] = json.loads(f.read(length))
        except ValueError:
            raise ValueError(f"{path}: is no safetensors file: its header is not JSON") from None
    header.pop("__metadata__", None)
    if 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0) > size:
        raise ValueError(f"{path}: is cut short")
    return 8 + length, header


def _hash_range(total: Any, path: Path, start: int, size: int) -> None:
    with path.open("rb") as f:
        f.seek(start)
        while size:
            block = f.read(min(CHUNK, size))
            if not block:
                raise ValueError(f"{path}: is cut short")
            total.update(block)
            size -= len(block)
