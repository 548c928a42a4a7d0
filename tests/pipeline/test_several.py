"""Several candidates in one run: ranked on select rows, the best one confirmed as if it were alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from harness import Metric
from harness.pipeline.model_selection import Contender, select_best
from harness.records.metrics import Better
from harness.testing import SUITE, Project, write_fake
from tests.helpers.suites import read_ledger

SELECT = [{"id": f"s{i}", "input": f"select {i} say s{i}", "target": f"s{i}", "kind": "a"} for i in range(60)]
SUITE_SELECT = SUITE.replace('data = "test.jsonl"\n', 'data = "test.jsonl"\nselect = "select.jsonl"\n')


@pytest.fixture
def several(suite: Project) -> Project:
    """A project with select rows and the candidates "weak", "good" and "best"."""
    for name, skill in (("weak", 0.2), ("good", 0.8), ("best", 0.95)):
        write_fake(suite.folder / name, skill)
    return suite.write({"suite.toml": SUITE_SELECT, "select.jsonl": SELECT})


def make_candidate_words(*names: str) -> list[str]:
    """Return the arguments that name candidates."""
    return [word for name in names for word in ("--candidate", name)]


@pytest.mark.parametrize("better", ["higher", "lower"])
@pytest.mark.parametrize("places", [(math.nan, 0.3), (0.3, math.nan), (math.nan, 0.3, math.nan)])
def test_what_was_not_measured_is_never_the_best(better: Better, places: tuple[float, ...]) -> None:
    """Wherever it stands; of those alone that were not measured it is the first."""
    found = [Contender(str(i), value, passed=3) for i, value in enumerate(places)]
    metric = Metric("acc", better, "proportion")
    assert select_best(found, metric).value == 0.3
    assert select_best([one for one in found if math.isnan(one.value)], metric) is next(
        c for c in found if c.value != 0.3
    )


@pytest.mark.slow
def test_best_of_several_is_confirmed_and_the_others_are_told(several: Project) -> None:
    """All are measured on select rows, the best alone meets the rows that confirm, and one attempt is counted."""
    outcome = several.run(*make_candidate_words("weak", "best", "good"))
    assert outcome.code == 0, outcome.out + outcome.err
    exported = several.folder / "exports/fake/model/model.safetensors"
    assert exported.read_bytes() == (several.folder / "best/model.safetensors").read_bytes()
    [told] = [line for line in outcome.report.conclusions if "candidates" in line]
    assert (
        "of 3 candidates best was chosen on selection rows, by gates passed and then qa.exact_match (60 rows)"
    ) in told
    assert "weak 0 of 1 gates, 0.250; best 1 of 1 gates, 0.967; good 1 of 1 gates, 0.750" in told
    assert [(line["role"], line["attempt"]) for line in read_ledger(several)] == [("merged", 1)]
    reports = [json.loads(p.read_text("utf-8")) for p in sorted(several.folder.glob("reports/*/report.json"))]
    assert sorted(report["selecting"] for report in reports) == [False, True, True, True]


@pytest.mark.slow
def test_confirmed_one_is_judged_as_if_alone(several: Project) -> None:
    """The verdicts of the best of several are those of a run of it alone."""
    among = several.run(*make_candidate_words("weak", "best")).report
    alone = several.run(*make_candidate_words("best")).report
    assert [(v.gate, v.why, v.attempt) for v in among.verdicts] == [(v.gate, v.why, v.attempt) for v in alone.verdicts]


@pytest.mark.slow
def test_gates_passed_go_before_the_number(several: Project) -> None:
    """One that passes more gates is chosen, though another has the better number on the first gate's rows."""
    gate = '\n[[eval]]\nname = "again"\nuse = "exact_match"\ndata = "test.jsonl"\nselect = "odd.jsonl"\n'
    gate += '\n[[gate]]\nid = "second"\nmetric = "again.exact_match"\nmax = 0.9\n'
    rows = [{"id": f"o{i}", "input": f"odd {i} say o{i}", "target": f"o{i}"} for i in range(60)]
    several.write({"suite.toml": SUITE_SELECT + gate, "odd.jsonl": rows})
    outcome = several.run(*make_candidate_words("best", "good"), "--no-export")
    assert "candidates good was chosen" in outcome.out
    assert "best 1 of 2 gates, 0.967; good 2 of 2 gates, 0.750" in outcome.out


def test_nothing_is_confirmed_where_nothing_can_be_chosen(several: Project) -> None:
    """Without select rows, or without a gate on them, several candidates are one clear line."""
    several.write({"suite.toml": SUITE})
    outcome = several.run(*make_candidate_words("good", "best"))
    assert (
        outcome.code,
        ('several candidates need an eval with select rows; add select = "data/select.jsonl" to one') in outcome.err,
    ) == (4, True)
    several.write({"suite.toml": SUITE_SELECT.replace("min = 0.5", 'min = 0.5\nseverity = "warn"')})
    outcome = several.run(*make_candidate_words("good", "best"))
    assert (
        outcome.code,
        "several candidates need a blocking gate on an eval with select rows; add one" in outcome.err,
    ) == (4, True)
    outcome = several.run(*make_candidate_words("good", "best"), "--select")
    assert (
        outcome.code,
        ("--select: several candidates are evaluated on selection rows anyway; remove --select, or give one candidate")
        in outcome.err,
    ) == (4, True)
    assert not list(several.folder.glob("reports/*"))


@pytest.mark.slow
def test_two_candidates_that_are_one_are_told(several: Project) -> None:
    """The same path, a copy of the same weights, and an adapter with another base named are each one candidate."""
    write_fake(several.folder / "copy", 0.8)
    (several.folder / "copy/README.md").write_text("mine", "utf-8")
    for other in ("good", "good/", "copy"):
        outcome = several.run(*make_candidate_words("good", other))
        assert (outcome.code, f'"{other}": has the same weights as "good"' in outcome.err) == (4, True), outcome.err
        assert outcome.err.count("error: ") == 1
    for name, base, alpha in (("a", "x", 16), ("b", "y", 16), ("c", "x", 32)):
        write_fake(several.folder / name, 0.8)
        config = {"base_model_name_or_path": base, "lora_alpha": alpha}
        (several.folder / name / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    assert "has the same weights as" in several.run(*make_candidate_words("a", "b")).err
    assert "has the same weights as" not in several.run(*make_candidate_words("a", "c")).err


def test_broken_one_among_several_ends_the_run(several: Project) -> None:
    """A candidate that cannot be opened ends the run before another is measured, and nothing ships."""
    (several.folder / "empty").mkdir()
    outcome = several.run(*make_candidate_words("empty", "good"))
    assert (outcome.code, '": there is no model' in outcome.err) == (4, True)
    assert not (several.folder / "exports").exists()
    assert not Path(several.folder / "cache/attempts.jsonl").exists()
