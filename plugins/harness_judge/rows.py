"""Rows -> questions -> scores: what the two modes do with the replies to their questions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness import Sample, Score
from harness_judge import prompts, verdict
from harness_judge.adversaries import score_verdict
from harness_judge.options import JudgeOptions, Prices
from harness_judge.prompts import Question
from harness_judge.verdict import FailedQuestion, NoVerdictError, Reply

MOST_ERRORS = 0.02  # share of rows without a verdict above which nothing is concluded from the others
LONGER_BY = "longer_by"  # value of a pair's score: characters of the candidate's answer less those of the baseline's
Returned = Reply | FailedQuestion


@dataclass(frozen=True)
class JudgeRow:
    """One row to be judged: the questions about it, what they are, and what was done to its texts."""

    sample: Sample
    answer: str
    baseline: str | None
    questions: tuple[Question, ...]
    asked: tuple[str, ...]  # per question: the order of a pair, or the criteria of a check
    notes: tuple[str, ...] = ()


@dataclass
class JudgedRow:
    """A row with its values or error, and all its judgments."""

    row: JudgeRow
    values: dict[str, float] = field(default_factory=dict)
    error: str = ""
    asked: bool = True
    judgments: list[dict[str, Any]] = field(default_factory=list)
    tokens_in: int = 0
    tokens_out: int = 0


def plan_questions(
    options: JudgeOptions, samples: Sequence[Sample], answers: Sequence[str], baselines: Sequence[str] | None
) -> list[JudgeRow]:
    """Plan the questions about all rows, `k` times each. Pairs need `baselines`, criteria do not."""
    if options.mode != "rubric":
        assert baselines is not None
        return plan_pairs(options, samples, answers, baselines)
    rows = []
    for sample, answer in zip(samples, answers, strict=True):
        request, reference, notes = _clean_request_and_reference(sample, options)
        text, done = prompts.clean_answer(answer, options.answer_chars)
        notes += [f"answer: {n}" for n in done]
        plan = [(part, k) for k in range(options.k) for part in criteria_parts(options)]
        questions = tuple(prompts.criteria_question(request, text, reference, part, k) for part, k in plan)
        rows.append(JudgeRow(sample, answer, None, questions, tuple(",".join(part) for part, _ in plan), tuple(notes)))
    return rows


def plan_pairs(
    options: JudgeOptions, samples: Sequence[Sample], answers: Sequence[str], baselines: Sequence[str]
) -> list[JudgeRow]:
    """Plan pairwise questions about all rows, in both orders, `k` times."""
    rows = []
    for sample, ours, theirs in zip(samples, answers, baselines, strict=True):
        request, reference, notes = _clean_request_and_reference(sample, options)
        a, done_a = prompts.clean_answer(ours, options.answer_chars)
        b, done_b = prompts.clean_answer(theirs, options.answer_chars)
        notes += [f"answer: {n}" for n in done_a] + [f"baseline's answer: {n}" for n in done_b]
        orders = {"candidate first": (a, b), "baseline first": (b, a)}
        plan = [(order, k) for k in range(options.k) for order in orders]
        questions = tuple(prompts.pair_question(request, *orders[o], reference, options.guideline, k) for o, k in plan)
        rows.append(JudgeRow(sample, ours, theirs, questions, tuple(order for order, _ in plan), tuple(notes)))
    return rows


def criteria_parts(options: JudgeOptions) -> list[dict[str, str]]:
    """Return the criteria as they are asked: all at once, or one by one of a judge that says one word."""
    criteria = dict(options.criteria or {})
    return [{n: t} for n, t in criteria.items()] if options.backend_name == "local" else [criteria]


def score_pair(row: JudgeRow, outcomes: Sequence[Returned]) -> JudgedRow:
    """Return a row's score: the mean over both orders, ½ for a judge that only looks at places."""
    found, scores = JudgedRow(row), {True: list[float](), False: list[float]()}
    for order, (said, reason), model in _iterate_verdicts_noting_errors(
        found, outcomes, "order", lambda reply, _: verdict.parse_pair_verdict(reply)
    ):
        first = order == "candidate first"
        scores[first].append(score_verdict(said, first))
        winner = {1.0: "candidate", 0.0: "baseline", 0.5: "tie"}[scores[first][-1]]
        found.judgments.append({"order": order, "verdict": winner, "reason": reason, "model": model})
    if not found.error:
        both = scores[True] + scores[False]
        flips = [abs(a - b) == 1 for a, b in zip(scores[True], scores[False], strict=True)]
        found.values = {"win_rate": sum(both) / len(both), "position_flip_rate": sum(flips) / len(flips)}
    return found


def first_position_share(judged: JudgedRow) -> float:
    """Return the share of a pair's verdicts for the first-shown answer. A tie counts one half.

    Both orders are equally frequent, so the average is one half for a judge that ignores position. The first answer is
    always called A: letter and position cannot be distinguished.
    """
    wins = {"candidate": 1.0, "baseline": 0.0, "tie": 0.5}
    found = [(wins[one["verdict"]], one["order"] == "candidate first") for one in judged.judgments]
    return sum(win if first else 1 - win for win, first in found) / len(found)


def score_criteria(row: JudgeRow, outcomes: Sequence[Returned]) -> JudgedRow:
    """Score each criterion by its share of positive judgments. `rubric` is the mean over criteria."""
    found, met = JudgedRow(row), dict[str, list[bool]]()
    for _, verdicts, model in _iterate_verdicts_noting_errors(
        found, outcomes, "criteria", lambda r, some: verdict.parse_criteria_verdict(r, some.split(","))
    ):
        for name, (yes, reason) in verdicts.items():
            met.setdefault(name, []).append(yes)
            found.judgments.append({"criterion": name, "met": yes, "reason": reason, "model": model})
    if not found.error:
        shares = {name: sum(some) / len(some) for name, some in met.items()}
        found.values = {"rubric": sum(shares.values()) / len(shares), **shares}
    return found


def to_scores(judged: Sequence[JudgedRow], metrics: Sequence[str], prices: Prices) -> Iterator[Score]:
    """Yield a Score a row. A row without a verdict is no number: NaN, or up to MOST_ERRORS one that is lost.

    `metrics` are those that a verdict gives.
    """
    spared = sum(bool(j.error) for j in judged) <= MOST_ERRORS * len(judged) and all(j.asked for j in judged)
    for j in judged:
        row, lost = j.row, tuple(metrics) if j.error and spared else ()
        details: dict[str, Any] = {"judgments": j.judgments}
        values = dict(j.values) if not j.error else dict.fromkeys(metrics, 0.5 if spared else math.nan)
        values["error_rate"] = float(bool(j.error)) if j.asked else math.nan
        values["injection_suspect"] = float(prompts.has_judge_injection(row.answer))
        values["tokens"] = float(j.tokens_in + j.tokens_out)
        if prices.are_known:
            values["usd"] = float(prices.cost_usd(j.tokens_in, j.tokens_out))
        if "win_rate" in values:
            values["win_rate_raw"] = values["win_rate"]  # of which labels correct the first alone
        if row.baseline is not None:
            values[LONGER_BY] = float(len(row.answer) - len(row.baseline))
            details["baseline_answer"] = row.baseline
            details["disagree"] = len({one["verdict"] for one in j.judgments if "verdict" in one}) > 1
        if row.notes:
            details["notes"] = list(row.notes)
        weights = dict.fromkeys(lost, 0.0)
        note = f"ERROR: {j.error}" if j.error else "; ".join(row.notes) or None
        yield Score(row.sample.id, values, answer=row.answer, note=note, weights=weights, details=details, lost=lost)


def _clean_request_and_reference(sample: Sample, options: JudgeOptions) -> tuple[str, str, list[str]]:
    """Return request and reference as the judge sees them, listing changes."""
    request, done = prompts.clean_answer(prompts.prompt_as_text(sample.input), options.answer_chars)
    reference, too = prompts.clean_answer("\n".join(sample.targets) if options.reference else "", options.answer_chars)
    return request, reference, [f"request: {n}" for n in done] + [f"reference: {n}" for n in too]


def _iterate_verdicts_noting_errors(
    found: JudgedRow, outcomes: Sequence[Returned], which: str, read: Callable[[Reply, str], Any]
) -> Iterator[tuple[str, Any, str]]:
    """Yield each question with its verdict and the replying model.

    Questions without a verdict, and all tokens, are recorded in `found`.
    """
    for asked, outcome in zip(found.row.asked, outcomes, strict=True):
        try:
            reply = verdict.require_reply(outcome)
            found.tokens_in += reply.tokens_in
            found.tokens_out += reply.tokens_out
            yield asked, read(reply, asked), reply.model
        except NoVerdictError as error:
            found.error = found.error or str(error)
            found.asked = found.asked and not (isinstance(outcome, FailedQuestion) and not outcome.asked)
            found.judgments.append({which: asked, "error": str(error)})
