"""`numeric`: which numbers stand in an answer, and how far they may be from the one that is wanted."""

from __future__ import annotations

from typing import Any

import pytest

from harness import Sample, UsageError
from harness.testing import Project
from harness_domain import numeric
from harness_domain.numbers import NumberParser
from tests.helpers.answers import score_answer
from tests.helpers.speed import count_loop_rounds


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("The answer is 1,234.5 kg.", [1234.5]),
        ("from 3-5, so -5", [3, 5, -5]),
        ("x = -5 and −7", [-5, -7]),
        ("1.5e-3, 2E3, 1.5 × 10^-3, 6x10^2, 3 × 10⁸, 10^6", [0.0015, 2000, 0.0015, 600, 3e8, 1e6]),
        ("3/4, 1 1/2, 1½, ½ and \\frac{3}{8}", [0.75, 1.5, 1.5, 0.5, 0.375]),
        ("on 3/4/2020 of v1.2.3 in H2O", [3]),
        ("1'000'000 or 1\u202f000 or 12_000", [1_000_000, 1000, 12_000]),
        ("$1,000, -$5, $-5 and 50%", [1000, -5, -5, 50]),
        (".5 and 7. and +3", [0.5, 7, 3]),
        ("\\frac{-3}{4}, \\frac34, 3\\frac{1}{2}, 3 / 4", [-0.75, 0.75, 3.5, 0.75]),
        ("‒1, –2, —3, ―4, −5, minus 6", [-1, -2, -3, -4, -5, -6]),
        ("3–5, 3 – 5, 3 - 5, 3 –5, so—5", [3, 5, 3, 5, 3, 5, 3, 5, 5]),
        ("1 000 000, 1 2 3, 1 10 100", [1_000_000, 1, 2, 3, 1, 10, 100]),
        ("12,34,567 or 1.234.567 or 1.234,56", [1_234_567, 1_234_567, 1234.56]),
        ("1.5 million, 2 billion, 3k, $4M, 300K, 5 millionths", [1.5e6, 2e9, 3000, 4e6, 300, 5]),
        ("2024-05-06, 06.05.2024, 12:30, 2024-05-06T12:30:15.5Z, 1.2.3", []),
        ("Two:\n- 5 pears\n- 6 apples", [5, 6]),
        ("nan, inf, -Infinity, 1/0, 1e999, 1e99999999999", []),
        ("9" * 5000, []),
        ("٣ and १२ and ۴۵ and １２ and 𝟕", [3, 12, 45, 12, 7]),
        ("٣٫٥ or ١٬٢٣٤٬٥٦٧٫٨ or -٤٪ or H٢O", [3.5, 1234567.8, -4]),
        ("", []),
    ],
)
def test_numbers_in_a_text(text: str, numbers: list[float]) -> None:
    """Numbers are read as people write them; what is part of a word, infinite or endless is none."""
    assert [float(n) for n in NumberParser(None, ".", True).parse(text)] == pytest.approx(numbers)


def test_a_decimal_comma() -> None:
    """With a decimal comma the point parts groups."""
    text = "1.234,5 und 3,14 und 0.75 und 0.125 und 1,000.50 und 2,5 Mio. am 6.5.2024"
    found = [float(n) for n in NumberParser(None, ",", True).parse(text)]
    assert found == [1234.5, 3.14, 0.75, 0.125, 1000.5, 2_500_000]
    assert [float(n) for n in NumberParser(None, ",", True).parse("١٬٢٣٤٫٥")] == [1234.5]


def test_fractions_can_be_off() -> None:
    """Without fractions the slash says nothing."""
    assert [float(n) for n in NumberParser(None, ".", False).parse("page 3/4")] == [3]


@pytest.mark.parametrize(
    ("answer", "correct"),
    [
        *(("5 km", 1), ("5000 m", 1), ("5", 1), ("about 5km", 1), ("5 now", 1)),
        *(("5kg", 0), ("5 %", 0), ("$5", 0), ("5000", 0)),
    ],
)
def test_units(answer: str, correct: int) -> None:
    """A number counts in one of the units alone, multiplied by what the unit is; "" is none at all."""
    units = {"km": 1, "m": 0.001, "": 1}
    assert score_answer(numeric, answer, Sample("1", "q", "5"), units=units).values["correct"] == correct


@pytest.mark.parametrize(("answer", "correct"), [("$5", 1), ("5 $", 1), ("€4", 0), ("5", 0), ("-$5", 0)])
def test_a_unit_that_is_required(answer: str, correct: int) -> None:
    """Without the unit a number is none."""
    assert score_answer(numeric, answer, Sample("1", "q", "$5"), units={"$": 1}).values["correct"] == correct


@pytest.mark.parametrize(
    ("answer", "target", "options", "correct", "error"),
    [
        ("so it is 42", "42", {}, 1, 0),
        ("42 or 43", "42", {}, 0, 1 / 42),
        ("42 or 43", "42", {"take": "first"}, 1, 0),
        ("42 or 43", "42", {"take": "only"}, 0, 1),
        ("0.1", "0.10", {}, 1, 0),
        ("0.30000000000000004", "0.3", {}, 0, 0),
        ("3.14", "3.14159", {"tolerance": 0.01}, 1, 0.000507),
        ("102", "100", {"relative": 0.02}, 1, 0.02),
        ("103", "100", {"relative": 0.02}, 0, 0.03),
        ("1e9", "1", {}, 0, 1),
        ("0", "0", {}, 1, 0),
        ("0.001", "0", {}, 0, 1),
        ("none of them", "1", {}, 0, 1),
        ("nan", "1", {"tolerance": 1e300}, 0, 1),
        ("inf", "1", {"tolerance": 1e300}, 0, 1),
        ("7", ["5", "8"], {}, 0, 0.125),
        ("8", ["5", "8"], {}, 1, 0),
    ],
)
def test_numeric(answer: str, target: Any, options: dict[str, Any], correct: int, error: float) -> None:
    """An answer is right within the tolerances and wrong beyond them, and never right without a finite number."""
    values = score_answer(numeric, answer, Sample("1", "q", target), **options).values
    assert values["correct"] == correct
    assert values["error"] == pytest.approx(error, abs=1e-6)


@pytest.mark.parametrize(("target", "answer"), [(0.75, "0,75"), (1.234, "1,234"), (1234.5, "1.234,50"), (1e-7, "1e-7")])
def test_a_number_of_json_has_no_decimal_comma(target: float, answer: str) -> None:
    """A target that is a number in the data is that number, whatever answers are written with."""
    row = Sample("1", "q", [str(target), "7"], {"answer": [target, 7]})
    assert score_answer(numeric, answer, row, decimal=",").values["correct"] == 1


def test_a_unit_comes_before_a_magnitude() -> None:
    """What the suite calls a unit is one."""
    assert (
        score_answer(numeric, "5 million", Sample("1", "q", "5 million"), units={"million": 1}).values["correct"] == 1
    )
    assert score_answer(numeric, "5 million km", Sample("1", "q", "5000000 km"), units={"km": 1}).values["correct"] == 1


def test_the_note_says_why_there_is_no_number() -> None:
    """A row without a number that counts says how many there were."""
    assert score_answer(numeric, "who knows", Sample("1", "q", "1")).note == "no numbers"
    assert score_answer(numeric, "1 or 2", Sample("1", "q", "1"), take="only").note == "2 numbers"


@pytest.mark.parametrize(
    ("target", "options", "what"),
    [
        ("twelve", {}, "the target 'twelve' has no number; it must have exactly one"),
        ("3 or 4", {}, "the target '3 or 4' has 2 numbers; it must have exactly one"),
        ("1/0", {}, "the target '1/0' has no number; it must have exactly one"),
        ("", {}, "target is missing or empty"),
        ("5 kg", {"units": {"km": 1}}, "has no number in these units; it must have exactly one"),
        (["5", "six"], {}, "the target 'six' has no number; it must have exactly one"),
        ("0.75", {"decimal": ","}, "the target '0.75' has a point that does not separate thousands; write a decimal"),
        ("0.125", {"decimal": ","}, "has a point that does not separate thousands"),
        ("2024-05-06", {}, "the target '2024-05-06' has no number"),
    ],
)
def test_targets_are_one_number(target: Any, options: dict[str, Any], what: str) -> None:
    """A target that is not exactly one number is refused, with its row."""
    with pytest.raises(UsageError, match='row "x": ') as error:
        score_answer(numeric, "1", Sample("x", "q", target), **options)
    assert what in str(error.value)


EVAL = """
[suite]
name = "n"

[model]
use = "fake"
path = "base"

[[eval]]
name = "sum"
use = "numeric"
data = "test.jsonl"
"""


@pytest.mark.parametrize(
    ("more", "row", "what"),
    [
        ("", {"target": "twelve"}, "the target 'twelve' has no number"),
        ("", {"target": None}, "target is missing or empty"),
        ("", {"target": True}, "has True as its target"),
        ("", {"target": {"value": 4}}, "has {'value': 4} as its target"),
        ("", {"answer": "4", "target": "4 5"}, "has 2 numbers; it must have exactly one"),
        ("tolerance = -1", {"target": 4}, "tolerance is -1; it must be 0 or more"),
        ("units = { km = 0 }", {"target": 4}, "units: give names with factors other than 0"),
        ('take = "middle"', {"target": 4}, '"take" is "middle"; it must be'),
    ],
)
def test_mistakes_are_told_at_collection(project: Project, more: str, row: dict[str, Any], what: str) -> None:
    """A row or an option that is wrong is one line, before anything is opened."""
    project.write({"suite.toml": EVAL + more, "test.jsonl": [{"input": "2 + 2?", **row}]})
    done = project.run("--collect-only")
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert what in done.err


@pytest.mark.slow
def test_long_answers_cost_nothing() -> None:
    """Digits, groups and slashes without end are read in no time."""

    def read() -> None:
        for piece in ("1,111", "1/", "1 ", "-", "1e", "10^", "$", "1.1", "1 111 ", "\n- ", "1:"):
            NumberParser({"km": 1}, ".", True).parse(piece * 20_000)

    assert count_loop_rounds(read) < 60
