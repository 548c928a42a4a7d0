"""Digests: what exactly was measured, trained and shipped."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

from harness.artifacts.gguf import SUFFIX, TEMPLATE, find_gguf, read_gguf
from harness.artifacts.model_files import weight_files
from harness.artifacts.safetensors import Safetensors, read_header
from harness.files import open_file

ROW = ("id", "cluster", "doc_hash", "prompt_hash", "target_hash")  # what tells a row in evidence
CHUNK_BYTES = 1 << 20  # bytes hashed at a time
CANONICAL = json.JSONEncoder(sort_keys=True, default=str, ensure_ascii=False)  # made once: a row has many digests
CLOCK_RESOLUTION_NS = 2_000_000_000  # nanoseconds, the coarsest clock of a file system
MOST_THREADS = 4  # that hash files, each one at a time
WEIGHTS = "tensors 2"  # of the weights digest: raised when the same tensors would have another one


@dataclass(frozen=True)
class Hashed:
    """A file that was read once: its size in bytes, its sha256, and of safetensors (name, dtype, shape, sha256)."""

    size: int
    sha256: str
    tensors: tuple[tuple[str, str, tuple[int, ...], str], ...] = ()


_hashed: dict[tuple[str, int, int, int, int, int], Hashed] = {}


def weights_digest(folder: Path) -> str:
    """Return the digest of a folder's tensors, 64 hex digits.

    These are the tensors in its safetensors, see `model_files.weight_files`, or in its one GGUF file.

    Hashed are each tensor's name, dtype, shape and sha256 in order of names, so the digest depends neither on how the
    tensors are spread over files nor on metadata. A GGUF file is hashed whole: its metadata says how to compute with
    the tensors. Raises ValueError if there is no tensor, if a file is not of the format of its name or is truncated, if
    two files hold a tensor of one name, or if there are weights of both kinds.
    """
    if single := find_gguf(folder):
        read_gguf(single)
        return file_digest(single.resolve())
    files = {name: hash_file(folder / name, follow=True, whole=False) for name in weight_files(folder)}
    try:
        return weights_digest_of_files(files)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def weights_digest_of_files(files: Mapping[str, Hashed]) -> str:
    """Compute a folder's weights digest from its hashed files.

    `files` maps all the folder's names. Raises ValueError as `weights_digest` does.
    """
    names = sorted(name for name in files if "/" not in name)
    single = [name for name in names if name.endswith(SUFFIX)]
    tensors: dict[str, tuple[Any, ...]] = {}
    for file in (name for name in names if name.endswith(".safetensors")):
        for entry in files[file].tensors:
            if entry[0] in tensors:
                raise ValueError(f'{file}: tensor "{entry[0]}" is also in another file')
            tensors[entry[0]] = entry
    if len(single) > 1 or (single and tensors):
        raise ValueError(f"holds {', '.join(single)} and other weights; keep only the files of the model that you mean")
    if single:
        return files[single[0]].sha256
    if not tensors:
        raise ValueError("holds no tensors in *.safetensors")
    return digest_value([WEIGHTS, [tensors[name] for name in sorted(tensors)]])


def digest_value(value: Any) -> str:
    """Return the sha256 of a value's canonical JSON, 64 hex digits."""
    return hashlib.sha256(CANONICAL.encode(value).encode("utf-8", "surrogatepass")).hexdigest()


def row_digest(row: Mapping[str, Any]) -> str:
    """Return the sha256 of a row of an evaluation: of its name, its clusters, and the digests of its texts."""
    second = [] if row.get("second_cluster") is None else [row["second_cluster"]]
    return digest_value([*(row[key] for key in ROW), *second])


def file_digest(path: Path) -> str:
    """Return the sha256 of a regular file, 64 hex digits. Raises OSError at a link or anything else."""
    with open_file(path) as f:
        return _hash_once(f, path, None).sha256


def hash_file(path: Path, *, follow: bool = False, whole: bool = True, below: Path | None = None) -> Hashed:
    """Hash a regular file and, of safetensors, each tensor.

    Without `whole` only the tensors are hashed. Within a process a file is read once as long as it is untouched: a
    change leaves another ctime, which nobody can set, unless it comes within a tick of the clock, so a file changed in
    the last seconds is read every time. Nothing is remembered on disk. A link is followed only with `follow`. Raises
    OSError if it is no regular file or changes meanwhile, ValueError if it is named .safetensors but is malformed.
    """
    with open_file(path, follow=follow, below=below) as f:
        about = os.fstat(f.fileno())
        key = (path.suffix, about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
        if (known := _hashed.get(key)) and (known.sha256 or not whole):
            return known
        hashed = _hash_once(f, path, _Parts(read_header(f, path)) if path.suffix == ".safetensors" else None, whole)
        if time.time_ns() - max(about.st_mtime_ns, about.st_ctime_ns) > CLOCK_RESOLUTION_NS:
            _hashed[key] = hashed
        return hashed


def hash_files(folder: Path, names: Iterable[str]) -> dict[str, Hashed]:
    """Hash files of a folder, several at a time.

    Links are never followed. Raises as `hash_file` does.
    """
    from concurrent.futures import ThreadPoolExecutor  # hashing lets other threads run

    names = list(names)

    def hash_one(name: str) -> Hashed:
        return hash_file(folder / name, below=folder)

    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        try:
            hashes: Iterable[Hashed] = pool.map(hash_one, names)
        except RuntimeError:  # no thread can start, as under `ulimit -u` and in WebAssembly
            hashes = map(hash_one, names)
        return dict(zip(names, hashes, strict=True))


def _hash_once(f: IO[bytes], path: Path, parts: _Parts | None, whole: bool = True) -> Hashed:
    from concurrent.futures import Future, ThreadPoolExecutor

    before, at, number = os.fstat(f.fileno()), 0, 0
    total, buffers = hashlib.sha256(), (bytearray(CHUNK_BYTES), bytearray(CHUNK_BYTES))
    behind: Future[None] | None = None
    threaded = True
    f.seek(0)
    with ThreadPoolExecutor(1) as beside:  # which starts no thread before it is given something
        while count := f.readinto(buffers[number % 2]):  # type: ignore[attr-defined]
            view = memoryview(buffers[number % 2])[:count]
            if behind:
                behind.result()
            if parts and threaded:
                try:
                    behind = beside.submit(parts.update, at, view)
                except RuntimeError:  # no thread can start
                    behind, threaded = None, False
            if parts and not threaded:
                parts.update(at, view)
            if whole:
                total.update(view)
            at, number = at + count, number + 1
        if behind:
            behind.result()
    if (before.st_size, before.st_mtime_ns) != (at, os.fstat(f.fileno()).st_mtime_ns):
        raise OSError(errno.EIO, "changed while it was read", str(path))
    return Hashed(at, total.hexdigest() if whole else "", tuple(parts.found) if parts else ())


class _Parts:
    """Incremental hasher of a safetensors file's tensors. Takes the bytes in file order."""

    def __init__(self, about: Safetensors) -> None:
        places = ((*entry["data_offsets"], name) for name, entry in about.tensors.items())
        ends = ((about.start + begin, about.start + end, name) for begin, end, name in places)
        self.todo = sorted(ends, reverse=True)
        self.about, self.total = about, hashlib.sha256()
        self.found: list[tuple[str, str, tuple[int, ...], str]] = []

    def update(self, at: int, block: memoryview) -> None:
        """Add the bytes of the file from `at` on."""
        until = at + len(block)
        while self.todo:
            begin, end, name = self.todo[-1]
            if begin < until and end > at:
                self.total.update(block[max(begin, at) - at : min(end, until) - at])
            if end > until:
                return
            entry = self.about.tensors[name]
            self.found.append((name, entry["dtype"], tuple(entry["shape"]), self.total.hexdigest()))
            self.total = hashlib.sha256()
            self.todo.pop()


def file_digests(folder: Path) -> dict[str, dict[str, Any]]:
    """Hash every file under a folder.

    Returns size in bytes and sha256 by relative path with forward slashes. Links are followed: a model in a download
    cache is made of them.
    """
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        real = path.resolve()
        found[path.relative_to(folder).as_posix()] = {"size": real.stat().st_size, "sha256": file_digest(real)}
    return found


def root_digest(digests: Mapping[str, str]) -> str:
    """Return one sha256 for a tree: of its files' raw sha256, in order of the parts of their paths.

    `digests` maps relative paths to 64 hex digits. The same number as OpenSSF model signing gives the tree
    (model_signing, predicate signature/v1.0, subject digest).
    """
    ordered = sorted(digests, key=lambda name: name.split("/"))
    return hashlib.sha256(b"".join(bytes.fromhex(digests[name]) for name in ordered)).hexdigest()


def template_digest(folder: Path) -> str | None:
    """Digest a model's chat templates, if it has any.

    transformers reads chat_template.jinja before the tokenizer's configuration, llama.cpp reads the GGUF file. Raises
    ValueError if two files differ in a template of one name, since two programs would then format prompts in two ways.
    """
    found, told = dict[str, str](), dict[str, str]()
    if single := find_gguf(folder):
        inside = read_gguf(single).metadata
        keys = (key for key in inside if key == TEMPLATE or key.startswith(f"{TEMPLATE}."))
        found = {key.removeprefix(TEMPLATE).lstrip(".") or "default": str(inside[key]) for key in keys}
    configuration = folder / "tokenizer_config.json"
    if configuration.is_file():
        declared = json.loads(configuration.read_text("utf-8"))
        said = declared.get("chat_template") if isinstance(declared, dict) else None
        told = {"default": said} if isinstance(said, str) else {}
        told |= {str(one["name"]): str(one["template"]) for one in said} if isinstance(said, list) else {}
    files = {"default": folder / "chat_template.jinja"}
    files |= {p.stem: p for p in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    there = ((name, path.read_text("utf-8")) for name, path in files.items() if path.is_file())
    for name, text in chain(told.items(), there):
        if found.setdefault(name, text) != text:
            raise ValueError(f'chat template "{name}" is in two files that differ; remove one of them')
    return digest_value(found) if found else None
