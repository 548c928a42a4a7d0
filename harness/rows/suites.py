"""Suites of rows that other tools scored.

A suite is a file with [rows], or made from the arguments of `harness gate`.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from harness.artifacts.digests import digest_value
from harness.collection.collect import check_gates
from harness.collection.collection import Collection, Item, Task
from harness.collection.context import Context
from harness.collection.tasks import find_rows_at_most_error
from harness.errors import UsageError
from harness.evaluation.evaluate import metrics_by_slice
from harness.gates.attempts import AttemptNumber
from harness.pipeline.adjudication import Adjudicator
from harness.pipeline.ledger import Ledger, LedgerEntry
from harness.plugins import Plugins, load_plugins
from harness.records.claims.gate import GATE_COMMAND, Gate
from harness.records.parts.rows import RowsOfOthers
from harness.records.run import ItemResult
from harness.records.samples import Result
from harness.records.suite_header import SuiteTable
from harness.records.verdict_text import complete
from harness.records.verdicts import Verdict
from harness.records.waivers import Waiver
from harness.rows import rows as evaluator
from harness.rows.gating import MeasuredRows, measure_rows
from harness.rows.guards import add_guards, decide_guards
from harness.rows.readers.fields import TASK
from harness.rows.readers.layouts import Lines
from harness.rows.readers.tables import read_table
from harness.rows.records import UNSET_COLUMN, RawRows, Wanted
from harness.rows.shared_columns import add_shared_clusters, clear_false_inputs, require_ids
from harness.rows.sides import read_sides
from harness.rows.wording import write_option
from harness.suite.tables import Eval, Model, ScoredRows, Suite
from harness.texts.counts import count_noun

Runs = Mapping[str, dict[str, RawRows]]  # by evaluation and side


class RowsTask(Task):
    """An evaluation that others made: what its rows ask is known by digest alone."""

    @cached_property
    def keys(self) -> list[tuple[str, ...]]:
        return [(s.key,) for s in self.samples or ()]


class RowsAdjudicator(Adjudicator):
    """The adjudicator of gates on other tools' rows.

    A candidate is identified by its scores on all evaluations that share questions.
    """

    def ledger_entry(self, candidate: str, name: str, result: Result) -> LedgerEntry:
        peers = sorted(self.claims.overlapping_evals[name])
        found = sorted(self.results[candidate, peer].digest for peer in peers)
        return replace(super().ledger_entry(candidate, name, result), weights=digest_value(found))


@dataclass
class JudgedRows:
    """A suite of rows and its results.

    These are evaluations, reports with their verdicts, and warnings.
    """

    suite: Suite
    started: datetime
    plugins: Plugins
    waivers: list[Waiver]
    measured: dict[str, MeasuredRows] = field(default_factory=dict)
    reports: list[ItemResult] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    standings: Mapping[tuple[str, str], AttemptNumber] = field(default_factory=dict)


def make_rows_suite(
    gate: Gate, paths: Mapping[str, str], options: Mapping[str, Any], alpha: float, **about: Any
) -> Suite:
    """Return the suite that the words of `harness gate` come to: one evaluation, one gate."""
    where = GATE_COMMAND
    scored = {side: ScoredRows(path, where) for side, path in paths.items()}
    name = re.sub(r"[^\w-]", "_", str(options.get("task") or "rows"))[:80]
    spec = Eval(name, "rows", where, options=options, **about)
    gate = replace(gate, metric=f"{name}.{options.get('metric') or '?'}", where=where)
    digest = digest_value([asdict(gate), dict(options), dict(paths), about])
    return rows_suite(Path("gate.toml"), SuiteTable("gate", alpha=alpha), (spec,), (gate,), digest, scored)


def rows_suite(
    path: Path, about: SuiteTable, evals: tuple[Eval, ...], gates: tuple[Gate, ...], digest: str,
    rows: Mapping[str, ScoredRows],
) -> Suite:  # fmt: skip
    """Return a suite without a model."""
    return Suite(
        path, about, Model("", "[rows]", "rows"), adapter=None, train=None, candidate=None, subjects={}, evals=evals,
        gates=gates, merges=(), exports=(), digest=digest, rows=rows,
    )  # fmt: skip


@contextmanager
def _pause_garbage_collection() -> Iterator[None]:
    """Look for no garbage: while very many rows are held, that takes half of the time, and finds none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True)
class PreparedRows:
    """Rows of a suite that were read and compared. Nothing is decided, and no attempt is counted."""

    judged: JudgedRows
    collection: Collection


def judge_rows(
    suite: Suite, plugins: Plugins | None = None, waivers: Sequence[Waiver] = (), runs: Runs | None = None,
    attempts: Mapping[str, AttemptNumber] | None = None,
) -> JudgedRows:  # fmt: skip
    """Judge the gates of a suite on its rows. See `prepare_rows` and `decide_rows`."""
    return decide_rows(prepare_rows(suite, plugins, waivers, runs), attempts)


@_pause_garbage_collection()
def prepare_rows(
    suite: Suite, plugins: Plugins | None = None, waivers: Sequence[Waiver] = (), runs: Runs | None = None
) -> PreparedRows:
    """Read and compare the rows of a suite, and check its gates on them.

    `runs` are rows already read. Without `plugins` the installed ones listen, and no harnessfile is executed. Raises
    UsageError with everything that cannot be read or compared.
    """
    found = JudgedRows(suite, datetime.now(UTC), plugins or load_plugins(None), [*waivers])
    sides, ours = (("base",) if "base" in suite.rows else ()), ("candidate",)
    context = Context(suite, found.plugins, False, None, False, sides, ours, ours, warnings=found.warnings)
    _require_rows_only_evals(context)
    there = read_runs(suite) if runs is None else runs
    found.measured = {spec.name: measure_rows(spec.name, there[spec.name], wanted_rows(spec)) for spec in suite.evals}
    names = {f"{name}.?": f"{name}.{one.metric.name}" for name, one in found.measured.items()}
    gates = [replace(gate, metric=names.get(gate.metric, gate.metric)) for gate in suite.gates if not gate.guards]
    evals = tuple(_add_task_slices(spec, found.measured[spec.name]) for spec in suite.evals)
    found.suite = suite = replace(suite, evals=evals, gates=add_guards(gates, found.measured))
    context = replace(context, suite=replace(suite, gates=tuple(gates)))  # guards need not prove anything
    each = [(spec, found.measured[spec.name]) for spec in suite.evals]
    tasks = {spec.name: RowsTask(spec, evaluator, {m.metric.name: m.metric}, m.samples) for spec, m in each}
    check_gates(context, tasks)
    for gate in gates:
        if gate.eval in found.measured and (why := _find_guessed_pairing_error(gate, found.measured[gate.eval])):
            context.mistakes.add(gate.where, why)
    for spec, one in each:
        for what in _iterate_interim_look_errors(suite, spec, len(one.samples)):
            context.mistakes.add(spec.where, what)
    context.mistakes.raise_errors()
    items = tuple(Item(suite.path.name, side, name) for side in (*sides, *ours) for name in tasks)
    return PreparedRows(found, Collection(suite, found.plugins, tasks, sides, ours, items))


@_pause_garbage_collection()
def decide_rows(prepared: PreparedRows, attempts: Mapping[str, AttemptNumber] | None = None) -> JudgedRows:
    """Decide the gates on prepared rows.

    `attempts` are attempt numbers already known; without them the ledger counts.
    """
    found, collection = prepared.judged, prepared.collection
    suite, tasks = found.suite, collection.tasks
    ledger = Ledger.from_environment(found.warnings.append) if attempts is None else None
    lacking = {} if "base" in suite.rows else {"base": "there is no base; add [rows.base]"}
    adjudicator = RowsAdjudicator(collection, found.waivers, found.started.date(), lacking, ledger)
    for name, one in found.measured.items():
        adjudicator.results |= {(side, name): result for side, result in one.results.items()}
    for name, standing in (attempts or {}).items():
        adjudicator.standings |= {(side, name): standing for side in suite.rows}
    for item in collection.items:
        verdicts = tuple(_add_conditions(v, found.measured) for v in adjudicator.on_evaluation_end(item))
        found.verdicts += verdicts
        one = found.measured[item.eval]
        result, metric = one.results[item.subject], one.metric
        found.reports.append(ItemResult(
            item.id, item.subject, item.eval, "done", dict(result.metrics), better={metric.name: metric.better},
            verdicts=verdicts, n=len(result.scores), of=len(one.samples), caveats=tuple(c.text for c in result.caveats),
            slices=metrics_by_slice(tasks[item.eval], result) if result.metrics else {},
        ))  # fmt: skip
    found.verdicts = decide_guards(found.verdicts, suite.gates)
    decided = {(v.candidate, v.gate): v for v in found.verdicts}
    found.reports = [
        replace(r, verdicts=tuple(decided[v.candidate, v.gate] for v in r.verdicts)) for r in found.reports
    ]
    found.standings = adjudicator.standings
    return found


def _find_guessed_pairing_error(gate: Gate, one: MeasuredRows) -> str:
    """Return that a claim depends on how copies without an id are paired, or an empty text."""
    key = "cap" if gate.cap is not None else "on_at_most" if gate.on_at_most is not None else "max_failures"
    if not gate.versus or not one.pairs.guessed or getattr(gate, key) is None:
        return ""
    copies = f"{count_noun(one.pairs.guessed, 'question')} of {one.name} occur several times without an id"
    return f'"{key}" compares row by row, but {copies}; name a column of ids with {write_option("id", "COLUMN")}'


def _add_task_slices(spec: Eval, one: MeasuredRows) -> Eval:
    """Return an evaluation of several tasks with these as slices."""
    named = one.runs["candidate"].tasks and TASK not in spec.slices
    return replace(spec, slices=[*spec.slices, TASK]) if named else spec


@_pause_garbage_collection()
def read_runs(
    suite: Suite, held: Mapping[str, Lines] = MappingProxyType({}), *, texts: frozenset[str] | None = None,
    only: str = "",
) -> Runs:  # fmt: skip
    """Read the rows of a suite's evaluations on both sides.

    Rows in `held` are taken from there. With `texts` the texts of the rows with these keys are kept; with `only` one
    evaluation is read. Raises UsageError.
    """
    found: dict[str, dict[str, RawRows]] = {}
    for spec in (one for one in suite.evals if not only or one.name == only):
        want = replace(wanted_rows(spec), texts=texts)
        wants = {s: replace(want, score=getattr(want, f"{s}_score", "") or want.score) for s in suite.rows}
        paths = {s: str(suite.path.parent / Path(one.path).expanduser()) for s, one in sorted(suite.rows.items())}
        there = [side for side in paths if side not in held]
        runs = dict(zip(there, read_sides([paths[s] for s in there], [wants[s] for s in there]), strict=True))
        runs |= {side: read_table(Path(side), held[side], wants[side]) for side in paths if side in held}
        found[spec.name] = {}
        for side in paths:
            one, run = suite.rows[side], _clear_unset_columns(runs[side], spec)
            if one.weights and not re.fullmatch("sha256:[0-9a-f]{64}", one.weights):
                raise UsageError(f'{one.where}: weights is "{one.weights[:80]}"; write "sha256:" and 64 hex digits')
            found[spec.name][side] = replace(run, binding="claimed", bound=one.weights) if one.weights else run
        require_ids(found[spec.name], want)
        found[spec.name] = add_shared_clusters(clear_false_inputs(found[spec.name], want), spec.clusters)
    return found


def wanted_rows(spec: Eval) -> Wanted:
    """Return an evaluation's options for reading its rows.

    Raises UsageError if its clusters or repeats are invalid.
    """
    if len(spec.clusters) > 2 or len({*spec.clusters}) < len(spec.clusters):
        raise UsageError(f"{spec.where}: cluster names {len(spec.clusters)} columns; name one, or two different ones")
    clusters = tuple(column for column in spec.clusters if column != UNSET_COLUMN)
    want = Wanted(**spec.options, cluster=clusters, slices=spec.slices)
    if want.repeats < 0:
        raise UsageError(f"{spec.where}: repeats is {want.repeats}; it must be the number of answers per row")
    return want


def _clear_unset_columns(run: RawRows, spec: Eval) -> RawRows:
    """Clear the contents or clusters of rows that the user unset."""
    if spec.options.get("input") == UNSET_COLUMN:
        run = replace(run, rows=[replace(row, content="") for row in run.rows])
    if UNSET_COLUMN in spec.clusters:
        run = replace(run, rows=[replace(row, cluster="", second_cluster="") for row in run.rows])
    return run


def _require_rows_only_evals(context: Context) -> None:
    """Raise UsageError if an evaluation needs a model, or has invalid options."""
    for spec in context.suite.evals:
        context.find_plugin("evaluator", "rows", spec.options, spec.where)
        if spec.use != "rows":
            context.mistakes.add(spec.where, f'use is "{spec.use}", which runs a model; with [rows] it must be "rows"')
        plain = Eval(spec.name, spec.use, spec.where, cluster=spec.cluster, slices=spec.slices, options=spec.options,
                     rows_at_most=spec.rows_at_most)  # fmt: skip
        for key in (f.name for f in fields(Eval) if getattr(spec, f.name) != getattr(plain, f.name)):
            context.mistakes.add(spec.where, f'"{key}" is for rows that a model answers; remove it')
    context.mistakes.raise_errors()


def _iterate_interim_look_errors(suite: Suite, spec: Eval, rows: int) -> Iterator[str]:
    """Yield the errors of looks that cannot share one risk.

    They concern evaluations that declare `rows_at_most`, for looks at more and more rows.
    """
    if what := find_rows_at_most_error(spec, rows):
        yield what
    if spec.rows_at_most is not None and "candidate" in suite.rows and not suite.rows["candidate"].weights:
        yield 'rows_at_most is for looks at one model; name its weights = "sha256:…" in [rows.candidate]'


def _add_conditions(verdict: Verdict, measured: Mapping[str, MeasuredRows]) -> Verdict:
    one = measured.get(verdict.metric.partition(".")[0]) or next(iter(measured.values()))
    return complete(verdict, RowsOfOthers(tuple(one.conditions)))
