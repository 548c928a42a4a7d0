"""What a stage may use: what will be run, what preflight opened, options and stores. No result is kept in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.answers.store import Responses
from harness.collection import needs, select
from harness.collection.collect import collect
from harness.collection.places import check_places
from harness.collection.plan import Plan
from harness.errors import UsageError
from harness.evaluation.checks import Checks
from harness.files import cache_dir
from harness.pipeline import preflight
from harness.pipeline.cleaning import cleaned
from harness.pipeline.preflight import Ready
from harness.plugins import load_plugins
from harness.records.frozen import isolated
from harness.records.models import ModelRef, Progress
from harness.reports.run_folder import RunFolder
from harness.suite.reader import read_suite
from harness.suite.tables import Suite
from harness.workers.loading import Shelf
from harness.workers.local import workers
from harness.workers.pool import PATIENCE


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
    plugins: tuple[str, ...] = ()
    on: str = ""  # where models answer: NAME:PLACE of workers, or in this process
    patience: float = PATIENCE  # seconds that a worker may be silent
    shelf: Shelf = field(default_factory=Shelf, compare=False)  # where loaded models wait for other suites
    ignore: tuple[str, ...] = ()  # codes of checks
    junit_xml: Path | None = None
    listeners: tuple[Any, ...] = ()  # plugins that watch, such as the terminal


@dataclass(frozen=True)
class Session:
    """What a stage may use.

    `kept` holds by evaluation what its marker keeps, perhaps over several runs. Where one only looks ahead there is
    no `folder`, and without `responses` no answer is remembered.
    """

    collection: Plan
    opened: Ready
    options: Options
    checks: Checks
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)
    folder: RunFolder | None = None
    responses: Responses | None = None

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
        self.collection.plugins.hook.harness_progress(progress=isolated(sign))


def prepare(path: Path, options: Options) -> Plan:
    """Read, load, collect and select: everything that is fast. Raises UsageError with every mistake."""
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"--limit is {options.limit}, want 1 or more")
    if options.maxfail < 0:
        raise UsageError(f"--maxfail is {options.maxfail}, want 1 or more, or 0 to go on whatever fails")
    suite = read_suite(path, options.overrides, options.candidate)
    plugins = load_plugins(path, options.plugins)
    for listener in options.listeners:
        plugins.manager.register(listener)
    workers(options.on, plugins, suite.model.options)  # a mistake shows before anything is done
    plan = collect(suite, plugins, limit=options.limit, selecting=options.select)
    check_places(suite, options.out, options.junit_xml)
    return select.select(plan, options.keyword, options.out if options.last_failed else None)


def checks_of(collection: Plan, options: Options) -> Checks:
    """Return the checks of a collection's plugins. Raises UsageError where one that is ignored does not exist."""
    asked = dict.fromkeys(options.ignore, "--ignore")
    return Checks(collection.plugins, {**collection.suite.checks.ignore, **asked})


def open_collection(
    collection: Plan, options: Options, checks: Checks, kept: dict[str, dict[str, Any]] | None = None
) -> Session:
    """Run preflight. Raises UsageError with every mistake, and with the extra that brings a library that is missing."""
    with _needs(collection):
        checked, opened = preflight.check(collection, options.limit, remembers=options.cache)
    session = Session(checked, opened, options, checks, {} if kept is None else kept)
    if checked.suite.train and checked.suite.train.drop_leaks and checked.training:
        session = replace(session, collection=cleaned(checked, session.base, checks))
    return session


def remembered(options: Options, warn: Callable[[str], None]) -> Responses | None:
    """Open the answers of earlier runs, or return None with --no-cache."""
    return Responses(cache_dir() / "responses.sqlite", warn) if options.cache else None


@contextmanager
def _needs(collection: Plan) -> Iterator[None]:
    """Raise UsageError with the extra that brings a missing library."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(f"{collection.suite.path}: {needs.said([error.name or 'of a plugin'])}") from None
