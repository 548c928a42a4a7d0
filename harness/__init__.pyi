"""What a plugin may import, and stays under semantic versioning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.artifacts.digests import digest_of as digest_of
from harness.capabilities import adapter as adapter
from harness.capabilities import checker as checker
from harness.capabilities import evaluator as evaluator
from harness.capabilities import exporter as exporter
from harness.capabilities import loader as loader
from harness.capabilities import trainer as trainer
from harness.claims.gate import Gate as Gate
from harness.data.pypi import fetch_wheel as fetch_wheel
from harness.data.rows import continuation as continuation
from harness.errors import CheckFailed as CheckFailed
from harness.errors import ExitCode as ExitCode
from harness.errors import Mistakes as Mistakes
from harness.errors import UsageError as UsageError
from harness.errors import did_you_mean as did_you_mean
from harness.evaluation.checks import quote as quote
from harness.evaluation.grading import Marking as Marking
from harness.files import cache_dir as cache_dir
from harness.files import write_text as write_text
from harness.hookspec import hookimpl as hookimpl
from harness.records.findings import Built as Built
from harness.records.findings import Example as Example
from harness.records.findings import Finding as Finding
from harness.records.findings import TrainingRow as TrainingRow
from harness.records.metrics import Metric as Metric
from harness.records.metrics import metric as metric
from harness.records.models import Adapter as Adapter
from harness.records.models import Generate as Generate
from harness.records.models import Generation as Generation
from harness.records.models import Logprob as Logprob
from harness.records.models import ModelRef as ModelRef
from harness.records.models import Progress as Progress
from harness.records.models import Sampling as Sampling
from harness.records.models import Subject as Subject
from harness.records.run import ItemResult as ItemResult
from harness.records.run import Run as Run
from harness.records.run import TrainingStep as TrainingStep
from harness.records.said import Said as Said
from harness.records.samples import Caveat as Caveat
from harness.records.samples import Labels as Labels
from harness.records.samples import Prompt as Prompt
from harness.records.samples import Result as Result
from harness.records.samples import Sample as Sample
from harness.records.samples import Score as Score
from harness.records.scales import Scale as Scale
from harness.records.verdicts import Outcome as Outcome
from harness.records.verdicts import Verdict as Verdict
from harness.reports.report_json import read_run as read_run
from harness.reports.run_folder import write_steps as write_steps
from harness_rows.gated import Gated

__all__ = [
    "Adapter",
    "Built",
    "Caveat",
    "CheckFailed",
    "Example",
    "ExitCode",
    "Finding",
    "Gate",
    "Generate",
    "Generation",
    "ItemResult",
    "Labels",
    "Logprob",
    "Marking",
    "Metric",
    "Mistakes",
    "ModelRef",
    "Outcome",
    "Progress",
    "Prompt",
    "Result",
    "Run",
    "Said",
    "Sample",
    "Sampling",
    "Scale",
    "Score",
    "Subject",
    "TrainingRow",
    "TrainingStep",
    "UsageError",
    "Verdict",
    "adapter",
    "cache_dir",
    "checker",
    "continuation",
    "did_you_mean",
    "digest_of",
    "evaluator",
    "exporter",
    "fetch_wheel",
    "gate",
    "hookimpl",
    "loader",
    "metric",
    "quote",
    "read_run",
    "run",
    "trainer",
    "write_steps",
    "write_text",
]

__version__: str

def gate(base: Any, candidate: Any = None, **said: Any) -> Gated: ...
def run(suite: str | Path, *, overrides: Sequence[str] = (), **options: Any) -> Run: ...
