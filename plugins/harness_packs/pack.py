"""A pack as one evaluation: what a base knows, does as it is told, and can reckon, which a narrow fine-tune forgets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from harness import Metric, Sample, Score, Subject, UsageError, evaluator
from harness_packs import rules
from harness_packs.store import Row, read_pack

Part = Literal["facts", "instructions", "arithmetic"]
PARTS: tuple[Part, ...] = ("facts", "instructions", "arithmetic")
PROBABILITY = "probability"  # the metric of facts that says how sure a model is of them
Mark = tuple[float, str, str | None, dict[str, float]]  # right, NaN where nothing can be said; answer; note; more
GENERATION_OPTIONS: dict[str, dict[str, Any]] = {
    "instructions": {"max_new_tokens": 48},
    "arithmetic": {"max_new_tokens": 6, "stop": ["\n"]},
}


def _make_pack_metrics(options: Mapping[str, Any]) -> list[Metric]:
    """Return the metrics of a pack and of its parts.

    They are shares of right rows, and the probability of the right choice for facts. Raises UsageError if there is no
    such pack.
    """
    parts = _require_distinct_parts(options.get("parts", PARTS))
    read_pack(options.get("pack", "general-v1"), options.get("digest", ""))
    names = ("acc", *parts, *([PROBABILITY] if "facts" in parts else []))
    return [Metric(name, "higher", "proportion") for name in names]


def _load_rows_of_parts(options: Mapping[str, Any], folder: Path) -> list[Row]:
    """Return the rows of the chosen parts. With `chat = false` their messages become text."""
    parts = _require_distinct_parts(options.get("parts", PARTS))
    rows = [row for row in read_pack(options.get("pack", "general-v1")) if row["part"] in parts]
    if options.get("chat", True):
        return rows
    for row in (row for row in rows if not isinstance(row["input"], str)):
        said = [f"{'Question' if m['role'] == 'user' else 'Answer'}: {m['content']}" for m in row["input"]]
        row["input"] = "\n\n".join([*said, "Answer:"])  # a dialogue, which ends where the answer begins
    return rows


@evaluator(
    metrics_for=_make_pack_metrics,
    rows_for=_load_rows_of_parts,
    counts=lambda metric, sample: ("facts" if metric == PROBABILITY else metric) in ("acc", sample.row["part"]),
)
def pack(
    subject: Subject,
    samples: Sequence[Sample],
    *,
    pack: str = "general-v1",
    parts: tuple[Part, ...] = PARTS,
    digest: str = "",
    chat: bool = True,
) -> Iterator[Score]:
    """Score the rows of a pack: `acc` over all of them, and a metric for each of its parts.

    "facts" are multiple choice by log-probability, as `multiple_choice` does it; `probability` is that of the right
    choice, were one of them true, which tells more of a row than right and wrong. "arithmetic" is right where the first
    line of the answer is the number; "instructions" where code sees that the answer keeps the instruction. A row has
    weight 0 in the metrics of other parts, so a gate on one is judged on its own rows. `parts` takes some of them;
    `digest` pins the rows; `chat = false` writes the instructions as text, for models without a chat template.
    """
    own = {part: [s for s in samples if s.row["part"] == part] for part in parts}
    sure = [PROBABILITY] if "facts" in parts else []
    for part, rows in own.items():
        elsewhere = dict.fromkeys([p for p in parts if p != part] + ([] if part == "facts" else sure), 0.0)
        each = _iterate_choice_marks(subject, rows) if part == "facts" else _iterate_answer_marks(subject, rows, part)
        for sample, (right, answer, note, more) in zip(rows, each if rows else (), strict=True):
            values = {"acc": right, part: right, **elsewhere, **more}
            yield Score(sample.id, values, answer=answer, note=note, weights=elsewhere)


def _iterate_choice_marks(subject: Subject, rows: Sequence[Sample]) -> Iterator[Mark]:
    """Yield whether the likeliest choice is right, and the right one's probability.

    Both are NaN if a log-probability is not finite.
    """
    scored = iter(subject.logprobs([(s.input, f" {choice}") for s in rows for choice in s.row["choices"]]))
    for sample in rows:
        choices = list(sample.row["choices"])
        totals = [next(scored).total for _ in choices]
        if not all(map(math.isfinite, totals)):
            yield math.nan, "", "a log-probability is not finite", {PROBABILITY: math.nan}
            continue
        most = max(totals)
        answer, right = choices[totals.index(most)], totals[choices.index(sample.target)]
        probability = math.exp(right - most) / math.fsum(math.exp(total - most) for total in totals)
        note = "uniform" if totals.count(most) > 1 else None
        yield float(answer == sample.target), answer, note, {PROBABILITY: probability}


def _iterate_answer_marks(subject: Subject, rows: Sequence[Sample], part: Part) -> Iterator[Mark]:
    """Yield whether an answer keeps its instruction, or is the number."""
    for sample, answer in zip(rows, subject.generate([s.input for s in rows], **GENERATION_OPTIONS[part]), strict=True):
        right = answer.strip() == sample.target
        if part == "instructions":
            right = rules.follows_rule(answer, sample.row["rule"], sample.row["arguments"])
        yield float(right), answer, None, {}


def _require_distinct_parts(parts: Sequence[str]) -> tuple[str, ...]:
    if not parts or len(set(parts)) < len(parts):
        raise UsageError(f"parts is {list(parts)}; give one or more of {', '.join(PARTS)}, each once")
    return tuple(parts)
