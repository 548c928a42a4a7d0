"""`harness plan BASE CANDIDATE`: what two scored runs can prove, and never which side is ahead."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from harness.cli.main import main
from harness.planning.pair_forecast import forecast_pair
from harness.records.metrics import Metric
from harness.records.samples import Sample, Score
from harness.stats import crossed, power
from harness.stats.arrays import Floats

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


def test_rows_without_a_score_stop_the_gate(pair: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """What the other rows could prove is not proven without them, so it is said that the gate needs them."""
    text = Path(pair[1]).read_text("utf-8").replace("r7,0.0", "r7,")
    Path(pair[1]).write_text(text, "utf-8")
    assert main(["plan", *pair, *CLAIM]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "rows: 199 pairs" in told and "left out: 1 row has no score on one side or both; harness gate" in told
    assert main(["gate", *pair, *CLAIM, "--worse-by-at-most", "0.5", "--out", f"{Path(pair[0]).parent}/reports"]) == 6


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
    assert f"{candidate} --worse-by-at-most X --higher --scale proportion --id id --score score" in told


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([1.0], "1 row has a score on both sides; two or more are needed"),
        ([1.0, 0.0, 1.0], "no row differs"),
    ],
)
def test_too_little_is_said(rows: list[float], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One row, and rows that are all alike, prove nothing that could be told."""
    one, other = (write_rows(tmp_path / name, rows) for name in ("a.csv", "b.csv"))
    main(["plan", one, other, *CLAIM, "--allow", "identical"])
    out = capsys.readouterr()
    assert says in out.out + out.err


@pytest.mark.slow
def test_clusters_that_cross_cost_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With documents and prompts that both vary, less is proven than with either alone, and as much as the gate can."""
    draw = np.random.default_rng(4)

    def draw_rights() -> Floats:  # (documents, prompts)
        shared = draw.normal(0, 0.8, (30, 1)) + draw.normal(0, 0.8, (1, 30))
        return (shared + draw.normal(0, 0.6, (30, 30)) + 1 > 0).astype(float)

    places = [(d, p) for d in range(30) for p in range(30)]
    drawn = {name: draw_rights() for name in ("base", "candidate")}
    margins = []
    for clusters in (["doc"], ["prompt"], ["doc", "prompt"]):
        for (
            name,
            rights,
        ) in drawn.items():  # a column that repeats would be a cluster
            rows = [{"id": f"{d}-{p}", "doc": f"d{d}", "prompt": f"p{p}", "score": rights[d, p]} for d, p in places]
            columns = ["id", *clusters, "score"]
            lines = [",".join(str(row[column]) for column in columns) for row in rows]
            (tmp_path / f"{name}.csv").write_text("\n".join([",".join(columns), *lines]), "utf-8")
        words = [word for name in clusters for word in ("--cluster", name)]
        assert main(["plan", *(str(tmp_path / f"{n}.csv") for n in ("base", "candidate")), *CLAIM, *words]) == 0
        margins.append(float(re.findall(r"worse by at most (0\.\d+)", capsys.readouterr().out)[0]))
    assert margins[2] > 1.15 * max(margins[:2])
    passed, (documents, prompts) = 0, ([str(part) for part in parts] for parts in zip(*places, strict=True))
    for _ in range(30):
        differences = (draw_rights() - draw_rights()).ravel()
        test = crossed.crossed_t(
            differences, np.ones(900), [documents, prompts], -margins[2], 0.05, support=(-1.0, 1.0)
        )
        passed += test.p_pass <= 0.05
    assert binom.cdf(passed, 30, 0.8) > 1e-3 and binom.sf(passed - 1, 30, 0.8) > 1e-3
