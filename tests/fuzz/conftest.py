"""One world of fakes for all inputs of a kind."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.testing import ROWS, SUITE, TRAIN, write_fake


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with two fake models, a suite and its data, and a cache of its own; the current directory meanwhile."""
    folder, before = tmp_path_factory.mktemp("world"), Path.cwd()
    write_fake(folder / "base", 0.3)
    write_fake(folder / "good", 0.95)
    (folder / "suite.toml").write_text(SUITE, "utf-8")
    for name, rows in (("test.jsonl", ROWS), ("train.jsonl", TRAIN)):
        (folder / name).write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(folder / "cache"))
        os.chdir(folder)
        yield folder
        os.chdir(before)
