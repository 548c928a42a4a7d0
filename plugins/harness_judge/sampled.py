"""Which of a judge's rows people label: the first of a random order that a seed draws, and of the pairs judged here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness import digest_value
from harness_judge.calibration import Calibration, label_order_key
from harness_judge.prompts import prompt_as_text
from harness_judge.rows import JudgedRow, JudgeRow

HEX_DIGITS = 32  # hex digits of a pair's digest


def pair_digest(row: JudgeRow) -> str:
    """Return a digest that identifies a prompt and its answers. There is one answer, or a pair."""
    return digest_value([prompt_as_text(row.sample.input), row.answer, row.baseline])[:HEX_DIGITS]


def find_pairs_error(made: Calibration, judged: Sequence[JudgedRow], criterion: str) -> str | None:
    """Return why labels are no random sample of the judged pairs.

    Labels of a criterion may include answers of the other side.
    """
    pairs = {j.row.sample.id: pair_digest(j.row) for j in judged}
    told = [(row, digest) for row, name, digest in made.labelled if name == criterion]
    here = {row for row, digest in told if pairs.get(row) == digest}
    others = [row for row, digest in told if pairs.get(row) != digest]
    if others and (not criterion or not here):
        what = (
            f"{len(others)} of {len(told)} labels are for other pairs than those judged here, "
            f'for instance "{others[0]}"'
        )
        return f"{what}; label answers of this candidate and this baseline"
    return _find_random_order_error(made.seed, here, pairs)


def _find_random_order_error(seed: int, labelled: set[str], rows: Iterable[str]) -> str | None:
    """Return an error if labels skip rows of the random order."""
    order = sorted(rows, key=lambda row: label_order_key(seed, row))
    if left := [row for row in order[: len(labelled)] if row not in labelled]:
        come = f" and {len(left) - 1} more come" if len(left) > 1 else " comes"
        what = f'the labelled rows are not a random sample: with seed {seed}, "{left[0]}"{come} before some of them'
        return f"{what}; label these, in the order that harness view shows"
    return None
