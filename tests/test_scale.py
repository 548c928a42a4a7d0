"""The simulation behind docs/how-to/use-many-machines.md, and the measurement beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench import scale
from harness.workers import gpus

PAGE = Path(__file__).parent.parent / "docs/how-to/use-many-machines.md"


@pytest.mark.slow
def test_the_tables_on_paper_are_what_the_simulation_says() -> None:
    """Every line of both is in docs/how-to/use-many-machines.md as it is printed."""
    said = PAGE.read_text("utf-8").splitlines()
    assert [line for line in scale.iterate_table_lines() if line and line not in said] == []


def test_a_replica_that_is_always_full_reaches_all() -> None:
    """One piece of everything wastes its end alone, and replicas share what there is."""
    rows = scale.draw_lengths(20_000)
    assert scale.compute_piece_seconds([10] * scale.SLOTS) == pytest.approx(10 * scale.STEP)
    assert scale.compute_piece_seconds([10] * (scale.SLOTS + 1)) == pytest.approx(20 * scale.STEP)
    assert 0.9 < scale.simulate_throughput(rows, 1, len(rows), len(rows)) <= 1
    assert scale.simulate_throughput(rows, 64, 64, 64) == pytest.approx(scale.simulate_throughput(rows, 1, 64, 64) / 64)


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_the_measurement_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a tiny model: four ways, the last three with the same bits."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(gpus, "NODES", ())
    lines = list(scale.measure("tiny:llama", 2, words=4))
    assert len(lines) == 5
    assert all(line.endswith("the same bits") for line in lines[3:]), lines
