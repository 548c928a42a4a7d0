"""Two large files are read at a time, and come to what they come to one after the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness import UsageError
from harness.rows import sides
from harness.rows.readers import read_run_rows
from harness.rows.records import Wanted

Table = Callable[..., Path]
WANT = Wanted(slices=["kind"], cluster=["article"], weight="w", repeat="try")


def _make_rows(**last: object) -> list[dict[str, object]]:
    each = [
        {"id": f"q{i}", "input": f"what is {i}?", "target": str(i), "score": score, "kind": "ab"[i % 2], "w": i + 0.5}
        for i, score in enumerate([1, 0, None, 0.25, "nan"])
    ]
    told = [row | {"article": f"of {i // 2}", "try": i % 3} for i, row in enumerate(each)]
    return [*told[:-1], told[-1] | last]


@pytest.fixture(autouse=True)
def _all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "LARGE_FILE_BYTES", 1)


def test_both_are_what_each_is(table: Table) -> None:
    """Rows, metrics and sources are those of one file read after the other, all fields of a row among them."""
    paths = [str(table("base", _make_rows())), str(table("candidate", _make_rows(id="another", score=1)))]
    assert sides.read_sides(paths, [WANT, WANT]) == [read_run_rows(path, WANT) for path in paths]


@pytest.mark.parametrize("broken", [0, 1])
def test_mistakes_are_told_alike(table: Table, broken: int) -> None:
    """A file that cannot be read ends in the line that it ends in alone, whichever process reads it."""
    paths = [str(table("base", _make_rows())), str(table("candidate", _make_rows()))]
    paths[broken] = str(table("broken", _make_rows(score="1,500")))
    with pytest.raises(UsageError) as alone:
        read_run_rows(paths[broken], WANT)
    with pytest.raises(UsageError) as together:
        sides.read_sides(paths, [WANT, WANT])
    assert str(together.value) == str(alone.value) and "line 5" in str(alone.value)


def test_small_files_start_no_process(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """One small file is enough for both to be read here."""
    monkeypatch.setattr(sides, "LARGE_FILE_BYTES", 10_000)
    monkeypatch.setattr(sides.subprocess_call, "call_module", None)
    assert (
        len(sides.read_sides([str(table("base", _make_rows())), str(table("candidate", _make_rows()))], [WANT, WANT]))
        == 2
    )
