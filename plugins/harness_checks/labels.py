"""D16 to D18: targets that no answer can be, labels learnt and labels asked for, and what one answer to all scores."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import HELD_OUT, Finding, Gate, ModelRef, Sample, TrainingRow, checker, quote_text, target_as_continuation
from harness.internals import DOUBTFUL_LABELS, Task, fold_case, schema
from harness_checks.lint import PREFERENCE_COLUMNS, count_of_total, row_numbers
from harness_hf import ModelTokenizer

# whose targets are said as they are
VERBATIM_EVALUATORS = ("exact_match", "json", "contains", "token_f1", "regression", "hf_metric")
WHOLE_TARGET_EVALUATORS = VERBATIM_EVALUATORS[:2]
SPOILING_SHARE = 0.05  # of the rows, from which their scores are spoilt
MAX_LABELS, MIN_LABELLED_ROWS = 50, 20
MIN_ASKED_SHARE = 0.9  # of the labels that are learnt
METRICS = {"exact_match": ("exact_match",), "contains": ("contains",), "multiple_choice": ("acc", "acc_norm")}


@checker(title="unreachable-targets")
def unreachable(tasks: Mapping[str, Task], base: ModelRef) -> Iterator[Finding]:
    """Targets that cannot be answered.

    An answer ends at `max_new_tokens` and at the first `stop` string, by default a line break. A target that is longer
    (-long), or has such a string inside (-stop), is missed by base and candidate alike, and a gate that compares the
    two passes. Of several targets one will do. For exact_match and json 5 % of the rows are an error.
    """
    for name, task in tasks.items():
        use, given = task.spec.use, schema.with_defaults(task.function, task.spec.options)
        loose = given.get("compare") is False or given.get("ignore") or given.get("earlier") == "against"
        if use not in VERBATIM_EVALUATORS or loose or not {"max_new_tokens", "stop"} <= given.keys():
            continue
        samples = [s for s in task.samples or () if s.input and s.target]
        least = (lambda text: "".join(text.split())) if use == "json" else (lambda text: text.strip().rstrip(".!?"))
        rows = [(s, [least(text) for text in s.targets]) for s in samples]
        stops, most = [stop for stop in given["stop"] if stop], given["max_new_tokens"]
        inside = {s.id: next((x for x in stops if all(x in text for text in texts)), None) for s, texts in rows}
        stopped = {i: f"contains the stop string {json.dumps(stop)}" for i, stop in inside.items() if stop}
        sizes = _find_targets_over_token_limit(
            [(s, texts) for s, texts in rows if s.id not in stopped], most, Path(base.path)
        )
        long = {i: f"takes {size} tokens of max_new_tokens = {most}" for i, size in sizes.items()}
        for kind, why, fix in (("stop", stopped, "stop = []"), ("long", long, "raise max_new_tokens")):
            if why:
                first = next(iter(why))
                spoilt = use in WHOLE_TARGET_EVALUATORS and len(why) >= SPOILING_SHARE * len(rows)
                what = (
                    f'{count_of_total(len(why), len(rows))} of "{name}" cannot be answered: the target of '
                    f'row "{first}" {why[first]}'
                )
                lines = [f'the target of row "{i}" {said}' for i, said in why.items()]
                yield Finding("error" if spoilt else "warning", what, lines, fix, kind, {name: [*why]})


def _find_targets_over_token_limit(rows: list[tuple[Sample, list[str]]], most: int, folder: Path) -> dict[str, int]:
    """Return the token counts of targets over the limit, by row.

    Of several targets, the shortest counts.
    """
    pairs = [(s, text) for s, texts in rows if min(len(t.encode()) for t in texts) > most for text in texts]
    if not pairs or not (folder / "tokenizer_config.json").is_file():
        return {}
    tokens = ModelTokenizer.of(str(folder))
    asked = [s.input if isinstance(s.input, str) else "" for s, _ in pairs]  # a template's end is no part of an answer
    whole = [prompt + target_as_continuation(s.input, text) for prompt, (s, text) in zip(asked, pairs, strict=True)]
    sizes: dict[str, int] = {}
    for (s, _), before, after in zip(pairs, tokens.encode_prompts(asked), tokens.encode_prompts(whole), strict=True):
        sizes[s.id] = min(len(after) - len(before), sizes.get(s.id, len(after)))
    return {i: size for i, size in sizes.items() if size > most}


@checker(title="unasked-answers")
def unasked(rows: list[TrainingRow], tasks: Mapping[str, Task]) -> Iterator[Finding]:
    """Training labels that no evaluation has.

    Trained on the labels 0, 1 and 2 and evaluated on words, a model learns what is not measured. Labels are answers of
    which there are 50 different ones at most, each twice on average; what is asked for may be a part of one. An error
    where none is asked for, a warning below 90 %; silent where an evaluation of other data wants these answers.
    """
    learnt, labels = (
        _count_trained_labels(rows),
        {name: found for name, task in tasks.items() if (found := _count_expected_labels(task))},
    )
    own = [t for t in tasks.values() if not t.brings_rows and t.spec.data not in {tasks[n].spec.data for n in labels}]
    every = [set(map(fold_case, found)) for found in labels.values()]
    every += [{fold_case(target.strip()) for s in t.samples or () for target in s.targets} for t in own]
    hits = [{a for a in learnt if any(x and x in fold_case(a) for x in some)} for some in every]
    asked = max(hits, key=lambda known: sum(learnt[a] for a in known), default=set())
    if learnt and labels and (share := sum(learnt[a] for a in asked) / learnt.total()) < MIN_ASKED_SHARE:
        lost = [row for row in rows if (a := row.answer.strip()) in learnt and a not in asked]
        what = f"{len(lost):,} of {len(rows):,} training rows have labels that no evaluation has: "
        what += _describe_labels(Counter(row.answer.strip() for row in lost))
        evidence = [f'"{name}" has {_describe_labels(found)}' for name, found in labels.items()]
        yield Finding(
            "warning" if share else "error", what, evidence, "spell labels the same in both", rows=row_numbers(lost)
        )


@checker(title="labels")
def shares(rows: list[TrainingRow], tasks: Mapping[str, Task], gates: Sequence[Gate]) -> Iterator[Finding]:
    """The shares of labels in training and in evaluations.

    Rows that are sorted by their label and then cut have one label, and a model that always says it passes (-one).
    Where the commonest label is 56 % of the rows, so much does a constant answer score, and a gate with a lower `min`
    proves nothing (-constant). Labels that differ in case or white space alone are one to a reader and two to a scorer
    (-spelling), and "nan" or "None" may be a value that was missing (-missing). The shares themselves are a note.
    """
    learnt, labels = (
        _count_trained_labels(rows),
        {name: found for name, task in tasks.items() if (found := _count_expected_labels(task))},
    )
    for where, found in (("the training", learnt), *((f'"{name}"', found) for name, found in labels.items())):
        if len(+found) == 1:
            what = f"all {found.total():,} rows of {where} have the label {_describe_labels(+found)}"
            yield Finding(
                "warning", what, (), "shuffle the rows first: they may be sorted by label and then sliced", "one"
            )
        yield from _check_label_spelling(where, +found)
    said = Counter(row.answer.strip() for row in rows if not row.row.get(HELD_OUT))
    for name, found in labels.items():
        top = found.most_common(1)[0][1] / found.total()
        known = Counter({label: said[label] for label in found if label in said})
        ours = _describe_labels(known) or "none of these"
        if known and (others := sum(n for label, n in learnt.items() if label not in found)):
            ours += f", and {others:,} rows with other labels"
        what = f'"{name}": {_describe_labels(found)}; one answer for every row would score {top:.2f}'
        what = f"{what}; training data: {ours}"
        yield Finding("note", what)
        for gate in gates:
            metric = gate.metric.removeprefix(f"{name}.")
            if metric in METRICS[tasks[name].spec.use] and gate.min is not None and gate.min < top < 1:
                what = f'gate "{gate.id}": {gate.metric} above {gate.min:g}, where a constant answer scores {top:.2f}'
                yield Finding("warning", what, (), "raise min, or compare with the base (versus)", "constant")


def _check_label_spelling(where: str, labels: Counter[str]) -> Iterator[Finding]:
    """Yield findings for inconsistent spelling of labels.

    Labels that may stand for a missing value are reported too.
    """
    spelt: dict[str, list[str]] = {}
    for label, _ in labels.most_common():
        spelt.setdefault(" ".join(fold_case(label).split()), []).append(label)
    if twins := [same for same in spelt.values() if len(same) > 1]:
        pairs = ", ".join(" and ".join(quote_text(label, 30) for label in same) for same in twins[:3])
        what = f"labels of {where} differ only in case or white space: {pairs}"
        yield Finding("warning", what, (), "spell each label in one way", "spelling")
    if odd := [label for label in labels if label.strip() and fold_case(label.strip()) in DOUBTFUL_LABELS]:
        what = f"{labels[odd[0]]:,} rows of {where} have the label {quote_text(odd[0])}, which may be a missing value"
        yield Finding("warning", what, (), "remove these rows, or give the label another name", "missing")


def _count_if_few_labels(answers: Iterable[str]) -> Counter[str]:
    """Count each label. Empty if the answers are too few or too varied to be labels."""
    found = Counter(text for answer in answers if (text := answer.strip()))
    return (
        found if found.total() >= MIN_LABELLED_ROWS and len(found) <= min(MAX_LABELS, found.total() / 2) else Counter()
    )


def _count_trained_labels(rows: Sequence[TrainingRow]) -> Counter[str]:
    return _count_if_few_labels(
        row.answer for row in rows if not row.row.get(HELD_OUT) and not PREFERENCE_COLUMNS & row.row.keys()
    )


def _count_expected_labels(task: Task) -> Counter[str]:
    """Count how often each label is right in an evaluation.

    A label that is only a choice counts 0. Empty if the targets are not labels.
    """
    samples, about = task.samples or (), task.spec
    if task.brings_rows or about.use not in METRICS:
        return Counter()
    if about.use != "multiple_choice":
        return _count_if_few_labels(target for s in samples for target in s.targets[:1])
    given, gold = (about.options.get(name, name) for name in ("choices", "gold"))
    every: list[Any] = [given if isinstance(given, list) else s.row.get(given) for s in samples]
    if not all(isinstance(some, list) and {*some} == {*every[0]} for some in every):
        return Counter()
    said = [(str(s.row.get(gold, s.target)), some) for s, some in zip(samples, every, strict=True)]
    found = _count_if_few_labels(some[int(a)] if a.isdecimal() and a not in some else a for a, some in said)
    return Counter({**dict.fromkeys(every[0], 0), **found}) if found else found


def _describe_labels(labels: Counter[str]) -> str:
    """Write the commonest labels with their shares."""
    first = [f"{quote_text(label, 30)} {n / labels.total():.0%}" for label, n in labels.most_common(4)]
    return ", ".join(first) + (f" and {len(labels) - 4} more" if len(labels) > 4 else "")
