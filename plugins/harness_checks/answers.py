"""E1 to E10: answers whose score means nothing, and scores of unknown origin."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness import Finding, Gate, Result, Sample, Score, Severity, checker, quote_text
from harness.internals import Suite, Task, find_weakness, fold_case, prompt_text, schema
from harness_checks.evaluations import has_words
from harness_domain import MatchOptions

SERVER_FACTS, REPLY_FACT = ("server", "path"), "models that replied"  # of a served model
MIN_ANSWERS = 20  # answers: fewer may be the same by chance
CUT_PROMPT_NOTE = re.compile("prompt cut from the left, tokens: ([0-9]+)")  # in the notes of lm_eval's rows
THOUGHT = re.compile(r"\s*(<(?:think|thinking|thought|thoughts|reasoning)>|\[THINK\])", re.IGNORECASE)
HALF_SHARE = 0.5
MIN_SHARE, MIN_COUNT = 0.05, 5  # of answers, from which on they are reported


@checker(title="constant-answers")
def constant_answers(result: Result, task: Task) -> Iterator[Finding]:
    """The same answer to every question.

    A broken model can look like a bad one, or even like a good one: the argmax of logits that are not numbers is
    always choice 0, whose accuracy is the share of rows where that is right (0.40 where a healthy model had 0.13).
    """
    answers = Counter(score.answer for score in result.answers if score.answer is not None)
    targets = {str(sample.target) for sample in task.samples or () if sample.target}
    if (n := answers.total()) >= MIN_ANSWERS and len(answers) == 1 and len(targets) > 1:
        (answer,) = answers
        what = f'{result.subject} gives one answer to all {n} rows of "{result.eval}"'
        rows = [f"there are {len(targets)} different targets; the answer is {quote_text(answer or '')}"]
        begun = (
            ""
            if answer
            else (
                "; an answer that begins with a line break may be cut to nothing: set stop = [] if that "
                "is the stop string"
            )
        )
        yield Finding("error", what, rows, f"look at the rows with harness show; the model may be broken{begun}")


@checker(title="cut-answers")
def cut_answers(result: Result, task: Task, reference: Result | None) -> Iterator[Finding]:
    """Answers that were truncated.

    What was cut is scored as far as it goes, which for a model that thinks or explains is nothing: a difference between
    two models may be one of their lengths: certainly where most of the base's were cut, and none of a candidate's
    (-base).
    """
    yield from _check_base_only_truncation(result, reference)
    told = [s for s in result.answers if s.finish_reason]
    cut, whole = ([s for s in told if s.is_cut == is_cut] for is_cut in (True, False))
    if len(told) < MIN_ANSWERS or len(cut) < MIN_SHARE * len(told):
        return
    limit = schema.with_defaults(task.function, task.spec.options).get("max_new_tokens")
    what = f'"{result.subject}::{result.eval}": {len(cut)} of {len(told)} answers were truncated'
    what += f" at {limit} tokens" if limit else ""
    if whole and (first := next(iter(task.metrics.values()))).is_share:
        what += f"; their {first.name} is {first.value(cut):.2f}, that of the others {first.value(whole):.2f}"
    ends = sorted(s.tokens for s in whole if s.tokens is not None)
    long = ends[int(0.99 * (len(ends) - 1))] if ends else 0
    more = 1 << (2 * max(long, limit or 1) - 1).bit_length()
    fix = "check that the model generates a stop token"
    if ends and 2 * long > (limit or 1):
        fix = f"raise max_new_tokens to {more} (p99 of complete answers: {long})"
    elif ends:
        fix = f"complete answers have at most {long} tokens (p99), so more would not help; {fix}, or set stop"
    yield Finding("warning", what, fix=fix, rows={result.eval: [*dict.fromkeys(s.id for s in cut)]})


def _check_base_only_truncation(result: Result, reference: Result | None) -> Iterator[Finding]:
    """Report truncation that affects only the base.

    A base that does not end its answers scores less for their length alone.
    """
    both = [[s for s in one.answers if s.finish_reason] for one in (result, reference) if one is not None]
    if len(both) < 2 or result.subject == "base" or min(map(len, both)) < MIN_ANSWERS:
        return
    ours, theirs = (sum(s.is_cut for s in scores) for scores in both)
    if ours < MIN_SHARE * len(both[0]) and theirs >= HALF_SHARE * len(both[1]):
        what = (
            f'"{result.eval}": {theirs} of {len(both[1])} answers of the base were truncated, {ours} '
            f"of {result.subject}"
        )
        fix = "raise max_new_tokens, or use a base that ends its answers"
        yield Finding("warning", f"{what}: the difference may be due to length alone", fix=fix, kind="base")


@checker(title="empty-answers")
def empty_answers(result: Result, reference: Result | None) -> Iterator[Finding]:
    """Empty answers.

    They are wrong for another reason than a wrong answer is: a stop string at their beginning, a thought that used up
    all tokens, or a template that the model does not know.
    """
    n, empty = len(result.answers), _find_empty_answers(result)
    fewest = min(MIN_SHARE * n, max(MIN_COUNT, 2 * len(_find_empty_answers(reference)))) if reference else MIN_SHARE * n
    if n < MIN_ANSWERS or not empty or len(empty) < fewest:
        return
    thoughts = sum(s.values.get("thought_cut") == 1 for s in empty)
    what = f'"{result.subject}::{result.eval}": {len(empty)} of {n} answers are empty'
    what += f"; in {thoughts} the reasoning did not end" if thoughts else ""
    look = "look at the rows with harness show; check whether answers begin with a stop string"
    fix = "raise max_new_tokens" if thoughts else look
    yield Finding("warning", what, fix=fix, rows={result.eval: [*dict.fromkeys(s.id for s in empty)]})


def _find_empty_answers(result: Result) -> list[Score]:
    return [s for s in result.answers if s.answer is not None and not s.answer.strip()]


@checker(title="cut-prompts")
def cut_prompts(result: Result) -> Iterator[Finding]:
    """Prompts that were truncated at their beginning.

    lm_eval's rows do where they are longer than the context: the instruction and the first examples are gone, and the
    model answers a question that nobody asked.
    """
    if lost := [int(found[1]) for s in result.scores if (found := CUT_PROMPT_NOTE.search(s.note or ""))]:
        span = f"{min(lost):,} to {max(lost):,}" if len(lost) > 1 else f"{lost[0]:,}"
        what = (
            f'"{result.subject}::{result.eval}": {len(lost)} of {len(result.scores)} prompts were '
            f"truncated by {span} tokens"
        )
        fix = "use a model with a longer context, or fewer worked examples"
        yield Finding("warning", f"{what} at their beginning", fix=fix)


@checker(title="unread-calls")
def unread_calls(result: Result, task: Task) -> Iterator[Finding]:
    """Tool calls in a format that cannot be parsed.

    Where no answer's call can be read, all metrics of `tool_calls` are 0 whatever the model says, in a baseline as
    well, and "no worse than the base" passes on nothing: an error. It looks at the rows that want a call; where 5 % of
    them have one that cannot be read, which may be a right one in another format, a warning.
    """
    wanting = [s for s in result.answers if s.weight_of("name")] if task.spec.use == "tool_calls" else []
    unread = [s for s in wanting if (s.note or "").startswith("cannot be read")]
    if unread and len(unread) >= MIN_SHARE * len(wanting):
        what = f'"{result.subject}::{result.eval}": {len(unread)} of {len(wanting)} answers to rows that need a call '
        what += "have one that cannot be parsed, which is scored as wrong"
        severity: Severity = "error" if len(unread) == len(wanting) else "warning"
        rows = [f'row "{s.id}": {quote_text(s.answer or "")}: {s.note}' for s in unread]
        fix = (
            "set the format, raise max_new_tokens where answers are truncated, or train on a format that can be parsed"
        )
        yield Finding(severity, what, rows, fix, rows={result.eval: [*dict.fromkeys(s.id for s in unread)]})


@checker(title="scored-thoughts")
def scored_thoughts(result: Result, task: Task) -> Iterator[Finding]:
    """Reasoning that is scored as a part of the answer.

    Without `thought` an answer is all that was generated: exact_match finds no right one, in base and candidate alike,
    and `contains` finds the target in a thought that weighs it. An error where half of the answers begin with the mark
    of a thought, a warning from 5 % on.
    """
    options = schema.with_defaults(task.function, task.spec.options)
    if "thought" not in options or options["thought"]:
        return
    wanted = {s.id for s in task.samples or () if any(THOUGHT.match(t) for t in s.targets)}
    asked = [s for s in result.answers if s.answer is not None and s.id not in wanted]
    found = [s for s in asked if THOUGHT.match(s.answer or "")]
    if len(found) < max(2, MIN_SHARE * len(asked)):
        return
    mark = min(m[1] for s in found if (m := THOUGHT.match(s.answer or "")))
    end = mark.replace("<", "</").replace("[", "[/")
    what = (
        f'"{result.subject}::{result.eval}": {len(found)} of {len(asked)} answers begin with {mark}: '
        "the reasoning is scored"
    )
    fix = f'thought = ["{mark}", "{end}"], a larger max_new_tokens, and stop = [] where the reasoning has line breaks'
    severity: Severity = "error" if len(found) >= HALF_SHARE * len(asked) else "warning"
    lines = [f'row "{s.id}": {quote_text(s.answer or "", 60)}' for s in found]
    yield Finding(severity, what, lines, fix, rows={result.eval: [*dict.fromkeys(s.id for s in found)]})


@checker(title="echoed-prompts")
def echoed_prompts(result: Result, task: Task) -> Iterator[Finding]:
    """Answers that are correct because they repeat the question.

    `contains` counts a target that is anywhere in an answer, so one that stands in the question is in an answer that
    repeats it. Looked at is what is left of the right answers without their prompts: an error where half of them are
    right by the prompt alone, for the base, whose score only seems higher, a warning.
    """
    if task.spec.use != "contains":
        return
    samples = {s.id: s for s in task.samples or ()}
    right = [s for s in result.answers if s.values.get("contains") == 1 and s.id in samples]
    found = [s for s in right if _is_prompt_echo_without_target(samples[s.id], s.answer or "")]
    if len(right) < MIN_COUNT or len(found) < HALF_SHARE * len(right):
        return
    what = f'"{result.subject}::{result.eval}": {len(found)} of {len(right)} correct answers only repeat the prompt'
    lines = [f'row "{s.id}": {quote_text(s.answer or "", 60)}' for s in found]
    severity: Severity = "warning" if result.subject == "base" else "error"
    fix = 'use = "exact_match", or questions that do not contain their target'
    yield Finding(severity, what, lines, fix, rows={result.eval: [*dict.fromkeys(s.id for s in found)]})


def _is_prompt_echo_without_target(sample: Sample, answer: str) -> bool:
    """Return whether an answer repeats its prompt without adding a target."""
    last = sample.input if isinstance(sample.input, str) else prompt_text(sample.input[-1:])
    prompt, said = (fold_case(" ".join(text.split())) for text in (last, answer))
    left = said.replace(prompt, " ") if prompt else said
    return left != said and not any(has_words(left, fold_case(" ".join(t.split()))) for t in sample.targets)


@checker(title="changing-served-model")
def another_model(result: Result, facts: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """Replies of one served model that name different models.

    The server decides which model a name stands for, and a gateway may route every request elsewhere: the difference
    between unnamed models then looks like the effect of a fine-tune, or like none.
    """
    asked = [facts.get("model" if result.subject == "base" else result.subject, {}).get(key) for key in SERVER_FACTS]
    told = {name: f for name, f in facts.items() if REPLY_FACT in f and [f.get(key) for key in SERVER_FACTS] == asked}
    wrote = {"base" if name == "model" else name: f[REPLY_FACT] for name, f in told.items()}
    if len({name for names in wrote.values() for name in names}) > 1:
        who = "; ".join(f"by {', '.join(names)} for {name}" for name, names in wrote.items())
        fix = "name in path a version that only one server has, or use its server directly, and run again"
        yield Finding("warning", f'"{asked[1]}" was answered {who}', fix=fix)


@checker(title="format-gains")
def gains_in_form_only(result: Result, task: Task, reference: Result | None) -> Iterator[Finding]:
    """Gains over the base that are gains in case and punctuation.

    exact_match counts "Paris." as wrong where "Paris" is the target, so a fine-tune that only learns to leave out the
    full stop beats its base. Counted are the base's wrong answers that are right without case and punctuation, from
    5 % of the rows on; with them the gain is another.
    """
    given = schema.with_defaults(task.function, task.spec.options) if task.spec.use == "exact_match" else {}
    if reference is None or result.subject == "base" or not given or len(result.answers) < MIN_ANSWERS:
        return
    normal = MatchOptions(ignore_articles=given.get("ignore_articles") is True).normalize
    targets = {s.id: {text for t in s.targets if (text := normal(t))} for s in task.samples or ()}
    strict, loose = list[float](), list[float]()
    for one in (result, reference):
        right = [s.values.get("exact_match") == 1 for s in one.answers]
        alike = [normal(s.answer or "") in targets.get(s.id, ()) for s in one.answers]
        strict.append(sum(right) / max(1, len(right)))
        loose.append(sum(map(max, right, alike)) / max(1, len(right)))
    wrong = [s for s in reference.answers if s.values.get("exact_match") == 0]
    found = [s for s in wrong if normal(s.answer or "") in targets.get(s.id, ())]
    gain, rest = strict[0] - strict[1], loose[0] - loose[1]
    if len(found) < max(MIN_COUNT, MIN_SHARE * len(reference.answers)) or rest >= gain:
        return
    what = f'"{result.eval}": {len(found)} of the {len(wrong)} wrong answers of the base are right but for case and '
    what += f"punctuation; with them {result.subject} gains {rest:+.3f} instead of {gain:+.3f}"
    lines = [f'row "{s.id}": {quote_text(s.answer or "", 60)}' for s in found]
    fix = "set ignore_case = true and ignore_punctuation = true, unless the form of an answer is what counts"
    yield Finding("warning", what, lines, fix, rows={result.eval: [*dict.fromkeys(s.id for s in found)]})


@checker(title="weak-baseline")
def weak_baseline(
    result: Result, task: Task, reference: Result | None, suite: Suite | None, gates: Sequence[Gate] | None
) -> Iterator[Finding]:
    """A baseline with worked examples that is weaker than none.

    To be better than it proves nothing where it scores less than one answer to all rows, or less than the base without
    examples (sign test at 5 %), by the metrics of gates that compare with it, else by the first. Examples that are few,
    of one kind or of another task can make a small model repeat one of their answers. Whether fine-tuning is warranted
    then stays open.
    """
    subject = suite.subjects.get(result.subject) if suite else None
    if not subject or not subject.examples or subject.released or not task.metrics or len(result.scores) < MIN_ANSWERS:
        return
    against = [g for g in gates or () if g.versus == result.subject and g.eval == result.eval]
    compared = {g.metric_name for g in against} & task.metrics.keys() or {next(iter(task.metrics))}
    for metric in (metric for name, metric in task.metrics.items() if name in compared):
        if why := find_weakness(task, metric, result, None if subject.use else reference):
            what = f'"{result.subject}::{result.eval}": the base with {subject.examples} examples in its prompt has '
            fix = "choose examples of all labels with fewshot_data, or other shots"
            yield Finding("warning", f"{what}{metric.name} {why}", fix=fix)
