"""The last and first release, read back from an export folder.

A release is refused unless its files are those that were gated.

`harness promote` records the release beside the export:
    exports/support                      what the last run exported
    exports/support.releases/
      releases.jsonl                     a line a promotion: root digest, weights, suite, who, when
      <root, 16 digits>/                 the export as it was promoted, kept so that there is a way back

With a record, the baseline `released` is its current release; without one it is the last export.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.artifacts import attestation
from harness.artifacts.attestation import recorded_waiver
from harness.artifacts.digests import digest_value, file_digest, hash_files, weights_digest
from harness.artifacts.folders import FolderError, ForeignFolder, list_files
from harness.artifacts.gguf import find_gguf
from harness.errors import UsageError
from harness.files import open_file, replace_folder, split_json_lines
from harness.records.models import Adapter, ModelRef, Source
from harness.records.verdicts import Outcome
from harness.suite.tables import Baseline, Suite

ANCHOR = ".first"  # appended to an export's folder: its first release, kept so that a slow slide is seen
SUFFIX, RECORD = ".releases", "releases.jsonl"


def baseline_folder(suite: Suite, baseline: Baseline) -> Path:
    """Return the folder a baseline is read from: `path`, else what was promoted in the name of the first export.

    Without a promotion it is that export itself; until a second release was made, the first is the last.
    """
    if baseline.path:
        return Path(baseline.path).expanduser()
    to = Path(suite.exports[0].to)
    if baseline.from_ == "last":
        return current_release(to) or to
    kept = first_release(to) or to.with_name(to.name + ANCHOR)
    return kept if kept.exists() else to


def find_release_error(suite: Suite, baseline: Baseline) -> str:
    """Return that there is no release yet, or an empty text.

    Raises UsageError when the folder that the suite names, or that has a pinned release, is not there.
    """
    if (folder := baseline_folder(suite, baseline)).exists():
        return ""
    if baseline.path or baseline.digest:
        raise UsageError(f'{baseline.where}: there is no release at "{folder}"')
    return f'nothing was released to "{folder}" yet; for the first release use harness waive GATE'


def open_release(
    suite: Suite, name: str, base: Source, adapter: Adapter | None, open_source: Callable[[str], Source]
) -> ModelRef:
    """Return a release as a model to load: the merged model it holds, or its adapter on today's base.

    Raises UsageError when the folder is no export of this suite, its gates did not pass, its files are not those
    that were released, or its weights are not the ones pinned.
    """
    baseline = suite.subjects[name]
    folder = baseline_folder(suite, baseline)
    where = f'{baseline.where}: release "{folder}"'
    gates = _read_release_verdicts(suite, folder, where)

    def reader() -> Adapter:
        if adapter is None:
            raise UsageError(f"{where}: is an adapter, and this suite has no [adapter] to load it with")
        return adapter

    ref = open_shipped_model(name, folder / "model", lambda: base, reader, open_source, suite.model.options)
    told = f"{where}: its weights have digest {ref.digest[:12]}"
    if {str(g.get("digest", "")) for g in gates} - {""} != {ref.digest}:
        raise UsageError(f"{told}, which differs from the gated weights")
    if baseline.digest and not ref.digest.startswith(baseline.digest):
        raise UsageError(f"{told}, but the suite pins {baseline.digest[:12]}")
    return ref


def open_shipped_model(
    name: str,
    model: Path,
    base: Callable[[], Source],
    adapter: Callable[[], Adapter],
    open_source: Callable[[str], Source],
    options: Mapping[str, Any],
) -> ModelRef:
    """Return an export's model: merged, or an adapter on the base.

    Raises UsageError if it is neither, or an adapter for another base.
    """
    if single := find_gguf(model):  # its digest is the file's, whatever it is converted to while it is loaded
        return ModelRef(name, str(model), file_digest(single), options=options)
    if not (model / "adapter_config.json").is_file() and (model / "config.json").is_file():
        source = open_source(str(model))
        return ModelRef(name, source.path, source.digest, options=options)
    made, onto = adapter(), base()
    made.check_fits(onto.path, onto.digest, model)
    digest = digest_value([onto.digest, weights_digest(model), made.quantization])
    return ModelRef(name, onto.path, digest, model, made.quantization, options)


def keep_first_release(to: Path) -> None:
    """Keep a copy of the release in `to` as the first one.

    An existing first release is left alone. Hard links save disk space if supported.
    """
    anchor = to.with_name(to.name + ANCHOR)
    if anchor.exists() or not (to / "evidence").is_dir():
        return
    with replace_folder(anchor) as work:
        shutil.copytree(to, work, symlinks=True, dirs_exist_ok=True, copy_function=_link_or_copy)


def _read_release_verdicts(suite: Suite, folder: Path, where: str) -> list[dict[str, Any]]:
    """Return the verdicts of a release after checking its files and suite.

    Raises UsageError if it is no release of this suite, a file of its model changed, or a blocking gate neither passed
    nor was waived.
    """
    read: dict[str, Any] = {}
    for name in ("manifest.json", "report.json", "gates.json"):
        try:
            read[name] = ForeignFolder(folder).read_record(f"{attestation.EVIDENCE}/{name}")
        except FolderError:
            raise UsageError(
                f'{where}: "evidence/{name}" cannot be read, so this is not an export; name a '
                "folder that harness run exported"
            ) from None
    manifest, report, gates = read.values()
    released = report.get("suite") if isinstance(report, dict) else None
    if released != suite.name:
        raise UsageError(f'{where}: was released by suite "{released}", not by "{suite.name}"')
    if manifest.get("format") != attestation.FORMAT_VERSION:
        what = f"has evidence of format {manifest.get('format')}, but this harness reads {attestation.FORMAT_VERSION}"
        how = "export again, and waive the gates against this release (harness waive GATE)"
        raise UsageError(f"{where}: {what}; move the folder away, {how}")
    listed = {k.removeprefix("model/"): v for k, v in manifest.get("files", {}).items() if k.startswith("model/")}
    try:
        hashes = hash_files(folder / "model", list_files(folder / "model"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{where}: its model cannot be read: {error}") from None
    there = {name: {"size": hashed.size, "sha256": hashed.sha256} for name, hashed in hashes.items()}
    if changed := sorted(name for name in listed.keys() | there.keys() if listed.get(name) != there.get(name)):
        raise UsageError(f'{where}: "model/{changed[0]}" differs from the released file')
    blocking = [g for g in gates if g.get("blocking")]
    held = [g for g in blocking if g.get("outcome") != Outcome.PASS and not recorded_waiver(g)]
    if held or not blocking:
        what = f'gate "{held[0].get("gate")}" was {held[0].get("outcome")}' if held else "no gate passed"
        raise UsageError(f"{where}: {what}, so it is not a release")
    return list(gates)


def _link_or_copy(source: str, to: str) -> None:
    try:
        os.link(source, to)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, to)


@dataclass(frozen=True)
class Promotion:
    """A line of the promotion record. `back` marks a rollback."""

    root: str
    weights: str
    suite: str
    candidate: str
    signed_by: list[str]
    by: str
    at: str  # UTC, ISO 8601
    started: str  # when the run began that its evidence is of
    back: bool = False


def current_release(export: Path) -> Path | None:
    """Return the folder of the current release. None before any promotion."""
    return releases_folder(export) / released[-1].root[:16] if (released := active_releases(export)) else None


def first_release(export: Path) -> Path | None:
    """Return the folder of the first release. None before any promotion."""
    return releases_folder(export) / released[0].root[:16] if (released := promotion_history(export)) else None


def promotion_history(export: Path) -> list[Promotion]:
    """Return all promotions of an export, oldest first. Raises UsageError if the record cannot be read."""
    path, where = releases_folder(export) / RECORD, f"{releases_folder(export) / RECORD}"
    found = []
    try:
        for number, line in enumerate(_read_lines_if_exists(path), 1):
            where = f"{path}:{number}"
            found += [_parse_promotion(json.loads(line))] if line.strip() else []
    except (OSError, TypeError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise UsageError(f"{where}: cannot be read: {why}; only harness promote may write it") from None
    _list_standing_releases(found, path)
    return found


def _read_lines_if_exists(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    with open_file(path) as f:
        return split_json_lines(f.read())


def active_releases(export: Path) -> list[Promotion]:
    """Return the active releases of an export, the current one last.

    Rollbacks remove the releases after their target.
    """
    return _list_standing_releases(promotion_history(export), releases_folder(export) / RECORD)


def releases_folder(export: Path) -> Path:
    """Return the folder of an export's releases and their record."""
    export = export.resolve()
    return export.with_name(export.name + SUFFIX)


def _list_standing_releases(lines: Sequence[Promotion], record: Path) -> list[Promotion]:
    """Return the releases that stand: each promotion adds one, each way back ends at one that stood before."""
    found: list[Promotion] = []
    for line in lines:
        if not line.back:
            found.append(line)
            continue
        for _ in found[1:]:
            found.pop()
            if found[-1].root == line.root:
                break
        else:
            what = f"goes back to {line.root[:16]} at {line.at}, which was not the previous release"
            raise UsageError(f"{record}: {what}; only harness promote may write it")
    return found


def _parse_promotion(line: Any) -> Promotion:
    """Parse a line of the record. Raises TypeError or ValueError if it is invalid."""
    if not isinstance(line, dict):
        raise TypeError("is not an object")
    found = Promotion(**line)
    texts = [v for k, v in asdict(found).items() if k not in ("signed_by", "back")]
    named = isinstance(found.signed_by, list) and all(isinstance(s, str) for s in found.signed_by)
    if not named or not isinstance(found.back, bool) or not all(isinstance(v, str) for v in texts):
        raise TypeError("a field has another type")
    if not re.fullmatch("[0-9a-f]{64}", found.root):
        raise ValueError("root is not a sha256")
    return found
