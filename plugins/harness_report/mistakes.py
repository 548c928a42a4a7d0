"""The section on wrong answers: what was expected and what was said instead, the commonest first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from urllib.parse import quote, urlencode

from harness.internals import count_noun, fold_case
from harness_report.formatting import make_excerpt
from harness_report.pairs import LOST, pairs_of_evaluation
from harness_report.reading import LoadedRun, Row, row_answer, row_value

MOST_MISTAKES, FEWEST_ROWS = 8, 2  # that are listed of an evaluation; rows that make one worth a line
MAX_TARGET_CHARS = 200  # characters of a target that is a label or a short text
KINDS = {  # of wrong answers, in the order of the page
    "empty": "empty",
    "cut": "cut short",
    "more": "more than the expected",
    "label": "another label",
    "other": "another text",
}


def mistake_sections(kept: LoadedRun, browsed: set[str]) -> Iterator[SimpleNamespace]:
    """Yield the wrong answers of each evaluation with short targets.

    They are grouped by kind and by target and answer. Evaluations in `browsed` get links to the rows. Private rows are
    left out.
    """
    for evaluation in kept.evals:
        if kept.is_private(evaluation) or not kept.report(kept.ours, evaluation):
            continue
        rows = kept.rows(kept.ours, evaluation)
        wrong = {key: row for key, row in rows.items() if _has_worst_metric_value(kept, evaluation, row)}
        texts = {key: pair for key, row in wrong.items() if (pair := _extract_target_and_answer(row))}
        answered = any(row_answer(row) for row in rows.values())
        if len(wrong) < FEWEST_ROWS or len(texts) < len(wrong) or not answered:  # they are scored by something else
            continue
        yield _make_wrong_answers_section(kept, evaluation, len(rows), texts, evaluation in browsed)


def _make_wrong_answers_section(
    kept: LoadedRun, evaluation: str, total: int, texts: dict[str, tuple[str, str]], linked: bool
) -> SimpleNamespace:
    pairs = pairs_of_evaluation(kept, evaluation)
    lost = {pair.id for pair in pairs.rows if pair.outcome == LOST}
    before = Counter(
        _extract_target_and_answer(p.theirs) for p in pairs.rows if _has_worst_metric_value(kept, evaluation, p.theirs)
    )
    labels = {fold_case(str(row["target"])) for row in kept.rows(kept.ours, evaluation).values() if row.get("target")}
    kinds = Counter(_classify_mistake(*pair, labels) for pair in texts.values())
    told = ", ".join(f"{name} ({kinds[kind]:,})" for kind, name in KINDS.items() if kinds[kind])
    found = []
    for pair, n in Counter(texts.values()).most_common(MOST_MISTAKES):
        if n < FEWEST_ROWS:
            break
        expected, said = pair
        ids = [key for key, one in texts.items() if one == pair]
        query = urlencode({"expected": expected, "said": said}, quote_via=quote)
        found.append(SimpleNamespace(
            expected=make_excerpt(expected, MAX_TARGET_CHARS), said=make_excerpt(said, MAX_TARGET_CHARS) or "(empty)",
            kind=KINDS[_classify_mistake(expected, said, labels)], count=n, lost=sum(key in lost for key in ids),
            before=before[pair], link=f"#{quote(evaluation, '')}:wrong?{query}" if linked else "",
        ))  # fmt: skip
    summary = f"{count_noun(len(texts), 'row')} of {total:,} wrong: {told}."
    if not kept.has_all_rows(evaluation):
        summary = f"{count_noun(len(texts), 'wrong row')} among the {total:,} rows that are kept here: {told}."
    return SimpleNamespace(name=evaluation, said=summary, rows=found, theirs=pairs.theirs if pairs.rows else "")


def _has_worst_metric_value(kept: LoadedRun, evaluation: str, row: Row) -> bool:
    """Return whether a row has the worst value of a proportion."""
    metric, _ = kept.against(evaluation)
    name = f"{evaluation}.{metric}"
    return kept.scale(name).is_share and row_value(row, metric) == float(kept.is_lower(name))


def _extract_target_and_answer(row: Row) -> tuple[str, str] | None:
    """Return a row's target and answer.

    None if the target is missing, long or not a text. A missing answer is an empty string.
    """
    target = row.get("target")
    if not isinstance(target, str) or not target.strip() or len(target) > MAX_TARGET_CHARS:
        return None
    return target.strip(), (row_answer(row) or "").strip()


def _classify_mistake(expected: str, said: str, labels: set[str]) -> str:
    wanted, given = fold_case(expected), fold_case(said)
    if not given:
        return "empty"
    if wanted.startswith(given):
        return "cut"
    if wanted in given:
        return "more"
    return "label" if given in labels else "other"
