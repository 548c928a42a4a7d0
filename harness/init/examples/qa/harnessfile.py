"""Plugins for the suites in this folder."""

from harness import Score, hookimpl, metric


@metric("a_colour", better="higher", scale="proportion")
def a_colour(subject, samples, *, colours: list[str] = ("red", "green", "blue", "white", "black")):
    """Share of answers that are the name of a colour."""
    answers = subject.generate([s.input for s in samples], max_new_tokens=8, stop=["\n"])
    for sample, answer in zip(samples, answers, strict=True):
        yield Score(sample.id, {"a_colour": float(answer.strip() in colours)}, answer=answer)


@hookimpl
def harness_evaluators():
    return {"a_colour": a_colour}
