"""Gate: the assert, a claim about a metric."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from harness.records import words
from harness.records.about import About
from harness.records.metrics import Metric
from harness.records.samples import Sample
from harness.records.verdicts import Verdict

PARENT = "parent"  # what a copy that an export makes is compared with: the candidate it was made of
COUNTED = "which counts, and takes no risk that an any_of could share; claim it in a gate of its own"
MIN_N = 60  # rows of a slice from which on it must prove the claim; a smaller one only raises an alarm


@dataclass(frozen=True)
class Gate:
    """`[[gate]]`: a claim about a metric, against a number or against a baseline on the same rows.

    Margins are in the metric's own units, or a share of the baseline ("2%"); a perplexity's always are a share.
    """

    id: str
    metric: str = ""
    where: str = ""
    min: float | None = None
    max: float | None = None
    max_failures: int | None = None
    versus: str | None = None
    better_by: float | str | None = None
    worse_by_at_most: float | str | None = None
    any_of: list[str] = field(default_factory=list)
    severity: Literal["block", "warn"] = "block"
    alpha: float | None = None
    decide: Literal["risk", "point"] = "risk"
    requires: list[str] = field(default_factory=list)
    on: list[str] = field(default_factory=list)
    slice: str | list[str] | None = None
    min_n: int = MIN_N
    estimand: Literal["rows", "clusters"] = "rows"  # what counts once in the mean
    cap: float | None = None  # what a row can count at most of a difference, either way; nats of a perplexity
    cut_at_most: float | None = None  # the share of answers, of either side, beyond which cut ones keep it undecided
    clean_only: bool = False  # judged without the rows that the contamination check tells of
    group: str = ""  # the gate that names this one in `any_of`; not a key of the suite
    among: int = 1  # claims that share its risk, of which each may be proven at a part of it; not a key either

    @property
    def eval(self) -> str:
        return self.metric.partition(".")[0]

    @property
    def metric_name(self) -> str:
        return self.metric.partition(".")[2]

    @property
    def blocking(self) -> bool:
        return self.severity == "block" and not self.group

    @property
    def slices(self) -> list[str]:
        return [self.slice] if isinstance(self.slice, str) else self.slice or []

    @property
    def margin(self) -> float:
        """How much better the candidate must be, or, below zero, how much worse it may be; a share if `relative`."""
        if self.better_by is not None:
            return _size(self.better_by)
        return -_size(self.worse_by_at_most or 0.0)

    @property
    def relative(self) -> bool:
        return isinstance(self.better_by, str) or isinstance(self.worse_by_at_most, str)

    def mistakes(self) -> list[str]:
        """Return what is wrong with the claim itself, whatever the suite."""
        found = _group_mistakes(self) if self.any_of else _claim_mistakes(self)
        if not self.id or not self.id.isprintable():
            found.append("id is empty, or holds what cannot be printed; it names the gate in every report")
        if self.alpha is not None and not 0 < self.alpha <= 0.5:
            found.append(f"alpha is {self.alpha}, want more than 0 and at most 0.5")
        if self.cut_at_most is not None and not 0 <= self.cut_at_most <= 1:
            found.append(f"cut_at_most is {self.cut_at_most:g}, want a share of answers from 0 to 1")
        if self.min_n < 2:
            found.append(f"min_n is {self.min_n}, want 2 or more")
        found += [f'slice is "{s}", want COLUMN=VALUE or COLUMN=*' for s in self.slices if "=" not in s]
        if self.id in (*self.requires, *self.any_of):
            found.append("names itself")
        return found

    def mistakes_on(self, metric: Metric) -> list[str]:
        """Return what is wrong with the claim for a metric of this scale and direction."""
        return _scale_mistakes(self, metric) + _margin_mistakes(self, metric) + _cap_mistakes(self, metric)

    def claim(self) -> str:
        """Return the claim in words."""
        return self._claim() + words.conditions(self.about(None))

    def _claim(self) -> str:
        if self.any_of:
            return "any of " + ", ".join(f'"{g}"' for g in self.any_of)
        if self.max_failures is not None:
            rows = f"at most {self.max_failures} rows" if self.max_failures > 1 else "at most one row"
            return f"fails on {rows if self.max_failures else 'no row'}"
        if self.min is not None:
            return f"at least {words.plain(self.min)}"
        if self.max is not None:
            return f"at most {words.plain(self.max)}"
        if self.worse_by_at_most is not None:
            return f"worse than {self.versus} by at most {words.plain(self.worse_by_at_most)}"
        return f"better than {self.versus}" + (f" by {words.plain(self.better_by)}" if self.margin else "")

    def about(self, metric: Metric | None) -> About:
        """Return the claim as data, about a metric, or about none where there is none."""
        larger: Literal[1, -1] = -1 if metric and metric.better == "lower" else 1
        if self.any_of:
            claim = About("group")
        elif self.versus:
            claim = About("difference", larger, self.margin, self.relative)
        elif self.max_failures is not None:
            claim = About("failures", larger, self.max_failures)
        else:
            claim = About("bound", -1, self.max or 0.0) if self.min is None else About("bound", 1, self.min)
        return replace(
            claim,
            scale=metric.scale if metric else None,
            slices=tuple((column, value) for column, _, value in (s.partition("=") for s in self.slices)),
            min_n=self.min_n if self.slice else 0,
            alike=self.estimand == "clusters",
            cap=self.cap,
            cut_at_most=self.cut_at_most,
            clean=self.clean_only,
        )

    def applies_to(self, candidate: str) -> bool:
        return not self.on or candidate in self.on

    def parts(self, samples: Sequence[Sample]) -> dict[str, list[Sample]]:
        """Return the rows the gate is about, slice by slice; without `slice` all of them under the name ""."""
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


def grouped(gates: Sequence[Gate]) -> tuple[Gate, ...]:
    """Return the gates, each member of an `any_of` with its group, and that one's risk and candidates."""
    groups = {member: gate for gate in gates for member in gate.any_of}
    return tuple(
        replace(g, group=of.id, among=len(of.any_of), on=of.on, alpha=of.alpha) if (of := groups.get(g.id)) else g
        for g in gates
    )


def ships(verdicts: Iterable[Verdict], gates: Sequence[Gate], candidate: str) -> list[str]:
    """Return why a candidate may not ship: a line per blocking gate that neither passed nor is waived.

    Empty when it may. A waiver covers a verdict, not the lack of one.
    """
    said = {v.gate: v for v in verdicts if v.candidate == candidate}
    wanted = [g for g in gates if g.blocking and g.applies_to(candidate)]
    if not wanted:
        return [f"no blocking gate applies to {candidate}"]
    reasons = []
    for gate in wanted:
        verdict = said.get(gate.id)
        if verdict is None:
            reasons.append(f'gate "{gate.id}" has no verdict on {candidate}')
        elif verdict.holds_up:
            reasons.append(f'gate "{gate.id}" is {verdict.outcome} on {candidate}: {verdict.why}')
    return reasons


def _claim_mistakes(gate: Gate) -> list[str]:
    found = []
    if not (gate.eval and gate.metric_name):
        found.append(f'metric is "{gate.metric}", want EVAL.METRIC, for instance "qa.exact_match"')
    margins = [m for m in (gate.better_by, gate.worse_by_at_most) if m is not None]
    bounds = [b for b in (gate.min, gate.max, gate.max_failures) if b is not None]
    if len(margins) + len(bounds) != 1:
        found.append(
            'want one claim: "min", "max", "max_failures", "any_of", or "versus" with "better_by" or "worse_by_at_most"'
        )
    elif bool(margins) != (gate.versus is not None):
        found.append('"versus" goes with "better_by" or "worse_by_at_most"')
    for margin in margins:
        try:
            size = _size(margin)
        except ValueError:
            found.append(f'a margin is "{margin}", want a number in the metric\'s units or a share such as "2%"')
            continue
        if not 0 <= size < math.inf:
            found.append("a margin is zero or more; the metric knows its direction")
    if any(not math.isfinite(b) for b in bounds):
        found.append("a bound is a finite number")
    if gate.cap is not None and not (gate.cap > 0 and math.isfinite(gate.cap)):
        found.append(f"cap is {gate.cap:g}, want what a row counts at most, more than 0")
    if gate.cap is not None and not margins:
        found.append('"cap" is of differences from a baseline; it goes with "versus"')
    if gate.max_failures is not None and gate.max_failures < 0:
        found.append(f"max_failures is {gate.max_failures}, want 0 or more")
    if gate.max_failures is not None and (gate.slice or gate.decide == "point"):
        found.append('"max_failures" counts over all rows; leave out "slice" and "decide"')
    if gate.max_failures is not None and gate.estimand == "clusters":
        found.append('"max_failures" counts rows; leave out "estimand"')
    if gate.max_failures is not None and gate.clean_only:
        found.append('"max_failures" counts over all rows, and one that fails is no leak; leave out "clean_only"')
    return found


def _group_mistakes(gate: Gate) -> list[str]:
    found = []
    own = ("metric", "min", "max", "max_failures", "versus", "better_by", "worse_by_at_most", "slice")
    more = ("decide", "clean_only", "estimand", "cap", "cut_at_most")
    stray = [[key for key in keys if getattr(gate, key) != getattr(Gate, key)] for keys in (own, more)]
    found += [f'"{key}" belongs to the gates that any_of names, not beside it' for key in (*stray[0][:1], *stray[1])]
    if len(set(gate.any_of)) < 2:
        found.append("any_of names one gate, want two or more")
    return found


def _scale_mistakes(gate: Gate, metric: Metric) -> list[str]:
    name = metric.name
    found = []
    for key, bound in (("min", gate.min), ("max", gate.max)):
        if bound is None:
            continue
        if metric.is_share and not 0 <= bound <= 1:
            meant = f"; is {bound / 100:g} meant?" if 1 < bound <= 100 else ""
            found.append(f"{key} is {bound:g}, but {name} is a proportion from 0 to 1{meant}")
        if metric.is_log and bound < 1:
            found.append(f"{key} is {bound:g}, but a perplexity is 1 or more")
        if metric.is_count and bound < 0:
            found.append(f"{key} is {bound:g}, but {name} is a count")
        if metric.is_agreement and not -1 <= bound < 1:
            found.append(f"{key} is {bound:g}, but {name} is an agreement, from -1 to 1")
    if metric.is_agreement and (gate.versus or gate.slice):
        found.append(f'{name} is about labels, of which there are no others to compare; claim "min" or "max"')
    if gate.max_failures is not None and (not metric.is_share or metric.combine):
        found.append(f"max_failures counts rows of a 0/1 metric, and {name} is a {metric.scale}")
    if gate.clean_only and metric.is_count:
        found.append(f'{name} is a count over all rows, of which fewer are less; leave out "clean_only"')
    if gate.estimand == "clusters" and (metric.combine or metric.is_count):
        what = "made from all rows at once" if metric.combine else "a count over all rows"
        found.append(f'{name} is {what}, and no mean over clusters; leave out "estimand"')
    if gate.decide == "point" and not metric.is_count:
        made = "made of" if metric.combine else f"a {metric.scale} of"
        found.append(
            f'decide = "point" is for counts such as a size; {name} is {made} rows, of which others would give another '
            'number: leave out "decide", or have its evaluator say scale = "count" if it is one number about the model'
        )
    return found


def _margin_mistakes(gate: Gate, metric: Metric) -> list[str]:
    """Return which margins are in another unit: points as whole numbers, shares that nothing can reach."""
    if gate.versus is None or (gate.better_by is None and gate.worse_by_at_most is None):
        return []
    key = "better_by" if gate.better_by is not None else "worse_by_at_most"
    try:
        size = abs(gate.margin)
    except ValueError:
        return []  # told by Gate.mistakes
    share = gate.relative or metric.is_log
    if metric.is_share and not share and size >= 1:
        return [f"{key} is {size:g}, but {metric.name} is a proportion: 2 points are 0.02"]
    if metric.is_log and not gate.relative and size >= 1:
        return [f'{key} is {size:g}, which for a perplexity is {size:.0%}; write "{size:.0%}" if it is meant']
    shrinks = (metric.better == "lower") == (key == "better_by")  # the claim is about a smaller value
    if share and shrinks and size >= 1:
        return [f"{key} is {size:.0%}, and nothing is left of a {metric.name} that is smaller by that"]
    return []


def _cap_mistakes(gate: Gate, metric: Metric) -> list[str]:
    """Return why no row's difference can be cut, or why the cap decides the claim whatever the rows say."""
    if gate.cap is None or not gate.versus or not gate.cap > 0:
        return []
    if metric.combine or (metric.is_count or metric.is_agreement):
        made = "made from all rows at once" if metric.combine else f"a {metric.scale}"
        return [f'cap: {metric.name} is {made}, and no mean of what rows say; leave out "cap"']
    if metric.is_share:
        return [f'cap: {metric.name} is a proportion, whose range is known; leave out "cap"']
    if gate.relative and not metric.is_log:
        return ["cap: is in the metric's units, and the margin is a share; write the margin in units, too"]
    try:
        size = abs(gate.margin)
    except ValueError:
        return []  # told by Gate.mistakes
    unit = math.log1p(size) if metric.is_log else size
    if gate.cap <= unit:
        return [f"cap is {gate.cap:g}, and a margin of {unit:.3g} is not less, so that no row could tell; raise it"]
    return []


def _size(margin: float | str) -> float:
    """Return a margin as a number. Raises ValueError when it is a text that is no share."""
    if not isinstance(margin, str):
        return margin
    if not (share := re.fullmatch(r"\s*(-?(?:\d+\.?\d*|\.\d+))\s*%\s*", margin)):
        raise ValueError(margin)
    return float(share[1]) / 100  # of very many digits: infinite, which no margin may be
