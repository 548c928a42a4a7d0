"""Put a verified export on the Hugging Face Hub: its model at the top, the card, results and evidence beside it.

A published folder is read back by `folders.restore_export`, so `harness verify` takes a downloaded repository as it is.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.artifacts.attestation import CARD, EVIDENCE, MODEL, REPORT
from harness.artifacts.folders import HUB_FILES, RESULTS, ForeignFolder, list_files, parse_record
from harness.errors import UsageError
from harness.release.evidence import read_evidence, read_listed_file
from harness.release.model_card import load_from_hub
from harness.release.verified import VerifiedExport
from harness.texts.json_text import MALFORMED

HUB_DATA = re.compile(r"hub:(?P<id>[\w.-]+/[\w.-]+)(?:/(?P<config>[\w.-]+))?:(?P<split>.+)")
SERVER_ERROR = 500  # and above: the status of a server that failed
NO_HUB = "publishing needs huggingface_hub; install it, or write a folder with --to FOLDER"


class HubUnavailableError(Exception):
    """The Hub did not answer."""


@dataclass(frozen=True)
class Repository:
    """A repository on the Hub, or the folder that is written in its place, and its files with their sizes in bytes."""

    name: str
    folder: Path
    files: Mapping[str, int]
    removed: Sequence[str] = ()  # files that are there, and are no part of it any more

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(self.files.values())


@contextmanager
def stage_repository(found: VerifiedExport, repo: str, *, public: bool) -> Iterator[Repository]:
    """Yield what would be uploaded to OWNER/NAME on the Hub.

    Raises UsageError on an invalid name, a missing huggingface_hub, or a repository that is public unless `public` is
    set, and HubUnavailableError if the Hub does not answer.
    """
    hub = _import_hub_and_check_repo(repo)
    with tempfile.TemporaryDirectory() as folder, _reporting_hub_errors(repo):
        api = hub.HfApi()
        there: list[str] = []
        with suppress(hub.errors.RepositoryNotFoundError):
            about = api.repo_info(repo)
            there = [file.rfilename for file in about.siblings or ()]
            if not about.private and not public:
                raise UsageError(f"{repo}: is public already; add --public to publish there")
        staged = Path(folder)
        write_repository(found, repo, staged, hub)
        files = list_files(staged)
        yield Repository(repo, staged, files, sorted({*there} - {*files} - {".gitattributes"}))


def upload_repository(staged: Repository, root: str, *, public: bool) -> str:
    """Upload a staged repository, remove what is no longer part of it, and return its URL.

    A new repository is private unless `public` is set. Raises UsageError if the Hub refuses, and HubUnavailableError
    if it does not answer.
    """
    hub = _import_hub_and_check_repo(staged.name)
    with _reporting_hub_errors(staged.name):
        api = hub.HfApi()
        url = api.create_repo(staged.name, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=staged.name,
            folder_path=staged.folder,
            commit_message=f"Publish {root[:16]}",
            delete_patterns=[*staged.removed] or None,
        )
    return str(url)


def write_upload(found: VerifiedExport, repo: str, to: Path) -> None:
    """Write what would be uploaded into a folder. Raises UsageError if it is not empty, or lies in the export."""
    hub = _import_hub_and_check_repo(repo)
    if to.resolve().is_relative_to(Path(found.folder).resolve()):
        raise UsageError(f"--to {to}: is in the export, which is sealed; name a folder elsewhere")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UsageError(f"--to {to}: is not an empty folder; name another one")
    write_repository(found, repo, to, hub, link=False)


@contextmanager
def _reporting_hub_errors(repo: str) -> Iterator[None]:
    """Turn what the library and its HTTP client raise into one line."""
    try:
        yield
    except (UsageError, HubUnavailableError):
        raise
    except Exception as error:  # whichever HTTP client the library uses
        reason = " ".join(str(error).split()) or type(error).__name__
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is None or status >= SERVER_ERROR:
            raise HubUnavailableError(f"{repo}: the Hub does not answer: {reason}; try again") from None
        raise UsageError(f"{repo}: was not uploaded: {type(error).__name__}: {reason}") from None


def write_repository(found: VerifiedExport, repo: str, to: Path, hub: Any, *, link: bool = True) -> None:
    """Write a Hub repository: model, card, `.eval_results` and evidence.

    With `link` files are hard links where the disk allows it, else copies. Raises UsageError if a file of the model
    would replace one of the repository, ValueError on metadata that the Hub rejects.
    """
    export = Path(found.folder)
    to.mkdir(parents=True, exist_ok=True)
    source = ForeignFolder(export)
    place = source.place_file if link else source.copy_file
    for name in source.list_files(MODEL):
        if name.partition("/")[0] in HUB_FILES:
            raise UsageError(f'{export}: "{MODEL}/{name}" would replace a file of the repository; rename it')
        place(f"{MODEL}/{name}", to / name)
    for name in source.list_files(EVIDENCE):
        place(f"{EVIDENCE}/{name}", to / EVIDENCE / name)
    signed = read_listed_file(found, CARD)
    (to / EVIDENCE / CARD).write_bytes(signed)
    _write_card(export, signed.decode("utf-8"), repo, to / CARD, hub)
    try:
        entries = [hub.EvalResultEntry(**entry) for entry in eval_results(found)]
        text = json.dumps(hub.eval_result_entries_to_yaml(entries), indent=2)  # which YAML contains
    except MALFORMED as error:
        reason = f"holds no results that the Hub takes ({type(error).__name__}: {error})"
        raise UsageError(f"{export / EVIDENCE / REPORT}: {reason}; export the run again") from None
    if entries:
        (to / RESULTS).mkdir()
        (to / RESULTS / "harness.yaml").write_text(text + "\n", "utf-8")


def _write_card(export: Path, text: str, repo: str, to: Path, hub: Any) -> None:
    """Write the card of a repository. Raises UsageError where its metadata are not as an export writes them."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    card = load_from_hub(text, repo)
    metadata = REGEX_YAML_BLOCK.search(card)
    for line in metadata.group(2).splitlines() if metadata else ():
        _, _, value = line.partition(": ")
        try:
            parse_record(value.encode())  # no alias, tag or block of YAML, which may expand to any size
        except MALFORMED:
            raise UsageError(f"{export / CARD}: its metadata hold {line!r:.80}; export the run again") from None
    hub.ModelCard(card).data.to_dict()  # raises ValueError on metadata that the Hub would not take
    to.write_text(card, "utf-8")


def eval_results(export: VerifiedExport) -> Iterator[dict[str, Any]]:
    """Yield the candidate's results on Hub data sets, as `EvalResultEntry` fields."""
    evidence, report = read_evidence(export), parse_record(read_listed_file(export, f"{EVIDENCE}/{REPORT}"))
    candidate = evidence.manifest["candidate"]
    data = {spec["name"]: HUB_DATA.fullmatch(str(spec.get("data"))) for spec in evidence.lock["suite"]["evals"]}
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
