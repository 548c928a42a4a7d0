"""E1: answers that look like a score and are none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from harness import Finding, Result, Task, checker, quote

ENOUGH = 20  # answers: fewer may be the same by chance


@checker(title="constant-answers")
def constant_answers(result: Result, task: Task) -> Iterator[Finding]:
    """One answer to every question.

    A broken model can look like a bad one, or even like a good one: the argmax of logits that are not numbers is
    always choice 0, whose accuracy is the share of rows where that is right (0.40 where a healthy model had 0.13).
    """
    answers = Counter(score.answer for score in result.scores if score.answer is not None)
    targets = {str(sample.target) for sample in task.samples or () if sample.target}
    if sum(answers.values()) >= ENOUGH and len(answers) == 1 and len(targets) > 1:
        answer = next(iter(answers))
        what = f'{result.subject} gives one answer to all {sum(answers.values())} rows of "{result.eval}"'
        rows = [f"{len(targets)} targets are wanted; the answer is {quote(answer or '')}"]
        yield Finding("error", what, rows, "look at the rows with harness show; is the model broken?")
