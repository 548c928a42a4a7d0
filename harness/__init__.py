"""Decide whether a fine-tuned language model may ship: `run`, and everything that a plugin may import.

A name is looked up when it is asked for, so that a plugin that is listed costs no more than its own module.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ExitCode, UsageError
from harness.hookspec import hookimpl
from harness.lazy import keep_old_paths, lazily
from harness.records.metrics import Metric, metric
from harness.records.models import Logprob, ModelRef, Progress, Sampling, Subject
from harness.records.samples import Caveat, Labels, Sample, Score

if TYPE_CHECKING:
    from harness import isolated, schema
    from harness.answers import keys, wire
    from harness.answers.cache import CachedSubject, Models
    from harness.answers.store import Responses, request_key
    from harness.answers.thought import answers as final_answers
    from harness.artifacts import formats
    from harness.artifacts.digests import digest_of, template_digest, weights_digest
    from harness.artifacts.gguf import FACTORS as ROPE_FACTORS
    from harness.artifacts.gguf import Gguf, gguf_of, read_gguf
    from harness.artifacts.kept import is_sealed
    from harness.artifacts.kept import seal as seal_folder
    from harness.artifacts.reads import meant_otherwise, weight_files
    from harness.artifacts.safetensors import Safetensors, read_safetensors
    from harness.artifacts.strict import read_json
    from harness.capabilities import adapter, checker, evaluator, exporter, loader, trainer
    from harness.collection.plan import Task
    from harness.data import chat
    from harness.data.fewshot import choose as choose_shots
    from harness.data.pypi import fetch_wheel, sha256_of
    from harness.data.rows import GROUP, HELD_OUT, continuation, read_rows
    from harness.errors import CheckFailed, Mistakes, did_you_mean, disk_full, out_of_memory
    from harness.evaluation.checks import quote
    from harness.evaluation.grading import Marking
    from harness.files import cache_dir, copy_range, folder_in_place, write_text
    from harness.gates import agreement, labels
    from harness.gates.decide import judge
    from harness.records import words
    from harness.records.findings import Built, Example, Finding, Flag, Severity, TrainingRow, text_of
    from harness.records.findings import marked as marked_text
    from harness.records.gates import Gate
    from harness.records.models import Adapter, Generate, Generation, ThoughtBudget
    from harness.records.run import Report, Run, TrainingStep
    from harness.records.said import Ended, Said, endings
    from harness.records.samples import Prompt, Result
    from harness.records.scales import OnScale, Scale, Scaled
    from harness.records.verdicts import Outcome, Verdict
    from harness.release.conversions import NOTE as CONVERSION_NOTES
    from harness.release.conversions import copy_files
    from harness.reports import sentence
    from harness.reports.report_json import read_run
    from harness.reports.rows import told_apart
    from harness.reports.run_folder import read_rows as read_answers
    from harness.reports.run_folder import value_of as row_value
    from harness.reports.training import LOGS as TRAINING_LOGS
    from harness.reports.training import write_steps
    from harness.stats.tests import cluster_t, numbered, wilson
    from harness.suite.reader import read_suite
    from harness.suite.tables import Eval, Suite
    from harness.texts.counts import counted
    from harness.texts.secrets import is_secret
    from harness.texts.shown import markdown, shorten, shown
    from harness.texts.shown import whole as whole_text
    from harness.workers.child import Desk
    from harness.workers.local import gpus
    from harness.workers.protocol import Lost, Worker, is_sign, read_error, read_ref, told_error, told_ref

# Threads that share a computation spin for each other before they sleep: 3 ms by themselves, at every layer, in which
# whoever wants the core waits for them, as they do for him. It must be said before torch is there, and changes no bits.
if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
    os.environ["GOMP_SPINCOUNT"] = "3000"

__all__ = [
    "CONVERSION_NOTES",
    "GROUP",
    "HELD_OUT",
    "ROPE_FACTORS",
    "TRAINING_LOGS",
    "Adapter",
    "Built",
    "CachedSubject",
    "Caveat",
    "CheckFailed",
    "Desk",
    "Ended",
    "Eval",
    "Example",
    "ExitCode",
    "Finding",
    "Flag",
    "Gate",
    "Generate",
    "Generation",
    "Gguf",
    "Labels",
    "Logprob",
    "Lost",
    "Marking",
    "Metric",
    "Mistakes",
    "ModelRef",
    "Models",
    "OnScale",
    "Outcome",
    "Progress",
    "Prompt",
    "Report",
    "Responses",
    "Result",
    "Run",
    "Safetensors",
    "Said",
    "Sample",
    "Sampling",
    "Scale",
    "Scaled",
    "Score",
    "Severity",
    "Subject",
    "Suite",
    "Task",
    "ThoughtBudget",
    "TrainingRow",
    "TrainingStep",
    "UsageError",
    "Verdict",
    "Worker",
    "adapter",
    "agreement",
    "cache_dir",
    "chat",
    "checker",
    "choose_shots",
    "cluster_t",
    "continuation",
    "copy_files",
    "copy_range",
    "counted",
    "did_you_mean",
    "digest_of",
    "disk_full",
    "endings",
    "evaluator",
    "exporter",
    "fetch_wheel",
    "final_answers",
    "folder_in_place",
    "formats",
    "gguf_of",
    "gpus",
    "hookimpl",
    "is_sealed",
    "is_secret",
    "is_sign",
    "isolated",
    "judge",
    "keys",
    "labels",
    "lazily",
    "loader",
    "markdown",
    "marked_text",
    "meant_otherwise",
    "metric",
    "numbered",
    "out_of_memory",
    "quote",
    "read_answers",
    "read_error",
    "read_gguf",
    "read_json",
    "read_ref",
    "read_rows",
    "read_run",
    "read_safetensors",
    "read_suite",
    "request_key",
    "row_value",
    "run",
    "schema",
    "seal_folder",
    "sentence",
    "sha256_of",
    "shorten",
    "shown",
    "template_digest",
    "text_of",
    "told_apart",
    "told_error",
    "told_ref",
    "trainer",
    "weight_files",
    "weights_digest",
    "whole_text",
    "wilson",
    "wire",
    "words",
    "write_steps",
    "write_text",
]
__version__ = "0.1.0"
LATER = {  # the module of what is imported when it is asked for; `module:name` where it has another name there
    "Adapter": "harness.records.models",
    "Built": "harness.records.findings",
    "CONVERSION_NOTES": "harness.release.conversions:NOTE",
    "CachedSubject": "harness.answers.cache",
    "Desk": "harness.workers.child",
    "Ended": "harness.records.said",
    "Eval": "harness.suite.tables",
    "Example": "harness.records.findings",
    "CheckFailed": "harness.errors",
    "Finding": "harness.records.findings",
    "Flag": "harness.records.findings",
    "GROUP": "harness.data.rows",
    "Generate": "harness.records.models",
    "Generation": "harness.records.models",
    "ThoughtBudget": "harness.records.models",
    "Gguf": "harness.artifacts.gguf",
    "HELD_OUT": "harness.data.rows",
    "Lost": "harness.workers.protocol",
    "Marking": "harness.evaluation.grading",
    "Mistakes": "harness.errors",
    "Models": "harness.answers.cache",
    "Prompt": "harness.records.samples",
    "ROPE_FACTORS": "harness.artifacts.gguf:FACTORS",
    "Responses": "harness.answers.store",
    "Result": "harness.records.samples",
    "Run": "harness.records.run",
    "Said": "harness.records.said",
    "Safetensors": "harness.artifacts.safetensors",
    "Scale": "harness.records.scales",
    "Severity": "harness.records.findings",
    "Suite": "harness.suite.tables",
    "TRAINING_LOGS": "harness.reports.training:LOGS",
    "Task": "harness.collection.plan",
    "TrainingRow": "harness.records.findings",
    "TrainingStep": "harness.records.run",
    "Worker": "harness.workers.protocol",
    "adapter": "harness.capabilities",
    "cache_dir": "harness.files",
    "chat": "harness.data.chat:",
    "checker": "harness.capabilities",
    "choose_shots": "harness.data.fewshot:choose",
    "cluster_t": "harness.stats.tests",
    "continuation": "harness.data.rows",
    "copy_files": "harness.release.conversions",
    "copy_range": "harness.files",
    "counted": "harness.texts.counts",
    "did_you_mean": "harness.errors",
    "digest_of": "harness.artifacts.digests",
    "disk_full": "harness.errors",
    "endings": "harness.records.said",
    "evaluator": "harness.capabilities",
    "exporter": "harness.capabilities",
    "fetch_wheel": "harness.data.pypi",
    "final_answers": "harness.answers.thought:answers",
    "folder_in_place": "harness.files",
    "formats": "harness.artifacts.formats:",
    "gguf_of": "harness.artifacts.gguf",
    "gpus": "harness.workers.local",
    "is_secret": "harness.texts.secrets",
    "is_sealed": "harness.artifacts.kept",
    "is_sign": "harness.workers.protocol",
    "isolated": "harness.isolated:",
    "keys": "harness.answers.keys:",
    "agreement": "harness.gates.agreement:",
    "labels": "harness.gates.labels:",
    "loader": "harness.capabilities",
    "marked_text": "harness.records.findings:marked",
    "numbered": "harness.stats.tests",
    "out_of_memory": "harness.errors",
    "quote": "harness.evaluation.checks",
    "read_answers": "harness.reports.run_folder:read_rows",
    "told_apart": "harness.reports.rows",
    "read_error": "harness.workers.protocol",
    "read_json": "harness.artifacts.strict",
    "read_gguf": "harness.artifacts.gguf",
    "read_ref": "harness.workers.protocol",
    "read_rows": "harness.data.rows",
    "read_run": "harness.reports.report_json",
    "read_safetensors": "harness.artifacts.safetensors",
    "read_suite": "harness.suite.reader",
    "request_key": "harness.answers.store",
    "row_value": "harness.reports.run_folder:value_of",
    "schema": "harness.schema:",
    "seal_folder": "harness.artifacts.kept:seal",
    "sha256_of": "harness.data.pypi",
    "shorten": "harness.texts.shown",
    "shown": "harness.texts.shown",
    "template_digest": "harness.artifacts.digests",
    "text_of": "harness.records.findings",
    "told_error": "harness.workers.protocol",
    "told_ref": "harness.workers.protocol",
    "trainer": "harness.capabilities",
    "meant_otherwise": "harness.artifacts.reads",
    "weight_files": "harness.artifacts.reads",
    "weights_digest": "harness.artifacts.digests",
    "whole_text": "harness.texts.shown:whole",
    "wire": "harness.answers.wire:",
    "write_steps": "harness.reports.training",
    "write_text": "harness.files",
    "Gate": "harness.records.gates",
    "Outcome": "harness.records.verdicts",
    "Verdict": "harness.records.verdicts",
    "Report": "harness.records.run",
    "sentence": "harness.reports.sentence:",
    "words": "harness.records.words:",
    "OnScale": "harness.records.scales",
    "Scaled": "harness.records.scales",
    "wilson": "harness.stats.tests",
    "markdown": "harness.texts.shown",
    "judge": "harness.gates.decide",
}
keep_old_paths()
__getattr__ = lazily(__name__, LATER)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def run(suite: str | Path, *, overrides: Sequence[str] = (), **options: Any) -> Run:
    """Run a suite as `harness run` would, without printing, and return the Run.

    `overrides` are `table.key=value`; `options` are the fields of `harness.pipeline.run.Options`. Raises
    UsageError on a mistake in the suite, the data or the options, RuntimeError where a plugin calls sys.exit().
    """
    from harness.pipeline.run import Options, run_suite

    try:
        return run_suite(Path(suite), Options(overrides=tuple(overrides), **options))
    except SystemExit as error:  # or the caller would end with the plugin's exit code
        raise RuntimeError(f"a plugin called sys.exit({error.code!r})") from error
