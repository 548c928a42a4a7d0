"""Logs that lm_eval, Inspect, promptfoo and deepeval wrote: verdicts equal a computation of a few lines of its own.

`tests/fixtures/rows/make_*` made the files; here they are parsed by json alone.
"""

from __future__ import annotations

import gzip
import json
import math
import statistics
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness import GateResult, UsageError, gate
from harness.rows.readers import read_run_rows
from harness.rows.records import Wanted

LOGS = Path(__file__).parent.parent / "fixtures" / "rows"
GROUP, INSPECT = LOGS / "lm_eval_group-0.4.13", LOGS / "inspect-0.3.285"
PROMPTFOO, DEEPEVAL = LOGS / "promptfoo-0.123.1" / "two_providers.json.gz", LOGS / "deepeval-4.3.1" / "pair"
Scores = dict[str, float]


@pytest.fixture(autouse=True)
def _own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))


def fit(won: int, lost: int, n: int, limit: float) -> float:
    """Return the share of lost rows where the difference is the limit: Tango 1998, Statistics in Medicine 17:891."""
    b, c = -won - lost + (2 * n - won + lost) * limit, -lost * limit * (1 - limit)
    return max((math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n), -limit, 0.0)


def compute_tango_score(won: int, lost: int, n: int, limit: float) -> float:
    """Return Tango's score."""
    variance = n * (2 * fit(won, lost, n, limit) + limit * (1 - limit))
    distance = won - lost - n * limit
    return distance / math.sqrt(variance) if variance > 1e-12 else math.copysign(math.inf, distance)


def tango_p(won: int, lost: int, n: int, limit: float) -> tuple[float, float]:
    """Return how probable a score as high, and one as low, is at the limit, over every table that there could be."""
    loss = fit(won, lost, n, limit)
    win, seen, high, low = loss + limit, compute_tango_score(won, lost, n, limit), 0.0, 0.0
    for ups in range(n + 1):
        for downs in range(n + 1 - ups):
            ways = math.comb(n, ups) * math.comb(n - ups, downs)
            chance = ways * win**ups * loss**downs * (1 - win - loss) ** (n - ups - downs)
            high += chance if compute_tango_score(ups, downs, n, limit) >= seen - 1e-9 else 0.0
            low += chance if compute_tango_score(ups, downs, n, limit) <= seen + 1e-9 else 0.0
    return high, low


def count_changes(base: Scores, candidate: Scores) -> tuple[int, int, int]:
    """Return the rows that were won and lost, and how many there are."""
    assert base.keys() == candidate.keys()
    ups = [candidate[i] - base[i] for i in base]
    return sum(up > 0 for up in ups), sum(up < 0 for up in ups), len(ups)


def agree(gated: GateResult, base: Scores, candidate: Scores, limit: float) -> None:
    """Assert that a verdict on 0/1 rows is what Tango's score test of these makes it."""
    won, lost, n = count_changes(base, candidate)
    v = gated.verdict
    assert (v.n, v.won_count, v.lost_count) == (n, won, lost)
    assert v.baseline == pytest.approx(statistics.fmean(base.values()))
    assert v.value == pytest.approx(statistics.fmean(candidate.values()))
    p, q = tango_p(won, lost, n, limit)
    assert (v.p_pass, v.p_fail) == (pytest.approx(p, rel=1e-5), pytest.approx(q, rel=1e-5))
    outcome = "PASS" if p <= 0.05 else "FAIL" if q <= 0.05 else "INCONCLUSIVE"
    assert gated.outcome == outcome


def read_lm_eval_scores(side: str, metric: str) -> dict[str, Scores]:
    """Return the scores of each task."""
    found = {}
    for path in sorted((GROUP / side).glob("samples_*")):
        lines = map(json.loads, path.read_text("utf-8").splitlines())
        found[path.name.split("_20")[0].removeprefix("samples_")] = {one["doc"]["id"]: one[metric] for one in lines}
    return found


def read_group_metric(side: str, metric: str) -> float:
    (path,) = (GROUP / side).glob("results_*")
    number: float = json.loads(path.read_text("utf-8"))["groups"]["capitals"][f"{metric},none"]
    return number


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values adjusted for their number, Holm 1979."""
    found, worst = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        worst = found[name] = max(worst, min(1.0, (len(p_values) - rank) * p_values[name]))
    return found


def test_a_whole_run_of_lm_eval_is_gated_by_its_mean() -> None:
    """The mean of the group by size decides; a task fails where Holm refutes its claim."""
    gated = gate(GROUP / "base", GROUP / "candidate", worse_by_at_most=0.05, metric="acc")
    base, candidate = (read_lm_eval_scores(side, "acc") for side in ("base", "candidate"))
    flat = [{f"{task}/{i}": v for task, own in side.items() for i, v in own.items()} for side in (base, candidate)]
    agree(gated, *flat, -0.05)
    assert gated.verdict.value == pytest.approx(read_group_metric("candidate", "acc"), abs=1e-12)
    refuted = {}
    for task, own in base.items():
        won, lost, n = count_changes(own, candidate[task])
        refuted[task] = tango_p(won, lost, n, -0.05)[1]
    adjusted, guards = holm(refuted), gated.run.verdicts[1:]
    assert {v.gate.removeprefix("no-worse on ") for v in guards} == base.keys()
    for v in guards:
        task = v.gate.removeprefix("no-worse on ")
        assert v.p_fail == pytest.approx(refuted[task], rel=1e-5)
        assert (v.outcome == "FAIL", v.blocking) == (adjusted[task] <= 0.05,) * 2
    assert {v.outcome for v in guards} == {"FAIL", "INCONCLUSIVE"}  # of 3 tasks Holm refutes two


def test_a_group_that_weights_its_tasks_alike_keeps_their_weights() -> None:
    """`weight_by_size: false` is a mean of the tasks' means, which a large task does not decide."""
    gated = gate(GROUP / "base", GROUP / "candidate", worse_by_at_most=0.05, metric="capitals:acc_norm")
    each = [
        [statistics.fmean(own.values()) for own in read_lm_eval_scores(s, "acc_norm").values()]
        for s in ("base", "candidate")
    ]
    v = gated.verdict
    assert (v.baseline, v.value) == tuple(pytest.approx(statistics.fmean(means)) for means in each)
    assert v.value == pytest.approx(read_group_metric("candidate", "acc_norm"), abs=1e-12)
    assert v.outcome == "FAIL" and v.estimate == pytest.approx(statistics.fmean(each[1]) - statistics.fmean(each[0]))


def test_a_group_needs_the_same_tasks_and_one_metric(tmp_path: Path) -> None:
    """A task that one side lacks, a number of another run and several metrics are refused."""
    with pytest.raises(UsageError, match=r"has several metrics, acc \(0.725\), acc_norm"):
        gate(GROUP / "base", GROUP / "candidate", worse_by_at_most=0.05)
    for path in (GROUP / "candidate").iterdir():
        if "asia" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    lacking = 'candidate: has no rows of "capitals_asia"; run the same tasks, or name one'
    with pytest.raises(UsageError, match=lacking):
        gate(GROUP / "base", tmp_path, worse_by_at_most=0.05, metric="acc")
    with pytest.raises(UsageError, match='group "capitals" has no rows of its task "capitals_asia"'):
        gate(GROUP / "base", tmp_path, worse_by_at_most=0.05, metric="capitals:acc")
    one = gate(GROUP / "base", tmp_path, worse_by_at_most=0.05, metric="capitals_africa:acc")
    agree(
        one,
        read_lm_eval_scores("base", "acc")["capitals_africa"],
        read_lm_eval_scores("candidate", "acc")["capitals_africa"],
        -0.05,
    )


def read_inspect_scores(side: str, scorer: str) -> dict[str, list[float]]:
    """Return what each sample got in each epoch; members are compressed by zstd."""
    zstandard = pytest.importorskip("zstandard")
    found: dict[str, list[float]] = {}
    path = INSPECT / f"two_scorers_{side}.eval"
    with zipfile.ZipFile(path) as log:
        for info in (one for one in log.infolist() if one.filename.startswith("samples/")):
            data = path.read_bytes()[info.header_offset + 30 + len(info.filename) :]
            sample = json.loads(zstandard.ZstdDecompressor().decompressobj().decompress(data[: info.compress_size]))
            value = sample["scores"][scorer]["value"]
            found.setdefault(sample["id"], []).append(float(value in ("C", "yes")))
    return found


@pytest.mark.parametrize("scorer", ["match", "words"])
def test_each_scorer_of_inspect_is_a_metric_over_means_of_epochs(scorer: str) -> None:
    """A sample counts as the mean of its epochs, in a paired t test."""
    paths = [INSPECT / f"two_scorers_{side}.eval" for side in ("base", "candidate")]
    base, candidate = (
        {i: statistics.fmean(v) for i, v in read_inspect_scores(s, scorer).items()} for s in ("base", "candidate")
    )
    gated = gate(*paths, worse_by_at_most=0.1, metric=scorer)
    won, lost, n = count_changes(base, candidate)
    v = gated.verdict
    assert (v.n, v.won_count, v.lost_count) == (n, won, lost) == (16, 0, lost) and lost
    ups = [candidate[i] - base[i] for i in base]
    mean, error = statistics.fmean(ups), statistics.stdev(ups) / math.sqrt(n)
    assert v.estimate == pytest.approx(mean)
    t = 1.7530503556925547  # the 95 % point of Student's t with 15 degrees of freedom
    assert v.lower is not None and v.lower <= mean - t * error + 1e-9 and v.outcome == "INCONCLUSIVE"
    with pytest.raises(UsageError, match=r"has several metrics, match \(\S+\), words"):
        gate(*paths, worse_by_at_most=0.1)


def test_two_providers_of_promptfoo_are_a_base_and_a_candidate() -> None:
    """One output, compressed, has both; a setting that differs on purpose is allowed by its name alone."""
    sides = [f"{PROMPTFOO}#{side}" for side in ("base", "candidate")]
    with pytest.raises(
        UsageError, match=r"lost is \[0, 3, 7\] and \[0, 3, 4\]; rerun one of the runs, or allow=\"lost\""
    ):
        gate(*sides, worse_by_at_most=0.05, metric="exact")
    gated = gate(*sides, worse_by_at_most=0.05, metric="exact", allow="lost")
    rows = json.loads(gzip.decompress(PROMPTFOO.read_bytes()))["results"]["results"]
    base, candidate = (
        {r["testCase"]["description"]: r["namedScores"]["exact"] for r in rows if r["provider"]["label"] == side}
        for side in ("base", "candidate")
    )
    agree(gated, base, candidate, -0.05)


def test_two_runs_of_deepeval() -> None:
    """A metric that asks no model, of two runs."""
    gated = gate(DEEPEVAL / "base.json", DEEPEVAL / "candidate.json", worse_by_at_most=0.1)
    cases: Callable[[str], list[Any]] = lambda side: json.loads((DEEPEVAL / f"{side}.json").read_text())["testCases"]  # noqa: E731
    base, candidate = ({c["name"]: c["metricsData"][0]["score"] for c in cases(s)} for s in ("base", "candidate"))
    agree(gated, base, candidate, -0.1)
    assert gated.outcome == "PASS"


def test_of_a_folder_of_inspect_the_newest_log_is_read(tmp_path: Path) -> None:
    """Of several logs of a task and a model the newest is used, and the verdict says so; of two models one is named."""
    for name in ("base", "candidate"):
        (tmp_path / name).mkdir()
        for old in ("base", "candidate"):
            log = INSPECT / f"two_scorers_{old}.eval"
            (tmp_path / name / f"{'z' if old == 'base' else 'a'}.eval").write_bytes(log.read_bytes())
    gated = gate(INSPECT / "two_scorers_base.eval", tmp_path / "candidate", worse_by_at_most=0.1, metric="match")
    assert gated.verdict.lost_count and any("the newest, a.eval, is used" in line for line in gated.run.warnings)


def test_a_folder_of_inspects_json_logs_is_read(tmp_path: Path) -> None:
    """Logs that were written as JSON lie in folders, too, and may be compressed."""
    log = (INSPECT / "json_two_rows.json").read_bytes()
    for name, data in (("plain", log), ("packed", gzip.compress(log))):
        (tmp_path / name).mkdir()
        (tmp_path / name / ("log.json" if name == "plain" else "log.json.gz")).write_bytes(data)
        (tmp_path / name / "notes.json").write_text("{}", "utf-8")
    found = [read_run_rows(str(tmp_path / name), Wanted()).rows for name in ("plain", "packed")]
    assert len(found[0]) == 2 and [*found[0]] == [*found[1]] and found[0][0].input
