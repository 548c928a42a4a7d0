"""The meaning of scales. No other module compares a scale's name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from harness.texts.numbers import typographic_minus

Scale = Literal["proportion", "mean", "perplexity", "count", "agreement", "other"]
"""How the rows of a metric combine, and so which test a gate on it uses."""


class Scaled:
    """Base class of everything with a scale. The scale is None if it is unknown."""

    scale: str | None

    @property
    def is_share(self) -> bool:
        """Whether its rows are from 0 to 1."""
        return self.scale == "proportion"

    @property
    def is_log(self) -> bool:
        """Whether it is tested as its logarithm: rows hold nats per token, and its differences are shares."""
        return self.scale == "perplexity"

    @property
    def is_count(self) -> bool:
        """Whether it is one exact number over all rows, without risk."""
        return self.scale == "count"

    @property
    def is_agreement(self) -> bool:
        """Whether it is of labels, and of no row."""
        return self.scale == "agreement"

    @property
    def is_of_rows(self) -> bool:
        """Whether each row has a value of its own."""
        return self.scale in ("proportion", "mean", "perplexity")

    @property
    def is_mean(self) -> bool:
        """Whether it is the mean of its rows as they stand."""
        return self.scale in ("proportion", "mean")

    def to_test_scale(self, x: float) -> float:
        """Return a value where it is tested."""
        return math.log(x) if self.is_log else x

    def from_test_scale(self, x: float, *, change: bool = False) -> float:
        """Convert a test-scale number to a value.

        With `change` it is a difference, and becomes a change of a value.
        """
        return (math.expm1(x) if change else math.exp(x)) if self.is_log else x

    def format_test_change(self, change: float) -> str:
        """Write a difference of two where they are tested."""
        return self.format_change(self.from_test_scale(change, change=True))

    def format_change(self, x: float) -> str:
        """Write a difference, of a perplexity a share."""
        if self.is_log:
            return typographic_minus(f"{x:+.1%}")
        if not self.is_share and math.isfinite(x) and (abs(x) >= 100 or 0 < abs(x) < 1e-3):
            return typographic_minus(f"{x:+,.0f}" if abs(x) >= 100 else f"{x:+.2g}")
        return typographic_minus(f"{x:+.3f}")


@dataclass(frozen=True)
class OnScale(Scaled):
    """A scale by its name alone."""

    scale: str | None


def find_range_error(scale: str | None, range: Sequence[float], *, combines: bool) -> str | None:
    """Explain why a metric's rows cannot have a declared range. None if they can."""
    if combines or scale not in ("mean", "perplexity"):
        made = "computed from all rows at once" if combines else f"a {scale}"
        return f'limits the mean of rows, but the metric is {made}; remove "range"'
    if len(range) != 2 or not range[0] < range[1]:
        return f"is {', '.join(f'{x:g}' for x in range)}; give two numbers, the lower one first"
    return None


def check_scale(name: str, scale: str, *, combines: bool) -> None:
    """Raise ValueError for an unknown or unsuitable scale.

    Scale "other" needs a metric that `combine` computes from all rows.
    """
    if scale not in get_args(Scale):
        raise ValueError(f'metric "{name}": scale is "{scale}"; it must be one of {", ".join(get_args(Scale))}')
    if scale == "other" and not combines:
        raise ValueError(f'metric "{name}": a metric of scale "other" needs combine, which computes it from all rows')
