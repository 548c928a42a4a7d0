"""The result of a run in one sentence, and its deciding gate."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.errors import ExitCode
from harness.records import verdict_text
from harness.records.changes import Change
from harness.records.run import Run
from harness.records.verdicts import Outcome, Verdict

GLYPHS = {Outcome.PASS: "✓", Outcome.FAIL: "✗", Outcome.INCONCLUSIVE: "?", Outcome.ERROR: "!"}  # beside its word
RANKS = {Outcome.FAIL: 0, Outcome.ERROR: 1, Outcome.INCONCLUSIVE: 2, Outcome.PASS: 3}
NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
NOT_ASKED = ("--no-export",)  # the reasons of an export that verdicts allow
WORDS = {Outcome.FAIL: "failed", Outcome.ERROR: "could not be decided"}


def sort_worst_first(run: Run) -> list[Verdict]:
    """Return the verdicts: what holds something up, then by outcome, then the bound closest to or past its limit."""

    def place(v: Verdict) -> tuple[bool, int, bool, float]:
        return not v.blocks_release, RANKS[v.outcome], not (v.blocking and v.decides), distance_to_limit(v)

    return sorted(run.verdicts, key=place)


def deciding_verdict(run: Run) -> Verdict | None:
    """Return the verdict that decided: the worst of those that block, or where all passed the closest one."""
    found = sort_worst_first(run)
    return next((v for v in found if v.blocking and v.decides), found[0] if found else None)


def largest_gain(run: Run) -> Verdict | None:
    """Return the largest gain proven by a shipping candidate's gate.

    Gains in shares of rows come before those on any other scale.
    """
    asked = [(v, v.terms) for v in run.verdicts if v.decides and v.outcome is Outcome.PASS and v.terms and v.estimate]
    gains = [(a.is_share, abs(v.estimate or 0.0), v) for v, a in asked if a.kind == "difference" and a.threshold >= 0]
    return max(gains, key=lambda g: g[:2])[2] if gains else None


def ungated_losses(run: Run) -> list[Change]:
    """Return proven losses of shipping candidates that no gate covers.

    A loss is from a model to the candidate made of it. The worst come first, shares of rows before other scales. Only
    metrics that gates name and the first metric of each eval count.
    """
    shipping = {v.candidate for v in run.verdicts if v.decides}
    asked = {(v.candidate, v.metric, v.versus) for v in run.verdicts}
    named = {v.metric for v in run.verdicts} | {f"{r.eval}.{m}" for r in run.results for m in [*r.metrics][:1]}
    less = {f"{r.eval}.{m}" for r in run.results for m, way in r.better.items() if way == "lower"}
    found = []
    for c in run.changes:
        name = f"{c.eval}.{c.metric}"
        if c.after not in shipping or name not in named or (c.after, name, c.before) in asked:
            continue
        if c.estimate is not None and c.lower is not None and c.upper is not None:
            lost = c.lower > 0 if name in less else c.upper < 0
            found += [(c.is_share, abs(c.estimate), c)] if lost else []
    return [c for *_, c in sorted(found, key=lambda f: f[:2], reverse=True)]


def run_outcome(run: Run) -> Outcome:
    """Return the overall outcome of a run.

    PASS if something may ship; ERROR if the report was edited, the run ended early, or a gate was not decided.
    """
    gates = run.verdicts
    if run.edited:
        return Outcome.ERROR
    if gates and _list_shippable_candidates(run, gates)[0]:
        return Outcome.PASS
    if run.exit_code == ExitCode.FAILED:
        return Outcome.FAIL
    held = {v.outcome for v in gates if v.blocks_release}
    if run.problem or (Outcome.ERROR in held and Outcome.FAIL not in held):
        return Outcome.ERROR
    return Outcome.INCONCLUSIVE


def waived_and_ignored(run: Run) -> list[str]:
    """Describe each waived gate and each ignored check error."""
    waived = [v for v in sort_worst_first(run) if v.waived and v.decides]
    said = [
        f"{v.gate} on {v.candidate}, {v.waiver.summary()}: {verdict_text.format_reason(v)}" for v in waived if v.waiver
    ]
    return said + ignored_errors(run)


def ignored_errors(run: Run) -> list[str]:
    """Return in words each error of a check that was ignored."""
    return [f"{code} was ignored, {waiver.summary()}" for code, waiver in run.passed_over.items()]


def describe_exemption(v: Verdict) -> str:
    """Explain why a verdict that did not pass blocks nothing. Empty if it passed or blocks."""
    if v.outcome is Outcome.PASS or v.blocks_release:
        return ""
    if v.waived:
        return "waived"
    return "not what ships" if v.blocking else "warn"


def distance_to_limit(v: Verdict) -> float:
    """Return the deciding bound's distance beyond its limit, in half-widths.

    A half-width is half of the interval. Below zero the bound is on the wrong side. Without an interval the distance is
    infinite: positive for PASS, else negative.
    """
    counted = v.terms is None or v.terms.kind == "failures"
    bound = None if v.terms is None or counted else v.lower if v.terms.sign > 0 else v.upper
    if v.terms is None or bound is None or v.threshold is None or v.estimate is None:
        return math.inf if v.outcome is Outcome.PASS else -math.inf
    beyond = v.terms.sign * (bound - v.threshold)
    half = abs(v.estimate - bound) if v.lower is None or v.upper is None else (v.upper - v.lower) / 2
    return beyond / half if half else math.copysign(math.inf, beyond or (1 if v.outcome is Outcome.PASS else -1))


def verdict_sentence(run: Run) -> str:
    """Describe the release decision in one sentence.

    For instance, "nothing ships: one gate failed, one is not proven". An edited report is marked as not verified.
    """
    return f"not verified, the report was changed: {_describe_decision(run)}" if run.edited else _describe_decision(run)


def _describe_decision(run: Run) -> str:
    if not (gates := run.verdicts):
        why = (
            "the run ended early" if run.problem else "a check failed" if any(f.stops_run for f in run.findings) else ""
        )
        return f"nothing ships: {why} before a gate was decided" if why else "nothing ships: no gate was decided"
    shipping, why = _list_shippable_candidates(run, gates)
    if not shipping:
        refuted = any(v.blocks_release and v.outcome is Outcome.FAIL for v in gates)
        one, several = ("does not hold", "do not hold") if refuted else ("is not proven", "are not proven")
        claim = f"the claim {one}" if run.gates == 1 else f"the claims {several}"
        claim += " on these rows"
        return f"{claim if run.is_of_scored_rows else 'nothing ships'}: {why}"
    decide, others = [v for v in gates if v.decides], [v for v in gates if not v.decides]
    passed = sum(v.outcome is Outcome.PASS for v in decide)
    left = [v for v in decide if v.outcome is not Outcome.PASS]  # and yet keeps nothing from shipping
    waived, warned = [v for v in left if v.waived], [v for v in left if not v.blocking and not v.waived]
    other = [v for v in left if v not in waived and v not in warned]
    holds = "the claim holds" if run.gates == 1 else "the claims hold"
    may = f"{holds} on these rows" if run.is_of_scored_rows else f"{join_names(shipping)} may ship"
    parts = [f"{may}: {passed} of {_format_count(len(decide), 'gate')} passed"]
    parts += [f"{_spell_number(len(waived))} {'is' if len(waived) == 1 else 'are'} waived"] if waived else []
    parts += _describe_outcome_counts(warned, of=("that only warns", "that only warn"))
    parts += (
        [f"{join_names(sorted({v.candidate for v in other}))} may not: {', '.join(_describe_outcome_counts(other))}"]
        if other
        else []
    )
    if ignoring := len(run.passed_over):
        parts.append(f"{_format_count(ignoring, 'failed check', words=True)} {'is' if ignoring == 1 else 'are'} waived")
    text = ", ".join(parts)
    if others:
        rest = ", ".join(_describe_outcome_counts([v for v in others if v.outcome is not Outcome.PASS]))
        text += f"; {_spell_number(len(others))} more on {join_names(sorted({v.candidate for v in others}))}"
        text += f", of which {rest}" if rest else ""
    return text


def _list_shippable_candidates(run: Run, gates: Sequence[Verdict]) -> tuple[list[str], str]:
    """Return the candidates that may ship, or why there are none."""
    held = [v for v in gates if v.blocks_release]
    declared = [e.candidate for e in run.exports] or [v.candidate for v in gates if v.blocking and v.decides]
    written = [e.candidate for e in run.exports if e.written]
    free = [c for c in dict.fromkeys(declared) if not any(v.candidate == c for v in held)]
    findings = [f for f in run.findings if f.stops_run]
    if run.problem:
        return [], ", ".join([*_describe_outcome_counts(held), "the run ended early"])
    if run.selecting:
        return [], "a run on selection splits confirms nothing"
    if run.part:
        return [], ", ".join([*_describe_outcome_counts(held), run.part])
    if findings:
        return [], ", ".join(
            [*_describe_outcome_counts(held), f"{_format_count(len(findings), 'check', words=True)} failed"]
        )
    if len(run.verdicts) < run.gates:
        return [], ", ".join(
            [*_describe_outcome_counts(held), f"{run.gates - len(run.verdicts)} of {run.gates} gates were not decided"]
        )
    refused = {e.candidate: e.reasons[0] for e in run.exports if not e.written and e.reasons not in ((), NOT_ASKED)}
    if run.exit_code == 0:
        return [c for c in free if c not in refused], next(
            iter(refused.values()), "no blocking gate is on the shipping candidate"
        )
    return list(dict.fromkeys(written)), ", ".join(_describe_outcome_counts(held)) or "something was not evaluated"


def _describe_outcome_counts(verdicts: Sequence[Verdict], *, of: tuple[str, str] = ("", "")) -> list[str]:
    """Describe the counts of failed, undecided and unproven verdicts.

    `of` qualifies a count of one, and of several. Without it the first count has the noun.
    """
    found: list[str] = []
    for outcome in sorted(RANKS, key=lambda o: RANKS[o])[:-1]:
        if n := sum(v.outcome is outcome for v in verdicts):
            what = WORDS.get(outcome) or ("is not proven" if n == 1 else "are not proven")
            which = of[n > 1]
            many = f"{_spell_number(n)} {which}".rstrip() if which or found else _format_count(n, "gate", words=True)
            found.append(f"{many} {what}")
    return found


def join_names(names: Sequence[str]) -> str:
    """Return names in a sentence: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _spell_number(n: int) -> str:
    return NUMBERS[n] if n < len(NUMBERS) else f"{n:,}"


def _format_count(n: int, noun: str, *, words: bool = False) -> str:
    return f"{_spell_number(n) if words else n} {noun}{'' if n == 1 else 's'}"
