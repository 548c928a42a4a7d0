"""A row of each kind that is wrong: one clear line with its number, and exit code 4, before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.testing import Project

ASKED = [{"role": "user", "content": "?"}]
SAID, OTHER = ({"role": "assistant", "content": text} for text in ("yes", "no"))
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {"type": "integer"}}}}}
CALLED: dict[str, Any] = {"input": ASKED, "tools": [TOOL], "target": [{"name": "f", "arguments": {"x": 1}}]}
CHOICE: dict[str, Any] = {"input": "q", "choices": ["a", "b"], "gold": "a"}
PAIR: dict[str, Any] = {"prompt": "q", "chosen": "a", "rejected": "b"}
SUITE = """
[suite]
name = "rows"

[model]
use = "fake"
path = "base"

[[eval]]
name = "e"
use = "USE"
data = "rows.jsonl"
"""
EVALUATED: dict[
    str, tuple[dict[str, Any], list[tuple[dict[str, Any], str]]]
] = {  # a good row; changes, and what is told
    "numeric": (
        {"input": "q", "target": 1},
        [
            ({"target": "twelve"}, "\": the target 'twelve' has no number; it must have exactly one"),
            ({"target": None}, "target is missing or empty; map a column to it"),
            ({"target": True}, "row 2 has True as its target (1 such rows); give text or a number"),
            ({"target": "nan"}, "\": the target 'nan' has no number; it must have exactly one"),
            ({"input": 5}, "row 2 has 5 as its input; give text, or messages with role and content"),
        ],
    ),
    "json": (
        {"input": "q", "target": {"a": 1}},
        [
            ({"target": "{"}, "the target '{' is not valid JSON: Expecting property name"),
            ({"target": None}, "target is missing or empty; map a column to it, or set compare = false"),
            ({"target": "NaN"}, "the target 'NaN' is not valid JSON: NaN is not JSON"),
            ({"target": '{"a": 1, "a": 2}'}, 'is not valid JSON: has the key "a" twice'),
            ({"input": {"q": 1}}, "row 2 has {'q': 1} as its input; give text, or messages with role and content"),
        ],
    ),
    "tool_calls": (
        CALLED,
        [
            (
                {"target": "{call"},
                "the target is not a tool call: Expecting property name",
            ),
            ({"target": [{"arguments": {}}]}, "{'arguments': {}} has no name; give a list of {name, arguments}"),
            ({"target": [{"name": "g"}]}, 'the target calls "g", which is not one of the row\'s tools'),
            ({"tools": [{"type": "function"}]}, "has no name; give {name, description, parameters}"),
            ({"tools": "f"}, "row 2 has 'f' as its \"tools\"; give a list of objects, or drop the column"),
            ({"input": "text"}, 'row 2 has "tools" for a chat template, but the input is text'),
            ({"target": 5}, "5 is not a call, which is an object with a name and arguments"),
        ],
    ),
    "regression": (
        {"input": "q", "target": "a"},
        [
            ({"target": None}, "target is missing or empty; map a column to it"),
            ({"target": ["a", "b"]}, '": has 2 targets; give the one answer that must not change'),
            ({"target": True}, "row 2 has True as its target (1 such rows); give text or a number"),
            ({"input": None}, "row 2 has None as its input; give text, or messages with role and content"),
            (
                {"input": [{"role": "user"}]},
                ("row 2 has [{'role': 'user'}] as its input; give text, or messages with role and content"),
            ),
        ],
    ),
    "multiple_choice": (
        CHOICE,
        [
            ({"choices": None}, 'column "choices" is missing; name the column of the choices'),
            ({"choices": ["a"]}, "is ['a']; it must have two or more choices, all different"),
            ({"choices": ["a", ""]}, "is ['a', '']; it must be a list of texts that are not empty"),
            ({"choices": {"text": ["a", "b"], "label": ["x"]}}, "has 1 labels for 2 choices; give one for each"),
            ({"choices": {"text": ["a", "b"], "label": 5}}, "has 5 as its label; it must be a list"),
            ({"gold": "c"}, "\": the right choice is 'c'; give a choice, its letter, or its number from 0 to 1"),
            ({"gold": None}, '": the right choice is None; give a choice, its letter'),
        ],
    ),
    "preference": (
        PAIR,
        [
            (
                {"rejected": None},
                ('column "rejected" is None; it must be a text, or messages if the prompt has messages'),
            ),
            ({"rejected": " a"}, 'columns "chosen" and "rejected" are equal; remove it'),
            ({"chosen": ""}, "column \"chosen\" is ''; it must be a text"),
            ({"prompt": ""}, "the prompt is missing or empty; map a column to input"),
            ({"prompt": ASKED, "chosen": ASKED, "rejected": [OTHER]}, '" must end with one message of the assistant'),
        ],
    ),
}
TRAINED: dict[str, tuple[str, dict[str, Any], list[tuple[dict[str, Any], str]]]] = {  # trainer; as above
    "text": (
        "sft",
        {"text": "q a"},
        [
            ({"text": ""}, ("D11-empty training-data-quality: 1 of 8 rows: no answer to train on")),
            ({"text": None}, "row 3: rows need prompt and completion, or messages, or text, none of them empty"),
            ({"text": 5}, "row 3: rows need prompt and completion, or messages, or text, none of them empty"),
            ({"text": ["a"]}, "row 3: rows need prompt and completion, or messages, or text, none of them empty"),
            (
                {"text": ..., "txt": "a"},
                'row 3 has the columns "txt"; it needs input and target, prompt and completion',
            ),
            (
                {"text": ..., "prompt": "q", "completion": "a"},
                "[train] data: row 3: have another form than row 1; use one form for all rows",
            ),
        ],
    ),
    "prompt and completion": (
        "sft",
        {"prompt": "q", "completion": "a"},
        [
            ({"completion": ...}, 'row 3 has the columns "prompt"; it needs input and target, prompt and completion'),
            (
                {"completion": None},
                ("D11-empty training-data-quality: 1 of 8 rows: no answer to train on"),
            ),
            ({"completion": ["a"]}, "row 3: rows need prompt and completion, or messages, or text, none of them empty"),
            ({"prompt": None}, ": row 3 has None as its prompt; give text, or messages"),
            ({"prompt": 5}, ": row 3 has 5 as its prompt; give text, or messages"),
            ({"prompt": ASKED}, "row 3: have another form than row 1"),
        ],
    ),
    "messages": (
        "sft",
        {"messages": [*ASKED, SAID]},
        [
            ({"messages": []}, "row 3: rows need prompt and completion, or messages, or text, none of them empty"),
            ({"messages": ASKED}, "D11-roles training-data-quality: 1 of 8 rows: messages out of order"),
            ({"messages": [{"role": "bot", "content": "?"}, SAID]}, "D11-roles training-data-quality: 1 of 8 rows"),
            ({"messages": [*ASKED, {"role": "assistant"}]}, "D11-empty training-data-quality: 1 of 8 rows"),
            ({"messages": [*ASKED, {**SAID, "content": " "}, *ASKED, SAID]}, "1 of 8 rows: no answer to train on"),
            ({"messages": [5, SAID]}, "D11-template training-data-quality: 1 of 8 rows: the chat template rejects"),
            ({"tools": "x"}, "row 3 has 'x' as its \"tools\"; give a list of objects, or drop the column"),
        ],
    ),
    "pairs": (
        "dpo",
        PAIR,
        [
            (
                {"rejected": ...},
                (': row 3 has "prompt", "chosen" and no "rejected" (1 such rows); rows need prompt, chosen'),
            ),
            (
                {"rejected": ""},
                (
                    "row 3: rows need prompt, chosen and rejected, either all texts, or all messages that "
                    "end with an answer of the assistant that is not empty"
                ),
            ),
            (
                {"chosen": True},
                (
                    "row 3: rows need prompt, chosen and rejected, either all texts, or all messages that "
                    "end with an answer of the assistant that is not empty"
                ),
            ),
            (
                {"prompt": ""},
                (
                    "row 3: rows need prompt, chosen and rejected, either all texts, or all messages that "
                    "end with an answer of the assistant that is not empty"
                ),
            ),
            ({"rejected": " a"}, "P2 identical-answers: 1 of 8 rows: chosen and rejected are equal"),
        ],
    ),
    "pairs of messages": (
        "dpo",
        {"prompt": ASKED, "chosen": [SAID], "rejected": [OTHER]},
        [
            ({"rejected": ...}, ': row 3 has "prompt", "chosen" and no "rejected" (1 such rows);'),
            (
                {"rejected": []},
                (
                    "row 3: rows need prompt, chosen and rejected, either all texts, or all messages that "
                    "end with an answer of the assistant that is not empty"
                ),
            ),
            (
                {"chosen": ASKED},
                (
                    "row 3: rows need prompt, chosen and rejected, either all texts, or all messages that "
                    "end with an answer of the assistant that is not empty"
                ),
            ),
            (
                {"chosen": [{"role": "assistant"}]},
                "D11-empty training-data-quality: 1 of 8 rows: no answer to train on",
            ),
            (
                {"prompt": "?"},
                (
                    "row 3: rows need prompt, chosen and rejected, either all texts, or all messages that "
                    "end with an answer of the assistant that is not empty"
                ),
            ),
        ],
    ),
    "labels": (
        "kto",
        {"prompt": "q", "completion": "a", "label": True},
        [
            ({"label": ...}, ': row 3 has "prompt", "completion" and no "label" (1 such rows);'),
            ({"label": "yes"}, "row 3: label is 'yes'; it must be true or false"),
            ({"label": None}, "row 3: label is None; it must be true or false"),
            (
                {"completion": ""},
                (
                    "row 3: rows need prompt and completion, either all texts, or all messages that end with "
                    "an answer of the assistant that is not empty"
                ),
            ),
            (
                {"prompt": 5},
                (
                    "row 3: rows need prompt and completion, either all texts, or all messages that end with "
                    "an answer of the assistant that is not empty"
                ),
            ),
            ({"label": True}, "all rows are wanted answers (label); add some of the other kind, or use sft"),
        ],
    ),
}


def edit_columns(row: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return a row with other columns; what is `...` is not there."""
    return {key: value for key, value in {**row, **change}.items() if value is not ...}


@pytest.mark.parametrize(
    ("use", "change", "told"), [(use, change, told) for use, (_, bad) in EVALUATED.items() for change, told in bad]
)
def test_a_wrong_row_of_an_evaluation(project: Project, use: str, change: dict[str, Any], told: str) -> None:
    """It is told at collection, by one line with its number."""
    good, _ = EVALUATED[use]
    project.write({"suite.toml": SUITE.replace("USE", use), "rows.jsonl": [good, edit_columns(good, change)]})
    done = project.run("--collect-only")
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert told in done.err and ('row "1"' in done.err or "row 2" in done.err)
    project.write({"rows.jsonl": [good, good]})
    assert project.run("--collect-only").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRAINED)
def test_a_wrong_row_of_a_training(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`harness check` ends with 4 and one line for each thing that is wrong with it; without it there is none."""
    from harness.cli.main import main
    from tests.mutations.lab import Lab

    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    lab, (use, good, bad) = Lab(tmp_path / "lab"), TRAINED[kind]
    flip = [{"label": i % 2 == 0} if "label" in good else {} for i in range(8)]
    for change, told in [*bad, ({}, "")]:
        alone = use == "kto" and change == {"label": True}  # all rows of one kind
        rows = [number_texts({**good, **({"label": True} if alone else flip[i])}, i) for i in range(8)]
        rows[2] = edit_columns(rows[2], change)
        lab._write(rows, [{"input": "what is it?", "target": "that"}], "", ())
        code = main(["check", str(lab.folder / "suite.toml"), "--set", f"train.use={json.dumps(use)}"])
        printed = capsys.readouterr()
        errors = [line for line in (printed.out + printed.err).splitlines() if line.strip().startswith("error")]
        assert code == (4 if told else 0), (change, errors)
        assert not told or any(told in line for line in errors), (change, errors)
        assert "Traceback" not in printed.out + printed.err


def number_texts(row: dict[str, Any], number: int) -> dict[str, Any]:
    """Return a row whose texts are its own, so that no two are alike."""
    return {
        key: json.loads(json.dumps(value).replace('q"', f'q{number}"').replace('?"', f'{number}?"'))
        for key, value in row.items()
    }
