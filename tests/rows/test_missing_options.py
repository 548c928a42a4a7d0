"""A first call of `harness gate` ends with a verdict, or with one message whose command ends with one."""

from __future__ import annotations

import csv
import json
import random
import shlex
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import harness
from harness import UsageError
from harness.data.score_words import RIGHT, WRONG, parse_score_word
from harness.rows.readers.tables import list_score_columns
from tests.helpers.others import Said

Gate = Callable[..., Said]
Row = Mapping[str, Any]
DRAW = random.Random(5)
N = 200
BASE = [DRAW.random() < 0.7 for _ in range(N)]
CANDIDATE = [right if DRAW.random() < 0.95 else not right for right in BASE]
QUESTIONS = [f"What is the capital of region {i}, and why?" for i in range(N)]
GRADES = [[DRAW.randint(1, 5) for _ in range(N)] for _ in range(2)]
LOSSES = [[round(DRAW.gauss(2, 0.3), 4) for _ in range(N)] for _ in range(2)]
WORDS = {"zh": ("正确", "错误"), "es": ("sí", "no"), "ru": ("верно", "неверно"), "ar": ("صحيح", "خطأ")}


def make_sides(make_row: Callable[[int, bool], Row]) -> list[list[Row]]:
    return [[make_row(i, right) for i, right in enumerate(side)] for side in (BASE, CANDIDATE)]


def make_word_sides(language: str) -> list[list[Row]]:
    right, wrong = WORDS[language]
    return make_sides(lambda i, ok: {"q": QUESTIONS[i], "judgement": right if ok else wrong})


TABLES: dict[str, tuple[list[list[Row]], str]] = {  # rows of both sides, and the options that a first call lacks
    "id and score": (make_sides(lambda i, ok: {"id": i + 1, "score": int(ok)}), ""),
    "correct": (make_sides(lambda i, ok: {"qid": f"q{i}", "prompt": QUESTIONS[i], "correct": ok}), ""),
    "Chinese": (
        make_sides(lambda i, ok: {"编号": i + 1, "问题": f"第{i}个省的省会是什么?", "判断": WORDS["zh"][not ok]}),
        "--score '判断'",
    ),
    "Spanish": (make_word_sides("es"), "--score judgement --id q"),
    "Russian": (make_word_sides("ru"), "--score judgement --id q"),
    "Arabic": (make_word_sides("ar"), "--score judgement --id q"),
    "grades": (
        [[{"prompt": QUESTIONS[i], "rating": grade} for i, grade in enumerate(side)] for side in GRADES],
        "--range 1 5 --higher --score rating",
    ),
    "object": (make_sides(lambda i, ok: {"prompt": QUESTIONS[i], "metrics": {"acc": ok}}), "--score metrics.acc"),
    "metrics": (make_sides(lambda i, ok: {"question": QUESTIONS[i], "acc": int(ok), "f1": ok / 2}), "--score acc"),
    "loss": (
        [[{"sample": f"s{i}", "val_loss": loss} for i, loss in enumerate(side)] for side in LOSSES],
        "--lower --id sample --score val_loss",
    ),
    "share": (
        make_sides(lambda i, ok: {"case": f"case-{i}", "Result (%)": f"{90 if ok else 40}%"}),
        "--range 0 1 --higher --id case --score 'Result (%)'",
    ),
    "harm": (make_sides(lambda i, ok: {"uuid": f"u{i}", "is_toxic": int(not ok)}), "--lower --score is_toxic"),
    "verdict": (
        make_sides(lambda i, ok: {"prompt": QUESTIONS[i], "grade": {"why": "x", "verdict": "pass" if ok else "fail"}}),
        "--score grade.verdict",
    ),
    "other rows": (
        [side[5 * i :] for i, side in enumerate(make_sides(lambda i, ok: {"id": f"q{i}", "score": int(ok)}))],
        "--only-common",
    ),
}


def write_csv(path: Path, rows: Sequence[Row]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_side(folder: Path, side: str, rows: Sequence[Row]) -> Path:
    """Write the rows of one side: as JSON lines where cells are objects, else as CSV."""
    if not any(isinstance(cell, dict) for cell in rows[0].values()):
        return write_csv(folder / f"{side}.csv", rows)
    path = folder / f"{side}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.mark.parametrize("name", TABLES)
def test_the_command_of_the_first_message_ends_with_a_verdict(gate: Gate, tmp_path: Path, name: str) -> None:
    """Two tables and nothing else: one message, whose command decides, and which counts as no attempt."""
    rows, lacks = TABLES[name]
    paths = [write_side(tmp_path, side, own) for side, own in zip(("base", "candidate"), rows, strict=True)]
    first = gate(*paths, claim=())
    assert first.code == 4 and not first.out
    (command,) = [line for line in first.err.splitlines() if line.startswith("  harness gate ")]
    words = shlex.split(command)[2:]
    assert {*shlex.split(lacks)} <= {*words} and "--worse-by-at-most" in words
    found = gate(*words, claim=())
    assert found.code in (0, 1, 6) and "1 attempt" in found.out, found


def test_the_message_says_what_each_option_is_for(gate: Gate, tmp_path: Path) -> None:
    """The command is a line of its own, without the mark of an error, and every option has a line."""
    paths = [
        write_csv(tmp_path / f"{i}.csv", [{"prompt": QUESTIONS[n], "rating": x} for n, x in enumerate(side)])
        for i, side in enumerate(GRADES)
    ]
    told = gate(*paths, claim=("--better-by", "0")).err.splitlines()
    command = f"  harness gate {paths[0]} {paths[1]} --better-by 0.0 --range 1 5 --higher --score rating"
    assert told == [
        "error: gate: 3 options are missing; check their values, and copy:",
        command,
        '  --score rating: the column of scores, of "prompt", "rating"',
        '  --higher: whether higher or lower "rating" is better; or --lower',
        "  --range 1 5: the lowest and the highest score that a row can have; 1 to 5 occur",
    ]


def test_what_no_option_mends_comes_first(gate: Gate, tmp_path: Path) -> None:
    """Rows that cannot be paired are refused, and the options that lack as well are named beneath."""
    sides = enumerate((BASE, CANDIDATE))
    paths = [write_csv(tmp_path / f"{i}.csv", [{"passed": ok} for ok in side]) for i, side in sides]
    told = gate(*paths, claim=()).err.splitlines()
    assert told[0].startswith("error: base: rows have neither input nor id")
    assert told[1].startswith("  --worse-by-at-most 0.02: ") and len(told) == 2


def test_python_is_told_in_its_own_words() -> None:
    """The call has every keyword, as one writes it."""
    base, candidate = ([{"name": f"n{i}", "quality": ok} for i, ok in enumerate(side)] for side in (BASE, CANDIDATE))
    with pytest.raises(UsageError) as error:
        harness.gate(base, candidate)
    call = "  harness.gate(base, candidate, worse_by_at_most=0.02, id='name', score='quality')"
    assert error.value.messages[1] == call
    assert str(harness.gate(base, candidate, worse_by_at_most=0.02, id="name", score="quality").outcome)


def test_a_single_table_is_asked_for_a_limit(gate: Gate, tmp_path: Path) -> None:
    """Of a candidate alone the claim is a lowest value."""
    path = write_csv(tmp_path / "rows.csv", [{"id": f"q{i}", "score": int(ok)} for i, ok in enumerate(BASE)])
    assert f"  harness gate {path} --min 0.8\n" in gate(path, claim=()).err


def test_no_word_means_right_and_wrong() -> None:
    """Each word has one value, in any case and in either form of Unicode."""
    assert {*RIGHT}.isdisjoint(WRONG)
    for value, words in ((1.0, RIGHT), (0.0, WRONG)):
        for word in words:
            forms = {word, word.upper(), unicodedata.normalize("NFD", word), f" {word} "}
            assert {parse_score_word(form) for form in forms} == {value}, word
    assert parse_score_word("perhaps") is None


@pytest.mark.parametrize(
    ("lines", "columns"),
    [
        ([{"n": 1, "label": "x", "ok": True}, {"n": 2, "label": "y", "ok": False}], ["ok"]),
        ([{"len": 4, "bleu": 0.5}, {"len": 4, "bleu": None}], ["bleu", "len"]),
        ([{"why": {"text": "because", "points": 3}}, {"why": {"text": "so", "points": 3}}], ["why.points"]),
        ([{"id": 1, "text": "a"}, {"id": 2, "text": "b"}], []),
    ],
)
def test_columns_of_scores_are_known_by_their_cells(lines: list[Row], columns: list[str]) -> None:
    """Known metrics first, then right and wrong, then numbers; running numbers and texts are no scores."""
    assert list_score_columns(lines) == columns
