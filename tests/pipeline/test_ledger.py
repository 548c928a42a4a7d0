"""The rule of attempts against a slow reading of it, looks at more and more rows, and lines that were lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.files import append_line
from harness.gates.attempts import AttemptNumber, hash_line
from harness.pipeline.ledger import Ledger, LedgerEntry, Row, overlaps, project_name
from harness.suite.reader import read_suite
from harness.suite.tables import Suite
from harness.testing import SUITE


class Seen(NamedTuple):
    """One look as the issue speaks of it."""

    role: str
    weights: str
    rows: frozenset[Row]
    scores: str
    base: str


def count_earlier_looks(history: dict[Seen, int], now: Seen) -> int:
    """Return one more than the earlier looks in the role that share a tenth of the smaller set of rows.

    A look that was had before keeps the number it has among them, and never one below that which was written down;
    models of another base are not counted.
    """
    near = [
        (seen, number)
        for seen, number in history.items()
        if seen.role == now.role
        and not (seen.base and now.base and seen.base != now.base)
        and Fraction(len(seen.rows & now.rows)) >= Fraction(1, 10) * min(len(seen.rows), len(now.rows))
    ]
    own = [max(i, number) for i, (seen, number) in enumerate(near, 1) if seen._replace(base=now.base) == now]
    return own[-1] if own else len(near) + 1


def rows(*numbers: int) -> frozenset[Row]:
    return frozenset((f"{i:032x}",) for i in numbers)


def look(seen: Seen, **more: object) -> LedgerEntry:
    scores = {row: [seen.scores] for row in seen.rows}
    made = LedgerEntry(seen.role, seen.weights, seen.rows, scores, seen.base)  # type: ignore[arg-type]
    return replace(made, **more)  # type: ignore[arg-type]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    (tmp_path / "suite.toml").write_text(SUITE, "utf-8")
    return read_suite(tmp_path / "suite.toml")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "attempts.jsonl", pytest.fail)


def take(ledger: Ledger, look: LedgerEntry, suite: Suite) -> AttemptNumber:
    with ledger.lock():
        standing = ledger.number_attempt(look)
        ledger.record(standing, look, suite, "merged", "qa")
    return standing


ROWS = st.tuples(st.integers(0, 40), st.integers(1, 30)).map(lambda r: rows(*range(r[0], sum(r))))
LOOKS = st.builds(
    Seen,
    st.sampled_from(["adapter", "merged"]),
    st.sampled_from("uvw"),
    ROWS,
    st.sampled_from("st"),
    st.sampled_from(["", "b", "c"]),
)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.lists(LOOKS, min_size=1, max_size=12))
def test_ledger_counts_as_the_rule_says(history: list[Seen]) -> None:
    """For any history of looks every number is that of a slow reading of the rule, whoever opens the ledger."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "suite.toml"
        path.write_text(SUITE, "utf-8")
        read = read_suite(path)
        written: dict[Seen, int] = {}
        for seen in history:
            standing = take(Ledger(Path(folder) / "attempts.jsonl", pytest.fail), look(seen), read)
            assert standing.number == count_earlier_looks(written, seen)
            if not standing.line:
                written[seen] = standing.number


def test_a_tenth_is_enough() -> None:
    """Of 10 and 100 rows one in common is a tenth of the smaller set; of 11 it is not. One key of several is enough."""
    many = rows(*range(100))
    assert overlaps(many, rows(*range(99, 109)))
    assert not overlaps(many, rows(*range(99, 110)))
    assert overlaps(many, frozenset([("other", f"{5:032x}")]))
    assert not overlaps(many, frozenset())


def test_six_templates_are_six_attempts_at_every_eval_that_is_asked_again(ledger: Ledger, suite: Suite) -> None:
    """Each eval has its own count: another that is asked on new rows each time begins at one."""
    for k in range(6):
        same = Seen("merged", f"w{k}", rows(*range(300)), "s", "b")
        new = same._replace(rows=rows(*range(10_000 * (k + 1), 10_000 * (k + 1) + 3_000)))
        assert [take(ledger, look(each), suite).number for each in (same, new)] == [k + 1, 1]


def test_a_look_that_was_had_is_no_other(ledger: Ledger, suite: Suite) -> None:
    """The same weights with the same scores keep their number; other scores of them are another attempt."""
    seen = Seen("merged", "w", rows(1, 2, 3), "s", "b")
    assert [take(ledger, look(s), suite).number for s in (seen, seen._replace(weights="v"), seen)] == [1, 2, 1]
    assert take(ledger, look(seen._replace(scores="t")), suite).number == 3
    assert len(ledger.read_entries()) == 3


def test_models_of_another_base_are_told_and_not_counted(ledger: Ledger, suite: Suite) -> None:
    """What was tried on another base is no attempt at this one; where the base is not known it is."""
    seen = Seen("merged", "w", rows(1, 2, 3), "s", "b")
    take(ledger, look(seen), suite)
    other = take(ledger, look(seen._replace(weights="v", base="c")), suite)
    assert (other.number, other.foreign) == (1, 1)
    unknown = take(ledger, look(seen._replace(weights="u", base="")), suite)
    assert (unknown.number, unknown.foreign) == (3, 0)


def test_rows_that_all_have_charge_nobody_for_another_project(ledger: Ledger, suite: Suite, tmp_path: Path) -> None:
    """A pack's rows count in the project that looked at them; a project is a folder with a repository."""
    seen = Seen("merged", "w", rows(1, 2, 3), "s", "b")
    take(ledger, look(seen, project="one"), suite)
    assert take(ledger, look(seen._replace(weights="v"), project="two"), suite).number == 1
    assert take(ledger, look(seen._replace(weights="u"), project="one"), suite).number == 2
    (tmp_path / "mine/suites").mkdir(parents=True)
    (tmp_path / "mine/.git").mkdir()
    assert project_name(tmp_path / "mine/suites/a.toml") == "mine"


# -- more rows of the same weights ------------------------------------------------------------------


def take_nested_looks(
    ledger: Ledger, suite: Suite, *sizes: int, most: int | None = 1600, weights: str = "w"
) -> AttemptNumber:
    for n in sizes:
        found = take(ledger, look(Seen("merged", weights, rows(*range(n)), "s", "b"), most=most), suite)
    return found


def test_looks_at_more_rows_are_one_attempt(ledger: Ledger, suite: Suite) -> None:
    """Declared rows that come in by and by are looks of one attempt, and a look that was had stays what it was."""
    found = take_nested_looks(ledger, suite, 200, 400, 800)
    assert (found.number, found.stages) == (1, (200, 400, 800))
    again = take_nested_looks(ledger, suite, 400)
    assert (again.number, again.stages, bool(again.line)) == (1, (200, 400), True)
    assert take_nested_looks(ledger, suite, 1600).stages == (200, 400, 800, 1600)


ATTEMPTS: dict[str, Callable[[Ledger, Suite], AttemptNumber]] = {
    "other weights": lambda ledger, suite: take_nested_looks(ledger, suite, 800, weights="v"),
    "another number of rows": lambda ledger, suite: take_nested_looks(ledger, suite, 800, most=3200),
    "none declared": lambda ledger, suite: take_nested_looks(ledger, suite, 800, most=None),
    "rows that are not nested": lambda ledger, suite: take(
        ledger, look(Seen("merged", "w", rows(*range(1, 801)), "s", "b"), most=1600), suite
    ),
    "other scores on the same rows": lambda ledger, suite: take(
        ledger, look(Seen("merged", "w", rows(*range(800)), "t", "b"), most=1600), suite
    ),
}


@pytest.mark.parametrize("case", ATTEMPTS)
def test_what_does_not_go_on_is_an_attempt(case: str, ledger: Ledger, suite: Suite) -> None:
    """Other weights, rows, scores or numbers are another attempt, which begins with its first look."""
    take_nested_looks(ledger, suite, 200, 400)
    found = ATTEMPTS[case](ledger, suite)
    assert (found.number, len(found.stages)) == (2, 1)


# -- lines that were lost ----------------------------------------------------------------------------


def written(ledger: Ledger, suite: Suite, count: int = 4) -> list[str]:
    for k in range(count):
        take(ledger, look(Seen("merged", f"w{k}", rows(1, 2, 3), "s", "b")), suite)
    return ledger.path.read_text("utf-8").splitlines()


def test_what_a_kill_cut_off_counts_for_nothing_and_goes(ledger: Ledger, suite: Suite) -> None:
    """Half a line at the end was never told to anybody; the next line takes its place."""
    lines = written(ledger, suite)
    ledger.path.write_text("\n".join(lines) + "\n" + lines[-1][:40], "utf-8")
    assert take(ledger, look(Seen("merged", "v", rows(1, 2, 3), "s", "b")), suite).number == 5
    assert len(ledger.path.read_text("utf-8").splitlines()) == len(lines) + 1


def test_a_last_line_without_an_end_counts(ledger: Ledger, suite: Suite) -> None:
    """Some tools take the last end of a line away; the line is whole."""
    lines = written(ledger, suite)
    ledger.path.write_text("\n".join(lines), "utf-8")
    assert take(ledger, look(Seen("merged", "v", rows(1, 2, 3), "s", "b")), suite).number == 5
    assert ledger.state().heads == (ledger.read_lines()[-1]["id"],)


BROKEN: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "a line in the middle is gone": (lambda x: [*x[:2], *x[3:]], ":3: its previous line {2} is missing"),
    "its beginning is gone": (lambda x: x[1:], ":1: its previous line {0} is missing"),
    "a line was changed": (
        lambda x: [x[0], x[1].replace('"w0"', '"v0"'), *x[2:]],
        ":2: was changed or truncated after it was written",
    ),
    "cut in the middle": (lambda x: [*x[:2], x[2][:50], *x[3:]], ":3: was changed or truncated after it was written"),
    "a number": (lambda x: ["7", *x], ":1: was changed or truncated after it was written"),
    "5,000 digits": (lambda x: ["9" * 5000, *x], ":1: was changed or truncated after it was written"),
    "100,000 deep": (lambda x: ["[" * 100_000, *x], ":1: was changed or truncated after it was written"),
    "another format": (
        lambda x: ['{"format": 2, "look": "a"}', *x],
        ":1: was written by another version of the harness (format 2, and this one reads 1); move the file away: "
        "earlier attempts are then unknown",
    ),
    "no format": (
        lambda x: ['{"question": "a", "seen": "b"}'],
        ":1: was written by another version of the harness (format None, and this one",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_line_that_is_lost_is_no_silence(case: str, ledger: Ledger, suite: Suite) -> None:
    """One line says which and what to do, before anything is measured, and nothing is written or removed."""
    change, told = BROKEN[case]
    lines = written(ledger, suite)
    ids = [json.loads(line)["id"][:16] for line in lines]
    ledger.path.write_text("".join(f"{line}\n" for line in change(lines)), "utf-8")
    before = ledger.path.read_bytes()
    with pytest.raises(UsageError) as error:
        Ledger(ledger.path, pytest.fail).read_lines()
    assert f"{ledger.path}{told.format(*ids)}" in str(error.value)
    assert "earlier attempts are then unknown" in str(error.value)
    assert ledger.path.read_bytes() == before


def test_rows_that_lead_elsewhere_are_no_line(ledger: Ledger, suite: Suite) -> None:
    """A line whose digest is right and whose rows are a path is refused all the same."""
    last = json.loads(written(ledger, suite)[-1])
    line = {k: v for k, v in last.items() if k != "id"} | {"rows": "../../etc/passwd"}
    append_line(ledger.path, {**line, "id": hash_line(line)})
    with pytest.raises(UsageError, match=": was changed or truncated after it was written"):
        ledger.read_lines()


def test_two_branches_join_to_one(tmp_path: Path, suite: Suite) -> None:
    """Two machines that went on from one ledger put their lines together: all attempts count, each once."""
    one, two = (Ledger(tmp_path / f"{name}.jsonl", pytest.fail) for name in "ab")
    written(one, suite, 2)
    two.path.write_bytes(one.path.read_bytes())
    two.path.with_suffix("").mkdir()
    for file in one.path.with_suffix("").iterdir():
        two.rows_file(file.name).write_bytes(file.read_bytes())
    for ledger, weights in ((one, "x"), (two, "y"), (two, "z")):
        take(ledger, look(Seen("merged", weights, rows(1, 2, 3), "s", "b")), suite)
    one.path.write_text(one.path.read_text("utf-8") + two.path.read_text("utf-8"), "utf-8")
    assert len(one.state().heads) == 2
    assert take(one, look(Seen("merged", "new", rows(1, 2, 3), "s", "b")), suite).number == 6
    assert len(one.state().heads) == 1


def test_two_ledgers_put_together_count_both(tmp_path: Path, suite: Suite) -> None:
    """Two that began apart are joined, too, and evidence tells of both beginnings."""
    one, two = (Ledger(tmp_path / f"{name}.jsonl", pytest.fail) for name in "ab")
    for ledger, weights in ((one, "x"), (two, "y")):
        take(ledger, look(Seen("merged", weights, rows(1, 2, 3), "s", "b")), suite)
    for file in two.path.with_suffix("").iterdir():
        one.rows_file(file.name).write_bytes(file.read_bytes())
    one.path.write_text(one.path.read_text("utf-8") + two.path.read_text("utf-8"), "utf-8")
    assert take(one, look(Seen("merged", "z", rows(1, 2, 3), "s", "b")), suite).number == 3
    assert len(one.state().to_json()["ledgers"]) == 2


def test_rows_that_are_gone_count_as_these(ledger: Ledger, suite: Suite) -> None:
    """A set of rows that cannot be read is told, and what was looked at there counts."""
    written(ledger, suite, 1)
    for file in ledger.path.with_suffix("").iterdir():
        file.unlink()
    told: list[str] = []
    other = Ledger(ledger.path, told.append)
    assert other.number_attempt(look(Seen("merged", "v", rows(7, 8), "s", "b"))).number == 2
    assert [line.partition(": ")[2] for line in told] == [
        "cannot be read, so its attempts count as attempts at these rows"
    ]


def test_a_disk_that_is_full_takes_no_half_of_a_line(tmp_path: Path) -> None:
    """A short write is an error, the file is as it was, and the next line stands by itself."""
    code = """
import resource, sys
from pathlib import Path
from harness.files import append_line
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, -1))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    append_line(path, {"a": "x" * 100})
except OSError as error:
    print(error.strerror)
"""
    path = tmp_path / "lines.jsonl"
    append_line(path, {"a": 1})
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, env=os.environ)
    assert done.stdout.strip() == "No space left on device", done.stderr
    assert path.read_text("utf-8") == '{"a": 1}\n'
    append_line(path, {"a": 2})
    assert path.read_text("utf-8") == '{"a": 1}\n{"a": 2}\n'
