"""Merge an adapter onto its base, and choose among several merges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from harness import schema
from harness.artifacts import kept
from harness.capabilities import Loader
from harness.files import folder_in_place, read_facts, write_text
from harness.pipeline.artifacts import artifacts_of, making
from harness.pipeline.checking import look
from harness.pipeline.evaluation import on_select
from harness.pipeline.record import Record, Stop
from harness.pipeline.session import Session
from harness.records.models import ModelRef
from harness.release.seal import sealed
from harness.reports.report_json import dumps
from harness.suite.tables import MERGES

MERGED = "harness-merge.json"  # how a merged model compares with its adapter


def merge(session: Session, record: Record, adapter: ModelRef, variant: str) -> ModelRef | Stop:
    """Merge onto a variant of the base, and look at the merged model beside what it must equal."""
    merged = _merge(session, record, adapter, variant)
    twin = replace(adapter, quantization=None) if variant == "original" else adapter
    return look(session, record, "merged", merged=merged, twin=twin) or merged


def take_merged(session: Session, record: Record) -> ModelRef | Stop:
    """Take a merged model that was made elsewhere, and look at it."""
    candidate = session.opened.candidate
    assert candidate  # preflight opened it
    suite, plugins = session.suite, session.collection.plugins
    reads = Loader.of(plugins.find("loader", suite.model.use).function).reads
    ref = sealed(ModelRef("merged", candidate.path, candidate.digest, options=suite.model.options), reads=reads)
    return look(session, record, "merged", merged=ref, twin=None) or ref


def take_whole(session: Session, record: Record, trained: ModelRef) -> ModelRef | Stop:
    """Take a model of which all weights were trained, so that there is nothing to merge, and look at it."""
    return look(session, record, "merged", merged=trained, twin=None) or trained


def choose(session: Session, record: Record, refs: Mapping[str, ModelRef]) -> ModelRef:
    """Return the best of several merged models, by variant, on select rows; the first of equals."""
    by = session.suite.choose
    assert by
    evaluation, _, name = by.partition(".")
    task = session.collection.tasks[evaluation]
    with record.stage("choose", f"by {by} on {len(task.select or ())} select rows"):
        found = {v: on_select(session, by, ref, f"the merge onto the {v} base") for v, ref in refs.items()}
    values = {variant: result.metrics[name] for variant, result in found.items()}
    sign = 1 if task.metrics[name].better == "higher" else -1
    best = max(values, key=lambda v: sign * values[v])
    shown = ", ".join(f"{v} {value:.4g}" for v, value in values.items())
    record.choice(f"the merge onto the {best} base was chosen by {by} on select rows: {shown}")
    return refs[best]


def _detail(variant: str, whole: bool) -> str:
    return f"not again: what is merged onto the {variant} base is there" if whole else f"onto the {variant} base"


def _merge(session: Session, record: Record, adapter: ModelRef, variant: str) -> ModelRef:
    """Write the merged model, unless it is there, and return it as it lies on the disk."""
    name, made = session.suite.merged(variant), session.opened.adapter
    assert adapter.adapter and made and variant in MERGES
    out = artifacts_of(session).merged(variant)
    with making(session, record, out) as whole, record.stage("merge", _detail(variant, whole)):
        if not whole:
            told = {"progress": session.progress} if schema.wants(made.merge, "progress") else {}
            with folder_in_place(out) as folder:
                made.merge(adapter.path, adapter.adapter, folder, variant=variant, **told)
                if verify := getattr(made, "verify", None):
                    facts = verify(adapter.path, adapter.adapter, folder, variant=variant)
                    write_text(folder / MERGED, dumps({"facts": facts}))
                kept.seal(folder, out)
        if facts := read_facts(out / MERGED):
            record.fact(name, facts)
        return sealed(ModelRef(name, str(out), options=adapter.options))
