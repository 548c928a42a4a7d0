"""Text of others: whatever it holds, it moves no terminal, makes no line or markup of its own, and loses no run."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from harness.testing import ROWS, SUITE, TRAIN, Project
from harness.texts.escaping import drop_surrogates, escape_controls, escape_markdown, markdown_code, printable

NASTY = [
    "\x1b[2J\x1b[1;1Hverified",
    "\x1b]0;title\x07",
    "a\nverified: merged of suite qa, root 00",
    "a\r\nPASS",
    "a\x00b\x08\x0b\x0c\x7f\x85\x9b",
    "\u202egnp.exe\u2066\u200f",
    "\u2028\u2029next",
    "\ud800half\udfff",
    "\ufffe\uffff\U000f0000",
    "[bold red]FAIL[/] :boom: \\",
    "<script>alert(1)</script>![x](http://e/x.png) | `a` **b**\n# head\n```\n",
]
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize("text", NASTY)
def test_shown_text_is_one_printable_line(text: str) -> None:
    """Every character is printable, can be encoded, may stand in XML, and is told apart from what it is not."""
    line = printable(text)
    assert line.isprintable() and "\n" not in line
    ET.fromstring(f"<a>{line.encode('utf-8').decode().replace('&', '').replace('<', '')}</a>")
    assert printable(line) == line
    assert escape_controls(text, lines=True).count("\n") == text.count("\n")


@pytest.mark.parametrize("text", NASTY)
def test_markdown_of_a_text_says_it_and_no_more(text: str) -> None:
    """There is no tag, link, image, cell, heading or second line in it that was not one of ours."""
    line = escape_markdown(text)
    assert line.isprintable() and "<" not in line and "://" not in line
    assert not re.search(r"(?<!\\)[|`*\[\]]", line)
    assert not line.startswith("#")
    span = markdown_code(text)
    fence = re.match("`+", span)
    assert fence and fence[0] not in span.strip("`") and span.isprintable()


def test_halves_of_pairs_are_replaced_and_nothing_else() -> None:
    """Half a surrogate pair is U+FFFD; a whole one, and any other character, stays."""
    assert drop_surrogates("a\ud800b\udc00") == "a\ufffdb\ufffd"
    assert drop_surrogates("é😀\x1b") == "é😀\x1b"


NAMES = """
from harness import Score, hookimpl, metric

@metric("odd", better="higher", scale="proportion")
def odd(subject, samples, *, fails: bool = False):
    \"\"\"Score nothing in particular.\"\"\"
    if fails:
        raise ValueError(TEXT)
    for s in samples:
        yield Score(s.id, {"odd": 1.0}, answer=TEXT, note=TEXT, details={"said": TEXT})

odd.remarks = lambda scores: [TEXT]

@hookimpl
def harness_evaluators():
    return {"odd": odd}
"""


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_others_reaches_the_terminal_raw(project: Project, text: str, fails: bool) -> None:
    """Ids, names, slices, reasons and errors are spelt out in what is printed and in junit.xml, and no row is lost."""
    rows = [
        {**row, "lang": text.replace("\ud800", "").replace("\udfff", "") + str(i % 2)} for i, row in enumerate(ROWS)
    ]
    rows = [{**row, "id": f"{row['lang']}{i}"} for i, row in enumerate(rows)]
    eval_ = f'\n[[eval]]\nname = "odd"\nuse = "odd"\ndata = "test.jsonl"\nfails = {str(fails).lower()}\n'
    files = {"harnessfile.py": NAMES.replace("TEXT", ascii(text)), "train.jsonl": TRAIN}
    project.write({"suite.toml": SUITE + eval_, **files})
    (project.folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    outcome = project.run("--junit-xml", "junit.xml", "-v")
    assert outcome.code in (0, 1, 4, 6), outcome.out
    assert not RAW.search(outcome.out + outcome.err)
    assert not re.search("^(verified|PASS|next)", outcome.out + outcome.err, re.MULTILINE)
    ET.parse(project.folder / "junit.xml")
    if not fails:
        (rows_of,) = project.folder.glob("reports/*/merged/samples_odd_*.jsonl")
        told = [json.loads(line) for line in rows_of.read_text("utf-8").split("\n") if line]
        assert len(told) == len(rows)
        assert {row["resps"][0][0] for row in told} == {drop_surrogates(text)}
    (folder,) = project.folder.glob("reports/*")
    again = project.harness("show", str(folder), "-v")
    assert not RAW.search(again.out)


@pytest.mark.parametrize("text", [t for t in NASTY if not set(t) & set("\x00/\ud800\udfff")])
def test_verify_prints_no_line_of_somebody_else(passed: Project, text: str) -> None:
    """A name of a file that looks like a verdict is part of the refusal that names it."""
    (passed.folder / "exports/fake/model" / f"{text}.bin").write_bytes(b"x")
    outcome = passed.harness("verify", "exports/fake")
    assert (outcome.code, outcome.err.count("\n")) == (7, 1)
    assert not RAW.search(outcome.out + outcome.err)
    assert "verified" not in outcome.out


@pytest.mark.parametrize("text", [t for t in NASTY if "\x00" not in t])
def test_errors_of_the_command_line_are_one_line_each(project: Project, text: str, tmp_path: Path) -> None:
    """What a person, or a script, gives to a command comes back as data."""
    for command in ("verify", "promote", "show", "check", "run"):
        outcome = project.harness(command, str(tmp_path / text.replace("/", "")))
        assert not RAW.search(outcome.out + outcome.err)
        assert (outcome.code, outcome.err.count("\n")) == (4, 1)


def test_a_line_of_millions_of_characters_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    """An error of others is printed with its beginning; reports have all of it."""
    from harness.cli.screen import Screen
    from harness.texts.printing import print_line

    print_line("x" * 2_000_000)
    Screen().print_line("y" * 2_000_000)
    printed = capsys.readouterr().out
    assert printed.count("…") == 2
    assert len(printed) < 21_000
