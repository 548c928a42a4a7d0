"""`harness plan BASE CANDIDATE`: what two scored runs can prove, and never which side is ahead."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.planning.pair_forecast import forecast_pair
from harness.records.metrics import Metric
from harness.records.samples import Sample, Score
from harness.stats import power

ACC = Metric("acc", "higher", "proportion")
CLAIM = ["--id", "id", "--score", "score"]


def write_rows(path: Path, scores: list[float]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["id", "score"])
        lines.writerows([f"r{i}", score] for i, score in enumerate(scores))
    return str(path)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    """200 rows of which the candidate loses 20 and wins 4."""
    base = [1.0] * 150 + [0.0] * 50
    candidate = [0.0] * 20 + [1.0] * 134 + [0.0] * 46
    return write_rows(tmp_path / "base.csv", base), write_rows(tmp_path / "candidate.csv", candidate)


def test_it_prints_rows_pairs_and_what_could_be_proven(
    pair: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers are those of the exact tests at the discordance of the rows, for an equal candidate."""
    assert main(["plan", *pair, *CLAIM]) == 0
    told = capsys.readouterr().out
    assert "rows: 200 pairs, score" in told
    assert "discordant pairs: 24 (12.0%)" in told
    assert f"about 0: {math.sqrt(0.12):.3g}" in told
    needed = power.search_rows(lambda n: power.pairs_power(0.0, 0.05, 0.12, round(n), 0.05), start=100)
    assert f"0.05: {needed:,}" in told
    assert max(len(line) for line in told.splitlines() if ".csv" not in line) <= 80


def test_it_never_tells_which_side_is_ahead(pair: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """The two files exchanged give the same numbers, in words and in JSON; neither has a mean or a difference."""
    told, documents = [], []
    for sides in (pair, pair[::-1]):
        assert main(["plan", *sides, *CLAIM]) == 0
        told.append([line for line in capsys.readouterr().out.splitlines() if ".csv" not in line])
        assert main(["plan", *sides, *CLAIM, "--json"]) == 0
        documents.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1]
    assert documents[0] == documents[1]
    mean = abs(4 - 20) / 200
    assert f"{mean:g}" not in " ".join(told[0])
    assert documents[0]["discordant"] == 24


def test_what_it_says_is_proven_is_proven() -> None:
    """The margin has a power of 80 % for an equal candidate with as many discordant pairs."""
    samples = [Sample(f"r{i}") for i in range(200)]
    ours = {s.id: Score(s.id, {"acc": float(i % 10 != 0)}) for i, s in enumerate(samples)}
    theirs = {s.id: Score(s.id, {"acc": 1.0}) for s in samples}
    found = forecast_pair(ACC, samples, ours, theirs, 0.05)
    assert found.discordant == 20
    assert power.pairs_power(0.0, float(found.margin), 0.1, 200, 0.05) == pytest.approx(0.8, abs=0.02)
    assert power.pairs_power(float(found.gain), 0.0, 0.1, 200, 0.05) == pytest.approx(0.8, abs=0.02)


def test_few_scores_have_their_ways_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twenty rows of a score say which claim they can prove."""
    base = write_rows(tmp_path / "b.csv", [0.5 + 0.02 * (i % 7) for i in range(20)])
    candidate = write_rows(tmp_path / "c.csv", [0.5 + 0.02 * (i % 5) for i in range(20)])
    assert main(["plan", base, candidate, *CLAIM, "--scale", "proportion", "--higher"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "20 rows prove no margin below 0.14" in told
    assert "worse_by_more_than with on_at_most = 0.14" in told


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([1.0], "1 rows have a score on both sides; two or more are needed"),
        ([1.0, 0.0, 1.0], "no row differs"),
    ],
)
def test_too_little_is_said(rows: list[float], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One row, and rows that are all alike, prove nothing that could be told."""
    one, other = (write_rows(tmp_path / name, rows) for name in ("a.csv", "b.csv"))
    main(["plan", one, other, *CLAIM, "--allow", "identical"])
    out = capsys.readouterr()
    assert says in out.out + out.err
