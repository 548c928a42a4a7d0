"""The collection, opened models, options and stores of a run. No result is kept here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.answers.cache import CachedSubject, StageModels
from harness.answers.store import Responses
from harness.collection import select
from harness.collection.collect import collect
from harness.collection.collection import Collection, Item
from harness.collection.output_paths import check_candidate, check_output_paths
from harness.data import fewshot
from harness.errors import UsageError, missing_modules_message
from harness.evaluation.checks import TRAINING_SOURCES, Checks, make_data_objects
from harness.files import cache_dir
from harness.pipeline import preflight
from harness.plugins import load_plugins
from harness.records.copies import detach_copy
from harness.records.models import ModelRef, Progress, Subject
from harness.reports.run_folder import RunFolder
from harness.suite.reader import read_override, read_suite
from harness.suite.tables import Model, Suite
from harness.suite.waivers import active_check_waivers, read_waivers
from harness.texts import secrets
from harness.workers.loading import LoaderSettings, load_models
from harness.workers.local import parse_workers

CLEANING_CHECKS = ("D10", "D11")  # checks of training rows
NEUTRAL_OPTIONS = {"out", "patience", "junit_xml", "listeners"}  # options on which no verdict depends
Loading = AbstractContextManager[tuple[StageModels, list[Subject]]]
FLAGS = {"overrides": "--set", "keyword": "-k", "last_failed": "--lf", "plugins": "-p"}  # that have another name


@dataclass(frozen=True)
class Options:
    """The options of `harness run`, under the names of its flags."""

    overrides: tuple[str, ...] = ()
    candidate: str | None = None
    candidates: tuple[str, ...] = ()  # several, of which the best on the select rows is the candidate
    out: Path = Path("reports")
    keyword: str = ""
    maxfail: int = 0
    last_failed: bool = False
    limit: int | None = None
    export: bool = True
    select: bool = False
    cache: bool = True
    counts: bool = True  # as an attempt, in the ledger
    ahead: bool = field(default=False, compare=False)  # only looked at, so that a candidate may still be lacking
    plugins: tuple[str, ...] = ()
    on: str = ""  # where models answer: NAME:PLACE of workers, or in this process
    patience: float = 600.0  # seconds that a worker may be silent
    shelf: Any = field(default=None, compare=False)  # where loaded models wait for other suites
    ignore: tuple[str, ...] = ()  # codes of checks
    junit_xml: Path | None = None
    listeners: tuple[Any, ...] = ()  # plugins that watch, such as the terminal

    def to_json(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, by flag.

        Secrets are redacted, and options that decide nothing are left out.
        """
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.compare and f.name not in NEUTRAL_OPTIONS}
        asked = {name: value for name, value in given.items() if value != getattr(Options, name)}
        overrides = []
        for override in self.overrides:
            keys, value = read_override(override)
            told = secrets.redact_options({keys[-1]: value})
            same = told == {keys[-1]: value}
            overrides.append(override if same else f"{'.'.join(keys)}={json.dumps(told[keys[-1]], default=str)}")
        asked |= {"overrides": overrides} if overrides else {}
        off = {f"--no-{name}": True for name, value in asked.items() if value is False}
        return {FLAGS.get(name, f"--{name}"): value for name, value in asked.items() if value is not False} | off


@dataclass(frozen=True)
class Session:
    """The collection, models, options and stores that a stage may use."""

    collection: Collection
    opened: preflight.PreflightResult
    options: Options
    checks: Checks
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)  # by evaluation, by its marker, over several runs
    folder: RunFolder | None = None  # there is none where one only looks ahead
    responses: Responses | None = None  # without them no answer is remembered

    @property
    def suite(self) -> Suite:
        return self.collection.suite

    @property
    def base(self) -> ModelRef:
        source = self.opened.source
        return ModelRef("base", source.path, source.digest, options=self.suite.model.options)

    def baseline(self, name: str) -> ModelRef:
        """Return a baseline that is a model of its own."""
        if name in self.opened.releases:
            return self.opened.releases[name]
        source = self.opened.others[name]
        return ModelRef(name, source.path, source.digest, options=self.suite.subjects[name].options)

    def progress(self, sign: Progress) -> None:
        """Pass a sign of life on to those that watch."""
        self.collection.plugins.hook.harness_progress(progress=detach_copy(sign))

    @property
    def wanted_candidates(self) -> set[str]:
        """The candidates that a run evaluates: those that items were chosen of."""
        return {i.subject for i in self.collection.items if i.subject in self.collection.candidates}

    def items(self, subject: str) -> Sequence[Item]:
        return [i for i in self.collection.items if i.subject == subject]

    def with_examples(self, item: Item, subject: Subject) -> Subject:
        """Put a baseline's worked examples in front of its prompts.

        Other subjects are returned as they are. A cached subject is set to need finish reasons if the item does.
        """
        if isinstance(subject, CachedSubject):
            subject.wants_endings = self.collection.wants_endings(item.eval)
        if (baseline := self.suite.subjects.get(item.subject)) is None or not baseline.examples:
            return subject
        examples = fewshot.choose_examples(
            self.collection.tasks[item.eval].shots, baseline.examples, self.suite.header.seed
        )
        return fewshot.FewShot(item.subject, subject, examples)

    def load(self, refs: Sequence[ModelRef], model: Model | None = None) -> Loading:
        """Load models lazily, yielding a subject for each.

        No model is loaded before a request that the cache cannot answer.
        """
        model, options = model or self.suite.model, self.options
        about = LoaderSettings(self.collection.plugins, self.suite.path, options.on, options.patience, options.shelf)
        return load_models(about, refs, model, self.responses, self.progress)


def prepare_collection(path: Path, options: Options) -> Collection:
    """Read, load, collect and select: everything that is fast. Raises UsageError with every mistake."""
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"--limit is {options.limit}; it must be 1 or more")
    if options.maxfail < 0:
        raise UsageError(f"--maxfail is {options.maxfail}; it must be 1 or more, or 0 for no limit")
    suite = read_suite(path, options.overrides, options.candidate)
    if suite.rows:
        raise UsageError(f"{path}: [rows] suites have no model; only harness run works on them")
    plugins = load_plugins(path, options.plugins)
    for listener in options.listeners:
        plugins.manager.register(listener)
    parse_workers(options.on, plugins, suite.model.options)  # a mistake shows before anything is done
    collection = collect(suite, plugins, limit=options.limit, selecting=options.select, ahead=options.ahead)
    check_output_paths(suite, options.out, options.junit_xml)
    if not plugins.find("loader", suite.model.use).capabilities.remote:
        check_candidate(suite)
    return select.select_items(collection, options.keyword, options.out if options.last_failed else None)


def collect_checks(collection: Collection, options: Options) -> Checks:
    """Return the checks of a collection's plugins. Raises UsageError where one that is ignored does not exist."""
    suite, asked = collection.suite, dict.fromkeys(options.ignore, "--ignore")
    waived = active_check_waivers(read_waivers(suite.path), suite, datetime.now(UTC).date())
    return Checks(collection.plugins, {**suite.checks.ignore, **asked}, waived)


def open_collection(collection: Collection, options: Options, checks: Checks) -> Session:
    """Run preflight. Raises UsageError with every mistake, and with the extra that brings a library that is missing.

    With `drop_leaks` training rows of which an error or a warning counts are taken out until there are none, and the
    collection's warnings say how many these are. Raises UsageError where no row is left.
    """
    try:
        collection, opened = preflight.run_preflight(collection, options.limit, remembers=options.cache)
    except ModuleNotFoundError as error:
        raise UsageError(f"{collection.suite.path}: {missing_modules_message(error.name)}") from None
    session, train = Session(collection, opened, options, checks), collection.suite.train
    if not (train and train.drop_leaks and collection.training):
        return session
    rows, taken = list(zip(collection.training, collection.origins, strict=False)), Counter[str]()
    whole, where = len(rows), f"{collection.suite.path}: [train] drop_leaks"
    while rows:
        training, origins = zip(*rows, strict=True)
        collection = replace(collection, training=training, origins=origins)
        found = checks.run("data", CLEANING_CHECKS, **make_data_objects(collection, session.base, lambda: None))
        flags = [flag for flag in found if flag.severity != "note" and flag.ignored is None]
        odd = {
            int(i): flag.code for flag in reversed(flags) for name in TRAINING_SOURCES for i in flag.rows.get(name, ())
        }
        taken.update(odd.values())
        rows = [row for i, row in enumerate(rows, 1) if i not in odd]
        if not odd:
            codes = ", ".join(f"{code} {n}" for code, n in sorted(taken.items())) or "none is found"
            told = f"{where}: {whole - len(rows):,} of {whole:,} rows are removed: {codes}"
            return replace(session, collection=replace(collection, warnings=(*collection.warnings, told)))
    raise UsageError(f"{where}: all {whole:,} rows were removed; harness check shows why")


def open_answer_cache(options: Options, warn: Callable[[str], None]) -> Responses | None:
    """Open the answers of earlier runs, or return None with --no-cache."""
    return Responses(cache_dir() / "responses.sqlite", warn) if options.cache else None
