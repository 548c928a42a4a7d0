"""Changes in the deciding rules since an earlier run.

They cover limits, levels, gates, waivers, rows and how rows are scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.artifacts import shapes
from harness.artifacts.folders import ForeignFolder
from harness.errors import UsageError
from harness.records.parts import CONDITIONS
from harness.records.run import Run
from harness.records.verdicts import Outcome, Verdict
from harness.reports.report_json import read_run
from harness.schema import format_toml

LOCK = "suite.lock.json"
SIZES = ("worse_by_at_most", "worse_by_more_than", "on_at_most", "max_failures")  # of what a gate allows
# of each key whether a larger number is stricter (1) or a smaller one (-1)
STRICTER: Mapping[str, int] = {
    **{"min": 1, "better_by": 1},
    **dict.fromkeys(("max", *SIZES, "alpha"), -1),
    **{key: direction for condition in CONDITIONS for key, direction in condition.stricter.items()},
}
LIMITS = ("min", "max", "better_by", *SIZES)
# from the other keys of a gate, or where they are written
DERIVED_KEYS = ("id", "where", "claim", "digest", "blocking", "candidates", "among", "guards")
# of a lock: what names, dates or repeats, and what a comparison tells by itself
LABELS: tuple[str, ...] = (
    "recorded",
    "format",
    "gates",
    "attempts",
    "subjects",
    "packages",
    "suite.name",
    "suite.file",
)
LABELS += ("suite.digest", "suite.source", "suite.header.name", "suite.header.description", "suite.header.alpha")
NAMES = ("id", "name", "to")  # keys by which a table of a list is known
UNSET_TEXT = "not set"
Direction = Literal["looser", "stricter", ""]


@dataclass(frozen=True)
class RuleChange:
    """A lock key with another value than in an earlier run.

    `would_be` describes the verdicts at the earlier limit.
    """

    key: str
    now: str
    before: str
    gate: str = ""
    direction: Direction = ""
    would_be: tuple[str, ...] = ()

    @property
    def decides(self) -> bool:
        """Whether it is of a gate, a level or a waiver."""
        return bool(self.gate) or self.key == "alpha" or self.key.startswith("waiver")

    def describe(self) -> str:
        """Return the change in words."""
        what = f'gate "{self.gate}": {self.key}' if self.gate else self.key
        text = f"{what} {self.before} → {self.now}"
        text += f" ({self.direction})" if self.direction else ""
        return text + "".join(f"; {line}" for line in self.would_be)


@dataclass(frozen=True)
class Rules:
    """The lock of a run, and its report."""

    lock: Mapping[str, Any]
    run: Run
    folder: Path = Path()


def read_rules(folder: Path) -> Rules | None:
    """Read the lock and report of a run's folder. None if one of them is unreadable."""
    with suppress(UsageError, OSError, ValueError, RecursionError):
        return Rules(ForeignFolder(folder).read_record(LOCK, shapes.LOCK), read_run(folder), folder)
    return None


def read_rules_before(folder: Path) -> Rules | None:
    """Return the rules of the suite's last run before this one.

    It is looked for beside the run's folder. Runs of `harness gate` all have one name, so an earlier one must also
    share a digest, such as that of the base's rows.
    """
    if (own := read_rules(folder)) is None:
        return None
    there = (path.parent for path in folder.resolve().parent.glob(f"{own.run.suite}-*T*Z*/report.json"))
    for other in sorted((f for f in there if f.name < folder.resolve().name), key=lambda f: f.name, reverse=True):
        found = read_rules(other)
        if found and found.run.suite == own.run.suite and _has_model_or_shared_digests(own, found):
            return found
    return None


def changed_rules(now: Rules, before: Rules) -> list[RuleChange]:
    """Return the differences between two runs' rules, deciding ones first."""
    found = [
        *_iterate_gate_changes(now, before),
        *_iterate_alpha_changes(now, before),
        *_iterate_waiver_changes(now, before),
    ]
    ours, theirs = flatten_lock(now.lock), flatten_lock(before.lock)
    keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    return found + [RuleChange(key, ours.get(key, UNSET_TEXT), theirs.get(key, UNSET_TEXT)) for key in keys]


def flatten_rules(rules: Rules) -> dict[str, str]:
    """Return everything `changed_rules` compares, as keys and formatted values. Deciding rules are first."""
    found = {
        f'gate "{gate["id"]}": {key}': _format_rule_value(value)
        for gate in rules.lock.get("gates", ())
        for key, value in gate.items()
        if key not in DERIVED_KEYS
    }
    found |= {"alpha": _format_rule_value(_get_suite_table(rules, "header").get("alpha"))} if rules.lock else {}
    found |= {f'waiver of "{w.gate}"': w.summary() for w in rules.run.waivers}
    return found | flatten_lock(rules.lock)


def flatten_lock(lock: Mapping[str, Any]) -> dict[str, str]:
    """Flatten a lock into dotted keys and formatted values.

    Gates, and keys that only name or date the lock, are left out.
    """
    found = {
        key: written
        for key, value in _iterate_dotted_keys(lock, "")
        if (written := _format_rule_value(value)) not in ("", UNSET_TEXT)
    }
    short = {key: key.replace(".options.", ".", 1) for key in found}
    return {key if short[key] in found else short[key]: written for key, written in found.items()}


def describe_rules(folder: Path) -> list[str]:
    """Describe the deciding rules that changed since the previous run."""
    now, before = read_rules(folder), read_rules_before(folder)
    if now is None or before is None:
        return []
    lines = [change.describe() for change in changed_rules(now, before) if change.decides]
    return [f"rules changed since {before.folder.name}: {lines[0]}", *lines[1:]] if lines else []


def _has_model_or_shared_digests(one: Rules, other: Rules) -> bool:
    if _get_suite_table(one, "model").get("use"):
        return True
    return bool(one.run.digests.items() & other.run.digests.items())


def _get_suite_table(rules: Rules, name: str) -> Mapping[str, Any]:
    """Return a table of the locked suite, which may be missing or null."""
    table: Mapping[str, Any] = rules.lock["suite"].get(name) or {}
    return table


def _iterate_gate_changes(now: Rules, before: Rules) -> Iterator[RuleChange]:
    ours, theirs = ({str(g["id"]): g for g in rules.lock.get("gates", ())} for rules in (now, before))
    for name in dict.fromkeys([*ours, *theirs]):
        gate, old = ours.get(name), theirs.get(name)
        if gate is None or old is None:
            claim = str((gate or old or {}).get("claim") or "any of several")
            pair = (claim, UNSET_TEXT) if gate else (UNSET_TEXT, claim)
            yield RuleChange("claim", *pair, gate=name, direction="stricter" if gate else "looser")
            continue
        keys = [k for k in dict.fromkeys([*gate, *old]) if k not in DERIVED_KEYS and gate.get(k) != old.get(k)]
        for key in keys:
            a, b = gate.get(key), old.get(key)
            would = (
                tuple(_iterate_earlier_limit_notes(name, now.run, before.run))
                if keys == [key] and key in LIMITS
                else ()
            )
            yield RuleChange(
                key, _format_rule_value(a), _format_rule_value(b), name, _find_strictness_direction(key, a, b), would
            )


def _iterate_alpha_changes(now: Rules, before: Rules) -> Iterator[RuleChange]:
    a, b = (_get_suite_table(rules, "header").get("alpha") for rules in (now, before))
    if a != b:
        yield RuleChange(
            "alpha", _format_rule_value(a), _format_rule_value(b), direction=_find_strictness_direction("alpha", a, b)
        )


def _iterate_waiver_changes(now: Rules, before: Rules) -> Iterator[RuleChange]:
    ours, theirs = ({w.gate: w.summary() for w in rules.run.waivers} for rules in (now, before))
    for name in dict.fromkeys([*ours, *theirs]):
        if ours.get(name) != theirs.get(name):
            direction: Direction = "looser" if name not in theirs else "stricter" if name not in ours else ""
            yield RuleChange(
                f'waiver of "{name}"', ours.get(name, UNSET_TEXT), theirs.get(name, UNSET_TEXT), "", direction
            )


def _iterate_earlier_limit_notes(gate: str, now: Run, before: Run) -> Iterator[str]:
    """Yield notes on a gate's verdicts at its earlier limit.

    They follow from today's bounds, for verdicts at the same level.
    """
    old = {v.candidate: v for v in before.verdicts if v.gate == gate}
    same = [v for v in now.verdicts if v.gate == gate and v.candidate in old and v.alpha == old[v.candidate].alpha]
    found = {
        v.candidate: outcome for v in same if (outcome := _decide_by_bounds_at_limit(v, old[v.candidate].threshold))
    }
    moved = {v.candidate for v in same if found.get(v.candidate, v.outcome) is not v.outcome}
    yield from (f"with the earlier limit {name} would be {found[name]}" for name in found if name in moved)
    if found and not moved:
        yield "with the earlier limit the verdict is the same"


def _decide_by_bounds_at_limit(v: Verdict, limit: float | None) -> Outcome | None:
    if limit is None or v.terms is None or v.lower is None or v.upper is None or v.outcome is Outcome.ERROR:
        return None
    better, worse = (v.lower >= limit, v.upper < limit) if v.terms.sign > 0 else (v.upper <= limit, v.lower > limit)
    return Outcome.PASS if better else Outcome.FAIL if worse else Outcome.INCONCLUSIVE


def _find_strictness_direction(key: str, now: Any, before: Any) -> Direction:
    """Return whether a changed key makes its gate looser or stricter. Empty if neither is certain."""
    if key == "severity":
        return "looser" if now == "warn" else "stricter"
    if key in ("requires", "on"):
        gone, new = {*(before or ())} - {*(now or ())}, {*(now or ())} - {*(before or ())}
        return "" if bool(gone) == bool(new) or key == "on" else "looser" if gone else "stricter"
    a, b = _parse_number_or_percent(now), _parse_number_or_percent(before)
    if a is None or b is None or type(now) is not type(before) or key not in STRICTER:
        return ""
    return "looser" if (a < b) == (STRICTER[key] > 0) else "stricter"


def _parse_number_or_percent(value: Any) -> float | None:
    with suppress(TypeError, ValueError):
        return float(value.rstrip("% ")) if isinstance(value, str) else float(value)
    return None


def _iterate_dotted_keys(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) pairs of nested tables. A table in a list is keyed by its name."""
    if at in LABELS:
        return
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _iterate_dotted_keys(inner, f"{at}.{key}" if at else str(key))
    elif isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        for i, one in enumerate(value):
            name = next((one[key] for key in NAMES if one.get(key)), i)
            yield from _iterate_dotted_keys(one, f"{at}.{name}")
    else:
        for part in ("suite.", "header.", "evals."):  # as a suite names its keys
            at = at.removeprefix(part)
        yield at, value


def _format_rule_value(value: Any) -> str:
    if value is None or value in ([], {}):
        return UNSET_TEXT
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return ", ".join(map(_format_rule_value, value))
    return format_toml(value)
