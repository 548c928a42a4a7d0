"""How likely text is to a model: perplexity, bits per byte, and drift from another model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from harness import (
    Evaluator,
    Prompt,
    Sample,
    Score,
    Subject,
    UsageError,
    evaluator,
    hookimpl,
    metric,
    target_as_continuation,
)


@metric("perplexity", better="lower", scale="perplexity", range=(0.0, math.inf))  # of nats: text is at most certain
@metric("bits_per_byte", better="lower", range=(0.0, math.inf))
def perplexity(
    subject: Subject, samples: Sequence[Sample], *, of: Literal["text", "completion"] = "text", column: str = "text"
) -> Iterator[Score]:
    """Score the likelihood of each row's text or target.

    The batches do not change the result. "text" is the row's `column`, else its input, scored as a whole (in windows if
    it is longer than the model's context); "completion" is the first target after the input, on the tokens that a
    training on the row learns of it. Perplexity is exp(Σ nats / Σ tokens) over all rows, bits per byte Σ nats / (ln 2 ·
    Σ UTF-8 bytes), which also compares models with different tokenizers. Raises UsageError on a row without such text.
    """
    pairs: list[tuple[Prompt, str]] = (
        [] if of == "completion" else [("", _require_row_text(s, column)) for s in samples]
    )
    for sample in samples if of == "completion" else ():
        if not sample.targets or not sample.targets[0].strip():
            raise UsageError(f'row "{sample.id}": has no target to score; map a column to it, or set of = "text"')
        pairs.append(
            (sample.input, target_as_continuation(sample.input, sample.targets[0]))
        )  # as a training joins them
    for sample, logprob in zip(samples, subject.logprobs(pairs), strict=True):
        nats, tokens, size = -logprob.total, logprob.tokens, logprob.bytes
        values = {"perplexity": nats / tokens if tokens else math.nan}
        values |= {"bits_per_byte": nats / math.log(2) / size if size else math.nan}
        yield Score(sample.id, values, weight=float(tokens), weights={"bits_per_byte": float(size)})


@evaluator(asks=("token_kl",))
@metric("kl", better="lower", range=(-1e-6, math.inf))  # no less than 0 but for rounding
def drift(subject: Subject, samples: Sequence[Sample], *, against: Subject, column: str = "text") -> Iterator[Score]:
    """Measure how far a model's next-token distributions moved: mean KL(against ‖ subject), nats per token.

    On text that has nothing to do with the fine-tuning this is forgetting, without labels. Raises
    UsageError on a row without text, and where the model does not give its distributions.
    """
    if (token_kl := getattr(subject, "token_kl", None)) is None:
        raise UsageError(
            f'drift: "{subject.name}" does not return token distributions; use a model that runs locally (use = "hf")'
        )
    for sample, (total, tokens) in zip(
        samples, token_kl([_require_row_text(s, column) for s in samples], against), strict=True
    ):
        yield Score(sample.id, {"kl": total / tokens if tokens else math.nan}, weight=float(tokens))


def _require_row_text(sample: Sample, column: str) -> str:
    if not isinstance(text := sample.row.get(column, sample.input), str) or not text.strip():
        raise UsageError(f'row "{sample.id}": has no text in column "{column}"; name the column of the text')
    return text


@hookimpl
def harness_evaluators() -> dict[str, Evaluator]:
    return {"perplexity": perplexity, "drift": drift}
