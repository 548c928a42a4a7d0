"""P1 to P8: answers that somebody judged, and what a model learnt of them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness import HELD_OUT, Finding, ModelRef, TrainingRow, checker, quote_text
from harness.internals import Suite, fold_case, prompt_text
from harness_checks.lint import count_of_total, name_row
from harness_checks.trained import read_training_note

MAX_START_DEVIATION = 0.01  # of a first reward or loss: what rounding makes is far below
MAX_PAIR_SHARE = 0.05  # of the pairs
LONGER_SHARE, MIN_PAIRS = 0.8, 10
BATCH, BATCHES = 4, 4  # rows of a batch and batches of a step, where a recipe with labels does not say
MAX_WEIGHT_RATIO = 3  # of the weights of both labels
# share of steps of one label above that of a random order, and how likely a random order has as many
ONE_LABEL_EXCESS, MAX_CHANCE = 0.25, 1e-4


@checker(title="reference-mismatch")
def wrong_reference(adapter: ModelRef) -> Iterator[Finding]:
    """A reference that is not the model before training.

    DPO and KTO compare the model in training with what it was: at the first step both are one, so that no answer has a
    reward and DPO's loss is ln 2. Where it is not, the reference is another base, another precision, or a base that
    the adapter changed (PiSSA), and the model is held to what it never was. `dpo` and `kto` look at the first step.
    """
    facts = read_training_note(adapter).get("facts", {})
    if (reward := facts.get("first_reward", 0.0)) is None or not reward <= MAX_START_DEVIATION:
        loss = facts.get("first_loss")
        what = (
            f"the first loss was {loss}, the first reward {reward}; for DPO they must be ln 2 = {math.log(2):.4f} and 0"
        )
        yield Finding("error", what, (), "train again with the base itself as reference")


@checker(title="identical-answers")
def same_answers(rows: Sequence[TrainingRow]) -> Iterator[Finding]:
    """Pairs with equal chosen and rejected answers.

    Their loss is ln 2 for any model, so they teach nothing, and they hide in a mean. If the two differ only in case and
    punctuation (-case), they teach form and not content.
    """
    if same := [
        row for row in _iterate_preference_rows(rows) if row.answer.split() == _extract_rejected_text(row).split()
    ]:
        what = f"{count_of_total(len(same), len(rows))}: chosen and rejected are equal"
        yield Finding(
            "error", what, [f"{name_row(row, rows)}: {quote_text(row.answer, 60)}" for row in same], "remove them"
        )
    pairs = [row for row in _iterate_preference_rows(rows) if row not in same]
    alike = [
        row
        for row in pairs
        if (letters := _keep_folded_letters_and_digits(row.answer))
        and letters == _keep_folded_letters_and_digits(_extract_rejected_text(row))
    ]
    if len(alike) > MAX_PAIR_SHARE * len(pairs):
        what = f"{count_of_total(len(alike), len(pairs))}: chosen and rejected differ only in case and punctuation"
        lines = [
            f"{name_row(row, rows)}: {quote_text(row.answer, 40)} and {quote_text(_extract_rejected_text(row), 40)}"
            for row in alike
        ]
        yield Finding("warning", what, lines, "remove them, unless this is what the pairs should teach", "case")


@checker(title="length-bias")
def longer_is_better(rows: Sequence[TrainingRow]) -> Iterator[Finding]:
    """Chosen answers that are nearly always longer, or nearly always shorter.

    What is common to all pairs is learnt first: where more than 80 % of the chosen answers are longer, that is to write
    more (arXiv:2403.19159), and where they are shorter, to write less (-shorter). An evaluation that only sees length
    cannot tell that from a better answer.
    """
    pairs = list(_iterate_preference_rows(rows))
    sizes = [(len(row.answer.strip()), len(_extract_rejected_text(row).strip())) for row in pairs]
    for kind, count in (("", sum(a > b for a, b in sizes)), ("shorter", sum(a < b for a, b in sizes))):
        if len(pairs) >= MIN_PAIRS and count > LONGER_SHARE * len(pairs):
            what = f"{count_of_total(count, len(pairs))} ({count / len(pairs):.0%}): the chosen answer is the "
            fix = 'balance them, or set loss_type = "sigmoid_norm", which uses the mean per token'
            yield Finding("warning", f"{what}{kind or 'longer'} one", (), fix, kind)


@checker(title="different-prompts")
def other_questions(rows: Sequence[TrainingRow]) -> Iterator[Finding]:
    """Pairs with answers to different questions.

    Two conversations that differ before the answer are no pair: the model would learn which question is likelier.
    """
    odd = []
    for row in _iterate_preference_rows(rows):
        answers = [a for a in (row.row["chosen"], row.row["rejected"]) if isinstance(a, list) and a]
        firsts = [a[0] for a in answers if isinstance(a[0], Mapping)]  # of messages that should answer
        odd += [row] if any(first.get("role", "assistant") != "assistant" for first in firsts) else []
    if odd:
        evidence = [
            f"{name_row(row, rows)}: {quote_text(row.prompt, 40)} and {quote_text(_extract_rejected_text(row), 40)}"
            for row in odd
        ]
        what = f"{count_of_total(len(odd), len(rows))}: chosen and rejected answer different prompts"
        yield Finding("error", what, evidence, "pair answers to the same messages")


@checker(title="no-preference-learned")
def learnt_nothing(adapter: ModelRef) -> Iterator[Finding]:
    """A model that prefers chosen answers no more than its reference.

    The margin is the mean reward of chosen answers minus that of rejected ones, over the last steps. At zero, nothing
    was learnt from the pairs: too few steps, a learning rate that is too low, or labels that contradict each other.
    """
    if (margin := read_training_note(adapter).get("facts", {}).get("reward_margin")) is not None and margin <= 0:
        what = f"the reward margin of the last steps is {margin:.3g}: chosen answers are no more likely than before"
        yield Finding("warning", what, (), "train longer, or raise learning_rate; check the labels")


@checker(title="sorted-labels")
def sorted_labels(rows: Sequence[TrainingRow], suite: Suite) -> Iterator[Finding]:
    """Labelled answers that are sorted by label.

    KTO goes through its rows in their order, for it estimates the divergence from the reference among the answers of a
    batch. Where wanted answers come first and the others afterwards, a step makes all answers likelier and a later one
    all of them less likely, and the model learns which half of the file it is in. Steps with one label only are
    counted, and compared with those of a random order.
    """
    labels = [bool(row.row["label"]) for row in rows if "label" in row.row and not row.row.get(HELD_OUT)]
    given: dict[str, Any] = dict(suite.train.options) if suite.train else {}
    if not labels or given.get("train_sampling_strategy", "sequential") != "sequential":
        return
    size = given.get("per_device_train_batch_size", BATCH) * given.get("gradient_accumulation_steps", BATCHES)
    steps = [labels[i : i + size] for i in range(0, len(labels), size)]
    wanted, alone = sum(labels) / len(labels), sum(len({*step}) == 1 for step in steps)
    expected = sum(wanted ** len(step) + (1 - wanted) ** len(step) for step in steps)
    if alone - expected <= ONE_LABEL_EXCESS * len(steps):
        return
    # what so many are at most likely by, where so many are expected (Chernoff's bound)
    if math.exp(alone - expected + alone * math.log(max(expected, 1e-300) / alone)) < MAX_CHANCE:
        what = f"{alone} of {len(steps)} steps have only one label; in random order it would be {expected:.1f}"
        yield Finding("warning", what, (), "shuffle the rows once, or alternate wanted and unwanted answers")


@checker(title="trivial-rejected-answers")
def trivial_rejections(rows: Sequence[TrainingRow]) -> Iterator[Finding]:
    """Rejected answers that a model need not understand to avoid.

    Where more than 80 % of the rejected answers, or of those that a label calls unwanted, are one text (-constant), the
    pairs teach to avoid that text. Where 5 % of them only repeat the question (-echo), they teach not to repeat it. In
    both cases the loss falls, and nothing is learnt of what makes an answer better.
    """
    unwanted = [
        (row, _keep_folded_letters_and_digits(text))
        for row in rows
        if not row.row.get(HELD_OUT) and (text := _select_unwanted_answer(row))
    ]
    unwanted = [(row, letters) for row, letters in unwanted if letters]
    if len(unwanted) < MIN_PAIRS:
        return
    fix = "use wrong answers that the model itself gives"
    [(commonest, times)] = Counter(letters for _, letters in unwanted).most_common(1)
    if times > LONGER_SHARE * len(unwanted):
        example = quote_text(
            next(_select_unwanted_answer(row) for row, letters in unwanted if letters == commonest), 60
        )
        what = f"{count_of_total(times, len(unwanted))}: the rejected answer is {example}"
        yield Finding("warning", what, (), fix, "constant")
    echoes = [
        row for row, letters in unwanted if letters == _keep_folded_letters_and_digits(_select_last_prompt_message(row))
    ]
    if len(echoes) > MAX_PAIR_SHARE * len(unwanted):
        what = f"{count_of_total(len(echoes), len(unwanted))}: the rejected answer only repeats the question"
        lines = [f"{name_row(row, rows)}: {quote_text(_select_unwanted_answer(row), 60)}" for row in echoes]
        yield Finding("warning", what, lines, fix, "echo")


@checker(title="unbalanced-labels")
def unbalanced_labels(rows: Sequence[TrainingRow], suite: Suite) -> Iterator[Finding]:
    """Labelled answers that nearly all have one label.

    KTO weights the labels by `desirable_weight` and `undesirable_weight`; TRL recommends that number times weight
    differ by a third at most. Above 3 to 1 the rarer label hardly counts: with wanted answers alone it is fine-tuning
    on them.
    """
    labels = [bool(row.row["label"]) for row in rows if "label" in row.row and not row.row.get(HELD_OUT)]
    given: dict[str, Any] = dict(suite.train.options) if suite.train else {}
    counts = {"desirable_weight": sum(labels), "undesirable_weight": len(labels) - sum(labels)}
    weighed = {name: count * given.get(name, 1.0) for name, count in counts.items()}
    if len(labels) < MIN_PAIRS or not all(weighed.values()):  # the trainer refuses labels of one kind
        return
    less, more = sorted(weighed, key=weighed.__getitem__)
    if weighed[more] > MAX_WEIGHT_RATIO * weighed[less]:
        what = f"{counts['desirable_weight']} wanted answers and {counts['undesirable_weight']} unwanted ones"
        what += f" weigh {weighed[more] / weighed[less]:.3g} to 1"
        fix = f"set {less} = {weighed[more] / counts[less]:.3g}, or add rows of the rarer label"
        yield Finding("warning", what, (), fix)


def _select_unwanted_answer(row: TrainingRow) -> str:
    """Return the answer of a row that should not be given: of a pair, or one that is labelled so; or an empty text."""
    if "rejected" in row.row and "chosen" in row.row:
        return _extract_rejected_text(row)
    return row.answer if "label" in row.row and not row.row["label"] else ""


def _select_last_prompt_message(row: TrainingRow) -> str:
    prompt = row.row.get("prompt", "")
    return prompt_text(prompt[-1:]) if isinstance(prompt, list) else row.prompt


def _keep_folded_letters_and_digits(text: str) -> str:
    """Return the letters and digits of a text, without case."""
    return re.sub(r"[\W_]", "", fold_case(unicodedata.normalize("NFC", text)))


def _iterate_preference_rows(rows: Sequence[TrainingRow]) -> Iterator[TrainingRow]:
    return (row for row in rows if "chosen" in row.row and "rejected" in row.row)


def _extract_rejected_text(row: TrainingRow) -> str:
    return prompt_text(row.row["rejected"])
