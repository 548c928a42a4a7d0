"""`harness ask`: one prompt to the base and to what a suite made of it, in the form of an evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.testing import ROWS, SUITE, TRAIN, Project

TEMPLATE = SUITE.replace('slices = ["kind"]', 'template = "say {word}"')
FAKES = ("-p", "harness.testing")
ALL = SUITE.replace("[adapter]", "[merge]\nbase = ['original']\n\n[adapter]")


@pytest.fixture
def suite(project: Project) -> Project:
    """A project with a suite that was not run yet."""
    return project.write({"suite.toml": ALL, "test.jsonl": ROWS, "train.jsonl": TRAIN})


def ask(project: Project, *words: str) -> dict[str, object]:
    """Return what `harness ask --json` prints."""
    outcome = project.harness("ask", *words, *FAKES, "--json")
    assert outcome.code == 0, outcome.err
    found: dict[str, object] = json.loads(outcome.out)
    return found


def list_subjects(found: dict[str, object]) -> list[str]:
    """Return who replied."""
    replies = found["replies"]
    assert isinstance(replies, list)
    return [reply["subject"] for reply in replies]


def test_the_base_is_asked_before_a_training(suite: Project) -> None:
    """Without a trained adapter the base answers, and a line says what trains it."""
    outcome = suite.harness("ask", "suite.toml", "question 1 say hello", *FAKES)
    assert (outcome.code, outcome.err) == (0, "")
    assert 'prompt  as eval "qa" asks\n  question 1 say hello\nbase  ' in outcome.out
    assert "note: this recipe has no trained adapter yet; harness run trains it" in outcome.out
    assert not (suite.folder / "reports").exists()


def test_what_a_run_made_is_asked(suite: Project) -> None:
    """After a run the adapter and the merged model answer too, and the ledger and the reports stay as they are."""
    assert suite.run().code == 0
    before = sorted(path for path in suite.folder.rglob("*") if path.is_file())
    found = ask(suite, "suite.toml", "question 1 say hello")
    assert (list_subjects(found), found["notes"]) == (["base", "adapter", "merged"], [])
    assert sorted(path for path in suite.folder.rglob("*") if path.is_file()) == before


def test_an_export_answers_beside_its_base(suite: Project) -> None:
    """An export's evidence has the suite, so the model in it and the base it names are asked in its form."""
    assert suite.run().code == 0
    (export,) = (suite.folder / "exports").iterdir()
    assert list_subjects(ask(suite, str(export), "question 1 say hello")) == ["base", "export"]
    (export / "evidence/suite.lock.json").write_text("{}")
    outcome = suite.harness("ask", str(export), "hello", *FAKES)
    assert (outcome.code, "is neither a suite nor an export with evidence" in outcome.err) == (4, True)


@pytest.mark.parametrize(
    ("template", "given", "sent"),
    [
        ("say {word}", "hello", "say hello"),
        ("{kind}: say {word}", '{"kind": "a", "word": "hello"}', "a: say hello"),
    ],
)
def test_a_prompt_stands_in_the_template(suite: Project, template: str, given: str, sent: str) -> None:
    """One column takes the text; several take a JSON object, and a text is refused with the columns it needs."""
    rows = [{"id": i, "word": f"w{i}", "kind": "a", "target": f"t{i}"} for i in range(60)]
    suite.write({"suite.toml": TEMPLATE.replace("say {word}", template), "test.jsonl": rows})
    assert ask(suite, "suite.toml", given)["prompt"] == sent
    if "{kind}" in template:
        outcome = suite.harness("ask", "suite.toml", "hello", *FAKES)
        assert outcome.code == 4
        assert 'has 2 columns; give them as JSON: \'{"kind": "…", "word": "…"}\'' in outcome.err


def test_messages_keep_the_shared_system_message(suite: Project) -> None:
    """A prompt to rows of messages is a user's turn behind the system message that all of them have."""
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "say w"}]
    suite.write({"test.jsonl": [{"id": i, "kind": "a", "input": turns, "target": "w"} for i in range(60)]})
    assert ask(suite, "suite.toml", "say hello")["prompt"] == [turns[0], {"role": "user", "content": "say hello"}]


def test_a_prompt_without_the_rows_frame_is_noted(suite: Project) -> None:
    """What all rows begin or end with, and the prompt does not, is a note: the model was trained with it."""
    rows = [{"id": i, "kind": "a", "input": f"Q: w{i}x\nA:", "target": "w"} for i in range(60)]
    suite.write({"test.jsonl": rows})
    notes = ask(suite, "suite.toml", "hello")["notes"]
    assert isinstance(notes, list)
    assert [note.partition(",")[0] for note in notes[:2]] == [
        'the rows of qa begin with "Q: w"',
        'the rows of qa end with "x\\nA:"',
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["suite.toml", " "], "the prompt is empty"),
        (["missing.toml", "hello"], "missing.toml"),
        ([".", "hello"], "is neither a suite nor an export"),
        ([".", "hello", "--set", "suite.seed=1"], "--candidate and --set need a suite"),
    ],
)
def test_mistakes_are_one_line(suite: Project, words: list[str], told: str) -> None:
    """An empty prompt, no such suite, a folder that is no export: exit 4 and a line."""
    outcome = suite.harness("ask", *words, *FAKES)
    assert (outcome.code, told in outcome.err, "Traceback" in outcome.err) == (4, True, False), outcome.err


@pytest.mark.parametrize("text", ["What?\n", "naïve 東京 🙂", " two  spaces", ""])
def test_tokens_of_a_prompt_join_to_what_is_sent(tiny_model: Path, text: str) -> None:
    """The texts of a prompt's tokens are one for each token, and together the prompt behind its BOS."""
    from harness_hf.tokens import ModelTokenizer

    tokens = ModelTokenizer.of(str(tiny_model))
    [ids] = tokens.encode_prompts([text])
    found = tokens.texts_of(ids)
    assert (len(found), "".join(found)) == (len(ids), tokens.tokenizer.decode(ids))
