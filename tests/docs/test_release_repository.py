"""The template of a release repository, copied and run: the commands of its workflow, in their order."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

TEMPLATE = Path(__file__).parents[2] / "docs/examples/release-repository"
BIN = Path(sys.executable).parent


def run_in_bash(folder: Path, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a step as a runner would: bash, which ends at the first command that fails."""
    env = {**os.environ, **environment, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(["bash", "-e", "-c", command], cwd=folder, env=env, capture_output=True, text=True)


def list_job_steps(job: str) -> list[dict[str, Any]]:
    """Return the steps of a job of the release workflow that run a command, but for the installation."""
    workflow = yaml.safe_load((TEMPLATE / ".github/workflows/release.yml").read_text("utf-8"))
    return [s for s in workflow["jobs"][job]["steps"] if "run" in s and not s["run"].startswith("pip ")]


@pytest.mark.slow
def test_a_copy_releases(tmp_path: Path) -> None:
    """The suite of `harness init` passes, both keys sign, the policy is met, and the last command would upload."""
    folder = tmp_path / "repository"
    shutil.copytree(TEMPLATE, folder)
    made = run_in_bash(folder, "harness init gate && harness keygen ci && harness keygen approver")
    assert made.returncode == 0, made.stderr
    keys = {name: (folder / f"{name}.key").read_text().strip() for name in ("ci", "approver")}
    with (folder / "policy.toml").open("a", encoding="utf-8") as policy:
        policy.write("".join((folder / f"{name}.pub").read_text() for name in keys))
    for job, key in (("gate", "ci"), ("publish", "approver")):
        (folder / f"{key}.key").unlink()  # it comes from a secret
        for step in list_job_steps(job):
            command = step["run"].replace("harness publish", "harness publish --to upload")
            done = run_in_bash(folder, command, KEY=keys[key], MODEL="team/qa")
            assert done.returncode == 0, (step, done.stdout, done.stderr)
    assert (folder / "upload/evidence/claims.intoto.jsonl").is_file()
    assert not [*folder.glob("*.key")]


def test_the_pull_request_gets_the_verdict_of_the_same_suite() -> None:
    """Both workflows name one suite, and the action has the inputs that are given."""
    gate = yaml.safe_load((TEMPLATE / ".github/workflows/gate.yml").read_text("utf-8"))
    given = gate["jobs"]["gate"]["steps"][1]["with"]
    action = yaml.safe_load((TEMPLATE.parents[2] / "action.yml").read_text("utf-8"))
    assert given.keys() <= action["inputs"].keys()
    assert f"harness run {given['suite']}" in [step["run"] for step in list_job_steps("gate")]
