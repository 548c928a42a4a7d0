"""Drawn tables: every door finds the same roles, whatever columns are called and in whatever order they stand."""

from __future__ import annotations

import csv
import io
import json
import random
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import harness
from harness.cli.main import main
from harness.data.column_names import INPUTS, LABELS
from harness.data.resolver import resolve_table
from harness.pipeline.run import Options, prepare_collection
from tests.helpers.suites_of_rows import write_suite

Row = dict[str, Any]
WORDS = ("lamp", "door", "river", "train", "cloud", "stone", "bread", "glass", "night", "paper")
ROWS = 80


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, str, list[Row]]:
    """Return the names of input and label, and rows whose columns stand in any order, some of them twice."""
    names = draw(st.sampled_from(INPUTS)), draw(st.sampled_from([name for name in LABELS if name not in INPUTS]))
    luck = random.Random(draw(st.integers(0, 10_000)))
    labels = draw(st.integers(2, 4))
    others = draw(st.lists(st.sampled_from(["id", "zone", "size", "note"]), unique=True))
    rows: list[Row] = []
    for i in range(ROWS):
        cells = {names[0]: f"{' '.join(luck.choices(WORDS, k=6))} {i}", names[1]: f"{WORDS[i % labels]}"}
        cells |= {"id": f"r{i}"} if "id" in others else {}
        cells |= {"zone": f"z{i // 2}"} if "zone" in others else {}
        cells |= {"size": f"{i / 8}"} if "size" in others else {}
        cells |= {"note": ""} if "note" in others else {}
        rows.append(cells)
    order = draw(st.permutations([*rows[0]]))
    rows = [{name: row[name] for name in order} for row in rows]
    return *names, rows


def write_table(path: Path, rows: list[Row], separator: str, encoding: str) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [*rows[0]], delimiter=separator, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=tables())
def test_a_suite_finds_the_roles_that_init_finds(drawn: tuple[str, str, list[Row]], tmp_path: Path) -> None:
    """Training and evaluation take the same columns as `init`, print the same lines, and lose no row."""
    asked, label, rows = drawn
    resolution = resolve_table(rows, {}, lambda *_: pytest.fail("asked"))
    assert (resolution.roles.inputs, resolution.roles.label) == ((asked,), label)
    collection = prepare_collection(write_suite(tmp_path, rows), Options())
    samples = collection.tasks["answers"].samples or ()
    assert [(s.input, s.target) for s in samples] == [(row[asked], row[label]) for row in rows]
    assert len(collection.training or ()) == len(rows)
    if collection.readings:  # none where the names are a suite's own
        told = {reading.partition('.jsonl": ')[2] for reading in collection.readings}
        assert told == {*resolution.describe()}


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    drawn=tables(), separator=st.sampled_from(",;\t"), encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    repeats=st.integers(0, 20),
)  # fmt: skip
def test_init_finds_them_in_every_file(
    drawn: tuple[str, str, list[Row]], separator: str, encoding: str, repeats: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    """Separator, encoding and duplicates change no role, and a row that is left out has a line."""
    asked, _, rows = drawn
    folder = tmp_path_factory.mktemp("drawn")
    write_table(folder / "a.csv", [*rows, *rows[:repeats]], separator, encoding)
    said = io.StringIO()
    with redirect_stderr(said):
        assert main(["init", str(folder / "mine"), "--data", str(folder / "a.csv")]) == 0, said.getvalue()
    lines = said.getvalue().splitlines()
    assert {*resolve_table(rows, {}, lambda *_: pytest.fail("asked")).describe()} <= {*lines}
    left_out = sum(int(line.split()[2].replace(",", "")) for line in lines if line.startswith("left out: "))
    written = [json.loads(line) for path in folder.glob("mine/data/*.jsonl") for line in path.read_text().splitlines()]
    assert len(written) + left_out == len(rows) + repeats
    assert left_out >= repeats
    assert {row[asked] for row in written} <= {row[asked] for row in rows}


@settings(max_examples=15, deadline=None)
@given(
    names=st.lists(st.sampled_from(INPUTS), min_size=2, max_size=2, unique=True), seed=st.integers(0, 1000),
    repeats=st.integers(1, 4), lost=st.booleans(),
)  # fmt: skip
def test_no_verdict_of_gate_changes_by_names_or_order(names: list[str], seed: int, repeats: int, lost: bool) -> None:
    """One draw of scores has one verdict, whatever the column of questions is called, and where it stands."""
    luck = random.Random(seed)
    questions = [f"what is {' '.join(luck.choices(WORDS, k=5))} {i // repeats}?" for i in range(120)]
    base = [int(luck.random() < 0.7) for _ in questions]
    ours = [score if luck.random() < 0.9 else 1 - score for score in base]
    verdicts = set()
    for name in (*names, "xyzzy"):
        for turned in (False, True):
            sides = []
            for scores in (base, ours):
                rows = [
                    {"id": f"q{i}", name: q, "score": s} for i, (q, s) in enumerate(zip(questions, scores, strict=True))
                ]
                sides.append([dict([*row.items()][::-1]) if turned else row for row in rows])
            verdict = harness.gate(*sides, worse_by_at_most=0.2 if lost else 0.05).verdict
            verdicts.add((verdict.outcome, verdict.estimate, verdict.lower, verdict.upper, verdict.n))
    assert len(verdicts) == 1
