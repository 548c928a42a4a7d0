"""The plugin. The harness calls every function with @hookimpl."""

from collections.abc import Iterator, Sequence

from harness import Evaluator, Sample, Score, Subject, hookimpl, metric


@metric("contains", better="higher", scale="proportion")
def contains_word(
    subject: Subject, samples: Sequence[Sample], *, word: str, max_new_tokens: int = 64
) -> Iterator[Score]:
    """Share of answers that contain `word`."""
    answers = subject.generate([sample.input for sample in samples], max_new_tokens=max_new_tokens)
    for sample, answer in zip(samples, answers, strict=True):
        yield Score(sample.id, {"contains": float(word.lower() in answer.lower())}, answer=answer)


@hookimpl
def harness_evaluators() -> dict[str, Evaluator]:
    return {"contains_word": contains_word}
