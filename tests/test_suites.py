"""Every suite we ship collects, and the smoke suite runs through to its export."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

import harness
from harness.cli.main import main

ROOT = Path(__file__).parent.parent
SUITES = sorted((ROOT / "suites").glob("*.toml"))


@pytest.mark.parametrize("suite", SUITES, ids=lambda p: p.stem)
def test_suite_collects(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names, options and data of a shipped suite are right; data of the hub is left for later."""
    assert main(["run", "--collect-only", str(suite)]) == 0
    assert "gates, 0 deselected" in capsys.readouterr().out


def test_every_metric_of_the_shell_suite_is_a_share() -> None:
    """Programs, syntax and F1 of the options are from 0 to 1 on a row, so gates know the range."""
    names: dict[str, Any] = runpy.run_path(str(ROOT / "suites/harnessfile.py"))
    assert {m.name: m.scale for m in names["shell_command"].metrics} == dict.fromkeys(
        ("right_program", "parses", "flag_f1"), "proportion"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_smoke_suite_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real QLoRA training, both merges, every gate, and an export whose bytes are the ones that were gated."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "export"
    run = harness.run(ROOT / "suites/smoke.toml", out=tmp_path / "reports", overrides=(f"export.0.to={out}",))
    assert (run.exit_code, run.problem) == (0, None)
    assert run.exports[0].written
    manifest = json.loads((out / "evidence/manifest.json").read_text("utf-8"))
    assert "model/tokenizer.json" in manifest["files"]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(out / "model")
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    assert tokenizer.chat_template
    assert model.num_parameters() == run.facts["model"]["parameters"]


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_smoke_suite_in_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was trained has the metrics of one process in two; nothing that it is asked is remembered."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))

    def measured(on: str) -> dict[str, dict[str, float]]:
        run = harness.run(ROOT / "suites/smoke.toml", out=tmp_path / "reports", export=False, cache=False, on=on)
        assert (run.exit_code, run.problem) == (0, None)
        assert all(report.cache_hits == 0 for report in run.results)
        return {f"{report.subject}::{report.eval}": report.metrics for report in run.results}

    here = measured("")
    assert {"base", "adapter", "merged-original"} <= {name.partition("::")[0] for name in here}
    assert measured("local:2") == here


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_training_that_changes_nothing_is_not_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A learning rate of zero stops before training; made to go on, the adapter did not move: exit 1, no export."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    overrides = (f"export.0.to={tmp_path / 'export'}", "train.learning_rate=0.0", "train.max_steps=2")
    run = harness.run(ROOT / "suites/smoke.toml", out=tmp_path / "reports", overrides=overrides)
    assert (run.exit_code, {"D14", "D24"} <= {flag.code for flag in run.findings}) == (4, True)
    ignored = ("D14", "D24", "T8")
    run = harness.run(ROOT / "suites/smoke.toml", out=tmp_path / "reports", overrides=overrides, ignore=ignored)
    assert (run.exit_code, run.findings[-1].code) == (1, "T1")
    assert not run.exports[0].written
    assert not (tmp_path / "export").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_init_writes_a_project_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`harness init` writes a project that runs as it is, its own evaluator included."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine"]) == 0
    assert main(["run", "mine/suite.toml", "-q"]) == 0
    assert (tmp_path / "exports/qa/model/model.safetensors").is_file()
