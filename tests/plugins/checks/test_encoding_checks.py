"""D8 and D21 in words: what generation opens, what is trained and scored, and the way out that fits the cause."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from tests.mutations.lab import CHAT, ROWS, Lab
from tests.mutations.mutations import (
    BEFORE_LAST,
    SCORED,
    UNTAUGHT,
    _check_spanning_token,
    _convert_to_chat,
    _frame_prompts,
    _make_chat_eval,
    _make_conversations,
    _make_plain_template,
    check_with_template,
)

pytestmark = pytest.mark.slow
THINK = "<|assistant|>\n<think>\n"
TURNED_OFF = "turn it off with chat_template_kwargs"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A small suite on the tiny model, in a cache of its own."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return Lab(tmp_path / "lab")


def run_and_read_check(lab: Lab, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what `harness check` prints of the lab's suite, as a person sees it."""
    capsys.readouterr()
    main(["check", str(lab.folder / "suite.toml"), "--set", f"model.path={lab.folder / 'model'}"])
    printed = capsys.readouterr()
    return " ".join((printed.out + printed.err).split())


@pytest.mark.parametrize("rows", [CHAT, _convert_to_chat(ROWS)], ids=["messages", "prompt and completion"])
def test_a_template_is_named_where_it_is_the_cause(lab: Lab, rows: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Both texts are shown from where they part, and the advice is about the template, not about white space."""
    check_with_template(lab, _make_plain_template(THINK), rows)
    said = run_and_read_check(lab, capsys)
    assert "16 of 16 rows: the chat template begins an answer differently from training" in said
    assert "message 2: generation opens" in said and "<think>" in said and "trained" in said
    assert TURNED_OFF in said and "white space" not in said


def test_earlier_answers_alone_have_another_way_out(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the last answer's prompt begins the row the earlier ones need not be learnt; marked so they are not."""
    check_with_template(lab, BEFORE_LAST, _make_conversations())
    said = run_and_read_check(lab, capsys)
    assert "message 2" in said and "message 4" not in said
    assert "train only on the last answer" in said and TURNED_OFF not in said
    check_with_template(lab, BEFORE_LAST, _make_conversations(UNTAUGHT))
    assert "D8" not in run_and_read_check(lab, capsys)


def test_white_space_is_named_where_it_is_the_cause(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """A token that spans the end of a text prompt is shown with the place."""
    _check_spanning_token(lab, _frame_prompts("", " ", ROWS))
    said = run_and_read_check(lab, capsys)
    assert "the tokens of a prompt are not a prefix of those of prompt and answer" in said
    assert "move the white space from the prompt's end to the answer's beginning" in said


def test_what_is_scored_and_trained_is_shown(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """An evaluation that scores behind an opened thought shows the tokens of all three."""
    check_with_template(lab, _make_plain_template(THINK), CHAT, more=SCORED)
    said = run_and_read_check(lab, capsys)
    assert '"scored": 8 of 8 rows: are scored on other tokens than the chat template trains on' in said
    assert all(name in said for name in ("scored", "trained", "generation opens", TURNED_OFF))


def test_white_space_that_a_template_takes_off_is_named(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """Answers are scored as they stand in the row, and trained on as the template trims them."""
    rows = [{**row, "target": f"{row['target']}\n"} for row in _make_chat_eval()]
    template = _make_plain_template().replace("{{ message['content'] }}", "{{ message['content'] | trim }}")
    check_with_template(lab, template, CHAT, rows, more=SCORED)
    said = run_and_read_check(lab, capsys)
    assert '"scored": 8 of 8 rows: the chat template strips white space from answers, which is scored' in said
    assert "strip white space from both ends of the answers" in said
