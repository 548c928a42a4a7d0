"""What everybody types is answered with what to type."""

from __future__ import annotations

import pytest

from harness.testing import ROWS, SUITE, Project

TRAINER = """
from harness import hookimpl
from harness.testing import train as fake

def plain(ref, adapter, rows, out, *, progress, seed, num_train_epochs=1.0, auto_find_batch_size=False,
          per_device_train_batch_size=8, learning_rate=1e-4, max_steps=-1, max_length=None):
    return fake(ref, adapter, rows, out, progress=progress, seed=seed)

@hookimpl
def harness_trainers():
    return {"plain": plain}
"""
MEANT = {
    "epochs": "num_train_epochs",
    "lr": "learning_rate",
    "batch_size": "per_device_train_batch_size",
    "steps": "max_steps",
    "max_seq_length": "max_length",
}


def test_a_suite_that_is_misspelt_is_known_by_its_neighbours(suite: Project) -> None:
    """What lies beside a file that is not there is what was meant."""
    told = suite.harness("run", str(suite.folder / "suit.toml")).err
    assert 'cannot be read: No such file or directory; did you mean "suite.toml"?' in told


def test_options_are_known_by_their_everyday_names(suite: Project) -> None:
    """Each is answered with what the trainer calls it, and not with what has the most letters in common."""
    own = SUITE.replace('[train]\nuse = "fake"', '[train]\nuse = "plain"')
    suite.write({"suite.toml": own, "harnessfile.py": TRAINER})
    told = suite.run("--collect-only", *(f"--set=train.{word}=1" for word in MEANT)).err
    assert [m for word, m in MEANT.items() if f'unknown option "{word}"; did you mean "{m}"?' not in told] == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--epochs", "1"), "did you mean --set train.num_train_epochs=1?"),
        (("--learning-rate=1e-4",), "did you mean --set train.learning_rate=1e-4?"),
        (("--model", "x"), "did you mean --set model.path=x?"),
        (("--set", "suite.name=my", "mood", "-q", "more"), "--set 'TABLE.KEY=two words'"),
        (("--nonsense",), "unrecognized arguments: --nonsense\n"),
    ],
)
def test_an_option_that_is_a_key_is_answered_with_it(suite: Project, words: tuple[str, ...], told: str) -> None:
    """Exit 4, the usage of that command, and the --set to type."""
    outcome = suite.run(*words)
    assert (outcome.code, told in outcome.err, "usage: harness run" in outcome.err) == (4, True, True), outcome.err


@pytest.mark.parametrize("word", ["train", "eval"])
def test_commands_of_other_tools_are_a_run(suite: Project, word: str) -> None:
    """`harness train` and `harness eval` are answered with "run"."""
    outcome = suite.harness(word, "suite.toml")
    assert (outcome.code, 'did you mean "run"?' in outcome.err) == (4, True)


@pytest.mark.parametrize("words", [["schema"], ["plugins", "--suite"], ["explain", "--suite"]])
def test_a_suite_that_is_not_there_is_told(suite: Project, words: list[str]) -> None:
    """Where only the harnessfile beside it is read, too: it would be left out without a word."""
    outcome = suite.harness(*words, "sute.toml")
    assert (outcome.code, '"sute.toml" is not a suite; name a suite\'s .toml file' in outcome.err) == (4, True)
    assert suite.harness(*words, "suite.toml").code == 0


def test_overrides_go_by_name(suite: Project) -> None:
    """An eval is called by its name and a gate by its id; a wrong name gets the right one."""
    items = suite.run("--collect-only", "--set", "eval.qa.limit=10", "--set", "gate.floor.min=0.1").out
    assert "qa  10 rows" in items and "exact_match at least 0.1" in items
    wrong = suite.run("--set", "gate.flor.min=0.1")
    assert (wrong.code, 'did you mean "floor"?' in wrong.err) == (4, True)


def test_a_folder_names_the_suite_in_it(suite: Project) -> None:
    """`harness run FOLDER` names FOLDER/suite.toml where it is there."""
    assert f"name {suite.folder}/suite.toml" in suite.run(suite=".").err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("name = “mine”", ': name = “mine”; write straight quotes, "…"'),
        ('name = "C:\\Users\\me"', "; in TOML a \\ in double quotes begins an escape: write / or single quotes"),
        ("name: mine", ': name: mine; TOML is key = "value"'),
        ("api_key = “sesame-1234”", 'Invalid value; write straight quotes, "…"'),
        ("h = { token = “sesame-1234” }", 'Invalid value; write straight quotes, "…"'),
    ],
)
def test_a_line_that_is_no_toml_is_shown(suite: Project, line: str, told: str) -> None:
    """With its number and the way out, and never with a secret."""
    suite.write({"suite.toml": SUITE.replace('name = "fake"', line, 1)})
    outcome = suite.run()
    assert (outcome.code, "suite.toml:3: not valid TOML: " in outcome.err, told in outcome.err) == (4, True, True)
    assert "sesame" not in outcome.err


def test_choices_in_one_text_are_a_list(suite: Project) -> None:
    """`choices = "a,b"` is answered with the list that was meant."""
    own = SUITE.replace('use = "exact_match"', 'use = "multiple_choice"\nchoices = "w1, w2"')
    suite.write({"suite.toml": own.replace("qa.exact_match", "qa.acc"), "test.jsonl": ROWS})
    assert 'write choices = ["w1", "w2"]' in suite.run().err
