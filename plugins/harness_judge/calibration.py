"""How far a judge agrees with people: their labels beside its verdicts, and when they no longer tell of it."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from harness import Labels, UsageError, write_text
from harness.internals import count_noun

FORMAT_VERSION = 2
ALPHA = 0.05  # the risk of each bound that is printed
MIN_LABELS = 2  # rows, and prompts among them
Share = tuple[float, float, float]  # an estimate, and its lower and upper bound


@dataclass(frozen=True)
class Calibration:
    """A judge's agreement with human labels; it expires with the judge.

    `judge` identifies the instrument: any change expires the calibration. `sensitivity` is the share of the answers
    preferred by people (criteria met according to people) that the judge confirms, `specificity` that of the others;
    NaN if there are none. `first` is the share of verdicts for the answer shown first, over all pairs and by human
    label. `sided` is whether the labels identify the candidate's and the baseline's answer. `pairs` hold (criterion,
    people, judge, prompt) of every label, as `Labels` do; `differ` holds (row, people, judge) of the disagreements.
    `labelled` holds (row, criterion, digest of the answers) of every label, with a verdict or without, and `seed` is
    that of the random order in which rows are labelled. `rows` are those of `pairs`, with the digest of the answers.
    """

    judge: dict[str, Any]
    labels: str  # digest
    n: int
    errors: int
    agreement: float
    kappa: float
    kappa_lower: float
    kappa_upper: float
    sensitivity: float
    specificity: float
    made: str  # UTC, ISO 8601
    first: dict[str, Share]
    sided: bool
    pairs: Sequence[tuple[str, float, float, int]]
    differ: Sequence[Sequence[str]] = ()
    labelled: Sequence[tuple[str, str, str]] = ()
    rows: Sequence[tuple[str, str]] = ()
    seed: int = 17

    def find_change(self, judge: dict[str, Any]) -> str:
        """Return the changes of the judge since the calibration."""
        return " and ".join(f"the {name} changed" for name in judge if judge[name] != self.judge.get(name))

    def agreement_labels(self) -> Labels:
        """Return all labels for kappa. A judge's verdict is rounded to one side, or to a tie of a pair."""
        verdicts = [0.5 if said == 0.5 and not name else float(said > 0.5) for name, _, said, _ in self.pairs]
        _, truth, _, prompts = zip(*self.pairs, strict=True)
        return Labels("kappa", truth, tuple(verdicts), prompts)

    def labels_of(self, metric: str, criterion: str = "", here: Collection[tuple[str, str]] | None = None) -> Labels:
        """Return the labels that tell of one metric: all, or those of the rows and answers that are `here`."""
        every = zip(self.pairs, self.rows, strict=True)
        chosen = [
            (*rest, row[0]) for (name, *rest), row in every if name == criterion and (here is None or row in here)
        ]
        truth, said, prompts, rows = zip(*chosen, strict=True) if chosen else ((), (), (), ())
        return Labels(metric, truth, said, prompts, rows)


def label_order_key(seed: int, row: str) -> bytes:
    """Return a row's sort key in the random labelling order."""
    return sha256(json.dumps([seed, row]).encode()).digest()


def find_too_few_labels(labels: Labels) -> str:
    """Return an error if fewer than `MIN_LABELS` rows have a label."""
    count = len(labels.rows)
    few = f"only {count_noun(count, 'row')} of these {'is' if count == 1 else 'are'} labelled"
    return f"{few}; label at least {MIN_LABELS}" if count < MIN_LABELS else ""


def estimate_share(values: Sequence[float], clusters: Sequence[Any]) -> Share:
    """Return the mean of values from 0 to 1, with bounds.

    Each bound is one-sided, at ALPHA; clusters are accounted for.
    """
    from harness.internals import cluster_t

    test = cluster_t(values, [1.0] * len(values), clusters, 0.5, ALPHA, support=(0.0, 1.0))
    return test.estimate, test.lower, test.upper


def write_calibration(path: Path, found: Calibration) -> None:
    """Write a calibration beside its labels. NaN becomes null."""
    plain = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(found).items()}
    pairs = plain.pop("pairs")
    text = json.dumps({"format": FORMAT_VERSION, **plain}, indent=1, ensure_ascii=False).removesuffix("\n}")
    write_text(path, f'{text},\n "pairs": {json.dumps(pairs, ensure_ascii=False)}\n}}\n')


def read_calibration(path: Path) -> Calibration:
    """Read a calibration. Raises UsageError when there is none."""
    try:
        data = json.loads(path.read_text("utf-8"))
        if data.pop("format") != FORMAT_VERSION:
            raise ValueError("it was written by another version of the harness")
        values: dict[str, Any] = {k: math.nan if v is None else v for k, v in data.items()}
        values["pairs"] = [(str(c), float(h), float(j), int(p)) for c, h, j, p in values["pairs"]]
        values["labelled"] = [(str(row), str(name), str(digest)) for row, name, digest in values["labelled"]]
        values["rows"] = [(str(row), str(digest)) for row, digest in values["rows"]]
        if len(values["rows"]) != len(values["pairs"]):
            raise ValueError("it does not record which row each label belongs to")
        if not values["pairs"]:
            raise ValueError("it has no labels")
        return Calibration(**values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        told = str(error) if str(error).startswith("it ") else "it is not a calibration"
        why = error.strerror if isinstance(error, OSError) else told
        raise UsageError(
            f'calibration "{path}": cannot be read: {why}; write it again with harness judge calibrate'
        ) from None
