"""What differs between two runs, for a terminal and for programs."""

from __future__ import annotations

import io
import json
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import Verdict
from harness.internals import counted, sentence, shown
from harness_report.compare import Between, Both, Compared
from harness_report.gates import bounds_of, scale_of, write_of
from harness_report.pairs import LOST, WON
from harness_report.reading import Kept
from harness_report.words import GLYPHS, claimed, number

FORMAT = 1  # of the JSON
INDENT = 16  # columns of a verdict's word
STYLES = {"PASS": "green", "FAIL": "red", "ERROR": "red", "INCONCLUSIVE": "yellow", "worse": "red", "better": "green"}


def printed(*parts: Table | Text | str | tuple[str, str, Text]) -> str:
    """Return what rich makes of parts, in colours only where stdout is a terminal; a tuple is a word and what it is of.

    Lines break between words; without a terminal they do not break.
    """
    real = Console(highlight=False)
    width = real.width if real.is_terminal else 10_000
    console = Console(file=io.StringIO(), width=width, highlight=False, force_terminal=real.is_terminal)
    for part in parts:
        if isinstance(part, tuple):
            word, style, text = part
            grid = Table.grid(padding=(0, 1, 0, 0))
            grid.add_column(width=INDENT, no_wrap=True)
            grid.add_row(Text(word, style), text)
            console.print(grid)
        else:
            console.print(part, markup=False)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().split("\n"))


def estimate(kept: Kept, v: Verdict | None) -> str:
    """Return a verdict's estimate with its bounds."""
    if v is None or v.estimate is None:
        return "–"
    write = write_of(kept, v)
    return f"{write(v.estimate)} {bounds_of(v, write)}".rstrip()


def told(c: Compared) -> str:
    """Return what differs between two runs as lines for a terminal."""
    before, now = c.labels
    parts: list[Text | str | tuple[str, str, Text]] = [
        f"{now}: {shown(sentence.verdict_sentence(c.now.run))}",
        f"{before}: {shown(sentence.verdict_sentence(c.before.run))}",
        *(f"note: {n}" for n in c.notes),
    ]
    if c.gates:
        parts += ["", Text(f"gates, {now} and before", "bold"), *(_gate_line(c, b) for b in c.gates)]
    if c.same:
        parts.append(f"{counted(len(c.same), 'gate')} came to the same numbers: {', '.join(_name(b) for b in c.same)}")
    if c.metrics:
        parts += ["", Text(f"{shown(c.now.ours)} on the rows that both asked", "bold")]
        parts += [_metric_line(c, b) for b in c.metrics if not b.is_alike]
        if alike := [b.metric for b in c.metrics if b.is_alike]:
            parts.append(f"the same on every row: {shown(', '.join(alike))}")
    if c.settings:
        parts += ["", Text("configuration that differs", "bold")]
        parts += [f"{s.key}  {s.before}, now {s.value}" for s in c.settings]
    return printed(*parts)


def _name(b: Both) -> str:
    return shown(f"{b.now.gate} on {b.now.candidate}")


def _gate_line(c: Compared, b: Both) -> tuple[str, str, Text]:
    v, before = b.now, b.before
    was = f"{before.outcome} {estimate(c.before, before)}" if before else "not asked"
    text = Text(f"{_name(b)}\n{estimate(c.now, v)}, was {was}")
    return f"{GLYPHS[v.outcome]} {v.outcome}", STYLES[v.outcome], text


def _metric_line(c: Compared, b: Between) -> tuple[str, str, Text]:
    unit, v = c.now.unit(b.metric), b.verdict
    rows = f"{counted(len(b.pairs.rows), 'row')}, {b.pairs.count(LOST)} lost and {b.pairs.count(WON)} won"
    found = f"{estimate(c.now, v)}, {rows}" if v.estimate is not None else shown(v.why)
    text = Text(f"{shown(b.metric)}  {number(b.before, unit)}, now {number(b.now, unit)}\n{found}")
    return b.reading, STYLES.get(b.reading, ""), text


# -- for programs ----------------------------------------------------------------------------------


def as_json(c: Compared) -> str:
    """Return what differs between two runs as JSON."""
    value = {
        "format": FORMAT,
        "run": _run(c.now),
        "against": _run(c.before),
        "gates": [_gate(c, b) for b in [*c.gates, *c.same]],
        "metrics": [_metric(b) for b in c.metrics],
        "settings": [{"key": s.key, "now": s.value, "before": s.before} for s in c.settings],
        "notes": c.notes,
    }
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _run(kept: Kept) -> dict[str, Any]:
    run = kept.run
    said = sentence.verdict_sentence(run)
    about = {"suite": run.suite, "started": run.started, "exit_code": int(run.exit_code)}
    return {"folder": kept.folder.name, **about, "sentence": said, "candidate": kept.ours}


def numbers(v: Verdict | None) -> dict[str, Any] | None:
    """Return the numbers of a verdict; None where there is none."""
    if v is None:
        return None
    keys = ("outcome", "value", "baseline", "estimate", "lower", "upper", "threshold", "n")
    return {key: getattr(v, key) for key in keys}


def _gate(c: Compared, b: Both) -> dict[str, Any]:
    claim = claimed(b.now, scale_of(c.now, b.now)[1])
    about = {"gate": b.now.gate, "candidate": b.now.candidate, "claim": claim, "same": b.is_same}
    return {**about, "now": numbers(b.now), "before": numbers(b.before)}


def _metric(b: Between) -> dict[str, Any]:
    v = b.verdict
    test = {"estimate": v.estimate, "lower": v.lower, "upper": v.upper, "p": v.p_pass, "method": v.method, "n": v.n}
    rows = {"won": [p.id for p in b.pairs.of(WON)], "lost": [p.id for p in b.pairs.of(LOST)]}
    counts = {"won_count": len(rows["won"]), "lost_count": len(rows["lost"]), "left_out": b.left}
    about = {"metric": b.metric, "reading": b.reading, "now": b.now, "before": b.before, "alpha": v.alpha}
    return {**about, **test, **counts, **rows, "why": v.why}
