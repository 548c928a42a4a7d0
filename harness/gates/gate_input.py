"""Phase 1 of a verdict: whether a gate can be judged, on which rows and slices, or why not.

No row is left out by what it scored. It imports no statistics, so collection may import it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.gates.clusterings import count_repeated_questions
from harness.records.claims.gate import FEWEST_SEEDS, Gate
from harness.records.metrics import Metric
from harness.records.parts import CONDITIONS
from harness.records.parts.part import Part, SideScores, format_example_ids
from harness.records.parts.reason import Reason
from harness.records.samples import Labels, Result, Sample, Score
from harness.records.verdict_text import complete
from harness.records.verdicts import Outcome, Verdict
from harness.texts.counts import agree_verb, count_noun

Slices = dict[str, list[Sample]]


@dataclass(frozen=True)
class GateInput:
    """A gate that can be judged: the scores by id of row, and its rows, all of them and slice by slice.

    With `early` the rows stand in the random order in which they were looked at; `labels` are the metric's. Of a recipe
    the `runs` are those of its seeds, else there is the candidate's alone; so are `baselines`, empty without one.
    """

    gate: Gate
    metric: Metric
    runs: Sequence[Mapping[str, Score]]
    baselines: Sequence[Mapping[str, Score]]
    rows: list[Sample]
    slices: Slices
    alpha: float
    digest: str
    early: bool
    labels: Labels | None
    repeated: Mapping[str, int]  # of rows that ask what others ask, see `harness.gates.clusterings`
    labelled: int = 0  # rows that people labelled on both sides, which alone decide


@dataclass(frozen=True)
class Unjudgeable:
    """A gate that cannot be judged, with the part that says why."""

    part: Part
    outcome: Outcome = Outcome.ERROR
    digest: str = ""
    n: int = 0


def make_gate_input(
    gate: Gate,
    metric: Metric | None,
    candidate: Result | None,
    baseline: Result | None,
    samples: Sequence[Sample],
    alpha: float,
    without: Collection[str] = (),
) -> GateInput | Unjudgeable:
    """Prepare a gate's input, or explain why it is unjudgeable.

    Reasons are input that is missing, not finite or not paired. `without` holds ids of rows that are left out.
    """
    # a caveat opens no gate; an ERROR comes before an INCONCLUSIVE
    runs, baselines = _list_judged_results(gate, candidate), _list_judged_results(gate, baseline)
    caveats = [c for r in (*runs, *baselines) for c in r.caveats if c.blocks(gate.metric_name)]
    if caveat := min(caveats, key=lambda c: c.outcome != "ERROR", default=None):
        outcome = Outcome.INCONCLUSIVE if caveat.outcome == "INCONCLUSIVE" else Outcome.ERROR
        return Unjudgeable(Reason(caveat.text), outcome)
    kept = [s for s in samples if s.id not in without] if without else list(samples)
    slices = gate.rows_by_slice(kept)
    why = _find_missing_input_error(gate, metric, candidate, baseline, slices)
    if why or metric is None or candidate is None:
        return Unjudgeable(Reason(why or "there is no result"))
    if gate.of == "recipe" and (why := _find_recipe_runs_error(runs)):
        return Unjudgeable(Reason(why), digest=candidate.digest)
    labels = candidate.labels_of(metric.name)
    if gate.versus and baseline and labels and labels.rows and (others := baseline.labels_of(metric.name)):
        return _make_labelled_gate_input(
            gate, replace(metric, labelled=False), candidate, (labels, others), kept, alpha
        )
    if labels and (gate.slice or gate.estimand != "rows"):
        of = "slices" if gate.slice else f"the mean over {gate.estimand}"
        why = f"the labels that correct {metric.name} cover all rows and cannot correct {of} alone"
        return Unjudgeable(Reason(why), digest=candidate.digest)
    rows = _select_gated_rows(gate, kept, slices, candidate.order)
    results = [*runs, *baselines]
    by_id = [{s.id: s for s in result.scores} for result in results]
    for result, scores in zip(results, by_id, strict=True):
        if why := _find_scores_error(result, scores, metric, rows, samples, gate.range):
            return Unjudgeable(Reason(f"{result.subject}: {why}"), digest=candidate.digest, n=len(rows))
    if why := _find_binary_cap_error(gate, metric, by_id, rows):
        return Unjudgeable(Reason(why), digest=candidate.digest, n=len(rows))
    scored = SideScores(metric, rows, {r.subject: own for r, own in zip(results, by_id, strict=True)})
    for condition in CONDITIONS:
        if obstacle := condition.find_obstacle(gate, scored):
            return Unjudgeable(obstacle, digest=candidate.digest, n=len(rows))
    early = bool(candidate.order)
    # what counts rows counts all of them, and of rows asked one by one collection refuses repeats
    by_question = not (gate.kind.counts or metric.is_count or metric.is_agreement or early)
    again = count_repeated_questions(rows) if by_question else {}
    sides = by_id[: len(runs)], by_id[len(runs) :]
    return GateInput(gate, metric, *sides, rows, slices, alpha, candidate.digest, early, labels, again)


def _make_labelled_gate_input(
    gate: Gate, metric: Metric, candidate: Result, labels: tuple[Labels, Labels], kept: Sequence[Sample], alpha: float
) -> GateInput | Unjudgeable:
    """Prepare a comparison on rows labelled on both sides.

    No other rows are used: an instrument may err differently on the other model, and its values of more rows gain
    little.
    """
    ours, theirs = (
        {i: Score(i, {metric.name: truth}) for i, truth in zip(one.rows, one.truth, strict=True)} for one in labels
    )
    rows = [s for s in kept if s.id in ours and s.id in theirs]
    slices = gate.rows_by_slice(rows)
    if why := _find_missing_input_error(gate, metric, candidate, candidate, slices) if not rows or gate.slice else "":
        return Unjudgeable(Reason(why), Outcome.INCONCLUSIVE, candidate.digest)
    rows = _select_gated_rows(gate, rows, slices, ())
    return GateInput(gate, metric, [ours], [theirs], rows, slices, alpha, candidate.digest, False, None, {}, len(rows))


def error_verdict(gate: Gate, candidate: str, why: str, alpha: float, metric: Metric | None = None) -> Verdict:
    """Make an ERROR verdict without rows. With an empty `why` it is a blank, to be filled in."""
    claim = gate.metric, gate.claim(), gate.blocking, gate.versus
    blank = Verdict(gate.id, candidate, Outcome.ERROR, "", *claim, alpha=alpha, terms=gate.terms(metric))
    return as_error(blank, why) if why else blank


def as_error(verdict: Verdict, why: str) -> Verdict:
    """Return a verdict that says why it could not be given."""
    return complete(verdict, Reason(why))


def _select_gated_rows(gate: Gate, kept: list[Sample], slices: Slices, order: Sequence[str]) -> list[Sample]:
    """Return the gate's rows, each once. In the order of evaluation, if there is one."""
    if order:
        by_id = {s.id: s for s in kept}
        return [by_id[i] for i in order if i in by_id]
    return list({s.id: s for rows in slices.values() for s in rows}.values()) if gate.slice else kept


def _find_missing_input_error(
    gate: Gate, metric: Metric | None, candidate: Result | None, baseline: Result | None, slices: Slices
) -> str:
    """Explain why there is no input to judge. Empty if there is."""
    if candidate is None:
        return f'"{gate.eval}" was not evaluated'
    if metric is None:
        return f'"{gate.eval}" has no metric "{gate.metric_name}"'
    if not slices:
        return "the evaluation has no rows"
    if empty := [name for name, rows in slices.items() if not rows]:
        return f'slice "{empty[0]}" has no rows' if gate.slice else "the evaluation has no rows"
    if not gate.versus:
        return ""
    if baseline is None:
        return f'the baseline "{gate.versus}" was not evaluated'
    if baseline.digest == candidate.digest:
        return (
            f"candidate and baseline have identical weights (digest {candidate.digest[:12]}), "
            "so there is nothing to compare"
        )
    if candidate.rows and baseline.rows and candidate.rows != baseline.rows:
        return f'baseline "{gate.versus}" and the candidate were evaluated on different rows'
    return ""


def _list_judged_results(gate: Gate, result: Result | None) -> list[Result]:
    """Return the results that a gate judges of one side: of a recipe those of all seeds."""
    if result is None:
        return []
    return [result, *result.other_runs] if gate.of == "recipe" else [result]


def _find_recipe_runs_error(runs: Sequence[Result]) -> str:
    """Explain why runs are not those of one recipe.

    Empty if they are: enough of them, each with its own weights, on the same rows.
    """
    if len(runs) < FEWEST_SEEDS:
        there = count_noun(len(runs), "run")
        return f"{there} of the recipe, but at least {FEWEST_SEEDS} are needed; set seeds in [train]"
    for i, run in enumerate(runs):
        if twin := next((other.subject for other in runs[:i] if other.digest == run.digest), ""):
            return f"{twin} and {run.subject} have identical weights, so the trainer does not use its seed"
        if run.rows and runs[0].rows and run.rows != runs[0].rows:
            return f"{run.subject} and {runs[0].subject} were evaluated on different rows"
    return ""


def _find_scores_error(
    result: Result, scores: dict[str, Score], metric: Metric, rows: Sequence[Sample], samples: Sequence[Sample],
    limits: Sequence[float] | None,
) -> str:  # fmt: skip
    """Describe an error in a result's scores of the rows. Empty if there is none."""
    if missing := [s.id for s in rows if s.id not in scores]:
        return f"{len(missing)} of {len(rows)} rows have no score, {format_example_ids(missing)}"
    if len(scores) > len(rows) and (strange := list(scores.keys() - {s.id for s in samples})):
        return f"the result has {len(strange)} rows that are not in the evaluation, {format_example_ids(strange)}"
    if len(scores) < len(result.scores):
        return "a row was scored twice"
    if metric.is_agreement:
        return ""  # of labels, and of no row
    judged = [scores[s.id] for s in rows]
    name = metric.name
    if metric.combine:
        return "" if math.isfinite(metric.value(judged)) else f"{name} is not a finite number"
    if lacking := [s.id for s in judged if name not in s.values]:
        some = f"{count_noun(len(lacking), 'row')} {agree_verb(len(lacking), 'have')}"
        return f'{some} no "{name}", {format_example_ids(lacking)}'
    if odd := [s.id for s in judged if not (math.isfinite(s.values[name]) and math.isfinite(s.weight_of(name)))]:
        return f"{name} is not a finite number on {len(odd)} rows, {format_example_ids(odd)}"
    weights = [s.weight_of(name) for s in judged]
    if math.fsum(weights) <= 0 or min(weights) < 0:
        return f"the weights of {name} do not sum to more than zero"
    if metric.is_share and (beyond := [s.id for s in judged if not 0 <= s.values[name] <= 1]):
        return f"{name} is a proportion, but not between 0 and 1 on {len(beyond)} rows, {format_example_ids(beyond)}"
    low, high = limits or metric.row_range
    if beyond := [s.id for s in judged if not low <= s.values[name] <= high]:
        return f"{name} is outside its range {low:g} to {high:g} on {len(beyond)} rows, {format_example_ids(beyond)}"
    return ""


def _find_binary_cap_error(
    gate: Gate, metric: Metric, sides: Sequence[Mapping[str, Score]], rows: Sequence[Sample]
) -> str:
    """Return that a cap would shrink every change of 0/1 scores alike, or an empty text."""
    if gate.cap is None or gate.cap >= 1 or gate.kind.counts or not metric.is_share or metric.combine:
        return ""
    if all(side[s.id].values[metric.name] in (0, 1) for side in sides for s in rows):
        return f'every {metric.name} is 0 or 1, so a cap of {gate.cap:g} would count each change as that; remove "cap"'
    return ""
