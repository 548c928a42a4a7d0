"""The tutorial's gates keep their risk on its rows: 40 tickets of five messages that are right or wrong together."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binom, multinomial

from harness.gates.decide import decide
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.samples import Result, Sample, Score
from harness.records.verdicts import Outcome

PAGE = (Path(__file__).parents[2] / "docs/tutorial.md").read_text("utf-8")
ACC = Metric("acc", "higher", "proportion")
TICKETS, EACH = 40, 5


def read_page_file(name: str) -> str:
    """Return a file that the page has its reader write."""
    found = re.search(rf"<!-- file: {re.escape(name)} -->\n```\w+\n(.*?)```", PAGE, re.S)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """The rows that confirm, as the page's script writes them."""
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "tickets.py").write_text(read_page_file("tickets.py"), "utf-8")
    subprocess.run([sys.executable, "tickets.py", "--by-opening"], cwd=folder, check=True)
    with (folder / "tickets.csv").open(encoding="utf-8", newline="") as file:
        return [*csv.DictReader(file)][600:]


def read_suite() -> dict[str, Any]:
    return tomllib.loads(read_page_file("suite.toml"))


def does_gate_pass(gate: dict[str, Any], samples: list[Sample], ours: list[int], theirs: list[int]) -> bool:
    """Return whether a gate passes where so many whole tickets are right."""

    def result(name: str, right: list[int]) -> Result:
        each = dict(zip(dict.fromkeys(s.cluster for s in samples), right, strict=True))
        scores = tuple(Score(s.id, {"acc": float(each[s.cluster])}) for s in samples)
        return Result(name, "team", scores, {}, name)

    claim = Gate(**gate)
    base = result("fewshot", theirs) if claim.versus else None
    return decide(claim, ACC, result("merged", ours), base, samples, 0.05, name="merged").outcome is Outcome.PASS


@pytest.fixture(scope="module")
def samples(rows: list[dict[str, str]]) -> list[Sample]:
    """The rows with the cluster that the page's suite declares."""
    (spec,) = read_suite()["eval"]
    return [Sample(str(i), cluster=row[spec["cluster"]]) for i, row in enumerate(rows)]


def test_the_cluster_is_declared(samples: list[Sample]) -> None:
    """Each ticket has five of the 200 rows, and is one cluster."""
    assert len(samples) == TICKETS * EACH
    assert len({s.cluster for s in samples}) == TICKETS


def test_the_floor_passes_a_model_on_it_seldom(samples: list[Sample]) -> None:
    """Summed over how many tickets are right, each with the chance of the floor: at most 6 % pass."""
    gate = read_suite()["gate"][0]
    floor, risk = gate["min"], 0.0
    for right in range(TICKETS + 1):
        if does_gate_pass(gate, samples, [1] * right + [0] * (TICKETS - right), []):
            risk += float(binom.pmf(right, TICKETS, floor))
    assert 0 < risk <= 0.06


@pytest.mark.parametrize("discordance", [0.1, 0.2, 0.3])
def test_the_margin_passes_a_model_on_it_seldom(samples: list[Sample], discordance: float) -> None:
    """Summed over tickets won and lost against ten-shot prompting, by a model that is better by the margin alone."""
    gate = read_suite()["gate"][1]
    won, lost = ((discordance + sign * gate["better_by"]) / 2 for sign in (1, -1))
    risk = 0.0
    for losses in range(TICKETS + 1):
        if binom.pmf(losses, TICKETS, lost) < 1e-6:
            continue
        for wins in range(TICKETS - losses, -1, -1):  # fewer wins prove no more than more
            ours, theirs = [1] * wins + [0] * losses, [0] * wins + [1] * losses
            same = [1] * (TICKETS - wins - losses)
            if not does_gate_pass(gate, samples, ours + same, theirs + same):
                break
            risk += float(multinomial.pmf([wins, losses, len(same)], TICKETS, [won, lost, 1 - won - lost]))
    assert 0 < risk <= 0.06


def test_rows_taken_for_independent_would_pass_it_often() -> None:
    """Without the cluster a quarter of the models on the floor pass: 26.3 %, summed exactly."""
    gate = read_suite()["gate"][0]
    fewest = next(k for k in range(201) if binom.sf(k - 1, 200, gate["min"]) <= 0.05)
    risk = binom.sf(-(-fewest // EACH) - 1, TICKETS, gate["min"])
    assert risk == pytest.approx(0.263, abs=0.001)
