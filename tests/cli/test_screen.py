"""What a person sees: lines wrapped at words on a screen, whole lines in a pipe and in a CI log."""

from __future__ import annotations

import io
import os
import re
from typing import Any

import pytest
from rich.console import Console

from harness.cli.screen import Screen, format_value
from harness.cli.terminal import Summary, Terminal
from harness.records.claims.gate import ClaimTerms, Gate
from harness.records.models import Progress
from harness.records.parts.attempts import CountedAttempt
from harness.records.parts.clusters import Clusters
from harness.records.parts.needed import RowsNeeded
from harness.records.parts.part import Part
from harness.records.run import ItemResult, Run, Segment, ShownRow
from harness.records.verdict_text import format_brief, format_why
from harness.records.verdicts import Outcome, Verdict
from harness.reports.view import view_run
from harness.testing import ROWS, SUITE, TRAIN, Project
from harness.texts.counts import count_noun
from harness.texts.numbers import format_percent
from harness.texts.printing import print_line
from harness.texts.wrapping import join_paragraphs

WARN = SUITE + '\n[[gate]]\nid = "perfect"\nmetric = "qa.exact_match"\nmin = 0.99\nseverity = "warn"\n'


class Tty(io.StringIO):
    """A file that claims to be a terminal, as the pty of a CI job does."""

    def isatty(self) -> bool:
        return True


def make_screen(width: int, file: io.StringIO | None = None) -> Screen:
    """Return a screen of so many columns."""
    console = Console(
        file=file or Tty(), width=width, highlight=False, soft_wrap=True, force_terminal=True, no_color=True
    )
    return Screen(console)


def read_screen_lines(one: Screen) -> list[str]:
    """Return the lines on a screen."""
    assert isinstance(one.console.file, io.StringIO)
    return one.console.file.getvalue().splitlines()


@pytest.fixture(autouse=True)
def nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here runs in a CI job, unless it says so."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize("width", [40, 60, 80, 130])
def test_lines_wrap_between_words_and_keep_their_indent(width: int) -> None:
    """No line is wider than the screen, no word is cut, and what is continued stands where it was told to."""
    text = "    word " + "some-hyphened-words and [brackets], numbers such as 0.123 " * 8
    one = make_screen(width)
    one.print_line(text, hang=9)
    first, *rest = read_screen_lines(one)
    assert max(map(len, [first, *rest])) <= width
    assert all(line.startswith(" " * 9) and line[9] != " " for line in rest)
    assert " ".join(first.split() + [w for line in rest for w in line.split()]) == " ".join(text.split())


def test_a_word_wider_than_the_screen_stays_whole() -> None:
    """A path can be copied, whatever the width."""
    one, path = make_screen(40), "/a/long/path/" + "x" * 80
    one.print_line(f"run      {path}", hang=9)
    assert any(path in line for line in read_screen_lines(one))


@pytest.mark.parametrize("variable", [None, "CI"])
def test_pipes_and_ci_logs_get_whole_lines_and_no_bars(variable: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is no screen, and neither is the terminal of a CI job: nothing is wrapped or drawn over."""
    if variable:
        monkeypatch.setenv(variable, "true")
    file = Tty() if variable else io.StringIO()
    one = Terminal(console=Console(file=file, width=60, soft_wrap=True, force_terminal=True, no_color=True))
    text = "word " * 39 + "word"  # older versions of Rich leave out a blank at the end
    one.print_line(text)
    one.harness_progress(Progress("train", 1, 3, {"loss": 1.0}))
    one.clear_progress()
    assert file.getvalue() == f"{text}\n"


def test_a_log_tells_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no bar is drawn, a line now and then says how far it is, and how long that takes on at this tempo."""
    monkeypatch.setattr("harness.cli.terminal.QUIET_SECONDS", -1)
    one = Terminal(console=Console(file=io.StringIO(), highlight=False, soft_wrap=True))
    for done in (0, 1, 2):
        one.harness_progress(Progress("train", done, 9, {"loss": 1.0}))
    first, second = read_screen_lines(one)
    assert first == "  train 1/9  loss 1"
    assert re.fullmatch(r"  train 2/9, about \d+\.0 s left  loss 1", second)


def test_other_lines_wrap_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said without the terminal's console, such as a mistake, wraps on a screen and is whole in a pipe."""
    text = "error: suite.toml:3: " + "what is wrong and what to do; " * 5
    pipe, tty = io.StringIO(), Tty()
    monkeypatch.setattr(Tty, "fileno", lambda self: 1)
    monkeypatch.setattr("harness.cli.streams.os.get_terminal_size", lambda handle: os.terminal_size((60, 24)))
    print_line(text, pipe)
    print_line(text, tty)
    assert pipe.getvalue() == f"{text}\n"
    lines = tty.getvalue().splitlines()
    assert len(lines) > 1 and max(map(len, lines)) <= 60 and all(line.startswith("  ") for line in lines[1:])


def test_paragraphs_of_a_docstring_are_lines() -> None:
    """The lines of a paragraph are one, so that it wraps where the screen ends; lists and examples stay."""
    assert join_paragraphs("A b\nc.\n\nD\ne:\n\n    x = 1\n    y\n- one\n- two") == [
        *("A b c.", "", "D e:", "", "    x = 1", "    y", "- one", "- two"),
    ]


def test_a_table_too_wide_goes_on_below() -> None:
    """Columns that do not fit beside each other stand in a second table, which begins with the same first column."""
    one = make_screen(40)
    one.print_columns([["metric", "a" * 15, "b" * 15, "c" * 15], ["qa.em", "1", "2", "3"]])
    lines = read_screen_lines(one)
    assert [line.split()[0] for line in lines if line] == ["metric", "qa.em"] * 2
    assert max(map(len, lines)) <= 40
    assert lines[-1].split() == ["qa.em", "3"]


def test_numbers_are_counted_and_shortened_as_a_person_would() -> None:
    """1 item, 2 items; large numbers with commas; as many digits of a percentage as it has."""
    assert [count_noun(1, "item"), count_noun(1200, "item"), count_noun(2, "entry", "entries")] == [
        "1 item",
        "1,200 items",
        "2 entries",
    ]
    assert [format_value(11302.7), format_value(292.94), format_value(12)] == ["11,303", "292.9", "12"]
    assert [*map(format_percent, (0.95, 0.975, 1 - 0.05 / 3))] == ["95%", "97.5%", "98.33%"]
    assert [*map(format_percent, (0.05, 0.05 / 3, 1e-5, 1 - 1e-5))] == ["5%", "1.67%", "0.001%", "99.999%"]


FIGURES: dict[str, Any] = {
    "value": 0.62, "baseline": 0.5, "estimate": 0.62, "lower": 0.544, "upper": 0.687, "n": 300, "method": "cluster t",
    "won_count": 2, "lost_count": 1, "alpha": 0.05,
}  # fmt: skip
POINT = {**FIGURES, "estimate": 123_840.0, "lower": None, "upper": None, "method": "point"}
LESS = {**FIGURES, "estimate": 0.12, "lower": 0.044, "upper": 0.187}
BOUND = ClaimTerms(Gate("g", "qa.em", min=0.5), "proportion")
DIFFERENCE = ClaimTerms(Gate("g", "qa.em", versus="base", better_by=0.0), "proportion")
REASONS: dict[str, tuple[ClaimTerms, dict[str, Any], list[Part]]] = {
    "0.620 [0.544, 0.687], n=300 in 152 clusters": (BOUND, FIGURES, [Clusters(152)]),
    (
        "0.620 against 0.500, +0.120 [+0.044, +0.187], 2 won and 1 lost, n=300 in 152 clusters; "
        "at least 58 rows would be needed, probably to PASS"
    ): (DIFFERENCE, LESS, [RowsNeeded(900, (58, None), likely=Outcome.PASS), Clusters(152)]),
    "0.620 [0.544, 0.687], n=300 in 152 clusters, so uneven that the effective number is 81; attempt 2": (
        BOUND,
        FIGURES,
        [CountedAttempt(2), Clusters(152, 81.2)],
    ),
    "123,840": (BOUND, POINT, []),
}


@pytest.mark.parametrize("why", REASONS)
def test_names_of_tests_are_left_out(why: str) -> None:
    """The name of the statistical test is left out of a reason, and nothing else."""
    terms, numbers, parts = REASONS[why]
    verdict = make_verdict(Outcome.INCONCLUSIVE, terms=terms, **numbers).with_parts(*parts)
    assert format_brief(verdict) == why
    assert format_brief(make_verdict(Outcome.PASS, why="n=3, cluster t")) == "n=3, cluster t"
    whole = format_why(verdict)
    assert ("cluster t" in whole) == (why != "123,840") and whole.replace(", cluster t", "") == why


def make_verdict(outcome: Outcome, **other: object) -> Verdict:
    """Return a verdict."""
    given = {
        "gate": "g",
        "candidate": "merged",
        "why": "",
        "metric": "qa.em",
        "claim": "at least 0.5",
        "blocking": True,
    }
    return Verdict(outcome=outcome, **{**given, **other})  # type: ignore[arg-type]


def test_what_holds_nothing_up_is_counted_apart() -> None:
    """A warn gate that fails is no failure in the last line; one that blocks is."""
    found = [
        make_verdict(Outcome.PASS),
        make_verdict(Outcome.PASS, blocking=False),
        make_verdict(Outcome.FAIL, blocking=False),
        make_verdict(Outcome.INCONCLUSIVE, decides=False),
    ]
    assert count_outcomes(*found) == "2 PASS, 1 FAIL (warn), 1 INCONCLUSIVE (not what ships)"
    assert count_outcomes(make_verdict(Outcome.FAIL)) == "1 FAIL"
    assert count_outcomes() == "nothing was gated"


def count_outcomes(*verdicts: Verdict) -> str:
    item = ItemResult("x::merged::qa", "merged", "qa", "done", verdicts=verdicts)
    return view_run(Run("x", "x.toml", "d", 17, 0.05, "m", "now", "0", results=[item])).outcome_counts


def test_the_last_lines_say_what_was_decided_and_where_things_are(project: Project) -> None:
    """After the outcomes: the decision in a sentence, the export, the folder; a warn gate is no failure."""
    project.write({"suite.toml": WARN, "test.jsonl": ROWS, "train.jsonl": TRAIN})
    outcome = project.run()
    assert outcome.code == 0
    *_, rule, sentence, export, folder, following = outcome.out.splitlines()
    assert "(warn)" in rule and "exit 0" in rule
    assert sentence.startswith("merged may ship: ")
    assert export.startswith("exported merged to exports/")
    assert folder.split()[0] == "run" and (project.folder / folder.split()[1] / "report.json").is_file()
    assert following == "next     harness verify exports/fake && harness promote exports/fake"


def test_what_did_not_pass_is_told_with_its_threshold(project: Project) -> None:
    """The summary names what was claimed beside what was found, and bounds are labelled once."""
    text = SUITE.replace("min = 0.5", "min = 0.999")
    project.write({"suite.toml": text, "test.jsonl": ROWS, "train.jsonl": TRAIN})
    outcome = project.run()
    (line, *_) = [x for x in outcome.out.splitlines() if x.startswith(("FAIL", "INCONCLUSIVE"))]
    assert "merged: floor: qa.exact_match at least 0.999: " in line  # what ships before what does not
    assert "not exported: merged" in outcome.out and "because" not in outcome.out  # why stands above
    assert outcome.out.count("one-sided") == 1
    assert project.harness("show", str(max(project.folder.glob("reports/*"))), "-q").out.count("one-sided") == 1


@pytest.mark.slow
def test_nothing_is_said_to_be_trained_that_is_there(project: Project) -> None:
    """A second run of a recipe says that it is there, not what it would be trained with."""
    project.write({"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": TRAIN})
    first, second = project.run().out, project.run().out
    assert "train  fake, " in first and "train  fake, " not in second
    assert "train  reusing the adapter of this recipe" in second


def test_the_summary_is_made_of_the_same_run(project: Project) -> None:
    """`show -q` prints the summary alone, beginning with its rule."""
    project.write({"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": TRAIN})
    run = project.run().report
    one = make_screen(80)
    Summary(one, run, -1).print_all()
    lines = read_screen_lines(one)
    assert lines[0].strip("= ") == "summary"
    assert "0 items" not in "\n".join(lines)


def test_run_shows_a_training_row_where_it_trains() -> None:
    """The first row stands below the stage that trains, what is learnt marked; below others and with -q it does not."""
    rows = tuple(ShownRow(n, (Segment(f"ask {n}\n"), Segment(f" answer {n}", trained=True))) for n in (1, 2))
    run = Run("x", "x.toml", "d", 17, 0.05, "m", "now", "0", shown_rows=rows)
    for verbosity, stage, want in ((0, "train", True), (0, "merge", False), (-1, "train", False)):
        out = io.StringIO()
        terminal = Terminal(verbosity, Console(file=out, width=100))
        terminal.harness_stage(run, stage, "")
        assert ("row 1 (trained tokens in ⟦ ⟧): ask 1\\n⟦ answer 1⟧" in out.getvalue()) is want
        assert "answer 2" not in out.getvalue()
