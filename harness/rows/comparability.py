"""What differs between two runs beside the model: what is unfair is refused unless it is allowed by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from harness.errors import UsageError, did_you_mean
from harness.rows.pairing import PairedRows
from harness.rows.records import RawRows
from harness.texts.escaping import shorten_text

POINT = ("model", "revision", "adapter", "parameters", "quantisation", "model args")  # what is being compared
UNFAIR = {  # and how one says it
    "shots": "few-shot examples differ", "template": "chat templates differ", "system": "system instructions differ",
    "task version": "task versions differ", "filter": "answer filters differ",
    "scorer": "scorers differ", "generation": "generation settings differ", "judge": "judge differs",
    "epochs": "numbers of repeats differ, so the means differ in noise",
}  # fmt: skip
# what changes answers: known of one side alone it is no fact that the sides share; generation settings are temperature,
# max tokens, stop sequences and the number of answers
ANSWERS = ("shots", "template", "system", "generation", "dtype", "scorer", "task version")
PROMPTS = ("shots", "template", "system")  # that explain why prompts differ
ADVICE = {
    "judge": "another judge changes the scores without a change of model",
    "template": "--allow template if that is intended",
}
IDENTICAL = "identical"  # both sides are the same bytes
NAMES = (*UNFAIR, "prompt", "dtype", IDENTICAL)
LONGEST = 60  # characters of a fact
SELF = "judged by itself"  # a fact: which scorers have the model under test as their judge


@dataclass(frozen=True)
class FactDifferences:
    """What differs: what was unfair and is allowed, and what is only told, a line each; what neither side tells."""

    allowed: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def parse_allowed(given: Iterable[str]) -> frozenset[str]:
    """Return the kinds of unfairness that a user allows. Raises UsageError at one that is none."""
    names = [name.strip().replace("-", " ") for name in given]
    if odd := [name for name in names if name not in NAMES]:
        raise UsageError(f'allow: "{odd[0]}" is unknown{did_you_mean(odd[0], NAMES)}')
    return frozenset(names)


def compare_facts(
    base: RawRows | None, candidate: RawRows, pairs: PairedRows, allow: Collection[str]
) -> FactDifferences:
    """Compare the facts of two runs, or look at those of one.

    Raises UsageError with everything that is unfair and not allowed.
    """
    unfair, found = _own_judges(base, candidate), FactDifferences()
    if base:
        differs, found = _differences(base, candidate, pairs)
        unfair = differs | unfair
    if refused := [name for name in unfair if name not in parse_allowed(allow)]:
        hints = {
            name: ADVICE.get(name, f"rerun one of the runs, or --allow {name.replace(' ', '-')}") for name in refused
        }
        raise UsageError(*(f"{unfair[name]}; {hint}" for name, hint in hints.items()))
    return replace(found, allowed=tuple(unfair.values()))


def _own_judges(base: RawRows | None, candidate: RawRows) -> dict[str, str]:
    """Return that a model graded its own answers, where one did: a lenient one would win on the same answers."""
    for side, run in (("candidate", candidate), *((("base", base),) if base else ())):
        if run.facts.get(SELF):
            what = f"{side} was judged by the model itself ({shorten_text(run.facts[SELF], LONGEST)})"
            return {"judge": f"{what}; use another judge, or --allow judge if that is intended"}
    return {}


def _differences(base: RawRows, candidate: RawRows, pairs: PairedRows) -> tuple[dict[str, str], FactDifferences]:
    """Return what is unfair by its name, and what else differs or is not known."""
    unfair: dict[str, str] = {}
    told = []
    for name in sorted({*base.facts, *candidate.facts} - {*POINT, "limit", SELF}):
        theirs, ours = base.facts.get(name), candidate.facts.get(name)
        if theirs == ours:
            continue
        if theirs is None or ours is None:
            side, known = ("candidate", ours) if theirs is None else ("base", theirs)
            line = f"{name} is known only for {side}: {shorten_text(known or '', LONGEST)}"
            if name in ANSWERS:
                unfair[name] = line
            else:
                told.append(line)
        elif name in UNFAIR:
            unfair[name] = f"{UNFAIR[name]}: {shorten_text(theirs, LONGEST)} and {shorten_text(ours, LONGEST)}"
        else:
            told.append(f"{name} {shorten_text(theirs, LONGEST)} / {shorten_text(ours, LONGEST)}")
    if base.tool != candidate.tool:
        told.append(f"tool {base.tool} / {candidate.tool}")
    if "epochs" not in unfair and pairs.repeats[0] != pairs.repeats[1]:
        unfair["epochs"] = f"{UNFAIR['epochs']}: base has {pairs.repeats[0]}, candidate {pairs.repeats[1]}"
    both = ((theirs[0], ours[0]) for theirs, ours in zip(pairs.base, pairs.candidate, strict=True) if theirs and ours)
    if other := sum(bool(one.prompt and two.prompt and one.prompt != two.prompt) for one, two in both):
        first = next((name for name in PROMPTS if name in unfair), "prompt")
        differ = f"prompts differ on {other:,} of {len(pairs.names):,} rows"
        unfair[first] = f"{differ}, {unfair[first]}" if first in unfair else differ
    unknown = tuple(name for name in ANSWERS if name not in base.facts and name not in candidate.facts)
    return unfair, FactDifferences((), tuple(told), unknown)
