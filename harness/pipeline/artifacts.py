"""Train, merge and copy: where everything lies that exactly one recipe makes on exactly one base and data."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from harness import blame
from harness.answers import keys
from harness.artifacts import kept
from harness.errors import ExitCode
from harness.evaluation.evaluate import evaluate
from harness.files import cache_dir, folder_in_place, read_facts, write_text
from harness.parts import part
from harness.pipeline.checking import look, tell_findings
from harness.pipeline.execution import Execution
from harness.pipeline.preflight import recipe_digest, wanted
from harness.pipeline.record import Stop
from harness.pipeline.session import Session
from harness.records.findings import Finding
from harness.records.frozen import isolated
from harness.records.models import ModelRef, Progress, Subject
from harness.release import conversions
from harness.release.conversions import sealed
from harness.reports.report_json import dumps
from harness.reports.run_folder import LOGS, read_steps
from harness.suite.tables import MERGES, Export
from harness.texts.counts import counted
from harness.texts.numbers import duration

FACTS = "harness-adapter.json"  # in an adapter's folder: what its trainer noted
MERGED = "harness-merge.json"  # how a merged model compares with its adapter


@dataclass(frozen=True)
class Artifacts:
    """The places of a session's trained adapter, its merged models and the copies of these; none need be there yet."""

    session: Session

    @cached_property
    def work(self) -> Path:
        """Return the folder of this recipe; its digest holds all that a trained adapter depends on."""
        recipe = recipe_digest(self.session.collection, self.session.opened, keys.versions())
        return cache_dir() / "trained" / recipe[:16]

    @property
    def adapter(self) -> Path:
        """Return the folder of the adapter, trained or made elsewhere; of the model where all weights are trained."""
        suite = self.session.suite
        if suite.candidate and suite.candidate.adapter:
            return suite.resolve(suite.candidate.adapter)
        return self.work / ("merged" if self.session.collection.whole else "adapter")

    def merged(self, variant: str) -> Path:
        """Return the folder of the merge onto a variant of the base, whatever the candidate is called."""
        return self.work / ("merged" if self.session.collection.whole else f"merged-{variant}")

    def copy(self, declared: Export, parent: ModelRef) -> Path:
        """Return the folder of what an export makes of a candidate; it depends on the candidate's weights too."""
        exporter = self.session.collection.plugins.find("exporter", declared.use).function
        return conversions.folder_of(self.work, declared, parent, exporter)


@dataclass(frozen=True)
class Trained:
    """The base with an adapter on it, or a whole model, in the run it was trained in; the note of its trainer."""

    run: Execution
    ref: ModelRef
    facts: Mapping[str, Any]
    seconds: float


class _Ended(Exception):
    """The trainer told of an error, and is not to go on."""


def train(run: Execution) -> Trained | Stop:
    """Train, unless this recipe's adapter is there, or take the one that was made elsewhere, and look at it."""
    begun, base, made = time.monotonic(), run.session.base, run.session.opened.adapter
    # Where it lies is asked before it is trained: what a trainer does to the base's folder makes another recipe.
    folder = Artifacts(run.session).adapter
    facts: dict[str, Any] = {}
    if not run.suite.candidate:
        table, rows, found = run.suite.train, run.collection.training, run.record.found
        assert table and rows is not None
        again, anew = "reusing the adapter of this recipe", f"{table.use}, {counted(len(rows), 'row')}"
        with _making(run, folder) as whole, run.record.stage("train", again if whole else anew + _expected(run)):
            if not whole and (stop := _call_trainer(run, folder)):
                return stop
            if not whole and not kept.is_sealed(folder):
                kept.seal(folder)
            facts = {"reused": str(folder)} if whole else {}
            facts |= read_facts(folder / FACTS) | keep_logs(run, folder.parent / LOGS)
            found.facts["training"] = facts
            found.training = read_steps(folder) or found.training
    seconds = time.monotonic() - begun
    if run.collection.whole:
        ref = sealed(ModelRef("merged", str(folder), options=base.options))
    else:
        assert made  # there is no adapter candidate without one
        ref = sealed(replace(base, name="adapter", adapter=folder, quantization=made.quantization), base=base.digest)
    return look(run, "adapter", adapter=ref) or Trained(run, ref, facts, seconds)


def merge(run: Execution, adapter: ModelRef, variant: str) -> ModelRef | Stop:
    """Merge onto a variant of the base, unless that is there, and look at it beside what it must equal."""
    name, made = run.suite.merged(variant), run.session.opened.adapter
    assert adapter.adapter and made and variant in MERGES
    out, onto = Artifacts(run.session).merged(variant), f"onto the {variant} base"
    again = f"reusing the merge {onto}"
    with _making(run, out) as whole, run.record.stage("merge", again if whole else onto):
        if not whole:
            told = {"progress": run.session.progress}
            with folder_in_place(out) as folder:
                made.merge(adapter.path, adapter.adapter, folder, variant=variant, **wanted(made.merge, told))
                if verify := getattr(made, "verify", None):
                    facts = verify(adapter.path, adapter.adapter, folder, variant=variant, **wanted(verify, told))
                    write_text(folder / MERGED, dumps({"facts": facts}))
                kept.seal(folder, out)
        if facts := read_facts(out / MERGED):
            run.record.found.facts[name] = facts
        merged = sealed(ModelRef(name, str(out), options=adapter.options))
    twin = replace(adapter, quantization=None) if variant == "original" else adapter
    return look(run, "merged", merged=merged, twin=twin) or merged


def make_copy(run: Execution, parent: ModelRef, declared: Export) -> ModelRef:
    """Let an exporter make other weights of a candidate, unless it did; return them as they lie on the disk."""
    exporter = run.collection.plugins.find("exporter", declared.use).function
    with run.record.stage("copy", f"{declared.name} of {parent.name}"):
        out = Artifacts(run.session).copy(declared, parent)
        with _making(run, out):
            ref = conversions.make(declared, parent, exporter, out, run.session.progress)
        run.record.found.facts[declared.name] = read_facts(out / conversions.NOTE)
        return ref


def keep_logs(run: Execution, logs: Path) -> dict[str, str]:
    """Copy what a training logged into the run's folder, in place of another training's; return where it is."""
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
def _making(run: Execution, out: Path) -> Iterator[bool]:
    """Hold the work folder against other runs; yield whether a folder in it is there, as it was made."""
    with kept.held(out.parent, lambda line: run.session.progress(Progress("waiting", 0, 0, remark=line))):
        yield kept.fits(out, run.record.warn)


def _expected(run: Execution) -> str:
    """Return how long the training takes where somebody had `harness plan` measure it."""
    own = "full" if run.collection.whole else run.suite.adapter and run.suite.adapter.use
    seconds = [one.whole for one in part("measured")(run.session, own or "").values() if one.whole]
    return "".join(f"; about {duration(s)}, as measured by harness plan" for s in seconds)


def _call_trainer(run: Execution, out: Path) -> Stop | None:
    """Let the trainer write an adapter; an error that it tells of while it trains ends the training."""
    session, table, training = run.session, run.suite.train, run.collection.training
    assert table and training is not None
    trainer = run.collection.plugins.find("trainer", table.use).function
    stops: list[Stop] = []

    def flag(code: str, one: Finding) -> None:
        if stop := tell_findings(run.record, [session.checks.stamped(code, one)], ExitCode.FAILED):
            stops.append(stop)
            raise _Ended

    given = wanted(trainer, {"flag": flag}) | {"progress": session.progress, "seed": run.suite.about.seed}
    given |= {"watch": partial(_watched, session)} if table.watch else {}
    with suppress(_Ended):
        rows, options = isolated(list(training)), isolated(dict(table.given))
        made = trainer(isolated(session.base), session.opened.adapter, rows, out, **given, **options)
        if not any(out.rglob("*.safetensors")):
            what = f" wrote no *.safetensors into its output folder {out}, and returned {made}"
            raise blame.slip(trainer, what)
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
