"""Suites for candidates before there is one: what can be looked at without one is looked at."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from harness.testing import ROWS, SUITE, TRAIN, Project

PAGE = Path(__file__).parents[2] / "docs/how-to/gate-in-ci.md"
FOR_CANDIDATES = re.sub(r"\[adapter\].*?(?=\[\[eval)", "", SUITE, flags=re.DOTALL)
SELFTEST = pytest.param(["selftest", "-p", "harness.testing"], id="selftest", marks=pytest.mark.slow)


@pytest.fixture
def gated(project: Project) -> Project:
    """A suite that only gates what `--candidate` names."""
    return project.write({"suites/release.toml": FOR_CANDIDATES, "suites/test.jsonl": ROWS, "train.jsonl": TRAIN})


@pytest.mark.parametrize("words", [["check"], ["plan"], SELFTEST])
@pytest.mark.parametrize("given", [(), ("--candidate", "good")], ids=["none", "given"])
def test_a_suite_for_candidates_is_looked_at(gated: Project, words: list[str], given: tuple[str, ...]) -> None:
    """Without a candidate and with one; a name that no candidate can have is a mistake as before."""
    outcome = gated.harness(words[0], "suites/release.toml", *words[1:], *given)
    assert outcome.code == 0, outcome.err
    gated.write({"suites/release.toml": FOR_CANDIDATES.replace('to = "ex', 'from = "mergd"\nto = "ex')})
    outcome = gated.harness(words[0], "suites/release.toml", *words[1:], *given)
    assert (outcome.code, 'no candidate "mergd"; did you mean "merged"?' in outcome.err) == (4, True), outcome.err


@pytest.mark.parametrize("words", [["check"], ["plan"]])
def test_code_of_others_is_what_somebody_brought(gated: Project, words: list[str]) -> None:
    """A harnessfile is named, and neither what came with the harness nor the terminal that listens."""
    told = "loads code of other packages: "
    assert told not in gated.harness(*words, "suites/release.toml").out
    gated.write({"suites/harnessfile.py": "from harness import hookimpl"})
    assert f"{told}suites/harnessfile.py\n" in gated.harness(*words, "suites/release.toml").out


def test_a_run_needs_its_candidate(gated: Project) -> None:
    """What only looks ahead does without; a run that would ship nothing says so before it begins."""
    assert gated.run(suite="suites/release.toml").code == 4


def test_the_hook_of_the_page_takes_such_a_suite(gated: Project) -> None:
    """The command of the page's pre-commit hook passes on a healthy suite, and finds what is wrong with its rows."""
    block = next(
        b for b in re.findall(r"```yaml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL) if "harness-check" in b
    )
    args = yaml.safe_load(block)["repos"][0]["hooks"][0]["args"]
    assert gated.harness("check", *args).code == 0
    gated.write({"suites/test.jsonl": [{"id": "a", "input": "say"}]})
    assert gated.harness("check", *args).code == 4
