"""A callback for any trainer of transformers: it evaluates the model in training, stops it, and keeps the best."""
# ruff: noqa: TID253 (imported only by who trains with transformers)

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypeVar

from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import CallbackHandler

from harness.errors import UsageError
from harness.evaluation.live import live_metrics
from harness.records.verdicts import Outcome, Verdict
from harness.texts.escaping import limit_length, printable
from harness.texts.numbers import format_metric
from harness.training.interim import InterimAnalysis, Look, Results, count_looks
from harness.training.live_suite import BASE, LiveSuite, open_live_suite

T = TypeVar("T")
PREFIX = "harness/"  # of what goes into the trainer's log
METRIC_SCHEDULERS = ("reduce_lr_on_plateau", "greedy")  # of lr_scheduler_type
SHARDED_BACKENDS = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "TP")


@dataclass
class Course:
    """State of one training, from its first step on.

    `suite` and `analysis` are set only in the first process.
    """

    looks: int
    suite: LiveSuite | None = None
    analysis: InterimAnalysis | None = None
    base: dict[str, float] = field(default_factory=dict)
    looked_at: int = -1  # the step of the last look
    done: int = 0
    failed: int = 0  # looks that ended with an error
    best: float | None = None
    best_step: int | None = None
    chosen_by: str | None = None  # the trainer's own metric_for_best_model, which is put back at the end


@dataclass(frozen=True)
class Decision:
    """Decision of one look, shared by all processes.

    `stop` ends the training; `best` marks this checkpoint as the best so far.
    """

    stop: bool
    best: bool
    score: float
    logs: dict[str, float]


class GateCallback(TrainerCallback):  # type: ignore[misc]
    """Callback that tests a model in training with a suite's gates.

    It looks at the model every `every_steps` steps and at the end. Before the first step the base answers the select
    rows of the suite's evals; each look evaluates the model on the same rows, and its metrics go to the trainer's log
    as `harness/EVAL.METRIC`. Gates are tested at their risk divided by the number of looks. With `stop="refuted"` the
    training ends once a blocking guard is proven broken, a gate that the base keeps; `stop=""` only looks. With
    `keep="best"` the checkpoint with the best score is saved, among those without a refuted guard, and
    `load_best_model_at_end` loads it in place of the one chosen by `metric_for_best_model`.

    Nothing is decided for release: rows that chose cannot confirm. Raises UsageError before the first step if the suite
    has a mistake or the model cannot be used with it.
    """

    def __init__(
        self,
        suite: str | Path,
        *,
        every_steps: int = 100,
        stop: Literal["refuted", ""] = "refuted",
        keep: Literal["best", ""] = "best",
    ) -> None:
        if type(every_steps) is not int or every_steps < 1:
            raise UsageError(f"GateCallback: every_steps is {every_steps!r}; it must be a whole number, 1 or more")
        if stop not in ("refuted", ""):
            raise UsageError(f'GateCallback: stop is {stop!r}; it must be "refuted" or ""')
        if keep not in ("best", ""):
            raise UsageError(f'GateCallback: keep is {keep!r}; it must be "best" or ""')
        self.suite, self.every_steps, self.stop, self.keep = Path(suite), every_steps, stop, keep
        self._course: Course | None = None
        self._handler: CallbackHandler | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: Any = None,
        processing_class: Any = None,
        **_: Any,
    ) -> None:
        """Check the setup, evaluate the base and print the looks' power."""
        self._handler = _find_handler_in_call_stack(self)
        self._check(args)
        self._course = course = Course(count_looks(state.max_steps, self.every_steps))
        prepared = _compute_on_first_process(
            args, lambda: self._open_suite_and_evaluate_base(course, state, model, processing_class)
        )
        course.best, course.best_step = prepared
        if self.keep:
            course.chosen_by, args.metric_for_best_model = args.metric_for_best_model, None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: Any = None, **_: Any
    ) -> None:
        """Look at the model, if this step is one of those."""
        if state.global_step % self.every_steps and state.global_step < state.max_steps:
            return
        decision = self._look(args, state, model)
        if decision is None:
            return
        if decision.stop:
            control.should_training_stop = True
        if decision.best:
            control.should_save = True
            state.best_metric, state.best_global_step = decision.score, state.global_step

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Mark the best checkpoint as the trainer's best.

        The trainer may have no save strategy of its own.
        """
        if self.keep and self._course and (folder := _find_checkpoint(args, self._course.best_step)):
            state.best_model_checkpoint = str(folder)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: Any = None, **_: Any
    ) -> None:
        """Take a last look, and print the command that confirms.

        The look is skipped if the last step had one or the best checkpoint was loaded.
        """
        if (course := self._course) is None:
            return
        loaded = args.load_best_model_at_end and state.best_model_checkpoint
        if course.looked_at != state.global_step and not loaded:
            self._look(args, state, model)
        if self.keep:
            args.metric_for_best_model = course.chosen_by
        if state.is_world_process_zero:
            if course.failed:
                _print_above_bar(f"{course.failed} of {course.done} looks failed")
            best = _find_checkpoint(args, course.best_step) if self.keep else None
            where = best or Path(args.output_dir)
            command = f"harness run {shlex.quote(str(self.suite))} --candidate {shlex.quote(str(where))}"
            chosen = f"step {course.best_step} is the best on the select rows; " if best else ""
            _print_above_bar(f"{chosen}nothing is confirmed yet, run: {command}")
        self._course = self._handler = None

    # -- before the first step ---------------------------------------------------------------------

    def _check(self, args: TrainingArguments) -> None:
        """Raise UsageError if the setup rules out looks."""
        others = [one for one in self._handler.callbacks if isinstance(one, GateCallback)] if self._handler else []
        if len(others) > 1:
            what = f"the trainer has {len(others)} of them"
            raise UsageError(f"GateCallback: {what}; put evals and gates into one suite, and use one")
        kind = AcceleratorState().distributed_type.name if AcceleratorState._shared_state else "NO"
        if kind in SHARDED_BACKENDS:
            raise UsageError(f"GateCallback: {kind} splits the model, and no process can evaluate it alone; use DDP")
        if self.keep and self._handler and any(isinstance(o, EarlyStoppingCallback) for o in self._handler.callbacks):
            what = 'EarlyStoppingCallback stops by metric_for_best_model, which keep="best" does not use'
            raise UsageError(f'GateCallback: {what}; remove it, or set keep=""')
        if self.keep and args.lr_scheduler_type in METRIC_SCHEDULERS:
            what = f'the scheduler "{args.lr_scheduler_type.value}" reads metric_for_best_model'
            what = f'{what}, which keep="best" does not use'
            raise UsageError(f'GateCallback: {what}; choose another scheduler, or set keep=""')
        if self.keep and args.save_strategy == "best":
            what = 'save_strategy is "best", which saves by metric_for_best_model, and keep="best" by the suite'
            raise UsageError(f'GateCallback: {what}; set save_strategy="steps" or "no", or keep=""')

    def _open_suite_and_evaluate_base(
        self, course: Course, state: TrainerState, model: Any, processing_class: Any
    ) -> tuple[float | None, int | None]:
        """Open the suite and evaluate the base.

        Return the best score so far and its step if the training is resumed.
        """
        course.suite = suite = open_live_suite(self.suite)
        base = self._evaluate_base(suite, state, model, processing_class)
        course.base = live_metrics(base)
        course.analysis = analysis = InterimAnalysis(suite.collection.suite, suite.collection.tasks, base, course.looks)
        for reading in suite.collection.readings:
            _print_above_bar(reading)
        for name, why in suite.skipped.items():
            _print_above_bar(f'gate "{name}" {why}, so it is not looked at')
        guards = "; ".join(analysis.describe_power()) or "no gate guards what the base can, so nothing stops it"
        looks = f"{course.looks} look{'s' * (course.looks > 1)}, every {self.every_steps} of {state.max_steps} steps"
        _print_above_bar(f"{self.suite}: {looks}; {guards}; {analysis.by} chooses")
        known = [
            entry[PREFIX + analysis.by]
            for entry in state.log_history
            if entry["step"] == state.best_global_step and PREFIX + analysis.by in entry
        ]
        return (known[-1], state.best_global_step) if known and known[-1] == state.best_metric else (None, None)

    def _evaluate_base(self, suite: LiveSuite, state: TrainerState, model: Any, processing_class: Any) -> Results:
        """Return the base's results.

        It is loaded anew if all weights were already trained. Raises UsageError if there are no results, while nothing
        is lost yet.
        """
        moved = state.global_step and not hasattr(model, "peft_config")
        try:
            with suite.subject(model, BASE, base=True, processing_class=processing_class) as subject:
                if not moved:
                    return suite.evaluate(subject)
            # all weights were trained for some steps, so the base is not in memory any more
            return suite.evaluate_saved_base()
        except UsageError:
            raise
        except Exception as error:  # whatever an evaluator raises
            what = " ".join(str(error).split())
            raise UsageError(f"{self.suite}: the base was not evaluated: {type(error).__name__}: {what}") from error

    # -- a look ------------------------------------------------------------------------------------

    def _look(self, args: TrainingArguments, state: TrainerState, model: Any) -> Decision | None:
        """Evaluate the model and decide, in the first process.

        Return the decision in all processes, or None after an error.
        """
        course = self._course
        assert course
        course.looked_at, course.done = state.global_step, course.done + 1
        decision = _compute_on_first_process(args, lambda: self._judge_or_report_error(course, state, model))
        if decision is None:
            return None
        if decision.best:
            course.best, course.best_step = decision.score, state.global_step
        self._log_without_progress_bar(args, state, decision.logs)
        return decision

    def _judge_or_report_error(self, course: Course, state: TrainerState, model: Any) -> Decision | None:
        try:
            return self._judge(course, state, model)
        except Exception as error:  # whatever an evaluator raises, the training is worth more
            course.failed += 1
            if course.failed == 1:
                what = " ".join(str(error).split()) or type(error).__name__
                _print_above_bar(
                    f"step {state.global_step}: the look failed: {what}; training goes on, the next is tried"
                )
            return None

    def _judge(self, course: Course, state: TrainerState, model: Any) -> Decision:
        assert course.suite and course.analysis
        with course.suite.subject(model, f"step {state.global_step}") as subject:
            results = course.suite.evaluate(subject)
        look = course.analysis.look(state.global_step, results, live_metrics(results))
        better = not look.refuted and course.analysis.is_better(look.score, course.best)
        stop = bool(self.stop and look.refuted)
        _print_above_bar(self._format_look_line(course, look, best=better and bool(self.keep), stop=stop))
        return Decision(stop, better and bool(self.keep), look.score, _make_logs(course.analysis, look))

    def _format_look_line(self, course: Course, look: Look, *, best: bool, stop: bool) -> str:
        """Return a look in one line: metrics beside the base's, verdicts, and what follows."""
        assert course.analysis
        parts = [
            f"{name} {format_metric(value)} (base {format_metric(course.base[name])})"
            for name, value in look.metrics.items()
            if name in {v.metric for v in look.verdicts}
        ]
        parts += [_describe_verdict(course.analysis, verdict) for verdict in look.verdicts]
        parts += ["the best so far"] if best else []
        parts += [f"stopped, since {', '.join(look.refuted)} is refuted"] if stop else []
        return f"step {look.step}, look {course.done} of {course.looks}: {'; '.join(parts)}"

    def _log_without_progress_bar(self, args: TrainingArguments, state: TrainerState, logs: dict[str, float]) -> None:
        """Add numbers to the trainer's log, bypassing its progress bar.

        Every other callback that reports the log receives them.
        """
        if not state.is_world_process_zero:
            return
        state.log_history.append({"epoch": state.epoch, **logs, "step": state.global_step})
        if (handler := self._handler) is None:
            return
        every, silent = handler.callbacks, (PrinterCallback, ProgressCallback)
        handler.callbacks = [one for one in every if one is not self and not isinstance(one, silent)]
        try:  # with a control of its own, for the trainer's says what else this step logs
            handler.call_event("on_log", args, state, TrainerControl(), logs=dict(logs))
        finally:
            handler.callbacks = every


def _make_logs(analysis: InterimAnalysis, look: Look) -> dict[str, float]:
    """Return a look's metrics and gate bounds for the log. Non-finite numbers are left out."""
    found = {PREFIX + name: value for name, value in look.metrics.items() if math.isfinite(value)}
    for verdict in look.verdicts:
        found |= {f"{PREFIX}{verdict.gate}: {name}": value for name, value in analysis.bounds(verdict).items()}
    return found


def _describe_verdict(analysis: InterimAnalysis, verdict: Verdict) -> str:
    bounds = analysis.bounds(verdict)
    if verdict.outcome is Outcome.ERROR or "estimate" not in bounds:
        return f"{verdict.gate} {verdict.outcome}: {verdict.why}"
    low, high = (format_metric(bounds[name]) if name in bounds else "–" for name in ("lower", "upper"))
    return f"{verdict.gate} {verdict.outcome} {format_metric(bounds['estimate'])} [{low}, {high}]"


def _find_checkpoint(args: TrainingArguments, step: int | None) -> Path | None:
    """Return the checkpoint folder of a step, if it exists."""
    folder = Path(args.output_dir) / f"checkpoint-{step}"
    return folder if step is not None and folder.is_dir() else None


def _compute_on_first_process(args: TrainingArguments, compute: Callable[[], T]) -> T:
    """Compute in the first process and share the result with all.

    The others wait. UsageError is raised in all of them; with several processes, for every other error too.
    """
    if args.world_size == 1:
        return compute()
    box: list[Any] = [None, None]
    if args.process_index == 0:
        try:
            box[0] = compute()
        except UsageError as error:
            box[1] = error.messages
        except Exception as error:
            box[1] = (f"GateCallback: {type(error).__name__}: {error}",)
    broadcast_object_list(box)
    if box[1] is not None:
        raise UsageError(*box[1])
    return box[0]  # type: ignore[no-any-return]


def _find_handler_in_call_stack(callback: GateCallback) -> CallbackHandler | None:
    """Find the trainer's callback handler in the call stack.

    A callback is not given its trainer, and the handler is needed to report a log to the other callbacks.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, CallbackHandler) and callback in owner.callbacks:
            return owner
        frame = frame.f_back
    return None


def _print_above_bar(text: str) -> None:
    """Print a line above a progress bar."""
    tqdm.write(f"harness: {limit_length(printable(text))}", file=sys.stderr)
