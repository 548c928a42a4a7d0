"""Where a run writes: places that can be written, and of which none lies in another or in what the run reads."""

from __future__ import annotations

import os
import tempfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from harness.data.reading import split_slice
from harness.data.rows import is_remote
from harness.errors import Mistakes, UsageError
from harness.files import cache_dir
from harness.reports.junit import find_overwrite_error
from harness.schema import format_toml
from harness.suite.tables import Suite

# bytes of a folder's name, which leave room for what a file system allows beside it: a work folder's
MAX_NAME_BYTES = 150


@dataclass(frozen=True)
class _NamedPath:
    """A path that is written or read: where an error about it stands, what it says there, and its name elsewhere."""

    where: str
    says: str
    name: str
    path: Path


def check_output_paths(suite: Suite, out: Path, junit_xml: Path | None) -> None:
    """Check the paths that a run writes to.

    Raises UsageError, with every mistake, if one would overwrite, empty or hold another place.
    """
    mistakes, written = Mistakes(), list[_NamedPath]()
    for export in suite.exports:
        says, name = f"to is {format_toml(export.to)}, which", f"the export {format_toml(export.to)}"
        if export.to.startswith("~"):
            mistakes.add(export.where, f"{says} is not expanded to your home folder; write the path in full")
        elif path := _resolve_path_or_report(Path(export.to), export.where, says, mistakes):
            written.append(_NamedPath(export.where, says, name, path))
    for name, path in ((f"--out {format_toml(str(out))}", out), ("the cache folder", cache_dir())):
        if found := _resolve_path_or_report(path, name, "it", mistakes):
            written.append(_NamedPath(name, "it", name, found))
    for one, other in combinations(written, 2):
        if how := _find_path_relation(one.path, other.path):
            mistakes.add(one.where, f"{one.says} {how} {other.name}; give each a folder of its own")
    for place in written[: len(suite.exports)]:
        for read in _iterate_input_paths(suite):
            if (how := _find_path_relation(place.path, read.path)) in ("is", "holds") or (
                how and read.where == "model"
            ):
                mistakes.add(place.where, f"{place.says} {how} {read.name}; export to another folder")
    if junit_xml is not None and (why := find_write_error(junit_xml) or find_overwrite_error(junit_xml)):
        mistakes.add(f"--junit-xml {format_toml(str(junit_xml))}", f"{why}; name a file that can be written")
    mistakes.raise_errors()


def check_candidate(suite: Suite) -> None:
    """Raise UsageError if the merged candidate is not a folder."""
    if (declared := suite.candidate) and declared.merged and not suite.resolve(declared.merged).is_dir():
        what = (
            f'"{declared.merged}" is not a folder or a GGUF file; name an adapter\'s folder, '
            "a model's folder or a GGUF file"
        )
        raise UsageError(f"{declared.where}: {what}")


def _iterate_input_paths(suite: Suite) -> Iterator[_NamedPath]:
    """Yield the paths that a run reads.

    They are files, and folders of models, in which a run may not write.
    """
    declared = suite.candidate
    for model in (suite.model.path, *(s.path for s in suite.subjects.values() if s.use and s.path)):
        if os.path.isdir(model):  # noqa: PTH112 -- False where Path raises: for what no path can be
            yield _NamedPath("model", "", f'the model "{model}"', Path(model).resolve())
    for path in [p for p in (declared.adapter, declared.merged) if p] if declared else ():
        yield _NamedPath("model", "", f'the candidate "{path}"', suite.resolve(path))
    for path in (e.path for e in suite.exports if e.path):
        yield _NamedPath("model", "", f'the copy "{path}"', suite.resolve(path))
    sources = [s for e in suite.evals for s in (e.data, e.select, e.fewshot_data) if s]
    sources += suite.train.sources if suite.train else ()
    for source in dict.fromkeys(split_slice(source, "data")[0] for source in sources):
        if not is_remote(source) and os.path.isfile(file := suite.resolve(source)):  # noqa: PTH113
            yield _NamedPath("data", "", f'the data "{source}"', file)
    yield _NamedPath("data", "", f'the suite "{suite.path}"', suite.path.resolve())


def _resolve_path_or_report(path: Path, where: str, says: str, mistakes: Mistakes) -> Path | None:
    try:
        found = path.resolve()
        found.exists()
    except (OSError, RuntimeError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        mistakes.add(where, f"{says} is not a path: {why}; name a folder")
        return None
    if len(os.fsencode(found.name)) > MAX_NAME_BYTES:
        mistakes.add(where, f"{says} has a name of more than {MAX_NAME_BYTES} bytes; choose a shorter one")
        return None
    return found


def _find_path_relation(one: Path, other: Path) -> str:
    """Return how two resolved paths meet: one "is", "holds" or "lies in" the other, or an empty text.

    Case and Unicode form do not count: there are file systems on which they do not.
    """
    mine, theirs = ([unicodedata.normalize("NFC", p).casefold() for p in path.parts] for path in (one, other))
    if mine == theirs:
        return "is"
    if theirs[: len(mine)] == mine:
        return "holds"
    return "lies in" if mine[: len(theirs)] == theirs else ""


def find_write_error(path: Path) -> str:
    """Explain why a file cannot be written. Empty if it can; no file is left behind."""
    try:
        if path.is_dir():
            return "is a folder"
        if len(os.fsencode(path.name)) > MAX_NAME_BYTES:
            return f"has a name of more than {MAX_NAME_BYTES} bytes"
        with tempfile.TemporaryFile(dir=next(p for p in path.resolve().parents if p.exists())):
            return ""
    except (OSError, RuntimeError, ValueError) as error:
        return f"cannot be written: {error.strerror if isinstance(error, OSError) else error}"
