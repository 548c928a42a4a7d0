"""D17 and D18: the labels that are learnt, those that are asked for, and what one answer to all would score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness import HELD_OUT, Finding, Suite, Task, TrainingRow, checker, quote
from harness_checks.lint import JUDGED, numbers

MOST, FEWEST, ASKED = 50, 20, 0.9  # different labels, rows that have some, share of what is learnt that is asked for
METRICS = {"exact_match": ("exact_match",), "contains": ("contains",), "multiple_choice": ("acc", "acc_norm")}


@checker(title="unasked-answers")
def unasked(rows: list[TrainingRow], tasks: Mapping[str, Task]) -> Iterator[Finding]:
    """Labels that are learnt and that no evaluation asks for.

    Trained on the labels 0, 1 and 2 and evaluated on words, a model learns what is not measured. Labels are answers of
    which there are 50 different ones at most, each twice on average; what is asked for may be a part of one. An error
    where none is asked for, a warning below 90 %; silent where an evaluation of other data wants these answers.
    """
    learnt, labels = _learnt(rows), {name: found for name, task in tasks.items() if (found := _asked(task))}
    own = [t for t in tasks.values() if not t.brings_rows and t.spec.data not in {tasks[n].spec.data for n in labels}]
    every = [set(map(str.casefold, found)) for found in labels.values()]
    every += [{target.strip().casefold() for s in t.samples or () for target in s.targets} for t in own]
    hits = [{a for a in learnt if any(x and x in a.casefold() for x in some)} for some in every]
    asked = max(hits, key=lambda known: sum(learnt[a] for a in known), default=set())
    if learnt and labels and (share := sum(learnt[a] for a in asked) / learnt.total()) < ASKED:
        lost = [row for row in rows if (a := row.answer.strip()) in learnt and a not in asked]
        what = f"{len(lost):,} of {len(rows):,} training rows learn what no evaluation asks for: "
        what += _written(Counter(row.answer.strip() for row in lost))
        evidence = [f'"{name}" asks for {_written(found)}' for name, found in labels.items()]
        yield Finding("warning" if share else "error", what, evidence, "write labels alike in both", rows=numbers(lost))


@checker(title="labels")
def shares(rows: list[TrainingRow], tasks: Mapping[str, Task], suite: Suite) -> Iterator[Finding]:
    """The shares of labels in training and in evaluations.

    Rows that are sorted by their label and then cut have one label, and a model that always says it passes (-one).
    Where the commonest label is 56 % of the rows, so much does a constant answer score, and a gate with a lower `min`
    proves nothing (-constant). The shares themselves are a note.
    """
    learnt, labels = _learnt(rows), {name: found for name, task in tasks.items() if (found := _asked(task))}
    for where, found in (("the training", learnt), *((f'"{name}"', found) for name, found in labels.items())):
        if len(+found) == 1:
            what = f"all {found.total():,} rows of {where} have the label {_written(+found)}"
            yield Finding("warning", what, (), "are the rows sorted by label, and then cut? mix them first", "one")
    said = Counter(row.answer.strip() for row in rows if not row.row.get(HELD_OUT))
    for name, found in labels.items():
        top = found.most_common(1)[0][1] / found.total()
        ours = _written(Counter({label: said[label] for label in found if label in said})) or "none of these"
        yield Finding("note", f'"{name}": {_written(found)}; a constant answer scores {top:.2f}; in training {ours}')
        for gate in suite.gates:
            metric = gate.metric.removeprefix(f"{name}.")
            if metric in METRICS[tasks[name].spec.use] and gate.min is not None and gate.min < top < 1:
                what = f'gate "{gate.id}": {gate.metric} above {gate.min:g}, where a constant answer scores {top:.2f}'
                yield Finding("warning", what, (), "a higher min, or compare with the base (versus)", "constant")


def _labels(answers: Iterable[str]) -> Counter[str]:
    """Return how often each label stands there; nothing where the answers are none."""
    found = Counter(text for answer in answers if (text := answer.strip()))
    return found if found.total() >= FEWEST and len(found) <= min(MOST, found.total() / 2) else Counter()


def _learnt(rows: Sequence[TrainingRow]) -> Counter[str]:
    return _labels(row.answer for row in rows if not row.row.get(HELD_OUT) and not JUDGED & row.row.keys())


def _asked(task: Task) -> Counter[str]:
    """Return how often each label is right, 0 for one that is only chosen from; nothing where there are no labels."""
    samples, about = task.samples or (), task.spec
    if task.brings_rows or about.use not in METRICS:
        return Counter()
    if about.use != "multiple_choice":
        return _labels(target for s in samples for target in s.targets[:1])
    given, gold = (about.options.get(name, name) for name in ("choices", "gold"))
    every: list[Any] = [given if isinstance(given, list) else s.row.get(given) for s in samples]
    if not all(isinstance(some, list) and {*some} == {*every[0]} for some in every):
        return Counter()
    said = [(str(s.row.get(gold, s.target)), some) for s, some in zip(samples, every, strict=True)]
    found = _labels(some[int(a)] if a.isdecimal() and a not in some else a for a, some in said)
    return Counter({**dict.fromkeys(every[0], 0), **found}) if found else found


def _written(labels: Counter[str]) -> str:
    """Write the commonest labels with their shares."""
    first = [f"{quote(label, 30)} {n / labels.total():.0%}" for label, n in labels.most_common(4)]
    return ", ".join(first) + (f" and {len(labels) - 4} more" if len(labels) > 4 else "")
