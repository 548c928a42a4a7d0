"""`harness judge disputes RUN`: the rows over which a judge was of two minds, to be read by a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import UsageError, read_run
from harness.internals import prompt_of, read_answers, shapes, shorten_text
from harness_judge.prompts import prompt_as_text

Row = Mapping[str, Any]
JUDGMENT = {
    **dict.fromkeys(("order?", "criterion?", "criteria?", "reason?", "error?", "verdict?"), str),
    "met?": bool,
}
JUDGED_ROW = {
    "id": str,
    "target": (str, [str]),
    "resps": [[str]],
    "details?": {
        "baseline_answer?": str,
        "judgments?": [
            (
                {**JUDGMENT, "verdict": str, "reason": str},
                {**JUDGMENT, "met": bool, "reason": str},
                {**JUDGMENT, "error": str},
            )
        ],
    },
}


def iterate_judged_rows(run: Path) -> Iterator[tuple[str, Row]]:
    """Yield (item, row) for each judged row of a run. Raises UsageError if there is none, or a row is malformed."""
    folder, found = run if run.is_dir() else run.parent, False
    for report in read_run(run).results:
        if report.outcome == "done":
            for row in read_answers(folder, report.subject, report.eval).values():
                item = f"{report.subject}::{report.eval}"
                if _list_judgments(row, f"{run}: a row of {item}"):
                    found = True
                    yield item, row
    if not found:
        raise UsageError(f"{run}: has no judged rows")


def is_disputed(row: Row) -> bool:
    """Return whether verdicts on a row differ, or one is missing.

    They may differ between orders, or between repeated judgments.
    """
    said: dict[str, set[Any]] = {}
    for one in _list_judgments(row):
        said.setdefault(one.get("criterion", ""), set()).add(one.get("verdict", one.get("met")))
    return any(len(verdicts) > 1 or None in verdicts for verdicts in said.values())


def describe_dispute(item: str, row: Row) -> list[str]:
    """Write a row in lines: request, target, answers, and every verdict with its reason."""
    target = row["target"] if isinstance(row["target"], str) else "\n".join(row["target"])
    texts = {"request": prompt_as_text(prompt_of(row)), "target": target, "answer": row["resps"][0][0]}
    if "baseline_answer" in row["details"]:
        texts["baseline"] = row["details"]["baseline_answer"]
    lines = [f'{item}  "{row["id"]}"', *(f"  {name:<9} {shorten_text(text)}" for name, text in texts.items())]
    for one in _list_judgments(row):
        where = one.get("order") or one.get("criterion") or one.get("criteria")
        if "error" in one:
            lines.append(f"  {where}: ERROR {one['error']}")
        else:
            verdict = one["verdict"] if "verdict" in one else "met" if one["met"] else "not met"
            lines.append(f"  {where}: {verdict}; {shorten_text(one['reason'])}")
    return lines


def _list_judgments(row: Row, where: str = "it") -> Sequence[Row]:
    """Return the judgments of a row. Raises UsageError if a row with some is malformed."""
    details = row.get("details")
    if not isinstance(details, dict) or "judgments" not in details:
        return ()
    try:
        shapes.require_shape(row, JUDGED_ROW)
    except ValueError as error:
        raise UsageError(f"{where} is malformed: {error}; run the suite again") from None
    judgments: Sequence[Row] = details["judgments"]
    return judgments
