"""Variants of a run's training, with another seed or selected rows.

They are trained, merged and cached as the run itself. Each has a folder of its own by its recipe's digest, so it is
trained once, whichever trainer made it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from harness.collection.collection import Collection
from harness.errors import PLUGIN_ERRORS, resource_error
from harness.pipeline.artifacts import merge_adapter, train_adapter
from harness.pipeline.record import StageStop
from harness.pipeline.run_context import RunContext, describe_error
from harness.records.models import ModelRef


def vary_training(run: RunContext, *, seed: int | None = None, rows: Sequence[int] | None = None) -> RunContext:
    """Return a run that trains with another seed or selected rows.

    Rows are numbered from 0. The run has no folder of its own: its training logs stay beside its artifacts.
    """
    collection = vary_collection(run.collection, seed=seed, rows=rows)
    return replace(run, session=replace(run.session, collection=collection, folder=None))


def vary_collection(
    collection: Collection, *, seed: int | None = None, rows: Sequence[int] | None = None
) -> Collection:
    """Return a collection with another seed or selected training rows. This makes it another recipe."""
    if seed is not None:
        collection = replace(collection, suite=collection.suite.with_seed(seed))
    if rows is not None:
        assert collection.training is not None
        training = tuple(collection.training[i] for i in rows)
        collection = replace(collection, training=training, origins=tuple(collection.origins[i] for i in rows))
    return collection


def make_variant(run: RunContext, name: str) -> ModelRef | StageStop:
    """Train and merge a variant, unless it exists.

    Returns its model under `name`. Reported facts of the run's own training do not change.
    """
    with _restore_training_facts(run):
        trained = train_adapter(run)
        if isinstance(trained, StageStop):
            return trained
        made: ModelRef | StageStop = trained.ref
        onto = next((v for v in run.suite.merges if run.suite.merged(v) == run.collection.recipe), "")
        if onto and not run.collection.trains_all_weights:
            made = merge_adapter(run, trained.ref, onto)
    return made if isinstance(made, StageStop) else replace(made, name=name)


def make_runs(run: RunContext) -> Iterator[ModelRef | StageStop]:
    """Yield the recipe's model for each further seed.

    Only seeds with items are trained. An exception of the trainer is an ERROR of the recipe, and other seeds go on; a
    full disk or a lack of memory ends the run.
    """
    for number, (name, seed) in enumerate(run.collection.runs.items(), 2):
        if not run.session.items(name):
            continue
        detail = f"seed {seed}, {number} of {len(run.collection.runs) + 1}"
        run.record.call_hook("harness_stage", stage="recipe", detail=detail)
        try:
            made = make_variant(vary_training(run, seed=seed), name)
        except PLUGIN_ERRORS as error:
            if resource_error(error):
                raise
            lose_run(run, name, *describe_error(error))
            continue
        if isinstance(made, StageStop):
            lose_run(run, name, made.why or "a check stopped its training")
        yield made


def lose_run(run: RunContext, name: str, why: str, trace: str | None = None) -> None:
    """Report that a seed has no model. This is an ERROR of every gate of the recipe."""
    told = f"seed {run.collection.runs[name]} was not trained: {why}"
    run.adjudicator.lost_runs[name] = told
    for item in run.session.items(name):
        run.record_failure(item, told, trace)


@contextmanager
def _restore_training_facts(run: RunContext) -> Iterator[None]:
    """Restore the run's own training and merge facts on exit."""
    found, names = run.record.run, ("training", *map(run.suite.merged, run.suite.merges))
    facts, steps = {name: found.facts[name] for name in names if name in found.facts}, found.training
    try:
        yield
    finally:
        for name in names:
            found.facts.pop(name, None)
        found.facts.update(facts)
        found.training = steps
