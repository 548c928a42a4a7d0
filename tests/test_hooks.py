"""What other programs read of this repository: pre-commit its hook, GitHub its action, workflow and forms."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.testing import ROWS, Project
from tests.helpers.git import run_git

ROOT = Path(__file__).parent.parent
CONFIG = """
repos:
  - repo: {hooks}
    rev: {commit}
    hooks:
      - id: harness-check
        args: [suite.toml, -p, harness.testing]
"""


@pytest.mark.slow
def test_hook_checks_what_is_committed(suite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A healthy suite may be committed; one whose rows to judge by are trained on may not, and is told why."""
    pytest.importorskip("pre_commit")
    monkeypatch.setenv("PRE_COMMIT_HOME", str(suite.folder / "pre-commit"))
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    hooks = suite.folder / "hooks"
    hooks.mkdir()
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", hooks)
    for folder in (hooks, suite.folder):
        run_git(folder, "init", "--quiet")
    run_git(hooks, "add", ".")
    run_git(hooks, "commit", "--quiet", "--message", "hooks")
    suite.write({".pre-commit-config.yaml": CONFIG.format(hooks=hooks, commit=run_git(hooks, "rev-parse", "HEAD"))})
    run_git(suite.folder, "add", "suite.toml", "train.jsonl", "test.jsonl", ".pre-commit-config.yaml")
    command = [sys.executable, "-m", "pre_commit", "run", "--all-files"]
    healthy = subprocess.run(command, capture_output=True, text=True)
    assert (healthy.returncode, "Passed" in healthy.stdout) == (0, True), healthy.stdout + healthy.stderr
    run_git(suite.folder, "commit", "--quiet", "--message", "healthy")
    suite.write({"train.jsonl": ROWS})
    run_git(suite.folder, "add", "train.jsonl")
    leaking = subprocess.run(command[:-1], capture_output=True, text=True)
    assert (leaking.returncode, "exit code: 4" in leaking.stdout) == (1, True), leaking.stdout + leaking.stderr
    assert "train-test-leak" in leaking.stdout


FILES = {  # by the schema that GitHub's editors hold them against
    "vendor.github-actions": ["action.yml"],
    "vendor.github-workflows": [f".github/workflows/{name}.yml" for name in ("ci", "docs", "release")],
    "vendor.github-issue-forms": [
        f".github/ISSUE_TEMPLATE/{n}.yml" for n in ("crash", "idea", "wrong-refusal", "wrong-verdict")
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("schema", FILES)
def test_github_can_read_its_files(schema: str) -> None:
    """Action, workflow and issue forms are what GitHub's schemas say; its runner reads nothing else."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *FILES[schema]]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_form_is_checked() -> None:
    """A form that is added is held against the schema, too."""
    found = {p.relative_to(ROOT).as_posix() for p in (ROOT / ".github").rglob("*.yml")}
    assert found == {name for names in FILES.values() for name in names} - {"action.yml"}


def test_action_runs_as_it_is_told(tmp_path: Path) -> None:
    """The step that decides, run by bash: its words reach harness one by one, and its exit code the job."""
    action = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
    [step] = [step for step in action["runs"]["steps"] if step.get("id") == "run"]
    fake = tmp_path / "harness"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$TOLD"\nexit 6\n', "utf-8")
    fake.chmod(0o755)
    told, output = tmp_path / "told", tmp_path / "output"
    given = {"SUITE": "my suites/a.toml", "ARGS": "--candidate models/* -q", "REPORTS": "reports", "LEDGER": ""}
    given |= {"BASE": "", "CANDIDATE": "", "CLAIM": ""}
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TOLD": str(told), "GITHUB_OUTPUT": str(output), **given}
    assert step["env"].keys() == given.keys()
    done = subprocess.run(["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]], env=env)
    code, said = output.read_text("utf-8").splitlines()
    assert (done.returncode, code, said.partition("=")[0]) == (6, "exit-code=6", "said")
    first = ["run", "my suites/a.toml", "--out", "reports", "--junit-xml", "reports/junit.xml", "--github"]
    assert told.read_text("utf-8").splitlines() == [*first, "--candidate", "models/*", "-q"]


def test_inputs_of_the_action_are_told() -> None:
    """Every input and output of the action stands in the page on CI, and every step uses inputs that there are."""
    text = (ROOT / "action.yml").read_text("utf-8")
    action, page = yaml.safe_load(text), (ROOT / "docs/how-to/gate-in-ci.md").read_text("utf-8")
    assert not [name for name in [*action["inputs"], *action["outputs"]] if f"`{name}`" not in page]
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == action["inputs"].keys()
