"""Verdicts as OpenTelemetry events, one `gen_ai.evaluation.result` each, over OTLP/HTTP to the collector that
`OTEL_EXPORTER_OTLP_ENDPOINT` names. The conventions for generative AI that name it are still in development.
"""

from __future__ import annotations

import logging
import math

from harness import Run, UsageError
from harness.internals import shown

EVENT = "gen_ai.evaluation.result"


def to_otel(run: Run) -> None:
    """Send a run's verdicts, without what is private. Raises UsageError where the collector does not take them."""
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider, export
    from opentelemetry.sdk.resources import Resource

    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # a failure is told once, below
    provider = LoggerProvider(Resource.create({"service.name": "finetune-harness", "service.version": run.harness}))
    provider.add_log_record_processor(export.SimpleLogRecordProcessor(events := export.InMemoryLogRecordExporter()))
    logger = provider.get_logger("harness", run.harness)
    for v in run.sendable().verdicts:
        said = {"name": v.gate, "score.label": str(v.outcome), "explanation": shown(v.why)}
        about = {f"gen_ai.evaluation.{key}": text for key, text in said.items()}
        ours = {"suite": run.suite, "candidate": v.candidate, "versus": v.versus, "metric": v.metric}
        about |= {f"harness.{key}": text for key, text in ours.items() if text}
        told = v.estimate is not None and math.isfinite(v.estimate)
        number = {"gen_ai.evaluation.score.value": v.estimate} if told else {}
        error = {"error.type": "_OTHER"} if v.outcome == "ERROR" else {}
        logger.emit(event_name=EVENT, attributes={**about, **number, **error, "harness.decides": v.decides})
    if OTLPLogExporter().export(events.get_finished_logs()) is not export.LogRecordExportResult.SUCCESS:
        raise UsageError("the collector that OTEL_EXPORTER_OTLP_ENDPOINT names did not take them")
