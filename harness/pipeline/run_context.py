"""A run in progress, and the operations that all stages share.

They ask a subject, mark its answers, decide its gates and report it.
"""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from harness import plugin_errors
from harness.answers.cache import CachedSubject, StageModels, count_requests, uncached
from harness.artifacts.attestation import LOCK
from harness.collection import select
from harness.collection.collection import Collection, Item
from harness.data.fewshot import FewShot
from harness.errors import PLUGIN_ERRORS, CheckFailedError, ExitCode, UsageError, WorkersGoneError, resource_error
from harness.evaluation import grading
from harness.evaluation.evaluate import evaluate, metrics_by_slice, standard_errors
from harness.files import write_text
from harness.pipeline.adjudication import Adjudicator
from harness.pipeline.attempt import list_claimed_attempts
from harness.pipeline.record import PendingAnswers, Record, StageStop
from harness.pipeline.session import Session
from harness.records.claims.failures import find_fractional_score
from harness.records.copies import detach_copy
from harness.records.models import Subject
from harness.records.run import ItemResult
from harness.records.samples import Result, rows_digest
from harness.records.verdicts import Outcome
from harness.release.lock_writer import make_lock
from harness.suite.tables import Suite
from harness.texts.json_text import dumps


class ErrorDescription(NamedTuple):
    """The message of an error, and its traceback for a bug."""

    message: str
    traceback: str | None


@dataclass(frozen=True)
class RunContext:
    """A run under way: what its stages may use, what it found so far, and who decides what ships."""

    session: Session
    record: Record
    adjudicator: Adjudicator

    @property
    def suite(self) -> Suite:
        return self.session.suite

    @property
    def collection(self) -> Collection:
        return self.session.collection

    def ask(self, item: Item, models: StageModels, subject: Subject) -> None:
        """Collect a subject's answers, to mark once it is freed.

        An exception takes their place, unless every evaluation would raise it.
        """
        session, task, before = self.session, self.collection.tasks[item.eval], count_requests(subject)
        answers: Result | BaseException
        try:
            answers = grading.generate_answers(
                task, item.subject, session.with_examples(item, subject), session.progress
            )
        except PLUGIN_ERRORS as error:
            if is_fatal(error, models):
                raise
            answers = error
        self._collect_model_notes_and_facts(models)
        asked, found = (now - then for now, then in zip(count_requests(subject), before, strict=True))
        self.record.answers[item.subject, item.eval] = PendingAnswers(
            answers, asked, found, self._map_rows_to_sent_prompts(item, subject)
        )

    def evaluate(
        self, item: Item, models: StageModels, subject: Subject | None = None, against: Subject | None = None
    ) -> ItemResult:
        """Evaluate an item, decide its gates, and report it.

        Without a subject, collected answers are marked. The item's rows go to the run's folder. An evaluator's
        exception becomes the report's error; one that every evaluation of these models would raise propagates.
        """
        task, record = self.collection.tasks[item.eval], self.record
        begun, before = time.monotonic(), self._count_requests_and_hits(subject)
        try:
            result = self._evaluate_or_grade_item(item, subject, against)
            if item.subject in self.collection.baselines:
                self._require_zero_one_scores(result)
        except PLUGIN_ERRORS as error:
            if is_fatal(error, models):
                raise
            self._collect_model_notes_and_facts(models)
            return self.record_crash(item, error, time.monotonic() - begun)
        self._collect_model_notes_and_facts(models)
        self.adjudicator.results[item.subject, item.eval] = result
        earlier = record.answers.get((item.subject, item.eval))  # what is asked now is asked of a judge
        assert task.samples is not None and self.session.folder  # preflight read what was remote
        remarks = task.capabilities.remarks
        for line in (
            plugin_errors.checked_items(remarks, remarks(detach_copy(result.scores)), str, "lines of text")
            if remarks
            else ()
        ):
            record.warn(f"{item.subject}::{item.eval}: {line}")
        sent = earlier.sent if earlier else self._map_rows_to_sent_prompts(item, subject) if subject else {}
        self.session.folder.add(result, task.samples, task.metrics, sent)
        asked, remembered = (
            now - then for now, then in zip(self._count_requests_and_hits(subject), before, strict=True)
        )
        missing = f"{len(result.missing)} of {len(task.samples)} rows have no score" if result.missing else None
        reasons = Counter[str](answer.finish_reason for answer in result.answers)
        report = ItemResult(
            item.id, item.subject, item.eval, "error" if missing else "done",
            dict(result.metrics), standard_errors(task, result),
            metrics_by_slice(task, result) if result.metrics else {},
            {m.name: m.better for m in task.metrics.values()}, self.adjudicator.on_evaluation_end(item),
            n=len(result.scores), of=len(task.samples), seconds=result.seconds,
            requests=asked + (earlier.requests if earlier else 0),
            cache_hits=remembered + (earlier.cache_hits if earlier else 0),
            error=missing, caveats=tuple(c.text for c in result.caveats),
            finish_reasons=dict(reasons) if any(reasons) else {},
        )  # fmt: skip
        self._run_result_checks(item, result)
        record.add(report)
        return report

    def skip(self, items: Sequence[Item], why: str) -> None:
        """Report the items of a subject that is not there."""
        for item in items:
            self.record.add(ItemResult(item.id, item.subject, item.eval, "skipped", error=why))

    def record_crash(self, item: Item, error: BaseException, seconds: float = 0.0) -> ItemResult:
        """Report an evaluation that raised."""
        why, trace = describe_error(error)
        why = why if trace else f"{self.collection.tasks[item.eval].spec.where}: {why}"
        return self.record_failure(item, why, trace, seconds)

    def record_failure(self, item: Item, why: str, trace: str | None, seconds: float = 0.0) -> ItemResult:
        """Report an evaluation without a result, and decide its waiting gates."""
        verdicts, about = self.adjudicator.on_evaluation_end(item), (item.id, item.subject, item.eval)
        report = ItemResult(*about, "error", verdicts=verdicts, seconds=seconds, error=why, traceback=trace)
        self.record.add(report)
        return report

    def stop_on_maxfail(self) -> StageStop | None:
        """Stop at `-x` or `--maxfail`: then a failure counts also where it is of a candidate that no export ships."""
        if not (most := self.session.options.maxfail) or sum(map(select.has_failed, self.record.run.results)) < most:
            return None
        refuted = any(v.not_passed and v.outcome is Outcome.FAIL for v in self.adjudicator.verdicts)
        return StageStop(ExitCode.FAILED) if refuted else StageStop()

    def write_lock(self) -> None:
        """Write the lock, and keep the digests of all rows. It is written before there is a candidate to please."""
        assert self.session.folder
        tasks = self.collection.tasks.items()
        attempts = list_claimed_attempts(self.adjudicator.claims)
        text = dumps(make_lock(self.collection, self.record.snapshot(), attempts, self.adjudicator.leaks))
        write_text(self.session.folder.path / LOCK, text)
        self.record.lock = text.encode()
        self.record.locked_rows = {name: rows_digest(t.samples) for name, t in tasks if t.samples is not None}

    def make_marking(self, item: Item, *, rehearsal: bool = False) -> grading.Marking:
        """Make the context that a marking evaluator gets."""
        suite, what = self.suite, f"rehearsal::{item.eval}" if rehearsal else item.id
        place = (suite.model.path, suite.path.parent, suite.header.seed)
        kept = self.session.kept.setdefault(item.eval, {})
        return grading.Marking(what, *place, self.session.responses, self.session.progress, rehearsal, kept)

    def _count_requests_and_hits(self, subject: Subject | None) -> tuple[int, int]:
        """Count the requests and cache hits of a subject. Without a subject, they are those of the judges."""
        if subject is not None or self.session.responses is None:
            return count_requests(subject)
        return self.session.responses.asked, self.session.responses.found

    def _evaluate_or_grade_item(self, item: Item, subject: Subject | None, against: Subject | None) -> Result:
        task, answers = self.collection.tasks[item.eval], self.record.answers
        if subject is not None and not task.marks:
            if task.uncached:
                subject, against = uncached(subject), uncached(against) if against else None
            early = task.spec.stop == "early" and item.subject in self.collection.candidates
            decided = partial(self.adjudicator.is_settled, item) if early else None
            asked, progress = self.session.with_examples(item, subject), self.session.progress
            return evaluate(task, item.subject, asked, against, progress, enough=decided)
        # Stored answers are marked: alone, or paired with those of another subject.
        other, answered = task.spec.against, answers[item.subject, item.eval].result
        if task.marks != "pairs":
            baseline = None
        elif item.subject == other:
            baseline = answered  # a model is not compared with itself
        elif (other, item.eval) in answers:
            baseline = answers[other, item.eval].result
        else:
            why = self.session.opened.lacking.get(other, f'baseline "{other}" was not evaluated')
            raise UsageError(f"there is no baseline to compare with: {why}")
        for found in (answered, baseline):
            if isinstance(found, BaseException):
                raise found
        assert isinstance(answered, Result) and not isinstance(baseline, BaseException)
        return (
            answered
            if baseline is answered
            else grading.grade_answers(task, answered, baseline, self.make_marking(item))
        )

    def _require_zero_one_scores(self, result: Result) -> None:
        """Raise UsageError if `max_failures` would count scores other than 0/1.

        It is checked on baselines, so a mistake shows before training.
        """
        of = (g for g in self.suite.gates if g.eval == result.eval)
        for gate in (g for g in of if g.max_failures is not None and g.cap is None):
            if odd := find_fractional_score(gate.metric_name, result.scores):
                what = f"max_failures counts rows of a 0/1 metric, but {odd}"
                raise UsageError(f'gate "{gate.id}": {what}; claim min or max')

    def _collect_model_notes_and_facts(self, models: StageModels) -> None:
        """Record the warnings and facts of loaded models. Facts may be added while a model answers."""
        facts = self.record.run.facts
        self.record.run.warnings += models.notes()
        for subject in models.loaded:
            place = "model" if subject.name == "base" else subject.name
            if isinstance(told := getattr(subject, "facts", None), Mapping) and told:
                facts[place] = {**facts.get(place, {}), **told}

    def _map_rows_to_sent_prompts(self, item: Item, subject: Subject) -> dict[str, str]:
        """Return an item's prompts as sent to its subject, by row.

        Rows are left out if the subject does not know their prompts.
        """
        if not isinstance(subject, CachedSubject):
            return {}
        rows = [s for s in self.collection.tasks[item.eval].samples or () if s.input]
        asked = self.session.with_examples(item, subject)
        assert isinstance(asked, (CachedSubject, FewShot))
        told = asked.pop_sent_prompts([s.input for s in rows])
        return {s.id: text for s, text in zip(rows, told, strict=True) if text is not None}

    def _run_result_checks(self, item: Item, result: Result) -> None:
        """Run the checks on a result.

        Errors on baselines become notes, since they need not stop a run. Equal warnings are recorded once.
        """
        task, reference = self.collection.tasks[item.eval], self.adjudicator.results.get(("base", item.eval))
        facts = self.record.run.facts
        for one in self.session.checks.run("results", result=result, task=task, reference=reference, facts=facts):
            if item.subject not in self.collection.candidates and one.severity == "error":
                one = replace(one, severity="note")
            if one.severity != "warning" or one not in self.record.run.findings:
                self.record.add(one)


def describe_error(error: BaseException) -> ErrorDescription:
    """Return the message and traceback of an error.

    A UsageError or CheckFailedError, a fault of the user or the model, needs no traceback.
    """
    if isinstance(error, (UsageError, CheckFailedError)):  # these say all there is to know
        return ErrorDescription(str(error), None)
    return ErrorDescription(
        plugin_errors.error_location(error) or f"{type(error).__name__}: {error}",
        "".join(traceback.format_exception(error)),
    )


def is_fatal(error: BaseException, models: StageModels | None) -> bool:
    """Return whether every other evaluation would raise the same error.

    It is so if the model, its workers, disk space or memory is gone.
    """
    gone = isinstance(error, WorkersGoneError) or (models is not None and error is models.broken)
    return gone or bool(resource_error(error))
