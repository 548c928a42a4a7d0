"""Exports that make other weights: each is a candidate of its own, a copy of its parent, with verdicts of its own.

An exporter with `converts = True` is called once its parent was evaluated, into the work folder; the copy is read back
from there, evaluated and gated as any candidate is, and what ships is that folder, byte for byte.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from harness import capabilities
from harness.answers import keys
from harness.artifacts import formats, kept
from harness.artifacts.digests import digest_of, template_digest, weights_digest
from harness.artifacts.reads import OURS
from harness.claims.gate import ships
from harness.errors import CheckFailed
from harness.files import folder_in_place, read_facts
from harness.internals import schema
from harness.records.frozen import isolated
from harness.records.models import ModelRef
from harness.records.verdicts import Verdict
from harness.release.seal import sealed
from harness.suite.tables import Export, Suite

NOTE = f"{OURS}copy.json"
"""The file in which an exporter leaves facts about a copy, for the report."""


def folder_of(work: Path, declared: Export, parent: ModelRef, exporter: Callable[..., Any]) -> Path:
    """Return the folder of the copy of exactly this parent, by exactly these options, code and libraries."""
    made_of = keys.of_folder(Path(parent.path), parent.digest)
    options = schema.with_defaults(exporter, declared.options)
    how = [keys.of_code([exporter]), keys.versions(), keys.switches()]
    key = digest_of([parent.digest, made_of, declared.use, options, how])
    return work / f"{declared.name}-{key[:16]}"


def make(
    declared: Export, parent: ModelRef, exporter: Callable[..., Any], folder: Path, progress: Callable[..., None]
) -> ModelRef:
    """Return a copy as it lies on the disk, written into a folder by its exporter unless it is there.

    Raises CheckFailed when what was written has no weights or its parent's, another chat template, or may not be
    deployed.
    """
    if not folder.is_dir():
        told = {"progress": progress} if schema.wants(exporter, "progress") else {}
        with folder_in_place(folder) as work:
            exporter(isolated(parent), work, **isolated(dict(declared.options)), **told)
            if _weights(work) == parent.digest:
                raise CheckFailed(f'has the weights of "{parent.name}"; what changes nothing is no copy')
            if template_digest(work) not in (None, template_digest(Path(parent.path))):
                raise CheckFailed(f'has another chat template than "{parent.name}"')
            _deployable(work)
            kept.seal(work, folder)
    return sealed(ModelRef(declared.name, str(folder), options=opened(declared, parent, exporter)))


def _weights(folder: Path) -> str:
    try:
        return weights_digest(folder)
    except ValueError as error:
        raise CheckFailed(f"no weights can be read from what was written: {error}") from None


def _deployable(folder: Path) -> None:
    """Raise CheckFailed at what `harness verify` would refuse, before it is evaluated."""
    try:
        formats.check_files(folder)
        formats.check_configuration(folder)
    except ValueError as error:
        raise CheckFailed(str(error)) from None


def opened(declared: Export, parent: ModelRef, exporter: Callable[..., Any]) -> dict[str, Any]:
    """Return the loader's options for a copy: its parent's, and what its format wants."""
    wants = capabilities.Exporter.of(exporter).open_options
    return {**parent.options, **(wants(dict(declared.options)) if wants else {})}


def facts_of(folder: Path) -> dict[str, Any]:
    """Return what an exporter noted of a copy; it owes us nothing."""
    return read_facts(folder / NOTE)


def parent_reasons(suite: Suite, declared: Export, verdicts: Iterable[Verdict]) -> list[str]:
    """Return why a copy may not ship for its parent's sake: gates on that which did not pass."""
    gated = any(g.blocking and g.applies_to(declared.from_) for g in suite.gates)
    return ships(verdicts, suite.gates, declared.from_) if declared.name and gated else []


def copy_files(ref: ModelRef, to: Path) -> None:
    """Copy the files of a candidate that were gated, or may ship; raises CheckFailed at a link that leads elsewhere."""
    folder = ref.adapter or Path(ref.path)
    try:
        beside = ref.seal.beside if ref.seal else ()
        names = [name for name in formats.shipping(folder) if name not in beside]
    except formats.Unsafe as error:
        raise CheckFailed(f'"{folder}": {error}') from None
    for name in names:
        (to / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / name, to / name)


def told_options(options: Mapping[str, Any]) -> str:
    """Write options as a suite does."""
    return ", ".join(f"{k} = {json.dumps(v, default=str)}" for k, v in options.items())
