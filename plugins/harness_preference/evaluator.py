"""An evaluator that compares the likelihoods of chosen and rejected answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import Prompt, Sample, Score, Subject, UsageError, evaluator, metric, target_as_continuation


def _require_preference_pairs(samples: Sequence[Sample], options: Mapping[str, Any], folder: Path) -> None:
    """Raise UsageError if a row is not two answers to one prompt."""
    for sample in samples:
        _require_prompt_and_answers(sample, options.get("chosen", "chosen"), options.get("rejected", "rejected"))


@evaluator(check_rows=_require_preference_pairs)
@metric("preferred", better="higher", scale="proportion")
@metric("preferred_norm", better="higher", scale="proportion")
def preference(
    subject: Subject, samples: Sequence[Sample], *, chosen: str = "chosen", rejected: str = "rejected"
) -> Iterator[Score]:
    """Score 1 if the chosen answer is likelier than the rejected one.

    A tie is 0. `preferred` compares log-probabilities summed over an answer's tokens, so that it favours the shorter
    one; `preferred_norm` compares their means per token, as IPO and SimPO do. Columns `chosen` and `rejected` hold
    texts, which follow the input after one space unless there is white space, or messages that end with the assistant's
    answer, rendered by the template. A log-probability that is not finite makes the row NaN. Raises UsageError for a
    row with columns that do not fit.
    """
    found = [_require_prompt_and_answers(s, chosen, rejected) for s in samples]
    scored = iter(subject.logprobs([(prompt, text) for prompt, *answers in found for text in answers]))
    for sample, (_, *answers) in zip(samples, found, strict=True):
        one, two = next(scored), next(scored)
        if not (math.isfinite(one.total) and math.isfinite(two.total)):
            nan = {"preferred": math.nan, "preferred_norm": math.nan}
            yield Score(sample.id, nan, note="a log-probability is not finite")
            continue
        margin, by_token = one.total - two.total, one.total / one.tokens - two.total / two.tokens
        values = {"preferred": float(margin > 0), "preferred_norm": float(by_token > 0)}
        yield Score(sample.id, values, answer=answers[margin <= 0], note="tie" if margin == 0 else None)


def _require_prompt_and_answers(sample: Sample, chosen: str, rejected: str) -> tuple[Prompt, str, str]:
    """Return a row's prompt, and both answers as texts.

    Raises UsageError if the answers are equal, or an answer or the prompt is missing.
    """
    one, two = (
        target_as_continuation(sample.input, _require_answer_text(sample, column)) for column in (chosen, rejected)
    )
    if one == two:
        raise UsageError(f'row "{sample.id}": columns "{chosen}" and "{rejected}" are equal; remove it')
    if not sample.input:
        raise UsageError(f'row "{sample.id}": the prompt is missing or empty; map a column to input')
    return sample.input, one, two


def _require_answer_text(sample: Sample, column: str) -> str:
    said: Any = sample.row.get(column)
    if isinstance(sample.input, list) and isinstance(said, list) and said:
        rest = said[len(sample.input) :] if len(said) > len(sample.input) else said
        if len(rest) != 1 or not isinstance(rest[0], Mapping) or rest[0].get("role") != "assistant":
            raise UsageError(f'row "{sample.id}": column "{column}" must end with one message of the assistant')
        said = rest[0].get("content")
    if not isinstance(said, str) or not said.strip():
        want = "it must be a text, or messages if the prompt has messages"
        raise UsageError(f'row "{sample.id}": column "{column}" is {said!r:.60}; {want}')
    return said
