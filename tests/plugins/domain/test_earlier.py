"""`regression`: answers that must not change, by targets and by a baseline's own answers."""

from __future__ import annotations

from typing import Any

import pytest

from harness import UsageError
from harness.records.samples import Sample
from harness.testing import ROWS, SUITE, Project, write_fake
from harness_domain import regression

EVAL = """
[[eval]]
name = "as-before"
use = "regression"
data = "kept.jsonl"

[[gate]]
id = "as before"
metric = "as-before.same"
min = 0.8
"""


def mark(answer: str, target: Any, **options: Any) -> dict[str, float]:
    """Return the values of one answer beside what was answered before."""
    (score,) = regression([Sample("1", "q", target)], [answer], None, marking=None, **options)  # type: ignore[arg-type]
    return dict(score.values)


@pytest.mark.parametrize(
    ("answer", "earlier", "options", "same", "similar"),
    [
        ("It is Paris.", "It is  Paris.\n", {}, 1, 1),
        ("It is paris", "It is Paris.", {}, 0, 4 / 6),
        ("It is paris", "It is Paris.", {"ignore_case": True, "ignore_punctuation": True}, 1, 1),
        ("a b c d", "a c d e", {}, 0, 0.75),
        ("", "a", {}, 0, 0),
        ("caf\u0065\u0301", "caf\u00e9", {}, 1, 1),
    ],
)
def test_same_and_similar(answer: str, earlier: str, options: dict[str, Any], same: int, similar: float) -> None:
    """Spaces do not count, all else does unless the suite says so; words in their order make two texts similar."""
    assert mark(answer, earlier, **options) == {"same": same, "similar": pytest.approx(similar)}


def test_rows_need_one_answer() -> None:
    """A row without an earlier answer, or with two, is refused."""
    with pytest.raises(UsageError, match="target is missing or empty"):
        mark("a", "")
    with pytest.raises(UsageError, match='": has 2 targets; give the one answer that must not change'):
        mark("a", ["a", "b"])


@pytest.mark.parametrize(("skill", "outcome", "code"), [(0.95, "PASS", 0), (0.4, "FAIL", 1)])
def test_a_model_that_answers_otherwise_is_held_back(project: Project, skill: float, outcome: str, code: int) -> None:
    """Answers that were kept decide whether a model still says them."""
    rows = [{"id": row["id"], "input": row["input"], "target": row["target"]} for row in ROWS]
    write_fake(project.folder / "candidate", skill)
    suite = SUITE.split("[adapter]")[0] + EVAL
    project.write({"suite.toml": suite, "kept.jsonl": rows})
    done = project.run("--candidate", "candidate")
    assert (done.code, done.verdict("as before")) == (code, outcome)


@pytest.mark.slow
def test_against_a_release(project: Project) -> None:
    """With `earlier = "against"` a release answers in the same run, and needs no table of its own."""
    against = EVAL.replace('"kept.jsonl"', '"kept.jsonl"\nearlier = "against"\nagainst = "released"')
    rows = [{"id": row["id"], "input": row["input"]} for row in ROWS]
    train = [{"input": "train say t", "target": "t"}]
    project.write({"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": train, "kept.jsonl": rows})
    assert project.run().code == 0  # the release
    project.write({"suite.toml": SUITE.replace('use = "fake"\ndata', 'use = "fake"\nskill = 0.88\ndata') + against})
    done = project.run()
    assert (done.code, done.verdict("as before")) == (0, "PASS")
    metrics = {r.subject: dict(r.metrics) for r in done.report.results if r.eval == "as-before"}
    assert metrics["released"] == {}
    assert 0.8 < metrics["merged"]["same"] < 1
    project.write({"suite.toml": SUITE.replace('use = "fake"\ndata', 'use = "fake"\nskill = 0.5\ndata') + against})
    assert project.run().verdict("as before") == "FAIL"


@pytest.mark.parametrize(
    ("more", "rows", "what"),
    [
        ("", [{"input": "a"}], 'row "0": target is missing or empty; map a column to it'),
        (
            "",
            [{"input": "a", "target": ["b", "c"]}],
            'row "0": has 2 targets; give the one answer that must not change',
        ),
        ("", [{"input": "a", "target": {"b": 1}}], "has {'b': 1} as its target (1 such rows); give text or a number"),
        ('earlier = "last"', [{"input": "a", "target": "b"}], '"earlier" is "last"; it must be "target" or "against"'),
        (
            'earlier = "against"\nagainst = "nobody"',
            [{"input": "a"}],
            'against is "nobody", which is not a model of the suite',
        ),
    ],
)
def test_mistakes_are_told_at_collection(project: Project, more: str, rows: list[Any], what: str) -> None:
    """A row or an option that is wrong is one line, before anything is opened."""
    suite = SUITE.split("[adapter]")[0] + EVAL.split("[[gate]]")[0] + more
    project.write({"suite.toml": suite, "kept.jsonl": rows})
    done = project.run("--collect-only")
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert what in done.err
