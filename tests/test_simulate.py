"""The simulation behind docs/explanation/statistics-*.md judges as the gates do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import dependence_rates, draws, seed_rates, simulate
from harness.gates.decide import decide
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.samples import Result, Sample, Score
from harness.stats import crossed, hypothesis_tests, ratio

ALPHA = 0.05
EXPLANATION = Path(__file__).parent.parent / "docs/explanation"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("share", "1-12"),
        ("share", "zipf"),
        ("pairs", "1-12"),
        ("pairs", "pareto"),
        ("score", "rare disasters, 2 % are 0"),
        ("score", "difference"),
        ("ratio", "lognormal(0.8)"),
        ("ratio", "Pareto(1.5)"),
    ],
)
def test_many_runs_at_once_are_judged_as_one_gate_is(kind: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows expanded from the simulated sums get the same p-values from `stats.cluster_t`, of as many resamples."""
    monkeypatch.setattr(ratio, "DECIDED_ERRORS", -1.0)
    rng = np.random.default_rng(0)
    if kind == "share":
        draw = draws.make_share_draw(rng, 12, 0.9, 0.3, what)
    elif kind == "pairs":
        draw = draws.make_pairs_draw(rng, 12, 0.2, -0.05, 0.3, what)
    elif kind == "ratio":
        draw = draws.make_perplexity_draw(rng, 40, "very skewed, lognormal(0.8)", what)
    else:
        draw = (
            draws.make_difference_draw(rng, 40, 0.95) if what == "difference" else draws.make_score_draw(rng, 40, what)
        )
    data = draw(30)
    of = ratio.estimate_ratio(data.sums, data.weights)
    found = simulate.judge(data, of, kind)(data.truth - 0.03)
    support = {"share": (0.0, 1.0), "pairs": (-1.0, 1.0), "score": data.support, "ratio": None}[kind]
    for run in range(30):
        values, weights, clusters = rows(data, run, kind)
        test = hypothesis_tests.cluster_t(values, weights, clusters, data.truth - 0.03, ALPHA, support=support)
        assert (test.p_pass, test.p_fail) == pytest.approx((found[0][run], found[1][run]), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [True, False])
def test_crossed_runs_are_judged_as_one_gate_is(pairs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in documents and questions get the same p-values from `stats.crossed_t`, of as many resamples."""
    monkeypatch.setattr(ratio, "DECIDED_ERRORS", -1.0)
    rng = np.random.default_rng(2)
    first, second = dependence_rates.draw_shared_questions(rng, 20, 5, 0.3, 4)
    drawn = list[np.ndarray]()
    monkeypatch.setattr(crossed, "crossed_mean", _record_first_arguments(crossed.crossed_mean, drawn))
    data = dependence_rates.make_crossed_draw(rng, first, second, (0.7, 1.0), 0.2, pairs=pairs)(8)
    found = dependence_rates.p_values(data, data.truth - 0.03)
    for run, values in enumerate(drawn[0]):
        about = {"support": (-1.0, 1.0) if pairs else (0.0, 1.0)}
        clusters = [first.tolist(), second.tolist()]
        test = hypothesis_tests.crossed_t(values.tolist(), [1.0] * 100, clusters, data.truth - 0.03, ALPHA, **about)
        assert (test.p_pass, test.p_fail) == pytest.approx((found[0][run], found[1][run]), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("clusters", [0, 20])
def test_recipes_are_judged_as_one_gate_is(clusters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of seeds that are drawn pass where a gate of the recipe passes on their rows, of as many resamples."""
    monkeypatch.setattr(ratio, "DECIDED_ERRORS", -1.0)
    rng, metric = np.random.default_rng(8), Metric("acc", "higher", "proportion")
    gate = Gate("g", "qa.acc", versus="base", worse_by_at_most=0.05, of="recipe")
    data = seed_rates.make_scored_draw(rng, 4, 100, 0.8, 0.05, 0.02, better=0.08, clusters=clusters)(30)
    clustered = [None if data.clusters is None else str(c) for c in (data.clusters if clusters else range(100))]
    samples = [Sample(str(i), cluster=c) for i, c in enumerate(clustered)]

    def result(name: str, values: np.ndarray) -> Result:
        return Result(name, "qa", tuple(Score(str(i), {"acc": float(v)}) for i, v in enumerate(values)), {}, name)

    proven = seed_rates.is_proven(data, 0.05)
    for run, expected in enumerate(proven):
        first, *others = (result(f"seed {i}", values) for i, values in enumerate(data.seeds[run]))
        ours, base = replace(first, other_runs=tuple(others)), result("base", data.baseline[run, 0])
        assert (decide(gate, metric, ours, base, samples, ALPHA, name="m").outcome == "PASS") == expected
    assert 5 < proven.sum() < 25


def _record_first_arguments(function: Callable[..., Any], seen: list[np.ndarray]) -> Callable[..., Any]:
    """Return a function that keeps the first argument of every call."""

    def call(values: np.ndarray, *rest: Any) -> Any:
        seen.append(values)
        return function(values, *rest)

    return call


def rows(data: object, run: int, kind: str) -> tuple[list[float], list[float], list[int] | None]:
    """Return values, weights and clusters that add up to the sums of one run."""
    sums, weights = data.sums[run], data.weights[run]  # type: ignore[attr-defined]
    if kind in ("score", "ratio"):
        return (sums / weights).tolist(), weights.tolist(), None
    changed = data.changed[run] if kind == "pairs" else sums  # type: ignore[attr-defined]
    values: list[float] = []
    clusters: list[int] = []
    for c, (total, size, differ) in enumerate(zip(sums, weights, changed, strict=True)):
        up = int((differ + total) / 2) if kind == "pairs" else int(total)
        down = int(differ) - up if kind == "pairs" else 0
        values += [1.0] * up + [-1.0] * down + [0.0] * int(size - up - down)
        clusters += [c] * int(size)
    return values, [1.0] * len(values), clusters


@pytest.mark.slow
def test_a_cell_finds_what_is_wrong_with_the_plain_t() -> None:
    """40 clusters, a share of 0.95: the plain t passes over 8 % of the time, the gate's test at most 1.2 alpha."""
    found = simulate.simulate_cell(
        "", draws.make_share_draw(np.random.default_rng(1), 40, 0.95, 0.1, "1-12"), 2000, "share"
    )
    assert found.plain[0] > 8
    assert found.passed < 6
    assert found.blocked < 6
    assert 20 < found.power <= 100


@pytest.mark.parametrize("name", simulate.PAGES)
def test_tables_are_written_between_their_marks(name: str, tmp_path: Path) -> None:
    """What people wrote around the tables stays, and the page's own tables written again are the page."""
    text = (EXPLANATION / name).read_text("utf-8")
    assert text.count(simulate.START) == text.count(simulate.END) == 1
    tables = text.partition(simulate.START)[2].partition("\n" + simulate.END)[0]
    page = tmp_path / name
    page.write_text(text, "utf-8")
    simulate.write_tables(page, tables)
    assert page.read_text("utf-8") == text
    simulate.write_tables(page, "\nnew\n")
    assert page.read_text("utf-8") == text.replace(tables, "\nnew\n")


def test_rates_over_the_bar_are_bold() -> None:
    """A table's line has the rate, the power, and what a plain t would have done."""
    assert "".join(simulate.table("t", [simulate.Cell("x", 6.5, 5.0, (1.0, 2.0), 80.0, 81.0)])).endswith(
        "| x | **6.5** | 5.0 | 1.0 / 2.0 | 80 | 81 |\n"
    )


@pytest.mark.slow
def test_every_table_of_a_quick_part_is_on_its_page() -> None:
    """The exact tables, which no chance is in, come out as the page has them."""
    rows = (EXPLANATION / "statistics-rows.md").read_text("utf-8")
    exact = "".join(simulate.exact_page(np.random.default_rng(17), 0))
    assert exact in rows


APPROXIMATE = ("Perplexity", "Sign flips", "Macro-F1", "Means without a range")  # sections of means without a range


def iterate_false_pass_rates() -> Iterator[tuple[bool, float]]:
    """Yield of every simulated cell of a gate's test whether its risk is approximate, and its rate of false passes."""
    for page in sorted(EXPLANATION.glob("statistics-*.md")):
        for section in re.split(r"(?m)^## ", page.read_text("utf-8"))[1:]:
            heads: list[str] = []
            for line in section.splitlines():
                cells = [cell.strip().strip("*") for cell in line.strip("|").split("|")] if line[:1] == "|" else []
                for head, cell in zip(heads, cells, strict=False):
                    every = heads[0] == "false pass, %" and head != heads[0]
                    own = head.startswith(("false pass", "of these pairs: false pass")) and "word" not in head
                    if (rate := re.match(r"\d+\.\d", cell)) and (every or own):
                        yield section.startswith(APPROXIMATE), float(rate[0])
                heads = (heads or cells) if cells else []


def test_readme_has_the_worst_cells() -> None:
    """The sentence on simulated risk names the worst cell that says 5 %, and the worst approximate one beside it."""
    cells = [*iterate_false_pass_rates()]
    assert len(cells) > 500
    worst = {kind: max(rate for approximate, rate in cells if approximate is kind) for kind in (False, True)}
    text = (EXPLANATION.parent.parent / "README.md").read_text("utf-8")
    assert f"a stated risk of 5 % was at most {worst[False]:g} %" in text
    assert f"marked `approximate`, it reached [{worst[True]:g} %]" in text
    assert worst[False] <= 6.0


def test_the_page_has_the_point_rules_cells() -> None:
    """The page compares the rule without a test with the gate."""
    text = (EXPLANATION / "paired-rows.md").read_text("utf-8")
    assert "| 0.35 | 12.7 | 25.5 | 0.9 |" in text and "| 0.10 | 1.4 | 10.4 | 0.1 |" in text


def test_a_page_repeats_the_rates_of_a_sweep() -> None:
    """The rates that "Choose the rank" tells are those of the simulated table."""
    simulated = (EXPLANATION / "statistics-seeds.md").read_text("utf-8").partition("## A sweep between")[2]
    told = (EXPLANATION.parent / "how-to/choose-a-rank.md").read_text("utf-8")
    rates = {
        (row[0], row[1]): (row[2], row[4]) for row in re.findall(r"\| (\d+) \| (\d) " + r"\| ([\d.]+) " * 4, simulated)
    }
    found = re.findall(r"^\| ([\d,]+) \| (\d) points? \| ([\d.]+) % \| ([\d.]+) % \|$", told, re.MULTILINE)
    assert len(found) == 4
    for rows, spread, alone, seeds in found:
        assert (alone, seeds) == rates[rows.replace(",", ""), spread]
