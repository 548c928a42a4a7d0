"""A run in a notebook: its gates as a table, its rows as plain data or a data frame."""

from __future__ import annotations

import importlib.metadata
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

from harness.errors import UsageError, did_you_mean
from harness.records import verdict_text
from harness.records.run import Run
from harness.records.verdicts import Outcome
from harness.reports import summary
from harness.reports.run_folder import prompt_of
from harness.reports.run_folder import read_rows as read_answers
from harness.texts.escaping import printable

DRAWS = "harness.notebook"  # entry points: functions of a Run that return HTML to stand under the gates, or nothing
OWN = ("id", "input", "text", "target")  # columns of a document that stand under names of ours
COLUMNS = ("candidate", "gate", "outcome", "claim", "estimate", "bounds", "n", "why")


def run_html(run: Run) -> str:
    """Return a run's gates as an HTML table, under what it came to."""
    passed = run.count(Outcome.PASS)
    said = f"{passed} of {len(run.verdicts)} gates passed" if run.verdicts else "no gate was decided"
    lines = [f"{run.suite}: {said}, exit {int(run.exit_code)}", *run.conclusions, *(run.problem or "").split("\n")]
    head, rows = "".join(f"<th>{name}</th>" for name in COLUMNS), ""
    for v in run.verdicts:
        # What keeps a verdict from deciding what ships.
        beside = " (waived)" if v.waived else " (warn)" if not v.blocking else "" if v.decides else " (not what ships)"
        outcome, claim = f"{summary.GLYPHS[v.outcome]} {v.outcome}{beside}", _text(f"{v.metric} {v.claim}".strip())
        estimate, lower, upper = (verdict_text.format_number(v.claim_spec, x) for x in (v.estimate, v.lower, v.upper))
        cells = [_text(v.candidate), _text(v.gate), outcome, claim, estimate, f"[{lower}, {upper}]", str(v.n)]
        rows += f"<tr>{''.join(f'<td>{cell}</td>' for cell in [*cells, _text(v.why)])}</tr>"
    table = f"<table><caption>{_text(run.folder)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    told = "".join(f"<p>{_text(line)}</p>" for line in lines if line) + (table if run.verdicts else "")
    for point in importlib.metadata.entry_points(group=DRAWS):
        with suppress(Exception, SystemExit):  # what fails to draw is left out
            told += str(point.load()(run) or "")
    return told


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
                other = {k: v for k, v in row["doc"].items() if k not in OWN and k not in own}
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
        raise UsageError("a data frame needs pandas; pip install pandas, or use rows(), a list of dicts") from None
    return pandas.DataFrame(run_rows(run, evaluation))


def _text(text: str) -> str:
    return escape(printable(text))
