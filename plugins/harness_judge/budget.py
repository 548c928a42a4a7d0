"""What a judge may cost: reserved before each call at the most it can be, settled at what it was."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

MILLION = Decimal(1_000_000)


@dataclass(frozen=True)
class Prices:
    """US dollars for a million tokens in and out."""

    tokens_in: Decimal = Decimal(0)
    tokens_out: Decimal = Decimal(0)

    @property
    def known(self) -> bool:
        return bool(self.tokens_in or self.tokens_out)

    def usd(self, tokens_in: int, tokens_out: int) -> Decimal:
        """Return what these tokens cost; exact."""
        return (self.tokens_in * tokens_in + self.tokens_out * tokens_out) / MILLION


@dataclass(frozen=True)
class Reserved:
    """The most that one call can use."""

    tokens_in: int
    tokens_out: int


class Budget:
    """Caps on calls, tokens and dollars, and what was used of them; None is no cap.

    A call counts when it is sent, whatever becomes of it. One whose cost is unknown, such as a timeout, stays at the
    most it can have cost.
    """

    def __init__(
        self, prices: Prices, *, calls: int | None = None, tokens: int | None = None, usd: Decimal | None = None
    ) -> None:
        self.prices = prices
        self._caps: dict[str, int | Decimal | None] = {"max_calls": calls, "max_tokens": tokens, "max_usd": usd}
        self.calls = self.tokens = 0
        self.usd = Decimal(0)
        self.reached = ""  # the cap that refused the last reservation

    def reserve(self, most: Reserved) -> bool:
        """Take what a call can cost at most out of the budget, if it is there."""
        tokens = most.tokens_in + most.tokens_out
        usd = self.prices.usd(most.tokens_in, most.tokens_out)
        would: dict[str, int | Decimal] = {
            "max_calls": self.calls + 1,
            "max_tokens": self.tokens + tokens,
            "max_usd": self.usd + usd,
        }
        for name, cap in self._caps.items():
            if cap is not None and would[name] > cap:
                self.reached = f"{name} = {cap}"
                return False
        self.calls, self.tokens, self.usd, self.reached = self.calls + 1, self.tokens + tokens, self.usd + usd, ""
        return True

    def settle(self, most: Reserved, tokens_in: int, tokens_out: int) -> None:
        """Put back what a call did not use."""
        self.tokens += tokens_in + tokens_out - most.tokens_in - most.tokens_out
        self.usd += self.prices.usd(tokens_in, tokens_out) - self.prices.usd(most.tokens_in, most.tokens_out)
