"""D29: a merge that may ship without a gate against its adapter."""

from __future__ import annotations

import tomllib

import pytest

from harness.pipeline.run import Options, check_suite, prepare_collection
from harness.records.findings import Finding
from harness.testing import ROWS, SUITE, TRAIN, Project

FIT = '[[eval]]\nname = "fit"\nuse = "perplexity"\nof = "completion"\ndata = "test.jsonl"\n\n'
FIT_GATE = '[[gate]]\nid = "fit"\nmetric = "fit.perplexity"\nversus = "base"\nmax_failures = 3\ncap = 5.0\n\n'
TRAINS = '[adapter]\nuse = "fake"\n\n[train]\nuse = "fake"\ndata = "train.jsonl"\n'


def find(project: Project, text: str) -> list[Finding]:
    """Return the findings of the check on a suite."""
    rows = [{**row, "input": f"say v{i}", "target": f"v{i}"} for i, row in enumerate(ROWS * 2)]
    rows = [{**row, "id": str(i)} for i, row in enumerate(rows)]
    project.write({"suite.toml": text, "test.jsonl": ROWS, "many.jsonl": rows, "train.jsonl": TRAIN})
    options = Options(plugins=("harness.testing",))
    found, _, _ = check_suite(prepare_collection(project.folder / "suite.toml", options), options)
    return [finding for finding in found if finding.code == "D29"]


@pytest.mark.slow
@pytest.mark.parametrize(("data", "margin"), [("many.jsonl", 0.03), ("test.jsonl", 0.05)])
def test_gate_of_a_finding_is_there_to_paste(project: Project, data: str, margin: float) -> None:
    """It is on a metric that is gated, with a margin that its rows can prove; with it nothing is found."""
    text = SUITE.replace("test.jsonl", data)
    [finding] = find(project, text)
    assert (finding.severity, finding.title) == ("warning", "ungated-merge")
    [gate] = tomllib.loads("\n".join(finding.evidence))["gate"]
    assert (gate["metric"], gate["versus"], gate["worse_by_at_most"]) == ("qa.exact_match", "adapter", margin)
    assert find(project, "\n".join([text, *finding.evidence])) == []


@pytest.mark.slow
def test_only_a_merge_that_ships_is_found(project: Project) -> None:
    """An exported adapter, a merge without an export and a model from elsewhere have nothing to compare."""
    adapter = SUITE.replace('use = "safetensors"', 'use = "adapter"\nfrom = "adapter"')
    elsewhere = SUITE.replace(TRAINS, '[candidate]\nmerged = "good"\n')
    assert SUITE not in (adapter, elsewhere)
    for text in (adapter, adapter + '\n[merge]\nbase = "original"\n', elsewhere):
        assert find(project, text) == []


@pytest.mark.slow
def test_metric_without_a_range_has_no_gate_to_paste(project: Project) -> None:
    """Its margin is in its own unit, so the fix names the keys only."""
    gate = SUITE.partition("[[gate]]")[2].partition("[[export]]")[0]
    [finding] = find(project, SUITE.replace(f"[[gate]]{gate}", FIT + FIT_GATE))
    assert (finding.evidence, finding.fix) == ((), 'add a gate with versus = "adapter" and worse_by_at_most')
