"""How far a judge agrees with people: Cohen's kappa with its lower bound, and when it no longer holds."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from harness.errors import UsageError
from harness.paths import write_text

FORMAT = 1
ALPHA = 0.05  # the risk of the lower bound
FEW = 5  # disagreements below which a normal approximation says nothing


@dataclass(frozen=True)
class Calibration:
    """A judge held against human labels; `judge` names the instrument, and another instrument expires it.

    `sensitivity` is the share of the answers people preferred (criteria they saw met) that the judge does too,
    `specificity` that of the others; NaN where there are none. `differ` holds (row, people, judge) where they do not
    agree.
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
    differ: Sequence[Sequence[str]] = ()

    def expired(self, judge: dict[str, Any]) -> str:
        """Say what changed since, or nothing."""
        changed = [name for name in judge if judge[name] != self.judge.get(name)]
        return " and ".join(f"the {name} changed" for name in changed)


def kappa(ours: Sequence[str], theirs: Sequence[str], alpha: float = ALPHA) -> tuple[float, float, float]:
    """Return Cohen's kappa and its lower and upper bound, one-sided at alpha each.

    The large-sample standard error of Fleiss, Cohen and Everitt 1969, Psychological Bulletin 72:323, eq. 9. It is zero
    where all agree, however few there are: below FEW disagreements the lower bound is at most the kappa of the exact
    (Clopper and Pearson) lower bound of the agreement, with chance agreement as observed. NaN where both say one thing.
    """
    from scipy.stats import beta

    n, kinds = len(ours), sorted({*ours, *theirs})
    pairs = list(zip(ours, theirs, strict=True))
    joint = {(a, b): pairs.count((a, b)) / n for a in kinds for b in kinds}
    row = {a: sum(joint[a, b] for b in kinds) for a in kinds}
    column = {b: sum(joint[a, b] for a in kinds) for b in kinds}
    observed, chance = sum(joint[c, c] for c in kinds), sum(row[c] * column[c] for c in kinds)
    if chance >= 1:
        return math.nan, math.nan, math.nan
    value = (observed - chance) / (1 - chance)
    own = sum(joint[c, c] * ((1 - chance) - (row[c] + column[c]) * (1 - observed)) ** 2 for c in kinds)
    others = sum(joint[a, b] * (column[a] + row[b]) ** 2 for a in kinds for b in kinds if a != b)
    spread = own + (1 - observed) ** 2 * others - (observed * chance - 2 * chance + observed) ** 2
    reach = NormalDist().inv_cdf(1 - alpha) * math.sqrt(max(spread, 0.0) / n) / (1 - chance) ** 2
    agreed = round(observed * n)
    lower, upper = value - reach, min(value + reach, 1.0)
    if n - agreed < FEW:
        exact = float(beta.ppf(alpha, agreed, n - agreed + 1)) if agreed else 0.0
        lower = min(lower, (exact - chance) / (1 - chance))
    return value, lower, upper


def rates(human: Sequence[str], judge: Sequence[str], positive: str, negative: str) -> tuple[float, float]:
    """Return sensitivity and specificity: shares of what people called positive or negative that the judge does too."""
    pairs = list(zip(human, judge, strict=True))

    def share(kind: str) -> float:
        of = [j for h, j in pairs if h == kind]
        return sum(j == kind for j in of) / len(of) if of else math.nan

    return share(positive), share(negative)


def write(path: Path, found: Calibration) -> None:
    """Write a calibration beside its labels; what is not a number becomes null."""
    plain = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(found).items()}
    write_text(path, json.dumps({"format": FORMAT, **plain}, indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> Calibration:
    """Read a calibration. Raises UsageError when there is none."""
    try:
        data = json.loads(path.read_text("utf-8"))
        if data.pop("format") != FORMAT:
            raise ValueError("another format")
        values: dict[str, Any] = {k: math.nan if v is None else v for k, v in data.items()}
        return Calibration(**values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is none"
        raise UsageError(f'calibration "{path}": cannot be read: {why}; make it with harness judge calibrate') from None
