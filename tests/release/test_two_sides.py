"""A comparison has two sides: what guards the candidate guards what it is compared with."""

from __future__ import annotations

import json

import pytest

from harness.artifacts.attestation import EVIDENCE, MANIFEST
from harness.release.policy import Policy
from harness.release.verify import verify_export
from harness.testing import ROWS, SUITE, TRAIN, Project

COMPARES = SUITE.replace("min = 0.5", 'versus = "base"\nbetter_by = 0.05')


@pytest.mark.slow
def test_remembered_answers_of_the_baseline_count(project: Project) -> None:
    """New weights are never remembered, a base always is: its answers are those that could be put there."""
    project.write({"suite.toml": COMPARES, "test.jsonl": ROWS, "train.jsonl": TRAIN})
    policy = Policy(["fake"], cached_answers=False, threshold=0)
    assert project.run().code == 0
    export = project.folder / "exports/fake"
    assert json.loads((export / EVIDENCE / MANIFEST).read_text("utf-8"))["answers"]["cache_hits"] == 0
    for path in (project.folder / "cache/trained").iterdir():  # another training, of which nothing is remembered
        path.rename(path.with_name(f"{path.name}.old"))
    assert project.run("--set", "train.skill=0.97").code == 0
    answers = json.loads((export / EVIDENCE / MANIFEST).read_text("utf-8"))["answers"]
    assert answers == {"requests": 2 * len(ROWS), "cache_hits": len(ROWS)}
    found = verify_export(export, policy)
    assert f"{len(ROWS)} answers came from the cache of an earlier run" in found.refused
    assert project.run("--set", "train.skill=0.97", "--no-cache").code == 0
    assert json.loads((export / EVIDENCE / MANIFEST).read_text("utf-8"))["answers"]["cache_hits"] == 0


MARKED = """
from harness import Score, evaluator, hookimpl, metric
from harness.internals import request_key

@evaluator(marks="answers")
@metric("exact", better="higher", scale="proportion")
def judged(samples, answers, baseline_answers, *, marking, max_new_tokens: int = 64):
    keys = {s.id: request_key("judge", "mark", s.id, a) for s, a in zip(samples, answers)}
    known = marking.responses.find(keys.values()) if marking.responses else {}
    for sample, answer in zip(samples, answers):
        mark = known.get(keys[sample.id], float(answer == sample.target))
        if marking.responses:
            marking.responses.store(keys[sample.id], mark)
            marking.responses.flush()
        yield Score(sample.id, {"exact": mark}, answer=answer)

@hookimpl
def harness_evaluators():
    return {"judged": judged}
"""


@pytest.mark.slow
def test_remembered_marks_of_a_judge_count(project: Project) -> None:
    """Who could write the answers of a model into the cache could write a judge's marks there."""
    suite = SUITE.replace('use = "exact_match"', 'use = "judged"').replace("qa.exact_match", "qa.exact")
    project.write({"suite.toml": suite, "harnessfile.py": MARKED, "test.jsonl": ROWS, "train.jsonl": TRAIN})
    assert project.run().code == 0
    for path in (project.folder / "cache/trained").iterdir():
        path.rename(path.with_name(f"{path.name}.old"))
    assert project.run("--set", "train.skill=0.97").code == 0
    export = project.folder / "exports/fake"
    answers = json.loads((export / EVIDENCE / MANIFEST).read_text("utf-8"))["answers"]
    assert answers["requests"] == 2 * len(ROWS)
    assert 0 < answers["cache_hits"] <= len(ROWS)
    refused = verify_export(export, Policy(["fake"], cached_answers=False, threshold=0)).refused
    assert "answers came from the cache of an earlier run" in refused
