"""Options of judge and loader, and the budget of a judge.

Options are checked before anything is loaded. The maximum cost of each call is reserved before it, and settled at the
actual cost.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import product
from typing import Any, Literal

from harness import UsageError, did_you_mean
from harness.internals import schema

HOMES = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com"}
KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
AUTO = ("anthropic", "openai", "local")  # in this order, the first that can be reached
FAMILIES = {  # what a model's name says of who made it
    "claude": "claude", "gpt": "gpt", "chatgpt": "gpt", "o1": "gpt", "o3": "gpt", "o4": "gpt", "gemini": "gemini",
    "gemma": "gemini", "llama": "llama", "qwen": "qwen", "qwq": "qwen", "mistral": "mistral", "mixtral": "mistral",
    "ministral": "mistral", "codestral": "mistral", "phi": "phi", "smollm": "smollm", "deepseek": "deepseek",
    "command": "cohere", "aya": "cohere", "granite": "granite", "olmo": "olmo", "falcon": "falcon", "grok": "grok",
    "kimi": "kimi", "glm": "glm", "nemotron": "nemotron", "tulu": "olmo", "yi": "yi", "internlm": "internlm",
}  # fmt: skip


@dataclass(frozen=True)
class Prices:
    """US dollars for a million tokens in and out."""

    tokens_in: Decimal = Decimal(0)
    tokens_out: Decimal = Decimal(0)

    @property
    def are_known(self) -> bool:
        return bool(self.tokens_in or self.tokens_out)

    def cost_usd(self, tokens_in: int, tokens_out: int) -> Decimal:
        """Return the exact cost of these tokens, in US dollars."""
        return (self.tokens_in * tokens_in + self.tokens_out * tokens_out) / 1_000_000


class Budget:
    """Caps on calls, tokens and dollars, and the amounts used.

    None is no cap. A call counts when it is sent, regardless of its outcome. A call of unknown cost, such as a timeout,
    remains at its maximum cost.
    """

    def __init__(self, prices: Prices, caps: Mapping[str, int | Decimal | None]) -> None:
        self.prices, self._caps = prices, caps
        self.calls, self.tokens, self.usd = 0, 0, Decimal(0)
        self.reached = ""  # the cap that refused the last reservation

    def reserve(self, most: tuple[int, int]) -> bool:
        """Reserve the maximum cost of a call, unless it exceeds a cap.

        `most` are its maximum tokens in and out. Returns whether the cost was reserved.
        """
        calls, tokens, usd = self.calls + 1, self.tokens + sum(most), self.usd + self.prices.cost_usd(*most)
        would: tuple[int | Decimal, ...] = (calls, tokens, usd)
        for (name, cap), used in zip(self._caps.items(), would, strict=True):
            if cap is not None and used > cap:
                self.reached = f"{name} = {cap}"
                return False
        self.calls, self.tokens, self.usd, self.reached = calls, tokens, usd, ""
        return True

    def settle(self, most: tuple[int, int], tokens_in: int, tokens_out: int) -> None:
        """Replace the reserved cost of a call by its actual cost."""
        self.tokens += tokens_in + tokens_out - sum(most)
        self.usd += self.prices.cost_usd(tokens_in, tokens_out) - self.prices.cost_usd(*most)


@dataclass(frozen=True)
class Anthropic:
    """The options of the loader "anthropic"."""

    base_url: str = ""
    api_key_env: str = ""
    concurrency: int = 8
    timeout: float = 60.0
    retries: int = 5
    version: str = ""
    body: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class JudgeOptions:
    """The options of `judge`; their meanings are told there."""

    model: str | Mapping[str, str]
    mode: Literal["pairwise", "rubric"] = "pairwise"
    backend: Literal["auto", "openai", "anthropic", "local"] = "auto"
    base_url: str = ""
    api_key_env: str = ""
    guideline: str = "Prefer the answer that is right, does what is asked, and nothing else."
    criteria: Mapping[str, str] | None = None
    reference: bool = True
    k: int = 1
    body: Mapping[str, Any] | None = None
    verdict_tokens: int = 512
    answer_chars: int = 8000
    concurrency: int = 8
    retries: int = 5
    timeout: float = 60.0
    max_calls: int | None = None
    max_tokens: int | None = None
    max_usd: float | None = None
    prices: Mapping[str, list[float]] | None = None
    adversaries: int = 2
    allow_same_family: bool = False
    calibration: str = ""
    trust_judge: bool = False
    local: Mapping[str, Any] | None = None
    max_new_tokens: int = 256
    thought: tuple[str, ...] = ()
    chosen: tuple[str, str] = field(init=False, default=("", ""))

    def __post_init__(self) -> None:
        wrong = list[str]()
        for name, least in MIN_OPTION_VALUES.items():
            if (value := getattr(self, name)) is not None and value < least:
                wrong.append(f"{name} is {value}; it must be {least} or more")
        for name in ("timeout", "max_usd"):
            if (value := getattr(self, name)) is not None and not value > 0:
                wrong.append(f"{name} is {value:g}; it must be more than 0")
        if self.mode == "rubric" and not self.criteria:
            wrong.append('mode "rubric" needs criteria = { NAME = "what must hold" }')
        if self.mode == "pairwise" and self.criteria:
            wrong.append('criteria need mode = "rubric"; for pairs write guideline = "…"')
        for name in self.criteria or ():
            if not re.fullmatch(r"[A-Za-z]\w*", name) or name in RESERVED:
                wrong.append(f'criterion "{name}" cannot be the name of a metric; use only letters, digits and _')
        if wrong:
            raise UsageError(*wrong)
        object.__setattr__(self, "chosen", self._choose_backend_and_model())
        local = self.backend_name == "local"
        if local and self.k > 1:
            wrong.append(f"k is {self.k}, but a local judge always gives the same verdict; remove it")
        if self.local and self.backend in ("openai", "anthropic"):
            wrong.append(f'local has options of a local judge, but backend is "{self.backend}"; remove it')
        if self.max_usd is not None and not local and self.model_name not in (self.prices or {}):
            want = f'prices = {{ "{self.model_name}" = [IN, OUT] }} in dollars per million tokens'
            wrong.append(f"max_usd needs {want}")
        for model, pair in (self.prices or {}).items():
            if len(pair) != 2 or min(pair) < 0:
                wrong.append(
                    f'price of "{model}" is {schema.format_toml(pair)}; give [IN, OUT] in dollars per million tokens'
                )
        if wrong:
            raise UsageError(*wrong)

    @property
    def backend_name(self) -> str:
        return self.chosen[0]

    @property
    def model_name(self) -> str:
        return self.chosen[1]

    def model_prices(self) -> Prices:
        """Return the prices of the chosen model, zero if undeclared."""
        found = (self.prices or {}).get(self.model_name)
        return Prices(*(Decimal(str(p)) for p in found)) if found else Prices()

    def budget(self) -> Budget:
        """Return the caps, with nothing used of them."""
        usd = None if self.max_usd is None else Decimal(str(self.max_usd))
        return Budget(self.model_prices(), {"max_calls": self.max_calls, "max_tokens": self.max_tokens, "max_usd": usd})

    def check_family(self, judged: str) -> None:
        """Raise UsageError if judge and judged model share a family. Models prefer their own family."""
        if (ours := model_family(self.model_name)) and ours == model_family(judged) and not self.allow_same_family:
            both = (
                f'"{self.model_name}" and "{judged}" are both of the family "{ours}", and models '
                "prefer their own family"
            )
            raise UsageError(f"{both}; use another judge, or set allow_same_family = true")

    def _choose_backend_and_model(self) -> tuple[str, str]:
        """Return the backend and its model.

        "auto" takes the first backend with a key in the environment, else the local one. Raises UsageError if there is
        none.
        """
        named = self.model if isinstance(self.model, Mapping) else {}
        for name in named:
            if name not in AUTO:
                raise UsageError(f'model has "{name}", which is not a backend{did_you_mean(name, AUTO)}')
        if self.backend != "auto":
            model = named.get(self.backend, "") if isinstance(self.model, Mapping) else self.model
            if not model:
                raise UsageError(f'model names none for backend "{self.backend}"; add one')
            return self.backend, model
        if not named:
            raise UsageError(
                'backend "auto" needs a model for each backend, for instance model = { openai = "…", local = "…" }'
            )
        for name in AUTO:
            if name in named and (name == "local" or os.environ.get(KEYS[name], "").strip()):
                return name, named[name]
        wanted = " or ".join(KEYS[name] for name in named if name in KEYS)
        raise UsageError(f'backend "auto" found no API key; set {wanted}, or name a local model')


MIN_OPTION_VALUES = {
    "k": 1, "verdict_tokens": 16, "answer_chars": 100, "concurrency": 1, "retries": 0, "adversaries": 0,
    "max_calls": 1, "max_tokens": 1,
}  # fmt: skip
RESERVED = frozenset({"rubric", "error_rate", "injection_suspect", "tokens", "usd", "kappa", "longer_by"})


def model_family(model: str) -> str:
    """Return the family that a model's name implies, or "" if unknown."""
    name = model.lower().rsplit("==")[0] if model.startswith("pypi:") else model.lower()
    words = re.findall(r"[a-z]+\d?", name.replace("\\", "/").rsplit("/", 1)[-1])
    for word, known in product(words, sorted(FAMILIES, key=len, reverse=True)):
        if word == known or (len(known) > 3 and word.startswith(known)) or word.rstrip("0123456789") == known:
            return FAMILIES[known]
    return ""
