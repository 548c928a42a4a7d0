"""`harness init --data` on tool calls, judged answers, lists of labels and conversations of other forms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from harness.pipeline.run import Options, prepare_collection
from harness.records.findings import TrainingRow
from harness.records.models import ModelRef
from harness_checks.lint import lint

Row = dict[str, Any]
ROWS = 200
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
TAGS = ("sport", "politics", "music", "money")
TOOLS = [{"type": "function", "function": {"name": "lamp", "parameters": {"type": "object", "properties": {}}}}]


def make_question(i: int) -> str:
    return f"lamp {i} in house {i * 37 % 89} of street {i * 17 % 61}"


def make_call(i: int, *, as_text: bool) -> Row:
    arguments: Any = {"number": i}
    arguments = json.dumps(arguments) if as_text else arguments
    return {"id": f"c{i}", "type": "function", "function": {"name": "lamp", "arguments": arguments}}


def make_tool_row(i: int, *, as_text: bool) -> Row:
    """Every second row has the tool's answer and a text, as OpenAI's and TRL's data do."""
    messages: list[Row] = [
        {"role": "user", "content": make_question(i)},
        {"role": "assistant", "content": None, "tool_calls": [make_call(i, as_text=as_text)]},
    ]
    if i % 2:
        messages += [
            {"role": "tool", "tool_call_id": f"c{i}", "name": "lamp", "content": "done"},
            {"role": "assistant", "content": f"Lamp {i} is on."},
        ]
    return {"messages": messages, "tools": TOOLS}


FORMATS: dict[str, tuple[Callable[[int], Row], str, str]] = {  # a row, what is said, what the suite contains
    "trl tools": (lambda i: make_tool_row(i, as_text=False), "answers: calls of tools, by call", 'use = "tool_calls"'),
    "openai tools": (
        lambda i: make_tool_row(i, as_text=True), "answers: calls of tools, by call", 'use = "tool_calls"',
    ),
    "sharegpt tools": (
        lambda i: {"conversations": [
            {"from": "human", "value": make_question(i)},
            {"from": "function_call", "value": json.dumps({"name": "lamp", "arguments": {"number": i}})},
        ], "tools": json.dumps(TOOLS)},
        "answers: calls of tools, by call", 'use = "tool_calls"',
    ),
    "kto": (
        lambda i: {"prompt": make_question(i // 2), "completion": f"{'on' if i % 2 else 'off'} {i // 2}",
                   "label": bool(i % 2)},
        "layout: answers with a label (KTO)", 'use = "kto"',
    ),
    "kto messages": (
        lambda i: {"messages": [{"role": "user", "content": make_question(i // 2)},
                                {"role": "assistant", "content": f"{'on' if i % 2 else 'off'} {i // 2}"}],
                   "label": bool(i % 2)},
        "layout: answers with a label (KTO)", 'use = "kto"',
    ),
    "lists of labels": (
        lambda i: {"text": make_question(i), "labels": [tag for k, tag in enumerate(TAGS) if i * 7 % 13 >> k & 1]},
        "answers: several labels at once, by f1", 'use = "multilabel"',
    ),
    "history": (
        lambda i: {"instruction": make_question(i), "output": f"on {i}", "history": [["hello", "hi"]]},
        "layout: Alpaca", "exact_match",
    ),
    "query and history": (
        lambda i: {"query": make_question(i), "response": f"on {i}", "history": [["hello", "hi"]]},
        "layout: query, history → response", "exact_match",
    ),
    "capybara": (
        lambda i: {"source": "x", "conversation": [{"input": make_question(i), "output": f"on {i}"}]},
        'layout: Capybara; messages "conversation"', "exact_match",
    ),
    "lima": (
        lambda i: {"conversations": [make_question(i), f"on {i}"], "source": "x"},
        'layout: LIMA; messages "conversations"', "exact_match",
    ),
    "translation": (
        lambda i: {"id": i, "translation": {"en": make_question(i), "de": f"Lampe {i} am Haus {i * 37 % 89}"}},
        'input: "en", the other column', 'template = "En: {en}\\nDe:"',
    ),
    "mbpp": (
        lambda i: {"task_id": i, "text": f"Write a function of {make_question(i)}.",
                   "code": f"def f(x):\n    return {i}",
                   "test_list": [f"assert f(1) == {i}", f"assert f(2) == {i}"], "test_setup_code": ""},
        "layout: code with tests (MBPP)", "perplexity",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))


def init(rows: list[Row], capsys: pytest.CaptureFixture[str]) -> str:
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = main(["init", "mine", "--data", "a.jsonl", "--model", "tiny:chat"])
    said = capsys.readouterr().err
    assert code == 0, said
    return said


def read_part(name: str) -> list[Row]:
    return [json.loads(line) for line in Path(f"mine/data/{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_becomes_a_suite(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What columns are for is said, no row is lost without a line, and the suite is collected without a warning."""
    make, line, use = FORMATS[name]
    said = init([make(i) for i in range(ROWS)], capsys)
    assert line in said
    assert use in Path("mine/suite.toml").read_text()
    left_out = sum(int(one.split()[2].replace(",", "")) for one in said.splitlines() if one.startswith("left out: "))
    assert sum(len(read_part(part)) for part in ("train", "select", "confirm")) + left_out == ROWS
    assert prepare_collection(Path("mine/suite.toml"), Options()).warnings == ()


def test_calls_of_tools_are_learnt_as_objects(capsys: pytest.CaptureFixture[str]) -> None:
    """OpenAI's arguments are JSON text; a template, and a target, take the object."""
    init([make_tool_row(i, as_text=True) for i in range(ROWS)], capsys)
    row = next(row for row in read_part("train") if len(row["messages"]) == 2)
    assert row["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"number": row["id"] - 1}
    expected = {row["id"]: row["target"] for row in read_part("confirm")}
    assert expected == {i: [] if (i - 1) % 2 else [{"name": "lamp", "arguments": {"number": i - 1}}] for i in expected}


def test_an_answer_that_is_not_wanted_is_trained_on_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Rows that choose or confirm have wanted answers; the others there are counted as left out."""
    said = init([FORMATS["kto"][0](i) for i in range(ROWS)], capsys)
    assert {row["label"] for row in read_part("train")} == {True, False}
    assert all(row["completion"].startswith("on") for part in ("select", "confirm") for row in read_part(part))
    assert "unwanted answers to questions that choose or confirm" in said


def make_minimal_pair(i: int) -> tuple[str, str, str]:
    job, day, hour = i // 84, DAYS[i % 7], i // 7 % 12 * 2
    question = f"write a cron line that starts job {job} of the nightly backups at {hour} o'clock, only on {day}"
    return question, f"0 {hour} * * {i % 7}", f"5 {hour} * * {(i + 1) % 7}"


def make_pair_rows(layout: str) -> list[Row]:
    rows: list[Row] = []
    for question, answer, other in map(make_minimal_pair, range(504)):
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rows.append({
            "table": {"question": question, "answer": answer},
            "completion": {"prompt": question, "completion": answer},
            "chat": {"messages": turns},
            "alpaca": {"instruction": question, "input": "", "output": answer},
            "pairs": {"prompt": question, "chosen": answer, "rejected": other},
            "chat pairs": {"chosen": turns, "rejected": [turns[0], {"role": "assistant", "content": other}]},
        }[layout])  # fmt: skip
    return rows


@pytest.mark.parametrize("layout", ["table", "completion", "chat", "alpaca", "pairs", "chat pairs"])
def test_minimal_pairs_are_kept_in_every_layout(layout: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Another answer is no copy: "only on Monday" and "only on Friday" want different lines."""
    said = init(make_pair_rows(layout), capsys)
    assert "left out" not in said
    assert sum(len(read_part(part)) for part in ("train", "select", "confirm")) == 504


def test_many_rows_that_are_left_out_are_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    """Over 5 % of the rows are not left out quietly: two of them are shown, and the way to keep them."""
    rows: list[Row] = [{"question": make_question(i), "answer": f"on {i}"} for i in range(ROWS)]
    assert "warning: " not in init([*rows, *rows[:10]], capsys)
    Path("mine").rename("first")
    said = init([*rows, *rows[:20]], capsys)
    (line,) = [line for line in said.splitlines() if line.startswith("warning: ")]
    assert line.startswith("warning: 20 of 220 rows (9%) are left out: that repeat the question of an earlier row")
    assert f'such as "{make_question(0)}" and "{make_question(1)}"; make their questions different' in line


@pytest.mark.parametrize("judged", [False, True], ids=["pairs", "kto"])
def test_preferences_that_contradict_each_other_are_left_out(judged: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither of two rows that prefer opposite answers is learnt, and D11 would report no other rows."""
    rows: list[Row] = []
    for i in range(ROWS):
        row = {"prompt": make_question(i), "completion": f"on {i}", "label": i % 2 == 0}
        rows.append(row if judged else {"prompt": make_question(i), "chosen": f"on {i}", "rejected": f"off {i}"})
    opposite = [{**row, "label": not row["label"]} for row in rows[:3]] if judged else []
    opposite = opposite or [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows[:3]]
    said = init([*rows, *opposite], capsys)
    assert "left out: 6 whose preference another row contradicts" in said
    learnt = [TrainingRow(i, "train", row, row) for i, row in enumerate(read_part("train"), 1)]
    assert not [one for one in lint(learnt, ModelRef("base", "none"), {}) if one.kind == "conflict"]
    everything = [TrainingRow(i, "train", row, row) for i, row in enumerate([*rows, *opposite], 1)]
    assert [one.what for one in lint(everything, ModelRef("base", "none"), {}) if one.kind == "conflict"] == [
        "3 of 203 rows: an earlier row prefers the other answer"
    ]


DIRTY: dict[str, Callable[[int], Row]] = {  # kinds of tables with repeats, conflicts, empty cells and other spellings
    "labels": lambda i: {"text": make_question(i), "mood": ("good", "bad")[i % 2]},
    "answers": lambda i: {"question": make_question(i), "answer": f"on {i}"},
    "chats": lambda i: {"messages": [{"role": "user", "content": make_question(i)},
                                     {"role": "assistant", "content": f"on {i}"}]},
    "pairs": lambda i: {"prompt": make_question(i), "chosen": f"on {i}",
                        "rejected": ("in {}", "off {}")[i % 2].format(i)},
    "kto": lambda i: {"prompt": make_question(i), "completion": f"on {i}", "label": i % 2 == 0},
}  # fmt: skip


def make_dirty_rows(kind: str) -> list[Row]:
    """Return rows with five repeats, five other answers, five blank questions and five questions in other spelling."""
    make, rows = DIRTY[kind], [DIRTY[kind](i) for i in range(ROWS)]
    others = [json.loads(json.dumps(make(i)).replace(make_question(i), make_question(i + 1))) for i in range(5)]
    blank = [json.loads(json.dumps(make(i)).replace(make_question(i), " ")) for i in range(5, 10)]
    spelt = [json.loads(json.dumps(make(i)).replace("lamp ", "Lamp ")) for i in range(10, 15)]
    flipped = json.loads(json.dumps(rows[15:18]).replace('"on ', '"OFF ').replace('"off ', '"on ').lower())
    return [*rows, *rows[20:25], *others, *blank, *spelt, *flipped]


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
@pytest.mark.parametrize("kind", DIRTY)
def test_what_is_written_needs_no_warning(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What `check` would warn of in the rows is left out by `init`, for five kinds of tables with all kinds of dirt."""
    init(make_dirty_rows(kind), capsys)
    code = main(["check", "mine/suite.toml"])
    out = capsys.readouterr().out
    findings = [line for line in out.splitlines() if line.lstrip().startswith(("error ", "warning "))]
    assert (code, findings) == (0, []), out


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
@pytest.mark.parametrize("name", FORMATS)
def test_each_suite_passes_the_checks(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`check` finds no error in what was written, but that a template without tools leaves them out."""
    init([FORMATS[name][0](i) for i in range(ROWS)], capsys)
    code = main(["check", "mine/suite.toml"])
    errors = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("  error ")]
    assert (code, errors) == ((4, ["D7-keys"]) if name.endswith("tools") else (0, []))


def make_csv(*lines: str) -> bytes:
    return "\n".join(lines).encode()


BAD: dict[str, tuple[bytes, tuple[str, ...], int, str]] = {  # a file, options, exit code, what is said
    "all text": (
        "\n".join(["a,b,c", *(f"left {i},right {i * 7},up {i * 3}" for i in range(80))]).encode(), (), 4,
        'the label column is ambiguous; name it with --label: "a", "b", "c"',
    ),
    "all numbers": (
        "\n".join(["a,b,c", *(f"{i}.5,{i * 7},{i * 3}" for i in range(80))]).encode(), (), 4,
        'the label column is ambiguous; name it with --label: "a", "b", "c"',
    ),
    "one column": ("\n".join(["text", *(f"word {i}" for i in range(80))]).encode(), (), 4, 'its columns are "text"'),
    "two rows": (b"text,label\none,a\ntwo,b\n", (), 4, "only 2 of 2 rows are left"),
    "300 columns": (
        "\n".join([
            ",".join(["text", "label", *(f"x{k}" for k in range(298))]),
            *(",".join([f"word {i} of {i * 7 % 31}", "ab"[i % 2], *["1"] * 298]) for i in range(80)),
        ]).encode(),
        (), 0, 'not used: "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9" and 288 more',
    ),
    "missing values as text": (
        make_csv("text,label", *(f"word {i} of {i * 7 % 31},{'ab'[i % 2]}" for i in range(80)), *["NaN,a"] * 8),
        (), 0, 'warning: 8 of 88 rows (9%) are left out: without an input, a label or a group, such as "NaN" and "NaN"',
    ),
    "marks of direction": (
        make_csv(
            "\u200fالنص\u200f,\u200fالتصنيف", *(f"كلمة {i} من {i * 7 % 31},{'ab'[i % 2]}" for i in range(80)),
        ),
        (), 0, 'التصنيف", by its name',
    ),
    "a role that does not exist": (
        "\n".join(["text,label", *(f"word {i},{'ab'[i % 2]}" for i in range(80))]).encode(), ("--label", "lable"), 4,
        '--label "lable": column does not exist; did you mean "label"?',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_table_that_is_odd_is_not_read_in_silence(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is read as it says, or refused in one line."""
    content, options, code, line = BAD[name]
    Path("a.csv").write_bytes(content)
    assert main(["init", "mine", "--data", "a.csv", *options]) == code
    said = capsys.readouterr().err
    assert line in said
    assert code == 0 or said.count("\n") == 1


def test_two_tables_of_one_training_may_have_other_columns() -> None:
    """Each source is read by its own roles."""
    Path("a.jsonl").write_text(
        "".join(json.dumps({"frage": f"was {i}", "antwort": f"das {i}"}) + "\n" for i in range(40))
    )
    Path("b.jsonl").write_text(
        "".join(json.dumps({"query": f"who {i}", "reply": f"him {i}"}) + "\n" for i in range(40))
    )
    suite = '[suite]\nname = "a"\nseed = 1\nalpha = 0.05\n[model]\npath = "tiny:llama"\n[adapter]\nuse = "lora"\n'
    suite += '[train]\nuse = "sft"\ndata = ["a.jsonl", "b.jsonl"]\n[merge]\nbase = "original"\n'
    suite += '[[eval]]\nname = "e"\nuse = "exact_match"\ndata = "b.jsonl"\n'
    Path("suite.toml").write_text(suite)
    collection = prepare_collection(Path("suite.toml"), Options())
    assert [row["prompt"] for row in (collection.training or ())[39:41]] == ["was 39", "who 0"]
    assert [reading.split('data "')[1] for reading in collection.readings][:4] == [
        'a.jsonl": input: "frage", by its name', 'a.jsonl": label: "antwort", by its name',
        'b.jsonl": input: "query", by its name', 'b.jsonl": label: "reply", the other column',
    ]  # fmt: skip
