"""Files -> rows -> Samples."""

from __future__ import annotations

import pytest

from harness.data import to_samples, to_training_rows
from harness.errors import UsageError
from harness.testing import Project
from tests.test_suite import ROWS, SUITE, TRAIN

WRONG = {
    "empty": ("", "has no rows"),
    "half JSON": ('{"input": "a say b", "target": "b"}\n{"input": "c', "suite.toml"),
    "a list line": ("[1, 2]\n", "row 0 is [1, 2], want an object"),
    "without the columns": ('{"q": "x", "kind": "a"}\n', 'no column "input"'),
    "duplicate ids": ('{"id": 1, "input": "a", "target": "a", "kind": "a"}\n' * 2, "1 ids stand in more than one row"),
    "too long": ('{"input": "' + "word " * 500 + '", "target": "a", "kind": "a"}\n', "longer than the model's context"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_data_is_one_clear_line(project: Project, case: str) -> None:
    """Each kind of wrong data exits 4 with the file named, before anything is measured."""
    content, told = WRONG[case]
    project.write({"suite.toml": SUITE, "test.jsonl": content, "train.jsonl": TRAIN})
    outcome = project.run()
    assert outcome.code == 4
    assert told in outcome.err or (case == "half JSON" and "test.jsonl:2: not valid JSON" in outcome.err)
    assert "Traceback" not in outcome.err
    assert not list(project.folder.glob("reports/*"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("test.json", '[{"input": "a say b", "target": "b", "kind": "a"}]'),
        ("test.csv", 'input,target,kind\n"a, say b",b,a\n'),
        ("test.jsonl", '\ufeff{"input": "a\u2028 say b", "target": "b", "kind": "a"}\n\n'),
    ],
)
def test_formats_are_read(project: Project, name: str, content: str) -> None:
    """JSON, CSV with quoted commas, and JSON lines with a BOM, line separators and blank lines are one row each."""
    suite = SUITE.replace("test.jsonl", name)
    project.write({"suite.toml": suite, name: content, "train.jsonl": TRAIN})
    outcome = project.run("--collect-only")
    assert (outcome.code, "base::qa  1 rows" in outcome.out) == (0, True)


def test_parquet_is_read(project: Project) -> None:
    """A parquet file is rows too."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), project.folder / "test.parquet")
    project.write({"suite.toml": SUITE.replace("test.jsonl", "test.parquet"), "train.jsonl": TRAIN})
    assert "base::qa  60 rows" in project.run("--collect-only").out


def test_columns_are_renamed() -> None:
    """`columns` says which of the data's columns are our id, input and target."""
    rows = [{"n": 7, "q": "why", "a": "so"}]
    (sample,) = to_samples(rows, "x", columns={"id": "n", "input": "q", "target": "a"}, cluster="n", slices=())
    assert (sample.id, sample.input, sample.target, sample.cluster) == ("7", "why", "so", "7")


def test_chat_messages_end_in_the_target() -> None:
    """The last turn of a conversation is what is wanted, the turns before it are the prompt."""
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    (sample,) = to_samples([{"messages": turns}], "x", columns={}, cluster=None, slices=())
    assert (sample.input, sample.target) == (turns[:1], "hello")


def test_training_rows_have_the_space_that_evaluation_has() -> None:
    """Between a text prompt and its completion stands the one space that is scored in evaluation."""
    rows = [{"input": "Q:", "target": "yes"}, {"input": "Q:\n", "target": "yes"}]
    assert to_training_rows(rows, {}, "x") == [
        {"prompt": "Q:", "completion": " yes"},
        {"prompt": "Q:\n", "completion": "yes"},
    ]


def test_training_rows_of_no_known_shape_are_refused() -> None:
    """A row that is neither prompt and completion, messages nor text is told by its number and columns."""
    with pytest.raises(UsageError, match='row 0 has "foo"'):
        to_training_rows([{"foo": 1}], {}, "x")
