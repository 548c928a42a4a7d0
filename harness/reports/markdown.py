"""A run as Markdown, for CI job summaries and pull-request comments.

All foreign text in it is escaped, so none of it acts as markup.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.errors import UsageError
from harness.records import verdict_text
from harness.records.run import Run
from harness.records.verdicts import Verdict
from harness.reports.rows import (
    DisplayRow,
    count_lost_and_won,
    format_failed_rows,
    read_changed_rows,
    read_private_evals,
)
from harness.reports.summary import GLYPHS, describe_exemption
from harness.reports.view import RunView
from harness.texts.counts import count_noun
from harness.texts.escaping import escape_markdown, markdown_code, printable
from harness.texts.numbers import format_percent
from harness.texts.shortening import shorten

MAX_FLIPS = 10  # rows that are shown
MAX_CELL_CHARS = 300  # characters of a text in a cell
MAX_SUMMARY_BYTES = 1_000_000  # bytes of it all: GitHub refuses a summary of more than 1 MiB


def format_run_markdown(run: Run, folder: Path | None = None) -> str:
    """Format a run as Markdown: decision, gates, conclusions and changed rows.

    `folder` holds its rows; without one none are shown. At most MAX_SUMMARY_BYTES, cut at the end of a line.
    """
    view = RunView(run, folder)
    gates = ["| | gate | candidate | claim | result |", "|---|---|---|---|---|"] if run.verdicts else []
    for v in view.verdicts:
        cells = (v.gate, v.candidate, verdict_text.format_claim(v), verdict_text.format_brief(v))
        note = f" ({why})" if (why := describe_exemption(v)) else ""
        gates.append(f"| {GLYPHS[v.outcome]} {v.outcome}{note} | " + " | ".join(map(escape_markdown, cells)) + " |")
    if any(v.lower is not None or v.upper is not None for v in run.verdicts):
        gates.append(f"\nEach bound in brackets holds at {format_percent(1 - run.alpha)}, one-sided.")
    parts = [
        f"## {escape_markdown(view.sentence)}",
        " · ".join([markdown_code(run.suite), markdown_code(run.model), run.started, view.exit]),
        *map(escape_markdown, view.problems[:MAX_FLIPS]),
        "\n".join(f"- **{escape_markdown(line)}**" for line in [*view.exceptions, *view.changed_rules]),
        "\n".join(gates),
        "\n".join(f"- {escape_markdown(line)}" for line in _iterate_conclusion_lines(view)),
    ]
    text = "".join(f"{part}\n\n" for part in parts if part)
    if step := view.next_step:
        text += f"{escape_markdown(step.what)} {markdown_code(step.command) if step.command else ''}".rstrip() + "\n\n"
    for block in _iterate_changed_row_blocks(view, folder) if folder else ():
        if len((text + block).encode()) < MAX_SUMMARY_BYTES:
            text += f"{block}\n\n"
    if len(data := text.encode()) <= MAX_SUMMARY_BYTES:
        return text
    return data[:MAX_SUMMARY_BYTES].decode(errors="ignore").rpartition("\n")[0] + "\n\n… and more, in report.json\n"


def _iterate_conclusion_lines(view: RunView) -> Iterator[str]:
    """Yield lines on conclusions, findings, errors and exports. An edited report's warning is first."""
    yield from view.run.warnings[:1] if view.run.edited else ()
    yield from view.conclusions
    yield from (f"{f.severity}: {f.name}: {f.what}" for f in view.findings if f.ignored is None)
    yield from (f"{item.id}: {item.error}" for item in view.failed_items)
    for export in view.exported:
        yield f"exported {export.candidate} to {Path(export.to).name}, weights {export.digest[:12]}"
    for export, reasons in view.refused_exports:
        yield f"not exported: {export.candidate}" + (f": {'; '.join(reasons)}" if reasons else "")


def _iterate_changed_row_blocks(view: RunView, folder: Path) -> Iterator[str]:
    """Yield HTML blocks of changed or failed rows, worst gate first.

    Only gates that decide have one; at most MAX_FLIPS rows in all, and none of a private eval.
    """
    left = MAX_FLIPS
    for v in view.verdicts:
        try:
            hidden = v.metric.partition(".")[0] in read_private_evals(folder)
            rows = read_changed_rows(view.run, folder, v) if left and v.decides and not hidden else []
        except UsageError:
            rows = []
        if rows:
            yield _format_rows_as_html_details(v, rows, rows[:left])
            left -= len(rows[:left])


def _format_rows_as_html_details(v: Verdict, rows: Sequence[DisplayRow], chosen: Sequence[DisplayRow]) -> str:
    """Return a block of HTML that unfolds: it has no empty line, which would end it, and in it nothing is Markdown."""
    if v.versus:
        lost, won = count_lost_and_won(v)
        count, what = lost + won, f"{count_noun(lost, 'row')} lost and {won:,} won against {v.versus}"
    else:
        count, what = len(rows), format_failed_rows(v, len(rows))
    title = f"{v.gate} on {v.candidate}: {what}" + (f", {len(chosen)} of them here" if count > len(chosen) else "")
    names = dict.fromkeys(subject for row in chosen for subject, _ in row.answers)
    lines = [
        f"<details><summary>{_escape_cell_as_html(title)}</summary><table>",
        _format_html_table_row("th", ["", "row", "prompt", "target", *names]),
    ]
    for row in chosen:
        answers = dict(row.answers)
        texts = [row.id, row.prompt, row.target, *(answers.get(name, "") for name in names)]
        lines.append(_format_html_table_row("td", [row.change, *texts]))
    return "\n".join([*lines, "</table></details>"])


def _format_html_table_row(tag: str, texts: Sequence[str]) -> str:
    cells = (f"<code>{_escape_cell_as_html(text)}</code>" if text else "" for text in texts)
    return f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"


def _escape_cell_as_html(text: str) -> str:
    """Return a text on one line as HTML that says it: no tag, no entity, no link, no secret of its own."""
    line = shorten(printable(text), MAX_CELL_CHARS, middle=True)
    return html.escape(line).replace("##[", "##&#91;").replace("://", ":&#47;/")
