"""The sections on training and on how a run was made: series, rows as they were seen, configuration, stages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PureWindowsPath
from types import SimpleNamespace
from typing import Any

from harness import Run, TrainingStep
from harness.internals import count_noun, format_duration, printable
from harness_report import charts
from harness_report.formatting import (
    escape_text,
    format_bytes,
    format_day,
    format_on_scale,
    format_value,
    make_excerpt,
)
from harness_report.pairs import Part
from harness_report.reading import LoadedRun, subtable
from harness_report.svg import Chart

SHOWN_ROWS = 3  # training rows that are shown


@dataclass(frozen=True)
class Setting:
    """A key of the configuration with its value. `before` is the other run's value, if that differs."""

    key: str
    value: str
    before: str | None = None


def training_section(kept: LoadedRun) -> SimpleNamespace | None:
    """Return the section on training. None if the run trained no model."""
    facts, steps = kept.run.facts.get("training", {}), kept.run.training
    if not facts and not steps:
        return None
    said, kinds = [], [("ignored" if f.ignored is not None else f.severity, f) for f in kept.run.findings]
    if _is_finite_number(facts.get("steps")) and _is_finite_number(facts.get("rows")):
        tokens = f"; {facts['tokens']:,} tokens" if _is_finite_number(facts.get("tokens")) else ""
        learnt = facts.get("supervised_tokens")
        tokens += f", {learnt:,} of them trained on" if _is_finite_number(learnt) else ""
        said.append(f"{count_noun(facts['steps'], 'step')} over {count_noun(facts['rows'], 'row')}{tokens}.")
    if _is_finite_number(facts.get("trainable_parameters")) and _is_finite_number(facts.get("total_parameters")):
        said.append(f"{facts['trainable_parameters']:,} of {facts['total_parameters']:,} parameters trained.")
    if _is_finite_number(facts.get("truncated_rows")):
        said.append(
            f"{count_noun(facts['truncated_rows'], 'row')} truncated."
            if facts["truncated_rows"]
            else "No row was truncated."
        )
    if isinstance(facts.get("spikes"), list):
        said.append(f"The loss spiked at {len(facts['spikes'])} steps." if facts["spikes"] else "No loss spikes.")
    return SimpleNamespace(
        said=said,
        charts=list(_iterate_training_charts(steps, facts)),
        rows=training_row_parts(kept.run),
        sweep=_make_sweep_section(kept.run),
        findings=[printable(f"{kind}: {f.name}: {f.what}" + (f"; {f.fix}" if f.fix else "")) for kind, f in kinds],
        missing="" if steps else "This report has only means of the training, not its course.",
    )  # fmt: skip


def _make_sweep_section(run: Run) -> SimpleNamespace | None:
    if (s := run.sweep) is None:
        return None
    lines = []
    for t in s.trials:
        change, low, high = (format_on_scale(x, s, versus=True) for x in (t.change, t.change_lower, t.change_upper))
        change += "" if t.change_lower is None or t.change_upper is None else f" [{low}, {high}]"
        took = format_duration(t.seconds)
        mark = " ✓ chosen" if s.chosen is not None and t.value == s.chosen else ""
        lines.append([escape_text(text) for text in (f"{t.value}{mark}", format_value(t.metric), change, took)])
    said = f"Tried on {s.rows:,} selection rows, each step tested at α = {s.alpha:g}. {s.why}"
    return SimpleNamespace(said=escape_text(said), key=escape_text(s.key), by=escape_text(s.by), trials=lines)


def _iterate_training_charts(steps: Sequence[TrainingStep], facts: Mapping[str, Any]) -> Iterator[Chart]:
    loss, validation = _select_finite_points(steps, "loss"), _select_finite_points(steps, "validation")
    if loss or validation:
        lines = {name: points for name, points in (("training", loss), ("validation", validation)) if points}
        mean = (
            f"; mean of the run {format_value(facts['train_loss'])}"
            if _is_finite_number(facts.get("train_loss"))
            else ""
        )
        ends: dict[int, float] = {}  # by epoch, but for the last
        for step, epoch in _select_finite_points(steps, "epoch")[:-1]:
            if int(epoch) > max(ends, default=0):
                ends[int(epoch)] = step
        marks = list(ends.values()) if len(ends) <= 6 else []
        epochs = "; dashed: end of an epoch" if marks else ""
        yield charts.line_chart("Loss", f"{mean}{epochs}".removeprefix("; "), lines, marks=marks, unit="nats per token")
    if rate := _select_finite_points(steps, "learning_rate"):
        yield charts.line_chart("Learning rate", "as used by the optimiser", {"learning rate": rate})
    speed, known = [], [(s.step, s.seconds, s.tokens) for s in steps if s.tokens is not None]
    for (_, begun, before), (at, ended, tokens) in pairwise(known):  # totals
        if ended > begun and tokens > before:
            speed.append((float(at), (tokens - before) / (ended - begun)))
    if speed:
        is_known = _is_finite_number(facts.get("tokens_per_second"))
        mean = f"mean of the run {format_value(facts['tokens_per_second'])}" if is_known else ""
        yield charts.line_chart("Tokens per second", mean, {"tokens per second": speed})


def _select_finite_points(steps: Sequence[TrainingStep], key: str) -> list[tuple[float, float]]:
    return [(float(s.step), getattr(s, key)) for s in steps if _is_finite_number(getattr(s, key))]


def _is_finite_number(x: object) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)


def training_row_parts(run: Run) -> list[list[Part]]:
    """Return training rows as the model saw them, in parts.

    Each part comes with whether it is trained. At most SHOWN_ROWS rows are returned.
    """
    return [[(make_excerpt(s.text, 1200), s.trained) for s in row.segments] for row in run.shown_rows if row.segments][
        :SHOWN_ROWS
    ]


def settings_rows(kept: LoadedRun, before: LoadedRun | None = None) -> list[Setting]:
    """Return the configuration as keys and values.

    Values that differ from those of `before` have the earlier value too.
    """
    ours, theirs = flatten_suite(kept), flatten_suite(before) if before else {}
    other = {k: theirs.get(k, "not set") for k, v in ours.items() if before and theirs.get(k) != v}
    gone = [Setting(k, "not set", v) for k, v in theirs.items() if k not in ours]
    return [*(Setting(k, v, other.get(k)) for k, v in ours.items()), *gone]


def flatten_suite(kept: LoadedRun) -> dict[str, str]:
    """Flatten the suite to dotted keys.

    Secrets are redacted, as in the lock. Keys without a value, and the suite's name and description, are left out.
    """
    suite = kept.suite
    found: dict[str, Any] = {}
    for table in ("model", "adapter", "train", "sweep", "candidate"):
        keys = subtable(suite, table)
        found |= {f"{table}.{k}": v for k, v in keys.items() if k != "options"}
        found |= {f"{table}.{k}": v for k, v in dict(keys.get("options") or {}).items()}
    found["merge"] = suite.get("merge")
    found |= {k: v for k, v in subtable(suite, "header").items() if k not in ("name", "description")}
    for e in suite.get("evals", ()):
        data = {k: e[k] for k in ("use", "data", "limit", "cluster") if k in e}  # the empty are left out below
        found |= {f"{e['name']}.{k}": v for k, v in {**data, **(e.get("options") or {})}.items()}
    return {k: _format_shortened_setting(v) for k, v in found.items() if v not in (None, "", [], {})}


def _format_shortened_setting(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_format_shortened_setting, value))
    if isinstance(value, str):
        return make_excerpt(value.replace("\n", "⏎"), 160) if value.strip(" ") else f'"{value}"'
    return make_excerpt(str(value), 160)


def stage_rows(kept: LoadedRun) -> list[SimpleNamespace]:
    """Return the stages with their times and peak memory.

    Time is also a share of the longest stage's. Memory is missing if the report does not have it.
    """
    longest = max(kept.run.stages.values(), default=0.0) or 1.0
    peaks, found = kept.run.memory, []
    for name, took in kept.run.stages.items():
        keys = [k for k in (name, f"{name} (cuda)") if k in peaks]
        used = ", ".join(format_bytes(float(peaks[k])) + k.removeprefix(name) for k in keys)
        found.append(
            SimpleNamespace(name=escape_text(name), seconds=format_duration(took), share=took / longest, memory=used)
        )
    return found


def attempt_sentences(run: Run) -> list[str]:
    """Return waivers and attempts in sentences."""
    said = [f"{w.gate}: {w.summary()}" for w in run.waivers] or ["No waiver."]
    most = max((v.attempt for v in run.verdicts), default=0)
    said.append("First attempt at these gates." if most == 1 else f"Attempt {most} at these gates." if most else "")
    return [printable(s) for s in said if s]


def _list_scored_row_sources(run: Run) -> list[tuple[str, str]]:
    """Return the sources of scored rows by side. A source is the model, the tool and the first file."""
    sides = [(side, told) for side, told in run.facts.items() if "binding" in told]
    return [
        (side.capitalize(), ", ".join(str(told[key]) for key in ("model", "tool", "file 1") if told.get(key)))
        for side, told in sides
    ]


def header_facts(kept: LoadedRun) -> list[tuple[str, str]]:
    """Return the lines under the sentence: suite, model, what it is compared with, run, export."""
    run, described = kept.run, str(subtable(kept.suite, "header").get("description") or "")
    attempt = max((v.attempt for v in run.verdicts), default=0)
    suite = ", ".join(filter(None, [run.suite, described])) + (f"; attempt {attempt}" if attempt else "")
    model = run.model.rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf")  # without where it came from
    table = subtable(kept.suite, "adapter")
    rank, adapter = dict(table.get("options") or {}).get("r"), str(table.get("use", ""))
    adapter += f" of rank {rank}" if rank else ""
    brought = str(subtable(kept.suite, "candidate").get(kept.ours) or "").rstrip("/\\")
    name = kept.ours + (f", {PureWindowsPath(brought).name}" if brought else "")  # of either kind of path
    lines = [("Suite", suite)]
    lines += (
        _list_scored_row_sources(run)
        if run.is_of_scored_rows
        else [("Model", ", ".join(filter(None, [model, adapter, name])))]
    )
    if versus := list(dict.fromkeys(v.versus for v in run.verdicts if v.versus and v.versus != kept.ours)):
        lines.append(("Compared with", ", ".join(str(v) for v in versus) + ", on the same rows"))
    lines.append(("Run", f"{format_day(run.started)}, {format_duration(run.seconds)}, exit {run.exit_code}"))
    for e in run.exports:
        inside = "/exports/" in e.to
        where = "exports/" + e.to.replace("\\", "/").split("/exports/")[-1] if inside else e.to.rsplit("/", 1)[-1]
        done = f"{where}, {format_bytes(e.bytes)}, weights {e.digest[:12]}"
        why = "" if any(v.blocks_release for v in run.verdicts) else f": {'; '.join(e.reasons)}"  # they stand above
        lines.append(("Export", done if e.written else f"{where} was not written{why}"))
    return [(name, escape_text(text)) for name, text in lines]
