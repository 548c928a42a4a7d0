"""Every hook of the harness: the manual of who writes plugins.

A hook is `harness_` + a noun for what a plugin provides (return a dict of name -> callable), or
`harness_` + an event for what it watches. One table of a suite is one callable, and the callable's
keyword-only parameters are that table's options: names, types and defaults are read from the
signature. No hook can open a gate: none filters items, none returns a verdict, and every record, row or option
that a plugin is given is a copy, so that what it writes there reaches no decision.

What a callable can do beyond being called is declared by the decorator of its kind, `@evaluator(uncached=True)`, which
sets attributes of the function; these may be set by hand as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from harness.records.findings import Finding
    from harness.records.models import Progress
    from harness.records.run import ItemResult, Run, Trial

hookspec = pluggy.HookspecMarker("harness")
hookimpl = pluggy.HookimplMarker("harness")
"""Mark a function of a plugin as one of the hooks below."""

Provided = dict[str, Callable[..., Any]]


@hookspec
def harness_loaders() -> Provided:  # type: ignore[empty-body]
    """Return loaders for `[model] use = …`.

    `load(refs, *, …)` is a context manager that yields one Subject per ModelRef. Its `@loader(open=…)`, a function of
    `(path, *, …)`, returns a Source without loading weights into memory. Its `identity`, of `(ref, *, …)`,
    names everything an answer of the model depends on (weights, tokenizer, dtype, library versions, your own code)
    as a string, without loading it: answers are remembered under it. Without it, or where it returns None, they are
    not remembered, and the model is loaded for every run. A loader with an option `python` is called, and asked for
    identities, in a process of that interpreter where the suite gives one. `probe(path)` raises UsageError at a
    candidate's folder that cannot be loaded, `reads(path)` names the files there that a model is loaded from, so that
    texts apart nothing else of the folder ships, `needs(options)` names the modules that are imported late, and
    `remote=True` says that a candidate's path is a name, not a folder. `lacks=("token_kl",)` names what its subjects
    cannot that evaluators ask for, "4-bit" that it loads no base so: a suite that wants it is refused at collection.
    """


@hookspec
def harness_adapters() -> Provided:  # type: ignore[empty-body]
    """Return adapters for `[adapter] use = …`: `adapter(*, …) -> Adapter`.

    `@adapter(reads_foreign=True)` reads and merges adapters made elsewhere, for suites without an [adapter];
    `measured_like` names adapters with the same options, which `harness plan --measure` measures beside it.
    `whole=True` says that it returns None and all weights are trained: trainers get no adapter, and write a model.
    """


@hookspec
def harness_trainers() -> Provided:  # type: ignore[empty-body]
    """Return trainers for `[train] use = …`.

    `train(ref, adapter, rows, out, *, progress, seed, …)` writes the trained adapter, or the whole trained model where
    `adapter` is None, to the folder `out` and returns its path. `rows` are the dicts of the training data. Checkpoints
    go to `out.parent`, and a second call after a kill goes on from the last one. `harness.write_steps(out, steps)`
    tells of each harness.TrainingStep, for the report, and is kept with the adapter. What is logged for people goes to
    `out.parent / harness.internals.TRAINING_LOGS`, and is copied into the folder of every run that uses the adapter. A
    parameter named `flag` gets a function `flag(code, Finding)` that tells what was found while training, under the
    code of a check; an error that is not ignored ends the training there. A parameter named `watch` gets, if the suite
    asks for it, a function that measures a Subject on select rows and returns numbers by name; call it after each
    epoch, with randomness restored.
    A trainer with an option `validation` does not train on rows that are marked `held_out`, and holds out rows of one
    `group` together. Its `@trainer(check=…)`, a function of `(*, …)`, builds the real configuration and raises
    UsageError, at what cannot be with an adapter too where it has a parameter named `adapter`; `look(*, …)` does so at
    collection, where no library may be imported;
    `build(ref, adapter, rows, *, seed, …)` prepares the rows without training, for the checks, and returns a
    harness.Built; `measure(ref, adapter, rows, *, seed, …)` trains a few steps, of all weights where
    `adapter` is None, and returns what they took by name, for `harness plan --measure`: `setup`, `steps`, `tokens`,
    `seconds`, `processor`, `peak`, `device`, `whole_steps`, `whole_tokens`, `extra`, `trainable`, as far as is known.
    One that learns from other rows than answers says which: `columns=("prompt", "chosen", "rejected")`.
    """


@hookspec
def harness_evaluators() -> Provided:  # type: ignore[empty-body]
    """Return evaluators for `[[eval]] use = …`.

    `evaluate(subject, samples, *, …)` yields one Score per Sample and declares its metrics with
    `@metric`. It is called on chunks of rows and keeps no state. An evaluator with a parameter
    named `against` is comparative: it gets the loaded base as well and does not run on baselines.
    Metrics that depend on the options: `@evaluator(metrics_for=…)`, a function `(options) -> list[Metric]`; it may
    take `folder`, the suite's, as well. Rows that are the evaluator's own:
    `rows_for=…`, a function `(options, folder) -> list[dict]`, called in preflight. An evaluator that measures time
    says `uncached=True` and gets models that remember nothing. A parameter named `folder` gets the suite's
    folder. What a person should know of a result: `remarks=…`, `(scores) -> list[str]`. What can be
    checked before a model is loaded: `check=…`, `(options, folder, model's path)`, raising UsageError. The modules
    that it imports late: `needs=…`, `(options) -> names`. What its rows and options must be is checked at collection:
    `check_rows=…`, `(samples, options, folder)`, raising UsageError. Metrics that are not of all rows:
    `counts=…`, `(metric, sample) -> bool`, by which a forecast knows the rows that have weight 0. `asks=("token_kl",)`
    names what it asks of a subject beyond answers and scores. With `json_targets=True` a row's target is any JSON
    value, or the calls of tools that end its messages, and a Sample's the text of it.

    An evaluator may mark answers after the model is gone: `marks="answers"`, or "pairs" (or a function
    of the options that says which). It is called once, as `mark(samples, answers, baseline_answers, *, marking, …)`
    with a `harness.Marking`; its options `max_new_tokens`, `stop` and `thought` say how the answers are
    generated, and the baseline of pairs is the eval's `against`. It yields Scores, Caveats (what a reader must know,
    and what keeps gates shut), and Labels (what people said of such answers). On the baseline of its pairs it has no
    metric.

    An evaluator that can be fooled declares `adversaries=…`, `(options) -> dict[str, function]`: by name,
    functions of a prompt that return an answer worth nothing. `harness selftest` gives them in a candidate's place, and
    none may pass the gates on the evaluation. One that asks others for money declares
    `estimate=…`, `(options, samples, models, answers) -> str`: a line that says what it takes to judge
    so many models and such functions' answers, before any is asked.
    """


@hookspec
def harness_exporters() -> Provided:  # type: ignore[empty-body]
    """Return exporters for `[[export]] use = …`: `export(ref, to, *, …) -> Path` writes into the empty folder `to`.

    `to` is a temporary folder; it is renamed into place when the export returned and its bytes were verified.

    An exporter that makes other weights than `ref` has says `@exporter(converts=True)`. What it writes is a candidate
    of its own then: it is called once `ref` was evaluated, its folder is loaded, evaluated and gated, and shipped as it
    is. It raises UsageError where it cannot, and may take `progress`. `open_options(options) -> dict` gives options of
    the loader that the copy needs, beside its parent's; `check(model, options)` raises UsageError about what can be
    seen before training, in the folder of the base. A parameter `path` is where a copy lies that was made elsewhere.
    Facts for the report go to the file `harness.internals.CONVERSION_NOTES` in `to`, as {"facts": {…}}; files whose
    names begin with "harness-" are not shipped.

    A parameter named `facts` gets a dict for what the report should tell of any other export.
    """


@hookspec
def harness_saboteurs() -> Provided:  # type: ignore[empty-body]
    """Return saboteurs for `harness selftest`: `saboteur(base, out, *, seed)` writes a model that must not ship.

    `base` is the base's folder, `out` an empty one, for a whole model or a PEFT adapter. The first line of its
    docstring says why it must not ship.
    """


@hookspec
def harness_checks() -> Provided:  # type: ignore[empty-body]
    """Return checks by their codes: `check(…)` yields a harness.Finding for everything that looks broken.

    A check asks for what it looks at by its parameters' names, and runs at the last stage one of them comes from:
    data (`suite`, `rows`, `tasks`, `base`, `load`), trainer (`built`), adapter (`adapter`), merged (`merged`,
    `twin`), results (`result`, `task`); harness.evaluation.checks.STAGES says what each is. An error stops the run,
    before training with exit code 4, after it with 1. The docstring is what `harness explain CODE` prints.
    `@checker(leaks=True)` tells which rows of an evaluation were trained on.
    """


@hookspec
def harness_worker_backends() -> Provided:  # type: ignore[empty-body]
    """Return workers for `--on NAME:PLACE`: `workers(place, *, python) -> Workers`, started when they are needed.

    They carry messages to processes that answer with a loader's models, elsewhere if need be, and know nothing of them:
    see the protocol of the workers' package. At the other end its `Desk().replies(message)` yields
    what is said back, in any environment that has the harness and the loader's plugin. `python` is another interpreter,
    where the suite's [model] names one. Raises UsageError at a place that is none. A worker that died is `Lost`, of the
    same package, never another error.
    """


@hookspec(firstresult=True)
def harness_read_samples(path: str) -> list[dict[str, Any]] | None:
    """Return the rows of a data source the harness does not know itself, or None. Stops at the first answer.

    `path` is what the suite says after `data =`, for instance "tickets:test".
    """


@hookspec
def harness_run_start(run: Run) -> None:
    """Watch a run begin; nothing was loaded yet."""


@hookspec
def harness_stage(run: Run, stage: str, detail: str) -> None:
    """Watch a stage begin: preflight, baselines, train, adapter, merge, merged, copy, export."""


@hookspec
def harness_progress(progress: Progress) -> None:
    """Watch something slow move."""


@hookspec
def harness_item_finish(run: Run, item: ItemResult) -> None:
    """Watch one item end."""


@hookspec
def harness_finding(run: Run, finding: Finding) -> None:
    """Watch a check find something."""


@hookspec
def harness_trial(run: Run, trial: Trial) -> None:
    """Watch one trial of a sweep be measured; `run.sweep` has those before it too."""


@hookspec
def harness_run_finish(run: Run) -> None:
    """Watch a run end; everything is decided and written."""
