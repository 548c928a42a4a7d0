"""`harness judge calibrate LABELS`: hold a judge against people who read the same answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import Mistakes, Responses, Sample, UsageError, cache_dir, did_you_mean, digest_value
from harness.internals import agreement, number_clusters, prompt_of, read_answers, read_rows, read_suite
from harness_judge import judge_client, rows
from harness_judge.calibration import ALPHA, Calibration, Share, estimate_share, write_calibration
from harness_judge.grading import ask_questions
from harness_judge.options import JudgeOptions
from harness_judge.prompts import prompt_as_text
from harness_judge.rows import MOST_ERRORS, JudgedRow, first_position_share
from harness_judge.sampled import pair_digest

PAIR_LABELS = {"a": "A", "b": "B", "tie": "tie", "candidate": "A", "baseline": "B"}
LABEL_VALUES = {"A": 1.0, "tie": 0.5, "B": 0.0, "met": 1.0, "not met": 0.0}  # of the candidate, or of a criterion
SIDES = {"A": "A, or candidate", "tie": "tie", "B": "B, or baseline"}
MET_LABELS = {"true": "met", "yes": "met", "1": "met", "false": "not met", "no": "not met", "0": "not met"}
MAX_NAMED_ROWS = 5  # rows that a line names
DISPUTES = "disputes"  # what labels of no random draw say of theirs
ROW_ADVICE = "each row needs id and label, with input, answer_a and answer_b (or answer), or --run for ids of a run"

Run = Mapping[str, Mapping[str, Any]]  # rows of a run by their ids


@dataclass(frozen=True)
class Labelled:
    """An answer, or pair of answers, with its human label."""

    id: str
    label: str
    sample: Sample
    answers: tuple[str, ...]
    criterion: str = ""
    sided: bool = True  # whether it tells whose answer is better, the candidate's or the baseline's


def calibrate_judge(
    labels: Path, suite: Path, *, evaluation: str | None = None, run: Path | None = None, subject: str = "merged",
    out: Path | None = None, warn: Callable[[str], None] = lambda text: None,
) -> tuple[Calibration, Path]:  # fmt: skip
    """Compare a judge with human labels, and write the calibration.

    Rows of `labels` hold the answers themselves, or are ids of a run's rows on a subject. Raises UsageError on unusable
    labels, or if the judge is unavailable or reaches a cap.
    """
    if out and out.resolve() in (labels.resolve(), suite.resolve()):
        raise UsageError(f'--out "{out}": is the file of the labels or the suite; name a new file')
    read = read_suite(suite)
    every = [e for e in read.evals if e.use == "judge"]
    names = [e.name for e in every]
    if not (chosen := [e for e in every if evaluation in (None, e.name)]):
        what = (
            f'there is no judged eval "{evaluation}"{did_you_mean(evaluation, names)}'
            if evaluation
            else "no eval has a judge"
        )
        raise UsageError(f"{suite}: {what}")
    if len(chosen) > 1:
        raise UsageError(f"{suite}: several evals have a judge; name one with --eval: " + ", ".join(names))
    options = JudgeOptions(**chosen[0].options)
    found = _read_labels_with_answers(labels, options, read_answers(run, subject, chosen[0].name) if run else {})
    responses = Responses(cache_dir() / "responses.sqlite", warn)
    try:
        with closing(judge_client.open_judge_client(options, responses)) as judge:
            ours, theirs = [f.answers[0] for f in found], [f.answers[-1] for f in found]
            judged = ask_questions(
                judge, rows.plan_questions(options, [f.sample for f in found], ours, theirs), options
            )
    finally:
        responses.close()
    if judge.capped:
        raise UsageError(f"{labels}: judging stopped at {judge.capped}; raise it, since calibration needs all labels")
    made = _compute_calibration(
        found, judged, options, judge_client.judge_identity(options, judge.models), str(labels), read.header.seed
    )
    path = out or labels.with_suffix(".calibration.json")
    write_calibration(path, made)
    return made, path


def calibration_report(made: Calibration) -> list[str]:
    """Return the report of a calibration, in lines."""
    bounds = f"[{made.kappa_lower:.3f}, {made.kappa_upper:.3f}], one-sided {1 - ALPHA:.0%} bounds"
    lines = [
        "judge        " + ", ".join(f"{name} {value}" for name, value in made.judge.items()),
        f"labels       {made.n}, and {made.errors} without a verdict of the judge",
        f"agreement    {made.agreement:.3f}",
        f"kappa        {made.kappa:.3f} {bounds}",
        f"sensitivity  {made.sensitivity:.3f}",
        f"specificity  {made.specificity:.3f}",
    ]
    for side, (share, lower, upper) in made.first.items():
        where = f"where people chose {side}" if side else "of verdicts prefer the answer shown first, which is always A"
        lines.append(f"{'' if side else 'first shown':<12} {share:.3f} [{lower:.3f}, {upper:.3f}] {where}")
    if not made.sided:
        lines.append("sides        A and B do not identify the model, so these labels cannot correct a win rate")
    if made.differ:
        some = ", ".join(
            f'"{row}" (people: {human}, the judge: {ours})' for row, human, ours in made.differ[:MAX_NAMED_ROWS]
        )
        rest = ", …" if len(made.differ) > MAX_NAMED_ROWS else ""
        lines.append(f"differ       {len(made.differ)} of {made.n}: {some}{rest}")
    return lines


def _read_labels_with_answers(path: Path, options: JudgeOptions, run: Run) -> list[Labelled]:
    """Read labels, and find their answers; every mistake is told."""
    mistakes, labelled = Mistakes(), list[Labelled]()
    for number, row in enumerate(read_rows(str(path.resolve()), path.parent, lambda source: None, str(path))):
        try:
            labelled.append(_parse_label(row, options, run))
        except UsageError as error:
            mistakes.add(f"{path}: row {number}", str(error))
    each = Counter((found.id, found.criterion, found.answers if found.criterion else ()) for found in labelled)
    for (row_id, criterion, _), n in each.items():
        if n > 1:
            what = f'row "{row_id}"' + (f', criterion "{criterion}",' if criterion else "")
            mistakes.add(str(path), f"{what} has {n} labels; keep one")
    mistakes.raise_errors()
    return labelled


def _parse_label(row: Mapping[str, Any], options: JudgeOptions, run: Run) -> Labelled:
    pairwise = options.mode == "pairwise"
    if "id" not in row or "label" not in row:
        raise UsageError(f"has only {', '.join(sorted(row))}; {ROW_ADVICE}")
    known, said = (PAIR_LABELS if pairwise else MET_LABELS), str(row["label"]).strip().lower()
    if said not in known:
        raise UsageError(f'label is "{row["label"]}"{did_you_mean(said, known)}')
    if row.get("drawn") == DISPUTES:
        raise UsageError("was drawn from the disputes, on which a judge errs most; label randomly drawn rows instead")
    criterion, criteria = "", list(options.criteria or {})
    if not pairwise:
        criterion = str(row.get("criterion") or (criteria[0] if len(criteria) == 1 else ""))
        if criterion not in criteria:
            raise UsageError(f'criterion is "{criterion}"{did_you_mean(criterion, criteria)}')
    sample, answers = _find_labelled_answers(row, pairwise, run)
    return Labelled(str(row["id"]), known[said], sample, answers, criterion, said not in ("a", "b"))


def _find_labelled_answers(row: Mapping[str, Any], pairwise: bool, run: Run) -> tuple[Sample, tuple[str, ...]]:
    """Return the labelled answers, from the row itself or its run. Raises UsageError if they are missing."""
    name = str(row["id"])
    if "input" in row:
        columns = ("answer_a", "answer_b") if pairwise else ("answer",)
        if lacking := [c for c in columns if c not in row]:
            raise UsageError(f'"{name}" has no {" and no ".join(lacking)}; {ROW_ADVICE}')
        return Sample(name, row["input"], str(row.get("reference") or ""), row), tuple(str(row[c]) for c in columns)
    if not run:
        raise UsageError(f'"{name}" has no answers; {ROW_ADVICE}')
    if name not in run:
        raise UsageError(f'id "{name}" is not a row of the run{did_you_mean(name, run)}')
    there = run[name]
    ours, theirs = there["resps"][0][0], there.get("details", {}).get("baseline_answer")
    if pairwise and theirs is None:
        raise UsageError(f'"{name}" was not compared in that run; name a compared model with --subject')
    return Sample(name, prompt_of(there), there.get("target", ""), there["doc"]), (ours, theirs) if pairwise else (
        ours,
    )


def _compute_calibration(
    found: Sequence[Labelled], judged: Sequence[JudgedRow], options: JudgeOptions, judge: dict[str, str], where: str,
    seed: int,
) -> Calibration:  # fmt: skip
    """Compute the agreement of judge and people, on rows with a verdict.

    Raises UsageError if too many rows have no verdict, or all labels are alike.
    """
    read = [(f, j) for f, j in zip(found, judged, strict=True) if not j.error]
    if (errors := len(found) - len(read)) > MOST_ERRORS * len(found):
        first = next(j for j in judged if j.error)
        what = f'{errors} of {len(found)} rows have no verdict, for instance "{first.row.sample.id}": {first.error}'
        raise UsageError(f"{where}: {what}")
    human, ours = [f.label for f, _ in read], [_format_verdict_as_label(f, j) for f, j in read]
    if len(set(human)) < 2:
        raise UsageError(f'{where}: all labels are "{human[0]}"; agreement needs labels of more than one kind')
    prompts = [
        int(n) for n in number_clusters(prompt_as_text(f.sample.input) for f, _ in read)
    ]  # one's are not independent
    kinds = ("A", "B") if options.mode == "pairwise" else ("met", "not met")
    agreed = [[o == kind for h, o in zip(human, ours, strict=True) if h == kind] for kind in kinds]
    sensitivity, specificity = (sum(each) / len(each) if each else math.nan for each in agreed)
    pairs, differ = list[tuple[str, float, float, int]](), list[tuple[str, str, str]]()
    for (f, j), prompt, said in zip(read, prompts, ours, strict=True):
        pairs.append((f.criterion, LABEL_VALUES[f.label], j.values[f.criterion or "win_rate"], prompt))
        differ += [(f"{f.id} {f.criterion}".strip(), f.label, said)] if f.label != said else []
    made = Calibration(
        dict(judge), digest_value([[f.id, f.criterion, f.label, f.answers] for f in found]), n=len(read), errors=errors,
        agreement=sum(h == o for h, o in zip(human, ours, strict=True)) / len(read),
        kappa=math.nan, kappa_lower=math.nan, kappa_upper=math.nan, sensitivity=sensitivity, specificity=specificity,
        made=datetime.now(UTC).isoformat(timespec="seconds"), sided=all(f.sided for f, _ in read),
        first=_compute_first_position_shares(read, prompts) if options.mode == "pairwise" else {},
        pairs=pairs, differ=differ,
        labelled=[(f.id, f.criterion, pair_digest(j.row)) for f, j in zip(found, judged, strict=True)],
        rows=[(f.id, pair_digest(j.row)) for f, j in read], seed=seed,
    )  # fmt: skip
    try:
        test = agreement.kappa_test(made.agreement_labels(), 0.0, ALPHA)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    return replace(made, kappa=test.estimate, kappa_lower=test.lower, kappa_upper=test.upper)


def _compute_first_position_shares(
    read: Sequence[tuple[Labelled, JudgedRow]], prompts: Sequence[int]
) -> dict[str, Share]:
    """Return the share of verdicts for the first-shown answer, by label. The key "" is for all pairs."""
    said = [(f.label, first_position_share(j), prompt) for (f, j), prompt in zip(read, prompts, strict=True)]
    found = {"": estimate_share([share for _, share, _ in said], prompts)}
    for label, name in SIDES.items():
        some = [(share, prompt) for told, share, prompt in said if told == label]
        if len({prompt for _, prompt in some}) > 1:
            found[name] = estimate_share(*(list(column) for column in zip(*some, strict=True)))
    return found


def _format_verdict_as_label(found: Labelled, judged: JudgedRow) -> str:
    """Return the judge's verdict in the words of the labels."""
    if found.criterion:
        return "met" if judged.values[found.criterion] > 0.5 else "not met"
    score = judged.values["win_rate"]
    return "tie" if score == 0.5 else "A" if score > 0.5 else "B"
