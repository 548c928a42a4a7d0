"""The layer `gates`: rows of the evidence through a runtime, paired with what the gated model scored on them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.answers import requests
from harness.errors import UsageError
from harness.pipeline.replay import draw_replay_rows
from harness.release.verify import verify_export
from harness.testing import ROWS as SIX
from harness.testing import SUITE, FakeSubject, Project
from harness_served.dialects import find_runtime
from harness_served.layers import gates
from harness_served.parity import DIFFERS, SAME, UNKNOWN, UNPROVEN, LayerVerdict, Parity
from tests.helpers.late import import_late
from tests.helpers.runtimes import Runtime, run_runtime
from tests.helpers.suites import REAL, TEXTS, run_commands

import_late("openai")
ROWS = [{"id": f"q{i}", "input": f"question {i} say w{i}", "target": f"w{i}", "kind": "ab"[i % 2]} for i in range(200)]
PRIVATE = SUITE.replace('slices = ["kind"]', "private = true")


class Answering:
    """A server that is right on a share of the prompts, as the harness's fake model is."""

    url = ""

    def __init__(self, skill: float, refuses: bool = False) -> None:
        self.subject, self.refuses = FakeSubject("served", skill), refuses

    def reply(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/v1/models":
            return 200, {"data": [{"id": "small"}]}
        if path != "/v1/completions" or (self.refuses and body["max_tokens"] > 1):
            return 404, {"detail": "Not Found"}
        said = self.subject.generate([body["prompt"]])[0]
        return 200, {"choices": [{"text": said, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3}}


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a suite of 200 rows that passed, and its export."""
    return run_commands(tmp_path_factory.mktemp("gates"), "run suite.toml -q", suite=SUITE, files={"test.jsonl": ROWS})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait little between tries."""
    monkeypatch.setattr(requests, "FIRST_PAUSE_SECONDS", 0.01)


def look(folder: Path, skill: float, rows: int = 200, suite: str = "suite.toml", **how: Any) -> LayerVerdict:
    """Ask rows of the export's suite through a server, and return what the layer says."""
    with run_runtime(Answering(skill, **how)) as served:  # type: ignore[arg-type]  # it replies
        drawn = draw_replay_rows(verify_export(folder / "exports/fake"), folder / suite, rows, 3, ["harness.testing"])
        return gates.compare_gates(Parity(find_runtime(served.url), None, "float32", again=drawn))  # type: ignore[arg-type]


@pytest.fixture
def folder(once: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder, and the process in it."""
    monkeypatch.chdir(once)
    monkeypatch.setenv("HARNESS_CACHE", str(once / "cache"))
    return once


def read_skill(folder: Path) -> float:
    return float(json.loads((folder / "exports/fake/model/skill.json").read_text("utf-8"))["skill"])


@pytest.mark.slow
def test_rows_that_are_answered_as_by_the_gated_model_are_the_same(folder: Path) -> None:
    """With 200 rows of which none is worse, 3 points are excluded at 1 %."""
    found = look(folder, read_skill(folder))
    assert found.verdict == SAME
    assert "qa.exact_match, 200 rows: 0 worse, 0 better; worse than evidence by at most 0.03" in found.reason
    assert found.numbers["qa.exact_match rows"] == 200


@pytest.mark.slow
def test_fewer_rows_prove_nothing_and_say_how_many_would(folder: Path) -> None:
    """The same answers on 50 rows leave 3 points possible."""
    found = look(folder, read_skill(folder), rows=50)
    assert found.verdict == UNPROVEN
    assert "50 rows: 0 worse, 0 better" in found.reason


@pytest.mark.slow
def test_a_worse_model_behind_the_address_differs(folder: Path) -> None:
    """Which rows it loses is counted against the evidence, row by row."""
    found = look(folder, 0.3)
    assert found.verdict == DIFFERS
    assert found.numbers["qa.exact_match worse"] > 40
    assert found.numbers["qa.exact_match better"] == 0


@pytest.mark.slow
def test_the_narrowest_margin_of_a_gate_is_taken(folder: Path) -> None:
    """A gate of the deployer's suite that allows one point is not met by 200 rows; one of ten is met by 50."""
    for margin, verdict in ((0.01, UNPROVEN), (0.1, SAME)):
        gate = f'[[gate]]\nid = "near"\nmetric = "qa.exact_match"\nversus = "base"\nworse_by_at_most = {margin}\n'
        (folder / "other.toml").write_text(SUITE + gate, "utf-8")
        assert look(folder, read_skill(folder), rows=60, suite="other.toml").verdict == verdict


def test_what_is_not_answered_cannot_be_seen(folder: Path) -> None:
    """A server that refuses the rows proves nothing, and the reason is told."""
    found = look(folder, 1.0, refuses=True)
    assert found.verdict == UNKNOWN
    assert "HTTP 404" in found.reason


def test_without_a_suite_nothing_is_asked(folder: Path) -> None:
    """Rows are not in an export; they come from the deployer's suite."""
    with run_runtime(Answering(1.0)) as served:  # type: ignore[arg-type]
        found = gates.compare_gates(Parity(find_runtime(served.url), None, "float32"))  # type: ignore[arg-type]
    assert (found.verdict, "--suite" in found.reason) == (UNPROVEN, True)


@pytest.mark.slow
def test_private_rows_have_no_scores_to_be_paired_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of them evidence holds digests alone."""
    run_commands(tmp_path, "run suite.toml -q", suite=PRIVATE, files={"test.jsonl": ROWS})
    monkeypatch.chdir(tmp_path)
    found = look(tmp_path, read_skill(tmp_path), rows=60)
    assert found.verdict == UNPROVEN
    assert "the evaluation has no rows" in found.reason


def test_other_rows_than_those_of_the_evidence_are_refused(folder: Path) -> None:
    """What was gated were other questions, so that nothing can be paired."""
    (folder / "other.jsonl").write_text("".join(json.dumps({**r, "target": "x"}) + "\n" for r in ROWS), "utf-8")
    (folder / "other.toml").write_text(SUITE.replace("test.jsonl", "other.jsonl"), "utf-8")
    with pytest.raises(UsageError, match=r'data is "other\.jsonl"'):
        look(folder, 1.0, suite="other.toml")


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_real_model_answers_its_rows_as_it_did(project: Project, tiny_model: Path) -> None:
    """The command verifies the export, tells how many rows it will ask, and pairs them with the evidence."""
    from harness_lora import lora
    from tests.helpers.adapters import make_adapter

    shutil.copytree(tiny_model, project.folder / "tiny")
    make_adapter(project.folder / "tiny", lora(), project.folder / "made")
    gate = 'metric = "qa.exact_match"\nversus = "base"\nworse_by_at_most = 0.9'
    suite = REAL.replace('metric = "fluency.perplexity"\nallow_approximate = true\nmax = 1e9', gate)
    project.write({"suite.toml": suite, "test.jsonl": SIX[:6], "texts.jsonl": TEXTS})
    assert project.run("--candidate", str(project.folder / "made")).code == 0
    with run_runtime(Runtime("vllm", project.folder / "exports/merged/model")) as served:
        words = ("--runtime", served.url, "--suite", "suite.toml", "--layers", "ids,gates", "--rows", "18")
        outcome = project.harness("parity", "exports/merged", *words)
    assert outcome.code == 0, outcome.err
    assert "gates      same           qa.exact_match, 6 rows: 0 worse, 0 better" in outcome.out
    assert "to vLLM, and 18 rows (layers ids, gates)" in outcome.err
