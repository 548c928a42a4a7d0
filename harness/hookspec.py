"""Every hook that a plugin may implement.

A hook is `harness_` and a noun for what a plugin provides, a dict of name -> callable, or `harness_` and an event that
it listens to. One table of a suite calls one callable, whose keyword-only parameters are the options of that table:
names, types and defaults are read from the signature. `harness` has a Protocol for every kind of callable.

No hook can open a gate: none filters items, none returns a verdict, and every record, row or option that a plugin gets
is a copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from harness.protocols import (
        AdapterFactory,
        Check,
        Evaluator,
        Exporter,
        Loader,
        Marker,
        Saboteur,
        Trainer,
        WorkerBackend,
    )
    from harness.records.findings import Finding
    from harness.records.models import Progress
    from harness.records.run import ItemResult, Run, Trial

hookspec = pluggy.HookspecMarker("harness")
hookimpl = pluggy.HookimplMarker("harness")
"""Mark a function of a plugin as one of the hooks below."""


@hookspec
def harness_loaders() -> dict[str, Loader]:  # type: ignore[empty-body]
    """Return loaders for `[model] use = …` by name. Each opens a Source and lends a Subject per ModelRef."""


@hookspec
def harness_adapters() -> dict[str, AdapterFactory]:  # type: ignore[empty-body]
    """Return adapter factories for `[adapter] use = …` by name.

    Each returns an Adapter, or None to train all weights.
    """


@hookspec
def harness_trainers() -> dict[str, Trainer]:  # type: ignore[empty-body]
    """Return trainers for `[train] use = …` by name.

    Each writes an adapter, or a whole model, to a folder.
    """


@hookspec
def harness_evaluators() -> dict[str, Evaluator | Marker]:  # type: ignore[empty-body]
    """Return evaluators for `[[eval]] use = …` by name. Each yields one Score per Sample."""


@hookspec
def harness_exporters() -> dict[str, Exporter]:  # type: ignore[empty-body]
    """Return exporters for `[[export]] use = …` by name.

    Each writes a model into an empty temporary folder.
    """


@hookspec
def harness_saboteurs() -> dict[str, Saboteur]:  # type: ignore[empty-body]
    """Return saboteurs for `harness selftest` by name. Each writes a model that must not ship."""


@hookspec
def harness_checks() -> dict[str, Check]:  # type: ignore[empty-body]
    """Return checks by code. Each yields a Finding for everything that looks broken.

    The names of its parameters select its data, and it runs at the last stage that one of them belongs to. An error
    stops the run: before training with exit code 4, after it with 1. `harness explain CODE` prints the docstring.
    """


@hookspec
def harness_worker_backends() -> dict[str, WorkerBackend]:  # type: ignore[empty-body]
    """Return worker backends for `--on NAME:PLACE` by name.

    Each returns Workers, which start when they are needed.
    """


@hookspec(firstresult=True)
def harness_read_samples(path: str) -> list[dict[str, Any]] | None:
    """Return the rows of a data source such as "tickets:test", or None.

    The first plugin that returns rows is used. `path` is the value of `data` in the suite, if it names neither a file
    nor a known source.
    """


@hookspec
def harness_run_start(run: Run) -> None:
    """Called when a run starts; nothing is loaded yet."""


@hookspec
def harness_stage(run: Run, stage: str, detail: str) -> None:
    """Called when a stage starts: preflight, baselines, train, adapter, merge, merged, copy, export."""


@hookspec
def harness_progress(progress: Progress) -> None:
    """Called while something slow makes progress."""


@hookspec
def harness_item_finish(run: Run, item: ItemResult) -> None:
    """Called when an evaluation of a subject has ended. `item` has its metrics and verdicts."""


@hookspec
def harness_finding(run: Run, finding: Finding) -> None:
    """Called when a check has found something."""


@hookspec
def harness_trial(run: Run, trial: Trial) -> None:
    """Called when a trial of a sweep was measured. `run.sweep` has the earlier ones."""


@hookspec
def harness_run_finish(run: Run) -> None:
    """Called when a run has ended; everything is decided and written."""
