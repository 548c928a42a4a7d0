"""The evaluator: answers compared or checked by a language model, and win rates that do not pay for length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harness import Caveat, Labels, Marking, Metric, Prompt, Sample, Score, evaluator
from harness.internals import schema
from harness_judge.options import JudgeOptions
from harness_judge.rows import LONGER_BY

# of both coefficients: where all rows agree they stay finite, and n = 60 moves by less than a point
RIDGE_PENALTY = 0.1
NEWTON_STEPS = 100


def _make_metrics_of_mode(options: Mapping[str, Any]) -> list[Metric]:
    """Return the metrics of a mode; light, since collection calls it."""
    labelled = bool(options.get("calibration")) and not options.get("trust_judge")
    if options.get("mode") == "rubric":
        verdicts = [Metric("rubric", "higher", "proportion")]
        verdicts += [Metric(name, "higher", "proportion", labelled=labelled) for name in options.get("criteria") or {}]
    else:
        verdicts = [Metric("win_rate", "higher", "proportion", labelled=labelled)]
        verdicts += [Metric("win_rate_raw", "higher", "proportion")] if labelled else []
        verdicts += [Metric("win_rate_controlled", "higher", "other", controlled_win_rate)]
        verdicts += [Metric("position_flip_rate", "lower", "proportion")]
    found = [*verdicts, Metric("error_rate", "lower", "proportion"), Metric("injection_suspect", "lower", "proportion")]
    found += [Metric(name, "lower", "count") for name in ("tokens", *(["usd"] if options.get("prices") else []))]
    return found + ([Metric("kappa", "higher", "agreement")] if options.get("calibration") else [])


def _require_usable_judge(options: Mapping[str, Any], folder: Path, judged: str) -> None:
    """Raise UsageError if the judge is unusable.

    Before anything is loaded, this checks key, SDK, model, family and calibration.
    """
    from harness_judge import calibration, judge_client

    chosen = JudgeOptions(**options)
    chosen.check_family(judged)
    judge_client.open_judge_client(chosen, None).close()
    if chosen.calibration:
        calibration.read_calibration(folder / chosen.calibration)


def _make_worthless_answer_functions(options: Mapping[str, Any]) -> dict[str, Callable[[Prompt], str]]:
    """Return worthless answers by name, as functions of the prompt."""
    from harness_judge.adversaries import ADVERSARIES
    from harness_judge.prompts import prompt_as_text

    def answer(make: Callable[[str], str], prompt: Prompt) -> str:
        return make(prompt_as_text(prompt))

    return {name: partial(answer, make) for name, make in ADVERSARIES.items()}


def _describe_maximum_judging_cost(
    options: Mapping[str, Any], samples: Sequence[Sample], models: int, answers: Sequence[Callable[[Prompt], str]]
) -> str:
    """Estimate the maximum judgments, tokens and dollars for all rows.

    It covers `models` models and the known `answers`. Unknown answers are assumed to have the maximum number of tokens,
    of four characters each.
    """
    from harness_judge import rows

    chosen, calls, sent = JudgeOptions(**options), 0, 0
    unknown = "x" * min(4 * chosen.max_new_tokens, chosen.answer_chars)
    plan = [(1, [answer(s.input) for s in samples]) for answer in answers] + [(models, [unknown] * len(samples))]
    for times, said in plan:
        asked = [
            q for row in rows.plan_questions(chosen, samples, said, [unknown] * len(samples)) for q in row.questions
        ]
        calls += times * len(asked)
        sent += times * sum(len(m["content"]) for q in asked for m in q.messages()) // 4
    who = f'{models} weak models and {len(answers)} worthless answers for judge "{chosen.model_name}"'
    found = f"{who}: {calls:,} judgments, fewer if some are cached"
    if chosen.backend_name != "local":
        out = calls * chosen.verdict_tokens
        found += f", about {sent:,} input tokens and at most {out:,} output tokens"
        if (prices := chosen.model_prices()).are_known:
            found += f", {prices.cost_usd(sent, out):.2f} dollars at most"
    if caps := [f"{n} = {cap}" for n in ("max_calls", "max_tokens", "max_usd") if (cap := getattr(chosen, n))]:
        found += f"; judging stops at {', '.join(caps)}"
    return found


@evaluator(
    marks=lambda options: "answers" if options.get("mode") == "rubric" else "pairs",
    needs=lambda options: tuple(sdk for sdk in ("anthropic", "openai") if options.get("backend") == sdk),
    metrics_for=_make_metrics_of_mode, check=_require_usable_judge, adversaries=_make_worthless_answer_functions,
    estimate=_describe_maximum_judging_cost,
)  # fmt: skip
@schema.accepts_options(JudgeOptions)
def judge(
    samples: Sequence[Sample], answers: Sequence[str], baseline_answers: Sequence[str] | None, options: JudgeOptions,
    *, marking: Marking,
) -> Iterator[Score | Caveat | Labels]:  # fmt: skip
    """Grade answers with a language model.

    Pairs are compared with a baseline's answers, in both orders; with mode "rubric" answers are checked against
    criteria. Backend "auto" takes Anthropic or OpenAI if their key is set, else the local model; `model` then names one
    for each. `guideline` defines a better answer, `criteria` the requirements ("rubric"), `reference` shows the row's
    target to the judge. Each question is repeated `k` times. `body` holds more fields of every request, `local` the
    options of the loader of a local judge. `prices` are dollars per million tokens in and out, by model; `max_calls`,
    `max_tokens` and `max_usd` end the judging before they are exceeded. On `adversaries` rows worthless answers are
    compared with real ones: if one wins, the gates are ERROR. `calibration` names a file written by `harness judge
    calibrate`: its labels correct the gated metrics. Without it gates are INCONCLUSIVE, unless `trust_judge` accepts
    the judge's verdicts as human ones. Answers are at most `max_new_tokens` long and are cut to `answer_chars`; text
    between the two marks of `thought` is hidden from the judge.
    """
    from harness_judge.grading import grade_with_judge

    return grade_with_judge(samples, answers, baseline_answers, marking, options)


def controlled_win_rate(scores: Sequence[Score]) -> float:
    """Return the length-controlled win rate over all rows."""
    values = [s.values["win_rate"] for s in scores], [s.values[LONGER_BY] for s in scores]
    return length_controlled_win_rate(*values, [s.weight_of("win_rate") for s in scores])


def length_controlled_win_rate(scores: Sequence[float], longer_by: Sequence[float], weights: Sequence[float]) -> float:
    """Return the win rate at equal lengths: sigmoid(a) of the fit P(win) = sigmoid(a + b·tanh(d/s)).

    One score in [0, 1], one difference in length (candidate minus baseline, any unit) and one weight per row; s is the
    standard deviation of the differences. After Dubois et al. 2024, arXiv:2404.04475, eq. 2, with the terms of one
    model against one baseline and a ridge. Where lengths do not differ it is the plain mean. NaN without rows.
    """
    import numpy as np
    from numpy.typing import NDArray

    rows = np.asarray([scores, longer_by, weights], dtype=np.float64)
    y, d, w = rows[:, rows[2] > 0]
    if not len(y) or not np.isfinite(y).all() or not np.isfinite(d).all():
        return math.nan
    if (spread := float(d.std())) == 0:
        return float((w * y).sum() / w.sum())
    x, beta = np.stack([np.ones_like(d), np.tanh(d / spread)], axis=1), np.zeros(2)

    def loss(b: NDArray[np.float64]) -> float:
        eta = x @ b
        return float((w * (np.logaddexp(0, eta) - y * eta)).sum() + RIDGE_PENALTY / 2 * b @ b)

    for _ in range(NEWTON_STEPS):  # of Newton's, each halved until the likelihood grows
        p = 1 / (1 + np.exp(-(x @ beta)))
        gradient = x.T @ (w * (p - y)) + RIDGE_PENALTY * beta
        hessian = (x * (w * p * (1 - p))[:, None]).T @ x + RIDGE_PENALTY * np.eye(2)
        step, here, size = np.linalg.solve(hessian, gradient), loss(beta), 1.0
        while loss(beta - size * step) > here and size > 1e-8:
            size /= 2
        beta = beta - size * step
        if float(np.abs(size * step).max()) < 1e-9:
            break
    return float(1 / (1 + np.exp(-beta[0])))
