"""Provable claims of two runs scored on the same rows.

They are known before a claim is made, and never show which run is ahead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.gates.clusterings import coarsest_cluster_of_rows
from harness.planning.few_rows import describe_few_rows
from harness.planning.history import PastRows
from harness.planning.power import GatePower
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.samples import Sample, Score
from harness.stats import power
from harness.texts.counts import agree_verb, count_noun

MARGINS = (0.01, 0.02, 0.05)  # of proportions, for which the rows needed are shown


@dataclass(frozen=True)
class PairForecast:
    """Rows, differences and provable claims of two runs.

    Claims are proven with power 0.8. `discordant` counts the rows that differ, of 0/1 rows; `deviation` is the root
    mean square of a row's difference, which shows no direction. `margin` is the least that an equal candidate is proven
    to be worse by at most, and `gain` the least by which a candidate must be better to be proven better at all; "" if
    there is none. `needed` holds, by margin, the rows that an equal candidate needs.
    """

    metric: str
    rows: int
    clusters: int | None
    unscored: int
    discordant: int | None
    deviation: float
    alpha: float
    margin: str
    gain: str
    needed: Mapping[float, int | None]
    risk: str
    few: str


def forecast_pair(
    metric: Metric, samples: Sequence[Sample], ours: Mapping[str, Score], theirs: Mapping[str, Score], alpha: float
) -> PairForecast:
    """Forecast the provable claims of rows scored on both sides. Raises ValueError below two rows."""
    name = metric.name
    both = [s for s in samples if all(s.id in side and name not in side[s.id].lost for side in (ours, theirs))]
    kept = [s for s in both if ours[s.id].weight_of(name) or theirs[s.id].weight_of(name)]
    if len(kept) < 2:
        some = f"{count_noun(len(kept), 'row')} {agree_verb(len(kept), 'have a score on both sides')}"
        raise ValueError(f"{some}; two or more are needed")
    sides = [{s.id: (side[s.id].values[name], side[s.id].weight_of(name)) for s in kept} for side in (ours, theirs)]
    past = PastRows(None, kept, sides[0], sides[1])
    gate = Gate("plan", f"rows.{name}", versus="base", worse_by_at_most=0.0, allow_approximate=True)
    case = GatePower(gate, metric, tuple(coarsest_cluster_of_rows(kept)), None, alpha, past, None)
    differences = [sides[0][s.id][0] - sides[1][s.id][0] for s in kept]
    known = bool(case.chance is not None) and any(differences) and not case.cannot_pass
    least = case.minimum_detectable if known else None
    return PairForecast(
        name, len(kept), case.count if case.clustered else None, len(samples) - len(both),
        sum(map(bool, differences)) if case.is_binary else None,
        math.sqrt(math.fsum(d * d for d in differences) / len(kept)), alpha,
        case.describe_provable().removeprefix("a margin of ") if known else "",
        "" if least is None else case.format_value(case.to_metric_units(least)).lstrip("+−"),
        {m: _find_rows_needed(case, m) for m in MARGINS} if known and metric.is_share else {}, gate.risk(metric),
        describe_few_rows(case),
    )  # fmt: skip


def _find_rows_needed(case: GatePower, margin: float) -> int | None:
    """Return the rows an equal candidate needs for a margin."""
    found = case.search(power.search_rows, lambda n: (0.0, -margin, n / case.n))
    return None if found is None else math.ceil(found)
