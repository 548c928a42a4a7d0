"""Verdicts in trackers: each with its real library, writing to a folder."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from harness import read_run
from harness.internals import to_json
from harness.records.findings import Finding
from harness.records.run import Run
from harness.testing import ROWS, SUITE, CommandOutcome, Project
from harness_trackers.log import COLUMNS, join_name, logged_run
from tests.helpers.local_http import LocalHandler, serve_locally

REPORTS = """
import json, os
from pathlib import Path
from harness import hookimpl
from harness.testing import write_fake

def reports(ref, adapter, rows, out: Path, *, progress, seed, skill: float = 0.9, report_to: list[str] | None = None):
    write_fake(out, skill)
    (out / "harness-adapter.json").write_text(json.dumps({"facts": {"report_to": report_to}}))
    logs = out.parent / "logs"
    logs.mkdir()
    (logs / "events").write_text("of the training")
    return out

@hookimpl
def harness_trainers():
    return {"reports": reports}

@hookimpl
def harness_run_finish(run):
    Path(run.folder, "report.html").write_text("<p>a page</p>")
"""
GATES = """
[[gate]]
id = "better ≥ base?"
metric = "qa.exact_match"
versus = "base"
better_by = 0.1

[[export]]"""
TEXT = SUITE.replace('use = "fake"\ndata', 'use = "reports"\nreport_to = ["TRACKER"]\ndata').replace(
    "[[export]]", GATES
)


@pytest.fixture
def tracked(suite: Project) -> Project:
    return suite.write({"harnessfile.py": REPORTS})


def run(suite: Project, tracker: str, text: str = TEXT) -> CommandOutcome:
    return suite.write({"suite.toml": text.replace("TRACKER", tracker)}).run()


def list_expected_metrics(run: Run) -> Mapping[str, float]:
    """Return some of the numbers that must have been logged."""
    verdict = next(v for v in run.verdicts if v.candidate == "merged" and v.versus == "base")
    assert verdict.estimate and verdict.lower
    gate = "gate/merged/better _ base_"
    numbers = {f"{gate}/estimate": verdict.estimate, f"{gate}/lower": verdict.lower, f"{gate}/passed": 1.0}
    return numbers | {f"{gate}/won": len(verdict.won), "base/qa/exact_match": run.results[0].metrics["exact_match"]}


@pytest.mark.slow
def test_mlflow_gets_the_verdicts(tracked: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of its own, in the experiment and the store that the environment names, with tables and files."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tracked.folder / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "fine-tunes")
    outcome = run(tracked, "mlflow")
    assert (outcome.code, outcome.err) == (0, "")
    client = mlflow.MlflowClient()
    [logged] = client.search_runs([client.get_experiment_by_name("fine-tunes").experiment_id])
    assert logged.info.status == "FINISHED" and logged.info.run_name == Path(outcome.report.folder).name
    assert (
        logged.data.metrics.items()
        >= {k: pytest.approx(v) for k, v in list_expected_metrics(outcome.report).items()}.items()
    )
    assert logged.data.tags["gate/merged/better _ base_"] == "PASS"
    assert logged.data.tags["verdict"].startswith("✓ merged may ship: 2 of 2 gates passed")
    assert logged.data.tags["mlflow.note.content"].startswith("## merged may ship: 2 of 2 gates passed")
    artifacts = Path(client.download_artifacts(logged.info.run_id, ""))
    flips = json.loads((artifacts / "flips.json").read_text("utf-8"))
    assert flips["columns"] == list(COLUMNS)
    assert {tuple(row[:4]) for row in flips["data"]} >= {("better ≥ base?", "merged", "base", "won")}
    assert json.loads((artifacts / "report.json").read_text("utf-8"))["suite"] == "fake"
    assert (artifacts / "report.html").read_text("utf-8") == "<p>a page</p>"


@pytest.mark.slow
def test_tensorboard_gets_the_verdicts(tracked: Project) -> None:
    """Beside the training's own events, which the run's folder holds and the run tells of."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    outcome = run(tracked, "tensorboard")
    assert (outcome.code, outcome.err) == (0, "")
    folder = Path(outcome.report.folder)
    assert (folder / "training/events").read_text("utf-8") == "of the training"
    logs = outcome.report.facts["training"]["logs"]
    assert logs == f"reports/{folder.name}/training"
    assert f"{logs}" in "".join(outcome.out.split())
    events = EventAccumulator(str(folder / "training/verdicts")).Reload()
    for name, value in list_expected_metrics(outcome.report).items():
        assert events.Scalars(name)[0].value == pytest.approx(value)
    texts = {name: events.Tensors(name)[0].tensor_proto.string_val[0].decode() for name in events.Tags()["tensors"]}
    assert texts["verdict"].startswith("## merged may ship: 2 of 2 gates passed")
    assert "| merged | better ≥ base? | PASS |" in texts["gates"]
    assert "| better ≥ base? | merged | base | won | q" in texts["flips"]


class Collector(LocalHandler):
    """What takes events over OTLP/HTTP and keeps them as they came; or refuses them."""

    came: ClassVar[list[Any]] = []
    status = 200

    def answer(self, body: bytes) -> None:
        self.came.append((self.path, body))
        self.send(self.status, b"")


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Collector]]:
    """Return a collector that the environment names."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    Collector.came, Collector.status = [], 200
    with serve_locally(Collector) as address:
        monkeypatch.setenv("OTEL_LOGS_EXPORTER", "otlp")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        yield Collector


@pytest.mark.slow
def test_a_collector_gets_an_event_a_verdict(suite: Project, collector: type[Collector]) -> None:
    """By the names of OpenTelemetry's conventions; no row is sent, and nothing without the variable."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    outcome = suite.write({"suite.toml": SUITE.replace("[[export]]", GATES)}).run()
    assert (outcome.code, outcome.err) == (0, "")
    [(path, body)] = collector.came
    assert path == "/v1/logs"
    [resource] = ExportLogsServiceRequest.FromString(body).resource_logs
    about = {a.key: a.value.string_value for a in resource.resource.attributes}
    assert about["service.name"] == "finetune-harness"
    events = resource.scope_logs[0].log_records
    assert {e.event_name for e in events} == {"gen_ai.evaluation.result"}
    found = [{a.key: getattr(a.value, a.value.WhichOneof("value")) for a in e.attributes} for e in events]
    verdicts = outcome.report.verdicts
    assert [f["gen_ai.evaluation.name"] for f in found] == [v.gate for v in verdicts]
    assert [f["gen_ai.evaluation.score.value"] for f in found] == [v.estimate for v in verdicts]
    assert {f["gen_ai.evaluation.score.label"] for f in found} == {"PASS"}
    assert [f["harness.decides"] for f in found] == [v.decides for v in verdicts]
    assert not any(f'"{row_id}"' in str(found) or row_id in str(found) for v in verdicts for row_id in v.won)


@pytest.mark.slow
def test_the_gate_of_other_tools_rows_sends_its_verdict_too(project: Project, collector: type[Collector]) -> None:
    rows = "".join(f"q{i},{i % 5 > 0:d}\n" for i in range(100))
    project.write({"base.csv": "id,correct\n" + rows, "candidate.csv": "id,correct\n" + rows.replace("q40,0", "q40,1")})
    said = project.harness("gate", "base.csv", "candidate.csv", "--score", "correct", "--worse-by-at-most", "0.1")
    assert (said.code, said.err, len(collector.came)) == (0, "", 1)
    assert b"gen_ai.evaluation.result" in collector.came[0][1]


@pytest.mark.slow
def test_without_the_variable_nothing_is_sent(
    suite: Project, collector: type[Collector], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTEL_LOGS_EXPORTER")
    assert suite.run().code == 0
    assert collector.came == []


@pytest.mark.slow
def test_a_collector_that_refuses_costs_one_warning(suite: Project, collector: type[Collector]) -> None:
    collector.status = 400
    outcome = suite.run()
    assert outcome.code == 0
    [line] = outcome.err.splitlines()
    assert line.startswith("warning: otel: the verdicts were not logged: UsageError: the collector of OTEL_EXPORTER")


def scan_leveldb_log(log: bytes) -> Iterator[bytes]:
    """Yield what a log of LevelDB holds, after W&B's own seven bytes: blocks of 32 KiB, records in parts."""
    place, parts = 7, b""
    while place + 7 <= len(log):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", log[place : place + 7])
        parts += log[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # the whole, or the last part
            yield parts
            parts = b""


@pytest.mark.slow
def test_wandb_gets_the_verdicts_offline(tracked: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that waits to be synced: nothing is sent where nobody asked for it."""
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_DIR", str(tracked.folder))
    outcome = run(tracked, "wandb")
    assert (outcome.code, outcome.err) == (0, "")
    [path] = tracked.folder.glob("wandb/offline-run-*/run-*.wandb")
    records, until = [], time.monotonic() + 60
    while not any(r.HasField("exit") for r in records) and time.monotonic() < until:  # its service writes on
        records = [Record.FromString(data) for data in scan_leveldb_log(path.read_bytes())]
    items = {"/".join(i.nested_key) or i.key: i.value_json for r in records for i in r.history.item}
    for name, value in list_expected_metrics(outcome.report).items():
        assert json.loads(items[name]) == pytest.approx(value)
    assert json.loads(items["flips/ncols"]) == len(COLUMNS)
    assert any(r.run.notes.startswith("## merged may ship: ") for r in records)
    [artifact] = [r.artifact for r in records if r.artifact.type == "report"]
    assert {entry.path for entry in artifact.manifest.contents} == {"report.json", "report.html"}


@pytest.mark.slow
@pytest.mark.parametrize("breaks", ["raise ValueError('no such\\n  place')", "raise SystemExit(3)", "import nowhere"])
def test_a_tracker_that_fails_costs_a_warning(tracked: Project, monkeypatch: pytest.MonkeyPatch, breaks: str) -> None:
    """The outcome, what is exported and the report are those of a run without it."""

    def fails(told: Any) -> None:
        exec(breaks)

    monkeypatch.setattr("harness_trackers.log.log_to_tensorboard", fails)
    outcome = run(tracked, "tensorboard")
    assert (outcome.code, outcome.report.exit_code, outcome.report.exports[0].written) == (0, 0, True)
    assert outcome.err.startswith("warning: tensorboard: the verdicts were not logged: ")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("told", [None, "tensorboard", ["another"], 7, {}])
def test_nothing_is_logged_where_nobody_reported(tracked: Project, monkeypatch: pytest.MonkeyPatch, told: Any) -> None:
    """Or where a trainer tells of something else under that name."""
    monkeypatch.setattr("harness_trackers.log.log_run", lambda *_: pytest.fail("logged"))
    text = REPORTS.replace('{"report_to": report_to}', repr({"report_to": told}))
    tracked.write({"harnessfile.py": text})
    assert run(tracked, "x", TEXT.replace('report_to = ["TRACKER"]\n', "")).code == 0


@pytest.mark.slow
def test_private_rows_are_named_nowhere(tracked: Project) -> None:
    """Neither in the table of what changed nor in the report that is sent."""
    text = TEXT.replace('name = "qa"', 'name = "qa"\nprivate = true').replace("0.1\n\n[[export]]", "0.1\n\n[[export]]")
    told = logged_run(run(tracked, "another", text).report)
    assert not told.flips
    assert told.metrics["gate/merged/better _ base_/won"] > 0
    assert not [row["id"] for row in ROWS if f'"{row["id"]}"' in told.report]
    sent = told.folder / "sent.json"
    sent.write_text(told.report, "utf-8")
    assert not read_run(sent).edited  # as a run wrote it


def test_findings_quote_no_private_row() -> None:
    """The check for leaks quotes the rows it tells of, and a run that only warns is sent and exported all the same."""
    flag = Finding("warning", "1 of 2 rows of qa are nearly in it", ['q1 = row 3: "hidden"'], rows={"qa": ["q1"]})
    run = Run("fake", "suite.toml", "", 0, 0.05, "m", "2026-11-28T10:00:00+00:00", "0.1", findings=[flag])
    assert "hidden" in to_json(run.sendable())
    run.private = ("qa",)
    told = to_json(run.sendable())
    assert "hidden" not in told and "q1" not in told and flag.what in told


def test_names_are_such_as_every_tracker_takes() -> None:
    assert join_name("gate", "a/../b", "100 % <x>\n", "..", " ") == "gate/a_.._b/100 _ _x__/_/_"
