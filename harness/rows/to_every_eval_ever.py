"""A run as logs of Every Eval Ever, schema 0.3: UUID.json and UUID_samples.jsonl for each evaluation of a subject."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.artifacts import shapes
from harness.artifacts.attestation import LOCK
from harness.artifacts.digests import digest_value
from harness.artifacts.folders import FolderError, ForeignFolder
from harness.errors import UsageError
from harness.files import reporting_write_errors, write_text
from harness.records.run import ItemResult, Run
from harness.records.scales import OnScale
from harness.reports.report_json import read_run
from harness.reports.run_folder import prompt_of, read_answers
from harness.texts.secrets import redact_options

SCHEMA = "0.3.0"


def write_every_eval_ever(folder: Path, out: Path | None = None) -> list[Path]:
    """Write a run as Every Eval Ever logs, and return paths.

    Private evaluations are left out. Raises UsageError if no rows are left, the run's lock cannot be read, or a log
    cannot be written.
    """
    run, below, out = read_run(folder), out or folder, out or folder / "every_eval_ever"
    try:
        lock = ForeignFolder(folder).read_record(LOCK, shapes.LOCK)
    except FolderError:
        raise UsageError(f"{folder}: has no readable {LOCK}, which defines the metrics") from None
    scales, private = lock["metrics"], {e["name"] for e in lock["suite"]["evals"] if e.get("private")}
    reports = [r for r in run.results if r.outcome == "done" and r.n and r.eval not in {*run.private, *private}]
    if not reports:
        raise UsageError(f"{folder}: has no rows to publish: it has no evaluation, or only private ones")
    with reporting_write_errors(out):
        below.mkdir(parents=True, exist_ok=True)
        return [
            _write_log_and_samples(run, report, scales.get(report.eval, {}), folder, out, below) for report in reports
        ]


def _write_log_and_samples(
    run: Run, report: ItemResult, scales: Mapping[str, Any], folder: Path, out: Path, below: Path
) -> Path:
    owner, model = _sanitize_name(run.suite), _sanitize_name(report.subject)
    place = f"data/{_sanitize_name(report.eval)}/{owner}/{model}"
    digest = digest_value([run.digest, run.started, run.digests, report.id])
    named = str(uuid.UUID(digest[:32], version=4))  # the same run has the same name
    rows = list(read_answers(folder, report.subject, report.eval).values())
    ours = [m for m in report.metrics if m in scales]
    weighed = {m for row in rows for m in ours if m in row and row["weights"].get(m, row["weight"]) != 1}
    plain = [m for m in ours if OnScale(scales[m]["scale"]).is_mean and m not in weighed]
    time = str(datetime.fromisoformat(run.started).timestamp())
    about = {"schema_version": SCHEMA, "evaluation_id": f"{_sanitize_name(report.eval)}/{owner}_{model}/{time}"}
    lines = [
        json.dumps(redact_options(line), ensure_ascii=False) + "\n"
        for row in rows
        for line in _iterate_sample_records(row, report, plain)
    ]
    samples = "".join(json.dumps(about)[:-1] + f', "model_id": "{owner}/{model}", ' + line[1:] for line in lines)
    log = about | {
        "retrieved_timestamp": time,
        "source_metadata": {"source_type": "evaluation_run", "evaluator_relationship": "other",
                            "source_name": "finetune-harness", "source_organization_name": "unknown"},
        "eval_library": {"name": "finetune-harness", "version": run.harness},
        "model_info": {
            "name": report.subject, "id": f"{owner}/{model}", "developer": owner,
            "additional_details": {
                "base_model": run.model, "weights_sha256": run.digests.get(report.subject, ""),
                "deployment_type": "unknown", "model_availability": "unknown",
            },
        },
        "evaluation_results": [_make_result(run, report, metric, scales[metric]) for metric in ours],
        "detailed_evaluation_results": {
            "format": "jsonl", "file_path": f"{place}/{named}_samples.jsonl", "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(samples.encode("utf-8", "backslashreplace")).hexdigest(),
            "total_rows": len(lines),
        },
    }  # fmt: skip
    write_text(out / place / f"{named}_samples.jsonl", samples, below=below)
    write_text(
        out / place / f"{named}.json", json.dumps(redact_options(log), indent=2, ensure_ascii=False) + "\n", below=below
    )
    return out / place / f"{named}.json"


def _make_result(run: Run, report: ItemResult, metric: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a metric, with its gates' verdicts."""
    bounds = {"metric_unit": "proportion", "score_type": "continuous", "min_score": 0.0, "max_score": 1.0}
    uncertainty: dict[str, Any] = {"num_samples": report.n}
    if metric in report.stderr:
        uncertainty["standard_error"] = {"value": report.stderr[metric], "method": "analytic"}
    gates = {f"gate {v.gate}": f"{v.outcome}: {v.why}" for v in run.verdicts
             if v.candidate == report.subject and v.metric == f"{report.eval}.{metric}"}  # fmt: skip
    return {
        "evaluation_result_id": metric, "evaluation_name": report.eval,
        "source_data": {"source_type": "other", "dataset_name": report.eval},
        "metric_config": {
            "metric_id": f"finetune-harness.{metric}", "metric_name": metric,
            "lower_is_better": about["better"] == "lower", **(bounds if OnScale(about["scale"]).is_share else {}),
            "additional_details": {"scale": str(about["scale"]), **gates},
        },
        "score_details": {"score": report.metrics[metric], "uncertainty": uncertainty},
    }  # fmt: skip


def _iterate_sample_records(row: Mapping[str, Any], report: ItemResult, metrics: list[str]) -> Iterator[dict[str, Any]]:
    """Yield a record for each scored metric of a row.

    A row without a score gets one record without a result.
    """
    asked, answer = prompt_of(row), row["resps"][0][0]
    raw = asked if isinstance(asked, str) else json.dumps(asked, ensure_ascii=False)
    wanted = [str(t) for t in row["target"]] if isinstance(row["target"], list) else [str(row["target"])]
    said = {"turn_idx": 0, "source": "output.raw", "extracted_value": str(answer), "extraction_method": "none"}
    one = {
        "evaluation_name": report.eval, "sample_id": row["id"],
        "sample_hash": hashlib.sha256((raw + "".join(wanted)).encode("utf-8", "backslashreplace")).hexdigest(),
        "interaction_type": "single_turn", "input": {"raw": raw, "formatted": row.get("rendered"), "reference": wanted},
        "output": {"raw": [] if answer is None else [str(answer)]},
        "answer_attribution": [] if answer is None else [said | {"is_terminal": True}],
        "metadata": {"cluster": str(row["cluster"])} if row.get("cluster") is not None else {},
    }  # fmt: skip
    scored: list[str | None] = [
        m for m in metrics if isinstance(row.get(m), (int, float)) and m not in row.get("lost", ())
    ]
    for metric in scored or [None]:
        score = 0.0 if metric is None else float(row[metric])
        yield {**one, "evaluation_result_id": metric, "evaluation": {"score": score, "is_correct": score == 1.0}}


def _sanitize_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text) or "_"
