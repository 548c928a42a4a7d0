"""What a candidate's folder held when the run opened it; what is written of it later is compared with that."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from harness.artifacts import formats
from harness.artifacts.digests import digest_of, hash_file, template_digest, weights_of
from harness.errors import CheckFailed, UsageError
from harness.records.models import ModelRef, Seal


def sealed(ref: ModelRef, base: str = "", reads: Callable[[Path], Iterable[str]] | None = None) -> ModelRef:
    """Return a candidate with the digests of all that may ship of its folder, each file read once.

    `reads` tells of a folder what its loader reads there, where it says so: of what else lies there texts ship alone.
    Its own digest becomes that of the weights that were read; of an adapter, with its base's digest and quantisation.
    What has no folder is returned as it is, and cannot be exported. Raises UsageError
    when a file cannot be read, CheckFailed when it is not what it must be.
    """
    folder = ref.adapter or Path(ref.path)
    if not folder.is_dir():
        return ref
    try:
        names = formats.shipping(folder)
        read = {*reads(folder)} if reads else {*names}
        beside = tuple(name for name in names if name not in read and not formats.is_text(name))
        files = {name: hash_file(folder / name, follow=True) for name in names if name not in beside}
        weights, template = weights_of(files), template_digest(Path(ref.path))
    except OSError as error:
        raise UsageError(f'"{error.filename or folder}": cannot be read: {error.strerror}') from None
    except ValueError as error:
        raise CheckFailed(f'{ref.name} in "{folder}": {error}') from None
    digest = digest_of([base, weights, ref.quantization]) if ref.adapter else weights
    digests = {name: hashed.sha256 for name, hashed in files.items()}
    return replace(ref, digest=digest, seal=Seal(weights, digests, template, base, beside))
