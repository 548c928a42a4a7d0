"""A Forecast in words: what `harness plan` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import replace

from harness.cli.terminal import Terminal
from harness.pipeline.measurements import EVALUATION, FULL
from harness.planning.forecast import Forecast
from harness.planning.gate_power import Odds
from harness.planning.joint_power import JointPower
from harness.stats.power import DEFAULT_POWER
from harness.texts.numbers import format_duration

INDENT = " " * 11
WIDTH_COLUMNS = 80  # columns of what is said of gates
MAX_LOAD_PER_CPU = 1.2  # processes that want to run, a processor: above it a measurement says little of an idle machine
NAMES = {FULL: "full fine-tune", "lora": "LoRA", "qlora": "QLoRA", EVALUATION: "evaluation"}
SHOWN_FINDINGS = 8  # findings of the checks


def print_forecast(forecast: Forecast, terminal: Terminal) -> None:
    """Print a forecast."""
    terminal.print_rule(f"harness plan: {forecast.suite}")
    terminal.print_line(f"suite  {forecast.path} · seed {forecast.seed} · alpha {forecast.alpha:g}")
    terminal.print_line(f"model  {forecast.model}")
    runs = forecast.runs
    known = f"{len(runs)} earlier run{'s' if len(runs) > 1 else ''}, the last of {runs[0]}" if runs else ""
    terminal.print_line(f"known  {known or 'no earlier run was found, so defaults are assumed'}")
    for reading in forecast.readings:
        terminal.print_line(reading)
    for warning in forecast.warnings:
        terminal.print_line(f"warning: {warning}", "yellow")
    _print_gate_power(forecast, terminal)
    _print_recipes(forecast, terminal)
    found = forecast.findings
    terminal.console.print()
    terminal.print_line(f"data: {len(found) or 'no'} finding{'s' if len(found) != 1 else ''} of the checks", "bold")
    for line in found[:SHOWN_FINDINGS]:
        terminal.print_line(f"  {line}")
    if len(found) > SHOWN_FINDINGS:
        terminal.print_line(f"  and {len(found) - SHOWN_FINDINGS} more")
    if found:
        terminal.print_line(f"  all findings: harness check {forecast.path}", "dim")
    _print_requests(forecast, terminal)
    _print_training(forecast, terminal)
    _print_duration_forecast(forecast, terminal)


def _print_gate_power(forecast: Forecast, terminal: Terminal) -> None:
    together = {j.candidate: j for j in forecast.joint}
    alike: dict[tuple[Odds, ...], tuple[list[str], list[Odds]]] = {}  # candidates about which the same is to be said
    for candidate in dict.fromkeys(o.candidate for o in forecast.odds):
        own = [o for o in forecast.odds if o.candidate == candidate]
        same = tuple(replace(o, candidate="", warning="") for o in own)
        alike.setdefault(same, ([], own))[0].append(candidate)
    for names, odds in alike.values():
        terminal.console.print()
        terminal.print_line(f"gates on {' and '.join(names)}: probability to pass", "bold")
        for one in odds:
            note = "" if one.blocking else " (warn)"
            unknown = "?" if one.kind == "inferred" else "–"
            details = [one.missing] if one.missing else []
            if one.power is not None:
                proven = f"80% power at {one.proves}" if one.proves else ""
                rows = f"80% power with {one.needed:,} rows" if one.needed not in (None, one.rows) else ""
                details.append("; ".join(filter(None, (one.truth, proven, rows))))
            size = f"n={one.rows:,}" + (f" in {one.clusters:,} clusters" if one.clusters else "")
            size += f", like {one.effective:,.0f} independent rows" if one.clusters and one.effective else ""
            details.append("; ".join([*([size] if one.rows else []), *one.assumed]))
            details += [one.few] if one.few else []
            chance = unknown if one.power is None else _format_power(one.power)
            _print_number_and_details(terminal, chance, f"{one.gate}: {one.claim}{note}", details)
        if joint := next((together[name] for name in names if name in together), None):
            gates = f"these {joint.gates} gates" if joint.gates > 1 else "this gate"
            model = f"a model {joint.points:g} points better than required" if joint.points else "a model"
            ships = f"{model} ships {_format_power(joint.better)} of the time with {gates}"
            _print_number_and_details(
                terminal, _format_power(joint.better), ships, _iterate_joint_power_lines(joint), "bold"
            )
            if joint.again is not None:
                _print_number_and_details(
                    terminal,
                    _format_power(joint.again),
                    "all together, for a model as good as in the last run",
                    (),
                    "bold",
                )


def _print_recipes(forecast: Forecast, terminal: Terminal) -> None:
    for one in forecast.recipes:
        terminal.console.print()
        terminal.print_line(f'power of "{one.gate}" {one.truth}, by seeds and rows', "bold")
        terminal.print_line(f"  standard deviation of runs over seeds: {one.spread}, {one.where}", "dim")
        lines = [[str(seeds), *map(_format_power, each)] for seeds, each in zip(one.seeds, one.power, strict=True)]
        terminal.print_columns([["seeds", *(f"{n:,} rows" for n in one.rows)], *lines], indent="  ")
    if forecast.recipes:
        once = next((m.total_seconds for m in forecast.measured.values() if m.total_seconds), None)
        cost = "unknown until measured" if once is None else f"about {format_duration(once)} each"
        terminal.print_line(f"  a seed is one training more, {cost}")


def _print_number_and_details(
    terminal: Terminal, number: str, text: str, details: Iterable[str], style: str = ""
) -> None:
    """Print a number, its description, and the details below.

    Lines are at most WIDTH_COLUMNS wide.
    """
    for i, line in enumerate(textwrap.wrap(text, WIDTH_COLUMNS - len(INDENT))):
        terminal.print_line(f"  {number:>7}  {line}" if i == 0 else f"{INDENT}{line}", style)
    for detail in details:
        for line in textwrap.wrap(detail, WIDTH_COLUMNS - len(INDENT)):
            terminal.print_line(f"{INDENT}{line}", "dim")


def _format_power(power: float) -> str:
    """Format a power in percent, without false certainty.

    Values that would round to 0% or 100% become <1% or >99%.
    """
    return ">99%" if power >= 0.995 else "<1%" if 0 < power < 0.005 else f"{power:.0%}"


def _iterate_joint_power_lines(joint: JointPower) -> Iterator[str]:
    if joint.factor and joint.rows:
        sizes = dict.fromkeys(joint.rows.values())
        rows = [f"{n:,} of {', '.join(name for name, m in joint.rows.items() if m == n)}" for n in sizes]
        factor = f"{joint.factor:.2g}" if joint.factor < 10 else f"{joint.factor:,.0f}"
        yield f"80% needs {factor} times the rows: {'; '.join(rows)}"
    elif joint.better < DEFAULT_POWER:
        yield "no number of rows would make it 80%"
    if joint.costliest and joint.without > joint.better and _format_power(joint.without) != _format_power(joint.better):
        yield f'"{joint.costliest}" costs most: {_format_power(joint.without)} without it'
    if joint.assumed:
        yield "; ".join(joint.assumed)
    if joint.unknown:
        yield "not included: " + ", ".join(f'"{name}"' for name in joint.unknown)


def _print_requests(forecast: Forecast, terminal: Terminal) -> None:
    terminal.console.print()
    terminal.print_line("requests: how many, and how many of them are cached", "bold")
    rows = [["evaluation", "rows", "requests", "cached", "tokens", "computed", "answers"]]
    for a in forecast.workloads:
        name = f"{a.subject}::{a.eval}"
        if not a.requests:
            rows.append([name, f"{a.rows:,}", *["–"] * 5])
            continue
        tokens, unique = (f"{n:,}" if n is not None else "?" for n in (a.tokens, a.unique))
        answers = f"≤ {a.answers:,}" if a.answers else "–"
        rows.append([name, f"{a.rows:,}", f"{a.requests:,}", f"{a.cache_hits:,}", tokens, unique, answers])
    terminal.print_columns(rows, indent="  ")
    for a in forecast.workloads:
        if a.note:
            terminal.print_line(f"  {a.subject}::{a.eval}: {a.note}", "dim")
    for made in forecast.artifacts:
        terminal.print_line(f"  {made.name}: {f'exists, {made.path}' if made.there else 'to be created'}")


def _print_training(forecast: Forecast, terminal: Terminal) -> None:
    if not forecast.training_rows and EVALUATION not in forecast.measured:
        return
    terminal.console.print()
    tokens = f", about {forecast.training_tokens:,} tokens per epoch" if forecast.training_tokens else ""
    terminal.print_line(f"training: {forecast.training_rows:,} rows{tokens}", "bold")
    if forecast.sweep:
        least, all_ = forecast.min_trials * forecast.seeds, forecast.trials * forecast.seeds
        most = f"{least} to {all_} trainings" if all_ > least else f"{all_} trainings"
        terminal.print_line(
            f"  sweep of {forecast.sweep}: {most}; the figures are for the first, the others are assumed alike"
        )
    elif forecast.seeds > 1:
        terminal.print_line(f"  {forecast.seeds} seeds: {forecast.seeds} trainings; the first ships")
    if forecast.memory:
        parts = " + ".join(f"{size / 1e9:,.2f} GB of {name}" for name, size in forecast.memory.items())
        terminal.print_line(
            f"  memory of each process, at least: {parts} = {sum(forecast.memory.values()) / 1e9:,.2f} GB"
        )
    if not forecast.measured:
        how = f"harness plan {forecast.path} --measure"
        terminal.print_line(f"  time and memory are unknown until measured: {how}")
        return
    rows, own = [["", "tokens/s", "peak memory", "whole training"]], forecast.methods[:1]
    for one in (forecast.measured[what] for what in (*forecast.methods, EVALUATION) if what in forecast.measured):
        name = NAMES.get(one.what, one.what) + (" (this suite)" if one.what in own else "")
        peak = "–" if one.error else f"{one.peak / 1e9:.2f} GB"
        if one.error or one.total_seconds is None:
            rows.append([name, "–", peak, "–"])
        else:
            rows.append(
                [name, f"{one.rate:,.1f}", peak, f"{format_duration(one.total_seconds)}, {one.whole_steps:,} steps"]
            )
    terminal.print_columns(rows, indent="  ")
    for one in forecast.measured.values():
        if one.error:
            terminal.print_line(f"  {NAMES.get(one.what, one.what)}: {one.error}", "yellow")
    busy = [
        one for one in forecast.measured.values() if one.load > MAX_LOAD_PER_CPU and one.device == "cpu" and one.steps
    ]
    for one in busy[:1]:
        idle = f"when idle the training by {NAMES.get(one.what, one.what)} may take {format_duration(one.idle)}"
        terminal.print_line(f"  measured while the machine was busy; {idle}", "yellow")


def _print_duration_forecast(forecast: Forecast, terminal: Terminal) -> None:
    if not any(stage.seconds for stage in forecast.stages):
        return
    parts = []
    for stage in forecast.stages:
        unknown = f" and {stage.unknown} unknown" if stage.unknown and stage.seconds else ""
        most = f" to {format_duration(stage.most)}" if stage.most is not None and stage.most > stage.seconds else ""
        known = format_duration(stage.seconds) + most if stage.seconds or not stage.unknown else "?"
        parts.append(f"{stage.name} {known}{unknown}")
    terminal.console.print()
    least = sum(stage.seconds for stage in forecast.stages)
    longest = sum(stage.seconds if stage.most is None else stage.most for stage in forecast.stages)
    whole = format_duration(least) + (f" to {format_duration(longest)}" if longest > least else "")
    some = "at least " if any(stage.unknown for stage in forecast.stages) else "about "
    terminal.print_line(f"the whole run: {some}{whole} ({', '.join(parts)})", "bold")
