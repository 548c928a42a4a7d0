"""Two jobs on one ledger, as the page on CI has it: branches that commit it merge without loss."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.others import Said, make_asked_rows

Gate = Callable[..., Said]
Table = Callable[..., Path]


def _run_git(folder: Path, *words: str) -> None:
    named = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *named, *words], cwd=folder, check=True, capture_output=True)


@pytest.mark.slow
def test_two_branches_of_a_committed_ledger_merge(
    gate: Gate, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two candidates, each an attempt on its own branch, are two of four attempts after `git merge`."""
    monkeypatch.setenv("HARNESS_LEDGER", str(tmp_path / "attempts.jsonl"))
    right = [int(i % 5 > 0) for i in range(400)]
    base = table("base", make_asked_rows(right))

    def attempt(number: int) -> Said:
        other = [v if i != number else 1 - v for i, v in enumerate(right)]
        return gate(base, table(f"candidate{number}", make_asked_rows(other)))

    def commit(text: str) -> None:
        _run_git(tmp_path, "add", ".gitattributes", "attempts.jsonl", "attempts")
        _run_git(tmp_path, "commit", "-m", text)

    _run_git(tmp_path, "init")
    (tmp_path / ".gitattributes").write_text("attempts.jsonl merge=union\n", "utf-8")
    assert "1 attempt" in attempt(1).out
    commit("first")
    for branch, number in (("one", 2), ("two", 3)):
        _run_git(tmp_path, "switch", "-c", branch, "main")
        assert "2 attempts" in attempt(number).out
        commit(branch)
    _run_git(tmp_path, "merge", "--no-edit", "one")
    said = attempt(4)
    assert said.code == 0 and "4 attempts" in said.out, said
    lines = [json.loads(line) for line in (tmp_path / "attempts.jsonl").read_text("utf-8").splitlines()]
    assert len({line["id"] for line in lines}) == len(lines)


def test_a_ledger_of_another_version_is_refused(
    gate: Gate, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says that another version wrote it, and which formats these are."""
    monkeypatch.setenv("HARNESS_LEDGER", str(tmp_path / "attempts.jsonl"))
    rows: Any = make_asked_rows([1, 0] * 100)
    (tmp_path / "attempts.jsonl").write_text('{"format": 99}\n', "utf-8")
    said = gate(table("base", rows), table("candidate", [*rows[:-1], {**rows[-1], "score": 1}]))
    assert (said.code, said.out, said.err.count("\n")) == (4, "", 1)
    assert "was written by another version of the harness (format 99, and this one reads 1)" in said.err


def test_another_attempt_gets_advice_that_the_command_can_follow(gate: Gate, table: Table) -> None:
    """It names the command as the earlier attempt, and the way to a suite that spends the risk."""
    right = [int(i % 5 > 0) for i in range(400)]
    base = table("base", make_asked_rows(right))
    gate(base, table("first", make_asked_rows([*right[:-1], 0])))
    said = gate(base, table("second", make_asked_rows([1, *right[1:]])))
    told = " ".join(said.out.split())
    assert 'use other rows, or a suite with attempts = "spend", for which --write-suite FILE writes the claim' in told
    assert "previous: harness gate" in told and "--select" not in told
