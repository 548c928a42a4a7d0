"""A run in a notebook: its gates as a table, its rows as plain data or a data frame."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.errors import UsageError, did_you_mean, missing_modules_message
from harness.records import verdict_text
from harness.records.figures import NO_VALUE
from harness.records.run import Run
from harness.records.verdict_figures import verdict_figures
from harness.records.verdicts import Verdict
from harness.reports import summary
from harness.reports.run_folder import prompt_of, read_answers
from harness.reports.view import view_run
from harness.texts.escaping import printable

# entry points: functions of a Run that return HTML to show below the gates, or an empty text
NOTEBOOK_ENTRY_POINTS = "harness.notebook"
ROW_COLUMNS = ("id", "input", "text", "target")  # columns of a document that are shown under their own names
COLUMNS = ("verdict", "gate", "claim", "values", "estimate and bounds", "rows")
PAGE = "report.html"


def run_html(run: Run) -> str:
    """Render a run's decision and gates as HTML.

    Entry points in `harness.notebook` may add to it; one that fails is left out.
    """
    view = view_run(run)
    lines = [f"{run.suite} · {view.exit}", *view.exceptions, *view.problems]
    rest = [line for line in view.conclusions if line not in lines]
    tables = [verdicts for verdicts in (view.shipping_verdicts, view.other_verdicts) if verdicts]
    told = f"<p><b>{view.glyph} {_escape_html_text(view.sentence)}</b></p>"
    told += "".join(f"<p>{_escape_html_text(line)}</p>" for line in lines if line)
    told += "".join(_format_html_gate_table(run, verdicts) for verdicts in tables)
    told += f"<p>Bounds are one-sided, at {100 * (1 - run.alpha):g}% confidence each.</p>" if run.verdicts else ""
    step = view.next_step
    told += f"<p>{_escape_html_text(step.what)} <code>{_escape_html_text(step.command)}</code></p>" if step else ""
    told += _format_html_conclusions(rest) + _format_html_page_link(run)
    for point in importlib.metadata.entry_points(group=NOTEBOOK_ENTRY_POINTS):
        with suppress(Exception, SystemExit):  # what fails to draw is left out
            told += str(point.load()(run) or "")
    return told


def _format_html_gate_table(run: Run, verdicts: Sequence[Verdict]) -> str:
    """Render gates as an HTML table, captioned with their candidates."""
    names = summary.join_names(list(dict.fromkeys(v.candidate for v in verdicts)))
    title = names if verdicts[0].decides else f"{names}, which does not ship"
    head, rows = "".join(f"<th>{name}</th>" for name in COLUMNS), ""
    for v in verdicts:
        figures, why = verdict_figures(v), summary.describe_exemption(v)
        outcome = f"{summary.GLYPHS[v.outcome]} {v.outcome}" + (f" ({why})" if why and v.decides else "")
        values = " against ".join(x for x in (figures.value, figures.baseline) if x != NO_VALUE)
        estimate = f"{figures.estimand} ".lstrip() + figures.estimate
        estimate += f" {figures.bounds}" if NO_VALUE not in (figures.lower, figures.upper) else ""
        rows_ = f"{figures.n:,}" + (f" in {figures.where}" if figures.where else "")
        if v.estimate is None:
            values, estimate = verdict_text.format_brief(v), NO_VALUE
        values = "; ".join(filter(None, [values, verdict_text.format_sample_size(v)]))
        cells = [
            outcome,
            _escape_html_text(v.gate),
            _escape_html_text(verdict_text.format_claim(v)),
            _escape_html_text(values),
            estimate,
            _escape_html_text(rows_),
        ]
        rows += f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    head = f"<thead><tr>{head}</tr></thead>"
    table = f"<table><caption>{_escape_html_text(title)}</caption>{head}<tbody>{rows}</tbody></table>"
    return (
        f'<div style="overflow-x:auto" tabindex="0" role="region" aria-label="{_escape_html_text(title)}">{table}</div>'
    )


def _format_html_conclusions(lines: Sequence[str]) -> str:
    """Render further conclusions as a collapsed HTML block."""
    if not lines:
        return ""
    paragraphs = "".join(f"<p>{_escape_html_text(line)}</p>" for line in lines)
    return f"<details><summary>Conclusions</summary>{paragraphs}</details>"


def _format_html_page_link(run: Run) -> str:
    """Link to the run's HTML page, else name its folder."""
    if not run.folder:
        return ""
    page = Path(run.folder, PAGE)
    if not page.is_file():
        return f"<p>{_escape_html_text(run.folder)}</p>"
    try:
        link = page.resolve().relative_to(Path.cwd()).as_posix()  # which a notebook's server finds
    except ValueError:
        link = page.resolve().as_uri()
    return f'<p><a href="{escape(quote(link, safe="/:"))}">{_escape_html_text(str(page))}</a></p>'


def run_rows(run: Run, evaluation: str) -> list[dict[str, Any]]:
    """Return the rows of an evaluation: id, prompt, target, cluster, other columns, SUBJECT.answer, SUBJECT.METRIC.

    They are read from the run's folder. Raises UsageError where it holds none of such an evaluation.
    """
    there = [r for r in run.results if r.outcome != "skipped" and r.n]
    if not (subjects := [r.subject for r in there if r.eval == evaluation]):
        known = did_you_mean(evaluation, dict.fromkeys(r.eval for r in there))
        raise UsageError(f'{run.folder or run.suite}: has no rows of "{evaluation}"{known}')
    found: dict[str, dict[str, Any]] = {}
    for subject in subjects:
        for name, row in read_answers(Path(run.folder), subject, evaluation).items():
            try:
                own = {"id": row["id"], "prompt": prompt_of(row), "target": row["target"], "cluster": row["cluster"]}
                other = {k: v for k, v in row["doc"].items() if k not in ROW_COLUMNS and k not in own}
                answered = {f"{subject}.answer": row["resps"][0][0]}
                scored = {f"{subject}.{m}": row.get(m) for m in row["metrics"]}
                found.setdefault(name, own | other).update(answered | scored)
            except (LookupError, TypeError, AttributeError):
                raise UsageError(
                    f'{run.folder}: a row of "{evaluation}" on {subject} is incomplete; run the suite again'
                ) from None
    return list(found.values())


def run_frame(run: Run, evaluation: str) -> Any:
    """Return `rows` as a pandas DataFrame. Raises UsageError where pandas is not installed."""
    try:
        import pandas
    except ModuleNotFoundError:
        raise UsageError(f"a data frame {missing_modules_message('pandas')}, or use rows(), a list of dicts") from None
    return pandas.DataFrame(run_rows(run, evaluation))


def _escape_html_text(text: str) -> str:
    return escape(printable(text))
