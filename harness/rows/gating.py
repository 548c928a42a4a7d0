"""Conversion of two scored runs to one paired evaluation.

The runs are compared fairly, on one metric. Its name, direction and scale are given, known by name, or refused.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from harness.artifacts.digests import digest_value
from harness.errors import UsageError, did_you_mean
from harness.records.metrics import Metric
from harness.records.samples import Caveat, Result, Sample, Score
from harness.records.scales import Scale
from harness.rows import comparability, pairing
from harness.rows.comparability import FactDifferences
from harness.rows.pairing import PairedRows, Rows
from harness.rows.readers.fields import HARM_WORDS, HIGHER_METRICS, LOWER_METRICS, SHARES, are_close
from harness.rows.records import Better, RawRow, RawRows, Wanted
from harness.rows.wording import MissingOptionError, write_option
from harness.texts.counts import agree_verb, count_noun
from harness.texts.escaping import printable
from harness.texts.shortening import shorten

MAX_EXAMPLES = 3  # rows and reasons that are named
MAX_REASON_CHARS = 60  # characters of a reason by which errors are counted
HEX_DIGITS = 32  # hex digits of what a row is known by, as in `RawRow.content`
MAX_ROWS = 50_000  # rows of an evaluation that are all written, and so held until then
UNKNOWN_PREFIX = "unknown on both sides: "
TRUST = "rows are taken on trust; no weights were seen"
NO_VALUES: Mapping[str, float] = {}  # one for all scores, of which there may be millions
STATE_TEXTS = {
    "error": "ended in an error", "limit": "ended at a limit", "skipped": "were skipped", "absent": "are missing",
    "short": "have too few repeats",
}  # fmt: skip
MAX_SCORE = 1e100  # of a score: sums of such are numbers
STATES = ("scored", "error", "limit", "skipped", "unscored", "absent", "short")
ROW_FIELDS = {  # of a row, alike in its repeats, by what a user calls them
    "cluster": "cluster", "second_cluster": "cluster", "slices": "slice", "weight": "weight", "lengths": "length",
}  # fmt: skip


@dataclass(frozen=True)
class MeasuredRows:
    """The rows of two runs as an evaluation of ours: samples, results by subject, and what was found on the way."""

    name: str  # of the evaluation
    want: Wanted
    runs: Mapping[str, RawRows]
    pairs: PairedRows
    metric: Metric
    metric_reason: str  # its direction is known
    differences: FactDifferences
    samples: tuple[Sample, ...]
    results: Mapping[str, Result]
    states: Mapping[str, Mapping[str, int]]
    notes: Sequence[str] = ()

    @property
    def conditions(self) -> list[str]:
        """The conditions under which a verdict on these rows holds.

        Each is a part of its reason; the last states the trust in the rows.
        """
        found = [f"{UNKNOWN_PREFIX}{', '.join(self.differences.unknown)}"] if self.differences.unknown else []
        found += [f"allowed: {text}" for text in self.differences.allowed]
        if any(self.pairs.dropped):
            one, other = self.pairs.dropped
            what = f"{count_noun(one, 'row')} only in base and {other:,} only in candidate are left out"
            found.append(f"{what} (--only-common)")
        lost = {side: sum(told.values()) - told.get("scored", 0) for side, told in self.states.items()}
        if self.want.missing == "wrong" and any(lost.values()):
            told = " and ".join(f"{n:,} of {side}" for side, n in lost.items() if n)
            how = "count as the worst value to prove the claim and as the best to refute it (--missing wrong)"
            found.append(f"rows without a score, {told}, {how}")
        run = self.runs["candidate"]
        found += [*self.notes, *run.cluster_notes]
        bound = {"none": TRUST, "named": f"rows are taken on trust, from a run of a model named {printable(run.bound)}"}
        return [*found, bound.get(run.binding, f"rows are taken on trust, claimed to be of {printable(run.bound)}")]

    @property
    def base_is_worst(self) -> bool:
        """Return whether no row of the base could get worse."""
        worst = worst_value(self.metric)
        scores = self.results["base"].scores if "base" in self.results else ()
        return worst is not None and bool(scores) and all(s.values[self.metric.name] == worst for s in scores)


def measure_rows(name: str, runs: dict[str, RawRows], want: Wanted) -> MeasuredRows:
    """Pair and measure the rows of one or two runs.

    These are a base and a candidate, or a candidate alone. Raises UsageError if they cannot be read as one metric of
    the same rows, or cannot be compared fairly.
    """
    candidate, base, same = runs["candidate"], runs.get("base"), ""
    read = [run.contents for run in runs.values()]
    if base and read[0] and read[0] == read[1] and base.part == candidate.part and base.rows == candidate.rows:
        same = f"base and candidate are the same file (sha256 {shorten(read[0][0], 5)})"
        if comparability.IDENTICAL_TEXT not in (want.allow or ()):
            raise UsageError(
                f"{same}; gate the candidate's scores, or {write_option('allow', 'identical')} if that is intended"
            )
    if base and base.tasks != candidate.tasks:
        raise UsageError(_find_one_sided_task_error(base, candidate))
    metric, because = choose_metric([*runs.values()], want)
    pairs = pairing.pair_rows(base or candidate, candidate, only_common=want.only_common)
    fair = comparability.compare_facts(base, candidate, pairs, want.allow or ())
    fair = replace(fair, allowed=(*fair.allowed, *([same] if same else [])))
    if want.missing == "wrong" and worst_value(metric) is None:
        raise UsageError(
            f"{write_option('missing', 'wrong')}: {printable(metric.name)} has no worst value for such a row"
        )
    del candidate, base
    samples = tuple(_make_paired_samples(pairs))
    rows = {"base": pairs.base, "candidate": pairs.candidate}
    few = pairs.count_incomplete(want.repeats)
    notes = [f"{count_noun(few, 'row')} with fewer repeats than the {pairs.usual_repeats} of most"] if few else []
    columns = {side: _make_score_column(side, pairs, metric, want) for side in runs}
    if len(samples) > MAX_ROWS:  # what is needed no more is half of the memory
        for side in rows:
            runs |= {side: replace(runs[side], rows=())} if side in runs else {}
            rows[side].found.clear()
    results = {side: _make_result(side, name, runs[side], samples, column, metric) for side, column in columns.items()}
    states = {side: column.states for side, column in columns.items()}
    return MeasuredRows(name, want, runs, pairs, metric, because, fair, samples, results, states, notes)


def _find_one_sided_task_error(base: RawRows, candidate: RawRows) -> str:
    """Return the error for tasks that only one side has.

    The means of the sides would be of different tasks.
    """
    theirs, ours = ({*run.tasks} or {run.task} for run in (base, candidate))
    side, lacking = ("candidate", theirs - ours) if theirs - ours else ("base", ours - theirs)
    names = ", ".join(f'"{printable(name)}"' for name in sorted(lacking)[:MAX_EXAMPLES])
    say = write_option("metric", "TASK:NAME")
    return f"{side}: has no rows of {names}; run the same tasks, or name one with {say}"


def choose_metric(runs: Sequence[RawRows], want: Wanted) -> tuple[Metric, str]:
    """Return the requested metric, and the source of its direction.

    Raises UsageError if it is not settled, or a score or weight is invalid.
    """
    first = runs[0]
    unread = {n: m.unreadable for run in runs for n, m in run.metrics.items() if m.unreadable}
    readable = [n for n in first.metrics if n not in unread and all(n in run.metrics for run in runs)]
    where = printable(first.task)
    if want.metric in unread:
        raise UsageError(f'{where}: "{want.metric}" {unread[want.metric]}; it cannot be read from these rows')
    if want.metric and want.metric not in readable:
        raise UsageError(f'{where}: there is no metric "{want.metric}"{did_you_mean(want.metric, readable)}')
    if not want.metric and not readable:
        raise UsageError(f"{where}: has no readable metric")
    if not want.metric and len(readable) > 1:
        known = ", ".join(f"{printable(n)} ({_average_rows(first.rows, n):.3g})" for n in readable)
        way = write_option("metric", printable(readable[0]))
        message = f"{where}: has several metrics, {known}; name one with {way}"
        raise MissingOptionError(message, name="metric", value=readable[0], reason=f"one of the metrics {known}")
    name = want.metric or readable[0]
    values = [v for run in runs for row in run.rows if (v := row.values.get(name)) is not None]
    for run in runs:
        heavy = (w for row in run.rows if not 1 / MAX_SCORE <= (w := row_weight(row, name)) <= MAX_SCORE and w)
        if odd_weight := next(heavy, None):
            what = f"it must be 0, or from {1 / MAX_SCORE:g} to {MAX_SCORE:g}"
            raise UsageError(f"{where}: a row has weight {odd_weight:g}; {what}")
    if odd := [v for v in values if not abs(v) <= MAX_SCORE]:
        raise UsageError(f"{where}: {printable(name)} is {odd[0]:g} on {len(odd):,} rows, which is not a score")
    known, is_binary = _strip_metric_name(name), set(values) <= {0.0, 1.0}
    scale = (
        want.scale
        or _require_same_metric_value(runs, name, "scale")
        or ("proportion" if known in SHARES or is_binary else "mean")
    )
    better, because = _choose_direction(runs, name, want, is_binary)
    metric, ranges = (
        Metric(name, cast("Better", better), cast("Scale", scale)),
        {run.metrics[name].range for run in runs},
    )
    if len(ranges) == 1 and not metric.is_share:  # runs that declare two ranges declare none
        metric = replace(metric, range=ranges.pop())
    if metric.is_share and (beyond := [v for v in values if not 0 <= v <= 1]):
        scale = write_option("scale", "mean")
        raise UsageError(f"{printable(name)}: {beyond[0]:g} is not a proportion; divide by 100, or use {scale}")
    for run in runs:
        _require_rows_match_total(run, metric)
    return metric, because


def _choose_direction(runs: Sequence[RawRows], name: str, want: Wanted, is_binary: bool) -> tuple[str, str]:
    """Return which way a metric is better, and the source of that. Raises UsageError if it is not settled."""
    known, word = _strip_metric_name(name), _find_harm_word(name, want)
    if want.better:
        return str(want.better), "as given"
    if told := _require_same_metric_value(runs, name, "better"):
        return told, "according to the file"
    if known in LOWER_METRICS:
        return "lower", "by its name"
    if known in HIGHER_METRICS and not ("." in name and word):  # attack.success
        return "higher", "by its name"
    if is_binary and not word:
        return "higher", "every value is 0 or 1"
    raise _make_unknown_direction_error(name, word, is_binary)


def _strip_metric_name(name: str) -> str:
    """Return a metric's name as the sets of known names have it: "acc" of "metric.acc"."""
    return name.lower().replace("-", "_").rpartition(".")[2]


def _find_harm_word(name: str, want: Wanted) -> str:
    """Return a word in a score's name or columns by which 1 may be the bad value, else an empty text."""
    names = " ".join((name, want.score, want.base_score, want.candidate_score)).lower()
    return next((one for one in re.split(r"[\W_]+", names) if one in LOWER_METRICS), "") or next(
        (word for word in HARM_WORDS if word in names), ""
    )


def _make_unknown_direction_error(name: str, word: str, is_binary: bool) -> MissingOptionError:
    """Return the error for a metric of which nothing tells whether higher is better, with the likelier way."""
    higher, lower = (write_option("better", way) for way in ("higher", "lower"))
    because = f' (every value is 0 or 1, but with "{word}" in its name 1 may be bad)' if word and is_binary else ""
    what = f"whether higher or lower is better is unknown{because}"
    message = f'{printable(name)}: {what}; use {higher} or {lower} (better = "higher" in a suite)'
    value = "lower" if word else "higher"
    reason = f'whether higher or lower "{printable(name)}" is better; or {higher if word else lower}'
    return MissingOptionError(message, name="better", value=value, reason=reason)


def row_weight(row: RawRow, name: str) -> float:
    """Return the weight of a row in a metric."""
    return row.weight * row.lengths.get(name, 1.0)


def _require_same_metric_value(runs: Sequence[RawRows], name: str, what: str) -> str:
    """Return the scale or direction that files give a metric.

    Raises UsageError if they differ.
    """
    sides = zip(("base", "candidate")[-len(runs) :], runs, strict=True)
    told = {side: str(v) for side, run in sides if (v := getattr(run.metrics[name], what)) is not None}
    if len({*told.values()}) > 1:
        says = ", ".join(f"{side} says {what} = {value}" for side, value in told.items())
        raise UsageError(
            f"{printable(name)}: {says}, so they are different metrics; gate another one with {write_option('metric')}"
        )
    return next(iter(told.values()), "")


def _require_rows_match_total(run: RawRows, metric: Metric) -> None:
    """Raise UsageError if the rows do not give the tool's total.

    The total is the tool's own number over its scored rows.
    """
    if (total := run.metrics[metric.name].total) is None:
        return
    rows = [(v, row_weight(row, metric.name)) for row in run.rows if (v := row.values.get(metric.name)) is not None]
    whole = math.fsum(w for _, w in rows)
    found = metric.from_test_scale(math.fsum(v * w for v, w in rows) / whole) if whole else math.nan
    if not are_close(found, total):
        what = f"the rows give {found:.6g}, but its results file says {total:.6g}"
        raise UsageError(f"{printable(run.task)} {metric.name}: {what}; the file is truncated, or of another run")


def _average_rows(rows: Iterable[RawRow], name: str) -> float:
    values = [v for row in rows if (v := row.values.get(name)) is not None and abs(v) <= MAX_SCORE]
    return math.fsum(values) / len(values) if values else math.nan


def worst_value(metric: Metric) -> float | None:
    """Return the worst possible value of a row.

    None unless the metric is a share.
    """
    return (0.0 if metric.better == "higher" else 1.0) if metric.is_share else None


def _make_paired_samples(pairs: PairedRows) -> list[Sample]:
    """Return the rows as they are judged. Raises UsageError where the sides tell of other clusters or slices.

    Their keys, here and in the ledger of attempts, are what was asked, else their ids, which say less: the same ids
    are taken for the same rows, whatever a file or a task is called.
    """
    found = []
    for name, theirs, ours in zip(pairs.names, pairs.base, pairs.candidate, strict=True):
        one = (ours or theirs)[0]
        for side, rows in (("candidate", ours), ("base", theirs)):
            if len(rows) > 1 and (what := _find_different_field(rows)):
                raise UsageError(
                    f'{side}: repeats of row "{printable(name)}" differ in {what}, which is of the row; give each '
                    f"repeat the same, or tell rows apart with {write_option('id', 'COLUMN')}"
                )
        key = digest_value(["id", name])[:HEX_DIGITS] if pairs.how == "id" else one.content
        other = theirs[0] if theirs else one
        fields = [(getattr(one, f), getattr(other, f)) for f in ("cluster", "second_cluster", "slices")]
        if any(a and b and a != b for a, b in fields):
            raise UsageError(f'row "{printable(name)}" has another cluster or slice in base than in candidate')
        cluster, second, slices = (a or b for a, b in fields)
        found.append(Sample(name, row=slices, cluster=cluster or None, key=key, second_cluster=second or None))
    return found


def _find_different_field(repeats: Rows) -> str:
    """Return which field of a row its repeats give different values, or an empty text."""
    one = repeats[0]
    return next((what for f, what in ROW_FIELDS.items() if any(getattr(r, f) != getattr(one, f) for r in repeats)), "")


def _find_row_state(rows: Rows, name: str, wanted: int) -> str:
    """Return a row's state, the worst among its repeats.

    A row with fewer repeats than `wanted` is "short", one without any "absent".
    """
    found = {"unscored" if row.state == "scored" and name not in row.values else row.state for row in rows}
    whole = "scored" if len(rows) >= wanted else "short"
    return next((state for state in STATES[1:] if state in found), whole) if rows else "absent"


@dataclass(frozen=True)
class ScoreColumn:
    """The scores of one side, row by row.

    A value is None if it is unknown; `shares` are the shares of repeats without a score. `counts` says whether rows
    without a score count, or there is no verdict for them; `lost` says why they have none.
    """

    values: Sequence[float | None]
    shares: Sequence[float]
    weights: Sequence[float]
    states: Mapping[str, int]
    counts: bool = False
    lost: str = ""


def _make_score_column(side: str, pairs: PairedRows, metric: Metric, want: Wanted) -> ScoreColumn:
    """Return the scores of one side.

    Raises UsageError if a row has more repeats than required.
    """
    name, wanted = metric.name, pairs.wanted_repeats(side, want.repeats)
    rows, others = (pairs.base, pairs.candidate) if side == "base" else (pairs.candidate, pairs.base)
    weights = [row_weight((own or other)[0], name) for own, other in zip(rows, others, strict=True)]
    known = [[row.values[name] for row in own if row.state == "scored" and name in row.values] for own in rows]
    if over := [i for i, (own, n) in enumerate(zip(rows, wanted, strict=True)) if len(own) > n]:
        what = f'"{printable(pairs.names[over[0]])}" has {len(rows[over[0]])} repeats in {side}'
        raise UsageError(f"{write_option('repeats', want.repeats)}: {what}; give the number that each row has")
    if want.repeats > 1 and max(map(len, rows), default=0) == 1:
        what = f"{side} has one answer per row; remove it, or name the column of the repeat"
        raise UsageError(f"{write_option('repeats', want.repeats)}: {what} with {write_option('repeat', 'COLUMN')}")
    values = [math.fsum(own) / len(own) if own else None for own in known]
    shares = [1 - len(own) / n for own, n in zip(known, wanted, strict=True)]
    if not any(shares):
        return ScoreColumn(values, shares, weights, {"scored": len(values)})
    each = zip(pairs.names, rows, wanted, shares, strict=True)
    lost = [(called, own, _find_row_state(own, name, n)) for called, own, n, share in each if share]
    told = ", ".join(
        f"{count_noun(n, 'row')} {agree_verb(n, STATE_TEXTS.get(s, 'have no score'))}"
        for s, n in Counter(s for *_, s in lost).items()
    )
    why = Counter(row.why[:MAX_REASON_CHARS] for _, own, _ in lost for row in own if row.why)
    reasons = f" ({', '.join(f'{n} {printable(text)}' for text, n in why.most_common(MAX_EXAMPLES))})" if why else ""
    some = ", ".join(f'"{printable(called)}"' for called, *_ in lost[:MAX_EXAMPLES])
    whole = " all rows;" if len(lost) == len(rows) else ""
    says = f"{side}: {told}{reasons},{whole} {some}; rerun them, or {write_option('missing', 'wrong')}"
    states = Counter(_find_row_state(own, name, n) for own, n in zip(rows, wanted, strict=True))
    counts = want.missing == "wrong" and worst_value(metric) is not None and any(v is not None for v in values)
    return ScoreColumn(values, shares, weights, states, counts, says)


def _make_result(
    side: str, name: str, run: RawRows, samples: Sequence[Sample], column: ScoreColumn, metric: Metric
) -> Result:
    """Return a run as a Result of ours.

    Its digest is that of the claimed weights, else of the side and its scores. The side counts, since equal scores do
    not prove that base and candidate are one model.
    """
    values = {v: {metric.name: v} for v in {*column.values} if v is not None}  # one for all rows that scored alike
    scores, missing, lost = list[Score](), list[str](), (metric.name,)
    for s, v, share, w in zip(samples, column.values, column.shares, column.weights, strict=True):
        if share and not column.counts:
            missing.append(s.id)
        elif v is None:
            scores.append(Score(s.id, {metric.name: 0.0}, w, weights={metric.name: 0.0}, details=NO_VALUES, lost=lost))
        else:
            part = {metric.name: share} if share else NO_VALUES
            scores.append(Score(s.id, values[v], w, weights=NO_VALUES, details=NO_VALUES, partly_lost=part))
    lines = zip((s.key for s in samples), map(str, column.values), column.shares, column.weights, strict=True)
    digest = hashlib.sha256(f"{side} {sorted(lines)}".encode())
    caveats = (Caveat(column.lost, "ERROR"),) if missing else ()
    means = {metric.name: metric.value(scores)} if scores else {}
    known = run.bound.removeprefix("sha256:") if run.binding == "claimed" else digest.hexdigest()
    return Result(side, name, tuple(scores), means, known, tuple(missing), caveats=caveats)
