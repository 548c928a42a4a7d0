"""What is not installed is told before a server is asked anything."""

from __future__ import annotations

import sys

import pytest

from harness.testing import ROWS, SUITE, TRAIN, Project

NOBODY = "http://127.0.0.1:9/v1"  # who asks it hears that the connection failed
SERVED = f"""
[suite]
name = "served"

[model]
use = "api"
path = "small"
base_url = "{NOBODY}"

[candidate]
merged = "better"

[[eval]]
name = "qa"
use = "exact_match"
data = "test.jsonl"

[[gate]]
id = "floor"
metric = "qa.exact_match"
min = 0.5
"""
CHRF = 'use = "hf_metric"\nmetric = "local:chrf"'
JUDGE = 'use = "judge"\nbackend = "anthropic"\nmodel = "small"'
CASES = {
    "the statistics of a served model": (SERVED, ("scipy",), '"scipy"; pip install numpy scipy'),
    "its client": (SERVED, ("openai",), '"openai"; pip install openai'),
    "both": (SERVED, ("numpy", "openai"), 's "numpy", "openai"; pip install numpy scipy openai'),
    "the library of a metric": (
        SERVED.replace('use = "exact_match"', CHRF).replace("exact_match", "chrf"),
        ("evaluate",),
        '"evaluate"; pip install evaluate',
    ),
    "the judge's client": (
        SERVED.replace('use = "exact_match"', JUDGE).replace("qa.exact_match", "qa.win_rate"),
        ("scipy", "anthropic"),
        's "scipy", "anthropic"; pip install numpy scipy anthropic',
    ),
    "the statistics alone": (SUITE, ("scipy",), '"scipy"; pip install numpy scipy'),
}


@pytest.mark.parametrize("command", ["run", "check", "plan"])
@pytest.mark.parametrize("case", CASES)
def test_a_missing_module_is_told_first(
    project: Project, monkeypatch: pytest.MonkeyPatch, case: str, command: str
) -> None:
    """One line names the modules and the packages that bring them, exit 4, and nobody was asked."""
    text, lacking, told = CASES[case]
    project.write({"suite.toml": text, "test.jsonl": ROWS, "train.jsonl": TRAIN})
    for name in lacking:
        monkeypatch.setitem(sys.modules, name, None)
    outcome = project.harness(command, str(project.folder / "suite.toml"))
    assert (outcome.code, outcome.err.count("\n")) == (4, 1)
    assert f"needs the module{told}" in outcome.err.replace("module ", "module")
    assert not (project.folder / "reports").exists()


def test_plugins_of_a_suite_are_asked_what_they_need(project: Project) -> None:
    """An evaluator of a harnessfile that needs a module which nobody has is refused at preflight."""
    plugin = """
from harness import Metric, hookimpl

def odd(subject, samples):
    import no_such_module
    yield from ()

odd.metrics = [Metric("odd", "higher")]
odd.needs = lambda options: ["no_such_module"]

@hookimpl
def harness_evaluators():
    return {"odd": odd}
"""
    suite = SUITE.replace('use = "exact_match"', 'use = "odd"').replace("qa.exact_match", "qa.odd")
    project.write({"suite.toml": suite, "test.jsonl": ROWS, "train.jsonl": TRAIN, "harnessfile.py": plugin})
    outcome = project.run()
    assert outcome.code == 4
    assert 'needs the module "no_such_module"' in outcome.err
