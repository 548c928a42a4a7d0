"""One reader for the tables of any tool: layouts, compression, nested columns, and words of right and wrong."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import UsageError
from harness.rows.readers import read_run_rows
from harness.rows.readers.tables import parse_table_score
from harness.rows.records import Wanted
from tests.helpers.others import Said

Gate = Callable[..., Said]
ROWS = [
    {"id": f"q-{i}", "input": f"What is {i}?", "target": str(i), "answer": str(i - i % 2), "score": 1 - i % 2}
    for i in range(6)
]
NESTED = [{"doc": {"q": r["input"], "gold": r["target"]}, "metric": {"acc": r["score"]}, "n": r["id"]} for r in ROWS]


def _encode_csv(separator: str) -> str:
    text = io.StringIO()
    rows = csv.DictWriter(text, [*ROWS[0]], delimiter=separator, lineterminator="\r\n")
    rows.writeheader()
    rows.writerows(ROWS)
    return text.getvalue()


def _make_column_table(**more: Any) -> dict[str, Any]:
    return {"columns": [*ROWS[0]], "data": [[*row.values()] for row in ROWS], **more}


def _encode_jsonl() -> str:
    return "".join(json.dumps(row) + "\n" for row in ROWS)


def _encode_arrow(kind: str) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import feather, ipc, parquet

    table, out = pyarrow.Table.from_pylist(ROWS), io.BytesIO()
    if kind == "parquet":
        parquet.write_table(table, out)
    elif kind == "feather":
        feather.write_feather(table, out)
    else:
        with (ipc.new_file if kind == "file" else ipc.new_stream)(out, table.schema) as writer:
            writer.write_table(table)
    return out.getvalue()


def _encode_workbook() -> bytes:
    openpyxl = pytest.importorskip("openpyxl")
    book, out = openpyxl.Workbook(), io.BytesIO()
    for row in ([*ROWS[0]], *([*row.values()] for row in ROWS)):
        book.active.append(row)
    book.save(out)
    return out.getvalue()


def _encode_database(folder: Path) -> bytes:
    path = folder / "made.db"
    database = sqlite3.connect(path)
    database.execute("create table answers (id text, input text, target text, answer text, score integer)")
    database.executemany("insert into answers values (?, ?, ?, ?, ?)", [[*row.values()] for row in ROWS])
    database.commit()
    database.close()
    return path.read_bytes()


LAYOUTS: dict[str, Callable[[Path], bytes]] = {
    "comma": lambda _: _encode_csv(",").encode(),
    "semicolon": lambda _: _encode_csv(";").encode(),
    "tab": lambda _: _encode_csv("\t").encode(),
    "pipe": lambda _: _encode_csv("|").encode(),
    "Excel's mark": lambda _: ("sep=;\r\n" + _encode_csv(";")).encode(),
    "UTF-16": lambda _: _encode_csv("\t").encode("utf-16"),
    "UTF-16 without a mark": lambda _: _encode_csv(",").encode("utf-16-le"),
    "UTF-8 with a mark": lambda _: b"\xef\xbb\xbf" + _encode_csv(",").encode(),
    "JSON lines": lambda _: _encode_jsonl().encode(),
    "a list": lambda _: json.dumps(ROWS).encode(),
    "a list with indent": lambda _: json.dumps(ROWS, indent=2).encode(),
    "split": lambda _: json.dumps(_make_column_table()).encode(),
    "W&B": lambda _: json.dumps(_make_column_table(ncols=5, nrows=6)).encode(),
    "split with indent": lambda _: json.dumps(_make_column_table(), indent=1).encode(),
    "pandas by columns": lambda _: json.dumps(
        {c: {str(i): r[c] for i, r in enumerate(ROWS)} for c in ROWS[0]}
    ).encode(),
    "a list in an object": lambda _: json.dumps({"model": "m", "samples": ROWS}, indent=1).encode(),
    "the Hub's viewer": lambda _: json.dumps([{"row_idx": i, "row": r} for i, r in enumerate(ROWS)]).encode(),
    "Parquet": lambda _: _encode_arrow("parquet"),
    "Arrow": lambda _: _encode_arrow("file"),
    "a stream of Arrow": lambda _: _encode_arrow("stream"),
    "feather": lambda _: _encode_arrow("feather"),
    "a workbook": lambda _: _encode_workbook(),
    "SQLite": _encode_database,
    "gzip": lambda _: gzip.compress(_encode_csv(",").encode(), mtime=0),
    "gzip of lines": lambda _: gzip.compress(_encode_jsonl().encode(), mtime=0),
    "bzip2": lambda _: bz2.compress(json.dumps(ROWS).encode()),
    "xz": lambda _: lzma.compress(_encode_csv(";").encode()),
    "zstd": lambda _: pytest.importorskip("zstandard").compress(_encode_jsonl().encode()),
    "zstd of UTF-16": lambda _: pytest.importorskip("zstandard").compress(_encode_csv(";").encode("utf-16")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_same_rows(tmp_path: Path, layout: str) -> None:
    """Whatever a table is written as, under a name without a suffix, its rows are the same, texts and all."""
    (tmp_path / "rows").write_bytes(LAYOUTS[layout](tmp_path))
    (tmp_path / "plain").write_text(_encode_jsonl(), "utf-8")
    found, plain = (read_run_rows(str(tmp_path / name), Wanted()).rows for name in ("rows", "plain"))
    assert [*found] == [*plain]
    first = found[1]
    assert (first.key, first.input, first.target, first.answer) == ("q-1", "What is 1?", "1", "0")
    assert [row.values for row in found] == [{"score": float(row["score"])} for row in ROWS]


def test_a_saved_data_set_is_read(tmp_path: Path) -> None:
    """A folder of `save_to_disk` is a table; of one with splits the splits are named."""
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_list(ROWS)
    made.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(tmp_path / "splits")
    assert len(read_run_rows(str(tmp_path / "one"), Wanted()).rows) == 6
    with pytest.raises(UsageError, match="has the splits train, test; name the folder of one"):
        read_run_rows(str(tmp_path / "splits"), Wanted())


def test_columns_inside_others_are_named_with_dots(tmp_path: Path) -> None:
    """`metric.acc` is acc in the objects of metric, for every column that an option names."""
    (tmp_path / "rows").write_text(json.dumps(NESTED), "utf-8")
    want = Wanted(id="n", input="doc.q", target="doc.gold", score="metric.acc", slices=["doc.gold"])
    found = read_run_rows(str(tmp_path / "rows"), want)
    assert [*found.metrics] == ["metric.acc"] and found.rows[1].values == {"metric.acc": 0.0}
    assert (found.rows[1].key, found.rows[1].input, found.rows[1].slices) == ("q-1", "What is 1?", {"doc.gold": "1"})
    whole = '"metric" is an object; name a value in it, such as --score metric.acc'
    for column, said in (("metric", whole), ("metric.accuracy", 'has no column "metric.accuracy"')):
        with pytest.raises(UsageError) as error:
            read_run_rows(str(tmp_path / "rows"), Wanted(score=column))
        assert said in str(error.value)


@pytest.mark.parametrize(
    ("cell", "score"),
    [
        ("C", 1), ("I", 0), ("pass", 1), ("FAILED", 0), ("Yes", 1), ("no", 0), ("correct", 1), ("incorrect", 0),
        ("0,9", 0.9), ("90 %", 0.9), ("90%", 0.9), ("12,5 %", 0.125), ("1,5", 1.5), ("0,125", 0.125), ("-0,5", -0.5),
        ("n/a", None), ("#N/A", None), ("NaT", None), ("", None), (None, None), (True, 1), ("1e-3", 0.001),
    ],
)  # fmt: skip
def test_scores_are_numbers_words_or_shares(cell: Any, score: float | None) -> None:
    """Letters and words of right and wrong, decimal commas and per cent are read as people write them."""
    assert parse_table_score(cell, "x") == (None if score is None else pytest.approx(score))


@pytest.mark.parametrize("cell", ["1,234", "maybe", "1.2.3", "90 % of", "1,2,3", [1], {"acc": 1}])
def test_what_could_be_two_numbers_is_none(cell: Any) -> None:
    """1,234 may be a thousand and more, and no word is guessed."""
    with pytest.raises(UsageError, match="line 3"):
        parse_table_score(cell, "line 3")


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def _make_many_rows(n: int = 400) -> list[dict[str, Any]]:
    return [{"id": f"q-{i}", "input": f"What is {i}?", "score": int(i % 5 > 0)} for i in range(n)]


def test_a_wide_table_has_a_column_for_each_side(gate: Gate, tmp_path: Path) -> None:
    """`--base-score` and `--candidate-score` gate one table as two would be gated."""
    rows = _make_many_rows()
    wide = [{"id": r["id"], "input": r["input"], "a": r["score"], "b": r["score"] if i != 6 else 0}
            for i, r in enumerate(rows)]  # fmt: skip
    path = _write(tmp_path / "wide.jsonl", wide)
    said = gate(path, "--base-score", "a", "--candidate-score", "b")
    assert said.code == 0 and "400 pairs, 1 lost, 0 won" in said.out, said
    assert gate(path, path, "--base-score", "a", "--candidate-score", "b").code == 0
    assert "belong together" in gate(path, path, "--base-score", "a").err


def test_names_of_models_and_files_may_hold_a_number_sign(gate: Gate, tmp_path: Path) -> None:
    """The longest path that exists is the file, and what follows names its rows."""
    path = tmp_path / "run#2.csv"
    lines = [f"q-{i},{name},{int(i % 5 > 0)}" for i in range(300) for name in ("old", "mine#7")]
    path.write_text("\n".join(["id,model,score", *lines]) + "\n", "utf-8")
    said = gate(f"{path}#model=old", f"{path}#model=mine#7")
    assert said.code == 0, said.err


def test_a_long_table_has_a_column_of_models(gate: Gate, tmp_path: Path) -> None:
    """`FILE#model=NAME` names the rows of one model; without it rows of two models are not mixed."""
    rows = [{**r, "model": m} for r in _make_many_rows() for m in ("old", "new")]
    path = _write(tmp_path / "long.jsonl", rows)
    said = gate(f"{path}#model=old", f"{path}#model=new")
    assert said.code == 0 and "400 pairs, 0 lost, 0 won" in said.out and "candidate  table · new" in said.out, said
    assert "has rows of 2 models (new, old); name one as FILE#model=NAME" in gate(path, path).err
    assert (
        'no row has "newer" in "model"; did you mean "new"?; it has'
        in gate(f"{path}#model=old", f"{path}#model=newer").err
    )


def test_an_error_beside_a_score_of_0_is_no_answer(gate: Gate, tmp_path: Path) -> None:
    """A row with an error has no score; a column of numbers that is called so is a metric."""
    rows = _make_many_rows()
    broken = [{**r, "score": 0, "error": "HTTP 503"} if i == 7 else {**r, "error": None} for i, r in enumerate(rows)]
    said = gate(_write(tmp_path / "base", rows), _write(tmp_path / "candidate", broken))
    assert said.code == 6 and "1 row ended in an error (1 HTTP 503)" in " ".join(said.out.split()), said
    numbers = [{**r, "error": 0.25} for r in rows]
    assert (
        gate(
            _write(tmp_path / "base", numbers), _write(tmp_path / "candidate", [*rows[:-1], {**rows[-1], "score": 0}])
        ).code
        == 0
    )


def test_ids_that_are_floats_are_whole_numbers(gate: Gate, tmp_path: Path) -> None:
    """pandas writes 1.0 for 1 where an id is missing; with --id they pair with whole numbers."""
    whole = [{"id": i, "score": int(i % 5 > 0)} for i in range(400)]
    floats = "id,score\n" + "".join(f"{i}.0,{int(i % 5 > 0 and i != 6)}\n" for i in range(400))
    (tmp_path / "b.csv").write_text(floats, "utf-8")
    said = gate(_write(tmp_path / "a", whole), tmp_path / "b.csv", "--id", "id")
    assert said.code == 0 and "400 pairs, 1 lost, 0 won" in said.out, said


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("cut.csv.gz", gzip.compress(_encode_csv(",").encode(), mtime=0)[:-9], "is not complete gzip"),
        ("one.csv", b"score\n1\n0\n", "rows have neither input nor id"),
        ("none.json", b'{"results": {"t": {"acc,none": 0.5}}, "configs": {}}', "run it with --log_samples"),
        ("cut.json", json.dumps(ROWS)[:-20].encode(), "rows are never skipped"),
        ("page.html", b"<!doctype html><html>", "looks like an HTML page"),
        ("paper.pdf", b"%PDF-1.7\n%\xe2\xe3", "looks like a PDF"),
        ("list.json", b"[1, 2]", "row 1: is an int, not an object"),
        ("bad.db", b"SQLite format 3\0" + b"\0" * 200, "not valid SQLite"),
        ("odd.csv", "id,score\nплохо,1\n".encode("cp1251"), '("плохо"); save the file as "CSV UTF-8"'),
        ("many.csv", (",".join(f"c{i}" for i in range(10_001)) + "\n").encode(), "too many"),
    ],
)
def test_what_is_no_table_is_said(gate: Gate, tmp_path: Path, name: str, content: bytes, said: str) -> None:
    """One line says what a file looks like, and which is it."""
    (tmp_path / name).write_bytes(content)
    (tmp_path / "other.jsonl").write_text(_encode_jsonl(), "utf-8")
    ended = gate(tmp_path / name, tmp_path / "other.jsonl")
    assert (ended.code, ended.out, ended.err.count("\n")) == (4, "", 1) and said in ended.err, ended


def test_ten_thousand_columns_are_read(gate: Gate, tmp_path: Path) -> None:
    """A table as wide as a feature matrix takes seconds."""
    more = ",".join(f"c{i}" for i in range(9_997))
    for side, lost in (("base", 0), ("candidate", 1)):
        cells = ",".join("0" for _ in range(9_997))
        rows = (f"q{i},What is {i}?,{int(i > lost)},{cells}\n" for i in range(60))
        (tmp_path / f"{side}.csv").write_text(f"id,input,score,{more}\n" + "".join(rows), "utf-8")
    assert "60 pairs, 1 lost, 0 won" in gate(tmp_path / "base.csv", tmp_path / "candidate.csv").out


def test_a_first_line_longer_than_what_is_looked_at(tmp_path: Path) -> None:
    """JSON lines of many kilobytes are known as lines, compressed or not; one line alone is a document."""
    noise = random.Random(0).randbytes(200_000).hex()
    rows = [{**ROWS[0], "log": noise}, *ROWS[1:]]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    for name, data in (("a", lines), ("b", gzip.compress(lines)), ("c", lines.decode().encode("utf-16"))):
        (tmp_path / name).write_bytes(data)
        assert len(read_run_rows(str(tmp_path / name), Wanted()).rows) == 6, name
    (tmp_path / "d").write_bytes(json.dumps(_make_column_table(note=noise)).encode())
    assert len(read_run_rows(str(tmp_path / "d"), Wanted()).rows) == 6


def test_logs_with_several_kinds_of_lines_are_long_tables(tmp_path: Path) -> None:
    """OpenAI's evals log events: those of one type are the rows; OpenCompass writes a row under each key."""
    events = [{"spec": {"run_id": "r"}}, {"final_report": {"accuracy": 0.5}}]
    for i in range(4):
        events.append({"sample_id": f"s.{i}", "type": "sampling", "data": {"prompt": f"Q{i}", "sampled": ["x"]}})
        events.append({"sample_id": f"s.{i}", "type": "match", "data": {"correct": bool(i % 2), "expected": str(i)}})
    _write(tmp_path / "events.jsonl", events)
    want = Wanted(id="sample_id", score="data.correct", target="data.expected")
    found = read_run_rows(f"{tmp_path}/events.jsonl#type=match", want)
    assert [row.values["data.correct"] for row in found.rows] == [0, 1, 0, 1] and found.rows[1].target == "1"
    with pytest.raises(UsageError, match='has no column "kind"'):
        read_run_rows(f"{tmp_path}/events.jsonl#kind=match", want)
    keyed = {"accuracy": 50, "details": {str(i): {"pred": "x", "gold": str(i), "correct": i == 1} for i in range(3)}}
    (tmp_path / "details.json").write_text(json.dumps(keyed), "utf-8")
    rows = read_run_rows(str(tmp_path / "details.json"), Wanted(score="correct", id="id", target="gold")).rows
    assert [(row.key, row.target, row.values["correct"]) for row in rows] == [
        ("0", "0", 0),
        ("1", "1", 1),
        ("2", "2", 0),
    ]


def test_formulas_are_results_or_refused(tmp_path: Path) -> None:
    """A workbook whose formulas were never computed has no scores."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["id", "score"], ["a", "=1+0"]):
        book.active.append(row)
    book.save(tmp_path / "rows.xlsx")
    with pytest.raises(UsageError, match=r'row 2 has the formula "=1\+0" without its result'):
        read_run_rows(str(tmp_path / "rows.xlsx"), Wanted())


def test_the_same_file_by_two_names_is_one(gate: Gate, tmp_path: Path) -> None:
    """A link, or a copy, gated against its original is refused."""
    path = _write(tmp_path / "a.jsonl", _make_many_rows())
    (tmp_path / "link.jsonl").symlink_to(path)
    (tmp_path / "copy.jsonl").write_bytes(path.read_bytes())
    (tmp_path / "packed.jsonl").write_bytes(gzip.compress(path.read_bytes()))
    for name in ("link", "copy", "a", "packed"):
        assert "are the same file" in gate(path, tmp_path / f"{name}.jsonl").err


def test_a_column_of_one_side_is_named(gate: Gate, tmp_path: Path) -> None:
    """A target that only one side has makes no question another one: the column is named, and can be left out."""
    rows = _make_many_rows()
    base = _write(tmp_path / "base", [{**r, "target": str(i)} for i, r in enumerate(rows)])
    candidate = _write(tmp_path / "candidate", rows)
    said = gate(base, candidate)
    assert 'candidate: has no column "target", which base has; add it, or use --target none for both' in said.err
    assert gate(base, candidate, "--target", "none").code == 0


def test_rendered_prompts_pair_by_id(gate: Gate, tmp_path: Path) -> None:
    """A table that logged prompts as they were sent pairs by id where templates differ, and the line says how."""
    rows = _make_many_rows()
    base = _write(tmp_path / "base", rows)
    candidate = _write(tmp_path / "candidate", [{**r, "input": f"<user>{r['input']}"} for r in rows])
    assert "pair by id: --input none --id COLUMN" in gate(base, candidate).err
    assert gate(base, candidate, "--input", "none", "--id", "id").code == 0
