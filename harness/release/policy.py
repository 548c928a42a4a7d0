"""What a deployer demands of an export: a TOML file that is his own, with the keys he trusts.

threshold = 1                 # signatures, each by another key
suites = ["support"]          # names or digests of suites
gates = ["floor"]             # must have passed, a waiver will not do; those of the suite must anyway
stages = ["merged"]           # kinds of candidates
max_age_days = 30
max_attempts = 3
ledger = "known"              # of attempts: goes on from that of the last release; "first" may begin with the first
recomputed = 1.0              # share of blocking gates to be computed again from the rows in the evidence
remembered = false            # whether an answer that a verdict rests on may come from an earlier run
waivers = false               # whether a waived gate may stand for one that passed

[[key]]
name = "release"
keyid = "…"
public = "…"                  # ed25519, 64 hex digits
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness import schema
from harness.errors import Mistakes, UsageError

LONG = 10**15  # a whole number from here on is refused before anything is done with it
RANGES = (  # of numbers: their key, the most they may be, and what is wanted
    ("max_age_days", 36525, "more than 0 and at most 36525 days"),
    ("max_attempts", 10**6, "1 to 1000000"),
    ("recomputed", 1, "a share from 0 to 1"),
)


@dataclass(frozen=True)
class Key:
    """A public Ed25519 key, 64 hex digits; `keyid` is what signatures call it."""

    keyid: str
    public: str
    name: str = ""
    scheme: str = "ed25519"


@dataclass(frozen=True)
class Policy:
    """The demands of one policy file."""

    suites: list[str]
    threshold: int = 1
    gates: list[str] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    max_age_days: float | None = None
    max_attempts: int | None = None
    ledger: Literal["any", "first", "known"] = "any"
    recomputed: float | None = None
    remembered: bool = True
    waivers: bool = True
    keys: tuple[Key, ...] = ()


def read_policy(path: Path) -> Policy:
    """Read a policy; raises UsageError with everything that is wrong with it."""
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}; name a policy file") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None
    mistakes = Mistakes()

    def complain(_: str, what: str) -> None:
        mistakes.add(str(path), what)

    for key in (key for key, value in raw.items() if _huge(value)):
        complain(key, f'"{key}" is too large a number')
    mistakes.raise_if_any()
    tables = raw.pop("key", [])
    tables = tables if isinstance(tables, list) else [tables]
    found = [schema.read(Key, t if isinstance(t, dict) else {}, complain) for t in tables]
    keys = tuple(k for k in found if k)
    policy: Any = schema.read(Policy, raw, complain, keys=keys)
    for mistake in _mistakes(keys, raw.get("threshold", 1)) if len(keys) == len(found) else []:
        complain("", mistake)
    for key, most, want in RANGES if policy else ():
        value = raw.get(key)  # nan is in no range
        if value is not None and not ((value >= 0 if key == "recomputed" else value > 0) and value <= most):
            complain(key, f'"{key}" is {schema.show(value)}, want {want}')
    mistakes.raise_if_any()
    assert isinstance(policy, Policy)
    return policy


def _mistakes(keys: tuple[Key, ...], threshold: Any) -> list[str]:
    """Return what is wrong with the keys and their threshold; one key under two names would count twice."""
    mistakes = []
    for key in keys:
        if not re.fullmatch("[0-9a-fA-F]{64}", key.public):
            mistakes.append(f'key "{key.name or key.keyid}": public is not 64 hex digits')
        if key.scheme != "ed25519":
            mistakes.append(f'key "{key.name or key.keyid}": scheme is "{key.scheme}", want "ed25519"')
    if len({k.public.lower() for k in keys}) < len(keys) or len({k.keyid for k in keys}) < len(keys):
        mistakes.append("a key is there twice")
    if not keys:
        mistakes.append("has no [[key]]; add the .pub file that harness keygen wrote")
    if isinstance(threshold, int) and not 1 <= threshold <= max(1, len(keys)):
        mistakes.append(f"threshold is {threshold}, want 1 to {len(keys)}, the number of keys")
    return mistakes


def _huge(value: Any) -> bool:
    """Return whether a value holds a whole number that no policy means, and that cannot be written out."""
    if isinstance(value, (list, dict)):
        return any(_huge(v) for v in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, int) and abs(value) >= LONG
