"""Reports, wheels and folders on disk: whole or not there."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from harness.artifacts.digests import file_digests, weights_digest
from harness.data.pypi import fetch_wheel
from harness.errors import UsageError
from harness.files import folder_in_place, write_text
from harness.reports.report_json import read_run
from harness.testing import write_fake


def test_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """A crash while a folder is written leaves the one that was there, and nothing beside it."""
    final = tmp_path / "model"
    with folder_in_place(final) as work:
        (work / "a").write_text("old", "utf-8")

    def crash() -> None:
        with folder_in_place(final) as work:
            (work / "a").write_text("new", "utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crash()
    assert (final / "a").read_text("utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_folder_replaces_the_old_one(tmp_path: Path) -> None:
    """A second writing replaces the folder whole: no file of the old one stays."""
    final = tmp_path / "model"
    for name in ("a", "b"):
        with folder_in_place(final) as work:
            (work / name).touch()
    assert [p.name for p in final.iterdir()] == ["b"]


def test_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills leaves the file that was there, and no temporary one."""
    write_text(tmp_path / "f", "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text("utf-8") == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_digest_sees_the_weights_and_nothing_else(tmp_path: Path) -> None:
    """Two models with the same tensors have one digest; another value has another."""
    one, two, three = (write_fake(tmp_path / name, skill) for name, skill in (("1", 0.5), ("2", 0.5), ("3", 0.6)))
    (two / "config.json").write_text('{"other": 1}', "utf-8")
    assert weights_digest(one) == weights_digest(two)
    assert weights_digest(one) != weights_digest(three)
    assert file_digests(one)["config.json"] != file_digests(two)["config.json"]


@pytest.mark.parametrize("damage", ["cut", "not safetensors", "nothing"])
def test_damaged_weights_have_no_digest(tmp_path: Path, damage: str) -> None:
    """A file that is cut short, of another kind, or missing raises instead of being hashed."""
    path = write_fake(tmp_path / "m", 0.5) / "model.safetensors"
    content = {"cut": path.read_bytes()[:-3], "not safetensors": b"\x05\0\0\0\0\0\0\0hello"}.get(damage)
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=r"safetensors|cut short"):
        weights_digest(tmp_path / "m")


def seed_wheel(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """Put a wheel into the cache, as an earlier download would have."""
    monkeypatch.setenv("HARNESS_CACHE", str(cache))
    wheel = cache / "wheels" / "thing==1.0" / "thing-1.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as z:
        z.writestr("thing/data.txt", "hello")
    return wheel


def test_wheel_is_not_downloaded_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A wheel in the cache is used as it is, without the network."""
    wheel = seed_wheel(monkeypatch, tmp_path)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("the network was asked"))
    assert fetch_wheel("thing==1.0") == wheel


def test_wheel_with_another_hash_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A pinned sha256 that differs is an error that names both."""
    seed_wheel(monkeypatch, tmp_path)
    with pytest.raises(UsageError, match="the suite pins 00"):
        fetch_wheel("thing==1.0", "00" * 32)


@pytest.mark.parametrize("requirement", ["thing", "thing>=1", "thing==1.0 --index-url x", "../x==1"])
def test_requirement_is_pinned_and_nothing_else(requirement: str) -> None:
    """Only package==version reaches pip."""
    with pytest.raises(UsageError, match='": give PACKAGE==VERSION'):
        fetch_wheel(requirement)


@pytest.mark.slow
def test_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a network the download is one line, and nothing is left in the cache."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(UsageError, match="cannot be downloaded") as error:
        fetch_wheel("thing==1.0")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.whl"))


def test_report_of_another_format_is_refused(tmp_path: Path) -> None:
    """A folder without a report, and a report of another version, are usage errors."""
    with pytest.raises(UsageError, match=": the report cannot be read:"):
        read_run(tmp_path)
    (tmp_path / "report.json").write_text('{"format": 99}', "utf-8")
    with pytest.raises(UsageError, match="was not written by this version of the harness"):
        read_run(tmp_path)
