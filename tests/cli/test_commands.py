"""What all commands have in common: groups and examples in their help, one JSON document, completion."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.cli.parser import GROUPS, make_parser
from harness.testing import SUITE, Project

MODELS = ("adapter", "merged")
SOON = ("--reason", "r", "--until", "9999-01-01", "--by", "ada")


def iterate_commands(
    one: argparse.ArgumentParser, name: str = "harness"
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield every command with its parser, those of commands that have commands too."""
    below = [a for a in one._actions if isinstance(a, argparse._SubParsersAction)]
    for action in below:
        for word, inner in action.choices.items():
            yield from iterate_commands(inner, f"{name} {word}")
    if not below:
        yield name, one


ALL = dict(iterate_commands(make_parser(["--help"])))


@pytest.mark.parametrize("name", ALL)
def test_every_help_has_an_example_and_every_command_json(name: str) -> None:
    """The help of a command ends with a line to copy, which begins with the command."""
    text = ALL[name].format_help()
    assert f"\n  {name}" in text.partition("examples:")[2], text
    assert "--json" in text
    assert max(map(len, text.splitlines())) <= 100


def test_help_is_grouped(capsys: pytest.CaptureFixture[str]) -> None:
    """`harness help` and `--help` list all commands by what they are for, no line wider than 80 columns."""
    for words in (["help"], ["--help"]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 0
        text = capsys.readouterr().out
        lines = text.splitlines()
        assert [line for line in lines if line in GROUPS] == list(GROUPS)
        assert {f"harness {line.split()[0]}" for line in lines if line.startswith("  ")} >= {
            " ".join(name.split()[:2]) for name in ALL
        }
        assert max(map(len, lines)) <= 80


def test_nothing_asked_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    """`harness` alone prints the groups and ends with 4: a CI line whose variable was empty must not be green."""
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 4
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("usage: harness COMMAND")
    assert all(f"\n{group}\n" in printed.err for group in GROUPS)


@pytest.mark.parametrize(("word", "meant"), [("rum", "run"), ("verfy", "verify"), ("shwo", "show"), ("zzz", None)])
def test_a_misspelt_command_is_guessed(word: str, meant: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    """A word that is no command ends with 4 and with what was meant, or with where the list is."""
    with pytest.raises(SystemExit) as stop:
        main([word])
    assert stop.value.code == 4
    assert (f'did you mean "{meant}"?' if meant else "see harness help") in capsys.readouterr().err


def test_help_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`harness help show` is `harness show --help`."""
    texts = []
    for words in (["help", "show"], ["show", "--help"]):
        with pytest.raises(SystemExit):
            main(words)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_shells_complete_commands_and_files(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What a shell reads names every command, those of plugins too, and completes paths."""
    with pytest.raises(SystemExit) as stop:
        main(["--print-completion", shell])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(name.split()[1] in text for name in ALL)
    assert {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "/f/"}[shell] in text
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_completion_without_its_library_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and exit 4 where shtab is not there."""
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print-completion", "bash"]) == 4
    assert "pip install shtab" in capsys.readouterr().err


def read_json_document(project: Project, *words: str) -> dict[str, object]:
    """Return the one document on stdout of a command with --json."""
    outcome = project.harness(*words, "--json")
    found = json.loads(outcome.out)
    assert (found["format"], found["exit_code"]) == (1, outcome.code), outcome.err
    assert words[: len(found["command"].split())] == tuple(found["command"].split())
    return dict(found)


@pytest.mark.slow
@pytest.mark.xdist_group("peft")  # which one of the commands imports
def test_every_command_writes_one_document(suite: Project) -> None:
    """With --json stdout is one JSON document with a format number; what a person reads is on stderr."""
    folder = str(suite.folder)
    run = read_json_document(suite, "run", "suite.toml")
    assert run["run"]["results"] and run["run"]["exit_code"] == 0  # type: ignore[index]
    assert read_json_document(suite, "run", "suite.toml", "--collect-only")["items"]
    assert read_json_document(suite, "show")["run"] == run["run"]
    assert read_json_document(suite, "show", "--flips")["gates"]
    assert read_json_document(suite, "show", "--rows", "qa", "--wrong")["rows"]
    assert "findings" in read_json_document(suite, "check", "suite.toml")
    assert "odds" in read_json_document(suite, "plan", "suite.toml")
    assert read_json_document(suite, "selftest", "suite.toml", "-p", "harness.testing").keys() >= {"trials", "equals"}
    assert read_json_document(suite, "doctor")["lines"]
    assert read_json_document(suite, "explain", "d10")["checks"]
    assert read_json_document(suite, "plugins").keys() >= {"plugins", "tables", "data"}
    assert read_json_document(suite, "schema", "suite.toml", "-p", "harness.testing")["schema"]
    assert read_json_document(suite, "waive", "floor", *SOON)["waiver"]
    assert read_json_document(suite, "init", f"{folder}/new")["written"]
    assert read_json_document(suite, "verify", "exports/fake")["ok"] is True
    assert read_json_document(suite, "promote", "exports/fake", "--list")["promotions"] == []
    assert read_json_document(suite, "promote", "exports/fake")["ok"] is True
    assert read_json_document(suite, "keygen", f"{folder}/key")["public"]
    assert read_json_document(suite, "sign", "exports/fake", "--key", f"{folder}/key.key")["key"]


def test_collected_suites_are_all_in_the_document(suite: Project) -> None:
    """The items of each suite are in the document, with their gates even where -q prints none."""
    shutil.copy(suite.folder / "suite.toml", suite.folder / "other.toml")
    alone = read_json_document(suite, "run", "suite.toml", "--collect-only", "-q")
    both = read_json_document(suite, "run", "suite.toml", "other.toml", "--collect-only")["suites"]
    assert isinstance(both, list)
    assert [Path(one["suite"]).name for one in both] == ["suite.toml", "other.toml"]
    assert both[0]["items"] == alone["items"]
    assert [item["id"] for item in both[1]["items"] if item["gates"]] == [f"other.toml::{s}::qa" for s in MODELS]


def test_mistakes_are_a_document_too(suite: Project) -> None:
    """A mistake of the user is in the document and on stderr, with its exit code; so is one of a plugin's command."""
    found = read_json_document(suite, "run", "none.toml")
    assert found["exit_code"] == 4 and "none.toml" in str(found["errors"])
    assert read_json_document(suite, "judge", "disputes", "nowhere")["errors"]
    assert read_json_document(suite, "show", "nowhere")["errors"]


def test_nothing_else_reaches_stdout(suite: Project) -> None:
    """What plugins print while a command with --json runs is on stderr, beside what the terminal says."""
    suite.write(
        {"harnessfile.py": "from harness import hookimpl\n@hookimpl\ndef harness_stage(stage): print('noise')\n"}
    )
    outcome = suite.harness("run", "suite.toml", "--json")
    assert json.loads(outcome.out)["exit_code"] == 0
    assert "noise" in outcome.err and "summary" in outcome.err


def test_codes_and_titles_of_checks_are_taken_as_they_come(project: Project) -> None:
    """`explain` takes a code or a title in any case, and both together as a finding has them."""
    texts = {
        project.harness("explain", word).out for word in ("D10", "d10", "Train-Test-Leak", "D10-exact train-test-leak")
    }
    assert len(texts) == 1 and texts.pop().startswith("D10 train-test-leak: ")
    wrong = project.harness("explain", "train-test-lek")
    assert wrong.code == 4 and 'did you mean "train-test-leak"?' in wrong.err
    assert project.harness("explain", "").code == 4


def test_plugins_are_listed_in_one_language(project: Project) -> None:
    """Types are words, never Python; metrics, data sources, columns and the keys of tables are there."""
    out = project.harness("plugins").out
    assert not any(word in out for word in ("Literal[", "Optional", "<class", "None, ", " | "))
    for part in (
        "metrics: exact_match (",
        "\ndata\n",
        "hub:NAME",
        "\ncolumns\n",
        "prompt or question",
        "table [train]",
    ):
        assert part in out, part
    keys = project.harness("plugins", "train").out
    assert keys.startswith("table [train]\n") and "watch_rows: an integer, default 64" in keys
    assert project.harness("plugins", "nothing").code == 4


@pytest.mark.slow
def test_events_are_lines_as_they_happen(suite: Project) -> None:
    """A line of JSON an event, with a format number and the time, from the first to the last."""
    assert suite.harness("run", "suite.toml", "--events", "events.jsonl").code == 0
    lines = [json.loads(line) for line in (suite.folder / "events.jsonl").read_text("utf-8").splitlines()]
    names = [line["event"] for line in lines]
    assert (names[0], names[-1]) == ("run_start", "run_finish")
    assert {"stage", "progress", "report", "verdict"} <= {*names}
    assert {line["format"] for line in lines} == {1}
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
    assert lines[-1]["exit_code"] == 0


def test_events_hold_no_secret(suite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that the suite names is struck in events as everywhere."""
    code = "from harness import hookimpl\nfrom harness import metric, Score\n\n\n@metric('m', better='higher')\n"
    code += "def leak(subject, samples, *, api_key: str = ''):\n    raise RuntimeError(f'no entry for {api_key}')\n\n\n"
    code += "@hookimpl\ndef harness_evaluators():\n    return {'leak': leak}\n"
    text = SUITE + '\n[[eval]]\nname = "l"\nuse = "leak"\ndata = "test.jsonl"\napi_key = "sk-0123456789abcdef"\n'
    suite.write({"suite.toml": text, "harnessfile.py": code})
    suite.harness("run", "suite.toml", "--events", "events.jsonl")
    told = (suite.folder / "events.jsonl").read_text("utf-8")
    assert "no entry for" in told and "sk-0123456789abcdef" not in told


@pytest.mark.parametrize("place", [".", "no/such/folder/events", "suite.toml/events", "x" * 300])
def test_events_that_cannot_be_written_are_told_first(suite: Project, place: str) -> None:
    """One line and exit 4, before anything runs."""
    outcome = suite.harness("run", "suite.toml", "--events", place)
    assert (outcome.code, outcome.err.count("\n")) == (4, 1)
    assert not (suite.folder / "reports").exists()


def test_a_full_disk_of_events_decides_nothing(suite: Project) -> None:
    """Where events cannot be written any more the run goes on, and ends as it would."""
    if Path("/dev/full").exists():
        assert suite.harness("run", "suite.toml", "--events", "/dev/full").code == 0
