"""Which row is which: by what is asked, by names that mean something, never by place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness import Sample, UsageError
from harness.cli.main import main
from harness.data.identity import add_question_keys, question_key
from harness.rows.pairing import PairedRows, pair_rows
from harness.rows.records import RawRow, RawRows
from tests.helpers.others import Said, make_asked_rows

Gate, Table = Callable[..., Said], Callable[..., Path]


def make_run_rows(*given: RawRow) -> RawRows:
    """Return a run of these rows."""
    return RawRows("tool", "model", "task", {}, given)


def row(key: str, content: str, value: float = 1.0, *, repeat: int = 0, numbered: bool = False) -> RawRow:
    """Return a row that was scored."""
    return RawRow(key, numbered, content, "", {"m": value}, repeat=repeat)


def list_paired_values(pairs: PairedRows) -> list[tuple[list[float], list[float]]]:
    """Return what was paired with what."""
    sides = zip(pairs.base, pairs.candidate, strict=True)
    return [([r.values["m"] for r in one], [r.values["m"] for r in other]) for one, other in sides]


def test_content_wins_over_names() -> None:
    """Names that mean another question on the other side are counted, and not followed."""
    base = make_run_rows(row("1", "france", 0.1), row("2", "japan", 0.2))
    candidate = make_run_rows(row("1", "japan", 0.3), row("2", "france", 0.4))
    pairs = pair_rows(base, candidate, only_common=False)
    assert (pairs.how, pairs.renamed, list_paired_values(pairs)) == ("content", 2, [([0.1], [0.4]), ([0.2], [0.3])])


def test_names_tell_copies_apart() -> None:
    """Several rows that ask the same are paired by their names."""
    base = make_run_rows(row("a", "x", 0.0), row("b", "x", 1.0))
    candidate = make_run_rows(row("b", "x", 0.9), row("a", "x", 0.1))
    assert sorted(list_paired_values(pair_rows(base, candidate, only_common=False))) == [([0.0], [0.1]), ([1.0], [0.9])]


def test_copies_without_names_need_the_same_number() -> None:
    """Copies that nothing tells apart are paired in an order that no file has, or refused where one lacks some."""
    base = make_run_rows(row("1", "x", 1.0, numbered=True), row("2", "x", 0.0, numbered=True))
    candidate = make_run_rows(row("7", "x", 0.0, numbered=True), row("8", "x", 1.0, numbered=True))
    assert list_paired_values(pair_rows(base, candidate, only_common=False)) == [([0.0], [0.0]), ([1.0], [1.0])]
    with pytest.raises(UsageError, match=", which cannot be paired without names; give --id COLUMN"):
        pair_rows(base, make_run_rows(row("7", "x", 0.0, numbered=True)), only_common=False)


def test_running_numbers_pair_nothing() -> None:
    """Rows without input are paired by texts, and by numbers only where somebody says that these are names."""
    with pytest.raises(
        UsageError,
        match=(
            "ids of rows are running numbers, and positions do not identify rows; give --id COLUMN, or --input COLUMN"
        ),
    ):
        pair_rows(
            make_run_rows(row("1", "", numbered=True)), make_run_rows(row("1", "", numbered=True)), only_common=False
        )
    with pytest.raises(UsageError, match="rows have neither input nor id"):
        pair_rows(make_run_rows(row("", "")), make_run_rows(row("", "")), only_common=False)
    assert pair_rows(make_run_rows(row("1", "")), make_run_rows(row("1", "")), only_common=False).how == "id"


def test_rows_without_an_id_are_counted() -> None:
    """An id that a row lacks makes no running numbers of the others."""
    run = make_run_rows(row("a", ""), row("", ""), row("c", ""))
    with pytest.raises(UsageError, match="base: 1 row has neither input nor id, and positions do not identify rows"):
        pair_rows(run, run, only_common=False)


def test_a_row_that_stands_twice_is_refused(gate: Gate, table: Table) -> None:
    """A name that comes twice is no repeat unless a column says so."""
    base, candidate = make_asked_rows([1] * 20), make_asked_rows([1] * 19 + [0])
    said = gate(table("base", [*base, dict(base[3], score=0)]), table("candidate", candidate))
    assert 'id "q-3" occurs twice in base with scores 1 and 0; name the repeat\'s column with --repeat' in said.err


def test_numbers_in_a_column_of_ids_are_ids(gate: Gate, table: Table) -> None:
    """A column called "id" names its rows, and the verdict says that repeats cannot be seen without their questions."""
    base, candidate = ([{"id": i, "score": int(i != odd)} for i in range(100)] for odd in (3, 4))
    said = gate(table("base", base), table("candidate", candidate))
    assert "100 paired by id" in said.out
    assert "no column tells questions apart, so whether they repeat is unknown" in " ".join(said.out.split())


def test_other_rows_are_refused_with_examples(gate: Gate, table: Table) -> None:
    """Rows of one side alone are told with both counts; the same names for other questions are told as that."""
    said = gate(table("base", make_asked_rows([1] * 20)), table("candidate", make_asked_rows([1] * 10)))
    assert "base: 20 rows, candidate: 10 rows; only in base 10, only in candidate 0, for instance " in said.err
    other = [dict(row, input=row["input"] + " Really?") for row in make_asked_rows([1] * 20)]
    said = gate(table("base", make_asked_rows([1] * 20)), table("candidate", other))
    assert "is another question than base's" in said.err and "on 20 of 20 rows" in said.err


def test_a_question_is_known_as_our_own_are() -> None:
    """A text and a target have the key that a row of a suite has, however they are spelt."""
    one, other = (Sample("", text, "Paris") for text in ("What  is THIS?", "what is this?"))
    assert {s.key for s in add_question_keys([one, other], None)} == {question_key("What is this?", "PARIS")}
    assert question_key("", "") == "" and question_key("a", "") != question_key("", "a")


def _make_copies(scores: tuple[float, float], **more: str) -> list[dict[str, object]]:
    """Return 40 questions twice, without ids, and 80 rows on which nothing changes."""
    twice = [{"input": f"q {i}?", "target": "a", "score": s} for s in scores for i in range(40)]
    return [*twice, *({"input": f"same {i}?", "target": "a", "score": 0.5, **more} for i in range(80))]


def test_a_claim_about_single_rows_needs_to_know_them(
    table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Copies paired by their scores lose the least, so what counts losses is refused; a mean is the same either way."""
    table("base", _make_copies((0.9, 0.1)))
    table("candidate", _make_copies((0.1, 0.9)))
    suite = (
        '[suite]\nname = "g"\n[rows.base]\npath = "base.jsonl"\n[rows.candidate]\npath = "candidate.jsonl"\n'
        '[[eval]]\nname = "q"\nuse = "rows"\nbetter = "higher"\nscale = "proportion"\n'
        '[[gate]]\nid = "few"\nmetric = "q.score"\nversus = "base"\n'
    )
    for claim, code in (("worse_by_more_than = 0.2\non_at_most = 0.05", 4), ("worse_by_at_most = 0.1", 0)):
        (tmp_path / "g.toml").write_text(f"{suite}{claim}\n", "utf-8")
        assert main(["run", str(tmp_path / "g.toml"), "--out", str(tmp_path / "reports")]) == code
        said = capsys.readouterr()
        assert code == 0 or "compares row by row, but 40 questions of q occur several times" in said.err


def test_copies_are_paired_within_their_cluster(gate: Gate, table: Table) -> None:
    """A question in two documents is two rows, each of its document on both sides, whatever their scores."""
    base = make_asked_rows([1] * 60 + [0] * 20)
    rows = [row | {"doc": f"d{i % 20}"} for i, row in enumerate(base)]
    same = [{"input": "same?", "target": "a", "score": s, "doc": doc} for s, doc in ((0, "d1"), (1, "d2"))]
    swapped = [one | {"score": 1 - int(str(one["score"]))} for one in same]
    said = gate(table("base", [*rows, *same]), table("candidate", [*rows, *swapped]), "--cluster", "doc")
    assert said.code in (0, 6) and "82 paired by content" in said.out, said


@pytest.mark.parametrize("field", ["weight", "cluster", "slice"])
def test_repeats_of_a_row_are_alike_but_for_their_scores(gate: Gate, table: Table, field: str) -> None:
    """The first repeat does not decide what its row weighs, or where it belongs."""
    rows = [
        {"id": f"q{i}", "rep": r, "score": int((i + r) % 3 > 0), "of": (1 + r if i == 7 else 1)}
        for i in range(40)
        for r in range(2)
    ]
    said = gate(
        table("base", rows), table("candidate", rows[::-1]), "--id", "id", "--repeat", "rep", f"--{field}", "of"
    )
    assert said.code == 4 and f'repeats of row "q7" differ in {field}' in said.err, said


def test_only_common_is_no_advice_where_nothing_is_common() -> None:
    """Ids that all differ in a space have another fix."""
    base, candidate = make_run_rows(row("a", "")), make_run_rows(row("a ", ""))
    with pytest.raises(UsageError, match="no row is in both, so check that both answered"):
        pair_rows(base, candidate, only_common=False)
