"""Train an adapter, or take the one that was made elsewhere."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness import schema
from harness.artifacts import kept
from harness.errors import ExitCode
from harness.evaluation.evaluate import evaluate
from harness.files import read_facts
from harness.pipeline.artifacts import artifacts_of, making
from harness.pipeline.checking import look, tell_findings
from harness.pipeline.record import Record, Stop
from harness.pipeline.session import Session
from harness.records.findings import Finding
from harness.records.frozen import isolated
from harness.records.models import ModelRef, Subject
from harness.release.seal import sealed
from harness.reports.training import LOGS, read_steps
from harness.texts.counts import counted

FACTS = "harness-adapter.json"  # in an adapter's folder: what its trainer noted


@dataclass(frozen=True)
class Trained:
    """The base with an adapter on it, or a whole model, in the session it was trained in; the note of its trainer."""

    session: Session
    ref: ModelRef
    facts: Mapping[str, Any]
    seconds: float


class _Ended(Exception):
    """The trainer told of an error, and is not to go on."""


def train(session: Session, record: Record) -> Trained | Stop:
    """Train, or take the adapter that was made elsewhere, and look at it."""
    begun = time.monotonic()
    made = _there(session) if session.suite.candidate else _train(session, record)
    if isinstance(made, Stop):
        return made
    seconds, (folder, facts) = time.monotonic() - begun, made
    adapter = _on_base(session, folder)
    return look(session, record, "adapter", adapter=adapter) or Trained(session, adapter, facts, seconds)


def _there(session: Session) -> tuple[Path, dict[str, Any]]:
    """Return the folder of an adapter that was made elsewhere; nothing is known of its training."""
    return artifacts_of(session).adapter, {}


def _on_base(session: Session, folder: Path) -> ModelRef:
    """Return the base as trained, with the adapter on it; or the model, where all weights were trained."""
    base, made = session.base, session.opened.adapter
    if session.collection.whole:
        return sealed(ModelRef("merged", str(folder), options=base.options))
    assert made  # there is no adapter candidate without one
    return sealed(replace(base, name="adapter", adapter=folder, quantization=made.quantization), base=base.digest)


def _train(session: Session, record: Record) -> tuple[Path, dict[str, Any]] | Stop:
    """Train into the work folder of exactly this recipe, unless it holds the finished adapter already."""
    train, training, out = session.suite.train, session.collection.training, artifacts_of(session).adapter
    assert train and training is not None
    with making(session, record, out) as whole, record.stage("train", _detail(train.use, len(training), whole)):
        if whole:
            facts = {"reused": str(out), **read_facts(out / FACTS)}
        else:
            if stop := _call_trainer(session, record, out):
                return stop
            if not kept.is_sealed(out):
                kept.seal(out)
            facts = read_facts(out / FACTS)
        facts |= keep_logs(session, record, out.parent / LOGS)
        record.fact("training", facts)
        record.add(training=read_steps(out))
    return out, facts


def _detail(use: str, rows: int, whole: bool) -> str:
    """Return what a person reads of the stage: nothing is trained where the adapter of this recipe is there."""
    return "not again: the adapter of this recipe is there" if whole else f"{use}, {counted(rows, 'row')}"


def keep_logs(session: Session, record: Record, logs: Path) -> dict[str, str]:
    """Copy what a training logged into the run's folder, in place of another training's; return where it is."""
    if not logs.is_dir() or session.folder is None:
        return {}
    place = session.folder.path / "training"
    try:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(logs, place)
    except (OSError, shutil.Error) as error:
        record.warn(f'the training\'s logs stay in "{logs}": {error}')
        return {"logs": str(logs)}
    return {"logs": str(place)}


def _call_trainer(session: Session, record: Record, out: Path) -> Stop | None:
    """Let the trainer write an adapter; an error that it tells of while it trains ends the training."""
    train, training = session.suite.train, session.collection.training
    assert train and training is not None
    trainer = session.collection.plugins.find("trainer", train.use).function
    stops: list[Stop] = []

    def flag(code: str, one: Finding) -> None:
        if stop := tell_findings(record, [session.checks.stamped(code, one)], ExitCode.FAILED):
            stops.append(stop)
            raise _Ended

    given: dict[str, Any] = {"flag": flag} if schema.wants(trainer, "flag") else {}
    given |= {"watch": partial(_watched, session)} if train.watch else {}
    given |= {"progress": session.progress, "seed": session.suite.about.seed}
    try:
        rows, options = isolated(list(training)), isolated(dict(train.given))
        trainer(isolated(session.base), session.opened.adapter, rows, out, **given, **options)
    except _Ended:
        pass
    return stops[0] if stops else None


def _watched(session: Session, subject: Subject) -> dict[str, float]:
    """Measure a model in training on the first select rows of the evals that the suite watches."""
    train, found = session.suite.train, dict[str, float]()
    for name in train.watch if train else ():
        task = session.collection.tasks[name]
        assert train and task.select  # collection saw to it
        short = replace(task, samples=task.select[: train.watch_rows])
        result = evaluate(short, "training", subject, None, lambda _: None)
        found |= {f"{name}.{m}": math.nan if result.missing else v for m, v in result.metrics.items()}
    return found
