"""Train, merge and copy: where everything lies that exactly one recipe makes on exactly one base and data."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from harness import plugin_errors
from harness.answers import keys
from harness.artifacts import artifact_cache
from harness.errors import ExitCode
from harness.evaluation.live import evaluate_live, live_metrics
from harness.files import cache_dir, read_facts, replace_folder, write_text
from harness.pipeline.checking import record_findings, run_stage_checks
from harness.pipeline.measurements import read_measurements
from harness.pipeline.preflight import recipe_digest, supported_keywords
from harness.pipeline.record import StageStop
from harness.pipeline.run_context import RunContext
from harness.pipeline.session import Session
from harness.records.copies import detach_copy
from harness.records.findings import Finding
from harness.records.models import ModelRef, Progress, Subject
from harness.release import conversions
from harness.release.conversions import seal_candidate
from harness.reports.run_folder import TRAINING_LOGS, read_steps
from harness.suite.tables import MERGES, Export
from harness.texts.counts import count_noun
from harness.texts.json_text import dumps
from harness.texts.numbers import format_duration

FACTS = "harness-adapter.json"  # in an adapter's folder: what its trainer noted
MERGE_FILE = "harness-merge.json"  # how a merged model compares with its adapter


@dataclass(frozen=True)
class Artifacts:
    """Paths of a session's adapter, its merged models and their copies. None of them need exist yet."""

    session: Session

    @cached_property
    def work(self) -> Path:
        """Return the folder of this recipe.

        It is named by a digest of everything that a trained adapter depends on.
        """
        recipe = recipe_digest(self.session.collection, self.session.opened, keys.library_versions())
        return cache_dir() / "trained" / recipe[:16]

    @property
    def adapter(self) -> Path:
        """Return the folder of the adapter, trained or made elsewhere.

        If all weights are trained, it is the folder of the model.
        """
        suite = self.session.suite
        if suite.candidate and suite.candidate.adapter:
            return suite.resolve(suite.candidate.adapter)
        return self.work / ("merged" if self.session.collection.trains_all_weights else "adapter")

    def merged(self, variant: str) -> Path:
        """Return the folder of the merge onto a base variant. It does not depend on the candidate's name."""
        return self.work / ("merged" if self.session.collection.trains_all_weights else f"merged-{variant}")

    def copy(self, declared: Export, parent: ModelRef) -> Path:
        """Return the folder of an export's copy of a candidate. It depends on the candidate's weights too."""
        exporter = self.session.collection.plugins.find("exporter", declared.use).function
        return conversions.copy_folder(self.work, declared, parent, exporter)


@dataclass(frozen=True)
class Trained:
    """A trained adapter or whole model, with its run and trainer's note."""

    run: RunContext
    ref: ModelRef
    facts: Mapping[str, Any]
    seconds: float


class _WorkerEndedError(Exception):
    """A signal that stops a trainer after it flagged an error."""


def train_adapter(run: RunContext) -> Trained | StageStop:
    """Train this recipe's adapter, unless it exists, and check it.

    An adapter that was made elsewhere is taken instead.
    """
    begun, base, made = time.monotonic(), run.session.base, run.session.opened.adapter
    # Where it lies is asked before it is trained: what a trainer does to the base's folder makes another recipe.
    folder = Artifacts(run.session).adapter
    facts: dict[str, Any] = {}
    if not run.suite.candidate:
        table, rows, found = run.suite.train, run.collection.training, run.record.run
        assert table and rows is not None
        again, anew = "reusing the adapter of this recipe", f"{table.use}, {count_noun(len(rows), 'row')}"
        with (
            _lock_and_check_artifact(run, folder) as whole,
            run.record.stage("train", again if whole else anew + _describe_expected_time(run)),
        ):
            if not whole and (stop := _call_trainer(run, folder)):
                return stop
            if not whole and not artifact_cache.is_sealed(folder):
                artifact_cache.seal_folder(folder)
            facts = {"reused": str(folder)} if whole else {}
            facts |= read_facts(folder / FACTS) | copy_training_logs(run, folder.parent / TRAINING_LOGS)
            found.facts["training"] = facts
            found.training = read_steps(folder) or found.training
    seconds = time.monotonic() - begun
    if run.collection.trains_all_weights:
        ref = seal_candidate(ModelRef("merged", str(folder), options=base.options))
    else:
        assert made  # there is no adapter candidate without one
        ref = seal_candidate(
            replace(base, name="adapter", adapter=folder, quantization=made.quantization), base=base.digest
        )
    return run_stage_checks(run, "adapter", adapter=ref) or Trained(run, ref, facts, seconds)


def merge_adapter(run: RunContext, adapter: ModelRef, variant: str) -> ModelRef | StageStop:
    """Merge an adapter onto a base variant, and check the result.

    An intact merge is reused. Checks compare it with the model that it must equal.
    """
    name, made = run.suite.merged(variant), run.session.opened.adapter
    assert adapter.adapter and made and variant in MERGES
    out, onto = Artifacts(run.session).merged(variant), f"onto the {variant} base"
    again = f"reusing the merge {onto}"
    with _lock_and_check_artifact(run, out) as whole, run.record.stage("merge", again if whole else onto):
        if not whole:
            told = {"progress": run.session.progress}
            with replace_folder(out) as folder:
                made.merge(
                    adapter.path, adapter.adapter, folder, variant=variant, **supported_keywords(made.merge, told)
                )
                if verify := getattr(made, "verify", None):
                    facts = verify(
                        adapter.path, adapter.adapter, folder, variant=variant, **supported_keywords(verify, told)
                    )
                    write_text(folder / MERGE_FILE, dumps({"facts": facts}))
                artifact_cache.seal_folder(folder, out)
        if facts := read_facts(out / MERGE_FILE):
            run.record.run.facts[name] = facts
        merged = seal_candidate(ModelRef(name, str(out), options=adapter.options))
    twin = replace(adapter, quantization=None) if variant == "original" else adapter
    return run_stage_checks(run, "merged", merged=merged, twin=twin) or merged


def make_copy(run: RunContext, parent: ModelRef, declared: Export) -> ModelRef:
    """Have an exporter convert a candidate, reusing an existing copy. Returns the copy as it is on disk."""
    exporter = run.collection.plugins.find("exporter", declared.use).function
    with run.record.stage("copy", f"{declared.name} of {parent.name}"):
        out = Artifacts(run.session).copy(declared, parent)
        with _lock_and_check_artifact(run, out):
            ref = conversions.make_copy(declared, parent, exporter, out, run.session.progress)
        run.record.run.facts[declared.name] = read_facts(out / conversions.CONVERSION_NOTES)
        return ref


def copy_training_logs(run: RunContext, logs: Path) -> dict[str, str]:
    """Copy a training's logs into the run's folder.

    They replace those of another training. Returns their path, as a fact of the training.
    """
    if not logs.is_dir() or run.session.folder is None:
        return {}
    place = run.session.folder.path / "training"
    try:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(logs, place)
    except (OSError, shutil.Error) as error:
        run.record.warn(f'the training\'s logs remain in "{logs}": {error}')
        return {"logs": str(logs)}
    return {"logs": str(place)}


@contextmanager
def _lock_and_check_artifact(run: RunContext, out: Path) -> Iterator[bool]:
    """Lock the work folder, and yield whether an artifact is intact."""
    with artifact_cache.lock_work_folder(
        out.parent, lambda line: run.session.progress(Progress("waiting", 0, 0, remark=line))
    ):
        yield artifact_cache.is_intact(out, run.record.warn)


def _describe_expected_time(run: RunContext) -> str:
    """Describe the training time that `harness plan` measured, if it did."""
    own = "full" if run.collection.trains_all_weights else run.suite.adapter and run.suite.adapter.use
    seconds = [one.total_seconds for one in read_measurements(run.session, own or "").values() if one.total_seconds]
    return "".join(f"; about {format_duration(s)}, as measured by harness plan" for s in seconds)


def _call_trainer(run: RunContext, out: Path) -> StageStop | None:
    """Run the trainer, and stop it at an error that it flags. Raises UsageError if it writes no *.safetensors."""
    session, table, training = run.session, run.suite.train, run.collection.training
    assert table and training is not None
    trainer = run.collection.plugins.find("trainer", table.use).function
    stops: list[StageStop] = []

    def flag(code: str, one: Finding) -> None:
        if stop := record_findings(run.record, [session.checks.complete_finding(code, one)], ExitCode.FAILED):
            stops.append(stop)
            raise _WorkerEndedError

    given = supported_keywords(trainer, {"flag": flag})
    given |= {"progress": session.progress, "seed": run.suite.training_seed}
    given |= {"watch": partial(_measure_watched, session)} if table.watch else {}
    with suppress(_WorkerEndedError):
        rows, options = detach_copy(list(training)), detach_copy(dict(table.given))
        made = trainer(detach_copy(session.base), session.opened.adapter, rows, out, **given, **options)
        if not any(out.rglob("*.safetensors")):
            what = f" wrote no *.safetensors into its output folder {out}, and returned {made}"
            raise plugin_errors.plugin_error(trainer, what)
    return stops[0] if stops else None


def _measure_watched(session: Session, subject: Subject) -> dict[str, float]:
    """Measure a model in training on the watched evals' select rows.

    Only the first `watch_rows` of them are used.
    """
    train = session.suite.train
    assert train
    tasks = [session.collection.tasks[name] for name in train.watch]
    return live_metrics(evaluate_live(tasks, subject, train.watch_rows))
