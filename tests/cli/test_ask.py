"""`harness ask`: one prompt to the base and to what a suite made of it, in the form of an evaluation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.testing import ROWS, SUITE, TRAIN, Project
from tests.helpers.exports import reseal
from tests.helpers.suites import REAL, TEXTS

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
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


@pytest.fixture
def exports(project: Project, tiny_model: Path) -> Path:
    """Return a folder with the exports of a tiny model's adapter and of its merge."""
    from harness_lora import lora
    from tests.helpers.adapters import make_adapter

    shutil.copytree(tiny_model, project.folder / "tiny")
    make_adapter(project.folder / "tiny", lora(), project.folder / "made", 0.02)
    gate = 'metric = "qa.exact_match"\nversus = "base"\nworse_by_at_most = 0.9'
    suite = REAL.replace('metric = "fluency.perplexity"\nallow_approximate = true\nmax = 1e9', gate)
    project.write({"suite.toml": suite, "test.jsonl": ROWS[:6], "texts.jsonl": TEXTS})
    assert project.run("--candidate", str(project.folder / "made")).code == 0
    return project.folder / "exports"


@pytest.mark.slow
def test_an_export_answers_beside_the_base_that_is_named(project: Project, exports: Path) -> None:
    """A base is loaded only if the user names it and it is the one of the evidence; an adapter needs one."""
    merged, adapter = str(exports / "merged"), str(exports / "adapter")
    assert list_subjects(ask(project, merged, "hello")) == ["export"]
    assert list_subjects(ask(project, merged, "hello", "--base", "tiny")) == ["base", "export"]
    assert list_subjects(ask(project, adapter, "hello", "--base", "tiny")) == ["base", "export"]
    for words, reason in (
        ((adapter, "hello"), 'is an adapter that was gated on "tiny"'),
        ((merged, "hello", "--base", f"{merged}/model"), "but the export was gated on"),
    ):
        outcome = project.harness("ask", *words)
        assert (outcome.code, reason in outcome.err) == (4, True), outcome.err


@pytest.mark.slow
def test_an_export_names_no_loader_program_or_server(project: Project, exports: Path) -> None:
    """What the evidence says of the model is not obeyed, and evidence that was changed loads nothing."""
    lock = exports / "merged" / "evidence/suite.lock.json"
    locked = json.loads(lock.read_text("utf-8"))
    for table in (
        {"use": "vllm", "options": {"python": "exports/merged/model/run"}},
        {"use": "api", "options": {"base_url": "http://127.0.0.1:9/v1", "api_key_env": "HOME"}},
    ):
        locked["suite"]["model"] |= table
        locked["suite"]["source"]["model"] = {"path": "tiny", "use": table["use"], **table["options"]}
        lock.write_text(json.dumps(locked), "utf-8")
        outcome = project.harness("ask", str(exports / "merged"), "hello")
        assert (outcome.code, "is not an intact export" in outcome.err) == (4, True), outcome.err
        reseal(exports / "merged")
        outcome = project.harness("ask", str(exports / "merged"), "hello")
        assert outcome.code == 0 or "is not an intact export" in outcome.err, outcome.err


@pytest.mark.slow
def test_a_model_with_odd_settings_is_one_line(project: Project, exports: Path) -> None:
    """Whatever a library raises at them, when it loads the model or when it asks it."""
    for name, key, value in (("tokenizer_config.json", "model_max_length", "x"), ("config.json", "architectures", 7)):
        path = exports / "merged/model" / name
        path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {key: value}), "utf-8")
        reseal(exports / "merged")
        outcome = project.harness("ask", str(exports / "merged"), "hello")
        assert (outcome.code, outcome.err.count("\n")) == (4, 1), outcome.err


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
