"""Gates of merges against the adapter that was merged."""

from __future__ import annotations

import json

import pytest

from harness.release.verify import verify_export
from harness.testing import ROWS, SUITE, TRAIN, Project

KEEPS = """[[gate]]
id = "keeps"
metric = "qa.exact_match"
versus = "adapter"
worse_by_at_most = 0.1

"""
MERGED = SUITE.replace("[[export]]", f"{KEEPS}[[export]]")
ADAPTER = '[adapter]\nuse = "fake"\n'
TRAINS = f'{ADAPTER}\n[train]\nuse = "fake"\ndata = "train.jsonl"\n'
BOTH = '\n[merge]\nbase = ["original", "dequantized"]\n'


@pytest.fixture
def suite(project: Project) -> Project:
    """A project that ships a merge, with a gate of the merge against the adapter."""
    return project.write({"suite.toml": MERGED, "test.jsonl": ROWS, "train.jsonl": TRAIN})


@pytest.mark.slow
def test_merge_that_equals_the_adapter_ships(suite: Project) -> None:
    """It is judged on the rows that the adapter answered, and verify decides it again from those in the evidence."""
    outcome = suite.run()
    assert (outcome.code, outcome.err) == (0, "")
    found = [(v.candidate, v.versus, v.outcome) for v in outcome.report.verdicts if v.gate == "keeps"]
    assert found == [("merged", "adapter", "PASS")]
    export = verify_export(suite.folder / "exports/fake")
    assert (export.ok, export.steps["gates"]) == (True, "2 gates passed")
    assert export.steps["verdicts"] == "2 of 2 decided again from their rows"
    lock = json.loads((suite.folder / "exports/fake/evidence/suite.lock.json").read_text("utf-8"))
    assert [g["candidates"] for g in lock["gates"]] == [["adapter", "merged"], ["merged"]]


@pytest.mark.slow
@pytest.mark.parametrize(("loses", "code", "expected"), [(0.5, 1, "FAIL"), (-0.09, 0, "PASS")])
def test_merge_is_judged_by_what_it_loses(suite: Project, loses: float, code: int, expected: str) -> None:
    """One that loses what was trained does not ship, though its other gates pass; one that gained does."""
    outcome = suite.write({"suite.toml": MERGED.replace("min = 0.5", "min = 0.1")}).run(
        "--set", f"adapter.loses={loses}"
    )
    assert (outcome.code, outcome.verdict("floor"), outcome.verdict("keeps")) == (code, "PASS", expected)
    assert (suite.folder / "exports").exists() == (code == 0)


@pytest.mark.slow
def test_merge_is_chosen_with_its_adapter(suite: Project) -> None:
    """With -k the adapter is evaluated where a chosen merge is compared with it."""
    outcome = suite.run("-k", "merged")
    assert (outcome.code, outcome.verdict("keeps")) == (6, "PASS")


def test_gate_is_on_every_merge(suite: Project) -> None:
    """Each of two merges is compared with the one adapter; neither adapter nor base has the gate."""
    text = MERGED.replace('to = "', 'from = "merged-original"\nto = "') + BOTH
    listed = suite.write({"suite.toml": text}).run("--collect-only")
    items = [block.split()[0] for block in listed.out.split("suite.toml::")[1:] if "keeps: " in block]
    assert (listed.code, items) == (0, ["merged-original::qa", "merged-dequantized::qa"])


def test_plan_knows_the_gate_of_candidates_to_come(suite: Project) -> None:
    """The plan of a suite for candidates has the gate on the merge, and the adapter that it is compared with."""
    outcome = suite.write({"suite.toml": MERGED.replace(TRAINS, "")}).harness("plan", "suite.toml", "--out", "reports")
    adapter, _, merged = outcome.out.partition("gates on merged")
    assert (outcome.code, "gates on adapter" in adapter) == (0, True)
    assert ("keeps: " in adapter, "keeps: " in merged) == (False, True)


MISTAKES = {
    "nothing is trained": (TRAINS, "", "the suite has no adapter; remove the gate"),
    "a model without its adapter": (
        TRAINS,
        '[candidate]\nmerged = "good"\n',
        "the candidate is a model without its adapter; name the adapter instead, or remove the gate",
    ),
    "nothing is merged": (
        'use = "safetensors"',
        'use = "adapter"\nfrom = "adapter"',
        'the suite does not merge it; add [merge] with base = "original", or remove the gate',
    ),
    "the adapter itself": (
        KEEPS,
        KEEPS.rstrip() + '\non = ["merged", "adapter"]\n\n',
        '"adapter" is not a merge; remove "on", or name merges in it',
    ),
    "rows asked one by one": (
        'slices = ["kind"]',
        'stop = "early"',
        'eval "qa" stops early, but the adapter may have answered fewer rows; remove stop = "early"',
    ),
    "a recipe": (
        KEEPS,
        KEEPS.rstrip() + '\nof = "recipe"\n\n',
        'of = "recipe": "adapter" is itself trained with one seed; compare with a model that is not',
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_about_the_adapter(suite: Project, case: str) -> None:
    """Each is one line, told at collection."""
    old, new, expected = MISTAKES[case]
    assert old in MERGED
    outcome = suite.write({"suite.toml": MERGED.replace(old, new, 1)}).run("--collect-only")
    assert outcome.code == 4
    assert [line for line in outcome.err.splitlines() if expected in line and 'gate "keeps": ' in line]
