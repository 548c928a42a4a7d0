"""A verdict on rows of others, written as a run of ours is: folder, page, JUnit, and a few lines on the terminal."""

from __future__ import annotations

import json
import textwrap
from argparse import Namespace
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import ExitCode, Outcome, Report, Run, UsageError, __version__, write_text
from harness.internals import LOCK, Ledger, RunFolder, counted, load_plugins, part, shown, to_json, words
from harness_rows.gating import EXAMPLES, TRUST, Ask, Gated, decide
from harness_rows.records import RawRows

MOST = 50_000  # rows that are written one by one beside the report
WIDTH = 80
CODES = {Outcome.PASS: ExitCode.OK, Outcome.FAIL: ExitCode.FAILED}


def conclude(base: RawRows | None, candidate: RawRows, ask: Ask, args: Namespace) -> int:
    """Decide, write what was found, print it, and return the exit code."""
    warnings: list[str] = []
    started = datetime.now(UTC)
    gated = decide(base, candidate, ask, Ledger.here(warnings.append))
    try:
        run = _written(gated, warnings, started, args.out)
        if args.junit_xml:
            write_text(args.junit_xml, part("junit")(run))
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be written: {error.strerror}; make room, or say --out") from None
    plugins = load_plugins(None)
    if args.job:
        plugins.manager.register(args.job)
    plugins.hook.harness_run_finish(run=run)
    args.document = {"run": json.loads(to_json(run))}
    for line in lines(gated, run):
        print(line)
    return run.exit_code


def run_of(gated: Gated, warnings: list[str], started: datetime) -> Run:
    """Return a decided gate as a run."""
    metric, verdict, ask = gated.chosen.metric, gated.verdict, gated.ask
    runs = {"base": gated.base, "candidate": gated.candidate}
    reports = []
    for side, result in gated.results.items():
        reports.append(
            Report(
                f"{ask.name}::{side}::{result.eval}", side, result.eval, "done", dict(result.metrics),
                better={metric.name: metric.better}, verdicts=(verdict,) if side == "candidate" else (),
                n=len(result.scores), of=len(gated.samples), caveats=tuple(c.text for c in result.caveats),
            )
        )  # fmt: skip
    facts = {side: facts_of(run) for side, run in runs.items() if run}
    return Run(
        ask.name, str(ask.path), ask.digest, 0, ask.alpha, (gated.base or gated.candidate).model,
        started.isoformat(timespec="seconds"), __version__, gates=1, items=tuple(r.id for r in reports),
        exit_code=CODES.get(verdict.outcome, ExitCode.INCONCLUSIVE), reports=reports, facts=facts,
        warnings=[*warnings, *gated.candidate.notes, *(gated.base.notes if gated.base else ())],
        conclusions=[*said(gated), *gated.attempts], digests={s: r.digest for s, r in gated.results.items()},
        seconds=(datetime.now(UTC) - started).total_seconds(),
    )  # fmt: skip


def facts_of(run: RawRows) -> dict[str, Any]:
    """Return what a run's files tell of it."""
    sources = {f"file {i}": f"{Path(p).name}, {n:,} bytes, sha256 {d}" for i, (p, d, n) in enumerate(run.sources, 1)}
    return {"model": run.model, "tool": run.tool, **run.facts, "binding": run.binding, **sources}


def _written(gated: Gated, warnings: list[str], started: datetime, out: Path) -> Run:
    """Write a run's folder, and return the run."""
    run, metric = run_of(gated, warnings, started), gated.chosen.metric
    folder = RunFolder(out, run.suite, started)
    run.folder = str(folder.path)
    name = gated.results["candidate"].eval
    evals = [{"name": name, "use": "rows", "slices": sorted({c for s in gated.samples for c in s.row})}]
    told = {"better": metric.better, "scale": metric.scale, "combine": None}
    gate = {"id": gated.verdict.gate, "metric": gated.verdict.metric, "says": gated.verdict.claim, "blocking": True}
    lock = {"suite": {"name": run.suite, "evals": evals}, "metrics": {name: {metric.name: told}}, "gates": [gate]}
    write_text(folder.path / LOCK, json.dumps(lock, indent=1) + "\n")
    for result in gated.results.values() if len(gated.samples) <= MOST else ():
        folder.add(result, gated.samples, {metric.name: metric}, {})
    folder.finish(run)
    return run


def said(gated: Gated) -> list[str]:
    """Return what a reader must know of how the verdict came about, a line each."""
    pairs, metric = gated.pairs, gated.chosen.metric
    how = (
        f"{len(pairs.names):,} {'paired by ' + pairs.how if gated.base else 'rows of one run, which pair with nothing'}"
    )
    states = {side: dict(told) for side, told in gated.states.items()}
    if all(set(told) == {"scored"} for told in states.values()):
        scored = "all scored on both sides" if gated.base else "all scored"
    else:
        scored = " · ".join(
            f"{side} " + ", ".join(f"{n:,} {state}" for state, n in sorted(told.items()))
            for side, told in states.items()
        )
    attempt = f" · {counted(gated.verdict.attempt, 'attempt')}" if gated.verdict.attempt else ""
    found = [f"rows       {how} · {scored}{attempt}"]
    found.append(f"metric     {metric.name} · {metric.better} is better ({gated.chosen.because}) · {metric.scale}")
    if pairs.repeats != (1, 1):
        found.append(f"repeats    base {pairs.repeats[0]}, candidate {pairs.repeats[1]}; a row is their mean")
    if pairs.renamed:
        found.append(f"names      {pairs.renamed:,} mean another question on the other side; content was followed")
    if gated.base and not any(verdict_changed(gated)):
        found.append(f"same       not one of {len(pairs.names):,} rows differs in value; was the adapter applied?")
    found += [f"told       {line}" for line in gated.fair.told]
    return [shown(line) for line in found]


def verdict_changed(gated: Gated) -> tuple[int, int]:
    """Return how many rows were won and lost."""
    return gated.verdict.won_count, gated.verdict.lost_count


def lines(gated: Gated, run: Run) -> Iterator[str]:
    """Yield what is printed, at most 80 columns wide where words allow it."""
    for side, one in (("base", gated.base), ("candidate", gated.candidate)):
        if one:
            settings = [one.tool, *(one.facts[k] for k in ("backend", "dtype") if k in one.facts), one.model]
            yield from _wrapped(f"{side:<10} {shown(' · '.join(settings))}")
    for line in (*run.conclusions, *(f"warning    {w}" for w in run.warnings)):
        yield from _wrapped(shown(line))
    yield ""
    yield from _verdict(gated)
    yield ""
    trust = next((n.told["text"] for n in reversed(gated.verdict.notes) if n.kind == "rows"), TRUST)
    yield from _wrapped(f"{trust[:1].upper()}{trust[1:]}.")
    page = Path(run.folder) / "report.html"
    yield f"report: {page if page.is_file() else run.folder}"


def _verdict(gated: Gated) -> Iterator[str]:
    """Yield the verdict: the estimate and its bound against the limit, then what these rest on."""
    v, about = gated.verdict, gated.verdict.about
    head, indent = f"  {v.outcome}  {v.gate}   ", " " * (len(v.outcome) + 4)
    if about is None or v.estimate is None or v.outcome is Outcome.ERROR:
        yield from _wrapped(f"{head}{words.first(v)}", indent)
        for line in _lost_rows(gated):
            yield from _wrapped(f"{indent}{line}", indent)
        return
    bound, side = (v.lower, "at least") if about.sign > 0 else (v.upper, "at most")
    write = (lambda x: words.figure(about, x)) if not about.is_share or v.baseline is None else _points
    unit = " points" if about.is_share and v.baseline is not None else ""
    values = f"{words.figure(None, v.baseline)} → {words.figure(None, v.value)}   " if v.baseline is not None else ""
    yield from _wrapped(
        f"{head}{values}{write(v.estimate)}{unit}, {side} {write(bound)} (limit {write(v.threshold)})", indent
    )
    what = "pairs" if v.baseline is not None else "rows"
    changed = f", {v.lost_count:,} lost, {v.won_count:,} won" if v.baseline is not None else ""
    p = v.p_fail if v.outcome is Outcome.FAIL else v.p_pass
    chance = "" if p is None else f" · p {p:.2g}"
    yield from _wrapped(
        f"{indent}{v.n:,} {what}{changed} · {v.method}, risk {100 * (v.alpha or 0):g} %{chance}", indent
    )
    rest = [n for n in v.notes if n.kind not in ("found", "attempt") and not (n.kind == "rows" and n is v.notes[-1])]
    for note in rest:
        yield from _wrapped(f"{indent}{words.written(about, [note])}", indent)
    if v.driver:
        yield from _wrapped(f"{indent}worst: {shown(v.driver)}", indent)


def _points(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:+.1f}"


def _lost_rows(gated: Gated) -> Iterator[str]:
    """Yield the first rows that no verdict could be given for."""
    for side, result in gated.results.items():
        for name in result.missing[:EXAMPLES]:
            yield f'{side} "{shown(name)}" has no score'


def _wrapped(line: str, indent: str = " " * 11) -> list[str]:
    return textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False) or [""]


def states_told(states: Mapping[str, int]) -> str:
    """Return how many rows came to what."""
    return ", ".join(f"{n:,} {state}" for state, n in sorted(states.items()))
