"""Processes that we start import nothing from the folder that one happens to be in."""

from __future__ import annotations

import sys

import pytest

from harness.errors import UsageError
from harness.testing import Project

PLANTED = "raise SystemExit('imported from the current folder')\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pluggy.py", "datasets.py", "json.py"])
def test_workers_do_not(name: str, suite: Project) -> None:
    """A module of a project by the name of a library is the project's own business."""
    (suite.folder / name).write_text(PLANTED, "utf-8")
    outcome = suite.run("--on", "local:1")
    assert (outcome.code, "may ship" in outcome.out) == (0, True), outcome.err


@pytest.mark.slow
def test_a_folder_by_our_name_is_in_nobodys_way(suite: Project) -> None:
    """Many projects have a folder `harness/`."""
    (suite.folder / "harness").mkdir()
    (suite.folder / "harness/__init__.py").write_text(PLANTED, "utf-8")
    assert suite.run("--on", "local:1").code == 0


def test_the_probe_of_another_interpreter_does_not(suite: Project) -> None:
    """What `harness check` asks an interpreter of vLLM is not answered by a file beside the suite."""
    pytest.importorskip("harness_vllm")
    from harness_vllm.environment import _probe_python_modules

    (suite.folder / "json.py").write_text(PLANTED, "utf-8")
    found, _ = _probe_python_modules.__wrapped__(sys.executable)
    assert found


@pytest.mark.parametrize("says", ["[{}, []]", "[]", "{}", "[[], {}]", "3", "", '[{"vllm": 1}, 2]'])
def test_an_interpreter_that_answers_otherwise_is_one_line(says: str, suite: Project) -> None:
    """Whatever prints something else than the probe asks is no interpreter."""
    pytest.importorskip("harness_vllm")
    from harness_vllm.environment import _probe_python_modules

    other = suite.folder / "other.sh"
    other.write_text(f"#!/bin/sh\necho '{says}'\n", "utf-8")
    other.chmod(0o755)
    with pytest.raises(UsageError, match=r'": is not a Python interpreter \('):
        _probe_python_modules.__wrapped__(str(other))
