"""The door to folders that others made: what it reads, lists and refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness.artifacts.folders import FolderError, ForeignFolder, list_files, parse_record, restore_export

BLOB = "ab" * 20


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """Return a folder in a download cache of the Hub, with one file, which is a link to its blob."""
    cache = tmp_path / "models--team--model"
    (cache / "blobs").mkdir(parents=True)
    (cache / "blobs" / BLOB).write_text('{"a": 1}', "utf-8")
    folder = cache / "snapshots/main"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner/config.json").symlink_to(f"../../../blobs/{BLOB}")
    return folder


def test_links_of_the_hub_cache_lead_to_blobs(snapshot: Path, tmp_path: Path) -> None:
    """A downloaded repository is made of them; they are listed, read and linked as the blobs that they lead to."""
    folder = ForeignFolder(snapshot)
    assert folder.list_files() == {"inner/config.json": 8}
    assert folder.read_record("inner/config.json") == {"a": 1}
    folder.place_file("inner/config.json", tmp_path / "made/config.json")
    assert not (tmp_path / "made/config.json").is_symlink()
    assert (tmp_path / "made/config.json").read_text("utf-8") == '{"a": 1}'


@pytest.mark.parametrize(
    "target", ["/etc/hostname", "../../../elsewhere", f"../../../blobs/../blobs2/{BLOB}", "../../../blobs/name", "."]
)
def test_other_links_are_refused(snapshot: Path, target: str) -> None:
    """Whatever they lead to, a folder among them."""
    (snapshot / "inner/more").symlink_to(target)
    folder = ForeignFolder(snapshot)
    with pytest.raises(FolderError, match='"inner/more" is a link'):
        folder.list_files()
    with pytest.raises(FolderError, match='"inner/more" is a link'):
        folder.read("inner/more")


def test_linked_blobs_are_refused(snapshot: Path) -> None:
    """A folder of blobs that is a link leads out of the cache."""
    blobs = snapshot.parents[1] / "blobs"
    blobs.rename(blobs.with_name("others"))
    blobs.symlink_to("others")
    with pytest.raises(FolderError, match="is a link"):
        list_files(snapshot)


@pytest.mark.parametrize("name", ["../x", "/etc/hostname", "", "a/../../x", "pipe", "folder", "missing", "folder/x/y"])
def test_only_files_below_the_folder_are_opened(tmp_path: Path, name: str) -> None:
    """A name that leads out, a folder and a pipe are one line each, and no wait."""
    (tmp_path / "x").write_text("outside", "utf-8")
    inside = tmp_path / "inside"
    (inside / "folder").mkdir(parents=True)
    os.mkfifo(inside / "pipe")
    with pytest.raises(FolderError):
        ForeignFolder(inside).read(name)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": NaN}', "NaN"),
        ('{"a": 1e999}', "not finite"),
        ('{"a": 1, "a": 2}', "twice"),
        ("[" * 100 + "]" * 100, "nested deeper than 64"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": 12345678901234567890123}', "23 digits"),
        ("\udcff", "codec"),
    ],
)
def test_records_are_strict_and_bounded(tmp_path: Path, text: str, reason: str) -> None:
    """What two readers could parse differently, or a reader could choke on, is malformed."""
    (tmp_path / "record.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(FolderError, match=reason):
        ForeignFolder(tmp_path).read_record("record.json")
    assert parse_record(b'{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}


def test_large_files_are_not_read(tmp_path: Path) -> None:
    """A sparse file costs no memory."""
    with (tmp_path / "record.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FolderError, match="more than 64 MB"):
        ForeignFolder(tmp_path).read_record("record.json")
    with pytest.raises(FolderError, match="line 1 is larger than 64 MB"):
        list(ForeignFolder(tmp_path).iterate_lines("record.json"))


def test_deep_folders_are_not_listed(tmp_path: Path) -> None:
    """Nor entered for ever."""
    (tmp_path / "/".join("d" * 40)).mkdir(parents=True)
    (tmp_path / "/".join("d" * 40) / "file").touch()
    with pytest.raises(FolderError, match="deeper than 32"):
        list_files(tmp_path)


@pytest.mark.parametrize("name", ["additional_chat_templates", ".eval_results", "evidence/more", ".cache"])
def test_a_published_folder_with_a_linked_folder_is_refused(tmp_path: Path, name: str) -> None:
    """transformers would read templates through it."""
    folder = tmp_path / "published"
    (folder / "evidence").mkdir(parents=True)
    (folder / "evidence/README.md").touch()
    (folder / "config.json").touch()
    (tmp_path / "elsewhere").mkdir()
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FolderError, match=f'"{name}" is a link'), restore_export(folder):
        pass
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".harness")] == []


@pytest.mark.parametrize("name", ["more.txt", "evidence/more.txt"])
def test_what_a_manifest_does_not_list_is_refused_before_a_file_is_linked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger adds a hundred thousand files in no time, and linking them takes a minute."""
    folder = tmp_path / "published"
    (folder / "evidence").mkdir(parents=True)
    (folder / "config.json").touch()
    (folder / "evidence/README.md").touch()
    (folder / "evidence/manifest.json").write_text(
        json.dumps({"files": {"README.md": {}, "model/config.json": {}}}), "utf-8"
    )
    with restore_export(folder) as export:
        assert sorted(list_files(export)) == ["README.md", "evidence/manifest.json", "model/config.json"]
    (folder / name).touch()
    monkeypatch.setattr(ForeignFolder, "place_file", lambda *_: pytest.fail("a file was linked"))
    with pytest.raises(FolderError, match=f'"{name}" is not in the manifest'), restore_export(folder):
        pass
