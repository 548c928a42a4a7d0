"""Plugins of this project: whatever is here, the suites in this folder can use."""

from harness import Score, hookimpl, metric


@metric("polite", better="higher", scale="proportion")
def polite(subject, samples, *, words: list[str] = ("please", "thank")):
    """Share of answers with a polite word in them."""
    answers = subject.generate([s.input for s in samples], max_new_tokens=16)
    for sample, answer in zip(samples, answers, strict=True):
        yield Score(sample.id, {"polite": float(any(w in answer.lower() for w in words))}, answer=answer)


@hookimpl
def harness_evaluators():
    return {"polite": polite}
