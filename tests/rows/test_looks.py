"""Rows of other tools that come in: looks at more and more of them share one risk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from harness.stats.multiple_testing import interim_levels
from harness.texts.json_text import read_json
from tests.helpers.others import Said, make_asked_rows

Gate, Table = Callable[..., Said], Callable[..., Path]
BASE, CANDIDATE = [1, 1, 1, 0] * 100, [1, 0, 1, 1] + [1, 1, 1, 0] * 99
SUITE = f"""
[suite]
name = "capitals"

[rows.base]
path = "base.jsonl"

[rows.candidate]
path = "candidate.jsonl"
weights = "sha256:{"a" * 64}"

[[eval]]
name = "qa"
use = "rows"
rows_at_most = 400

[[gate]]
id = "no-worse"
metric = "qa.score"
versus = "base"
worse_by_at_most = 0.05
"""


def list_looks(verdict: dict[str, Any]) -> tuple[int, list[int]]:
    """Return which attempt a verdict is, and its looks."""
    parts = verdict["parts"]
    return parts["attempt"]["number"], parts["interim_analysis"]["looks"]


@pytest.fixture
def look(gate: Gate, table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Return a function that judges the first of so many rows, and gives its verdict, or what was refused."""

    def called(rows: int, text: str = SUITE, scores: list[int] = CANDIDATE) -> Any:
        table("base", make_asked_rows(BASE[:rows]))
        table("candidate", make_asked_rows(scores[:rows]))
        (tmp_path / "suite.toml").write_text(text, "utf-8")
        code = main(["run", "suite.toml", "--json"])
        said = Said(code, *capsys.readouterr())
        return said.err if code == 4 else read_json(said.out)["run"]["results"][1]["verdicts"][0]

    return called


def test_looks_at_more_rows_are_one_attempt_and_share_its_risk(
    look: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each look is tested at its level, and its evidence comes to the same verdict again."""
    looks: list[int] = []
    for rows in (100, 200, 400):
        looks.append(rows)
        found = look(rows)
        assert list_looks(found) == (1, looks)
        assert found["alpha"] == pytest.approx(interim_levels(looks, 400, 0.05)[-1])
    assert f"interim analysis 3 at 400 of 400 rows, at alpha {found['alpha']:.2g}" in found["why"]
    bundle = max(tmp_path.glob("reports/*/gate"))
    assert main(["verify", str(bundle)]) == 0
    assert "1 of 1 decided again from their rows" in capsys.readouterr().out
    again = look(400)
    assert list_looks(again) == (1, looks)


def test_other_scores_of_earlier_rows_are_no_later_look(look: Callable[..., Any]) -> None:
    """A candidate that scores otherwise where it was looked at already begins another attempt, as other weights do."""
    look(100)
    other = look(200, scores=[0, 1, 1, 0] * 100)
    assert list_looks(other) == (2, [200])
    assert look(200, SUITE.replace("a" * 64, "b" * 64))["parts"]["attempt"]["number"] == 3


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("rows_at_most = 400", "rows_at_most = 150", "rows_at_most is 150, but there are 200 rows already"),
        (f'weights = "sha256:{"a" * 64}"\n', "", 'name its weights = "sha256:…" in [rows.candidate]'),
    ],
)
def test_looks_that_cannot_share_a_risk_are_refused(old: str, new: str, told: str, look: Callable[..., Any]) -> None:
    """More rows than were declared, and a candidate that nothing identifies."""
    assert told in look(200, SUITE.replace(old, new))
