"""The checks of a run: stages, the objects of each, and which flags the suite ignores.

A check is a function that a plugin provides under a code. It asks for what it looks at by the names of its
parameters, and belongs to the last stage that one of them comes from.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import plugin_errors
from harness.artifacts import artifact_cache
from harness.errors import PLUGIN_ERRORS, CheckFailedError, Mistakes, UsageError, did_you_mean, missing_modules_message
from harness.records.copies import copy_record, detach_copy
from harness.records.findings import Built, Finding, TrainingRow
from harness.records.models import ModelRef, Progress
from harness.records.waivers import Waiver
from harness.texts.shortening import shorten, shorten_to_line

if TYPE_CHECKING:
    from harness.collection.collection import Collection
    from harness.plugins import Plugins, Provided

STAGES: dict[str, dict[str, str]] = {  # stage -> the parameters a check may have, and what each is
    "data": {
        "suite": "the Suite, without its gates",
        "gates": "the gates of the suite",
        "rows": "the training rows, a list of TrainingRow",
        "tasks": "the evaluations by name, each with its samples",
        "base": "the base, a ModelRef with the folder it lies in",
        "load": "loads ModelRefs: a context manager of Subjects",
    },
    "trainer": {"built": "the Built trainer: labels and batches as they will be trained on"},
    "adapter": {"adapter": "the base as trained with the adapter on it, or the whole trained model; a ModelRef"},
    "merged": {
        "merged": "the merged model as it lies on the disk, a ModelRef",
        "twin": "what the merged model must equal, a ModelRef; None when it was merged elsewhere",
    },
    "results": {
        "result": "the Result of one evaluation of one subject",
        "task": "that evaluation",
        "reference": "the base's Result of that evaluation, or None",
        "facts": "what is known by now of every model, by subject; the base's under model",
    },
}
BUILD = """The trainer rejects the rows or its options.

What cannot be prepared cannot be trained on; the line says which rows or which option.
It is found before anything is measured, because the trainer is built without being run."""
TRAINING_SOURCES = ("training data", "validation data")  # names under which findings have numbers of training rows
SELECT_SUFFIX = " (select)"  # behind the name of an evaluation: the rows of its select split
CRASH_KIND = "crashed"  # the kind of a check that could not look
# objects that checks share: a copy of every token, or of every gate for each evaluation, would take longer than they do
LARGE = {"built", "suite", "gates"}
TITLED = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
SHOWN_LINES = 5  # lines of evidence that are kept


class Checks:
    """The checks of a run's plugins, with ignores and waivers by code."""

    def __init__(
        self, plugins: Plugins, ignored: Mapping[str, str], waived: Mapping[str, Waiver] | None = None
    ) -> None:
        self.provided = [p for (kind, _), p in plugins.provided.items() if kind == "check"]
        self.plugins = plugins
        self.ignored, self.waived = ignored, waived or {}
        self.titles = {p.name: title for p in self.provided if (title := check_title(p))}
        self.stages = {p.name: check_stage(p) for p in self.provided}
        self.objects: dict[str, Any] = {}
        mistakes, every = Mistakes(), [name for objects in STAGES.values() for name in objects]
        known = {p.name for p in self.provided} | {"build"}
        for provided in self.provided:
            where = f'check "{provided.name}" of plugin "{provided.plugin}"'
            if "-" in provided.name:  # or it could speak for another
                mistakes.add(
                    where, 'has "-" in its code, which is reserved to separate a kind; yield Finding(kind=…) instead'
                )
            elif not re.fullmatch(r"\w+", provided.name):
                mistakes.add(where, 'has a code that cannot be ignored by name; use letters, digits and "_"')
            for name in inspect.signature(provided.function).parameters:
                if name not in every:
                    mistakes.add(where, f'takes "{name}", which no stage provides{did_you_mean(name, every)}')
        titles = list(self.titles.values())
        for check, title in self.titles.items():
            if not TITLED.fullmatch(title) or title.partition("-")[0] in known or titles.count(title) > 1:
                what = (
                    f'has the title "{title}"; use lower-case words with "-" that no other check has as title or code'
                )
                mistakes.add(f'check "{check}"', what)
        for code in self.ignored:
            if self.provided and code not in titles and code.partition("-")[0] not in known:
                mistakes.add(f'ignore "{code}"', f"is not the code of a check{did_you_mean(code, [*known, *titles])}")
        mistakes.raise_errors()

    def checks_of_stage(self, stage: str) -> list[Provided]:
        return [p for p in self.provided if self.stages[p.name] == stage]

    def gated(self, *stages: str) -> set[str]:
        """Return the codes of the checks in these stages that take `gates`."""
        found = (p for stage in stages for p in self.checks_of_stage(stage))
        return {p.name for p in found if "gates" in inspect.signature(p.function).parameters}

    def run(self, stage: str, only: Container[str] | None = None, **objects: Any) -> list[Finding]:
        """Run the checks of a stage, or only some of them.

        Each check gets the objects of this stage and of earlier ones.
        """
        self.objects |= objects
        found: list[Finding] = []
        chosen = [p for p in self.checks_of_stage(stage) if only is None or p.name in only]
        for done, provided in enumerate(chosen):
            name = f"{provided.name} {self.titles.get(provided.name, '')}".strip()
            progress = Progress(f"checks of the {stage}", done, len(chosen), {"now": name})
            self.plugins.hook.harness_progress(progress=progress)
            wanted = {name: self.objects.get(name) for name in inspect.signature(provided.function).parameters}
            # copies that no other check and no verdict reads
            given = {name: one if name in LARGE else detach_copy(one) for name, one in wanted.items()}
            own = self.plugins.is_own(provided)
            flags = _run_check_catching_crashes(provided, given, partial(self.find_unknown_row, own=own), own=own)
            found += [self.complete_finding(provided.name, flag) for flag in flags]
        return found

    def find_unknown_row(self, flag: Finding, *, own: bool) -> str:
        """Explain which unknown evaluation or row a finding names. Our `own` checks name sources as well."""
        tasks: Mapping[str, Any] = self.objects.get("tasks", {})
        for name, ids in flag.rows.items() if tasks else ():
            if (task := tasks.get(name.removesuffix(SELECT_SUFFIX))) is None:
                if own or name in TRAINING_SOURCES:
                    continue
                return f' names rows of "{name}", which is not an evaluation{did_you_mean(name, tasks)}'
            known = {s.id for s in (task.select if name.endswith(SELECT_SUFFIX) else task.samples) or ()}
            if (odd := next((i for i in ids if i not in known), None)) is not None:
                return f' names row "{odd}" of "{name}", which does not exist'
        return ""

    def load_or_run(self, path: Path, look: Callable[[], list[Finding]], warn: Callable[[str], None]) -> list[Finding]:
        """Load findings from a cache file, or compute and cache them. Nothing is cached if a check crashed."""
        if (known := artifact_cache.read_sealed_json(path, warn)) is not None:
            return [self._apply_ignores_and_waivers(Finding(**told)) for told in known]
        found = look()
        if not any(flag.kind == CRASH_KIND for flag in found):
            artifact_cache.write_sealed_json(path, [asdict(flag) for flag in found])
        return found

    def _apply_ignores_and_waivers(self, flag: Finding) -> Finding:
        """Return a finding with why it does not count, if so: by suite or command, or an error by its waiver alone."""
        reason = next((self.ignored[name] for name in flag.names if name in self.ignored), None)
        waivers = (self.waived[name] for name in flag.names if name in self.waived)
        waiver = next(waivers, None) if flag.severity == "error" else None
        return replace(flag, ignored=waiver.summary() if waiver and reason is None else reason, waiver=waiver)

    def build_failed(self, error: UsageError) -> list[Finding]:
        """Return the trainer's rejections as findings."""
        return [self.complete_finding("build", Finding("error", message)) for message in error.messages]

    def complete_finding(self, check: str, flag: Finding) -> Finding:
        """Return a finding with its code, title, and any ignore or waiver. Long evidence is cut."""
        code = f"{check}-{flag.kind}" if flag.kind else check
        more = len(flag.evidence) - SHOWN_LINES
        evidence = (*flag.evidence[:SHOWN_LINES], *([f"and {more} more"] if more > 0 else []))
        title = self.titles.get(check, "")
        return self._apply_ignores_and_waivers(
            replace(copy_record(Finding, flag), code=code, title=title, evidence=evidence)
        )


def _run_check_catching_crashes(
    provided: Provided, given: Mapping[str, Any], strange: Callable[[Finding], str], *, own: bool
) -> Iterable[Finding]:
    check = provided.function
    try:
        found = list(plugin_errors.checked_items(check, check(**given), Finding, "Findings"))
        if odd := next(filter(None, map(strange, found)), ""):
            raise plugin_errors.plugin_error(check, odd)
        return found
    except (CheckFailedError, UsageError) as error:
        return [Finding("error", str(error).replace("\n", "; "))]
    except PLUGIN_ERRORS as error:  # a check that crashes has proved nothing, and must not look as if it had
        theirs = plugin_errors.error_location(error)
        if not theirs and isinstance(error, ModuleNotFoundError):
            return [
                Finding(
                    "note",
                    f"not run: {missing_modules_message(error.name)}",
                    kind=CRASH_KIND,
                )
            ]
        why = f"{type(error).__name__}: {shorten_to_line(error, 300)}"
        if theirs or not own:  # it may be the one that would have stopped the run
            why = theirs or str(plugin_errors.plugin_error(check, f": {why}"))
            return [
                Finding("error", f"the check itself crashed: {why}", fix="fix its code, or ignore it", kind=CRASH_KIND)
            ]
        return [
            Finding("warning", f"the check itself crashed: {why}", fix="report it, with the suite", kind=CRASH_KIND)
        ]


def check_title(provided: Provided) -> str:
    """Return the title that a check declares beside its code."""
    return str(provided.capabilities.title)


def check_stage(provided: Provided) -> str:
    """Return the last stage that provides one of a check's parameters."""
    wanted = inspect.signature(provided.function).parameters
    return ["data", *(stage for stage, objects in STAGES.items() if objects.keys() & wanted)][-1]


def make_data_objects(collection: Collection, base: ModelRef, load: Callable[..., Any]) -> dict[str, Any]:
    """Build the objects passed to checks of the data stage."""
    pairs = zip(collection.training or (), collection.origins, strict=True)
    rows = [TrainingRow(i, source, row, raw) for i, (row, (source, raw)) in enumerate(pairs, 1)]
    suite = replace(collection.suite, gates=(), digest=collection.suite.ungated_digest, source=None)
    about = {"suite": detach_copy(suite), "gates": detach_copy(collection.suite.gates)}
    return {**about, "rows": rows, "tasks": collection.tasks, "base": base, "load": load}


def build_trainer(collection: Collection, base: ModelRef, adapter: Any) -> Built | None:
    """Build the trainer with its rows prepared. None if it does not train, or cannot prepare rows without training."""
    train = collection.suite.train
    if train is None or not collection.suite.trains or collection.training is None:
        return None
    if (make := collection.plugins.find("trainer", train.use).capabilities.build) is None:
        return None
    rows, options = detach_copy(list(collection.training)), detach_copy(dict(train.options))
    built = make(detach_copy(base), adapter, rows, seed=collection.suite.training_seed, **options)
    return plugin_errors.checked_return(make, built, Built, "a harness.Built")  # type: ignore[no-any-return]


def quote_text(text: str, width: int = 90) -> str:
    """Quote a text on one line, with a long middle elided."""
    line = text.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")
    return f'"{shorten(line, width, middle=True)}"'
