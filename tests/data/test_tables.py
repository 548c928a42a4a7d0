"""Tables as spreadsheets and other tools write them: read as their suite says, or one line with the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.data.encodings import detect_encoding
from harness.data.reading import detect_separator, read_file
from harness.errors import UsageError
from harness.testing import SUITE, TRAIN, Project

TABLE = 'message;mood\n"schön; wirklich";good\nfür nichts;bad\n'


def read(folder: Path, name: str, content: str | bytes, **how: str) -> list[dict[str, str]]:
    """Read a file of this content."""
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_file(folder, name, "here", **how)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "latin-1"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_tables_are_read_as_the_suite_says(tmp_path: Path, encoding: str, ending: str) -> None:
    """Separator and encoding are keys, a BOM is no part of the first name, and what a file is in is found again."""
    data = TABLE.replace("\n", ending).encode(encoding)
    rows = read(tmp_path, "mood.csv", data, separator=";", encoding=encoding)
    assert rows == [{"message": "schön; wirklich", "mood": "good"}, {"message": "für nichts", "mood": "bad"}]
    found = detect_encoding(data, "here", "name it")
    assert data.decode(found).removeprefix("\ufeff") == TABLE.replace("\n", ending)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_found(separator: str) -> None:
    """What parts the columns is told from what stands in them."""
    rows = ["message,mood", "a; b and c,good", "well; no | \t,bad", "1;2,good"]
    assert detect_separator("\n".join(row.replace(separator, " ").replace(",", separator) for row in rows)) == separator


@pytest.mark.parametrize(("name", "first"), [("a.tsv", ""), ("a.csv", "sep=\t\r\n"), ("A.CSV", '"sep=\t"\n')])
def test_tabs_are_read_where_the_file_says_so(tmp_path: Path, name: str, first: str) -> None:
    """A .tsv has tabs, and so has a file with Excel's first line, whatever case its name is in."""
    assert read(tmp_path, name, first + "text\tmood\na, b\tgood\n") == [{"text": "a, b", "mood": "good"}]


ROWS = "".join(f"row {i},a text,{'good' if i % 2 else 'bad'}\n" for i in range(9))
MESSAGES = {
    "semicolons": (
        TABLE,
        {},
        (
            'the header is a single column, "message;mood"; if the separator is a semicolon, write '
            'separator = ";" beside data'
        ),
    ),
    "tabs": (
        "a\tb\n1\t2\n",
        {},
        'the header is a single column, "a\\tb"; if the separator is a tab, write separator = "\\t" beside data',
    ),
    "commas": ("a,b\n1,2\n", {"separator": ";"}, "if the separator is a comma, write separator ="),
    "two characters": (
        TABLE,
        {"separator": ";;"},
        'here: separator is ";;"; give one character',
    ),
    "no separator": (TABLE, {"separator": "\n"}, "; give one character"),
    "UTF-16": (TABLE.encode("utf-16"), {}, 'is not UTF-8: invalid start byte at byte 0; write encoding = "utf-16"'),
    "UTF-16 without a BOM": (
        TABLE.encode("utf-16-le"),
        {},
        ('write encoding = "utf-16-le" beside data, or save the file as "CSV UTF-8"'),
    ),
    "Windows": (
        TABLE.encode("cp1252"),
        {},
        ('write encoding = "cp1252" beside data, or save the file as "CSV UTF-8"'),
    ),
    "another encoding": (TABLE.encode("cp1252"), {"encoding": "ascii"}, "is not ASCII: ordinal not in range"),
    "no encoding": (
        TABLE,
        {"encoding": "windows"},
        ('encoding "windows" is unknown; use "utf-8", "utf-16", "cp1252", or another that Python knows'),
    ),
    "no text": (
        TABLE,
        {"encoding": "base64"},
        ('encoding "base64" is unknown; use "utf-8", "utf-16", "cp1252", or another that Python knows'),
    ),
    "open to the end": (
        f'key,text,mood\n{ROWS}k,"open,good\n{ROWS}',
        {},
        "lines 11 to 20 form one row",
    ),
    "open to a quote": (f'key,text,mood\nk,"open,good\n{ROWS}k,a "b" c,bad\n', {}, ": lines 2 to 12 form one row"),
    "open to another": (f'key,text,mood\nk,"open,good\n{ROWS}k,"a, b",bad\n', {}, ": lines 2 to 12 form one row"),
    "closed by chance": (f'key,text,mood\nk,"open,good\n{ROWS}k,a b",bad\n', {}, ": lines 2 to 12 form one row"),
    "of two columns": (
        'text,mood\n"open,good\nc,bad\nd",bad\ne,bad\n',
        {},
        ": lines 2 to 4 form one row",
    ),
    "for ever": (
        f'key,text,mood\n{ROWS}k,"open,good\n{ROWS * 1000}',
        {},
        ("not valid CSV: field larger than field limit (131072) (from line 11 on"),
    ),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_what_cannot_be_read_is_one_line_with_the_way_out(tmp_path: Path, case: str) -> None:
    """Each slip of a spreadsheet is one line; rows that a quote swallowed are never silent."""
    content, how, told = MESSAGES[case]
    with pytest.raises(UsageError) as error:
        read(tmp_path, "mood.csv", content, **how)
    (line,) = error.value.messages
    assert told in line


def test_line_breaks_in_a_field_are_text(tmp_path: Path) -> None:
    """A field of several lines is read where they are no rows: by their separators, or by what they would end in."""
    rows = read(tmp_path, "a.csv", 'text,mood\n"Dear all,\nthanks, Bob\n, bye",good\n"a ""b""\n\nc",bad\n')
    assert [row["text"] for row in rows] == ["Dear all,\nthanks, Bob\n, bye", 'a "b"\n\nc']


def test_what_is_no_file_of_rows_is_one_line(tmp_path: Path) -> None:
    """A folder, a URL and a workbook are told with what to name instead."""
    (tmp_path / "x.csv").mkdir()
    wanted = {"x.csv": "is a folder", "https://x.org/a.csv": "is a URL; download it", "a.xls": 'as "CSV UTF-8"'}
    wanted |= {"data\train.csv": r"; in TOML a \\ in double quotes begins an escape: write / or single quotes"}
    for source, told in wanted.items():
        with pytest.raises(UsageError, match=told):
            read_file(tmp_path, source, "here")


def test_separator_and_encoding_are_keys_of_training_and_evaluation(project: Project) -> None:
    """One file is read as each table says; without the keys it is one line."""
    table = "input;target;kind\n" + "".join(f"schön {i};b;a\n" for i in range(20))
    (project.folder / "test.csv").write_bytes(table.encode("utf-16"))
    suite = SUITE.replace('"test.jsonl"', '"test.csv"\nseparator = ";"\nencoding = "utf-16"')
    project.write({"suite.toml": suite, "train.jsonl": TRAIN})
    assert "base::qa  20 rows" in project.run("--collect-only").out
    project.write({"suite.toml": suite.replace('encoding = "utf-16"\n', "")})
    outcome = project.run("--collect-only")
    assert (outcome.code, 'write encoding = "utf-16" beside data, or save the file as "CSV UTF-8"' in outcome.err) == (
        4,
        True,
    )
