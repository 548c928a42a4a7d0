"""A disk that is full is one line and exit code 4, which names the file or folder, whoever tells of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from harness.errors import UsageError, disk_full_error, resource_error
from harness.files import append_line, replace_folder, write_text
from harness.workers.protocol import error_from_json, error_to_json

SAYS = "No space left on device"
TORCH = "[enforce fail at inline_container.cc:672] . unexpected pos 15936 vs 15828"


class SafetensorError(Exception):
    """As that of the library, which is no OSError."""


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, SAYS, "a/file"), f'"a/file": {SAYS}'),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded"),
        (OSError(errno.EFBIG, "File too large", "a/file"), '"a/file": File too large'),
        (RuntimeError(TORCH), SAYS),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), SAYS),
        (SafetensorError(f"Error while serializing: I/O error: {SAYS} (os error 28)"), SAYS),
    ],
)
def test_a_full_disk_is_known_by_its_many_names(error: Exception, says: str) -> None:
    """The system, torch and safetensors each say it in their own words, also as a cause, also from a worker."""
    assert disk_full_error(error) == says
    other = ValueError("the adapter cannot be saved")
    other.__context__ = error
    assert resource_error(other) == f"{says}; free space and run again; finished work is kept"
    assert disk_full_error(error_from_json(error_to_json(error))) == says


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "No such file"), RuntimeError("unexpected pos"), KeyError()])
def test_other_errors_are_told_as_they_are(error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What does not say that a disk is full is that where the disk of its folder is; a line of our own stays."""
    free, now = os.statvfs_result((4096, 4096, 9, 9, 9 << 20, 9, 9, 9, 0, 255)), [0, 9]
    assert disk_full_error(error) == ""
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((*free[:4], now[0], 9, 9, now[1], 0, 255)))
    assert disk_full_error(error, tmp_path) == f'"{tmp_path}": {SAYS}'
    mistake = UsageError("a mistake")
    mistake.__context__ = OSError(errno.ENOSPC, SAYS)
    assert disk_full_error(mistake, tmp_path) == ""
    now[:] = 9 << 20, 0  # no file more
    assert disk_full_error(error, tmp_path) == f'"{tmp_path}": {SAYS}'
    now[:] = 9 << 20, 9
    assert disk_full_error(error, tmp_path) == ""


def raise_disk_full(*_: object) -> NoReturn:
    raise OSError(errno.ENOSPC, SAYS)


def test_what_is_written_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's error of a write names no file; that of a folder's file names the folder that was to be."""
    with pytest.raises(OSError, match=SAYS) as caught, replace_folder(tmp_path / "model"):
        raise SafetensorError(f"I/O error: {SAYS} (os error 28)")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "model"))
    with pytest.raises(FileNotFoundError) as missing, replace_folder(tmp_path / "model"):
        (tmp_path / "base").read_text()
    assert missing.value.filename == str(tmp_path / "base")
    monkeypatch.setattr(os, "fsync", raise_disk_full)
    for write in (lambda path: write_text(path, "x"), lambda path: append_line(path, {})):
        with pytest.raises(OSError, match=SAYS) as caught:
            write(tmp_path / "file")
        assert caught.value.filename == str(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and not (tmp_path / "file").read_bytes()
