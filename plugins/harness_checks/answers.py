"""E1, E5 and E6: answers that look like a score and are none, or of whom nobody knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from harness import Finding, Result, Task, checker, quote

ASKED, REPLIED = ("server", "path"), "models that replied"  # facts of a served model
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
        begun = "" if answer else "; one that begins with a line break is empty: say stop = [] if that is the stop"
        yield Finding("error", what, rows, f"look at the rows with harness show; is the model broken?{begun}")


@checker(title="unread-calls")
def unread_calls(result: Result, task: Task) -> Iterator[Finding]:
    """Calls of tools in a form that is not read.

    Where no answer's call can be read, all metrics of `tool_calls` are 0 whatever the model says, in a baseline as
    well, and "no worse than the base" passes on nothing. It looks at the rows that want a call.
    """
    wanting = [s for s in result.scores if s.weight_of("name")] if task.spec.use == "tool_calls" else []
    unread = [s for s in wanting if (s.note or "").startswith("cannot be read")]
    if unread and len(unread) == len(wanting):
        what = f'{result.subject} calls tools in all {len(unread)} rows of "{result.eval}" that want it; none is read'
        rows = [f'row "{s.id}": {quote(s.answer or "")}: {s.note}' for s in unread]
        fix = "name the format, raise max_new_tokens where answers are cut off, or train on a form that is read"
        yield Finding("error", what, rows, fix, rows={result.eval: [s.id for s in unread]})


@checker(title="changing-served-model")
def another_model(result: Result, facts: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """Replies that name several models, or others than those to another subject that asked for the same one.

    What a name stands for is the server's to choose, and a gateway may send every request elsewhere: what then looks
    like the effect of a fine-tune, or like none, is the difference between models that nobody named.
    """
    asked = [facts.get("model" if result.subject == "base" else result.subject, {}).get(key) for key in ASKED]
    told = {name: f for name, f in facts.items() if REPLIED in f and [f.get(key) for key in ASKED] == asked}
    wrote = {"base" if name == "model" else name: f[REPLIED] for name, f in told.items()}
    if len({name for names in wrote.values() for name in names}) > 1:
        who = "; ".join(f"by {', '.join(names)} for {name}" for name, names in wrote.items())
        fix = "name in path a version that is served alone, or ask its server itself, and run again"
        yield Finding("warning", f'"{asked[1]}" was answered {who}', fix=fix)
