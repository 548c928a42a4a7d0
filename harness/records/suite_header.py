"""The table `[suite]`, which a lock holds too, and the names of a recipe's models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.stats.multiple_testing import attempt_alpha


@dataclass(frozen=True)
class SuiteTable:
    """`[suite]`: `seed` of everything random, `alpha` the chance that a model which breaks a claim passes.

    `attempts` says whether repeated attempts are only counted, or each is tested at its share of alpha.
    """

    name: str
    seed: int = 17
    alpha: float = 0.05
    description: str = ""
    attempts: Literal["count", "spend"] = "count"

    def risk(self, attempt: int, alpha: float | None = None) -> float:
        """Return the risk of an attempt: `alpha`, by default the suite's, or its share where that is spent."""
        alpha = alpha or self.alpha
        return attempt_alpha(alpha, attempt) if attempt and self.attempts == "spend" else alpha


def name_of_run(candidate: str, seed: int) -> str:
    """Return the name of a recipe's candidate for a further seed."""
    return f"{candidate}-seed-{seed}"
