"""What an evaluator says its rows must be, and rows whose targets are JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.data.rows import to_samples
from harness.errors import UsageError
from harness.testing import SUITE, Project

PLUGIN = """
from harness import Metric, Score, UsageError, evaluator, hookimpl, metric

def check_rows(samples, options, folder):
    assert folder.is_dir()
    for sample in samples:
        sample.row["seen"] = True
        if sample.target != options.get("want", "yes"):
            raise UsageError(f'row "{sample.id}": is {sample.target}')

@evaluator(check_rows=check_rows)
@metric("fine", better="higher", scale="proportion")
def strict(subject, samples, *, want: str = "yes"):
    for sample in samples:
        assert "seen" not in sample.row
        yield Score(sample.id, {"fine": 1.0})

@hookimpl
def harness_evaluators():
    return {"strict": strict}
"""
EVAL = """
[suite]
name = "s"

[model]
use = "fake"
path = "base"

[[eval]]
name = "strict"
use = "strict"
data = "test.jsonl"
"""


@pytest.mark.parametrize(
    ("trained", "asked", "told"),
    [
        ("test.jsonl[:50]", "test.jsonl[40:]", "the slices overlap in 10 rows; choose slices without common rows"),
        ("test.jsonl", "test.jsonl[-1:]", "the slices overlap in 1 row; choose slices without common rows"),
        ("test.jsonl[:50]", "test.jsonl[50:]", ""),
        ("train.jsonl", "test.jsonl", ""),
    ],
)
def test_slices_that_overlap_are_told_at_collection(suite: Project, trained: str, asked: str, told: str) -> None:
    """Of one file, whatever stands in its rows; before a check looks at them, and without one."""
    words = ["--set", f"train.data={trained}", "--set", f"eval.qa.data={asked}"]
    said = suite.run("--collect-only", *words).err
    assert told in said and ("the slices overlap in" in said) == bool(told), said


@pytest.mark.parametrize(("shots", "told"), [(99, True), (20, False)])
def test_fewer_worked_examples_than_asked_for_are_told(suite: Project, shots: int, told: bool) -> None:
    """A claim about 99 examples is none about the twenty that there are."""
    suite.write({"suite.toml": f"{SUITE}\n[subject.fewshot]\nshots = {shots}\n"})
    said = suite.run("--collect-only").err
    assert (f'"qa" has 20 worked examples, fewer than shots = {shots}' in said) == told, said


def test_an_evaluator_refuses_rows_at_collection(project: Project) -> None:
    """What its `check_rows` raises is a mistake of the eval, of its select split too; it gets copies."""
    rows = [{"input": "a", "target": "yes"}, {"input": "b", "target": "no"}]
    project.write({"harnessfile.py": PLUGIN, "suite.toml": EVAL, "test.jsonl": rows[:1], "select.jsonl": rows[1:]})
    assert project.run("--collect-only").code == 0
    assert project.run().report.results[0].metrics == {"fine": 1.0}
    (project.folder / "suite.toml").write_text(EVAL + 'select = "select.jsonl"\n', "utf-8")
    done = project.run("--collect-only")
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert 'eval "strict": row "0": is no' in done.err


def test_a_check_that_crashes_is_told(project: Project) -> None:
    """What a plugin's own code raises is one line that names the evaluator."""
    broken = PLUGIN.replace("assert folder.is_dir()", "1 / 0")
    project.write({"harnessfile.py": broken, "suite.toml": EVAL, "test.jsonl": [{"input": "a", "target": "yes"}]})
    done = project.run("--collect-only")
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert '"strict" failed to check its rows: harnessfile.py:5: ZeroDivisionError: division by zero' in done.err


def test_wrong_options_are_told_once(project: Project) -> None:
    """Rows are not checked with options that are none."""
    project.write({"harnessfile.py": PLUGIN, "suite.toml": EVAL + "want = 5\n", "test.jsonl": [{"input": "a"}]})
    done = project.run("--collect-only")
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert '"want" is 5; it must be a string' in done.err


def read_json_target(row: dict[str, Any], **columns: str) -> Any:
    """Return the target of a row whose evaluator takes JSON."""
    about = {"columns": columns, "cluster": None, "slices": ()}
    (sample,) = to_samples([{"input": "q", **row}], "here", **about, json_targets=True)  # type: ignore[arg-type]
    return sample.target


@pytest.mark.parametrize("value", [[], {}, [{"a": [1, None]}], 5, 0.5, True, False, ["x"], "é", {"é": "\u2028"}])
def test_json_targets(value: Any) -> None:
    """Any value is given as its JSON; a text is JSON already, and null is no target."""
    found = read_json_target({"target": value})
    assert found == value if isinstance(value, str) else json.loads(found) == value
    assert read_json_target({"wanted": value}, target="wanted") == found
    assert read_json_target({"target": None}) == read_json_target({}) == ""


def test_calls_end_messages() -> None:
    """Of messages that end in calls the calls are wanted, and of others what is said."""
    calls = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]
    asked = {"role": "user", "content": "?"}
    about = {"columns": {}, "cluster": None, "slices": ()}
    for last, wanted in (({"content": None, "tool_calls": calls}, json.dumps(calls)), ({"content": "no"}, "no")):
        row = {"messages": [asked, {"role": "assistant", **last}]}
        (sample,) = to_samples([row], "here", **about, json_targets=True)  # type: ignore[arg-type]
        assert (sample.target, sample.input) == (wanted, [asked])


def test_targets_are_text_where_nobody_asked_for_json() -> None:
    """Without `json_targets` an object is refused as before."""
    with pytest.raises(UsageError, match="as its target"):
        to_samples([{"input": "q", "target": {"a": 1}}], "here", columns={}, cluster=None, slices=())
