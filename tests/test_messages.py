"""Messages name what is wrong: the key, the gate, the line, the value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import UsageError
from harness.release.policy import read_policy
from harness.rows.gating import choose_metric
from harness.rows.records import RawMetric, RawRow, RawRows, Wanted
from harness.stats import inputs
from harness.texts.json_text import read_json
from harness_domain import values
from harness_sft.rows import split_rows
from harness_view.labels import read_label


def test_a_key_that_occurs_twice_is_named() -> None:
    """In evidence and in an answer."""
    text = '{"a": 1, "b": {"r": 1, "r": 2}}'
    with pytest.raises(ValueError, match='the key "r" occurs twice'):
        read_json(text)
    with pytest.raises(ValueError, match='has the key "r" twice'):
        values.parse_json(text)


@pytest.mark.parametrize(
    ("row", "weight", "culprit"),
    [(1.3, 1.0, "1.3"), (-0.5, 1.0, "-0.5"), (float("nan"), 1.0, "nan"), (0.5, -2.0, "-2")],
)
def test_a_value_that_no_row_can_have_is_named(row: float, weight: float, culprit: str) -> None:
    """Outside of the range, not a number, or a negative weight."""
    with pytest.raises(ValueError, match=f"is {culprit}[,;]"):
        inputs.as_rows([0.5, row], [1.0, weight], (0.0, 1.0))


def test_keys_of_a_policy_that_occur_twice_are_named(tmp_path: Path) -> None:
    """By what they share: the public half, or the id."""
    for one, other, culprit in ((("a", "0"), ("b", "0"), 'public "000'), (("a", "0"), ("a", "1"), 'keyid "a"')):
        tables = "".join(f'[[key]]\nkeyid = "{i}"\npublic = "{digit * 64}"\n' for i, digit in (one, other))
        (tmp_path / "policy.toml").write_text(f'suites = ["*"]\n{tables}', "utf-8")
        with pytest.raises(UsageError) as error:
            read_policy(tmp_path / "policy.toml")
        assert culprit in str(error.value)


def test_runs_that_disagree_about_a_metric_are_named() -> None:
    """Each side with what it says."""
    rows = (RawRow(values={"m": 0.5}),)
    runs = [RawRows("tool", "model", "task", {"m": RawMetric(better)}, rows) for better in ("higher", "lower")]
    with pytest.raises(UsageError, match="base says better = higher, candidate says better = lower"):
        choose_metric(runs, Wanted(metric="m"))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "not valid JSON"),
        ("[]", '"id" and "label"'),
        ('{"id": "a", "label": "yes!"}', 'label is "yes!"; write one of candidate, baseline, tie, yes, no'),
    ],
)
def test_a_line_that_is_not_a_label_says_why(line: str, what: str) -> None:
    """After where it is."""
    with pytest.raises(UsageError) as error:
        read_label(line, "labels.jsonl line 51")
    assert str(error.value).startswith("labels.jsonl line 51: ") and what in str(error.value)
    assert read_label(json.dumps({"id": "a", "label": "tie"}), "")["label"] == "tie"


def test_a_share_that_cannot_be_held_out_says_which_could() -> None:
    """Where one group has all rows there is none; else the one that is named can be held out."""
    rows = [{"prompt": f"p{i // 4}", "completion": "x", "row": i} for i in range(40)]
    with pytest.raises(UsageError, match=r"asks for 2 of 40 rows.* the smallest group has 4; set at least 0.1,"):
        split_rows(rows, 0.05, 0)
    assert len(split_rows(rows, 0.1, 0)[1]) == 4
    with pytest.raises(UsageError, match=r"asks for 8 of 40 rows.* form a single group"):
        split_rows([{**row, "group": "one"} for row in rows], 0.2, 0)
    with pytest.raises(UsageError, match=r"asks for 40 of 40 rows, which leaves none to train on"):
        split_rows(rows, 0.999, 0)


def test_no_message_installs_this_package_from_an_index() -> None:
    """The name is not on an index, where anybody could register it: messages and pages name modules, or the clone."""
    root, kinds = Path(__file__).parents[1], (".py", ".md")
    files = [p for name in ("harness", "plugins", "docs") for p in (root / name).rglob("*") if p.suffix in kinds]
    assert [str(p) for p in files if "pip install 'finetune-harness" in p.read_text("utf-8")] == []
