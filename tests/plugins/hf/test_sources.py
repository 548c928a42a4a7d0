"""Digests of weights by what the files hold, whatever their sizes and times say."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from harness.artifacts import digests
from harness.artifacts.digests import weights_digest
from harness.testing import write_fake
from harness_hf import sources


def age(folder: Path) -> None:
    """Give the files of a folder one time, as archives, mirrors and image layers do."""
    for path in folder.iterdir():
        os.utime(path, ns=(10**18, 10**18))


@pytest.mark.parametrize("how", ["in place", "renamed over", "folder swapped"])
def test_weights_of_equal_size_and_time(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaced by weights of the same size and time, a folder has another digest, in this process and in the next."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "_hashed", {})
    monkeypatch.setattr(digests, "CLOCK_RESOLUTION_NS", -(10**12))  # as if all of it had been there for long
    good, bad = (write_fake(tmp_path / name, skill) for name, skill in (("good", 0.9), ("bad", 0.1)))
    age(good)
    age(bad)
    first, name = sources.folder_digest(good), "model.safetensors"
    assert sources.folder_digest(good) == first == weights_digest(good)
    if how == "in place":
        (good / name).write_bytes((bad / name).read_bytes())
    elif how == "renamed over":
        shutil.copy2(bad / name, tmp_path / "x")
        (tmp_path / "x").replace(good / name)
    else:
        good.rename(tmp_path / "away")
        bad.rename(good)
    age(good)
    assert sources.folder_digest(good) == weights_digest(good) != first
    digests._hashed.clear()  # as a new process
    assert sources.folder_digest(good) == weights_digest(good) != first
    assert not list((tmp_path / "cache").rglob("*.json")) if (tmp_path / "cache").exists() else True


def test_what_was_just_written_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a tick of the file system's clock a second change leaves no trace, so what is new is hashed each time."""
    folder, read = write_fake(tmp_path / "m", 0.9), list[Path]()
    real = digests._hash_once
    monkeypatch.setattr(digests, "_hash_once", lambda f, path, *rest: (read.append(path), real(f, path, *rest))[1])
    assert sources.folder_digest(folder) == sources.folder_digest(folder)
    assert len(read) == 2
    monkeypatch.setattr(digests, "CLOCK_RESOLUTION_NS", -(10**12))
    assert sources.folder_digest(folder) == sources.folder_digest(folder)
    assert len(read) == 3
