"""The loop: baselines, train, adapter, merge, merged, export; each step hands data to the next."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import harness
from harness import schema
from harness.answers import keys
from harness.answers.cache import CachedSubject, Models, awake, tally
from harness.answers.store import Responses
from harness.artifacts import kept
from harness.artifacts.attestation import LOCK
from harness.artifacts.digests import digest_of
from harness.collection import needs, select
from harness.collection.collect import Item, Plan, Task, collect
from harness.collection.places import check_places
from harness.collection.trials import trials
from harness.data import fewshot
from harness.errors import RAISES, ExitCode, Finding, UsageError, of_the_machine
from harness.evaluation import checks as check
from harness.evaluation import grading
from harness.evaluation.evaluate import asked_digest, evaluate, sliced, standard_errors
from harness.files import cache_dir, folder_in_place, read_facts, write_text
from harness.gates import contamination
from harness.gates.decide import told_by_sizes
from harness.pipeline import preflight
from harness.pipeline.adjudication import Settlement
from harness.pipeline.attempts import Ledger, attempts_said
from harness.pipeline.conclusions import conclusions
from harness.pipeline.sweep import Climb, tell_apart, trained
from harness.plugins import load_plugins
from harness.records import findings
from harness.records.frozen import isolated
from harness.records.gates import Gate, Outcome
from harness.records.models import ModelRef, Progress, Subject
from harness.records.run import Report, Run
from harness.records.samples import Result
from harness.release import conversions
from harness.release.export import Judged, export
from harness.release.lockfile import lock
from harness.release.seal import sealed
from harness.reports.junit import junit
from harness.reports.report_json import dumps
from harness.reports.run_folder import RunFolder
from harness.suite.reader import read_suite
from harness.suite.tables import MERGES, Export, Model
from harness.suite.waivers import read_waivers, unneeded, void

ATTEMPTS = "attempts.jsonl"  # in the cache folder, and the only file there that cannot be made again
MERGED = "harness-merge.json"  # how a merged model compares with its adapter
REHEARSAL_ROWS = 2  # of the base against itself, for evaluations that compare


@dataclass(frozen=True)
class Options:
    """The options of `harness run`, under the names of its flags."""

    overrides: tuple[str, ...] = ()
    candidate: str | None = None
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
    ignore: tuple[str, ...] = ()  # codes of checks
    junit_xml: Path | None = None
    listeners: tuple[Any, ...] = ()  # plugins that watch, such as the terminal


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
    plan = collect(suite, plugins, limit=options.limit, selecting=options.select)
    check_places(suite, options.out, options.junit_xml)
    return select.select(plan, options.keyword, options.out if options.last_failed else None)


def run_suite(path: Path, options: Options) -> Run:
    """Run a suite. Raises UsageError for mistakes found before anything was measured; everything
    later is in the Run that is returned and in the folder that is written."""
    plan = prepare(path, options)
    return Runner(plan, options).go()


def opened(path: Path, options: Options) -> Runner:
    """Return a run up to the end of preflight, for those that only look ahead. Raises UsageError as it does."""
    runner = Runner(prepare(path, options), options)
    with _needs(runner.plan):
        runner.plan, runner.ready = preflight.check(runner.plan, options.limit, remembers=options.cache)
    return runner


Impostor = tuple[ModelRef, Callable[[Subject], Subject] | None]  # a model, and what spoils its answers


def check_suite(path: Path, options: Options) -> tuple[list[findings.Flag], findings.Built | None, Plan]:
    """Run the checks of the data and of the built trainer, and train nothing.

    Raises UsageError on a mistake in the suite or its data. Returns what was found, and what would be trained on.
    """
    return check_plan(prepare(path, options), options)


def check_plan(plan: Plan, options: Options) -> tuple[list[findings.Flag], findings.Built | None, Plan]:
    """Run the checks that need no training on a plan; see `check_suite`."""
    with _needs(plan):
        plan, ready = preflight.check(plan, options.limit)
    found, built = before_training(_checks(plan, options), plan, ready)
    return found, built, plan


def before_training(
    checks: check.Checks, plan: Plan, ready: preflight.Ready
) -> tuple[list[findings.Flag], findings.Built | None]:
    """Run the checks that need no training, on the trainer of every trial; the first of these is returned, if any."""
    base, load = _base(plan, ready), plan.plugins.find("loader", plan.suite.model.use).function
    found = checks.run("data", **check.data_objects(plan, base, partial(load, **plan.suite.model.options)))
    found = contamination.softened(found, plan.suite.gates)
    each = [_built(checks, t, base, adapter) for t, adapter in zip(trials(plan), ready.trials, strict=True)]
    return found + tell_apart(plan.suite.sweep, [flags for flags, _ in each]), each[0][1]


def _built(
    checks: check.Checks, plan: Plan, base: ModelRef, adapter: Any
) -> tuple[list[findings.Flag], findings.Built | None]:
    """Build a trainer and run its checks; what it refuses is a flag like any other."""
    try:
        built = check.build(plan, base, adapter) if checks.of("trainer") else None
    except UsageError as error:
        return checks.build_failed(error), None
    return checks.run("trainer", built=built) if built else [], built


def _checks(plan: Plan, options: Options) -> check.Checks:
    asked = dict.fromkeys(options.ignore, "--ignore")
    return check.Checks(plan.plugins, {**plan.suite.checks.ignore, **asked})


def _base(plan: Plan, ready: preflight.Ready) -> ModelRef:
    return ModelRef("base", ready.source.path, ready.source.digest, options=plan.suite.model.options)


@contextmanager
def _needs(plan: Plan) -> Iterator[None]:
    """Name the extra that brings a missing library."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(f"{plan.suite.path}: {needs.said([error.name or 'of a plugin'])}") from None


class _Stop(Exception):
    """Nothing more can or need be run; what was found so far stands."""


class Runner:
    """One run: the plan, what became of it so far, and where it is written."""

    def __init__(self, plan: Plan, options: Options, kept: dict[str, dict[str, Any]] | None = None) -> None:
        self.plan, self.options = plan, options
        self.suite, self.hook = plan.suite, plan.plugins.hook
        self.responses: Responses | None = None
        self.results: dict[tuple[str, str], Result] = {}
        self.refs: dict[str, ModelRef] = {}
        self.unmade: dict[str, str] = {}  # copies that there are none of, and why
        self.choice: list[str] = []
        self.answers: dict[tuple[str, str], Result | BaseException] = {}  # of evaluations that are marked later
        self.asked: dict[tuple[str, str], tuple[int, int]] = {}  # for them: requests, and those remembered
        self.kept = {} if kept is None else kept  # by evaluation: what its marker keeps, perhaps over several runs
        started = datetime.now(UTC)
        waivers = read_waivers(plan.suite.path)
        self.settlement = Settlement(plan, self.results, waivers, started.date())
        self.clock = time.monotonic()
        suite = plan.suite
        self.run = Run(
            suite.name,
            str(suite.path),
            suite.digest,
            suite.about.seed,
            suite.about.alpha,
            suite.model.path,
            started.isoformat(timespec="seconds"),
            harness.__version__,
            gates=sum(len(plan.gates(c)) for c in plan.candidates),
            items=tuple(i.id for i in plan.items),
            deselected=plan.deselected,
            selecting=plan.selecting,
            warnings=[*plan.warnings, *void(waivers, plan.suite, started.date())],
            waivers=waivers,
            versions=keys.versions(),
        )
        self.started = started
        self.asked_rows: dict[str, str] = {}  # what each evaluation asks, as it stood before there was a candidate
        self.checks = _checks(plan, options)
        self.progress = lambda p: self.hook.harness_progress(progress=isolated(p))

    def go(self, impostor: Callable[[ModelRef], Impostor] | None = None) -> Run:
        """Run the plan; what `impostor` makes of the base takes the candidate's place, and nothing is trained."""
        self.tell("harness_run_start")
        with self.stage("preflight", "configuration, tokenizer, lengths"), _needs(self.plan):
            self.plan, self.ready = preflight.check(self.plan, self.options.limit, remembers=self.options.cache)
            self.settlement.plan = self.plan
        self.impostor = impostor(self.base()) if impostor else None
        self.folder = RunFolder(self.options.out, self.suite.name, self.started)
        self.run.folder = str(self.folder.path)
        self.run.facts["model"] = {"path": self.suite.model.path, **self.ready.source.facts}
        self.run.digests["base"] = self.ready.source.digest
        self.run.digests |= {name: s.digest for name, s in self.ready.others.items()}
        self.run.digests |= {name: r.digest for name, r in self.ready.releases.items()}
        self.settlement.lacking = self.ready.lacking
        if self.options.counts and not self.options.select:
            self.settlement.ledger = Ledger(cache_dir() / ATTEMPTS, self.run.warnings.append)
        self.lock()
        self.responses = self.remembered()
        try:
            self.measure()
            self.run.exit_code = self.run.judge()
        except _Stop as stop:
            self.run.exit_code = stop.args[0] if stop.args else self.run.judge()
        except KeyboardInterrupt:
            self.run.problem = "interrupted; what was measured is kept, and training goes on from its last checkpoint"
            self.run.exit_code = ExitCode.INTERRUPTED
        except UsageError as error:
            self.run.problem, self.run.exit_code = str(error), ExitCode.USAGE
        except Finding as error:
            self.run.problem, self.run.exit_code = str(error), ExitCode.FAILED
        except BaseException as error:  # a sys.exit(0) or an exception of a plugin's own kind is no verdict
            if full := of_the_machine(error):
                self.run.problem, self.run.exit_code = full, ExitCode.USAGE
            else:
                self.run.problem = f"{type(error).__name__}: {error}"
                self.run.traceback, self.run.exit_code = traceback.format_exc(), ExitCode.INTERNAL
        self.finish()
        return self.run

    def lock(self) -> None:
        """Write down what the suite comes to, before there is a candidate to please."""
        self.asked_rows = {
            name: asked_digest(t.samples) for name, t in self.plan.tasks.items() if t.samples is not None
        }
        text = dumps(lock(self.plan, self.run, self.settlement.leaks))
        write_text(self.folder.path / LOCK, text)
        self.locked = text.encode()

    def conclude(self) -> None:
        """Say in words what follows from the verdicts."""
        idle = unneeded(self.run.waivers, self.run.verdicts)
        attempts = attempts_said(self.run.verdicts, self.suite.about.attempts == "spend")
        self.run.conclusions = [
            *self.choice,
            *conclusions(self.plan, self.results, self.run.verdicts),
            *attempts,
            *idle,
        ]

    def finish(self) -> None:
        if self.responses:
            self.responses.close()
        self.skip_the_rest()
        self.conclude()
        if not self.run.exports and self.refused_early():
            self.export("the run ended before it was reached")
        self.run.seconds = time.monotonic() - self.clock
        self.folder.finish(self.run)
        if self.options.junit_xml:
            write_text(self.options.junit_xml, junit(self.run))
        self.tell("harness_run_finish")

    def tell(self, hook: str, **records: Any) -> None:
        """Call a hook that watches; it gets copies, for what a listener writes must decide nothing."""
        getattr(self.hook, hook)(run=isolated(self.run), **isolated(records))

    def reported(self, report: Report) -> None:
        self.run.reports.append(report)
        sizes = [(v, told) for v in report.verdicts if (told := told_by_sizes(v.why))]
        self.run.warnings += [f'gate "{v.gate}" on {v.candidate}: {told}' for v, told in sizes]
        self.tell("harness_report", report=report)

    def flagged(self, flag: findings.Flag) -> None:
        self.run.flags.append(flag)
        self.tell("harness_flag", flag=flag)

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[None]:
        self.tell("harness_stage", stage=name, detail=detail)
        begun = time.monotonic()
        try:
            yield
        finally:
            self.run.stages[name] = self.run.stages.get(name, 0.0) + time.monotonic() - begun

    # -- the steps ---------------------------------------------------------------------------------

    def measure(self) -> None:
        if not self.impostor or any(g.clean_only for g in self.suite.gates):
            self.look_at_data()
        self.baselines()
        wanted = {i.subject for i in self.plan.items if i.subject in self.plan.candidates}
        if not wanted:
            return
        if self.impostor:
            self.gated(*self.impostor)
            return
        if self.suite.candidate and self.suite.candidate.merged:
            candidate = self.ready.candidate
            assert candidate  # preflight opened it
            ref = sealed(ModelRef("merged", candidate.path, candidate.digest, options=self.suite.model.options))
            self.look("merged", merged=ref, twin=None)
            self.with_copies(ref, wanted)
        else:
            self.adapter_and_merged(wanted)
        self.run.exit_code = self.run.judge()  # what is exported carries the report
        self.conclude()
        with self.stage("export", f"{len(self.suite.exports)} declared"):
            self.export()

    def baselines(self) -> None:
        """Measure the base and what is made of it by prompting: the dress rehearsal of everything later."""
        items = [i for i in self.plan.items if i.subject in self.plan.baselines]
        compared = [t for t in self.tasks_of(self.plan.candidates) if t.comparative]
        marked = [t for t in self.tasks_of(self.plan.candidates) if t.marks]
        if not items and not compared and not marked:
            return
        others = {*self.ready.others, *self.ready.releases}
        self.skip([i for i in items if i.subject in self.ready.lacking])
        items = [i for i in items if i.subject not in self.ready.lacking]
        with self.stage("baselines", ", ".join(dict.fromkeys(i.subject for i in items))):
            for task in marked:
                self.rehearse_marking(task)
            with self.load([self.base()]) as [subject]:
                for task in compared:
                    self.rehearse(task, subject)
                self.measure_baseline([i for i in items if i.subject not in others], subject)
            for name in dict.fromkeys(i.subject for i in items if i.subject in others):
                model = self.suite.subjects[name].model if name in self.ready.others else None
                with self.load([self.other(name)], model) as [subject]:
                    self.measure_baseline([i for i in items if i.subject == name], subject)
            self.measure_baseline([i for i in items if self.plan.tasks[i.eval].marks == "answers"], None)

    def skip(self, items: Sequence[Item]) -> None:
        """Report the items of a subject that is not there."""
        why = {**self.ready.lacking, **self.unmade}
        for item in items:
            report = Report(item.id, item.subject, item.eval, "skipped", error=why[item.subject])
            self.reported(report)

    def measure_baseline(self, items: Sequence[Item], subject: Subject | None) -> None:
        """Evaluate baselines; answers that are to be marked wait until there is no subject."""
        for item in items:
            if subject and self.plan.tasks[item.eval].marks:
                self.ask(item, subject)
                if self.plan.tasks[item.eval].marks == "answers":
                    continue
            report = self.evaluate(item, subject, None)
            if report.outcome == "error":
                scored = (item.subject, item.eval) in self.results  # or the evaluator raised
                raise _Stop(ExitCode.INCONCLUSIVE if scored else ExitCode.USAGE)

    def adapter_and_merged(self, wanted: set[str]) -> None:
        adapter = self.swept() if self.suite.sweep else self.adapter_and_look()
        if "adapter" in wanted:
            self.gated(adapter)
        parents = wanted | {e.from_ for e in self.suite.copies.values() if e.name in wanted}
        if self.suite.choose and "merged" in parents:
            self.with_copies(self.chosen({v: self.merge_and_look(adapter, v) for v in self.suite.merges}), wanted)
            return
        for variant in self.suite.merges:
            if self.suite.merged(variant) in parents:
                self.with_copies(self.merge_and_look(adapter, variant), wanted)

    def adapter_and_look(self) -> ModelRef:
        adapter = self.adapter()
        self.look("adapter", adapter=adapter)
        return adapter

    def swept(self) -> ModelRef:
        """Train trial after trial while each is better on the select rows, and go on with the last that was."""
        sweep = self.suite.sweep
        assert sweep
        by, values = sweep.by, sweep.values
        climb = Climb(self.suite, self.plan.tasks[by.partition(".")[0]])
        self.run.sweep = climb.swept
        best: tuple[ModelRef, Plan, preflight.Ready, dict[str, Any]] | None = None
        for value, plan, made in zip(values, trials(self.plan), self.ready.trials, strict=True):
            self.plan, self.suite, self.ready = plan, plan.suite, replace(self.ready, adapter=made)
            what = f"{sweep.key} = {schema.show(value)}"
            number = f"trial {len(climb.swept.trials) + 1} of at most {len(values)}"
            self.tell("harness_stage", stage="sweep", detail=f"{what}, {number}")
            before = self.run.stages.get("train", 0.0)
            adapter = self.adapter_and_look()
            facts, took = self.run.facts["training"], self.run.stages["train"] - before
            with self.stage("select", f"{by} on {climb.swept.rows} rows"):
                result = self.on_select(by, adapter, what)
            trial = climb.add(value, result, trained(facts, self.work(), took))
            self.tell("harness_trial", trial=trial)
            if not trial.better:
                break
            best = adapter, plan, self.ready, facts
        assert best  # there is nothing that the first could fail to be better than
        adapter, self.plan, self.ready, self.run.facts["training"] = best
        self.suite = self.plan.suite
        self.choice.append(climb.conclude())
        return adapter

    def merge_and_look(self, adapter: ModelRef, variant: str) -> ModelRef:
        merged = self.merge(adapter, variant)
        twin = replace(adapter, quantization=None) if variant == "original" else adapter
        self.look("merged", merged=merged, twin=twin)
        return merged

    def adapter(self) -> ModelRef:
        """Train, or take the adapter that was made elsewhere; return the base as trained with the adapter on it."""
        base, made = self.base(), self.ready.adapter
        assert made  # there is no adapter candidate without one
        if self.suite.candidate:
            assert self.suite.candidate.adapter
            folder = self.suite.resolve(self.suite.candidate.adapter)
        else:
            folder = self.train(base)
        quantization = made.quantization
        return sealed(replace(base, name="adapter", adapter=folder, quantization=quantization), base=base.digest)

    def train(self, base: ModelRef) -> Path:
        """Train into the work folder of exactly this recipe, unless it holds the finished adapter already."""
        train = self.suite.train
        assert train and self.plan.training is not None and self.ready.adapter
        out = self.work() / "adapter"
        facts = out / "harness-adapter.json"
        with self.stage("train", f"{train.use}, {len(self.plan.training)} rows"), self.making(out) as whole:
            if whole:
                self.run.facts["training"] = {"reused": str(out), **read_facts(facts)}
                return out
            trainer = self.plan.plugins.find("trainer", train.use).function
            rows, seed = isolated(list(self.plan.training)), self.suite.about.seed
            given: dict[str, Any] = {"flag": self.told} if schema.wants(trainer, "flag") else {}
            given |= {"watch": self.watched} if train.watch else {}
            given |= {"progress": self.progress, "seed": seed}
            trainer(isolated(base), self.ready.adapter, rows, out, **given, **isolated(dict(train.options)))
            if not kept.is_sealed(out):
                kept.seal(out)
            self.run.facts["training"] = read_facts(facts)
        return out

    @contextmanager
    def making(self, out: Path) -> Iterator[bool]:
        """Hold the work folder against other runs; yield whether a folder in it is there, as it was made."""
        tell = self.hook.harness_progress
        with kept.held(self.work(), lambda line: tell(progress=Progress("waiting", 0, 0, remark=line))):
            yield kept.fits(out, self.run.warnings.append)

    def merge(self, adapter: ModelRef, variant: str) -> ModelRef:
        """Write the merged model, and return it as it lies on the disk."""
        name = self.suite.merged(variant)
        assert adapter.adapter and self.ready.adapter and variant in MERGES
        out = self.work() / (f"merged-{variant}" if self.suite.choose else name)
        with self.stage("merge", f"onto the {variant} base"), self.making(out) as whole:
            if not whole:
                told = {"progress": self.progress} if schema.wants(self.ready.adapter.merge, "progress") else {}
                with folder_in_place(out) as folder:
                    self.ready.adapter.merge(adapter.path, adapter.adapter, folder, variant=variant, **told)
                    if verify := getattr(self.ready.adapter, "verify", None):
                        facts = verify(adapter.path, adapter.adapter, folder, variant=variant)
                        write_text(folder / MERGED, dumps({"facts": facts}))
                    kept.seal(folder, out)
            if facts := read_facts(out / MERGED):
                self.run.facts[name] = facts
            return sealed(ModelRef(name, str(out), options=adapter.options))

    def chosen(self, refs: Mapping[str, ModelRef]) -> ModelRef:
        """Return the best of several merged models by their select rows; the first of equals."""
        by = self.suite.choose
        assert by
        evaluation, _, name = by.partition(".")
        task = self.plan.tasks[evaluation]
        with self.stage("choose", f"by {by} on {len(task.select or ())} select rows"):
            found = {v: self.on_select(by, ref, f"the merge onto the {v} base") for v, ref in refs.items()}
        values = {variant: result.metrics[name] for variant, result in found.items()}
        sign = 1 if task.metrics[name].better == "higher" else -1
        best = max(values, key=lambda v: sign * values[v])
        shown = ", ".join(f"{v} {value:.4g}" for v, value in values.items())
        self.choice.append(f"the merge onto the {best} base was chosen by {by} on select rows: {shown}")
        return refs[best]

    def on_select(self, by: str, ref: ModelRef, what: str) -> Result:
        """Evaluate a model on the rows it is chosen by; raises Finding where EVAL.METRIC `by` is no finite number."""
        evaluation, _, name = by.partition(".")
        task = self.plan.tasks[evaluation]
        assert task.select  # collection or preflight read them
        with self.load([ref]) as [subject]:
            result = evaluate(replace(task, samples=task.select), what, subject, None, self.progress)
        if result.missing or not math.isfinite(result.metrics[name]):
            raise Finding(f"{by} of {what} is not a finite number on every row")
        return result

    def with_copies(self, ref: ModelRef, wanted: set[str]) -> None:
        """Evaluate a candidate and gate it, then what exports make of it; a copy that fails is no matter of others."""
        self.run.digests[ref.name], self.refs[ref.name] = ref.digest, ref
        if ref.name in wanted:
            self.gated(ref)
        for declared in (e for e in self.suite.copies.values() if e.from_ == ref.name and e.name in wanted):
            if any(v.holds_up and v.candidate == ref.name for v in self.run.verdicts):
                self.unmade[declared.name] = f"{ref.name} did not pass its gates"
                self.skip([i for i in self.plan.items if i.subject == declared.name])
                continue
            try:
                self.gated(self.copy(ref, declared))
            except _Stop:
                raise
            except RAISES as error:
                if of_the_machine(error):
                    raise
                self.not_made(declared, error)

    def copy(self, parent: ModelRef, declared: Export) -> ModelRef:
        """Let an exporter make other weights of a candidate, unless it did; return them as they lie on the disk."""
        exporter = self.plan.plugins.find("exporter", declared.use).function
        with self.stage("copy", f"{declared.name} of {parent.name}"):
            out = conversions.folder_of(self.work(), declared, parent, exporter)
            with self.making(out):
                ref = conversions.make(declared, parent, exporter, out, self.progress)
            self.run.facts[declared.name] = conversions.facts_of(out)
            return ref

    def not_made(self, declared: Export, error: BaseException) -> None:
        """Report a copy that could not be made or loaded: its gates are ERROR, and other candidates go on."""
        told = isinstance(error, (UsageError, Finding))
        why = f"{declared.where}: {error if told else f'{type(error).__name__}: {error}'}"
        trace = None if told else "".join(traceback.format_exception(error))
        self.unmade[declared.name] = why
        reached = {r.id for r in self.run.reports}
        for item in (i for i in self.plan.items if i.subject == declared.name and i.id not in reached):
            verdicts = self.settlement.after(item)
            report = Report(item.id, item.subject, item.eval, "error", verdicts=verdicts, error=why, traceback=trace)
            self.reported(report)
            self.enough()

    def gated(self, ref: ModelRef, disguise: Callable[[Subject], Subject] | None = None) -> None:
        """Evaluate a candidate and gate it."""
        self.run.digests[ref.name] = ref.digest
        self.refs[ref.name] = ref
        items = [i for i in self.plan.items if i.subject == ref.name]
        beside = list(dict.fromkeys(self.plan.against(i) for i in items if self.plan.tasks[i.eval].comparative))
        others = [self.base() if name == "base" else self.refs[name] for name in beside]
        with self.stage(ref.name, f"{len(items)} evaluations"), self.load([ref, *others]) as [subject, *loaded]:
            against = dict(zip(beside, loaded, strict=True))
            subject = disguise(subject) if disguise else subject
            for item in items:
                if self.plan.tasks[item.eval].marks:
                    self.ask(item, subject)
                else:
                    compares = self.plan.tasks[item.eval].comparative
                    self.evaluate(item, subject, against[self.plan.against(item)] if compares else None)
        for item in items:  # the models are gone: a judge may need the room
            if self.plan.tasks[item.eval].marks:
                self.evaluate(item, None, None)

    def look_at_data(self) -> None:
        codes = [p.name for stage in ("data", "trainer") for p in self.checks.of(stage)]
        with self.stage("checks", f"{len(codes)} of the data and of what will be trained on"):
            found = self.recall(self.before_training, "before training")
            self.settlement.leaks = contamination.leaks_of(found)
            if any(g.clean_only for g in self.suite.gates):
                self.lock()
            if not self.impostor:  # whose gates are tested, and nothing else
                self.flag(found, ExitCode.USAGE)

    def before_training(self) -> list[findings.Flag]:
        return before_training(self.checks, self.plan, self.ready)[0]

    def recall(self, look: Callable[[], list[findings.Flag]], *what: Any) -> list[findings.Flag]:
        """Look, unless it was done on exactly this plan, these models and this code."""
        if not self.options.cache:
            return look()
        key = digest_of([preflight.plan_digest(self.plan, self.ready.source), what])
        return self.checks.recall(cache_dir() / "checks" / f"{key}.json", look, self.run.warnings.append)

    def look(self, stage: str, **objects: Any) -> None:
        """Run the checks of a stage after training."""
        if codes := self.checks.of(stage):
            name = "adapter" if stage == "adapter" else objects["merged"].name
            with self.stage("checks", f"{len(codes)} of {name}"):
                load = partial(
                    self.plan.plugins.find("loader", self.suite.model.use).function, **self.suite.model.options
                )
                data = check.data_objects(self.plan, self.base(), load)
                looked = {name: ref and keys.of_model(ref) for name, ref in objects.items()}
                found = self.recall(lambda: self.checks.run(stage, **data, **objects), stage, looked)
                # What was made elsewhere and is broken is a mistake of the command; what was trained here has failed.
                self.flag(found, ExitCode.USAGE if self.suite.candidate else ExitCode.FAILED)

    def flag(self, found: Sequence[findings.Flag], code: ExitCode) -> None:
        """Tell what checks found; an error ends the run."""
        for one in found:
            if one not in self.run.flags:
                self.flagged(one)
        errors = [one.code for one in found if one.counts]
        if errors:
            first = errors[0]
            self.run.problem = f"{len(errors)} error findings of the checks; harness explain {first} says why"
            raise _Stop(code)

    def told(self, code: str, one: findings.Flag) -> None:
        """Tell what a trainer found while it trained; an error ends the training."""
        self.flag([self.checks.stamped(code, one)], ExitCode.FAILED)

    def watched(self, subject: Subject) -> dict[str, float]:
        """Measure a model in training on the first select rows of the evals that the suite watches."""
        train, found = self.suite.train, dict[str, float]()
        for name in train.watch if train else ():
            task = self.plan.tasks[name]
            assert train and task.select  # collection saw to it
            short = replace(task, samples=task.select[: train.watch_rows])
            result = evaluate(short, "training", subject, None, lambda _: None)
            found |= {f"{name}.{m}": math.nan if result.missing else v for m, v in result.metrics.items()}
        return found

    def refused_early(self) -> bool:
        return any(i.subject in self.plan.candidates for i in self.plan.items)

    def export(self, *why_not: str) -> None:
        changed = self.changed() if self.suite.exports and not why_not else []
        for declared in self.suite.exports:
            why = [*why_not, *changed]
            if not self.options.export:
                why.append("--no-export")
            if self.options.select:
                why.append("--select: the rows that chose a candidate cannot confirm it")
            why += [f"{one.code}: {one.what}" for one in self.run.flags if one.counts]
            if self.options.limit:
                why.append(f"--limit {self.options.limit}: some of the rows prove nothing about the rest")
            why += [self.unmade[declared.name]] if declared.name in self.unmade else []
            why += self.moved()
            ref = self.refs.get(declared.candidate)
            judged = Judged(self.settlement.verdicts, self.results, self.locked, self.settlement.leaks)
            self.run.exports.append(export(self.plan, declared, ref, self.run, why, judged))

    def changed(self) -> list[str]:
        """Return a reason for every baseline in a folder that holds other weights than when the run opened it."""
        models = {"base": (self.suite.model, self.ready.source)}
        models |= {name: (self.suite.subjects[name].model, source) for name, source in self.ready.others.items()}
        there = {n: (m, s) for n, (m, s) in models.items() if Path(s.path).is_dir()}
        odd = [n for n, (m, s) in there.items() if preflight.open_model(self.plan, m).digest != s.digest]
        return [f'"{name}" was replaced while it was measured' for name in odd]

    def moved(self) -> list[str]:
        """Return a reason for every evaluation that was judged on other rows than were locked."""
        odd = {name for (_, name), result in self.results.items() if result.rows != self.asked_rows.get(name)}
        return [
            f'"{name}" was judged on other rows than were locked before there was a candidate' for name in sorted(odd)
        ]

    # -- one item ----------------------------------------------------------------------------------

    def evaluate(self, item: Item, subject: Subject | None, against: Subject | None) -> Report:
        """Evaluate one item, judge its gates, write its rows, tell the listeners; without a subject, mark answers."""
        task = self.plan.tasks[item.eval]
        assert task.samples is not None  # preflight read what was remote
        begun = time.monotonic()
        before = tally(subject)
        try:
            result = self.scores(item, subject, against)
            if item.subject in self.plan.baselines:
                _refuse_fractions(self.suite.gates, result)
        except RAISES as error:
            if error is self.models.broken or of_the_machine(error):
                raise  # no other evaluation could load it either
            report = self.failed(item, error, time.monotonic() - begun)
        else:
            self.results[item.subject, item.eval] = result
            remarks = getattr(task.function, "remarks", None)
            for line in remarks(isolated(result.scores)) if remarks else ():
                self.run.warnings.append(f"{item.subject}::{item.eval}: {line}")
            self.folder.add(result, task.samples, list(result.metrics))
            asked, found = (now - then for now, then in zip(tally(subject), before, strict=True))
            asked, found = self.asked.get((item.subject, item.eval), (asked, found))
            report = replace(self.done(item, task, result), asked=asked, remembered=found)
            self.results_of(item, task, result)
        self.run.warnings += self.models.notes()
        self.reported(report)
        self.enough()
        return report

    def ask(self, item: Item, subject: Subject) -> None:
        """Let a subject answer what will be marked when it is gone."""
        task, key = self.plan.tasks[item.eval], (item.subject, item.eval)
        asked, found = tally(subject)
        try:
            self.answers[key] = grading.answer(task, item.subject, self.prompted(item, subject), self.progress)
        except RAISES as error:
            if error is self.models.broken or of_the_machine(error):
                raise
            self.answers[key] = error
        self.asked[key] = tally(subject)[0] - asked, tally(subject)[1] - found

    def marked(self, item: Item) -> Result:
        """Mark stored answers: alone, or paired with those of another subject."""
        task = self.plan.tasks[item.eval]
        against, answered = task.spec.against, self.answers[item.subject, item.eval]
        if task.marks != "pairs":
            baseline = None
        elif item.subject == against:
            baseline = answered  # a model is not compared with itself
        elif (against, item.eval) in self.answers:
            baseline = self.answers[against, item.eval]
        else:
            why = self.ready.lacking.get(against, f'"{against}" was not asked')
            raise UsageError(f"there is nothing to compare with: {why}")
        for found in (answered, baseline):
            if isinstance(found, BaseException):
                raise found
        assert isinstance(answered, Result) and not isinstance(baseline, BaseException)
        if baseline is answered:
            return answered
        return grading.mark(task, answered, baseline, self.terms(item))

    def terms(self, item: Item, *, rehearsal: bool = False) -> grading.Marking:
        suite = self.suite
        what = f"rehearsal::{item.eval}" if rehearsal else item.id
        place = (suite.model.path, suite.path.parent, suite.about.seed)
        kept = self.kept.setdefault(item.eval, {})
        return grading.Marking(what, *place, self.responses, self.progress, rehearsal, kept)

    def scores(self, item: Item, subject: Subject | None, against: Subject | None) -> Result:
        task = self.plan.tasks[item.eval]
        if subject is None or task.marks:
            return self.marked(item)
        if task.uncached:
            subject, against = awake(subject), awake(against) if against else None
        early = task.spec.stop == "early" and item.subject in self.plan.candidates
        enough = partial(self.settlement.decided, item) if early else None
        seed = self.suite.about.seed
        return evaluate(
            task, item.subject, self.prompted(item, subject), against, self.progress, enough=enough, seed=seed
        )

    def results_of(self, item: Item, task: Task, result: Result) -> None:
        """Look at the answers; what is odd about a baseline is nothing to stop for."""
        found = [] if self.impostor else self.checks.run("results", result=result, task=task)
        if item.subject not in self.plan.candidates:
            found = [replace(one, severity="note") for one in found]
        for one in found:
            self.flagged(one)

    def done(self, item: Item, task: Task, result: Result) -> Report:
        assert task.samples is not None
        missing = f"{len(result.missing)} of {len(task.samples)} rows got no score" if result.missing else None
        return Report(
            item.id,
            item.subject,
            item.eval,
            "error" if missing else "done",
            dict(result.metrics),
            standard_errors(task, result),
            sliced(task, result) if result.metrics else {},
            {m.name: m.better for m in task.metrics.values()},
            self.settlement.after(item),
            n=len(result.scores),
            of=len(task.samples),
            seconds=result.seconds,
            error=missing,
            caveats=tuple(c.text for c in result.caveats),
        )

    def failed(self, item: Item, error: BaseException, seconds: float) -> Report:
        """Report an evaluation that raised; what the user or the model did wrong needs no traceback."""
        told = isinstance(error, (UsageError, Finding))  # these say all there is to know
        where = self.plan.tasks[item.eval].spec.where
        why = f"{where}: {error}" if told else f"{type(error).__name__}: {error}"
        trace = None if told else "".join(traceback.format_exception(error))
        verdicts = self.settlement.after(item)
        return Report(
            item.id, item.subject, item.eval, "error", verdicts=verdicts, seconds=seconds, error=why, traceback=trace
        )

    def enough(self) -> None:
        """Stop at `-x` or `--maxfail`: then a failure counts also where it is of a candidate that no export ships."""
        if self.options.maxfail and sum(map(select.failed, self.run.reports)) >= self.options.maxfail:
            refuted = any(v.missed and v.outcome is Outcome.FAIL for v in self.run.verdicts)
            raise _Stop(*((ExitCode.FAILED,) if refuted else ()))

    def rehearse(self, task: Task, subject: Subject) -> None:
        """Run an evaluation that compares on two rows of the base against itself: crashes come before training."""
        assert task.samples is not None
        short = replace(task, samples=task.samples[:REHEARSAL_ROWS])
        model = awake(subject) if task.uncached else subject
        try:
            evaluate(short, "base", model, model, self.progress)
        except RAISES as error:
            if error is self.models.broken or of_the_machine(error):
                raise
            self.crashed(task, error)

    def rehearse_marking(self, task: Task) -> None:
        """Mark two answers of the base against themselves: a judge that is not there shows before training."""
        assert task.samples is not None
        short = replace(task, samples=task.samples[:REHEARSAL_ROWS])
        try:
            with self.load([self.base()]) as [subject]:
                answered = grading.answer(short, "base", subject, self.progress)
            rehearsal = self.terms(Item(self.suite.path.name, "base", task.spec.name), rehearsal=True)
            grading.mark(short, answered, answered if task.marks == "pairs" else None, rehearsal)
        except RAISES as error:
            if error is self.models.broken or of_the_machine(error):
                raise
            self.crashed(task, error)

    def crashed(self, task: Task, error: BaseException) -> None:
        """Report a rehearsal that raised, and end the run."""
        report = self.failed(Item(self.suite.path.name, "base", task.spec.name), error, 0.0)
        self.reported(report)
        raise _Stop(ExitCode.USAGE) from None

    def skip_the_rest(self) -> None:
        reached = {r.id for r in self.run.reports}
        for item in self.plan.items:
            if item.id not in reached:
                report = Report(item.id, item.subject, item.eval, "skipped", error="not reached")
                self.run.reports.append(report)

    # -- where things are --------------------------------------------------------------------------

    def base(self) -> ModelRef:
        return _base(self.plan, self.ready)

    def other(self, name: str) -> ModelRef:
        """Return a baseline that is a model of its own."""
        if name in self.ready.releases:
            return self.ready.releases[name]
        source = self.ready.others[name]
        return ModelRef(name, source.path, source.digest, options=self.suite.subjects[name].options)

    @contextmanager
    def load(self, refs: Sequence[ModelRef], model: Model | None = None) -> Iterator[list[Subject]]:
        """Yield a subject per ref; the models are loaded when something is asked that is not remembered."""
        model = model or self.suite.model
        loader = self.plan.plugins.find("loader", model.use).function
        self.models = models = Models(partial(conversions.load_each, loader, isolated(list(refs))))
        identify = getattr(loader, "identity", None) if self.responses else None
        try:
            subjects: list[Subject] = []
            for i, ref in enumerate(refs):
                identity = identify(isolated(ref), **ref.options) if identify else None
                if identity is None or self.responses is None:
                    subjects.append(models[i])
                else:
                    subjects.append(CachedSubject(ref, identity, models, i, self.responses))
            yield subjects
        finally:
            models.close()

    def remembered(self) -> Responses | None:
        if not self.options.cache:
            return None
        return Responses(cache_dir() / "responses.sqlite", self.run.warnings.append)

    def prompted(self, item: Item, subject: Subject) -> Subject:
        """Return the subject itself, or with its worked examples in front of it."""
        baseline = self.suite.subjects.get(item.subject)
        if baseline is None or not baseline.examples:
            return subject
        examples = fewshot.choose(self.plan.tasks[item.eval].shots, baseline.examples, self.suite.about.seed)
        return fewshot.FewShot(item.subject, subject, examples)

    def tasks_of(self, subjects: Sequence[str]) -> list[Task]:
        names = dict.fromkeys(i.eval for i in self.plan.items if i.subject in subjects)
        return [self.plan.tasks[name] for name in names]

    def work(self) -> Path:
        """Return the folder of everything made by exactly this recipe on exactly this base and data."""
        return self.work_of(self.plan)

    def work_of(self, plan: Plan) -> Path:
        """Return the folder of another plan on the same base, such as a trial's."""
        return cache_dir() / "trained" / preflight.recipe_digest(plan, self.ready, self.run.versions)[:16]


def _refuse_fractions(gates: Sequence[Gate], result: Result) -> None:
    """Raise UsageError where failures are to be counted of a metric that is not 0 or 1: before training, not after."""
    for gate in (g for g in gates if g.max_failures is not None and g.eval == result.eval):
        name = gate.metric_name
        if odd := next((s for s in result.scores if s.values.get(name, 0) not in (0, 1)), None):
            what = f'max_failures counts rows of a 0/1 metric, and {name} of row "{odd.id}" is {odd.values[name]:g}'
            raise UsageError(f'gate "{gate.id}": {what}; claim min or max')
