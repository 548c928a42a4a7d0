from harness import Score, hookimpl, metric


@metric("polite", better="higher", scale="proportion")
def polite(subject, samples, *, words: list[str] = ("please", "thank")):
    """Share of answers with a polite word in them."""
    answers = subject.generate([s.input for s in samples], max_new_tokens=32)
    for s, a in zip(samples, answers, strict=True):
        yield Score(s.id, {"polite": float(any(w in a.lower() for w in words))}, answer=a)


@hookimpl
def harness_evaluators():
    return {"polite": polite}
