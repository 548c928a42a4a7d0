"""Gate: the assert, a claim about a metric; and Kind, what one kind of claim is."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from harness.records.metrics import Metric
from harness.records.parts import CONDITIONS, ConditionKeys
from harness.records.samples import Sample, Score
from harness.records.scales import Scale, Scaled, find_range_error
from harness.stats.result import Test
from harness.stats.values import Range, find_alpha_error
from harness.texts.numbers import format_limit, format_short

GATE_COMMAND = "harness gate"  # the place of a claim that no suite holds
PARENT = "parent"  # what a copy that an export makes is compared with: the candidate it was made of
ADAPTER = "adapter"  # what a merge is compared with: the adapter that was merged
MERGED = "merged"  # how the names of merges begin, and no other
FEWEST_SEEDS = 3  # runs of a recipe, of which it can be inferred how far others would lie apart
MIN_N = 60  # rows of a slice from which on it must prove the claim; a smaller one only raises an alarm
# by which an estimate may differ from the values it is made of: rows were summed in another order
RELATIVE_TOLERANCE = 1e-6
# fields that no suite writes
DERIVED_FIELDS: Mapping[str, Any] = {"where": "", "among": 1, "guards": ""}
Units = tuple[Sequence[Score], Sequence[Score] | None, Sequence[str] | None]
"""Rows of the candidate, of the baseline if there is one, and the cluster of each row."""


class Oriented(NamedTuple):
    """A claim turned so that larger is better: sign · (candidate - factor · baseline) is above the margin."""

    sign: int
    margin: float
    factor: float


class BestCase(NamedTuple):
    """The best possible outcome of a claim.

    The fewest rows that can prove it follow from this. `claim` is the claim as its key states it. `chance` is the
    probability that one row looks perfect although the claim is just false. `perfect` and `alike` describe that outcome
    for rows and for clusters: clusters with some imperfect rows may prove more than clusters without.
    """

    claim: str
    chance: float
    perfect: str
    alike: str = "where all rows are perfect"


@dataclass(frozen=True)
class GateKeys:
    """The keys of a gate beside those of its conditions."""

    id: str
    metric: str = ""
    where: str = ""
    min: float | None = None
    max: float | None = None
    max_failures: int | None = None
    versus: str | None = None
    better_by: float | str | None = None
    worse_by_at_most: float | str | None = None
    worse_by_more_than: float | None = None
    on_at_most: float | None = None
    severity: Literal["block", "warn"] = "block"
    alpha: float | None = None
    requires: list[str] = field(default_factory=list)
    on: list[str] = field(default_factory=list)
    slice: str | list[str] | None = None
    min_n: int = MIN_N
    estimand: Literal["rows", "questions"] = "rows"  # what counts once in the mean
    cap: float | None = None  # what a row can count at most, either way; nats of a perplexity
    range: list[float] | None = None  # the least and the most that a row's value can be; nats of a perplexity
    of: Literal["run", "recipe"] = "run"  # what is claimed: of the weights that ship, or of the mean over [train] seeds
    among: int = 1  # claims that share its risk, of which each may be proven at a part of it
    guards: str = ""  # the gate on the mean of several tasks, of which this one guards a task


@dataclass(frozen=True)
class Gate(ConditionKeys, GateKeys):
    """`[[gate]]`: a claim about a metric, against a number or against a baseline on the same rows.

    Margins are in the metric's own units, or a share of the baseline ("2%"); a perplexity's always are a share.
    """

    @property
    def eval(self) -> str:
        return self.metric.partition(".")[0]

    @property
    def metric_name(self) -> str:
        return self.metric.partition(".")[2]

    @property
    def blocking(self) -> bool:
        return self.severity == "block"

    @property
    def slices(self) -> list[str]:
        return [self.slice] if isinstance(self.slice, str) else self.slice or []

    @property
    def is_of_command(self) -> bool:
        """Whether it was claimed by `harness gate`, and by no suite."""
        return self.where == GATE_COMMAND

    @property
    def margin(self) -> float:
        """The margin by which the candidate must be better.

        Negative if it may be worse; a share of the baseline if `relative`.
        """
        return (
            _parse_margin(self.better_by)
            if self.better_by is not None
            else -_parse_margin(self.worse_by_at_most or 0.0)
        )

    @property
    def relative(self) -> bool:
        return isinstance(self.better_by, str) or isinstance(self.worse_by_at_most, str)

    @property
    def kind(self) -> ClaimType:
        """The kind of claim. If keys of several are present, the one registered last."""
        return next((kind for kind in reversed(KINDS) if kind.matches(self)), KINDS[0])

    def find_mistakes(self) -> list[str]:
        """Return mistakes in the claim itself, regardless of the suite."""
        found = self.kind.find_mistakes(self)
        if not self.id or not self.id.isprintable():
            found.append("id is empty or has unprintable characters; give the gate a name for its reports")
        if self.alpha is not None and (error := find_alpha_error(self.alpha)):
            found.append(f"alpha is {self.alpha}; {error}")
        found += [mistake for condition in CONDITIONS for mistake in condition.find_mistakes(self)]
        if self.min_n < 2:
            found.append(f"min_n is {self.min_n}; it must be 2 or more")
        found += [f'slice is "{s}"; write COLUMN=VALUE or COLUMN=*' for s in self.slices if "=" not in s]
        if self.id in self.requires:
            found.append("requires names the gate itself")
        return [*found, *self._find_recipe_mistakes()]

    def _find_recipe_mistakes(self) -> list[str]:
        """Return mistakes in a recipe's claim. It must be a mean over rows and seeds."""
        if self.of != "recipe":
            return []
        found = []
        if self.kind.counts or self.kind.has_test:
            found.append('of = "recipe" claims a mean over rows and seeds, not a count; claim min, max or versus')
        if self.versus in (PARENT, ADAPTER):
            other = "compare with a model that is not"
            found.append(f'of = "recipe": "{self.versus}" is itself trained with one seed; {other}')
        return found

    def find_metric_mistakes(self, metric: Metric, rows: int | None = None) -> list[str]:
        """Return mistakes in the claim for this metric.

        Depends on its scale and direction, and on the number of rows, if known.
        """
        found, odd = self.kind.find_metric_mistakes(self, metric, rows), ""
        found += [mistake for condition in CONDITIONS for mistake in condition.find_metric_mistakes(self, metric)]
        if self.of == "recipe" and metric.is_count:
            odd = "one number about the weights, not a mean over rows"
        elif self.of == "recipe" and (metric.labelled or metric.is_agreement):
            odd = "corrected by labels, which hold for the answers of one model"
        return [*found, f'of = "recipe": {metric.name} is {odd}; remove "of"'] if odd else found

    def claim(self) -> str:
        """Return the claim in words."""
        return self.kind.claim_text(self) + self.describe_conditions()

    def describe_conditions(self) -> str:
        """Return in words how the claim counts rows, on which, and its conditions."""
        text = " in the mean over questions" if self.estimand == "questions" else ""
        if self.cap is not None and not self.kind.counts:
            text += f", no row counted as more than {format_limit(self.cap)}"
        if self.range is not None:
            text += f", rows from {format_limit(self.range[0])} to {format_limit(self.range[1])}"
        text += f" on {' and '.join(self.slices)}" if self.slices else ""
        text += "".join(condition.phrase(self) for condition in CONDITIONS)
        return text + (", for the recipe" if self.of == "recipe" else "")

    def terms(self, metric: Metric | None) -> ClaimTerms:
        """Return the claim in terms of its metric."""
        asked = replace(self, where="")  # the same claim wherever it is written
        if metric is None:
            return ClaimTerms(asked)
        return ClaimTerms(asked, self.kind.restate(self, metric)[1].scale, metric.better)

    def row_range(self, metric: Metric) -> Range:
        """Return the range of a row's value.

        The gate may declare it, else its metric; infinite if neither does.
        """
        return metric.row_range if self.range is None else Range(self.range[0], self.range[1])

    def risk(self, metric: Metric) -> Literal["exact", "approximate"]:
        """Return whether the gate's risk is exact or approximate.

        It is exact for counts, for labels, and for a mean over rows with a declared range or a cap. Otherwise it holds
        only if the rows are not too skewed.
        """
        metric = self.kind.restate(self, metric)[1]
        own = self.kind.counts or self.kind.has_test or metric.is_count or metric.is_agreement or metric.labelled
        known = not metric.combine and (self.cap is not None or all(map(math.isfinite, self.row_range(metric))))
        return "exact" if own or known else "approximate"

    def forbids_risk(self, risk: str) -> bool:
        """Return whether a risk keeps the gate from passing. It must block, and the risk be approximate."""
        return risk == "approximate" and self.severity == "block" and not self.allow_approximate

    def implies(self, claim: Gate, metric: Metric) -> bool:
        """Return whether proving this gate proves a claim, too.

        Both must be about the same rows, judged alike, and this gate must be at least as strict: as low a `min_n` for
        its slices, and all its conditions.
        """
        keys = ("metric", "versus", "estimand", "cap", "range", "of")
        same = all(getattr(self, key) == getattr(claim, key) for key in keys)
        rows = set(self.slices) == set(claim.slices) and (not claim.slice or self.min_n <= claim.min_n)
        guarded = all(condition.implies(self, claim) for condition in CONDITIONS)
        return same and rows and guarded and self.kind is claim.kind and self.kind.implies(self, claim, metric)

    def applies_to(self, candidate: str) -> bool:
        """Return whether the gate is on a candidate. Without `on`, a gate against the adapter is on merges only."""
        if self.on:
            return candidate in self.on
        return self.versus != ADAPTER or candidate.startswith(MERGED)

    def rows_by_slice(self, samples: Sequence[Sample]) -> dict[str, list[Sample]]:
        """Group the gate's rows by slice. Without `slice` all are in one group, "", together."""
        if self.slice is None:
            return {"": list(samples)}
        found: dict[str, list[Sample]] = {}
        for declared in self.slices:
            column, _, value = declared.partition("=")
            if value != "*":
                found[declared] = [s for s in samples if column in s.row and str(s.row[column]) == value]
                continue
            groups: dict[str, list[Sample]] = {}
            for sample in samples:
                groups.setdefault(f"{column}={sample.row.get(column)}", []).append(sample)
            found |= dict(sorted(groups.items()))
        return found


@dataclass(frozen=True)
class ClaimTerms(Scaled):
    """A gate in terms of its metric: what the numbers of its verdict mean.

    `scale` is that of what is tested, None if there is no such metric. `threshold` is the number as the suite gives it:
    a bound, the number of rows that may fail, or the margin by which the candidate must be better, negative if it may
    be worse. It is a share of the baseline if `relative`, and always for a perplexity.
    """

    gate: Gate
    scale: Scale | None = None
    better: Literal["higher", "lower"] = "higher"

    @property
    def kind(self) -> str:
        """The name of the kind of claim."""
        return self.gate.kind.name

    @property
    def sign(self) -> Literal[1, -1]:
        """1 where larger is better for the claim, else -1."""
        return self.gate.kind.sign(self.gate, self.better)

    @property
    def threshold(self) -> float:
        return self.gate.kind.threshold(self.gate)

    @property
    def relative(self) -> bool:
        return self.gate.relative

    @property
    def cap(self) -> float | None:
        """What a row can count at most. A count of failures has none."""
        return None if self.gate.kind.counts else self.gate.cap

    @property
    def slices(self) -> list[tuple[str, str]]:
        """Pairs of column and value, "*" for each value."""
        return [(column, value) for column, _, value in (s.partition("=") for s in self.gate.slices)]

    def applies_to_row(self, row: Mapping[str, Any]) -> bool:
        """Return whether the claim is about a row."""
        slices = self.slices
        return not slices or any(v == "*" or str(row.get(c)) == v for c, v in slices if c in row or v == "*")

    def fails(self, value: float) -> bool:
        """Return whether a row's value alone violates the claim.

        Always False for a difference, since no single row has one.
        """
        return self.gate.kind.fails(self, value)

    def format_number(self, x: float | None) -> str:
        """Write a number on the claim's scale: the metric's value, or a difference of two."""
        if x is None:
            return format_short(x)
        return self.format_test_change(x) if self.kind == "difference" else format_short(self.from_test_scale(x))


class ClaimType:
    """A kind of claim: the keys that say it, what they may be, its test, and what numbers of a verdict must satisfy.

    A new one is a class in a file of its own, and its place in `harness.records.claims`.
    """

    name: Literal["bound", "difference", "failures", "losses"]
    keys: tuple[str, ...] = ()  # of `[[gate]]`; those that say it together stand in one text
    counts = False  # it counts rows, all of them, and takes no risk

    @property
    def has_test(self) -> bool:
        """Whether it has a test of its own.

        No stopping rule or power computation is known for such a test.
        """
        return type(self).test is not ClaimType.test

    def matches(self, gate: Gate) -> bool:
        """Return whether a gate is of this kind."""
        return any(_is_option_given(gate, key) for keys in self.keys for key in keys.split())

    def find_mistakes(self, gate: Gate) -> list[str]:
        """Return mistakes in the claim, regardless of its metric."""
        found = []
        if not (gate.eval and gate.metric_name):
            found.append(f'metric is "{gate.metric}"; write EVAL.METRIC, for instance "qa.exact_match"')
        said = {keys for kind in KINDS for keys in kind.keys if _is_option_given(gate, keys.split()[-1])}
        if len(said) != 1:
            claims = '"min", "max", "max_failures", or "versus" with "better_by", "worse_by_at_most" or'
            found.append(f'a gate makes one claim; give one: {claims} "on_at_most"')
        elif not self.counts and any(keys.startswith("versus ") for keys in said) != (gate.versus is not None):
            found.append(
                '"versus" needs "better_by" or "worse_by_at_most", or "on_at_most"; each of them needs "versus"'
            )
        if any(not math.isfinite(b) for b in (gate.min, gate.max) if b is not None):
            found.append("a bound must be a finite number")
        if gate.cap is not None and not (gate.cap > 0 and math.isfinite(gate.cap)):
            found.append(f"cap is {gate.cap:g}; it must be more than 0 (the most that a row counts)")
        if gate.range is not None and (why := find_range_error("mean", gate.range, combines=False)):
            found.append(f"range {why}")
        elif gate.range is not None and not all(map(math.isfinite, gate.range)):
            found.append("an end of range is not finite; declare the values that a row can have, or a cap")
        return found

    def find_metric_mistakes(self, gate: Gate, metric: Metric, rows: int | None) -> list[str]:
        """Return mistakes in the claim for a metric. `rows` is None if unknown."""
        name, found = metric.name, []
        if metric.is_agreement and (gate.versus or gate.slice):
            found.append(
                f'{name} is computed from labels, and there are none for the other model; claim "min" or "max"'
            )
        if gate.estimand != "rows" and (metric.combine or metric.is_count):
            what = "computed from all rows at once" if metric.combine else "a count over all rows"
            found.append(f'{name} is {what}, not a mean over {gate.estimand}; remove "estimand"')
        if gate.range is not None and (
            why := find_range_error(metric.scale, gate.range, combines=bool(metric.combine))
        ):
            why = f'of {name} is known, since it is a proportion; remove "range"' if metric.is_share else why
            found.append(f"range {why}")
        if gate.cap is not None and (metric.combine or metric.is_count or metric.is_agreement):
            made = "computed from all rows at once" if metric.combine else f"a {metric.scale}"
            found.append(f'cap: {name} is {made}, not a mean over rows; remove "cap"')
        elif gate.cap is not None and metric.is_share and not gate.versus:
            found.append(f'cap: {name} is a proportion, so its range is known; remove "cap"')
        return found

    def claim_text(self, gate: Gate) -> str:
        """Return the claim in words, without which rows it is about."""
        raise NotImplementedError

    def threshold(self, gate: Gate) -> float:
        """Return the number that is claimed, as the gate gives it."""
        raise NotImplementedError

    def sign(self, gate: Gate, better: str) -> Literal[1, -1]:
        """Return 1 if larger is better for the claim, else -1. `better` is the direction of its metric."""
        raise NotImplementedError

    def fails(self, terms: ClaimTerms, value: float) -> bool:
        """Return whether a row's value alone violates the claim."""
        return False

    def restate(self, gate: Gate, metric: Metric) -> tuple[Gate, Metric]:
        """Return the claim and metric that are tested.

        They differ from the given ones if the claim is about another metric of the same rows.
        """
        return gate, metric

    def score_rows(
        self, gate: Gate, metric: Metric, ours: Sequence[Score], theirs: Sequence[Score] | None
    ) -> tuple[Sequence[Score], Sequence[Score] | None]:
        """Score both sides' rows for the restated claim."""
        return ours, theirs

    def oriented(self, gate: Gate, metric: Metric) -> Oriented:
        """Return sign, margin and factor: the claim is that sign · (candidate - factor · baseline) is above the margin.

        On the scale where the metric is tested.
        """
        sign = self.sign(gate, metric.better)
        return Oriented(sign, sign * metric.to_test_scale(self.threshold(gate)), 1.0)

    def implies(self, gate: Gate, claim: Gate, metric: Metric) -> bool:
        """Return whether a gate is as strict as a claim.

        Both are of this kind, on the same rows. By default never.
        """
        return False

    def test(self, gate: Gate, metric: Metric, units: Units, alpha: float) -> Test | None:
        """Run a test specific to this kind of claim.

        Its result is oriented so that larger is better. None to use the test that scale and rows choose. Raises
        ValueError if the claim cannot be tested.
        """
        return None

    def best_case(self, gate: Gate, metric: Metric) -> BestCase | None:
        """Return the best possible outcome, if in closed form."""
        return None


KINDS: list[ClaimType] = []  # `harness.records.claims` fills it


def _is_option_given(gate: Gate, key: str) -> bool:
    return getattr(gate, key) not in (None, [])


def assign_recipe_gates(gates: Sequence[Gate], recipe: str) -> tuple[Gate, ...]:
    """Restrict gates of the recipe to its candidate.

    That candidate has one model for every seed. Gates with `on` keep theirs.
    """
    return tuple(replace(g, on=[recipe]) if g.of == "recipe" and recipe and not g.on else g for g in gates)


def _parse_margin(margin: float | str) -> float:
    """Return a margin as a number. Raises ValueError when it is a text that is no share."""
    if not isinstance(margin, str):
        return margin
    if not (share := re.fullmatch(r"\s*(-?(?:\d+\.?\d*|\.\d+))\s*%\s*", margin)):
        raise ValueError(margin)
    return float(share[1]) / 100  # of very many digits: infinite, which no margin may be
