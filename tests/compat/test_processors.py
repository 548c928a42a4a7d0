"""A verdict that is recomputed on another processor is the same verdict."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.processor import SETTINGS, make_environment

ROOT = Path(__file__).parents[2]
FILES = [f"{name}-{threads}" for name in ("own", *SETTINGS) for threads in (1, 2)]


def run_in(setting: str, *words: str) -> str:
    """Run the script under a setting such as "avx2-2", two threads as on AVX2, and return what it prints."""
    name, _, threads = setting.rpartition("-")
    variables = {**os.environ, **(make_environment(name) if name in SETTINGS else {}), "OMP_NUM_THREADS": threads}
    command = [sys.executable, "-m", "tests.compat.processors", *words]
    return subprocess.run(command, cwd=ROOT, env=variables, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Verdicts of the same cases, by the setting that they were made under."""
    folder = tmp_path_factory.mktemp("processors")
    paths = {setting: folder / f"{setting}.json" for setting in FILES}
    for setting, path in paths.items():
        run_in(setting, "write", str(path))
    return paths


@pytest.mark.slow
@pytest.mark.xdist_group("processors")
def test_every_processor_decides_alike(written: dict[str, Path]) -> None:
    """Outcomes are equal, and p-values are within a billionth of each other."""
    cases = [json.loads(path.read_text("utf-8")) for path in written.values()]
    for one, other in pairwise(cases):
        assert one.keys() == other.keys()
        for number, gates in one.items():
            for gate, verdict in gates.items():
                assert select_outcome_and_p(verdict) == pytest.approx(
                    select_outcome_and_p(other[number][gate]), rel=1e-9, abs=1e-12
                )


def select_outcome_and_p(verdict: dict[str, Any]) -> dict[str, Any]:
    found = {key: math.nan if verdict[key] is None else verdict[key] for key in ("p_pass", "p_fail")}
    return {verdict["outcome"]: 1.0, **{k: v for k, v in found.items() if not math.isnan(v)}}


@pytest.mark.slow
@pytest.mark.xdist_group("processors")
@pytest.mark.parametrize("setting", FILES)
def test_evidence_of_every_processor_is_verified_on_each(written: dict[str, Path], setting: str) -> None:
    """Verify takes the verdicts that were made under each of the others."""
    others = [str(path) for name, path in written.items() if name != setting]
    assert run_in(setting, "verify", *others) == ""
