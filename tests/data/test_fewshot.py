"""Worked examples in front of prompts: in the form of the prompt, never as Python writes a list, and kept as sent."""

from __future__ import annotations

import json

import pytest

from harness.data.fewshot import with_examples
from harness.errors import UsageError
from harness.records.samples import Sample
from harness.testing import ROWS, SUITE, TRAIN, Project
from tests.helpers.suites import FEWSHOT

CHATS = [
    {"messages": [{"role": "user", "content": r["input"]}, {"role": "assistant", "content": r["target"]}]}
    for r in TRAIN
]
ASKED = [{"role": "user", "content": "one say one"}]
REFUSED = '"train.jsonl": few-shot examples are chat messages, but the prompts are text'


@pytest.mark.parametrize("source", ["train", "fewshot_data"])
def test_messages_before_a_text_are_refused_at_collection(project: Project, source: str) -> None:
    """Examples that are messages are never written into a text prompt, wherever they come from."""
    suite = (SUITE + FEWSHOT).replace('slices = ["kind"]', 'fewshot_data = "shots.jsonl"')
    suite = suite.replace('fewshot_data = "shots.jsonl"', "") if source == "train" else suite
    project.write({"suite.toml": suite, "test.jsonl": ROWS, "train.jsonl": CHATS, "shots.jsonl": CHATS})
    outcome = project.run("--collect-only")
    refused = REFUSED if source == "train" else REFUSED.replace("train", "shots")
    assert (outcome.code, refused in outcome.err, "fewshot_data" in outcome.err) == (4, True, True)


def test_one_example_of_messages_is_enough(project: Project) -> None:
    """A file of both forms is refused as one of messages is: which examples are drawn is the seed's."""
    suite = (SUITE + FEWSHOT).replace('slices = ["kind"]', 'fewshot_data = "shots.jsonl"')
    mixed = [{"input": r["input"], "target": r["target"]} for r in TRAIN[:-1]] + CHATS[-1:]
    project.write({"suite.toml": suite, "test.jsonl": ROWS, "train.jsonl": TRAIN, "shots.jsonl": mixed})
    assert REFUSED.partition(": ")[2] in project.run("--collect-only").err


def test_messages_are_never_written_as_python_does() -> None:
    """What puts examples before a prompt refuses messages before a text, and writes texts before messages as turns."""
    with pytest.raises(UsageError, match="few-shot examples are chat messages"):
        with_examples("one say one", [Sample("e", ASKED, "one")])  # type: ignore[arg-type]
    turns = with_examples(ASKED, [Sample("e", "two say two", "two")])  # type: ignore[arg-type]
    assert [m["content"] for m in turns] == ["two say two", "two", "one say one"]  # type: ignore[index]


def test_messages_before_messages_pass(project: Project) -> None:
    """The healthy twin: both are messages."""
    rows = [{**r, "input": [{"role": "user", "content": r["input"]}]} for r in ROWS]
    project.write({"suite.toml": SUITE + FEWSHOT, "test.jsonl": rows, "train.jsonl": CHATS})
    assert project.run("--collect-only").code == 0


@pytest.mark.parametrize("use", ["exact_match", "multiple_choice"])
def test_samples_of_a_few_shot_subject_hold_what_was_sent(suite: Project, use: str) -> None:
    """A row of the few-shot base has the worked examples in front of its prompt, as the model got it."""
    text = SUITE.replace("min = 0.5", 'versus = "fewshot"\nbetter_by = 0.0') + "\n[subject.fewshot]\nshots = 3\n"
    rows = ROWS
    if use == "multiple_choice":
        text = text.replace('"exact_match"', '"multiple_choice"').replace("qa.exact_match", "qa.acc")
        rows = [{**r, "choices": [r["target"], "other"], "gold": 0} for r in ROWS]
    outcome = suite.write({"suite.toml": text, "test.jsonl": rows}).run()
    assert outcome.code in (0, 1, 6)
    [folder] = (suite.folder / "reports").glob("*/fewshot")
    [path] = folder.glob("samples_qa_*.jsonl")
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        sent = line["rendered"]
        assert sent.endswith(f"\n\n{row['input']}") and sent.count("\n\n") == 3
        assert all(example["input"] not in sent or example["target"] in sent for example in TRAIN)


def test_samples_hold_the_messages_that_were_sent(suite: Project) -> None:
    """Messages that nobody here renders, as a server does, are kept with their examples as JSON."""
    rows = [{**r, "input": [{"role": "user", "content": r["input"]}]} for r in ROWS]
    suite.write({"suite.toml": SUITE + FEWSHOT, "test.jsonl": rows, "train.jsonl": CHATS}).run()
    for subject, turns in (("fewshot", 7), ("base", None)):
        [path] = (suite.folder / "reports").glob(f"*/{subject}/samples_qa_*.jsonl")
        [line, *_] = path.read_text("utf-8").splitlines()
        sent = json.loads(line).get("rendered")
        assert (sent and len(json.loads(sent))) == turns
