"""`harness init --data`: a table becomes a suite that collects without a warning, or one line says why not."""

from __future__ import annotations

import io
import itertools
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.pipeline.run import Options, prepare_collection

THINGS = ("parcel", "invoice", "refund", "password", "courier", "voucher", "zip", "profile", "card", "receipt")
MOODS = ("good", "bad", "so so")
TEXTS = [f"{a} {b} went {c}, number {i}" for i, (a, b, c) in enumerate(itertools.product(THINGS, THINGS, MOODS))]
Init = Callable[..., tuple[int, str]]


def make_csv(labels: Iterable[str] = MOODS, header: str = "text,mood", rows: int = 300) -> str:
    """Return a CSV of as many rows, whose labels take turns."""
    lines = [f'"{text}",{label}' for text, label in zip(TEXTS[:rows], itertools.cycle(labels), strict=False)]
    return "\n".join([header, *lines]) + "\n"


@pytest.fixture
def init(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Init:
    """Run `harness init mine --data NAME` on a file of this content; returns the exit code and what was said."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, content: str | bytes | None = None, *options: str) -> tuple[int, str]:
        if content is not None:
            Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
        code = main(["init", "mine", "--data", name, *options])
        return code, capsys.readouterr().err

    return run


def read_parts(folder: str = "mine") -> dict[str, list[dict[str, str]]]:
    """Return the rows of each part that was written."""
    files = sorted(Path(folder, "data").glob("*.jsonl"))
    return {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in files}


def make_csv_of_labels(kinds: int, rows: int = 300) -> str:
    return make_csv([f"kind {i}" for i in range(kinds)], rows=rows)


def encode_json_rows(rows: Iterable[dict[str, object]]) -> str:
    return json.dumps(list(rows))


DICTS: list[dict[str, object]] = [{"text": t, "mood": m} for t, m in zip(TEXTS, itertools.cycle(MOODS), strict=False)]
DONE: dict[str, tuple[str, str | bytes, list[str], str]] = {  # file, content, options, what is said of it
    "commas": ("a.csv", make_csv(), [], 'input: "text", by its name'),
    "semicolons": ("a.csv", make_csv().replace('",', '";').replace("text,", "text;"), [], 'separator ";"'),
    "tabs": ("a.csv", make_csv().replace('",', '"\t').replace("text,", "text\t"), [], 'separator "\\t"'),
    "bars": ("a.csv", make_csv().replace('",', '"|').replace("text,", "text|"), [], 'separator "|"'),
    "UTF-16": ("a.csv", make_csv().encode("utf-16"), [], 'encoding "utf-16"'),
    "a BOM": ("a.csv", make_csv().encode("utf-8-sig"), [], 'input: "text", by its name'),
    "Windows": ("a.csv", make_csv(["schön", "übel"]).encode("cp1252"), [], 'choices: "schön", "übel"'),
    "Excel": ("a.csv", "sep=;\r\n" + make_csv().replace('",', '";').replace("text,", "text;"), [], 'separator ";"'),
    "JSON": ("a.json", encode_json_rows(DICTS), [], 'choices: "bad", "good", "so so"'),
    "JSON Lines": ("a.jsonl", "\n".join(map(json.dumps, DICTS)), [], "train: 170 rows"),
    "truth values": (
        "a.json",
        encode_json_rows({**d, "mood": d["mood"] == "bad"} for d in DICTS),
        [],
        '"false", "true"',
    ),
    "numbers": (
        "a.json",
        encode_json_rows({**d, "mood": i % 3} for i, d in enumerate(DICTS)),
        [],
        'choices: "0", "1", "2"',
    ),
    "floats": (
        "a.json",
        encode_json_rows({**d, "mood": i % 3 / 1} for i, d in enumerate(DICTS)),
        [],
        'choices: "0", "1", "2"',
    ),
    "decimal commas": ("a.csv", make_csv(['"1,5"', '"2,5"']), [], 'choices: "1,5", "2,5"'),
    "many decimal commas": ("a.csv", make_csv([f'"{i},5"' for i in range(99)]), [], "numbers with a decimal comma"),
    "40 labels": ("a.csv", make_csv_of_labels(40), [], 'choices: "kind 0"'),
    "41 labels": ("a.csv", make_csv_of_labels(41), [], "answers: in words, by exact_match"),
    "long answers": (
        "a.csv",
        make_csv([f"it is a long answer, of {i}".replace(",", "") for i in range(99)]),
        [],
        "token_f1",
    ),
    "spellings": ("a.csv", make_csv(["Good", "good ", "good", "bad"]), [], 'choices: "bad", "good"'),
    "empty labels": (
        "a.csv",
        make_csv(["a", "b", "", "nan"]),
        [],
        "left out: 150 without an input, a label or a group",
    ),
    "repeats": (
        "a.csv",
        make_csv() + make_csv(rows=10).partition("\n")[2],
        [],
        "10 that repeat the question of an earlier row",
    ),
    "two labels": ("a.csv", make_csv() + f'"{TEXTS[0]}",bad\n', [], "2 whose input also occurs with another label"),
    "odd names": ("a.csv", make_csv(header="te{x}t.en[0],Mood: now"), ["--label", "Mood: now"], 'label: "Mood_ now"'),
    "a column of choices": ("a.csv", make_csv(header="text,gold"), ["--label", "gold"], 'choices: "bad"'),
    "no name known": ("a.csv", make_csv(header="was,wie"), [], 'label: "wie", by its few distinct values'),
    "capitals": ("A.CSV", make_csv(header="Text,Mood"), [], 'input: "Text", by its name'),
    "a quote in a name": ("a.csv", make_csv(header='text,"mo""od"'), [], 'label: "mo\\"od"'),
}
LONG = [" ".join(TEXTS[i : i + 3]).replace("went", f"w{i}") for i in range(0, 60, 3)]
NEARLY = "text,mood\n" + "".join(
    f'"{text}, {end}",{MOODS[i % 3]}\n' for i, text in enumerate(LONG) for end in ("yes", "no", "maybe")
)
GROUPED = make_csv([f"{mood},{user}" for user in "aab" for mood in MOODS], "text,mood,user")
WRONG: dict[str, tuple[str, str | bytes | None, list[str], str]] = {
    "nothing there": ("a.csv", None, [], 'data "a.csv" does not exist; looked for'),
    "a folder": (".", None, [], 'data "." is a folder; name a file in it'),
    "a URL": ("https://x.org/a.csv", None, [], "is a URL; download it and name the file"),
    "an old workbook": ("a.xls", b"\xd0", [], 'is a spreadsheet; save its sheet as "CSV UTF-8" and name that file'),
    "a cut workbook": ("a.xlsx", b"PK\3\4", [], "a.xlsx: is not a complete workbook: "),
    "a workbook by another name": (
        "a.csv",
        b"PK\3\4" + bytes(range(256)) * 9,
        [],
        "/a.csv: is not a complete workbook: ",
    ),
    "another kind": ("a.txt", make_csv(), [], 'data "a.txt" is unknown; name a file (.jsonl, .json, .csv, .tsv, .parq'),
    "no path": ("a\0.csv", None, [], "is not a path: "),
    "empty": ("a.csv", "", [], ': data "a.csv" has no rows; an evaluation needs at least one'),
    "a header alone": ("a.csv", "text,mood\n", [], ': data "a.csv" has no rows; an evaluation needs at least one'),
    "no header": (
        "a.csv",
        make_csv().partition("\n")[2],
        [],
        "is also one of its values; add a header line to the file",
    ),
    "one column": (
        "a.csv",
        "text\n" + "\n".join(TEXTS).replace(",", ""),
        [],
        'its columns are "text"; an input column and another',
    ),
    "one label": (
        "a.csv",
        make_csv(["good"]),
        [],
        ('column "mood": all labels are "good", so there is nothing to train on; two or more labels are needed'),
    ),
    "no label": ("a.csv", make_csv([""]), ["--label", "mood"], 'column "mood": no row has a label'),
    "30 rows": (
        "a.csv",
        make_csv(rows=30),
        [],
        "only 30 of 30 rows are left, but at least 60 are needed to decide anything; add rows",
    ),
    "repeats alone": (
        "a.csv",
        make_csv(rows=2) * 1 + make_csv(rows=2).partition("\n")[2] * 99,
        [],
        "to decide anything; add rows; left out: 198 that repeat the question of an earlier row",
    ),
    "no such column": ("a.csv", make_csv(), ["--label", "mod"], '": column does not exist; did you mean "mood"?'),
    "no such input": ("a.csv", make_csv(), ["--input", "x"], '--input "x": column does not exist; known: "mood"'),
    "one column twice": (
        "a.csv",
        make_csv(),
        ["--label", "text", "--input", "text"],
        "--input, --label and --group must name three different columns",
    ),
    "group is label": (
        "a.csv",
        make_csv(),
        ["--label", "mood", "--group", "mood"],
        "--input, --label and --group must name three different columns",
    ),
    "few groups": (
        "a.csv",
        GROUPED,
        ["--group", "user"],
        'values of "user" are too uneven to keep the rows of each together:',
    ),
    "a column twice": (
        "a.csv",
        make_csv(header="text,text"),
        [],
        ': the column "text" occurs twice in the header; rename one',
    ),
    "names alike": (
        "a.csv",
        make_csv(header="a.b,a_b"),
        [],
        'the columns "a.b" and "a_b" have one name in a template, "a_b"; rename one',
    ),
    "open quote": (
        "a.csv",
        make_csv() + '"open,good\n' + make_csv(),
        [],
        "lines 302 to 304 form one row; check for a missing closing quote",
    ),
    "unquoted commas": (
        "a.csv",
        make_csv().replace('"', ""),
        [],
        "a.csv:2: has 3 fields, but the header has 2; check for a missing comma or quote (299 more rows like this)",
    ),
    "broken JSON": ("a.json", '[\n{"a": 1},\n{"a": 2,}\n]', [], "a.json:3: not valid JSON: "),
    "cut JSON": ("a.json", encode_json_rows(DICTS)[:-9], [], "a.json: not valid JSON:"),
    "JSON of one": ("a.json", '{"a": 1}', [], ": contains a dict; it must be a list of objects"),
    "JSON of lists": ("a.json", "[[1, 2]]", [], ": row 1 is [1, 2]; it must be an object"),
    "a list as .jsonl": ("a.jsonl", "[1]\n", [], ": row 1 is [1]; it must be an object"),
    "chats": (
        "a.json",
        encode_json_rows({"messages": []} for _ in TEXTS),
        [],
        "no row can be used: 300 that do not end with the assistant's answer; correct the rows",
    ),
    "lists": (
        "a.json",
        encode_json_rows({**d, "text": [1]} for d in DICTS),
        [],
        'column "text" contains "[1]"; only text and numbers are allowed',
    ),
    "no parquet": ("a.parquet", make_csv(), [], "a.parquet: is not valid Parquet"),
    "a wrong encoding": ("a.csv", make_csv(["schön", "b"]).encode("cp1252"), ["--encoding", "utf-8"], "is not UTF-8"),
    "no encoding": (
        "a.csv",
        make_csv(),
        ["--encoding", "excel"],
        'encoding "excel" is unknown; use "utf-8", "utf-16", "cp1252", or another that Python knows',
    ),
    "a wrong separator": ("a.csv", make_csv(), ["--separator", ";"], "if the separator is a comma, write separator ="),
    "a long separator": ("a.csv", make_csv(), ["--separator", "tab"], ': separator is "tab"; give one character'),
    "a task as well": (
        "a.csv",
        make_csv(),
        ["--task", "qa"],
        "--task writes example data and --data uses your file; remove one of them",
    ),
    "no text": ("a.csv", bytes(range(256)) * 20, [], "is not text; save it as"),
    "nearly alike": ("a.csv", NEARLY, [], "; if a column says what they share, name it with --group"),
}


@pytest.mark.parametrize("case", DONE)
def test_a_table_becomes_a_suite_without_a_warning(case: str, init: Init) -> None:
    """What is written collects, asks what stood in the table, and holds no row twice."""
    name, content, options, told = DONE[case]
    code, said = init(name, content, *options)
    assert (code, told in said) == (0, True), said
    collection = prepare_collection(Path("mine/suite.toml"), Options())
    assert collection.warnings == () and len(collection.suite.gates) >= 1
    rows = [row for part in read_parts().values() for row in part]
    assert len({row["id"] for row in rows}) == len(rows) >= 100


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line_and_nothing_is_written(case: str, init: Init) -> None:
    """What no suite can be made of exits 4 with a line that names it, and leaves no file."""
    name, content, options, told = WRONG[case]
    code, said = init(name, content, *options)
    assert (code, told in said, said.count("\n"), Path("mine").exists()) == (4, True, 1, False), said


def test_parquet_is_a_table(init: Init) -> None:
    """Rows of a parquet file are cut as those of any other."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(DICTS), "a.parquet")
    assert init("a.parquet")[0] == 0
    assert sum(map(len, read_parts().values())) == 300


def test_nothing_is_written_over(init: Init) -> None:
    """Where one of the files is there already, it stays as it is and nothing else is written."""
    Path("mine/data").mkdir(parents=True)
    Path("mine/data/select.jsonl").write_text("mine")
    code, said = init("a.csv", make_csv())
    assert (code, "mine/data/select.jsonl: exists already; choose an empty folder" in said) == (4, True)
    assert [p.read_text() for p in Path("mine").rglob("*") if p.is_file()] == ["mine"]


@pytest.mark.slow
def test_rows_of_a_group_stay_together(init: Init) -> None:
    """All rows of a user are in one part, whether the column is named or found, and the test knows its clusters."""
    rows = [{**row, "user_id": f"u{i % 60}", "team": f"t{i % 50}"} for i, row in enumerate(DICTS)]
    for group, options in {"user_id": [], "team": ["--group", "team", "--label", "mood"]}.items():
        code, said = init(
            "a.json", encode_json_rows(rows), *options, "--input", "text", *(["--label", "mood"] * (not options))
        )
        assert (code, f'group: "{group}"' in said) == (0, True), said
        users = [{row[group] for row in part} for part in read_parts().values()]
        assert len(set.union(*users)) == sum(map(len, users)) and len(users) == 3
        suite = prepare_collection(Path("mine/suite.toml"), Options()).suite
        assert suite.train and suite.train.cluster == suite.evals[0].cluster == group
        Path("mine").rename(group)


def test_the_cut_depends_on_the_rows_alone(init: Init) -> None:
    """The same rows in another order, and other rows beside them, are cut alike."""
    init("a.json", encode_json_rows(DICTS))
    Path("mine").rename("first")
    init("a.json", encode_json_rows(reversed(DICTS)))
    first, again = (
        {k: {r["text"] for r in rows} for k, rows in read_parts(name).items()} for name in ("first", "mine")
    )
    assert first == again
    assert {part: len(rows) for part, rows in first.items()} == {"train": 170, "select": 30, "confirm": 100}


@pytest.mark.slow
def test_near_duplicates_are_in_no_two_parts(init: Init) -> None:
    """Rows that ask nearly what rows of another part ask are left out and counted, and D10 finds none of them."""
    twins = [{**row, "text": f"{row['text']}. Please do look into it at once for me"} for row in DICTS]
    twins += [{**row, "text": str(row["text"]).replace("it", "this")} for row in twins]
    code, said = init("a.json", encode_json_rows(DICTS + twins))
    kept = {part: {row["text"] for row in rows} for part, rows in read_parts().items()}
    assert code == 0 and " near-copies of rows of another part" in said
    assert not any(f"{text}. Please do look into it at once for me" in kept["train"] for text in kept["confirm"])


def test_codes_before_longer_texts_may_be_the_answers(init: Init) -> None:
    """Of two columns the first is the input; where it holds codes, a warning names the way to turn them round."""
    lines = [f'A{i}.{i % 7},"{text}"' for i, text in enumerate(TEXTS[:300])]
    table = "\n".join(["code,description", *lines]) + "\n"
    code, said = init("a.csv", table)
    warning = 'warning: "code" holds codes, and "description" longer texts; if the codes are the answers, give --input'
    assert (code, f'{warning} "description"' in said) == (0, True), said
    shutil.rmtree("mine")
    code, said = init("a.csv", table, "--input", "description")
    assert (code, "holds codes" in said, 'input: "description", as given' in said) == (0, False, True), said


def test_a_column_that_cannot_be_told_is_asked_for(init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a terminal the choices are shown; elsewhere the line names them and the option."""
    rows = [{**row, "class": i % 2} for i, row in enumerate(DICTS)]
    code, said = init("a.json", encode_json_rows(rows))
    assert (code, 'the label column is ambiguous; name it with --label: "mood", "class"' in said) == (4, True)
    terminal = io.StringIO("mod\nmood\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    code, said = init("a.json", encode_json_rows(rows))
    assert (code, "which column is the label? [mood/class]" in said) == (0, True), said
    Path("mine").rename("first")
    code, said = init("a.json", encode_json_rows(rows))  # and nothing is left to read
    assert (code, ", and the question was not answered; name it with --label" in said) == (4, True)


def test_what_was_found_is_data_too(init: Init, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json columns, shares, what was left out and what one answer scores are one document."""
    Path("a.csv").write_text(make_csv())
    assert main(["init", "mine", "--data", "a.csv", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["columns"] == {"input": "text", "label": "mood", "group": None}
    assert sum(n for part in told["rows"].values() for n in part.values()) == 300 - sum(told["dropped"].values())
    assert told["constant"] == max(told["rows"]["confirm"].values()) / 100


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
@pytest.mark.parametrize(
    "labels", [MOODS, [f"number {i}" for i in range(60)], [f"{i},5".replace(",", ".") for i in range(60)]]
)
def test_what_is_written_passes_the_checks(labels: list[str], init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` finds no error and no warning in a suite of labels, of words and of numbers; `plan` can tell of it."""
    monkeypatch.setenv("HARNESS_CACHE", str(Path("cache").resolve()))
    assert init("a.csv", make_csv(labels), "--model", "tiny:llama")[0] == 0
    assert main(["check", "mine/suite.toml"]) == 0
    assert main(["plan", "mine/suite.toml"]) == 0


def test_a_large_table_is_no_silent_minute(init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is being done is said before it is done, apart from what was found."""
    assert "reading" not in init("a.csv", make_csv_of_labels(2))[1]
    shutil.rmtree("mine")
    monkeypatch.setattr("harness.init.table.LARGE_TABLE_BYTES", 1000)
    code, said = init("b.csv", make_csv_of_labels(2), "--json")
    assert code == 0
    assert "reading b.csv, " in said and "looking for near-duplicates among 300 rows" in said
