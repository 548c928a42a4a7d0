"""Contents of a logged run, and the trackers that take it.

A tracker that fails costs a warning and no verdict.

MLflow gets a run of its own in the experiment that `MLFLOW_EXPERIMENT_NAME` names, in the store of
`MLFLOW_TRACKING_URI`; W&B one in the project that `WANDB_PROJECT` names, a folder to be synced unless the user set
WANDB_MODE; TensorBoard events beside those of the training, written without torch.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import Run, UsageError
from harness.internals import (
    format_run_markdown,
    numbers,
    printable,
    prompt_of,
    read_answers,
    shorten,
    to_json,
    verdict_text,
    view_run,
)

MAX_ROWS = 1000  # rows of the table of what changed
MAX_TEXT_CHARS = 2000  # characters of a text in it
COLUMNS = ("gate", "candidate", "against", "change", "row", "prompt", "target", "before", "after")
GATE = ("candidate", "gate", "outcome", "blocking", "waived", "claim", "estimate", "lower", "upper", "n", "why")
FORBIDDEN_CHARACTERS = re.compile(r"[^\w.\- ]")  # what no name of a metric may hold, in the strictest of the trackers
BATCHES, LENGTH = {"metrics": 1000, "tags": 100}, 5000  # of MLflow, and characters of a tag: what every store takes
EVENT = "gen_ai.evaluation.result"
VERDICTS_FOLDER, SHOWN_ROWS = "training/verdicts", 100  # of TensorBoard, which draws a table whole


@dataclass(frozen=True)
class LoggedRun:
    """A run as it is logged: numbers by name, outcomes by gate, the rows that changed, report.json."""

    suite: str
    about: Mapping[str, str]
    metrics: Mapping[str, float]
    gates: Sequence[Mapping[str, Any]]
    flips: Sequence[Sequence[str]]  # in the order of COLUMNS
    report: str
    folder: Path
    note: str  # the run in Markdown, without its rows

    @property
    def page(self) -> Path | None:
        """The path of the run's report.html, None if missing."""
        return page if (page := self.folder / "report.html").is_file() else None

    @property
    def tables(self) -> dict[str, tuple[list[str], list[list[Any]]]]:
        """The columns and rows of the gates and the changed rows."""
        gates = [list(gate.values()) for gate in self.gates]
        columns = list(self.gates[0]) if self.gates else []
        return {"gates": (columns, gates), "flips": (list(COLUMNS), [list(row) for row in self.flips])}

    @property
    def outcomes(self) -> dict[str, str]:
        """The outcome of each gate by candidate, under tracker-safe names."""
        return {join_name("gate", g["candidate"], g["gate"]): g["outcome"] for g in self.gates}


def log_run(run: Run, names: Sequence[str]) -> None:
    """Log a run to trackers by name.

    One that fails costs a one-line warning on stderr.
    """
    for name in names:
        try:
            if name == "otel":
                log_to_otel(run)
            else:
                {"mlflow": log_to_mlflow, "tensorboard": log_to_tensorboard, "wandb": log_to_wandb}[name](
                    logged_run(run)
                )
        except (Exception, SystemExit) as error:
            why = " ".join(str(error).split())[:300]
            what = f"warning: {name}: the verdicts were not logged: {type(error).__name__}: {why}"
            print(printable(what), file=sys.stderr)


def logged_run(run: Run) -> LoggedRun:
    """Collect the contents of a run for the trackers."""
    folder = Path(run.folder)
    view = view_run(run)
    about = {"verdict": f"{view.glyph} {view.sentence}"}
    about |= {f"let through {i}": text for i, text in enumerate(view.exceptions, 1)}
    about |= {"suite": run.suite, "suite_digest": run.digest, "model": run.model, "started": run.started}
    about |= {"exit_code": str(int(run.exit_code)), "harness": run.harness}
    about |= {f"weights {name}": digest for name, digest in run.digests.items()}
    about |= {f"conclusion {i}": text for i, text in enumerate(run.conclusions, 1)}
    about = {k: printable(v) for k, v in about.items() if v}
    told = ((join_name(r.subject, r.eval, name), x) for r in run.results for name, x in r.metrics.items())
    metrics, gates = {name: x for name, x in told if math.isfinite(x)}, []
    for v in run.verdicts:
        texts = {"outcome": str(v.outcome), "claim": verdict_text.format_claim(v), "why": printable(v.why)}
        gates.append({name: getattr(v, name) for name in GATE} | texts)
        found = {"estimate": v.estimate, "lower": v.lower, "upper": v.upper, "threshold": v.threshold}
        found |= {"won": v.won_count, "lost": v.lost_count} if v.versus else {}
        for key, x in (found | {"passed": float(v.outcome == "PASS")}).items():
            if x is not None and math.isfinite(x):
                metrics[join_name("gate", v.candidate, v.gate, key)] = float(x)
    report = to_json(run.sendable()) if run.private else (folder / "report.json").read_text("utf-8")
    return LoggedRun(
        run.suite, about, metrics, gates, _list_changed_answers(run, folder), report, folder, format_run_markdown(run)
    )


def join_name(*parts: str) -> str:
    """Return a name that every tracker takes, parts between slashes."""
    return "/".join(FORBIDDEN_CHARACTERS.sub("_", part).strip(" .") or "_" for part in parts)


def _list_changed_answers(run: Run, folder: Path) -> list[list[str]]:
    """Return the rows that changed, with both answers: of gates, then of merging; those of private evals by no name."""
    steps = [(v.gate, v.metric.partition(".")[0], v.candidate, v.versus, v.lost, v.won) for v in run.verdicts]
    steps += [(f"{c.eval}.{c.metric}", c.eval, c.after, c.before, c.lost_ids, c.won_ids) for c in run.changes]
    found: list[list[str]] = []
    for gate, evaluation, candidate, versus, lost, won in steps:
        if not versus or evaluation in run.private or not (lost or won):
            continue
        try:
            ours, theirs = (read_answers(folder, subject, evaluation) for subject in (candidate, versus))
        except UsageError:
            continue
        for change, ids in (("lost", lost), ("won", won)):
            for i in (i for i in ids if i in ours and i in theirs):
                both = prompt_of(ours[i]), ours[i]["target"]
                asked = [t if isinstance(t, str) else json.dumps(t, ensure_ascii=False) for t in both]
                said = [rows[i]["resps"][0][0] for rows in (theirs, ours)]
                texts = [printable("" if text is None else str(text), lines=True) for text in (*asked, *said)]
                found.append([gate, candidate, versus, change, i, *(shorten(text, MAX_TEXT_CHARS) for text in texts)])
    return found[:MAX_ROWS]


def log_to_mlflow(told: LoggedRun) -> None:
    """Log a run to MLflow. Raises MLflow's own errors."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunTag

    client, now = MlflowClient(), int(time.time() * 1000)
    experiment = os.environ.get("MLFLOW_EXPERIMENT_ID", "0")  # that a training would report to
    if name := os.environ.get("MLFLOW_EXPERIMENT_NAME"):
        known = client.get_experiment_by_name(name)
        experiment = str(known.experiment_id if known else client.create_experiment(name))
    run = client.create_run(experiment, run_name=told.folder.name).info.run_id
    try:
        tags = {join_name(key): value for key, value in told.about.items()} | told.outcomes
        tags["mlflow.note.content"] = told.note
        logged: dict[str, list[Any]] = {"metrics": [Metric(name, x, now, 0) for name, x in told.metrics.items()]}
        logged |= {"tags": [RunTag(key, value[:LENGTH]) for key, value in tags.items()]}
        for kind, values in logged.items():
            for start in range(0, len(values), BATCHES[kind]):
                client.log_batch(run, **{kind: values[start : start + BATCHES[kind]]})
        for name, (columns, rows) in told.tables.items():
            client.log_dict(run, {"columns": columns, "data": rows}, f"{name}.json")
        client.log_text(run, told.report, "report.json")
        if told.page:
            client.log_artifact(run, str(told.page))
    except BaseException:
        client.set_terminated(run, "FAILED")
        raise
    client.set_terminated(run, "FINISHED")


def log_to_wandb(told: LoggedRun) -> None:
    """Log a run to W&B. Raises W&B's own errors."""
    import wandb

    project, name = os.environ.get("WANDB_PROJECT", "huggingface"), told.folder.name  # the trainer's
    quiet = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True)
    about: dict[str, Any] = {"project": project, "name": name, "group": told.suite, "job_type": "verdicts"}
    about |= {"notes": told.note, "config": {join_name(key): value for key, value in told.about.items()}}
    # a new one, for the training's own may still be open
    with wandb.init(**about, settings=quiet, reinit="create_new") as run:
        tables = {key: wandb.Table(columns=columns, data=rows) for key, (columns, rows) in told.tables.items()}
        run.log({**told.metrics, **tables}, step=0)
        run.summary.update({f"outcome{key.removeprefix('gate')}": said for key, said in told.outcomes.items()})
        artifact = wandb.Artifact(join_name(f"{name}-report").replace("/", "_").replace(" ", "_"), type="report")
        with artifact.new_file("report.json", mode="w", encoding="utf-8") as f:
            f.write(told.report)
        if told.page:
            artifact.add_file(str(told.page), name="report.html")
        run.log_artifact(artifact)


def log_to_tensorboard(told: LoggedRun) -> None:
    """Log a run to TensorBoard. Raises TensorBoard's own errors."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.text.metadata import create_summary_metadata
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from tensorboard.util.tensor_util import make_tensor_proto

    texts = {
        "verdict": told.note,
        "gates": _format_markdown_table(*told.tables["gates"]) if told.gates else "no gate",
        "flips": _format_markdown_table(COLUMNS, told.flips[:SHOWN_ROWS]),
        "about": _format_markdown_table(("what", "is"), list(told.about.items())),
        "report.json": f"in `{told.folder.name}/report.json`",
    }
    values = [Summary.Value(tag=name, simple_value=value) for name, value in told.metrics.items()]
    for name, text in texts.items():
        about = create_summary_metadata(display_name=name, description="")
        tensor = make_tensor_proto([text.encode("utf-8", "replace")], shape=(1,))
        values.append(Summary.Value(tag=name, metadata=about, tensor=tensor))
    writer = EventFileWriter(str(told.folder / VERDICTS_FOLDER))
    writer.add_event(Event(wall_time=time.time(), step=0, summary=Summary(value=values)))
    writer.close()


def log_to_otel(run: Run) -> None:
    """Send a run's public verdicts as OpenTelemetry events over OTLP/HTTP.

    The conventions for generative AI that name them are still in development. Raises UsageError if the collector that
    `OTEL_EXPORTER_OTLP_ENDPOINT` names does not accept them.
    """
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider, export
    from opentelemetry.sdk.resources import Resource

    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # a failure is told once, below
    provider = LoggerProvider(Resource.create({"service.name": "finetune-harness", "service.version": run.harness}))
    provider.add_log_record_processor(export.SimpleLogRecordProcessor(events := export.InMemoryLogRecordExporter()))
    logger = provider.get_logger("harness", run.harness)
    for v in run.sendable().verdicts:
        said = {"name": v.gate, "score.label": str(v.outcome), "explanation": printable(v.why)}
        about = {f"gen_ai.evaluation.{key}": text for key, text in said.items()}
        ours = {"suite": run.suite, "candidate": v.candidate, "versus": v.versus, "metric": v.metric}
        about |= {f"harness.{key}": text for key, text in ours.items() if text}
        told = v.estimate is not None and math.isfinite(v.estimate)
        number = {"gen_ai.evaluation.score.value": v.estimate} if told else {}
        error = {"error.type": "_OTHER"} if v.outcome == "ERROR" else {}
        logger.emit(event_name=EVENT, attributes={**about, **number, **error, "harness.decides": v.decides})
    if OTLPLogExporter().export(events.get_finished_logs()) is not export.LogRecordExportResult.SUCCESS:
        raise UsageError("the collector of OTEL_EXPORTER_OTLP_ENDPOINT did not accept them")


def _format_markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table with escaped cells."""
    lines = []
    for line in (columns, ["---"] * len(columns), *rows):
        cells = ["" if v is None else numbers.format_metric(v) if isinstance(v, float) else str(v) for v in line]
        for mark, spelt in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"), ("\n", " ")):
            cells = [cell.replace(mark, spelt) for cell in cells]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
