"""[[eval]] use = "judge": answers compared or checked by a language model, which is measured itself.

And `[model] use = "anthropic"`: a model behind Anthropic's API, as a baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness import Caveat, Labels, Marking, Metric, Prompt, Sample, Score, hookimpl, schema

if TYPE_CHECKING:
    from harness import ModelRef, Subject
    from harness_judge.loader import AnthropicSource

MAX_NEW_TOKENS = 256
GUIDELINE = "Prefer the answer that is right, does what is asked, and nothing else."


def judge(
    samples: Sequence[Sample],
    answers: Sequence[str],
    baseline_answers: Sequence[str] | None,
    *,
    marking: Marking,
    model: str | dict[str, str],
    mode: Literal["pairwise", "rubric"] = "pairwise",
    backend: Literal["auto", "openai", "anthropic", "local"] = "auto",
    base_url: str = "",
    api_key_env: str = "",
    guideline: str = GUIDELINE,
    criteria: dict[str, str] | None = None,
    reference: bool = True,
    k: int = 1,
    body: dict[str, Any] | None = None,
    verdict_tokens: int = 512,
    answer_chars: int = 8000,
    concurrency: int = 8,
    retries: int = 5,
    timeout: float = 60.0,
    max_calls: int | None = None,
    max_tokens: int | None = None,
    max_usd: float | None = None,
    prices: dict[str, list[float]] | None = None,
    adversaries: int = 2,
    allow_same_family: bool = False,
    calibration: str = "",
    trust_judge: bool = False,
    local: dict[str, Any] | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    thought: tuple[str, ...] = (),
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

    given = locals()
    options = {name: given[name] for name in OPTIONS}
    yield from mark(samples, answers, baseline_answers, marking, options)


OPTIONS = frozenset(schema.options_of(judge)[0]) - {"max_new_tokens", "thought"}  # which say how the harness asks


def _marks(options: Mapping[str, Any]) -> str:
    return "answers" if options.get("mode") == "rubric" else "pairs"


def _metrics_for(options: Mapping[str, Any]) -> list[Metric]:
    """Name the metrics of a mode; light, since collection calls it."""
    labelled = bool(options.get("calibration")) and not options.get("trust_judge")
    if options.get("mode") == "rubric":
        criteria = options.get("criteria") or {}
        verdicts = [Metric("rubric", "higher", "proportion")]
        verdicts += [Metric(name, "higher", "proportion", labelled=labelled) for name in criteria]
    else:
        verdicts = [
            Metric("win_rate", "higher", "proportion", labelled=labelled),
            *([Metric("win_rate_raw", "higher", "proportion")] if labelled else []),
            Metric("win_rate_controlled", "higher", "other", _controlled),
            Metric("position_flip_rate", "lower", "proportion"),
        ]
    found = [*verdicts, Metric("error_rate", "lower", "proportion"), Metric("injection_suspect", "lower", "proportion")]
    found.append(Metric("tokens", "lower", "count"))
    if options.get("prices"):
        found.append(Metric("usd", "lower", "count"))
    if options.get("calibration"):
        found.append(Metric("kappa", "higher", "agreement"))
    return found


def _controlled(scores: Sequence[Score]) -> float:
    """Return the win rate at equal lengths."""
    from harness_judge.length import controlled

    values = [s.values["win_rate"] for s in scores], [s.values["longer_by"] for s in scores]
    return controlled(*values, [s.weight_of("win_rate") for s in scores])


def _check(options: Mapping[str, Any], folder: Path, judged: str) -> None:
    """Find out before anything is loaded whether the judge can be asked. Raises UsageError."""
    from harness_judge.marking import check

    check({name: value for name, value in options.items() if name in OPTIONS}, folder, judged)


def _needs(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the SDK of the backend; where any will do, none is needed."""
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
    """Say what judging so many models, and answers that are known, may take, and which caps hold."""
    from harness_judge.marking import estimate

    longest = int(options.get("max_new_tokens", MAX_NEW_TOKENS))
    return estimate({n: v for n, v in options.items() if n in OPTIONS}, samples, models, answers, longest)


judge.marks = _marks  # type: ignore[attr-defined]
judge.metrics_for = _metrics_for  # type: ignore[attr-defined]
judge.check = _check  # type: ignore[attr-defined]
judge.needs = _needs  # type: ignore[attr-defined]
judge.adversaries = _adversaries  # type: ignore[attr-defined]
judge.estimate = _estimate  # type: ignore[attr-defined]


@contextmanager
def load(
    refs: Sequence[ModelRef],
    *,
    base_url: str = "",
    api_key_env: str = "",
    concurrency: int = 8,
    timeout: float = 60.0,
    retries: int = 5,
    version: str = "",
    body: dict[str, Any] | None = None,
) -> Iterator[list[Subject]]:
    """Answer through Anthropic's API; the path is the model's id.

    Answers are remembered only under a `version`: what is served under a name can change. It gives no log-probs.
    """
    from harness_judge.loader import AnthropicSubject

    options: dict[str, Any] = {"base_url": base_url, "api_key_env": api_key_env, "timeout": timeout, "body": body}
    options |= {"concurrency": concurrency, "retries": retries, "version": version}
    yield [AnthropicSubject(ref, **options) for ref in refs]


def open_source(path: str, **options: Any) -> AnthropicSource:
    """Ask whether the API is there and knows the model."""
    from harness_judge.loader import open_source

    return open_source(path, **options)


def identity(ref: ModelRef, **options: Any) -> str | None:
    """Name what an answer depends on; None without a `version`."""
    from harness_judge.loader import identity

    return identity(ref.path, **options)


load.open = open_source  # type: ignore[attr-defined]
load.identity = identity  # type: ignore[attr-defined]
load.needs = lambda options: ("anthropic",)  # type: ignore[attr-defined]


@hookimpl
def harness_evaluators() -> dict[str, Any]:
    return {"judge": judge}


@hookimpl
def harness_loaders() -> dict[str, Any]:
    return {"anthropic": load}
