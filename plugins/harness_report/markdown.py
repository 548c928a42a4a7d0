"""What differs between two runs as Markdown, for a pull request."""

from __future__ import annotations

from harness import Verdict
from harness.internals import markdown, sentence
from harness_report.compare import Compared
from harness_report.gates import scale_of
from harness_report.reading import Kept
from harness_report.terminal import estimate
from harness_report.words import GLYPHS, claimed, number


def compared(c: Compared) -> str:
    """Return what differs between two runs as Markdown."""
    before, now = map(markdown, c.labels)
    lines = [f"## {markdown(sentence.verdict_sentence(c.now.run))}", "", f"Against {before}:"]
    lines += [f"{markdown(sentence.verdict_sentence(c.before.run))}.", *(f"- {markdown(n)}" for n in c.notes)]
    if c.gates:
        lines += ["", f"| gate | {before} | {now} |", "|---|---|---|"]
        lines += [_cells(_gate(c.now, b.now), _outcome(c.before, b.before), _outcome(c.now, b.now)) for b in c.gates]
    if c.same:
        lines += ["", f"{len(c.same)} gates came to the same numbers."]
    if c.metrics:
        lines += ["", "| metric | reading | before, now | difference | rows |", "|---|---|---|---|---|"]
    for b in c.metrics:
        values = f"{number(b.before)}, {number(b.now)}"
        lines.append(_cells(b.metric, b.reading, values, estimate(c.now, b.verdict), f"{len(b.pairs.rows):,}"))
    if c.settings:
        lines += ["", f"| configuration | {before} | {now} |", "|---|---|---|"]
        lines += [_cells(s.key, s.before or "", s.value) for s in c.settings]
    return "\n".join(lines) + "\n"


def _cells(*texts: str) -> str:
    return "| " + " | ".join(map(markdown, texts)) + " |"


def _gate(kept: Kept, v: Verdict) -> str:
    claim = claimed(v, scale_of(kept, v)[1])
    return f"{v.gate} on {v.candidate}: {claim}" + ("" if v.blocking else " (only warns)")


def _outcome(kept: Kept, v: Verdict | None) -> str:
    return "not asked" if v is None else f"{GLYPHS[v.outcome]} {v.outcome} {estimate(kept, v)}"
