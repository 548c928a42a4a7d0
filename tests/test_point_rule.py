"""What docs/explanation says of rules of others: one without a risk, and NeMo Evaluator's."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench import peers, point_rule

ERROR = 4  # standard errors of a simulated rate


@pytest.mark.parametrize(("discordance", "slack"), [(0.2, 0.0), (point_rule.UNRELATED, 0.0), (0.3, 0.02)])
def test_drawn_rows_ship_as_often_as_is_computed(discordance: float, slack: float) -> None:
    """Rows of two models that are drawn and counted give the rate that is summed over all tables."""
    rng, runs, n = np.random.default_rng(0), 40_000, 200
    wins, losses = (discordance - point_rule.WORSE) / 2, (discordance + point_rule.WORSE) / 2
    tables = rng.multinomial(n, [wins, losses, 1 - discordance], size=runs)
    drawn = 100 * np.mean(tables[:, 0] - tables[:, 1] >= -slack * n - 1e-9)
    exact = point_rule.compute_ship_rate(n, discordance, -point_rule.WORSE, slack)
    assert abs(drawn - exact) < ERROR * (exact * (100 - exact) / runs) ** 0.5


def test_unrelated_models_ship_worse_one_time_in_eight() -> None:
    """Of two models, each right by itself on 0.8 and 0.75 of all rows, the worse is not behind on 200 rows 12.7 %."""
    rng = np.random.default_rng(1)
    ours, theirs = (rng.random((20_000, 200)) < p for p in (point_rule.BASE - point_rule.WORSE, point_rule.BASE))
    drawn = 100 * np.mean(ours.sum(axis=1) >= theirs.sum(axis=1))
    exact = point_rule.compute_ship_rate(200, point_rule.UNRELATED, -point_rule.WORSE)
    assert (round(exact, 1), abs(drawn - exact) < 1) == (12.7, True)
    without_ties = point_rule.compute_ship_rate(200, point_rule.UNRELATED, -point_rule.WORSE, -1 / 200)
    assert round(without_ties, 1) == 10.4


@pytest.mark.slow
def test_the_page_has_the_tables() -> None:
    """Both tables are exact, so what the page has is what is computed."""
    assert point_rule.format_tables() in point_rule.PAGE.read_text("utf-8")


@pytest.mark.slow
def test_the_page_has_the_rates_of_peers() -> None:
    """Our rates are computed anew; theirs were recorded in environments of their own, with the version that was run."""
    text = (point_rule.PAGE.parent / "comparison.md").read_text("utf-8")
    own = peers.compute_rates(peers.passes_here)
    for record in json.loads(peers.RECORDS.read_text("utf-8")).values():
        assert peers.format_table(record["name"], record["rates"], own) in text
        assert f"{record['name']} {record['version']}" in text
