"""E1 to E6: answers that look like a score and are none, or of whom nobody knows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from harness import Finding, Result, Score, checker, quote
from harness.internals import Task, schema

ASKED, REPLIED = ("server", "path"), "models that replied"  # facts of a served model
ENOUGH = 20  # answers: fewer may be the same by chance
LOST = re.compile("prompt cut from the left, tokens: ([0-9]+)")  # in the notes of lm_eval's rows
MANY, FEW = 0.05, 5  # share of answers, and number of them, from which on they are told of


@checker(title="constant-answers")
def constant_answers(result: Result, task: Task) -> Iterator[Finding]:
    """One answer to every question.

    A broken model can look like a bad one, or even like a good one: the argmax of logits that are not numbers is
    always choice 0, whose accuracy is the share of rows where that is right (0.40 where a healthy model had 0.13).
    """
    answers = Counter(score.answer for score in result.scores if score.answer is not None)
    targets = {str(sample.target) for sample in task.samples or () if sample.target}
    if (n := answers.total()) >= ENOUGH and len(answers) == 1 and len(targets) > 1:
        (answer,) = answers
        what = f'{result.subject} gives one answer to all {n} rows of "{result.eval}"'
        rows = [f"{len(targets)} targets are wanted; the answer is {quote(answer or '')}"]
        begun = "" if answer else "; one that begins with a line break is empty: say stop = [] if that is the stop"
        yield Finding("error", what, rows, f"look at the rows with harness show; is the model broken?{begun}")


@checker(title="cut-answers")
def cut_answers(result: Result, task: Task) -> Iterator[Finding]:
    """Answers that did not end by themselves.

    What was cut is scored as far as it goes, which for a model that thinks or explains is nothing: a difference between
    two models may be one of their lengths.
    """
    told = [s for s in result.scores if s.ended]
    cut, whole = ([s for s in told if s.is_cut == is_cut] for is_cut in (True, False))
    if len(told) < ENOUGH or len(cut) < MANY * len(told):
        return
    limit = schema.with_defaults(task.function, task.spec.options).get("max_new_tokens")
    what = f'"{result.subject}::{result.eval}": {len(cut)} of {len(told)} answers were cut'
    what += f" at {limit} tokens" if limit else ""
    if whole and (first := next(iter(task.metrics.values()))).is_share:
        what += f"; their {first.name} is {first.value(cut):.2f}, of the others {first.value(whole):.2f}"
    ends = sorted(s.tokens for s in whole if s.tokens is not None)
    long = ends[int(0.99 * (len(ends) - 1))] if ends else 0
    more = 1 << (2 * max(long, limit or 1) - 1).bit_length()
    fix = f"raise max_new_tokens to {more} (p99 of those that ended: {long})" if ends else "is there a stop token?"
    yield Finding("warning", what, fix=fix, rows={result.eval: [s.id for s in cut]})


@checker(title="empty-answers")
def empty_answers(result: Result, reference: Result | None) -> Iterator[Finding]:
    """Answers that say nothing.

    They are wrong for another reason than a wrong answer is: a stop string at their beginning, a thought that used up
    all tokens, or a template that the model does not know.
    """
    n, empty = len(result.scores), _silent(result)
    fewest = min(MANY * n, max(FEW, 2 * len(_silent(reference)))) if reference else MANY * n
    if n < ENOUGH or not empty or len(empty) < fewest:
        return
    thoughts = sum(s.values.get("thought_cut") == 1 for s in empty)
    what = f'"{result.subject}::{result.eval}": {len(empty)} of {n} answers say nothing'
    what += f"; {thoughts} are thoughts that did not end" if thoughts else ""
    look = "look at the rows with harness show; does an answer begin with a stop string?"
    fix = "raise max_new_tokens" if thoughts else look
    yield Finding("warning", what, fix=fix, rows={result.eval: [s.id for s in empty]})


def _silent(result: Result) -> list[Score]:
    return [s for s in result.scores if s.answer is not None and not s.answer.strip()]


@checker(title="cut-prompts")
def cut_prompts(result: Result) -> Iterator[Finding]:
    """Prompts that lost their beginning.

    lm_eval's rows do where they are longer than the context: the instruction and the first examples are gone, and the
    model answers a question that nobody asked.
    """
    if lost := [int(found[1]) for s in result.scores if (found := LOST.search(s.note or ""))]:
        span = f"{min(lost):,} to {max(lost):,}" if len(lost) > 1 else f"{lost[0]:,}"
        what = f'"{result.subject}::{result.eval}": {len(lost)} of {len(result.scores)} prompts lost {span} tokens'
        fix = "take a model with a longer context, or fewer worked examples"
        yield Finding("warning", f"{what} at their beginning", fix=fix)


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
