"""`harness.gate` in Python and the fixture of pytest: the same verdict as the command's, whatever holds the rows."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import harness
from harness import Outcome, UsageError
from harness.rows import wording
from tests.helpers.others import make_asked_rows

Table = Callable[..., Path]
BASE, WORSE = [1] * 300 + [0] * 100, [0] * 8 + [1] * 292 + [0] * 99 + [1]
OF_OTHERS = {"--log_samples", "--no-log-samples", "--to", "--out"}  # of lm_eval and Inspect, or of the command alone
pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))


def _make_frames(rows: list[dict[str, Any]]) -> dict[str, Any]:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    return {
        "dicts": rows,
        "numpy": [{**row, "score": np.int64(row["score"])} for row in rows],
        "pandas": pd.DataFrame(rows),
        "arrow": pa.Table.from_pylist(rows),
    }


@pytest.mark.slow
def test_whatever_holds_the_rows_comes_to_one_verdict(table: Table) -> None:
    """A file, dicts and frames are read alike, on either side, and count as one attempt."""
    path, others = table("base", make_asked_rows(BASE)), _make_frames(make_asked_rows(WORSE))
    bounds = {name: harness.gate(path, rows, worse_by_at_most=0.05).verdict for name, rows in others.items()}
    assert {(v.outcome, v.lower, v.attempt) for v in bounds.values()} == {(Outcome.PASS, bounds["dicts"].lower, 1)}
    assert (
        harness.gate(_make_frames(make_asked_rows(BASE))["pandas"], path, worse_by_at_most=0.05).outcome is Outcome.PASS
    )


def test_names_with_scores_pair_by_name() -> None:
    """A mapping is paired by its keys, numbers too, in whatever order; what one side lacks is refused."""
    base, worse = (dict(enumerate(scores)) for scores in (BASE, WORSE))
    gated = harness.gate(base, dict(reversed(worse.items())), worse_by_at_most="5%", metric="qa:acc")
    assert gated.outcome is Outcome.PASS and gated.verdict.lost_count == 8
    assert len(gated.rows()) == 400 and {"id": "0", "base": 1.0, "candidate": 0.0} in gated.rows()
    with pytest.raises(UsageError, match="only in base 1"):
        harness.gate(base, {k: v for k, v in worse.items() if k}, worse_by_at_most=0.05)


def test_what_came_of_it_is_no_truth_value(tmp_path: Path) -> None:
    """INCONCLUSIVE is no False; text, HTML and report say the same."""
    gated = harness.gate(make_asked_rows(BASE), make_asked_rows(WORSE), worse_by_at_most=0.02)
    with pytest.raises(TypeError, match="not true or false"):
        bool(gated)
    assert "INCONCLUSIVE  no-worse" in str(gated) and "taken on trust" in str(gated) and "report:" not in str(gated)
    folder = gated.report(tmp_path / "kept")
    assert harness.read_run(str(folder)).verdicts == gated.run.verdicts  # a text, as harness.run takes one
    assert (folder / "report.json").is_file() and (folder / "gate" / "items.jsonl").is_file()
    assert "INCONCLUSIVE" in gated._repr_html_()


@pytest.mark.parametrize(
    ("rows", "said", "why"),
    [
        (make_asked_rows(BASE), {}, r"give one claim:\n  worse_by_at_most=0.02 .*\n  better_by=0 .*\n  min=0.8 "),
        (make_asked_rows(BASE), {"min": 0.1, "alpha": 2}, "^alpha is 2"),
        (
            make_asked_rows(BASE),
            {"worse_by_at_most": 0.1},
            "name BASE and CANDIDATE, or only CANDIDATE with min or max",
        ),
        (
            [{"id": "a", "score": 7.5}],
            {"min": 0.1},
            'whether higher or lower is better is unknown; use better="higher" or better="lower"',
        ),
        ([{"id": "a", "points": "many"}], {"min": 0.1}, 'name it with score="COLUMN"'),
        (
            [{"id": "a", "score": "x"}],
            {"min": 0.1},
            '"x" is not a number; an empty score is a missing row, which missing decides about',
        ),
        (make_asked_rows(BASE), {"min": 0.1, "alpha": "x"}, "^alpha is 'x'; give a number$"),
        (make_asked_rows(BASE), {"min": "0.8"}, "^min is '0.8'; give a number$"),
        (make_asked_rows(BASE), {"min": 0.1, "range": 5}, "^range is 5; give the lowest and the highest score"),
        (make_asked_rows(BASE), {"min": 0.1, "repeats": "2"}, "^repeats is '2'; give the number of answers per row"),
        (make_asked_rows(BASE), {"min": 0.1, "better": "up"}, '^better is \'up\'; give one of "higher", "lower"'),
        (make_asked_rows(BASE), {"min": 0.1, "score": 3}, "^score is 3; give a name"),
        (
            make_asked_rows(BASE),
            {"better_by": "much"},
            "^better_by is 'much'; give a number, or a share such as \"2%\"",
        ),
        (3, {"min": 0.1}, "is of type int; give a path"),
        ([1, 2], {"min": 0.1}, "is of type list; give a path"),
        ({"a": "x"}, {"min": 0.1}, '"x" is not a number'),
        ([], {"min": 0.1}, "has no rows"),
        (make_asked_rows(BASE), {"min": 0.1, "allow": ["shots", "x"]}, 'allow: "x" is unknown'),
    ],
)
def test_what_cannot_be_gated_is_told(rows: Any, said: dict[str, Any], why: str) -> None:
    """A word that is none, no claim, and what holds no rows."""
    with pytest.raises(UsageError, match=why):
        harness.gate(rows, **said)


def test_values_of_pandas_and_decimals_are_numbers() -> None:
    """NA is a row without a score, and a Decimal is its number, in frames and in lists alike."""
    pandas = pytest.importorskip("pandas")
    scores = [Decimal("0.5"), Decimal("1"), Decimal("0")] * 40
    rows = [{"id": f"q-{i}", "score": score} for i, score in enumerate(scores)]
    assert harness.gate(rows, max=0.9, better="lower", scale="proportion").verdict.value == 0.5
    frame = pandas.DataFrame({"id": [f"q-{i}" for i in range(120)], "score": [1, 0, None] * 40}).astype(
        {"score": "Int64"}
    )
    gated = harness.gate(frame, min=0.1)
    assert gated.outcome == "ERROR" and "40 rows have no score" in gated.verdict.why
    assert harness.gate(frame, min=Decimal("0.1"), missing="wrong").outcome == "PASS"


def test_a_frame_with_a_column_twice_is_told() -> None:
    """As pandas' concat leaves it: which of both is meant nobody knows."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(make_asked_rows(BASE))
    with pytest.raises(UsageError, match='candidate: the column "score" occurs twice; rename one, or drop it'):
        harness.gate(frame, pandas.concat([frame, frame[["score"]]], axis=1), worse_by_at_most=0.05)


def test_one_table_has_both_sides() -> None:
    """`base_score` and `candidate_score` name columns of one frame or list."""
    rows = [{**row, "other": row["score"]} for row in make_asked_rows(BASE)]
    gated = harness.gate(rows, base_score="score", candidate_score="other", worse_by_at_most=0.1)
    assert gated.verdict.n == len(rows) and gated.verdict.estimate == 0
    with pytest.raises(UsageError, match=r"^gate: base_score and candidate_score belong together, and replace score$"):
        harness.gate(rows, base_score="score", worse_by_at_most=0.1)


def test_a_misspelt_argument_is_a_type_error() -> None:
    """Python names the function and the argument; nothing is read."""
    with pytest.raises(TypeError, match=r"^gate\(\) got an unexpected keyword argument 'worse_by_at_mst'"):
        harness.gate(make_asked_rows(BASE), make_asked_rows(WORSE), worse_by_at_mst=0.1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^run\(\) got an unexpected keyword argument 'limt'"):
        harness.run("suite.toml", limt=3)  # type: ignore[call-arg]


def test_messages_write_options_as_the_caller_does() -> None:
    """No message of the rows has an option of the command by itself, so each caller reads its own spelling."""
    option = re.compile(r"--[a-z][a-z_-]*")
    texts = {p: p.read_text("utf-8") for p in Path(wording.__file__).parent.rglob("*.py") if p.name != "wording.py"}
    raised = {
        found
        for text in texts.values()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Raise)
        for found in option.findall(ast.unparse(node))
    }
    assert raised - OF_OTHERS == set()


OPTIONS = [
    (("scale", "mean"), "--scale mean", 'scale="mean"'),
    (("repeats", 3), "--repeats 3", "repeats=3"),
    (("alpha", 0.05), "--alpha 0.05", "alpha=0.05"),
    (("allow", "task-version"), "--allow task-version", 'allow="task-version"'),
    (("only_common", True), "--only-common", "only_common=True"),
    (("better", "higher"), "--higher", 'better="higher"'),
    (("tool",), "--as", "tool"),
    (("base_score",), "--base-score", "base_score"),
]


@pytest.mark.parametrize(("given", "command", "python"), OPTIONS)
def test_an_option_is_written_for_its_caller(given: tuple[str, object], command: str, python: str) -> None:
    """A flag for the command, a keyword argument in Python; after the call it is the command's again."""
    with wording.words_for("python"):
        assert wording.write_option(*given) == python
    assert wording.write_option(*given) == command


@pytest.mark.slow
def test_the_fixture_of_pytest_fails_unless_it_is_proven(pytester: pytest.Pytester) -> None:
    """A test passes where the claim is proven; not proven fails, or skips where that was said, with its lines."""
    pytester.makepyfile("""
        BASE = {str(i): int(i >= 100) for i in range(400)}
        ROWS = {str(i): int(i >= 100 + i % 2 * 8 * (i < 116)) for i in range(400)}

        def test_proven(harness_gate):
            assert harness_gate(BASE, ROWS).worse_by_at_most(0.06).outcome == "PASS"

        def test_open(harness_gate):
            harness_gate(BASE, ROWS, alpha=0.05).worse_by_at_most(0.02)

        def test_refuted(harness_gate):
            harness_gate(ROWS).at_least(0.9)

        def test_no_claim(harness_gate):
            harness_gate(BASE, ROWS)

        def test_no_rows(harness_gate):
            harness_gate("nowhere.csv").at_least(0.9)
    """)
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    done.assert_outcomes(passed=2, failed=3, errors=1)
    unclaimed = "harness_gate(…) without a claim tests nothing; add .worse_by_at_most(…)*"
    first = ["INCONCLUSIVE no-worse: *", "FAIL at-least: at least 0.9; 0.740*"]  # what summaries of pytest show
    done.stdout.fnmatch_lines([unclaimed, *first, "*nowhere.csv: cannot be read*"])
    done.stdout.no_fnmatch_line("*During handling of the above exception*")
    again = pytester.runpytest_subprocess("--harness-inconclusive=skip")
    again.assert_outcomes(passed=2, failed=2, errors=1, skipped=1)
