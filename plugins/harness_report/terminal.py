"""What differs between two runs, for a terminal and for programs."""

from __future__ import annotations

import io
import json
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import Verdict, sentence, shown
from harness_report.compare import Between, Both, Compared
from harness_report.gates import bounds_of, scale_of, write_of
from harness_report.pairs import LOST, WON
from harness_report.reading import Kept
from harness_report.words import GLYPHS, claimed, number

FORMAT = 1  # of the JSON
STYLES = {"PASS": "green", "FAIL": "red", "ERROR": "red", "INCONCLUSIVE": "yellow", "worse": "red", "better": "green"}


def printed(*parts: Table | Text | str) -> str:
    """Return what rich makes of parts, in colours only where stdout is a terminal."""
    real = Console(highlight=False)
    console = Console(
        file=io.StringIO(), width=real.width, highlight=False, force_terminal=real.is_terminal, color_system="auto"
    )
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str), markup=False)
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
    parts: list[Table | Text | str] = [
        f"{now}: {shown(sentence.verdict_sentence(c.now.run))}",
        f"{before}: {shown(sentence.verdict_sentence(c.before.run))}",
        *(f"note: {n}" for n in c.notes),
    ]
    if c.gates:
        parts += ["", _table(("gate", before, now), [_gate_row(c, b) for b in c.gates])]
    if c.same:
        parts.append(f"{len(c.same)} gates came to the same numbers: {', '.join(_name(b) for b in c.same)}")
    if c.metrics:
        rows = [_metric_row(c, b) for b in c.metrics]
        parts += ["", _table((f"{shown(c.now.ours)} on the same rows", "reading", "difference", "rows"), rows)]
    if c.settings:
        rows = [[Text(s.key), Text(s.before or ""), Text(s.value)] for s in c.settings]
        parts += ["", _table(("configuration", before, now), rows)]
    return printed(*parts)


def _table(head: tuple[str, ...], rows: list[list[Text]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in head:
        table.add_column(Text(name), overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _name(b: Both) -> str:
    return shown(f"{b.now.gate} on {b.now.candidate}")


def _gate_row(c: Compared, b: Both) -> list[Text]:
    return [Text(_name(b)), _outcome(c.before, b.before), _outcome(c.now, b.now)]


def _outcome(kept: Kept, v: Verdict | None) -> Text:
    if v is None:
        return Text("not asked")
    return Text(f"{GLYPHS[v.outcome]} {v.outcome} ", STYLES[v.outcome]) + Text(estimate(kept, v))


def _metric_row(c: Compared, b: Between) -> list[Text]:
    unit = c.now.unit(b.metric)
    name = f"{b.metric} {number(b.before, unit)}, now {number(b.now, unit)}"
    rows = f"{len(b.pairs.rows)}: {b.pairs.count(LOST)} lost, {b.pairs.count(WON)} won"
    return [Text(shown(name)), Text(b.reading, STYLES.get(b.reading, "")), Text(estimate(c.now, b.verdict)), Text(rows)]


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
    claim = claimed(b.now, *scale_of(c.now, b.now), lower=c.now.is_lower(b.now.metric))
    about = {"gate": b.now.gate, "candidate": b.now.candidate, "claim": claim, "same": b.is_same}
    return {**about, "now": numbers(b.now), "before": numbers(b.before)}


def _metric(b: Between) -> dict[str, Any]:
    v = b.verdict
    test = {"estimate": v.estimate, "lower": v.lower, "upper": v.upper, "p": v.p_pass, "method": v.method, "n": v.n}
    rows = {"won": [p.id for p in b.pairs.of(WON)], "lost": [p.id for p in b.pairs.of(LOST)]}
    counts = {"won_count": len(rows["won"]), "lost_count": len(rows["lost"]), "left_out": b.left}
    about = {"metric": b.metric, "reading": b.reading, "now": b.now, "before": b.before, "alpha": v.alpha}
    return {**about, **test, **counts, **rows, "why": v.why}
