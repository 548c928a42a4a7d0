"""Template arguments: they come from rows and tables, reach the template, and are a part of whatever is remembered."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.answers import reasoning
from harness.answers.cache import CachedSubject
from harness.answers.store import Responses
from harness.data import chat
from harness.data.fewshot import prepend_examples
from harness.data.identity import question_keys
from harness.data.rows import read_rows, to_samples, to_training_rows
from harness.errors import UsageError
from harness.planning.workload import _make_prompt_answer_pair
from harness.records.models import ModelRef
from harness.records.samples import Sample
from harness.testing import ROWS, SUITE, TRAIN, Project
from harness_domain import exact_match

ASKED = [{"role": "user", "content": "one say one"}]
TOOL = {"type": "function", "function": {"name": "find"}}
OFF = {"enable_thinking": False}
ARGUMENTS = st.dictionaries(st.sampled_from(["enable_thinking", "effort", "tools"]), st.booleans() | st.integers(0, 2))


def make_sample(arguments: dict[str, Any] | None = None, **row: Any) -> Sample:
    """Return one row of an evaluation."""
    given = {"columns": {}, "cluster": None, "slices": (), "arguments": arguments or {}}
    (found,) = to_samples([{"input": ASKED, "target": "x", **row}], "x", **given)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(
    ("table", "row", "wanted"),
    [
        ({}, {}, {}),
        (OFF, {}, OFF),
        ({}, {"chat_template_kwargs": OFF}, OFF),
        (OFF, {"chat_template_kwargs": {"enable_thinking": True}}, {"enable_thinking": True}),
        (OFF, {"chat_template_kwargs": {"effort": "low", "other": None}}, {**OFF, "effort": "low"}),
        ({}, {"chat_template_kwargs": json.dumps(OFF), "tools": json.dumps([TOOL])}, {**OFF, "tools": [TOOL]}),
        ({}, {"tools": [TOOL], "images": [], "chat_template_kwargs": None}, {"tools": [TOOL]}),
    ],
)
def test_arguments_of_tables_and_rows(table: dict[str, Any], row: dict[str, Any], wanted: dict[str, Any]) -> None:
    """A row's own arguments go before those of its table, in training as in evaluation."""
    messages, found = chat.split_arguments(make_sample(table, **row).input)  # type: ignore[arg-type]
    assert (messages, found) == (ASKED, wanted)
    (made,) = to_training_rows([{"input": ASKED, "target": "x", **row}], {}, "x", table)
    assert chat.training_template_arguments(made) == wanted
    assert made["prompt"] == ASKED
    assert _make_prompt_answer_pair(made) == (chat.join_arguments(ASKED, wanted), "x")


IMAGE = [{"role": "user", "content": [{"type": "image", "url": "cat.png"}, {"type": "text", "text": "What?"}]}]
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "images": (
        {"images": ["cat.png"]},
        ('row 1 has "images", which prompts cannot contain here; remove such rows, or drop the column'),
    ),
    "tools that are none": (
        {"tools": ["find"]},
        "row 1 has ['find'] as its \"tools\"; give a list of objects, or drop the column",
    ),
    "arguments that are none": (
        {"chat_template_kwargs": 3},
        'row 1 has 3 as its "chat_template_kwargs"; it must be an object',
    ),
    "arguments in a message": (
        {"input": [{**ASKED[0], "chat_template_kwargs": {}}]},
        'row 1 has "chat_template_kwargs" in a message; move it beside the messages',
    ),
    "tools without an end": ({"tools": "[" * 100_000}, "give a list of objects, or drop the column"),
    "a template": ({"chat_template_kwargs": {"chat_template": "x"}}, 'row 1 has "chat_template" in'),
    "arguments of a text": ({"input": "say a", "chat_template_kwargs": OFF}, 'row 1 has "enable_thinking" for a chat'),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_honoured_is_refused(case: str) -> None:
    """Nothing that a row says of its prompt is dropped without a word, in training or in evaluation."""
    row, told = WRONG[case]
    with pytest.raises(UsageError) as evaluated:
        make_sample(**row)
    with pytest.raises(UsageError) as trained:
        to_training_rows([{"input": ASKED, "target": "x", **row}], {}, "x")
    assert told in str(evaluated.value)
    assert told in str(trained.value)


def test_parts_that_are_no_text_are_not_trained_on() -> None:
    """An image in the messages of a training row is refused; a server may be sent one in an evaluation."""
    with pytest.raises(UsageError, match='row 1 has a part of type "image" in its messages'):
        to_training_rows([{"input": IMAGE, "target": "x"}], {}, "x")
    assert make_sample(input=IMAGE).input == IMAGE


def test_a_column_that_means_something_else_is_left_alone() -> None:
    """A column that the suite names is what the suite says it is."""
    given: dict[str, Any] = {"columns": {"id": "image"}, "cluster": None, "slices": ["tools"], "arguments": {}}
    (found,) = to_samples([{"input": "a", "image": "cat.png", "tools": "axe"}], "x", **given)
    assert (found.id, found.input) == ("cat.png", "a")


@given(ARGUMENTS, ARGUMENTS)
def test_arguments_are_in_the_key_of_an_answer(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Two prompts that differ in their arguments alone are two requests, and one question."""
    subject = CachedSubject(ModelRef("m", "m"), "same", None, 0, None)  # type: ignore[arg-type]
    same = json.dumps(one) == json.dumps(two)
    first, second = (Sample("1", chat.join_arguments(ASKED, arguments), "x") for arguments in (one, two))
    assert (subject._key("generate", first.input) == subject._key("generate", second.input)) is same
    assert question_keys([first], None) == question_keys([second], None)


@dataclass
class Thinker:
    """A subject that says what it is told to, after a prompt that may open a thought."""

    said: list[str]
    opened: str = ""
    stops: Any = None

    def generate(self, prompts: Any, *, stop: Any, max_new_tokens: int = 9) -> list[str]:
        """Answer each prompt in turn."""
        self.stops = stop
        return self.said

    def render(self, messages: Any) -> str:
        """Open the answer's turn."""
        return f"<assistant>{self.opened}"


MARKS = ("<think>", "</think>")


@pytest.mark.parametrize(
    ("text", "opened", "said"),
    [
        ("<think>\nParis?\n</think>\n\nOslo\nBye", "", "Oslo"),
        ("Paris?\n</think>Oslo", "<think>\n", "Oslo"),
        ("a</think>b</think> Oslo", "", "Oslo"),
        ("<think>\nParis", "", ""),
        ("Paris", "<think>\n", ""),
        ("Oslo\nParis", "<think>\n\n</think>\n\n", "Oslo"),
        ("Oslo\nParis", "", "Oslo"),
        ("", "<think>", ""),
    ],
)
def test_a_thought_is_not_what_is_said(text: str, opened: str, said: str) -> None:
    """What is matched begins after the thought, which may have begun in the prompt; without an end it is nothing."""
    subject: Any = Thinker([text], opened)
    asked: Any = {"max_new_tokens": 9, "stop": ("\n",)}
    assert reasoning.generate_final_answers(subject, [ASKED], thought=MARKS, **asked) == [(said, text)]
    assert subject.stops == ()
    assert reasoning.generate_final_answers(subject, [ASKED], **asked) == [(text, text)]
    assert subject.stops == ("\n",)
    (score,) = exact_match(subject, [Sample("1", ASKED, "Oslo")], thought=MARKS)  # type: ignore[arg-type]
    assert (score.values, score.answer) == ({"exact_match": float(said == "Oslo")}, said)
    assert score.details == {"generated": text}


def test_a_thought_that_a_text_opens() -> None:
    """A text prompt may end in the beginning of a thought as well; marks are two."""
    subject: Any = Thinker(["Paris", "Paris"])
    found = reasoning.generate_final_answers(subject, ["Capital? <think>\n", "Capital?"], thought=MARKS)
    assert [said for said, _ in found] == ["", "Paris"]
    with pytest.raises(UsageError, match=r'; give two marks, for instance \["<think>", "</think>"\]'):
        reasoning.generate_final_answers(subject, ["a", "b"], thought=["</think>"])


def test_worked_examples_leave_the_arguments_in_front() -> None:
    """A few-shot prompt is rendered with the arguments of its question."""
    for prompt in (
        chat.join_arguments([{"role": "system", "content": "s"}, *ASKED], OFF),
        chat.join_arguments(ASKED, OFF),
    ):
        messages, found = chat.split_arguments(prepend_examples(prompt, [Sample("e", "two say two", "two")]))  # type: ignore[arg-type]
        assert found == OFF
        assert [m["content"] for m in messages][-3:] == ["two say two", "two", "one say one"]


def test_an_evaluation_without_prompts_has_no_arguments(project: Project) -> None:
    """Arguments that no prompt takes are refused, for texts and for evaluations that make their own prompts."""
    suite = SUITE.replace('slices = ["kind"]', "chat_template_kwargs = { enable_thinking = false }")
    project.write({"suite.toml": suite, "test.jsonl": ROWS, "train.jsonl": TRAIN})
    outcome = project.run("--collect-only")
    assert (outcome.code, 'row 1 has "enable_thinking" for a chat template, but the input is text' in outcome.err) == (
        4,
        True,
    )
    suite = SUITE + '\n[[eval]]\nname = "size"\nuse = "size"\nchat_template_kwargs = { a = 1 }\n'
    project.write({"suite.toml": suite})
    outcome = project.run("--collect-only")
    assert (outcome.code, 'chat_template_kwargs applies to prompts from "data", and "' in outcome.err) == (4, True)


def test_a_question_is_no_worked_example_of_itself(project: Project) -> None:
    """What is asked with arguments is left out of the worked examples, which have none."""
    rows = [{"input": [{"role": "user", "content": r["input"]}], "target": r["target"], "kind": "a"} for r in ROWS]
    suite = SUITE.replace(
        'slices = ["kind"]',
        'fewshot_data = "test.jsonl"\nchat_template_kwargs = { a = 1 }\n[subject.fewshot]\nshots = 2\n',
    )
    project.write({"suite.toml": suite, "test.jsonl": rows, "train.jsonl": TRAIN})
    from harness.pipeline.run import Options, prepare_collection

    collection = prepare_collection(project.folder / "suite.toml", Options(plugins=("harness.testing",)))
    assert collection.tasks["qa"].shots == ()


def test_parquet_brings_no_keys_of_other_rows(tmp_path: Path) -> None:
    """A table gives every object the keys of all; what is null for that reason is not there."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        {"messages": [{"role": "user", "content": None}], "call": {"city": "Paris"}, "note": None},
        {"messages": [{"role": "user", "content": "b"}], "call": {"a": 1, "b": [{"c": 2}, {"d": 3}]}, "note": "n"},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert read_rows("rows.parquet", tmp_path, lambda source: None, "x") == rows


@pytest.mark.slow
def test_thinking_on_and_off(tiny_model: Path, tmp_path: Path) -> None:
    """The template gets a row's arguments when it is asked, scored and counted, and what was said is not mixed up."""
    from harness.answers.cache import StageModels
    from harness_hf import identify, load, open_source

    folder = shutil.copytree(tiny_model, tmp_path / "base")
    template = (folder / "chat_template.jinja").read_text("utf-8")
    quiet = "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    (folder / "chat_template.jinja").write_text(template.replace("{% endif %}", quiet + "{% endif %}"), "utf-8")
    ref = ModelRef("base", str(folder), options={"device": "cpu"})
    responses = Responses(tmp_path / "responses.sqlite", pytest.fail)
    models = StageModels(lambda: load([ref], device="cpu", dtype="float32"))
    subject = CachedSubject(ref, identify(ref), models, 0, responses)
    on, off = chat.join_arguments(ASKED, {"enable_thinking": True}), chat.join_arguments(ASKED, OFF)
    for _ in range(2):
        assert subject.render(off) == subject.render(on) + "<think></think>"
        assert subject.render(on) == subject.render(ASKED)
        thinking, plain = subject.generate([on, off], max_new_tokens=8)
        assert thinking != plain
        assert thinking == subject.generate([ASKED], max_new_tokens=8)[0]
        one, two = subject.logprobs([(on, "x"), (off, "x")])
        assert one.total != two.total
    counted = open_source(str(folder)).count_tokens([(on, "x"), (off, "x")])
    assert counted[1] - counted[0] == len("<think></think>")
    with pytest.raises(UsageError, match='part of type "image", but the model reads only text; remove such rows'):
        subject.loaded.generate([IMAGE])
    models.close()
    responses.close()
