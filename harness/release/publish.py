"""Put a verified export on the Hugging Face Hub: its model at the top, the card, results and evidence beside it.

A published folder is read back by `folders.restore_export`, so `harness verify` takes a downloaded repository as it is.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.artifacts.attestation import CARD, EVIDENCE, LOCK, MANIFEST, MODEL, REPORT
from harness.artifacts.folders import HUB_FILES, RESULTS, ForeignFolder
from harness.errors import UsageError
from harness.release.model_card import load_from_hub
from harness.release.verified import VerifiedExport

Place = Callable[[Path, Path], None]  # of a file, from and to
HUB_DATA = re.compile(r"hub:(?P<id>[\w.-]+/[\w.-]+)(?:/(?P<config>[\w.-]+))?:(?P<split>.+)")
NO_HUB = "publishing needs huggingface_hub; install it, or write a folder with --to FOLDER"


def publish_export(found: VerifiedExport, repo: str, to: Path | None) -> str:
    """Upload a verified export to OWNER/NAME on the Hub.

    With `to`, write the repository into that folder instead. Returns the URL or the folder. Raises UsageError on an
    invalid name, a missing huggingface_hub, a non-empty folder, or a failed upload.
    """
    hub = _import_hub_and_check_repo(repo)
    if to is not None:
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise UsageError(f"--to {to}: is not an empty folder; name another one")
        write_repository(found, repo, to, hub, _copy_file)
        return str(to)
    with tempfile.TemporaryDirectory() as folder:
        write_repository(found, repo, Path(folder), hub, _link_or_copy_file)
        try:
            api = hub.HfApi()
            url = api.create_repo(repo, exist_ok=True)
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"Publish {found.root[:16]}")
        except (OSError, ValueError) as error:  # what the library and its HTTP client raise
            why = " ".join(str(error).split())
            raise UsageError(f"{repo}: was not uploaded: {type(error).__name__}: {why}") from None
    return str(url)


def write_repository(found: VerifiedExport, repo: str, to: Path, hub: Any, place: Place) -> None:
    """Write a Hub repository: model, card, `.eval_results` and evidence.

    Files are put there by `place`. Raises UsageError if a file of the model would replace one of the repository,
    ValueError on metadata that the Hub rejects.
    """
    export = Path(found.folder)
    to.mkdir(parents=True, exist_ok=True)
    source = ForeignFolder(export)
    for name in source.list_files(MODEL):
        if name.partition("/")[0] in HUB_FILES:
            raise UsageError(f'{export}: "{MODEL}/{name}" would replace a file of the repository; rename it')
        place(export / MODEL / name, to / name)
    for name in source.list_files(EVIDENCE):
        place(export / EVIDENCE / name, to / EVIDENCE / name)
    place(export / CARD, to / EVIDENCE / CARD)  # as it was signed
    card = load_from_hub((export / CARD).read_text("utf-8"), repo)
    hub.ModelCard(card).data.to_dict()  # raises ValueError on metadata that the Hub would not take
    (to / CARD).write_text(card, "utf-8")
    if entries := [hub.EvalResultEntry(**entry) for entry in eval_results(export)]:
        (to / RESULTS).mkdir()
        text = json.dumps(hub.eval_result_entries_to_yaml(entries), indent=2)  # which YAML contains
        (to / RESULTS / "harness.yaml").write_text(text + "\n", "utf-8")


def eval_results(export: Path) -> Iterator[dict[str, Any]]:
    """Yield the candidate's results on Hub data sets, as `EvalResultEntry` fields."""
    lock, report = (json.loads((export / EVIDENCE / name).read_text("utf-8")) for name in (LOCK, REPORT))
    candidate = json.loads((export / EVIDENCE / MANIFEST).read_text("utf-8"))["candidate"]
    data = {spec["name"]: HUB_DATA.fullmatch(str(spec.get("data"))) for spec in lock["suite"]["evals"]}
    for result in report["results"]:
        if result["subject"] == candidate and (source := data.get(result["eval"])):
            for name, value in result["metrics"].items():
                yield {
                    "dataset_id": source["id"],
                    "task_id": source["config"] or "default",
                    "value": value,
                    "date": report["started"],
                    "notes": f"{result['eval']}.{name}, {result['n']} rows of {source['split']}, finetune-harness",
                }


def _link_or_copy_file(source: Path, to: Path) -> None:
    """Hard-link a file if the disk allows it, else copy it."""
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, to)
    except OSError:
        _copy_file(source, to)


def _copy_file(source: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, to)


def _import_hub_and_check_repo(repo: str) -> Any:
    try:
        import huggingface_hub
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils._validators import validate_repo_id
    except ImportError:
        raise UsageError(NO_HUB) from None
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(" ".join(str(error).split())) from None
    if repo.count("/") != 1:
        raise UsageError(f'"{repo}" is not a repository of the Hub; write OWNER/NAME')
    return huggingface_hub
