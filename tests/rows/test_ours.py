"""Rows that this harness wrote itself, in lm_eval's layout, come through the door as they went out."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli.main import main
from harness.reports.report_json import read_run
from harness.testing import Project
from harness.texts.json_text import read_json


def test_a_run_of_ours_is_gated_to_the_last_bit(passed: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """The rows of a run give the verdict that the run gave."""
    (folder,) = passed.folder.glob("reports/*")
    verdict = next(v for v in read_run(folder).verdicts if v.gate == "floor")
    name, _, metric = verdict.metric.partition(".")
    capsys.readouterr()
    candidate = next(Path(folder, verdict.candidate).glob(f"samples_{name}_*"))
    main(["gate", str(candidate), "--min", f"{verdict.threshold}", "--metric", f"{name}:{metric}", "--json"])
    (again,) = read_json(capsys.readouterr().out)["run"]["results"][0]["verdicts"]
    same = ("outcome", "value", "estimate", "lower", "upper", "p_pass", "p_fail", "n", "method")
    assert [again[key] for key in same] == [getattr(verdict, key) for key in same]
