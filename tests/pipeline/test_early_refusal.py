"""A candidate that checks refuse is refused before the base is measured."""

from __future__ import annotations

import pytest

from harness.testing import ROWS, SUITE, TRAIN, Project, write_fake

PLUGIN = """
from harness import Finding, checker, hookimpl

@checker(title="always-wrong")
def wrong(STAGE):
    \"\"\"Refuse.\"\"\"
    yield Finding("error", "is not the right one")

@hookimpl
def harness_checks():
    return {"X1": wrong}
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["adapter", "merged"])
def test_a_refused_candidate_costs_no_evaluation(stage: str, project: Project) -> None:
    """The base is not measured where the checks of an adapter or a model made elsewhere find an error."""
    write_fake(project.folder / "base", 0.3)
    candidate = write_fake(project.folder / "tuned", 0.9)
    if stage == "adapter":
        (candidate / "adapter_config.json").write_text("{}", "utf-8")
    project.write({"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": TRAIN})  # type: ignore[dict-item]
    project.write({"harnessfile.py": PLUGIN.replace("STAGE", stage)})
    outcome = project.run("--candidate", str(candidate))
    assert outcome.code == 4
    assert "X1 always-wrong: is not the right one" in outcome.out, outcome.err
    assert "base::qa" not in outcome.out
