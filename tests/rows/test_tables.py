"""Tables of one's own: every form is read alike, and every odd line is told by its number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness import UsageError
from harness.rows.readers import read_run_rows
from harness.rows.records import Wanted
from tests.helpers.others import Said, make_asked_rows

Gate, Table = Callable[..., Said], Callable[..., Path]
TEXT = "id,input,score\n0001,What?,1\n0002,Who?,0\n"


def test_every_form_is_read_alike(tmp_path: Path, table: Table) -> None:
    """CSV, TSV, JSON lines and Parquet, with a BOM and Windows' line ends too, give the same rows, by content alone."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"id": "0001", "input": "What?", "score": 1}, {"id": "0002", "input": "Who?", "score": 0}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.bin")
    forms = {
        "a": TEXT.encode(),
        "b": b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode(),
        "c": TEXT.replace(",", "\t").encode(),
        "d": table("x", rows).read_bytes(),
        "e": b"\xef\xbb\xbf" + table("x", rows).read_bytes().replace(b"\n", b"\r\n"),
        "f": (tmp_path / "rows.bin").read_bytes(),
        "g": TEXT.replace("\n", ",,\r\n").encode(),  # as Excel saves a sheet of which cells were deleted
    }
    found = []
    for name, data in forms.items():
        (tmp_path / name).write_bytes(data)
        found.append(read_run_rows(str(tmp_path / name), Wanted(id="id")).rows)
    assert all(rows == found[0] for rows in found) and [r.key for r in found[0]] == ["0001", "0002"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "id,score\nq-1,1,5\n",
            ("line 2: has 3 fields, but the header has 2; check for a missing quote, or a comma in 1,5"),
        ),
        ('id,score\nq-1,"1,500"\n', 'line 2: "1,500" is not a number'),
        ("id,score,id\nq-1,1,2\n", 'line 1: the column "id" occurs twice, or there are too many'),
        ('id,score\n"q-1,1\n', "not valid CSV"),
        (
            '{"id": "a", "score": 1}\n{"id": "b", "sco',
            "line 2: cannot be read; lines are never skipped (Unterminated string starting at",
        ),
        ('{"id": "a", "score": 1}\n[1]\n', "line 2: is not an object; correct it, since lines are never skipped"),
        ('{"id": "a", "score": NaN}\n', "holds NaN"),
        ('{"id": "a", "score": 1, "score": 0}\n', '" occurs twice'),
        ('{"id": "a", "score": ' + "9" * 5000 + "}\n", "a number has thousands of digits"),
        ('{"id": "a", "score": ' + "[" * 100_000 + "\n", "nested too deeply"),
        ('{"id": "a"}\n', ': has no column "score"; name it with --score COLUMN (it has "id")'),
        ("id,score\n", "has no rows"),
        ("PAR1 and no more", "not valid Parquet"),
        ("what is this", ": looks like a text without columns, which contains no rows in a known format; rows are"),
        ("", ": is empty, which contains no rows in a known format; rows are read from lm_eval (--log_samples), Ins"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """No line is skipped, and none is read as something else."""
    (tmp_path / "rows").write_text(text, "utf-8")
    with pytest.raises(UsageError) as error:
        read_run_rows(str(tmp_path / "rows"), Wanted())
    assert said in str(error.value)


def test_a_lone_surrogate_is_a_text(gate: Gate, tmp_path: Path) -> None:
    """Half of a character in a question ends in a verdict, and not in a traceback."""
    for name, last in (("base", 1), ("candidate", 0)):
        lines = [f'{{"id": "q{i}", "input": "\\ud800 {i}", "score": {1 if i else last}}}\n' for i in range(200)]
        (tmp_path / name).write_text("".join(lines), "utf-8")
    assert gate(tmp_path / "base", tmp_path / "candidate").code in (0, 6)


def test_a_file_that_is_being_written_is_refused(tmp_path: Path, table: Table) -> None:
    """A file that changes while it is read holds nobody's rows."""
    from harness.rows.safe_read import SafeFiles

    path = table("rows", make_asked_rows([1] * 5000))
    lines = SafeFiles(tmp_path).read_json_lines(path)
    next(lines)
    with path.open("a") as f:
        f.write('{"id": "late"')
    with pytest.raises(UsageError, match=r"still being written|cannot be read"):
        list(lines)


def test_links_and_folders_are_told(gate: Gate, tmp_path: Path, table: Table) -> None:
    """A folder of nothing, a path that is not there and a link out of a folder end in one line."""
    rows = table("rows", make_asked_rows([1] * 5))
    (tmp_path / "runs").mkdir()
    assert (
        ": is an empty folder, which contains no rows in a known format; rows are" in gate(tmp_path / "runs", rows).err
    )
    assert "cannot be read" in gate(tmp_path / "nothing", rows).err
    (tmp_path / "runs" / "samples_t_2026-11-27T12-35-20.177890.jsonl").symlink_to(rows)
    assert "is a link that leads out" in gate(tmp_path / "runs", rows).err
