"""The layer of gates: evidence rows run again through the runtime.

They are paired with the gated model's scores. The claim on each metric that a gate is about: at most so much worse than
the evidence, by the test of a gate.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness import Gate, ModelRef, Outcome, Result, UsageError, Verdict
from harness.internals import ReplayRows, decide, score_from_row, verdict_text
from harness_api import load
from harness_served.parity import DIFFERS, SAME, UNKNOWN, UNPROVEN, LayerVerdict, Parity

DEFAULT_MARGIN = 0.03  # of a proportion, and a share of what else is measured, where no gate of the suite says how much
VERSUS = "evidence"
CHANGE_COUNTS = {
    "worse": "lost_count",
    "better": "won_count",
    "rows": "n",
    **{n: n for n in ("estimate", "lower", "upper")},
}


def compare_gates(parity: Parity) -> LayerVerdict:
    """Run the rows again and decide the claims.

    `differs` is proven to be worse by more than the margin.
    """
    asked, runtime = parity.again, parity.runtime
    if asked is None:
        return LayerVerdict(UNPROVEN, "needs the suite that the export passed; add --suite SUITE")
    claims = list(_iterate_claims(asked))
    if not claims:
        return LayerVerdict(UNPROVEN, "no gate of the suite is on rows that can be run again")
    unheard, results = "", dict[str, Result]()
    where = {"base_url": runtime.server.url, "api_key_env": runtime.server.variable, "retries": 2}
    with load([ModelRef(asked.told.candidate, runtime.model)], **where) as [subject]:
        for name in dict.fromkeys(claim.eval for claim in claims):
            try:
                results[name] = asked.answer_rows(name, subject)
            except UsageError as error:
                unheard = unheard or str(error)
                parity.notes.append(f'gates: "{name}" cannot be run: {error}')
    verdicts = [
        _decide_claim(asked, c, results[c.eval], parity.alpha / len(claims)) for c in claims if c.eval in results
    ]
    if not verdicts:
        return LayerVerdict(UNKNOWN, unheard)
    told = ((f"{v.metric} {key}", getattr(v, name)) for v in verdicts for key, name in CHANGE_COUNTS.items())
    numbers = {key: float(value) for key, value in told if value is not None}
    for outcome, layer in ((Outcome.FAIL, DIFFERS), (Outcome.ERROR, UNPROVEN), (Outcome.INCONCLUSIVE, UNPROVEN)):
        if (worst := next((v for v in verdicts if v.outcome is outcome), None)) is not None:
            return LayerVerdict(layer, _describe_verdict(worst), "rows", numbers)
    if unheard:
        return LayerVerdict(UNPROVEN, unheard, "rows", numbers)
    return LayerVerdict(SAME, "; ".join(map(_describe_verdict, verdicts)), "rows", numbers)


def _iterate_claims(asked: ReplayRows) -> Iterator[Gate]:
    """Yield a claim for each gated metric, with its narrowest margin."""
    margins: dict[str, list[Gate]] = {}
    for gate in asked.gates:
        metric = asked.collection.tasks[gate.eval].metrics.get(gate.metric_name) if gate.eval in asked.drawn else None
        fit = metric is not None and not (metric.combine or metric.is_count or metric.is_agreement)
        if fit and gate.applies_to(asked.told.candidate):
            margins.setdefault(gate.metric, []).append(gate)
    for name, gates in margins.items():
        own = [g for g in gates if g.worse_by_at_most is not None]
        share = asked.collection.tasks[gates[0].eval].metrics[gates[0].metric_name].is_share
        margin = (
            max(own, key=lambda g: g.margin).worse_by_at_most
            if own
            else DEFAULT_MARGIN
            if share
            else f"{DEFAULT_MARGIN:.0%}"
        )
        yield Gate(name, metric=name, versus=VERSUS, worse_by_at_most=margin, allow_approximate=True)


def _decide_claim(asked: ReplayRows, claim: Gate, ours: Result, alpha: float) -> Verdict:
    """Decide a claim on the rows with scores in the evidence. Private rows have none."""
    task, known = asked.collection.tasks[claim.eval], asked.known[claim.eval]
    told = [number for number in asked.drawn[claim.eval] if "values" in known[number]]
    samples = [(task.samples or ())[number] for number in told]
    theirs = tuple(score_from_row(known[number]) for number in told)
    evidence = Result(VERSUS, claim.eval, theirs, {}, asked.told.weights)
    return decide(claim, task.metrics[claim.metric_name], ours, evidence, samples, alpha, name=asked.told.candidate)


def _describe_verdict(verdict: Verdict) -> str:
    if verdict.outcome is Outcome.ERROR:
        return f"{verdict.metric}: {verdict.why}"
    changed = f"{verdict.n} rows: {verdict.lost_count} worse, {verdict.won_count} better"
    return f"{verdict.metric}, {changed}; {verdict.claim}{verdict_text.format_margin_points(verdict)}: {verdict.why}"
