"""The evaluator: answers compared or checked by a language model, which is measured itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import Caveat, Labels, Marking, Metric, Prompt, Sample, Score, evaluator, schema
from harness_judge.length import controlled_win_rate
from harness_judge.options import Options


def _marks(options: Mapping[str, Any]) -> str:
    return "answers" if options.get("mode") == "rubric" else "pairs"


def _metrics_for(options: Mapping[str, Any]) -> list[Metric]:
    """Return the metrics of a mode; light, since collection calls it."""
    labelled = bool(options.get("calibration")) and not options.get("trust_judge")
    if options.get("mode") == "rubric":
        criteria = options.get("criteria") or {}
        verdicts = [Metric("rubric", "higher", "proportion")]
        verdicts += [Metric(name, "higher", "proportion", labelled=labelled) for name in criteria]
    else:
        verdicts = [
            Metric("win_rate", "higher", "proportion", labelled=labelled),
            *([Metric("win_rate_raw", "higher", "proportion")] if labelled else []),
            Metric("win_rate_controlled", "higher", "other", controlled_win_rate),
            Metric("position_flip_rate", "lower", "proportion"),
        ]
    found = [*verdicts, Metric("error_rate", "lower", "proportion"), Metric("injection_suspect", "lower", "proportion")]
    found.append(Metric("tokens", "lower", "count"))
    if options.get("prices"):
        found.append(Metric("usd", "lower", "count"))
    if options.get("calibration"):
        found.append(Metric("kappa", "higher", "agreement"))
    return found


def _check(options: Mapping[str, Any], folder: Path, judged: str) -> None:
    """Find out before anything is loaded whether the judge can be asked. Raises UsageError."""
    from harness_judge.marking import check

    check(Options(**options), folder, judged)


def _needs(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the SDK that the backend needs; where any will do, none is needed."""
    return (options["backend"],) if options.get("backend") in ("anthropic", "openai") else ()


def _adversaries(options: Mapping[str, Any]) -> dict[str, Callable[[Prompt], str]]:
    """Return answers that deserve nothing, whatever the judge: functions of the request."""
    from harness_judge.adversaries import ADVERSARIES
    from harness_judge.prompts import as_text

    def answering(make: Callable[[str], str]) -> Callable[[Prompt], str]:
        return lambda prompt: make(as_text(prompt))

    return {name: answering(make) for name, make in ADVERSARIES.items()}


def _estimate(
    options: Mapping[str, Any], samples: Sequence[Sample], models: int, answers: Sequence[Callable[[Prompt], str]]
) -> str:
    """Return what judging so many models, and answers that are known, may take, and which caps hold."""
    from harness_judge.marking import estimate

    return estimate(Options(**options), samples, models, answers)


@evaluator(
    marks=_marks, metrics_for=_metrics_for, check=_check, needs=_needs, adversaries=_adversaries, estimate=_estimate
)
@schema.takes(Options)
def judge(
    samples: Sequence[Sample],
    answers: Sequence[str],
    baseline_answers: Sequence[str] | None,
    options: Options,
    *,
    marking: Marking,
) -> Iterator[Score | Caveat | Labels]:
    """Let a language model compare answers with a baseline's, in both orders, or check them against criteria.

    Backend "auto" takes Anthropic or OpenAI where their key is set, else the local model; `model` then names one for
    each. `guideline` says what makes an answer better, `criteria` name what must hold ("rubric"), `reference` shows
    the row's target to the judge. Each question is put `k` times. `body` holds more fields of every request, `local`
    the options of the loader of a local judge. `prices` are dollars for a million tokens in and out, by model;
    `max_calls`, `max_tokens` and `max_usd` end the judging before they are exceeded. On so many rows as `adversaries`
    says worthless answers are held against real ones: where one wins, the gates are ERROR. `calibration` names a file
    that `harness judge calibrate` wrote: its labels correct what the gates are about. Without it they are INCONCLUSIVE,
    unless `trust_judge` takes the judge's word for what people would say.
    Answers are at most `max_new_tokens` long and are cut to `answer_chars`; what stands between the two marks of
    `thought` is not shown to the judge.
    """
    from harness_judge.marking import mark

    return mark(samples, answers, baseline_answers, marking, options)
