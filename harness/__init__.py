"""Decide whether a fine-tuned language model may ship: `run`, and everything that a plugin may import.

A name is looked up when it is asked for, so that a plugin that is listed costs no more than its own module;
the imports below say where each is defined.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.lazy import attach_lazily
from harness.version import __version__ as __version__

if TYPE_CHECKING:
    from typing import Literal

    from harness.answers.store import Responses as Responses
    from harness.artifacts.digests import digest_value as digest_value
    from harness.artifacts.digests import weights_digest as weights_digest
    from harness.capabilities import adapter as adapter
    from harness.capabilities import checker as checker
    from harness.capabilities import evaluator as evaluator
    from harness.capabilities import exporter as exporter
    from harness.capabilities import loader as loader
    from harness.capabilities import trainer as trainer
    from harness.data.encoding import AnswerTokens as AnswerTokens
    from harness.data.encoding import cut_answer as cut_answer
    from harness.data.pypi import fetch_wheel as fetch_wheel
    from harness.data.rows import GROUP as GROUP
    from harness.data.rows import HELD_OUT as HELD_OUT
    from harness.data.rows import target_as_continuation as target_as_continuation
    from harness.document import Document as Document
    from harness.errors import CheckFailedError as CheckFailedError
    from harness.errors import ExitCode as ExitCode
    from harness.errors import Mistakes as Mistakes
    from harness.errors import UsageError as UsageError
    from harness.errors import did_you_mean as did_you_mean
    from harness.evaluation.checks import quote_text as quote_text
    from harness.evaluation.grading import Marking as Marking
    from harness.files import cache_dir as cache_dir
    from harness.files import write_text as write_text
    from harness.hookspec import hookimpl as hookimpl
    from harness.protocols import AdapterFactory as AdapterFactory
    from harness.protocols import BaseEvaluator as BaseEvaluator
    from harness.protocols import BaseExporter as BaseExporter
    from harness.protocols import BaseLoader as BaseLoader
    from harness.protocols import BaseTrainer as BaseTrainer
    from harness.protocols import Check as Check
    from harness.protocols import CheckedSuite as CheckedSuite
    from harness.protocols import CheckedTask as CheckedTask
    from harness.protocols import EvalTable as EvalTable
    from harness.protocols import Evaluator as Evaluator
    from harness.protocols import Exporter as Exporter
    from harness.protocols import Loader as Loader
    from harness.protocols import LoadModels as LoadModels
    from harness.protocols import Marker as Marker
    from harness.protocols import OnFinding as OnFinding
    from harness.protocols import OnProgress as OnProgress
    from harness.protocols import Options as Options
    from harness.protocols import PluginTable as PluginTable
    from harness.protocols import Saboteur as Saboteur
    from harness.protocols import Trainer as Trainer
    from harness.protocols import Watch as Watch
    from harness.protocols import Worker as Worker
    from harness.protocols import WorkerBackend as WorkerBackend
    from harness.protocols import Workers as Workers
    from harness.records.changes import Change as Change
    from harness.records.claims.gate import BestCase as BestCase
    from harness.records.claims.gate import ClaimTerms as ClaimTerms
    from harness.records.claims.gate import ClaimType as ClaimType
    from harness.records.claims.gate import Gate as Gate
    from harness.records.claims.gate import Oriented as Oriented
    from harness.records.claims.gate import Units as Units
    from harness.records.completion import Completion as Completion
    from harness.records.completion import FinishReason as FinishReason
    from harness.records.findings import Built as Built
    from harness.records.findings import Example as Example
    from harness.records.findings import Finding as Finding
    from harness.records.findings import FindingNames as FindingNames
    from harness.records.findings import Severity as Severity
    from harness.records.findings import TrainingRow as TrainingRow
    from harness.records.metrics import Better as Better
    from harness.records.metrics import Metric as Metric
    from harness.records.metrics import metric as metric
    from harness.records.models import Adapter as Adapter
    from harness.records.models import Distributions as Distributions
    from harness.records.models import ExtendedSubject as ExtendedSubject
    from harness.records.models import Generate as Generate
    from harness.records.models import Generation as Generation
    from harness.records.models import Logprob as Logprob
    from harness.records.models import ModelRef as ModelRef
    from harness.records.models import Progress as Progress
    from harness.records.models import Sampling as Sampling
    from harness.records.models import Seal as Seal
    from harness.records.models import Source as Source
    from harness.records.models import Subject as Subject
    from harness.records.models import ThoughtBudget as ThoughtBudget
    from harness.records.outcomes import Outcome as Outcome
    from harness.records.parts.part import Part as Part
    from harness.records.parts.part import Slot as Slot
    from harness.records.parts.part import TableRow as TableRow
    from harness.records.parts.slices import Slice as Slice
    from harness.records.result_text import TestedResult as TestedResult
    from harness.records.run import Exported as Exported
    from harness.records.run import ItemResult as ItemResult
    from harness.records.run import Run as Run
    from harness.records.run import Segment as Segment
    from harness.records.run import ShownRow as ShownRow
    from harness.records.run import Swept as Swept
    from harness.records.run import TrainingStep as TrainingStep
    from harness.records.run import Trial as Trial
    from harness.records.samples import Caveat as Caveat
    from harness.records.samples import Draw as Draw
    from harness.records.samples import Labels as Labels
    from harness.records.samples import Prompt as Prompt
    from harness.records.samples import Result as Result
    from harness.records.samples import Sample as Sample
    from harness.records.samples import Score as Score
    from harness.records.scales import Scale as Scale
    from harness.records.scales import Scaled as Scaled
    from harness.records.verdicts import Risk as Risk
    from harness.records.verdicts import Verdict as Verdict
    from harness.records.waivers import Waiver as Waiver
    from harness.release.conversions import CONVERSION_NOTES as CONVERSION_NOTES
    from harness.release.conversions import copy_files as copy_files
    from harness.reports.report_json import read_run as read_run
    from harness.reports.run_folder import TRAINING_LOGS as TRAINING_LOGS
    from harness.reports.run_folder import write_steps as write_steps
    from harness.rows.api import GateResult as GateResult
    from harness.stats.result import Test as Test
    from harness.stats.values import Bounds as Bounds
    from harness.stats.values import PValues as PValues
    from harness.stats.values import Range as Range
    from harness.workers.child import WorkerServer as WorkerServer
    from harness.workers.protocol import WorkerLostError as WorkerLostError
    from harness.workers.protocol import is_heartbeat as is_heartbeat


__getattr__, _names = attach_lazily(__name__, __file__)
__all__ = [*_names, "gate", "run"]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def run(
    suite: str | Path,
    *,
    overrides: Sequence[str] = (),
    candidate: str | Path | None = None,
    candidates: Sequence[str | Path] = (),
    out: str | Path = "reports",
    keyword: str = "",
    maxfail: int = 0,
    last_failed: bool = False,
    limit: int | None = None,
    export: bool = True,
    select: bool = False,
    cache: bool = True,
    plugins: Sequence[str] = (),
    on: str = "",
    patience: float = 600.0,
    ignore: Sequence[str] = (),
    junit_xml: str | Path | None = None,
    listeners: Sequence[object] = (),
) -> Run:
    """Run a suite as `harness run` does, without printing.

    `overrides` are "table.key=value". `candidate` is a folder that is gated instead of training; of several
    `candidates`, the best on the select rows is gated. `keyword` is an expression such as "merged and not quiz"; with
    `last_failed`, only items that failed before run. `limit` is the number of rows of each evaluation. `plugins` are
    module names, or "no:NAME". `on` is "NAME:PLACE" of a worker backend, `patience` is in seconds. `ignore` has codes
    of checks. `listeners` are plugin objects with hooks to call.

    Raises UsageError for a mistake in the suite, the data or the options, RuntimeError if a plugin calls sys.exit().
    """
    from harness.pipeline.run import Options, run_suite

    options = Options(
        overrides=tuple(overrides),
        candidate=None if candidate is None else str(candidate),
        candidates=tuple(map(str, candidates)),
        out=Path(out),
        keyword=keyword,
        maxfail=maxfail,
        last_failed=last_failed,
        limit=limit,
        export=export,
        select=select,
        cache=cache,
        plugins=tuple(plugins),
        on=on,
        patience=patience,
        ignore=tuple(ignore),
        junit_xml=None if junit_xml is None else Path(junit_xml),
        listeners=tuple(listeners),
    )
    try:
        return run_suite(Path(suite), options)
    except SystemExit as error:  # or the caller would end with the plugin's exit code
        raise RuntimeError(f"a plugin called sys.exit({error.code!r})") from error


def gate(
    base: Any,
    candidate: Any = None,
    *,
    worse_by_at_most: float | str | None = None,
    better_by: float | str | None = None,
    min: float | None = None,
    max: float | None = None,
    cap: float | None = None,
    range: Sequence[float] | None = None,
    alpha: float = 0.05,
    metric: str = "",
    tool: str = "",
    better: Literal["higher", "lower"] | None = None,
    scale: Literal["proportion", "mean", "perplexity"] | None = None,
    id: str | None = None,
    score: str | None = None,
    input: str | None = None,
    target: str | None = None,
    answer: str | None = None,
    base_score: str | None = None,
    candidate_score: str | None = None,
    weight: str | None = None,
    repeat: str | None = None,
    repeats: int = 0,
    cluster: str | Sequence[str] | None = None,
    slice: str | Sequence[str] = (),
    missing: Literal["refuse", "wrong"] = "refuse",
    allow: str | Sequence[str] = (),
    only_common: bool = False,
) -> GateResult:
    """Gate rows scored by another tool, as `harness gate` does.

    Nothing is printed. Rows are a path, a list of dicts, a mapping of names to scores, or a frame of pandas, polars or
    Arrow; a single argument is the candidate, for `min` or `max`. Exactly one claim is given: `worse_by_at_most`,
    `better_by` (in the metric's units, or a share such as "2%"), `min` or `max`. `alpha` is the risk that a model on
    the limit passes, `range` the lowest and highest score of a row, `metric` "TASK:NAME[,FILTER]", `tool` the format of
    the files. `id`, `score`, `input`, `target`, `answer`, `weight`, `repeat`, `cluster` and `slice` name columns,
    `base_score` and `candidate_score` those of each side in one table ("a.b" is b in the objects of a). The call counts
    as an attempt.

    Raises UsageError if the rows cannot be read, paired or compared fairly, or the claim is missing or wrong.
    """
    given = dict(locals())
    from harness.rows import api

    return api.gate_rows(**given)
