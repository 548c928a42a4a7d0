"""Fixtures for all tests; nothing here downloads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.testing import Project

pytest_plugins = ["harness.testing"]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random Llama of 100,000 parameters, built once for all tests."""
    pytest.importorskip("transformers")
    from harness_hf.tiny import build_tiny_model

    return build_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session", autouse=True)
def _no_sync() -> None:
    """Let files reach the disk when they do: no test cuts the power, and waiting was a fifth of their time."""
    os.fsync = lambda fd: None  # type: ignore[assignment]


@pytest.fixture
def suite(project: Project) -> Project:
    """Return a project whose suite passes."""
    from harness.testing import ROWS, SUITE, TRAIN  # pytest rewrites the asserts of a plugin not yet imported

    return project.write({"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": TRAIN})


@pytest.fixture(autouse=True)
def no_pages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs write no report.html, which takes them longer than all else, but where a test asks for `pages`."""
    if "pages" not in request.fixturenames:
        monkeypatch.setattr("harness_report.can_render", lambda: False)


@pytest.fixture
def pages() -> None:
    """Let runs write report.html, as they do for a user."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what is done with the tiny model: it loads torch and, most of it, a model."""
    for item in items:
        if "tiny_model" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
