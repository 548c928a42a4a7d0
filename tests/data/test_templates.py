"""Templates, slices of sources, choices in the suite, and rows that could be read in two ways."""

from __future__ import annotations

from typing import Any

import pytest

from harness import UsageError
from harness.data.ambiguity import find_ambiguous_row
from harness.data.reading import split_slice
from harness.data.rows import to_samples, to_training_rows
from harness.data.templates import fill_template, find_template_error
from harness.testing import ROWS, SUITE, TRAIN, Project

ROW = {"text": "lost {my} card", "category": "card", "n": 3}
TEMPLATE = 'template = "Question {n}: {text}\\nA:"\ncolumns = { target = "label" }\n'
NAMED = [{"text": f"say w{i}", "n": i, "label": f"w{i}"} for i in range(60)]


def test_template_writes_the_input_out_of_columns() -> None:
    """Columns stand in braces, doubled braces stand for themselves, and braces in a row are text."""
    [written] = fill_template("{{{n}}} {text}\n{n}:", [ROW], "x")
    assert written == "{3} lost {my} card\n3:"


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("Customer: {text", "has an unmatched brace; write a column's name between two,"),
        ("Customer: text}", "has an unmatched brace; write a column's name between two,"),
        ("{text.upper}", 'has "{text.upper}"'),
        ("{text[0]}", 'has "{text[0]}"'),
        ("{text!r}", 'has "{text!r}"'),
        ("{n:>10}", 'has "{n:>10}"'),
        ("{n:{width}}", 'has "{n:{width}}"'),
        ("{}", 'has "{}"'),
        ("Intent:", "has no column"),
        ("", "has no column"),
        ("{{text}}", "has no column"),
    ],
)
def test_what_is_no_template_is_told(template: str, told: str) -> None:
    """Attributes, indices, formats, lone braces and templates without a column are refused, each with its reason."""
    assert told in find_template_error(template)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"txt": "a"}, ': template: row 2 has no column "text" (1 such rows); did you mean "txt"?'),
        ({"text": None}, 'template: row 2 has null in column "text" ('),
        ({"text": ["a"]}, "template: row 2 has ['a'] in column \"text\" ("),
        ({"text": True}, 'template: row 2 has True in column "text" ('),
        ({"text": float("nan")}, 'template: row 2 has nan in column "text" ('),
    ],
)
def test_row_that_a_template_cannot_be_filled_with_is_told(row: dict[str, object], told: str) -> None:
    """A column that a row lacks is told with the one that was meant, and one that is no text with its value."""
    with pytest.raises(UsageError, match="template") as error:
        fill_template("{text}:", [ROW, row], "x")
    assert told in str(error.value)


def test_training_and_evaluation_read_a_template_alike() -> None:
    """The same template gives the same prompt, with one space before the answer in training."""
    columns = {"target": "category"}
    [sample] = to_samples([ROW], "x", columns=columns, cluster=None, slices=(), template="{text}\nIntent:")
    [row] = to_training_rows([ROW], columns, "x", template="{text}\nIntent:")
    assert row == {"prompt": sample.input, "completion": f" {sample.target}"}


def test_text_and_messages_can_be_mapped() -> None:
    """Columns that map "text" or "messages" choose that shape; any of the names may be mapped."""
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    row = {"input": "i", "target": "t", "body": "whole", "talk": said}
    assert to_training_rows([row], {"text": "body"}, "x") == [{"text": "whole"}]
    assert to_training_rows([row], {"messages": "talk"}, "x") == [{"messages": said}]
    assert to_training_rows([row], {"prompt": "body", "completion": "target"}, "x") == [
        {"prompt": "whole", "completion": " t"}
    ]
    [sample] = to_samples([{"talk": said}], "x", columns={"messages": "talk"}, cluster=None, slices=())
    assert (sample.input, sample.target) == (said[:1], "b")


def _train(project: Project, rows: list[dict[str, object]], keys: str = "", eval_keys: str = "") -> str:
    suite = SUITE.replace('data = "train.jsonl"\n', f'data = "train.jsonl"\n{keys}')
    suite = suite.replace('data = "test.jsonl"\nslices = ["kind"]\n', f'data = "test.jsonl"\n{eval_keys}')
    test = rows if eval_keys else ROWS
    project.write({"suite.toml": suite, "test.jsonl": test, "train.jsonl": rows})  # type: ignore[dict-item]
    outcome = project.run("--collect-only")
    assert outcome.code in (0, 4)
    return outcome.err if outcome.code else ""


PAIR = {"input": "a say b", "target": "b"}
READINGS = {
    "text beside a pair": ({**PAIR, "text": "c"}, 'could be read as "input" and "target" or as "text"'),
    "messages beside text": ({"messages": [], "text": "c"}, 'could be read as "messages" or as "text"'),
    "aliases beside text": ({"question": "a", "answer": "b", "text": "c"}, 'as "question" and "answer" or as "text"'),
    "two pairs": (
        {**PAIR, "prompt": "c", "completion": "d"},
        'as "input" and "target" or as "prompt" and "completion"',
    ),
    "two inputs": (
        {"prompt": "a", "question": "b", "answer": "c"},
        'has "prompt" and "question", either of which could be its',
    ),
    "two targets": (
        {"prompt": "a", "answer": "b", "completion": "c"},
        'has "completion" and "answer", either of which could be its',
    ),
}


CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"messages": CHAT, "prompt": "c"}, 'has "messages" and "prompt", either of which could be its input'),
        ({"messages": CHAT, "target": "c"}, 'has "messages" and "target", either of which could be its target'),
        ({"messages": CHAT, "answer": "b"}, ""),
        ({"messages": CHAT[:1], "answer": "c"}, ""),
    ],
)
def test_messages_beside_another_question_are_refused(row: dict[str, Any], told: str) -> None:
    """An evaluation that would read another column than training names both."""
    found = find_ambiguous_row([row], {}, None, training=False)
    assert found.startswith(f"row 1 {told}") if told else not found
    assert not find_ambiguous_row([row], {}, None, training=True)
    [sample] = to_samples([row], "x", columns={"messages": "messages"}, cluster=None, slices=())
    assert (sample.input, sample.target) == (CHAT[:1], "b" if len(row["messages"]) == 2 else "c")


@pytest.mark.parametrize("case", READINGS)
def test_row_with_several_readings_is_refused(project: Project, case: str) -> None:
    """What could be trained on in two ways is an error that names both, and says with which key to choose."""
    row, told = READINGS[case]
    err = _train(project, [{**row, "id": i} for i in range(3)])
    assert told in err
    assert "choose with columns = { " in err
    assert "row 1" in err and err.count("\n") == 1


def test_columns_choose_among_readings(project: Project) -> None:
    """Each of two readings can be chosen, a null is none, and an evaluation has no such thing as a text to ask."""
    row = READINGS["text beside a pair"][0]
    assert not _train(project, [row], 'columns = { text = "text" }\n')
    assert not _train(project, [row], 'columns = { input = "input", target = "target" }\n')
    assert not _train(project, [{**PAIR, "text": None}])
    rows: list[dict[str, object]] = [{**PAIR, "text": "c", "id": i} for i in range(60)]
    assert not _train(project, rows, 'columns = { text = "text" }\n', "limit = 50\n")
    assert '", either of which could be its input;' in _train(
        project, [READINGS["two inputs"][0]], 'columns = { target = "answer" }\n'
    )


def test_suite_with_a_template_passes(project: Project) -> None:
    """A suite whose rows have no column of our names runs with a template, few-shot examples too."""
    suite = SUITE.replace('data = "train.jsonl"\n', f'data = "test.jsonl[-20:]"\n{TEMPLATE}')
    suite = suite.replace('data = "test.jsonl"\nslices = ["kind"]\n', f'data = "test.jsonl[:-20]"\n{TEMPLATE}')
    suite = suite.replace("Question {n}: {text}\\nA:", "{n} {text}") + "\n[subject.fewshot]\nshots = 3\n"
    outcome = project.write({"suite.toml": suite, "test.jsonl": NAMED}).run()
    assert outcome.code == 0, outcome.err
    assert "base::qa" in outcome.out and "(40 rows" in outcome.out


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ('template = "{txt}"\n', ': template: row 1 has no column "txt" (60 such rows); did you mean "text"?'),
        ('template = "{text"\n', "template has an unmatched brace"),
        (
            'template = "{text}"\ncolumns = { input = "text" }\n',
            'builds the input, but columns maps "input" as well; remove one of them',
        ),
        (
            'template = "{text}"\n',
            'it needs a target as well as the template; name its column with columns = { target = "…" }',
        ),
        ("template = 3\n", '"template" is 3; it must be a string'),
    ],
)
def test_wrong_template_is_told_at_collection(project: Project, keys: str, told: str) -> None:
    """What is wrong with a template is one line that names the table, before anything runs."""
    err = _train(project, NAMED, keys)  # type: ignore[arg-type]
    assert told in err
    assert err.count("\n") == 1 and "[train]" in err


def test_eval_without_rows_has_no_template(project: Project) -> None:
    """A template where there are no rows to fill it with is told."""
    suite = SUITE + '\n[[eval]]\nname = "size"\nuse = "size"\ntemplate = "{text}"\n'
    outcome = project.write({"suite.toml": suite, "test.jsonl": ROWS, "train.jsonl": TRAIN}).run("--collect-only")
    assert (outcome.code, 'template applies to rows of "data", and "' in outcome.err) == (4, True)


@pytest.mark.parametrize(
    ("part", "want"),
    [
        ("[:2]", "012345"[:2]),
        ("[2:]", "2345"),
        ("[-2:]", "45"),
        ("[1:-1]", "1234"),
        ("[::2]", "024"),
        ("[:]", "012345"),
    ],
)
def test_slices_are_pythons(project: Project, part: str, want: str) -> None:
    """A slice of a file takes the rows that Python would."""
    from harness.internals import read_rows

    project.write({"x.csv": "n\n" + "\n".join("012345") + "\n"})
    rows = read_rows(f"x.csv{part}", project.folder, lambda _: None, "x")
    assert "".join(row["n"] for row in rows) == want


def test_slice_of_what_a_plugin_reads_is_taken_of_its_rows(project: Project) -> None:
    """A plugin is asked for the whole name first, and then for what stands before the slice."""
    from harness.internals import read_rows

    asked: list[str] = []

    def ask(source: str) -> list[dict[str, object]] | None:
        asked.append(source)
        return [{"n": i} for i in range(6)] if source == "pypi:six" else None

    assert read_rows("pypi:six[1:3]", project.folder, ask, "x") == [{"n": 1}, {"n": 2}]
    assert asked == ["pypi:six[1:3]", "pypi:six"]


@pytest.mark.parametrize("part", ["[:a]", "[1:2:3:4]", "[::0]", "[1.5:]", "[:" + "9" * 30 + "]"])
def test_slice_that_is_none_is_one_clear_line(project: Project, part: str) -> None:
    """What stands between brackets and is no slice is told with one that would be."""
    with pytest.raises(UsageError, match=r'\]" is not a slice; write it as in Python, for instance "\[:960\]"'):
        split_slice(f"x.csv{part}", "x")


def test_empty_slice_is_no_evaluation(project: Project) -> None:
    """A slice without rows is refused as a file without rows is, and names without a slice are left alone."""
    project.write({"suite.toml": SUITE.replace("test.jsonl", "test.jsonl[60:]"), "test.jsonl": ROWS})
    outcome = project.write({"train.jsonl": TRAIN}).run("--collect-only")
    assert (outcome.code, 'data "test.jsonl[60:]" has no rows' in outcome.err) == (4, True)
    assert split_slice("rows [1].csv", "x") == ("rows [1].csv", None)


@pytest.mark.slow
def test_choices_may_stand_in_the_suite(project: Project) -> None:
    """All rows choose among the labels of the suite, and the row's target is the right one."""
    labels = [f"w{i}" for i in range(60)]
    suite = SUITE.replace('use = "exact_match"', f'use = "multiple_choice"\nchoices = {labels}')
    suite = suite.replace("qa.exact_match", "qa.acc").replace("'", '"')
    outcome = project.write({"suite.toml": suite, "test.jsonl": ROWS, "train.jsonl": TRAIN}).run()
    assert outcome.code == 0, outcome.out + outcome.err


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ('["w1"]', "; give two or more texts, all different and not empty"),
        ('["w1", "w2", "w1"]', 'choices has "w1" twice'),
        ('["w1", ""]', "not empty"),
        ("[1, 2]", '"choices" is [1, 2]; it must be a string or a list of strings'),
        ('["yes", "no"]', "row \"q0\": the right choice is 'w0'; give a choice, its letter, or its number from 0 to 1"),
    ],
)
def test_choices_of_a_suite_that_are_none_are_told(project: Project, choices: str, told: str) -> None:
    """A list nobody could choose from is told before anything runs, a target outside it before the training."""
    suite = SUITE.replace('use = "exact_match"', f'use = "multiple_choice"\nchoices = {choices}')
    suite = suite.replace("qa.exact_match", "qa.acc")
    outcome = project.write({"suite.toml": suite, "test.jsonl": ROWS, "train.jsonl": TRAIN}).run()
    assert outcome.code == 4
    assert told in outcome.err + outcome.out
    assert "Traceback" not in outcome.err and "adapter::" not in outcome.out.partition("summary")[0]


LABELS = [f"intent-{i}" for i in range(77)]
CSV_SUITE = f"""
[suite]
name = "intents"

[model]
path = "tiny:llama"

[adapter]
use = "lora"

[train]
use = "sft"
data = "intents.csv[:154]"
template = "Customer: {{text}}\\nIntent:"
columns = {{ target = "category" }}
max_steps = 2

[[eval]]
name = "intent"
use = "multiple_choice"
data = "intents.csv[154:170]"
template = "Customer: {{text}}\\nIntent:"
columns = {{ target = "category" }}
choices = [
  {", ".join(f'"{label}"' for label in LABELS)}
]

[[gate]]
id = "not worse than the base"
metric = "intent.acc"
versus = "base"
worse_by_at_most = 0.5
"""


@pytest.mark.slow
def test_csv_of_77_labels_takes_under_40_lines_and_no_plugin(project: Project) -> None:
    """Two columns of a CSV are trained on and judged: no harnessfile, and a suite of fewer than 40 lines."""
    assert len(CSV_SUITE.splitlines()) < 40
    rows = [f'"No. {i}, please, about {i % 77}",{LABELS[i % 77]}' for i in range(170)]
    project.write({"suite.toml": CSV_SUITE, "intents.csv": "text,category\n" + "\n".join(rows) + "\n"})
    outcome = project.run("--ignore", "D10")
    assert outcome.code in (0, 6), outcome.out + outcome.err
    assert outcome.verdict("not worse than the base", "adapter") in ("PASS", "INCONCLUSIVE")
