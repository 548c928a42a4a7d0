"""Repeats and rows that a side lacks, two columns of clusters, and columns that are not to be read."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.texts.json_text import read_json
from tests.helpers.others import Said, make_asked_rows

Gate, Table = Callable[..., Said], Callable[..., Path]


def read_verdict(said: Said) -> dict[str, Any]:
    """Return the verdict of a comparison printed as JSON."""
    (found,) = read_json(said.out)["run"]["results"][1]["verdicts"]
    assert isinstance(found, dict)
    return found


def draw_repeated_rows(right: float, rows: int, times: int, seed: int) -> list[dict[str, Any]]:
    """Return rows asked so many times, each answer right with this chance."""
    luck = random.Random(seed)
    return [
        dict(row, run=k, score=int(luck.random() < right)) for row in make_asked_rows([0] * rows) for k in range(times)
    ]


def test_failures_that_are_not_in_the_log_prove_nothing(gate: Gate, table: Table) -> None:
    """300 rows x 5 repeats, of a candidate that is 20 points worse and logs what it got right: no PASS either way."""
    base, ours = draw_repeated_rows(0.8, 300, 5, 1), draw_repeated_rows(0.6, 300, 5, 2)
    luck = random.Random(3)
    there = [row for row in ours if row["score"] or row["run"] == 0 or luck.random() < 0.3]
    files = table("base", base), table("candidate", there), "--repeat", "run"
    said = gate(*files)
    assert said.code == 6 and "have too few repeats" in " ".join(said.out.split())
    counted = read_verdict(gate(*files, "--missing", "wrong", "--json"))
    assert counted["outcome"] != "PASS" and counted["lower"] < -0.2
    assert counted["estimate"] == pytest.approx(counted["value"] - counted["baseline"])


def test_repeats_of_a_table_without_them_are_refused(gate: Gate, table: Table) -> None:
    """One answer per row is no row without a score."""
    base, other = make_asked_rows([1, 0] * 20), make_asked_rows([1, 1] * 20)
    said = gate(table("base", base), table("candidate", other), "--repeats", "3")
    assert (said.code, "--repeats 3: base has one answer per row; remove it" in said.err) == (4, True), said


def test_one_missing_repeat_is_bounded_by_what_it_may_be(gate: Gate, table: Table) -> None:
    """A repeat that one side lacks moves a bound by its share of a row, and no row out of the mean."""
    base = draw_repeated_rows(0.8, 200, 4, 1)
    lacking = [row for row in base if (row["id"], row["run"]) != ("q-7", 3)]
    files = table("base", base), table("candidate", [dict(row, x=1) for row in lacking]), "--repeat", "run"
    found = read_verdict(gate(*files, "--missing", "wrong", "--json"))
    whole = read_verdict(gate(files[0], table("same", [dict(row, x=1) for row in base]), "--repeat", "run", "--json"))
    assert (found["n"], whole["n"]) == (200, 200)
    assert whole["lower"] - 0.01 < found["lower"] < whole["lower"]


def test_fewer_repeats_on_both_sides_are_told(gate: Gate, table: Table) -> None:
    """Rows with fewer repeats than most on both sides are judged as they are, and told, unless a number is demanded."""
    base = [row for row in draw_repeated_rows(0.8, 100, 4, 1) if row["id"] not in ("q-3", "q-4") or row["run"] < 2]
    files = table("base", base), table("candidate", [dict(row, x=1) for row in base]), "--repeat", "run"
    assert "2 rows with fewer repeats than the 4 of most" in " ".join(gate(*files).out.split())
    assert gate(*files, "--repeats", "4").code == 6
    assert "has 4 repeats in base; give the number that each row has" in gate(*files, "--repeats", "3").err


def test_missing_rows_are_worst_to_prove_and_best_to_refute(gate: Gate, table: Table) -> None:
    """150 rows, 18 without a score and none of the others lost: neither proven nor refuted, none told as lost."""
    base, ours = make_asked_rows([1] * 150), make_asked_rows([None] * 18 + [1] * 132)
    found = read_verdict(gate(table("base", base), table("candidate", ours), "--missing", "wrong", "--json"))
    assert (found["outcome"], found["lost_count"], found["n"]) == ("INCONCLUSIVE", 0, 150)
    assert (found["value"], found["baseline"], found["estimate"]) == (1.0, 1.0, 0.0)
    assert found["lower"] < -0.12 and found["upper"] >= 0.0


def test_equal_files_need_a_word(gate: Gate, table: Table, tmp_path: Path) -> None:
    """The same bytes twice are refused with the way out, and judged with it."""
    base = table("base", make_asked_rows([1] * 300 + [0] * 100))
    (tmp_path / "copy.jsonl").write_bytes(base.read_bytes())
    said = gate(base, tmp_path / "copy.jsonl")
    assert (
        said.code == 4
        and "base and candidate are the same file (sha256" in said.err
        and "--allow identical" in said.err
    )
    said = gate(base, tmp_path / "copy.jsonl", "--allow", "identical")
    assert said.code == 0 and "allowed: base and candidate are the same file" in " ".join(said.out.split())


def test_a_share_of_the_baseline_is_told_as_a_difference(gate: Gate, table: Table) -> None:
    """--worse-by-at-most 5% of 0.8: a model two points worse is -2.0 points, and its limit is 5 % of 0.8, 4 points."""
    base = table("base", make_asked_rows([1] * 640 + [0] * 160))
    ours = table("candidate", make_asked_rows([0] * 16 + [1] * 624 + [0] * 160))
    claim = ("--worse-by-at-most", "5%")
    out = " ".join(gate(base, ours, claim=claim).out.split())
    assert "0.8000 → 0.7800 −2.00 points (−2.5%), at least −" in out
    assert re.search(r"at least −\d\.\d+ points \(−\d\.\d%\) \(limit −5% of 0\.800 = −4\.0 points\)", out)
    found = read_verdict(gate(base, ours, "--json", claim=claim))
    assert (found["estimate"], found["threshold"]) == pytest.approx((-0.02, -0.04))
    assert found["estimate"] == pytest.approx(found["value"] - found["baseline"])


def test_two_columns_of_clusters_are_crossed(gate: Gate, table: Table) -> None:
    """Documents and templates both count, whichever comes first; one nested in the other is left to it."""
    luck = random.Random(1)
    hard = [luck.random() < 0.2 for _ in range(20)]
    base = [
        dict(row, doc=f"d{i // 20}", form=f"f{i % 20}", part=f"p{i // 10}")
        for i, row in enumerate(make_asked_rows([1] * 400))
    ]
    ours = [dict(row, score=int(not (hard[i % 20] and luck.random() < 0.5))) for i, row in enumerate(base)]
    files = table("base", base), table("candidate", ours), "--json"
    both, other = (
        read_verdict(gate(*files, "--cluster", one, "--cluster", two))
        for one, two in (("doc", "form"), ("form", "doc"))
    )
    assert both["parts"]["clusters"]["crossed"] == [20, 20] and both["lower"] == pytest.approx(other["lower"])
    nested, alone = (
        read_verdict(gate(*files, "--cluster", "part", "--cluster", "doc", "--slice", "form")),
        read_verdict(gate(*files, "--cluster", "doc", "--slice", "form")),
    )
    assert read_verdict(gate(*files, "--cluster", "part", "--cluster", "doc"))["parts"]["clusters"]["crossed"] == [
        20,
        20,
    ]
    assert (nested["parts"]["clusters"]["crossed"], nested["lower"]) == ([], alone["lower"])
    assert "columns; name one, or two different ones" in gate(*files, "--cluster", "doc", "--cluster", "doc").out


def test_columns_may_be_left_unread(gate: Gate, table: Table) -> None:
    """Rows with one instruction as their input all ask the same; without an input, ids pair them."""
    base = [dict(row, input="Classify.", target="") for row in make_asked_rows([1] * 300 + [0] * 100)]
    ours = [dict(row, x=1) for row in base]
    files = table("base", base), table("candidate", ours)
    assert "all 400 rows ask the same question" in " ".join(gate(*files).out.split())
    said = gate(*files, "--input", "none")
    assert said.code == 0 and "400 paired by id" in said.out
    assert gate(*files, "--input", "none", "--cluster", "none").code == 0


def test_pairs_stay_in_the_order_of_the_file(gate: Gate, table: Table) -> None:
    """Neighbours that score alike are noticed in rows that are paired by what they ask."""
    luck = random.Random(2)
    blocks = [score for score in luck.choices([0, 1], k=40) for _ in range(10)]
    said = gate(table("base", make_asked_rows([1] * 400)), table("candidate", make_asked_rows(blocks)))
    assert "neighbouring rows are correlated (" in " ".join(said.out.split())
