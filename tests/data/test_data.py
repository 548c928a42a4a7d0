"""Files -> rows -> Samples."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from harness.data.judged_rows import to_judged_rows
from harness.data.rows import read_rows, target_as_continuation, to_samples, to_training_rows
from harness.errors import UsageError
from harness.records.samples import Sample
from harness.testing import ROWS, SUITE, TRAIN, Project
from tests.helpers.speed import time_call

WRONG = {
    "empty": ("", "has no rows"),
    "half JSON": ('{"input": "a say b", "target": "b"}\n{"input": "c', "suite.toml"),
    "a list line": ("[1, 2]\n", ": row 1 is [1, 2]; it must be an object"),
    "without the columns": ('{"q": "x", "kind": "a"}\n', 'no column "input"'),
    "duplicate ids": (
        '{"id": 1, "input": "a", "target": "a", "kind": "a"}\n' * 2,
        '1 id used by more than one row, for instance "',
    ),
    "too long": (
        '{"input": "' + "word " * 500 + '", "target": "a", "kind": "a"}\n',
        'rows are longer than the model\'s context: row "0" has 501 tokens; at most 168',
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_data_is_one_clear_line(project: Project, case: str) -> None:
    """Each kind of wrong data exits 4 with the file named, before anything is measured."""
    content, told = WRONG[case]
    project.write({"suite.toml": SUITE, "test.jsonl": content, "train.jsonl": TRAIN})
    outcome = project.run()
    assert outcome.code == 4
    assert told in outcome.err or (case == "half JSON" and "test.jsonl:2: not valid JSON:" in outcome.err)
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
    assert (outcome.code, "base::qa  1 row\n" in outcome.out) == (0, True)


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
    """Between a prompt and its completion stands the space that is scored in evaluation, whatever they are called."""
    wanted = [{"prompt": "Q:", "completion": " yes"}, {"prompt": "Q:\n", "completion": "yes"}]
    for ours, theirs in (("input", "target"), ("prompt", "completion"), ("question", "answer")):
        rows = [{ours: prompt, theirs: "yes"} for prompt in ("Q:", "Q:\n")]
        assert to_training_rows(rows, {}, "x") == wanted
        assert to_training_rows(rows, {"input": ours, "target": theirs}, "x") == wanted
        samples = to_samples(rows, "x", columns={}, cluster=None, slices=())
        assert [target_as_continuation(s.input, str(s.target)) for s in samples] == [
            row["completion"] for row in wanted
        ]
    assert to_training_rows([{"prompt": "Q:", "completion": " yes"}], {}, "x") == wanted[:1]


def test_judged_rows_have_the_space_that_evaluation_has() -> None:
    """A chosen and a rejected text, and one with a label, stand after the prompt as they are compared in evaluation."""
    row = {"prompt": "Q:", "chosen": "yes", "rejected": "\nno", "completion": "yes", "label": True}
    names = {"dpo": ("prompt", "chosen", "rejected"), "kto": ("prompt", "completion", "label")}
    wanted = {
        "dpo": {"prompt": "Q:", "chosen": " yes", "rejected": "\nno"},
        "kto": {"prompt": "Q:", "completion": " yes", "label": True},
    }
    for use, columns in names.items():
        assert to_judged_rows([row], columns, {}, "x", {}) == [wanted[use]]


def test_training_rows_of_no_known_shape_are_refused() -> None:
    """A row that is neither prompt and completion, messages nor text is told by its number and columns."""
    with pytest.raises(UsageError, match='row 1 has the columns "foo"'):
        to_training_rows([{"foo": 1}], {}, "x")


def make_samples(*rows: object, **how: object) -> list[Sample]:
    """Make samples of rows as an eval does."""
    given = {"columns": {}, "cluster": None, "slices": (), **how}
    return to_samples(list(rows), "x", **given)  # type: ignore[arg-type]


def test_null_target_is_an_empty_one() -> None:
    """A target of null, or one that ends a conversation, is "" and never the text "None"; in a list it is empty too."""
    assert [s.target for s in make_samples({"input": "a", "target": None}, {"input": "b", "target": "x"})] == ["", "x"]
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None, "tool_calls": [1]}]
    assert make_samples({"messages": turns})[0].target == ""
    assert make_samples({"input": "a", "target": ["x", None]})[0].target == ["x", ""]
    assert make_samples({"question": "a", "gold": None}, columns={"target": "gold"})[0].target == ""


def test_numbers_are_targets() -> None:
    """A number is wanted as its text: data sets of sums have it so."""
    rows = [{"input": "2+2", "target": 4}, {"input": "1/2", "target": 0.5}, {"input": "a", "target": [1, "one"]}]
    assert [s.target for s in make_samples(*rows)] == ["4", "0.5", ["1", "one"]]


@pytest.mark.parametrize("odd", [True, math.nan, math.inf, {"text": "b"}, ["b", ["c"]], ["b", False]])
def test_target_that_is_no_text_is_refused(odd: object) -> None:
    """What would be matched as Python writes it is refused with the row and the number of such rows."""
    with pytest.raises(UsageError, match=r"row 2 has .* as its target \(2 such rows\); give text or a number"):
        make_samples({"input": "a", "target": "b"}, {"input": "b", "target": odd}, {"input": "c", "target": odd})


@pytest.mark.parametrize("key", ["id", "cluster", "slice"])
@pytest.mark.parametrize("odd", [None, math.nan, ["a"], {"a": 1}])
def test_names_that_are_none_join_no_rows(key: str, odd: object) -> None:
    """An id, a cluster or a slice of null is refused: it would be the text "None", and rows that share it one."""
    rows = [
        {"input": "a", "id": "a", "cluster": "a", "slice": "a"},
        {"input": "b", "id": "b", "cluster": "b", "slice": "b"},
    ]
    with pytest.raises(UsageError, match=r"row 2 has .* in every row"):
        make_samples(rows[0], {**rows[1], key: odd}, cluster="cluster", slices=("slice",))


@pytest.mark.parametrize("content", [3, True, {"a": 1}, None, [1], [], ["text"], [{"text": "no type"}]])
def test_message_without_text_is_refused(content: object) -> None:
    """A turn whose content is a number is no prompt."""
    with pytest.raises(UsageError, match="row 1 has "):
        make_samples({"input": [{"role": "user", "content": content}], "target": "x"})


def test_null_is_not_trained() -> None:
    """A training target of null is an empty one, which the checks tell, and not the text "None"."""
    assert to_training_rows([{"input": "Q:\n", "target": None}], {}, "x") == [{"prompt": "Q:\n", "completion": ""}]
    assert to_training_rows([{"input": "Q:", "target": None}], {}, "x") == [{"prompt": "Q:", "completion": ""}]
    assert to_training_rows([{"prompt": "a", "completion": None}], {}, "x") == [{"prompt": "a", "completion": ""}]
    assert to_training_rows([{"input": "Q:\n", "target": 4}], {}, "x") == [{"prompt": "Q:\n", "completion": "4"}]
    for odd in (True, math.nan, ["a"]):
        with pytest.raises(UsageError, match=r"row 2 has .* as its target; give text, a number or an object"):
            to_training_rows([{"input": "a", "target": "b"}, {"input": "a", "target": odd}], {}, "x")


def test_null_target_does_not_ship(project: Project) -> None:
    """A suite whose test rows want nothing is a mistake in the data, as with empty ones: exit 4, nothing exported."""
    for nothing in (None, ""):
        rows = [{**row, "target": nothing} for row in ROWS]
        outcome = project.write({"suite.toml": SUITE, "test.jsonl": rows, "train.jsonl": TRAIN}).run()
        assert (outcome.code, "target is missing or empty" in outcome.out + outcome.err) == (4, True)
        assert not (project.folder / "exports").exists()


BROKEN_FILES = {
    "a field too many": ("test.csv", "input,target,kind\na say b,b,a\na say c,c,a,x\n", "test.csv:3: has 4 fields"),
    "a field too few": (
        "test.csv",
        "input,target,kind\na say b\n",
        "test.csv:2: has 1 fields, but the header has 3;",
    ),
    "a long field": ("test.csv", f"input,target,kind\n{'a' * 131_073},b,a\n", "test.csv:2: not valid CSV:"),
    "a column twice": (
        "test.csv",
        "input,target,kind,kind\na,b,a,a\n",
        'test.csv:1: the column "kind" occurs twice in the header; rename one',
    ),
    "a key twice": (
        "test.jsonl",
        '{"input": "a", "target": "b", "target": "c"}\n',
        'test.jsonl:1: the key "target" occurs twice; keep one of them',
    ),
    "digits": (
        "test.jsonl",
        '{"input": "a", "n": ' + "1" * 5000 + "}\n",
        "test.jsonl:1: contains an integer of thousands of digits",
    ),
    "depth": (
        "test.jsonl",
        '{"input": "a", "n": ' + "[" * 900 + "]" * 900 + "}\n",
        "is nested more than 100 levels deep",
    ),
    "depth of all": ("test.json", "[" * 50_000, "is nested more than 100 levels deep"),
    "no path": ("nobody\\u0000.jsonl", "", '"data" contains an invalid character'),
    "a long path": ("a" * 5000 + ".jsonl", "", "is not a path"),
    "nobody's home": ("~nobody-at-all/x.jsonl", "", "is not a path"),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_broken_file_is_one_clear_line(project: Project, case: str) -> None:
    """What no parser or no file system takes exits 4 with its place, and never with a traceback."""
    name, content, told = BROKEN_FILES[case]
    project.write({"suite.toml": SUITE.replace("test.jsonl", name), "train.jsonl": TRAIN})
    if content:
        project.write({name: content})
    outcome = project.run("--collect-only")
    assert (outcome.code, told in outcome.err, "Traceback" in outcome.err) == (4, True, False)


def test_all_ragged_rows_of_a_file_are_told_at_once(project: Project) -> None:
    """Each row of the wrong length is a line; of very many the first twenty are, and how many more there are."""
    project.write({"suite.toml": SUITE.replace("test.jsonl", "test.csv"), "train.jsonl": TRAIN})
    project.write({"test.csv": "input,target,kind\n" + "a say b,b,a\na,b\n" * 100})
    lines = project.run("--collect-only").err.splitlines()
    assert len(lines) == 21
    assert "test.csv:3: has 2 fields" in lines[0]
    assert ": 80 more rows like these" in lines[-1]


@pytest.mark.slow
def test_row_of_100_megabytes_is_refused_at_once(project: Project) -> None:
    """A row that no context holds is one line after hardly more than reading it; a long one is read."""
    project.write({"suite.toml": SUITE, "train.jsonl": TRAIN})
    project.write(
        {"test.jsonl": [*ROWS, {"input": "a say b", "target": "b", "kind": "a", "notes": ["x" * 100_000_000]}]}
    )
    text = (project.folder / "test.jsonl").read_text("utf-8")
    reading = time_call(lambda: [json.loads(line) for line in text.splitlines()], tries=1)
    outcomes = []
    assert time_call(lambda: outcomes.append(project.run("--collect-only")), tries=1) < 20 * reading
    [outcome] = outcomes
    assert (outcome.code, "row 61 has more than 10,000,000 characters (1 such rows)" in outcome.err) == (4, True)
    project.write({"test.jsonl": [*ROWS, {"input": "a say b", "target": "b", "kind": "a", "notes": ["x" * 9_000_000]}]})
    assert project.run("--collect-only").code == 0


@pytest.mark.parametrize("odd", [3, {"text": 3}, {"text": None}, None])
def test_column_of_choices_that_are_none_is_no_crash(project: Project, odd: object) -> None:
    """A column that only happens to be called "choices" is not looked into when prompts are measured."""
    rows = [{**row, "choices": odd} for row in ROWS]
    assert project.write({"suite.toml": SUITE, "test.jsonl": rows, "train.jsonl": TRAIN}).run().code == 0


def test_row_of_the_eval_is_never_its_own_example(project: Project) -> None:
    """Training rows that ask what a row of the eval asks are no worked examples, nor are rows without a target."""
    from harness.pipeline.run import Options, prepare_collection

    mine = [*TRAIN, *ROWS[:40], {"input": "no answer", "target": None}]
    suite = SUITE + "\n[subject.fewshot]\nshots = 3\n"
    project.write({"suite.toml": suite, "test.jsonl": ROWS, "train.jsonl": mine})  # type: ignore[dict-item]
    collection = prepare_collection(project.folder / "suite.toml", Options(plugins=("harness.testing",)))
    assert [s.input for s in collection.tasks["qa"].shots] == [row["input"] for row in TRAIN]


@pytest.mark.parametrize(
    ("prompt", "target", "joined"),
    [("a:", "b", " b"), ("a:\n", "b", "b"), ("a: ", "b", "b"), ("a:", " b", " b"), ("", "b", "b"), ([], "b", "b")],
)
def test_a_target_follows_its_prompt_as_in_training(prompt: Any, target: str, joined: str) -> None:
    """There is one space between two texts, and none where white space parts them already."""
    assert target_as_continuation(prompt, target) == joined


def test_an_object_is_trained_as_json() -> None:
    """What the evaluator `json` wants can be trained: an object is its JSON, as one text."""
    [row] = to_training_rows([{"input": "a", "target": {"k": "é"}}], {}, "x")
    assert row == {"prompt": "a", "completion": ' {"k": "é"}'}


def test_columns_without_a_name_are_no_column_twice(tmp_path: Path) -> None:
    """A workbook that is saved as CSV may end in empty columns."""
    (tmp_path / "a.csv").write_text("input,target,,\na,b,,\n", "utf-8")
    assert read_rows("a.csv", tmp_path, lambda _: None, "x") == [{"input": "a", "target": "b", "": ""}]


def test_equal_mistakes_are_one_line_with_a_count() -> None:
    """Rows that are wrong in the same way are said once."""
    with pytest.raises(UsageError) as told:
        to_training_rows([{"input": "a", "target": [1]}] * 30 + [{"input": 5, "target": "b"}], {}, "x")
    assert [m.partition(": ")[2] for m in told.value.messages] == [
        "row 1 has [1] as its target; give text, a number or an object (30 such rows)",
        "row 31 has 5 as its input; give text, or messages with role and content",
    ]


def test_a_value_that_is_cut_says_so() -> None:
    """A long value in a message ends in an ellipsis."""
    with pytest.raises(UsageError, match=r"row 1 has \['aaaa.*a… as its target"):
        to_training_rows([{"input": "a", "target": ["a" * 99]}], {}, "x")


def test_a_number_as_completion_is_its_text() -> None:
    """Training learns the text that an evaluation wants, and refuses what it refuses."""
    [row] = to_training_rows([{"prompt": "2+2?", "completion": 4}], {}, "x")
    assert row == {"prompt": "2+2?", "completion": " 4"}
    asked = [{"role": "user", "content": "2+2?"}]
    [row] = to_training_rows([{"prompt": asked, "completion": "4"}], {}, "x")
    assert row == {"prompt": asked, "completion": [{"role": "assistant", "content": "4"}]}
    said = {"role": "assistant", "content": "4"}
    [row] = to_training_rows([{"prompt": asked, "completion": said}], {}, "x")
    assert row == {"prompt": asked, "completion": [said]}
    with pytest.raises(UsageError, match="x: row 1 has True as its completion; give text, a number or messages"):
        to_training_rows([{"prompt": "2+2?", "completion": True}], {}, "x")
