"""Phase 5 of a verdict: the line that gives its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.gates.hypothesis import Hypothesis
from harness.gates.inference import differences
from harness.gates.needed import CLOSE
from harness.gates.outcome import SlicedOutcome
from harness.records.gates import Outcome, Slice, Verdict
from harness.stats.neighbours import correlation
from harness.stats.tests import FEW_CLUSTERS
from harness.stats.unseen import no_row_shows
from harness.texts.numbers import difference, short_number

SIZES = "cluster sizes tell of the outcome"
TOGETHER = 0.01  # p-value from which on it is said that neighbouring rows go together


def reason(verdict: Verdict, hypothesis: Hypothesis) -> str:
    """Return estimate, interval, rows and method; for an inconclusive verdict how many rows would decide it."""
    if verdict.method == "failures counted":
        return _failures(verdict, hypothesis)
    estimate, lower, upper = (float(x or 0.0) for x in (verdict.estimate, verdict.lower, verdict.upper))
    if hypothesis.theirs is not None:
        text = f"{short_number(verdict.value)} against {short_number(verdict.baseline)}, "
        text += _change(hypothesis, verdict, estimate, lower, upper)
        if hypothesis.metric.scale == "proportion" and (verdict.won or verdict.lost):
            text += f", {len(verdict.won)} won and {len(verdict.lost)} lost"
    else:
        text = _interval(hypothesis, estimate, lower, upper)
    if verdict.method == "point":
        return text.partition(" [")[0]
    text += f", n={verdict.n}{_clusters(verdict, hypothesis)}, {verdict.method}"
    text += _sizes(verdict, hypothesis)
    if verdict.weightless:
        text += f"; {verdict.weightless} rows of weight 0 do not count"
    text += unseen(verdict, hypothesis)
    if verdict.outcome is Outcome.INCONCLUSIVE and hypothesis.labels:
        more = "" if hypothesis.metric.scale == "agreement" else ", or more rows"
        return f"{text}; more labels would decide it{more}"
    return text + (f"; {more_rows(verdict)}" if verdict.outcome is Outcome.INCONCLUSIVE else "")


def unseen(verdict: Verdict, hypothesis: Hypothesis) -> str:
    """Return what so many rows cannot rule out where a row may say anything, or nothing."""
    count = verdict.clusters or verdict.n
    if hypothesis.support is not None or hypothesis.labels is not None or count < 2:
        return ""
    of = "clusters" if verdict.clusters and hypothesis.clusters else "rows"
    return f"; up to {no_row_shows(count, hypothesis.alpha):.1%} of all {of} may be as bad as you like"


def together(hypothesis: Hypothesis) -> str:
    """Return that neighbouring rows go together, where they are taken to be independent, or nothing."""
    if hypothesis.clusters or hypothesis.early or hypothesis.metric.combine or hypothesis.labels is not None:
        return ""
    known = hypothesis.supposing(None) if hypothesis.lost else hypothesis
    found = None if known.metric.scale == "count" else correlation(differences(known)[0])
    if found is None or found[1] > TOGETHER:
        return ""
    return f"; neighbouring rows go together (correlation {found[0]:.2f}, p = {found[1]:.2g}): is a cluster missing?"


def with_reasons(
    sliced: SlicedOutcome, hypotheses: Mapping[str, Hypothesis], untestable: Sequence[str], min_n: int
) -> Verdict:
    """Return the verdict of a gate on slices with its reason and its slices', `untestable` ones counted."""
    slices = [replace(s, why=reason(sliced.parts[s.name], hypotheses[s.name])) for s in sliced.slices]
    verdict = replace(sliced.verdict, slices=tuple(slices))
    driver = next(s for s in slices if s.name == sliced.driver.name)
    hidden = unseen(sliced.parts[driver.name], hypotheses[driver.name])
    return replace(verdict, why=_reason_of_slices(verdict, driver, untestable, min_n) + hidden)


def _reason_of_slices(verdict: Verdict, driver: Slice, untestable: Sequence[str], min_n: int) -> str:
    large, alarms = [s for s in verdict.slices if not s.alarm], [s for s in verdict.slices if s.alarm]
    parts = [f"{driver.name}: {driver.why.partition('; ')[0]}"]
    if len(large) > 1:
        counts = [f"{n} {o}" for o in Outcome if (n := sum(s.outcome is o for s in large))]
        parts.append(f"{len(large)} slices: {', '.join(counts)}")
    if alarms:
        raised = [s.name for s in alarms if s.outcome is Outcome.FAIL]
        small = f"{'a slice' if len(alarms) == 1 else f'{len(alarms)} slices'} below {min_n} rows"
        parts.append(f"{small}: {'harm in ' + ', '.join(raised) if raised else 'no significant harm'}")
    if untestable:
        parts.append(f"{len(untestable)} too small to say anything")
    if not large and not any(s.outcome is Outcome.FAIL for s in alarms):
        parts.append(f"no slice has {min_n} rows (min_n), so nothing is proven; add rows, or lower min_n")
    if sizes := told_by_sizes(driver.why):
        parts.append(sizes)
    if verdict.rows_needed:
        parts.append(more_rows(verdict, "such rows"))
    return "; ".join(parts)


def told_by_sizes(why: str) -> str:
    """Return what a reason says of clusters whose sizes tell of the outcome, or nothing."""
    return next((part for part in why.split("; ") if part.startswith(SIZES)), "")


def more_rows(verdict: Verdict, unit: str = "rows") -> str:
    """Return how many rows would decide an inconclusive verdict, in words."""
    if verdict.rows_needed is None:
        return "more rows like these would not decide it"
    if verdict.rows_range is None:
        return f"too close to call: more than {CLOSE} times these rows would be needed"
    least, most = verdict.rows_range
    if most is None:
        return f"at least {_rounded_up(least)} {unit} would be needed"
    rows = dict.fromkeys([_rounded_up(least), _rounded_up(most)])
    return f"about {' to '.join(rows)} {unit} would decide it"


def _rounded_up(rows: int) -> str:
    """Return a number of rows with two significant digits, rounded up."""
    step = 10 ** max(len(str(rows)) - 2, 0)
    return f"{-(-rows // step) * step:,}"


def _change(hypothesis: Hypothesis, verdict: Verdict, estimate: float, lower: float, upper: float) -> str:
    if hypothesis.gate.relative and hypothesis.metric.scale != "perplexity":
        share = (verdict.value or 0.0) / verdict.baseline - 1 if verdict.baseline else math.nan
        rest = f"{estimate:+.3g} [{lower:+.3g}, {upper:+.3g}]"
        return f"{share:+.1%}, {rest} from {hypothesis.factor:g} of the baseline"
    return _interval(hypothesis, estimate, lower, upper)


def _interval(hypothesis: Hypothesis, estimate: float, lower: float, upper: float) -> str:
    value, low, high = (_figure(hypothesis, x) for x in (estimate, lower, upper))
    return f"{value} [{low}, {high}]"


def _figure(hypothesis: Hypothesis, x: float) -> str:
    """Return a number on the claim's scale: the metric's value, or a difference of two."""
    perplexity = hypothesis.metric.scale == "perplexity"
    if hypothesis.theirs is None:
        return short_number(math.exp(x) if perplexity else x)
    return difference(hypothesis.metric.scale, math.expm1(x) if perplexity else x)


def _clusters(verdict: Verdict, hypothesis: Hypothesis) -> str:
    """Return on how many clusters a verdict rests, and that they are few or uneven, in words."""
    alike = hypothesis.gate.estimand == "clusters"
    if not verdict.clusters or not (alike or hypothesis.clusters):
        return ""  # what is made from all rows at once is resampled row by row
    few = verdict.clusters < FEW_CLUSTERS
    text = f"few clusters ({verdict.clusters})" if few else f"{verdict.clusters} clusters"
    text += f", so uneven that they count as {verdict.effective:.0f}" if verdict.effective else ""
    return f", mean over {text}" if alike else f" in {text}"


def _sizes(verdict: Verdict, hypothesis: Hypothesis) -> str:
    """Return that clusters that count alike, and rows that do, lie on two sides of the threshold, or nothing."""
    other = hypothesis.otherwise if hypothesis.clusters else None
    if other is None or verdict.estimate is None or verdict.threshold is None:
        return ""
    apart = (verdict.estimate - verdict.threshold) * (other - verdict.threshold) < 0
    inside = (verdict.lower or 0.0) <= other <= (verdict.upper or 0.0)
    kind = "rows" if hypothesis.gate.estimand == "clusters" else "clusters"
    return f"; {SIZES}: the mean over {kind} is {_figure(hypothesis, other)}" if apart and not inside else ""


def _failures(verdict: Verdict, hypothesis: Hypothesis) -> str:
    failed, n = int(verdict.estimate or 0), verdict.n
    text = f"{failed or 'no'} {'row' if failed <= 1 else 'rows'} of {n} failed"
    unit = f"clusters have one, n={n} in {verdict.clusters} clusters" if verdict.clusters else "rows do"
    return f"{text}; at {1 - hypothesis.alpha:.0%} confidence at most {verdict.upper:.2%} of such {unit}"
