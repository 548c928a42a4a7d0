"""Candidates as they may ship: what their folder held when the run opened it, and copies that exports make of them.

An exporter with `converts = True` makes other weights: it is called once its parent was evaluated, into the work
folder; the copy is read back from there, evaluated and gated as any candidate is, with verdicts of its own, and what
ships is that folder, byte for byte.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import capabilities, schema
from harness.answers import keys
from harness.artifacts import artifact_cache, formats
from harness.artifacts.digests import (
    digest_value,
    file_digest,
    hash_file,
    template_digest,
    weights_digest,
    weights_digest_of_files,
)
from harness.artifacts.model_files import NOTE_PREFIX
from harness.errors import CheckFailedError, UsageError
from harness.files import replace_folder
from harness.plugin_errors import checked_items, checked_return, plugin_error
from harness.records.copies import detach_copy
from harness.records.models import ModelRef, Seal
from harness.suite.tables import Export
from harness.texts.escaping import shorten_repr

CONVERSION_NOTES = f"{NOTE_PREFIX}copy.json"
"""The file in which an exporter writes facts for the report, as JSON: {"facts": {…}}. It is not shipped."""


def copy_folder(work: Path, declared: Export, parent: ModelRef, exporter: Callable[..., Any]) -> Path:
    """Return the folder of a converted copy, keyed by all its inputs.

    These are the exact parent, options, code, libraries and environment. Raises UsageError if the file or folder at the
    export's `path` cannot be read.
    """
    made_of = keys.digest_folder(Path(parent.path), parent.digest)
    options = schema.with_defaults(exporter, declared.options)
    how = [keys.digest_code([exporter]), keys.library_versions(), keys.environment_switches()]
    if declared.path:
        path = Path(declared.path)
        try:
            how.append(file_digest(path) if path.is_file() else keys.digest_folder(path))
        except OSError as error:
            raise UsageError(f'"{path}": cannot be read: {error.strerror}') from None
    key = digest_value([parent.digest, made_of, declared.use, options, how])
    return work / f"{declared.name}-{key[:16]}"


def make_copy(
    declared: Export, parent: ModelRef, exporter: Callable[..., Any], folder: Path, progress: Callable[..., None]
) -> ModelRef:
    """Convert a model with its exporter, unless the copy exists.

    Raises CheckFailedError if the output has no readable weights or its parent's, another chat template, or a file that
    may not be deployed.
    """
    if not folder.is_dir():
        told = {"progress": progress} if schema.has_parameter(exporter, "progress") else {}
        with replace_folder(folder) as work:
            made = exporter(detach_copy(parent), work, **detach_copy(declared.given), **told)
            require_output_folder(exporter, made, work)
            try:
                weights = weights_digest(work)
            except ValueError as error:
                raise CheckFailedError(f"the weights of the converted model cannot be read: {error}") from None
            if weights == parent.digest:
                raise CheckFailedError(f'is bit-identical to "{parent.name}", so nothing was converted')
            if template_digest(work) not in (None, template_digest(Path(parent.path))):
                raise CheckFailedError(f'has a chat template that differs from that of "{parent.name}"')
            try:  # what `harness verify` would refuse, before it is evaluated
                formats.check_files(work)
                formats.check_configuration(work)
            except ValueError as error:
                raise CheckFailedError(str(error)) from None
            artifact_cache.seal_folder(work, folder)
    return seal_candidate(ModelRef(declared.name, str(folder), options=copy_loader_options(declared, parent, exporter)))


def require_output_folder(exporter: Callable[..., Any], made: Any, folder: Path) -> None:
    """Raise UsageError unless an exporter wrote into its folder and returned it."""
    if not any(folder.iterdir()):
        raise plugin_error(exporter, f" wrote no files into its output folder, and returned {made}")
    if not (isinstance(made, Path) and made == folder):
        raise plugin_error(exporter, f" returned {shorten_repr(made)}; it must return its output folder, a Path")


def copy_loader_options(declared: Export, parent: ModelRef, exporter: Callable[..., Any]) -> dict[str, Any]:
    """Return the loader's options for a copy: its parent's, and what its format wants."""
    wants = capabilities.ExporterCapabilities.of(exporter).open_options
    if wants is None:
        return dict(parent.options)
    return {**parent.options, **checked_return(wants, wants(dict(declared.options)), Mapping, "a dict of options")}


def copy_files(ref: ModelRef, to: Path) -> None:
    """Copy the files of a candidate that may ship.

    Raises CheckFailedError on an unsafe file, such as a link that leads elsewhere.
    """
    folder = ref.adapter or Path(ref.path)
    try:
        names = [name for name in formats.shipping_files(folder) if not (ref.seal and name in ref.seal.beside)]
    except formats.UnsafeFileError as error:
        raise CheckFailedError(f'"{folder}": {error}') from None
    for name in names:
        (to / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / name, to / name)


def seal_candidate(ref: ModelRef, base: str = "", reads: Callable[[Path], Iterable[str]] | None = None) -> ModelRef:
    """Return a candidate with the digests of its shippable files. Each file is read once.

    `reads` lists the files that the loader reads in a folder; of its other files only texts ship. The candidate's
    digest becomes that of its weights; for an adapter, that of weights, base and quantisation. A candidate without a
    folder is returned unchanged, and cannot be exported. Raises UsageError if a file cannot be read, CheckFailedError
    if a file is unsafe or its weights are malformed.
    """
    folder = ref.adapter or Path(ref.path)
    if not folder.is_dir():
        return ref
    try:
        names = formats.shipping_files(folder)
        read = {*checked_items(reads, reads(folder), str, "names of files")} if reads else {*names}
        beside = tuple(name for name in names if name not in read and not formats.is_text_file(name))
        files = {name: hash_file(folder / name, follow=True) for name in names if name not in beside}
        weights, template = weights_digest_of_files(files), template_digest(Path(ref.path))
    except OSError as error:
        raise UsageError(f'"{error.filename or folder}": cannot be read: {error.strerror}') from None
    except ValueError as error:
        raise CheckFailedError(f'{ref.name} in "{folder}": {error}') from None
    digest = digest_value([base, weights, ref.quantization]) if ref.adapter else weights
    digests = {name: hashed.sha256 for name, hashed in files.items()}
    return replace(ref, digest=digest, seal=Seal(weights, digests, template, base, beside))
