"""The shared inputs, mistakes and warnings of a collection."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

from harness import capabilities, plugin_errors, schema
from harness.collection.collection import trains_whole
from harness.data import resolver
from harness.data.ambiguity import find_ambiguous_row
from harness.data.rows import find_target_in_template
from harness.data.templates import find_template_error
from harness.errors import Mistakes, UsageError, did_you_mean
from harness.plugins import Plugins
from harness.records.copies import detach_copy
from harness.suite.tables import Eval, Export, Model, Suite, Train, Use

Rows = Sequence[Mapping[str, Any]]
METHODS_WITH_OPTIONS = {"loader": ("open", "identity"), "trainer": ("check", "build", "measure", "memory")}
SHARED_KEYS = {"evaluator": {"stop"}, "exporter": {"path"}}  # keys that are given to plugins as options, too


@dataclass(frozen=True)
class Context:
    """A suite that is collected: its plugins, what `collect` was asked for, and the mistakes and warnings so far."""

    suite: Suite
    plugins: Plugins
    remote: bool
    limit: int | None
    selecting: bool
    baselines: tuple[str, ...]
    candidates: tuple[str, ...]
    made: tuple[str, ...]  # the candidates that training and merging, or somebody else, make
    recipe: str = ""  # that of them which there is one of for every seed
    ahead: bool = False  # another trains it, or it is still to come
    mistakes: Mistakes = field(default_factory=Mistakes)
    warnings: list[str] = field(default_factory=list)
    readings: list[str] = field(default_factory=list)  # what columns that nobody declared were taken for

    def mistakes_at(self, where: str) -> Callable[[str], None]:
        """Return a function that adds mistakes of one place."""
        return partial(self.mistakes.add, where)

    def are_readable(
        self, rows: Rows, columns: Mapping[str, str], template: str | None, where: str, *, training: bool = False
    ) -> bool:
        """Return whether rows can be read in exactly one way. Add a mistake if not."""
        what = find_template_error(template) if template is not None else ""
        if template is not None and "input" in columns:
            what = 'builds the input, but columns maps "input" as well; remove one of them'
        elif template is not None:
            what = what or find_target_in_template(template, columns, rows)
        what = f"template {what}" if what else find_ambiguous_row(rows, columns, template, training=training)
        if what:
            self.mistakes.add(where, what)
        return not what

    def resolve_rows(
        self, rows: list[dict[str, Any]], table: Eval | Train, where: str, *, kept: Collection[str] = ()
    ) -> resolver.SuiteRows | None:
        """Return rows with a suite's columns. None, with a mistake, if their layout is malformed."""
        training = isinstance(table, Train)
        with self.mistakes.collecting(f"{where}:"):
            resolved = resolver.resolve_suite_rows(rows, table.columns, table.template, kept=kept, training=training)
            for line in resolved.lines:
                if (reading := f"{where}: {line}") not in self.readings:
                    self.readings.append(reading)
            return resolved
        return None

    def find_plugin(self, kind: str, name: str, options: Mapping[str, Any], where: str) -> Callable[..., Any] | None:
        """Find a table's plugin and check its options.

        None, with a mistake, if there is no plugin of this name.
        """
        try:
            function = self.plugins.find(kind, name).function
        except UsageError as error:
            self.mistakes.add(where, str(error))
            return None
        if not self.plugins.is_own(provided := self.plugins.find(kind, name)):
            for option in sorted({*schema.list_options(function)[0]} & _list_table_keys(kind)):
                what = f': the option "{option}" is a key of the table itself, so no suite can set it; rename it'
                self.mistakes.add(where, str(plugin_errors.plugin_error(function, what)))
            for method in (getattr(provided.capabilities, m) for m in METHODS_WITH_OPTIONS.get(kind, ())):
                named, open_ended = _list_parameters(method) if method else ({*options}, True)
                for option in sorted(
                    {*options} & {*schema.list_options(function)[0]} - named if not open_ended else ()
                ):
                    what = f' lacks a parameter "{option}", an option of the {kind} "{name}"; add it'
                    self.mistakes.add(where, str(plugin_errors.plugin_error(method, what)))
        schema.check_options(function, options, lambda _, what: self.mistakes.add(where, what))
        return function


def _list_parameters(method: Callable[..., Any]) -> tuple[set[str], bool]:
    """Return the names of a method's parameters, and whether it takes any other."""
    parameters = inspect.signature(method).parameters
    return {*parameters}, any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _list_table_keys(kind: str) -> set[str]:
    """Return the keys of a plugin's table that cannot be options of it."""
    table = {"evaluator": Eval, "trainer": Train, "loader": Model, "exporter": Export}.get(kind, Use)
    return {f.name.rstrip("_") for f in fields(table)} - {"where", "options"} - SHARED_KEYS.get(kind, set())


def check_tables(context: Context) -> None:
    """Check the plugins and options of a suite's tables.

    These are loaders, adapter, trainer and exporters, and all values of a sweep.
    """
    suite, made = context.suite, context.made
    for model in (suite.model, *(s.model for s in suite.subjects.values() if s.use)):
        context.find_plugin("loader", model.use, model.options, model.where)
    if suite.adapter:
        context.find_plugin("adapter", suite.adapter.use, suite.adapter.options, suite.adapter.where)
    if (train := suite.train) and (trainer := context.find_plugin("trainer", train.use, train.options, train.where)):
        _check_extra_trainer_options(context, trainer, train.options, train.where)
        if what := _find_processes_error(trainer, train) or _find_seeds_error(suite, train):
            context.mistakes.add(train.where, what)
    if suite.adapter and trains_whole(replace(suite, candidate=None), context.plugins):  # nothing that can be merged
        if suite.merges not in ((), ("original",)):
            what = "training changes all weights, so there is no adapter to merge into another base; remove [merge]"
            context.mistakes.add(str(suite.path), f"[merge] base: {what}")
        if suite.candidate and suite.candidate.adapter:
            what = f'use = "{suite.adapter.use}" cannot load an adapter, and the candidate is one; use = "lora"'
            context.mistakes.add(suite.adapter.where, what)
    for export in suite.exports:
        context.find_plugin("exporter", export.use, export.options, export.where)
        if export.from_ not in made:
            known = did_you_mean(export.from_, made) or "; the suite has no candidate"
            context.mistakes.add(export.where, f'no candidate "{export.from_}"{known}')
    if suite.candidate and suite.candidate.adapter and not suite.merges:
        what = "evaluates only the adapter, not the model it is merged into; add [merge] for that"
        context.warnings.append(f"{suite.candidate.where} {what}")
    _check_sweep(context)


def _check_extra_trainer_options(
    context: Context, trainer: Callable[..., Any], options: Mapping[str, Any], where: str
) -> None:
    """Let a trainer check options that its signature lacks. Its `look` imports no library."""
    look, known = capabilities.TrainerCapabilities.of(trainer).look, schema.list_options(trainer)[0]
    if look:
        with context.mistakes.collecting(where):
            given = detach_copy({name: value for name, value in options.items() if name not in known})
            plugin_errors.refuse_returned_error(look, look(**given))


def _find_processes_error(trainer: Callable[..., Any], train: Train) -> str:
    """Return why several processes cannot be had: the trainer knows but one, or something can only be done in one."""
    if train.processes != "auto" and train.processes < 1:
        return f'processes is {train.processes}; give a number of processes, or "auto"'
    if train.shard and not schema.has_parameter(trainer, "shard"):
        return f'shard: the trainer "{train.use}" cannot shard weights between processes; remove shard'
    if train.processes == 1:
        alone = "shard: splits the weights between processes, and there is one; set processes, or remove shard"
        return alone if train.shard else ""
    if not schema.has_parameter(trainer, "processes"):
        return f'processes: the trainer "{train.use}" trains in one process; remove it'
    busy = "watch: evaluates in this process, but several processes train; remove watch or processes"
    return busy if train.watch else ""


def _find_seeds_error(suite: Suite, train: Train) -> str:
    """Explain why a recipe cannot be trained once per seed. Empty if it can."""
    if train.seeds and suite.choose:
        return 'seeds: each run is merged onto the same base, but "choose" in [merge] chooses one; name it in "base"'
    return ""


def _check_sweep(context: Context) -> None:
    """Check a sweep's values as options of its table.

    The first value is left out, since the table has it and is checked itself.
    """
    if (sweep := context.suite.sweep) is None:
        return
    kind = "adapter" if sweep.table == "adapter" else "trainer"
    for value in sweep.values[1:]:
        table: Use = getattr(context.suite.trial(value), sweep.table)
        if (kind, table.use) not in context.plugins.provided:
            return  # told already
        function, found = context.plugins.find(kind, table.use).function, Mistakes()
        schema.check_options(function, table.options, found.add)
        own = f"{sweep.option}: "
        context.mistakes.messages += [
            f"{table.where}: {m.removeprefix(own)}" for m in found.messages if m.startswith(own)
        ]
        if kind == "trainer":
            _check_extra_trainer_options(context, function, {sweep.option: value}, table.where)
