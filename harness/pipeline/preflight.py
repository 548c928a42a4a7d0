"""Checks that need the libraries but no model in memory.

They cover real configuration objects, tokenizer, lengths and remote data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness import plugin_errors, schema
from harness.answers import keys
from harness.artifacts import formats
from harness.artifacts.digests import digest_value
from harness.collection import requirements
from harness.collection.collect import collect
from harness.collection.collection import Collection, Task, sweep_trials
from harness.data import fewshot
from harness.data.rows import is_remote, target_as_continuation
from harness.errors import Mistakes, UsageError
from harness.files import cache_dir, write_text
from harness.plugin_errors import refuse_returned_error
from harness.records.models import Adapter, ModelRef, Progress, Source
from harness.release.export import find_destination_error
from harness.release.releases import find_release_error, open_release
from harness.suite.tables import Model
from harness.texts.escaping import shorten_text


@dataclass(frozen=True)
class PreflightResult:
    """The models and adapters that preflight opened.

    `source` is the base, `adapter` the adapter's configuration, `candidate` a merged model made elsewhere, and `others`
    are other models.
    """

    source: Source
    adapter: Adapter | None = None
    trials: tuple[Adapter | None, ...] = (None,)  # the adapter of every trial of a sweep, `adapter` first
    candidate: Source | None = None
    others: Mapping[str, Source] = field(default_factory=dict)
    releases: Mapping[str, ModelRef] = field(default_factory=dict)
    lacking: Mapping[str, str] = field(default_factory=dict)  # releases that are not there yet, and why


def run_preflight(
    collection: Collection, limit: int | None = None, *, remembers: bool = True
) -> tuple[Collection, PreflightResult]:
    """Open models, build library configurations, and measure prompt lengths.

    Raises UsageError on mistakes. A build that passed once on exactly this collection, model and code is skipped,
    unless `remembers` is false.
    """
    requirements.check_requirements(collection)
    suite, plugins = collection.suite, collection.plugins
    trained = (*suite.train.sources, suite.train.validation_data or "") if suite.train else ()
    sources = [*trained, *(s or "" for e in suite.evals for s in (e.data, e.select, e.fewshot_data))]
    if any(map(is_remote, sources)) or any(t.brings_rows for t in collection.tasks.values()):
        read = collect(suite, plugins, remote=True, limit=limit, selecting=collection.selecting, ahead=collection.ahead)
        collection = replace(read, items=collection.items, deselected=collection.deselected)
    mistakes = Mistakes()
    plugins.hook.harness_progress(progress=Progress("preflight", 0, 1, {"now": "libraries and models"}))
    source = open_model(collection, suite.model)
    others = {name: open_model(collection, s.model) for name, s in suite.subjects.items() if s.use}
    looked = [collection_digest(collection, source, gates=False), [i.id for i in collection.items]]
    passed = cache_dir() / "preflight" / digest_value(looked)
    known = remembers and passed.exists()
    has = "adapter" in collection.candidates and bool(suite.train or suite.candidate)
    made = [_make_checked_adapter(t, source, mistakes, known) if has else None for t in sweep_trials(collection)]
    candidate = _open_and_check_candidate(collection, source, made[0], mistakes)
    releases, lacking = dict[str, ModelRef](), dict[str, str]()  # baselines that were released, or are not there yet
    for name, baseline in suite.subjects.items():
        with mistakes.collecting(f"{baseline.where}:"):
            if baseline.released and (why := find_release_error(suite, baseline)):
                lacking[name] = why
            elif baseline.released:
                releases[name] = open_release(suite, name, source, made[0], partial(open_folder, collection))
    for export in suite.exports:
        if taken := find_destination_error(Path(export.to)):
            mistakes.add(export.where, f'to is "{export.to}", {taken}')
        if checks := plugins.find("exporter", export.use).capabilities.check:
            with mistakes.collecting(f"{export.where}:"):
                refuse_returned_error(checks, checks(Path((candidate or source).path), export.given))
    for task in collection.tasks.values():
        if (checks := task.capabilities.check) and any(i.eval == task.spec.name for i in collection.items):
            with mistakes.collecting(f"{task.spec.where}:"):
                refuse_returned_error(checks, checks(dict(task.spec.options), suite.path.parent, suite.model.path))
    trains = suite.train if suite.trains and not known else None
    if trains and (checks := plugins.find("trainer", trains.use).capabilities.check):
        for trial, one in zip(sweep_trials(collection), made, strict=True):
            table = trial.suite.train or trains
            beside = {"adapter": one, "ref": ModelRef("base", source.path, options=suite.model.options)}
            with mistakes.collecting(table.where):
                refuse_returned_error(checks, checks(**table.given, **supported_keywords(checks, beside)))
    if not known:
        _check_prompt_lengths(collection, source, mistakes)
    mistakes.raise_errors()
    if not known:
        write_text(passed, "")
    return collection, PreflightResult(source, made[0], tuple(made), candidate, others, releases, lacking)


def open_model(collection: Collection, model: Model) -> Source:
    try:
        return _open_source(collection, model.use, model.path, model.options)
    except UsageError as error:
        raise UsageError(*(f"{model.where} {m}" for m in error.messages)) from None


def _open_source(collection: Collection, use: str, path: str, options: Mapping[str, Any]) -> Source:
    if (opening := collection.plugins.find("loader", use).capabilities.open) is None:
        raise UsageError(f'use: the loader "{use}" has no open function; declare one with @loader(open=…)')
    source: Source = opening(path, **options)
    owed = ("path", "digest", "context", "facts", "count_tokens")
    if lacking := next((name for name in owed if not hasattr(source, name)), ""):
        raise plugin_errors.plugin_error(
            opening, f" returned {shorten_text(repr(source), 60)}, which lacks {lacking}; return a Source"
        )
    return source


def collection_digest(collection: Collection, source: Source, *, gates: bool) -> str:
    """Digest everything that the checks of a collection look at.

    That is suite, rows, model, code, libraries and switches. Without `gates` their claims are left out: editing a
    margin changes nothing that was looked at.
    """
    where = [source.digest, source.path, source.context, _digest_model_folder(source)]
    whole = collection.suite.digest if gates else collection.suite.ungated_digest
    metrics = [
        (g.id, g.metric, g.clean_only) for g in collection.suite.gates
    ]  # which change tasks and softened findings
    suite = [whole, metrics, str(collection.suite.path.resolve()), collection.selecting]
    code = [collection.plugins.code_digest(), keys.library_versions(), keys.environment_switches()]
    return digest_value([suite, collection.rows_digest, where, *code])


def recipe_digest(collection: Collection, ready: PreflightResult, versions: Mapping[str, str]) -> str:
    """Digest everything that a trained adapter depends on.

    That is base, adapter, trainer, rows, seed, options, code, libraries and switches. Options include their defaults,
    so that a changed default makes another recipe.
    """
    suite, find = collection.suite, collection.plugins.find
    used = [find("loader", suite.model.use)]
    base = [ready.source.digest, _digest_model_folder(ready.source), suite.model.use]
    options = schema.with_defaults(used[0].function, suite.model.options)
    parts: list[Any] = [base, suite.training_seed, dict(versions), keys.environment_switches(), options]
    if suite.candidate and suite.candidate.adapter:
        parts.append(keys.digest_folder(suite.resolve(suite.candidate.adapter)))
    for kind, table in (("adapter", suite.adapter), ("trainer", suite.train)):
        if table:
            used.append(find(kind, table.use))
            parts += [table.use, schema.with_defaults(used[-1].function, table.options)]
    if suite.adapter is None:
        used.append(collection.plugins.foreign_adapter())
    return digest_value([*parts, collection.training, collection.plugins.code_digest(*used)])


def _digest_model_folder(source: Source) -> str | None:
    """Return one sha256 of everything in a model's folder. None for a served model."""
    folder = Path(source.path)
    return keys.digest_folder(folder, source.digest) if folder.is_dir() else None


def _make_checked_adapter(collection: Collection, source: Source, mistakes: Mistakes, known: bool) -> Adapter | None:
    """Make the adapter, and check everything that needs no model. Mistakes are collected, and give None."""
    table, use = collection.suite.adapter, collection.suite.model.use
    with mistakes.collecting(table.where if table else str(collection.suite.path)):
        made = make_adapter(collection)
        if made.quantization and "4-bit" in collection.plugins.find("loader", use).capabilities.lacks:
            what = f'needs a base in 4 bits, which the loader "{use}" cannot load'
            raise UsageError(f'{what}; use = "lora", or "hf" in [model]')
        if not known:
            made.check()
            if collection.suite.trains:
                made.check_targets(source.path)
                for variant in collection.suite.merges:
                    made.check_merge(variant, **supported_keywords(made.check_merge, {"base": source.path}))
        return made
    return None


def make_adapter(collection: Collection) -> Adapter:
    """Make the suite's adapter, or the plain one for foreign adapters.

    Raises UsageError if a plugin returns anything else.
    """
    table = collection.suite.adapter
    used = collection.plugins.find("adapter", table.use) if table else collection.plugins.foreign_adapter()
    made: Adapter = used.function(**(table.options if table else {}))
    if not (used.capabilities.whole or hasattr(made, "merge")):
        raise plugin_errors.plugin_error(used.function, f" returned {shorten_text(repr(made), 60)}; return an Adapter")
    if not used.capabilities.whole and (
        what := schema.find_signature_error(made.merge, ("base", "adapter", "out"), ("variant",))
    ):
        raise plugin_errors.plugin_error(made.merge, what)
    return made


def _open_and_check_candidate(
    collection: Collection, source: Source, adapter: Adapter | None, mistakes: Mistakes
) -> Source | None:
    """Check a candidate made elsewhere: its adapter fits the base and can be merged, or its merged model opens."""
    suite, declared, opened = collection.suite, collection.suite.candidate, None
    if declared is None:
        return None
    loader = collection.plugins.find("loader", suite.model.use).capabilities
    with mistakes.collecting(declared.where):
        if declared.merged:
            # What a server serves has a name, not a folder.
            path = declared.merged if loader.remote else str(suite.resolve(declared.merged))
            if not loader.remote:
                _require_safe_model_files(Path(path), declared.where)
            opened = open_folder(collection, path)
            if loader.probe:
                refuse_returned_error(loader.probe, loader.probe(opened.path))
        elif adapter and declared.adapter:
            folder = suite.resolve(declared.adapter)
            _require_safe_model_files(folder, declared.where)
            adapter.check_fits(source.path, source.digest, folder)
            for variant in suite.merges:
                adapter.check_merge(
                    variant, **supported_keywords(adapter.check_merge, {"base": source.path, "adapter": folder})
                )
    return opened


def supported_keywords(function: Callable[..., Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return those keywords that a plugin's callable takes."""
    return {name: value for name, value in known.items() if schema.has_parameter(function, name)}


def _require_safe_model_files(folder: Path, where: str) -> None:
    """Raise UsageError if `verify` would reject an export of this folder.

    It is called before any of its files is loaded.
    """
    try:
        formats.check_candidate(folder)
    except formats.UnsafeFileError as error:
        raise UsageError(f'{where}: "{folder}": {error}') from None
    except OSError as error:
        raise UsageError(f'{where}: "{error.filename}": cannot be read: {error.strerror}') from None


def open_folder(collection: Collection, path: str) -> Source:
    """Open a model that was made of the suite's."""
    options = {k: v for k, v in collection.suite.model.options.items() if k not in ("sha256", "revision")}
    return _open_source(collection, collection.suite.model.use, path, options)


def _check_prompt_lengths(collection: Collection, source: Source, mistakes: Mistakes) -> None:
    """Report rows that exceed the model's context. Worked examples and the answer count towards their length."""
    if source.context is None:
        return
    tell = collection.plugins.hook.harness_progress
    for done, task in enumerate(collection.tasks.values()):
        tell(progress=Progress("preflight, tokens", done, len(collection.tasks), {"now": task.spec.name}))
        if task.brings_rows:  # it makes its own prompts of them
            continue
        asked = {i.subject for i in collection.items if i.eval == task.spec.name}
        shots = [s.examples for name, s in collection.suite.subjects.items() if not s.use and name in asked]
        pairs = _list_longest_pairs(task, max(shots, default=0), collection.suite.header.seed)
        # What is generated at most; a target is then not part of the prompt's length.
        option = schema.list_options(task.function)[0].get("max_new_tokens")
        answer = int(task.spec.options.get("max_new_tokens", option.default)) if option else 0
        if answer >= source.context:
            what = f"max_new_tokens is {answer}, but the model's context has {source.context} tokens, prompt included"
            mistakes.add(task.spec.where, f"{what}; lower max_new_tokens")
            continue
        room = source.context - answer
        long = {i: n for (i, _), n in zip(pairs, source.count_tokens([p for _, p in pairs]), strict=True) if n > room}
        if long:
            worst = max(long, key=lambda i: long[i])
            what = f'{len(long)} rows are longer than the model\'s context: row "{worst}" has {long[worst]} tokens'
            mistakes.add(task.spec.where, f"{what}; at most {room}")


def _list_longest_pairs(task: Task, shots: int, seed: int) -> list[tuple[str, tuple[Any, str]]]:
    """Return (row id, (prompt, longest continuation)) of every row with a prompt.

    A whole text is left out, since it is scored in windows.
    """
    examples = fewshot.choose_examples(task.shots, shots, seed)
    found = []
    given = task.spec.options.get("choices", "choices")
    for s in (s for s in task.samples or () if s.input and (s.target or "text" not in s.row)):
        choices = given if isinstance(given, list) else s.row.get(str(given)) or [s.target]
        choices = choices.get("text") if isinstance(choices, dict) else choices
        choices = choices if isinstance(choices, list) else [s.target]
        targets = [str(t) for c in choices for t in (c if isinstance(c, list) else [c])]
        prompt = fewshot.prepend_examples(s.input, examples)
        found.append((s.id, (prompt, target_as_continuation(s.input, max(targets, key=len, default="")))))
    return found
