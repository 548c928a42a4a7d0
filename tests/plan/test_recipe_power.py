"""What seeds buy: the power of a gate of a recipe, as its test is drawn and as `harness plan` prints it."""

from __future__ import annotations

import numpy as np
import pytest

from bench import seed_rates
from harness.planning.recipe_power import RecipeRows, SeedSpread, estimate_spread
from harness.testing import ROWS, SUITE, TRAIN, Project

GATE = '\n[[gate]]\nid = "recipe"\nmetric = "qa.exact_match"\nversus = "base"\nbetter_by = 0.1\nof = "recipe"\n'


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("spread", [0.01, 0.02])
def test_power_is_that_of_drawn_rows_and_seeds(rate: float, spread: float) -> None:
    """Within 5 points and twice the error of 1,500 draws, which is 2.6."""
    rng, better = np.random.default_rng(6), 0.05 if rate > 0.5 else 0.07
    draw = seed_rates.make_scored_draw(rng, 5, 300, rate, 0.02, spread, better=better)
    data = [draw(250) for _ in range(6)]
    drawn = float(np.mean([seed_rates.is_proven(one, 0.02) for one in data]))
    rows = data[0].seeds - data[0].baseline
    luck = float(np.mean([one.luck for one in map(estimate_spread, rows[:50]) if one]))
    own = RecipeRows(float(rows.var(-1).mean()), 300, 300, 5, SeedSpread(spread, luck), rate, paired=True)
    assert own.power(better - 0.02, -0.02, 0.05) == pytest.approx(drawn, abs=0.076)


def test_spread_is_estimated_without_the_luck_of_rows() -> None:
    """Equal recipes whose runs only differ on single rows have no spread; a shift of whole runs is one."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal((1, 2000)) + rng.standard_normal((5, 2000))
    equal, shifted = estimate_spread(values), estimate_spread(values + np.array([[-2.0], [-1], [0], [1], [2]]))
    assert equal and shifted
    assert equal.spread < 0.05 and equal.luck == pytest.approx(0.5, abs=0.05)
    assert shifted.spread == pytest.approx(2.5**0.5, abs=0.05)
    assert estimate_spread(values[:1]) is None


@pytest.mark.slow
def test_plan_prints_what_seeds_and_rows_buy(project: Project) -> None:
    """Before a run spreads are assumed, after it they are as its runs lay apart."""
    seeds = 'data = "train.jsonl"\nseeds = [1, 2, 3, 4]\nspread = 0.1\n'
    text = SUITE.replace('data = "train.jsonl"\n', seeds) + GATE
    project.write({"suite.toml": text, "test.jsonl": ROWS, "train.jsonl": TRAIN})
    words = ("plan", str(project.folder / "suite.toml"), "--out", str(project.folder / "reports"))
    before = project.harness(*words)
    assert before.code == 0, before.err
    assert 'power of "recipe" if it is' in before.out
    for spread in ("1 point", "2 points"):
        assert f"standard deviation of runs over seeds: {spread}, assumed" in before.out
    table = before.out.partition("  seeds  60 rows")[2].splitlines()[1:5]
    assert [line.split()[0] for line in table] == ["3", "4", "5", "8"]
    assert "4 seeds: 4 trainings; the first ships" in before.out
    assert "merged-seed-3: to be created" in before.out
    assert project.run("--no-export").code == 0
    after = project.harness(*words).out
    assert "points, as in 2" in after and "assumed, by" not in after
    assert "merged-seed-3: exists" in after
