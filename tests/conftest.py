"""Fixtures for all tests; nothing here downloads."""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import os
import re
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.late import Late
from tests.helpers.warm import serve_warm_python, use_warm_python

if TYPE_CHECKING:
    from harness.testing import Project

pytest_plugins = ["harness.testing"]
WHOLLY_SLOW = re.compile(r"^pytestmark = (?:\[\s*)?pytest\.mark\.slow\b", re.M)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random Llama of 100,000 parameters, built once for all tests."""
    pytest.importorskip("transformers")
    from harness_hf.tiny import build_tiny_model

    return build_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def warm() -> Iterator[Path]:
    """Return a folder with a `python` and a `harness` that have torch in memory: a start costs seconds of a core."""
    with serve_warm_python() as folder:
        yield folder


@pytest.fixture
def warm_children(warm: Path) -> Iterator[None]:
    """Let every process be warm that is started meanwhile, by what is tested too."""
    with use_warm_python(warm):
        yield


@pytest.fixture(autouse=True)
def _known_objects(modules_known: list[int]) -> None:
    """Let the collector, which is called whenever a model is closed, pass over libraries: most of them come late."""
    if len(sys.modules) > modules_known[0] + 50:
        gc.set_threshold(100_000, 50, 10_000)  # by itself it looks seldom
        gc.collect()
        gc.freeze()
        modules_known[0] = len(sys.modules)


@pytest.fixture(scope="session")
def modules_known() -> list[int]:
    """Return how many modules there were when the collector was last told to pass over them."""
    return [0]


@pytest.fixture(scope="module", autouse=True)
def _freed_memory() -> Iterator[None]:
    """Return freed memory to the system after each module: without, each worker grows to more than four gigabytes."""
    yield
    gc.collect()
    with suppress(OSError, AttributeError):  # not of glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@pytest.fixture(scope="session", autouse=True)
def _no_sync() -> None:
    """Let files reach the disk when they do: no test cuts the power, and waiting was a fifth of their time."""
    os.fsync = lambda fd: None  # type: ignore[assignment]
    sqlite3.connect = partial(sqlite3.connect, factory=Unsynced)  # type: ignore[assignment]


class Unsynced(sqlite3.Connection):
    """A file of answers that is left to the system as all others are."""

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if sql.startswith("PRAGMA user_version"):  # what is asked first of a file
            super().execute("PRAGMA synchronous = OFF")
        return super().execute(sql.replace("synchronous = NORMAL", "synchronous = OFF"), *values)


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_installed() -> None:
    """Look once through all that is installed for entry points, and again where a test adds a path; each run does."""
    look = importlib.metadata.entry_points
    known = cache(lambda path, given: look(**dict(given)))
    importlib.metadata.entry_points = lambda **given: known((*sys.path,), (*given.items(),))  # type: ignore[assignment]


@pytest.fixture
def suite(project: Project) -> Project:
    """Return a project whose suite passes."""
    from harness.testing import ROWS, SUITE, TRAIN  # pytest rewrites the asserts of a plugin not yet imported

    return project.write({"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": TRAIN})


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the suite passed once; nobody changes it."""
    from harness.testing import SUITE
    from tests.helpers.suites import run_commands

    return run_commands(tmp_path_factory.mktemp("once"), "run suite.toml", suite=SUITE)


@pytest.fixture
def passed(once: Path, project: Project) -> Project:
    """Return a project whose suite passed once: a copy, which takes a tenth of the time of a run."""
    shutil.copytree(once, project.folder, dirs_exist_ok=True)
    return project


@pytest.fixture(autouse=True)
def no_pages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs write no report.html, which takes them longer than all else, but where a test asks for `pages`."""
    if "pages" not in request.fixturenames:
        monkeypatch.setattr("harness_report.can_render", lambda: False)


@pytest.fixture
def pages() -> None:
    """Let runs write report.html, as they do for a user."""


def pytest_configure() -> None:
    """Let 999 orders of the rows of a gate be drawn once for the same scores, whichever run has them."""
    from harness.stats import autocorrelation

    inner = lru_cache(1000)(autocorrelation.lag_one_correlation)
    autocorrelation.lag_one_correlation = lambda values: inner((*values,))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no file whose `pytestmark` begins with slow where slow tests are left out: seconds, of PEFT and TRL."""
    if config.option.markexpr != "not slow" or collection_path.suffix != ".py":
        return None
    return bool(WHOLLY_SLOW.search(collection_path.read_text("utf-8"))) or None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """Mark as slow what is done with the tiny model, or by warm processes: it loads torch and, most of it, a model.

    The slow ones are begun first, so that two workers end together. Where they are left out, one worker alone gets what
    may load PEFT, which takes longer than all that is done with it.
    """
    for item in items:
        loads = {"tiny_model", "warm"} & {*getattr(item, "fixturenames", ())}
        if loads or any(item.iter_markers("packaging")) or any(item.iter_markers("pages")):
            item.add_marker(pytest.mark.slow)
        elif config.option.markexpr == "not slow" and _may_load_peft(getattr(item, "module", None)):
            item.add_marker(pytest.mark.xdist_group("peft"))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@cache
def _may_load_peft(module: Any) -> bool:
    """Return whether a test file has torch, or a module that comes late."""
    found = vars(module).values() if module else ()
    return any(isinstance(one, Late) or getattr(one, "__name__", "") == "torch" for one in found)
