"""The next step: one sentence on what follows from the verdicts, and a command that runs."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from harness.reports.next_step import suggest_next_step
from harness.reports.report_json import read_run
from harness.testing import ROWS, SUITE, TRAIN, Project

AGAINST = SUITE.replace("min = 0.5", 'versus = "base"\nworse_by_at_most = 0.05')


def make_run(project: Project, text: str, *words: str) -> Path:
    """Run a suite, and return the folder of the run."""
    project.write({"suite.toml": text, "test.jsonl": ROWS, "train.jsonl": TRAIN}).run(*words)
    (folder,) = project.folder.glob("reports/*")
    return folder


@pytest.mark.parametrize(
    ("text", "skill", "what", "command"),
    [
        (SUITE, 0.9, "Verify the export, then make it the release.", "harness verify"),
        (SUITE, 0.2, 'Read the rows of "floor".', "harness show"),
        (AGAINST, 0.0, 'that "floor" lost.', "harness show"),
        (AGAINST, 0.25, "Add rows for ", ""),
    ],
    ids=["pass", "fail alone", "fail against", "inconclusive"],
)  # fmt: skip
def test_its_command_runs(project: Project, text: str, skill: float, what: str, command: str) -> None:
    """The terminal and the Markdown name the step, and each of its commands ends with exit 0."""
    folder = make_run(project, text, f"--set=train.skill={skill}")
    step = suggest_next_step(read_run(folder), folder)
    assert step and what in step.what
    assert step.command.startswith(command) and bool(step.command) == bool(command)
    for part in filter(None, step.command.split(" && ")):
        outcome = project.harness(*shlex.split(part)[1:])
        assert outcome.code == 0, outcome.err
    shown = " ".join(project.harness("show", str(folder)).out.split())
    assert f"next {step.command or step.what}" in shown
    assert step.what in project.harness("report", str(folder), "--markdown").out.replace("\\", "")


def test_a_part_of_a_suite_has_none(project: Project) -> None:
    """A run that was cut to some rows proves nothing to go on from."""
    folder = make_run(project, SUITE, "--limit", "40")
    assert suggest_next_step(read_run(folder), folder) is None
