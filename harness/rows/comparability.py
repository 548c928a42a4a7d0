"""Differences between two runs beside the model.

Unfair ones are refused unless they are allowed by name.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.errors import UsageError, did_you_mean
from harness.rows.pairing import PairedRows
from harness.rows.records import RawRows
from harness.rows.wording import write_option
from harness.texts.escaping import shorten_text

POINT = ("model", "revision", "adapter", "parameters", "quantisation", "model args")  # what is being compared
UNFAIR_FACTS = {  # and how one says it
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
}
IDENTICAL_TEXT = "identical"  # both sides are the same bytes
NAMES = (*UNFAIR_FACTS, "prompt", "dtype", IDENTICAL_TEXT)
CLIENT = {  # settings of who asks, which change no answer
    "batch_size", "cache", "cache_prompt", "max_connections", "max_retries", "max_tasks", "retry_policy", "timeout",
    "attempt_timeout", "adaptive_connections",
}  # fmt: skip
MAX_FACT_CHARS = 60  # characters of a fact
SELF_JUDGED_FACT = "judged by itself"  # a fact: which scorers have the model under test as their judge


@dataclass(frozen=True)
class FactDifferences:
    """The differences between the facts of two runs.

    `allowed` are unfair but allowed, `told` are only reported, a line each; `unknown` names the facts that neither side
    reports.
    """

    allowed: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def parse_allowed(given: Iterable[str], settings: Iterable[str] = ()) -> frozenset[str]:
    """Return the differences that a user allows, of these `settings` too. Raises UsageError at an unknown one."""
    own = {name.replace("_", " "): name for name in settings}
    names = [name.strip().replace("-", " ").replace("_", " ") for name in given]
    known = {*NAMES, *own}
    if odd := [name for name in names if name not in known]:
        hint = did_you_mean(odd[0], known) or f"; name {', '.join(sorted(NAMES))}, or a generation setting that differs"
        raise UsageError(f'allow: "{odd[0]}" is unknown{hint}')
    return frozenset(own.get(name, name) for name in names)


def compare_facts(
    base: RawRows | None, candidate: RawRows, pairs: PairedRows, allow: Collection[str]
) -> FactDifferences:
    """Compare the facts of two runs, or check those of one.

    Raises UsageError with every unfair difference that is not allowed.
    """
    unfair, found = _find_self_judging_error(base, candidate), FactDifferences()
    if base:
        differs, found = _find_fact_differences(base, candidate, pairs)
        unfair = differs | unfair
    settings = {*(_parse_generation_settings(base) if base else ()), *_parse_generation_settings(candidate)}
    allowed = parse_allowed(allow, settings)
    if refused := [n for n in unfair if n not in allowed and not ("generation" in allowed and n in settings)]:
        hints = {name: ADVICE.get(name) or _suggest_remedy(name) for name in refused}
        raise UsageError(*(f"{unfair[name]}; {hint}" for name, hint in hints.items()))
    return replace(found, allowed=tuple(unfair.values()))


def _suggest_remedy(name: str) -> str:
    """Suggest a remedy for runs that differ in a setting."""
    allow = write_option("allow", name.replace(" ", "-").replace("_", "-"))
    return f"{allow} if that is intended" if name == "template" else f"rerun one of the runs, or {allow}"


def _parse_generation_settings(run: RawRows) -> Mapping[str, Any]:
    """Return the generation settings of a run, by name."""
    return parse_settings(run.facts.get("generation", ""))


def parse_settings(text: str) -> Mapping[str, Any]:
    """Parse a JSON object of settings. Empty for any other text."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _find_differing_settings(theirs: str, ours: str) -> dict[str, str]:
    """Return the differences between two tables of generation settings.

    They are keyed by setting. Empty if one is no table.
    """
    base, candidate = parse_settings(theirs), parse_settings(ours)
    if (theirs != "{}" and not base) or (ours != "{}" and not candidate):
        return {}
    found = {}
    for name in sorted({*base, *candidate}):
        if base.get(name) != candidate.get(name):
            each = [json.dumps(side[name]) if name in side else "not set" for side in (base, candidate)]
            one, two = (shorten_text(value, MAX_FACT_CHARS) for value in each)
            found[name] = f"{UNFAIR_FACTS['generation']}: {name.replace('_', ' ')} is {one} and {two}"
    return found


def _find_self_judging_error(base: RawRows | None, candidate: RawRows) -> dict[str, str]:
    """Return that a model graded its own answers, where one did: a lenient one would win on the same answers."""
    for side, run in (("candidate", candidate), *((("base", base),) if base else ())):
        if run.facts.get(SELF_JUDGED_FACT):
            what = (
                f"{side} was judged by the model itself ({shorten_text(run.facts[SELF_JUDGED_FACT], MAX_FACT_CHARS)})"
            )
            return {"judge": f"{what}; use another judge, or {write_option('allow', 'judge')} if that is intended"}
    return {}


def _find_fact_differences(
    base: RawRows, candidate: RawRows, pairs: PairedRows
) -> tuple[dict[str, str], FactDifferences]:
    """Return the unfair differences by name, and all others.

    The second value also has the facts that are unknown on both sides.
    """
    unfair: dict[str, str] = {}
    told = []
    for name in sorted({*base.facts, *candidate.facts} - {*POINT, "limit", SELF_JUDGED_FACT}):
        theirs, ours = base.facts.get(name), candidate.facts.get(name)
        if theirs == ours:
            continue
        if theirs is None or ours is None:
            side, known = ("candidate", ours) if theirs is None else ("base", theirs)
            line = f"{name} is known only for {side}: {shorten_text(known or '', MAX_FACT_CHARS)}"
            if name in ANSWERS:
                unfair[name] = line
            else:
                told.append(line)
        elif name == "generation" and (differing := _find_differing_settings(theirs, ours)):
            unfair |= {key: text for key, text in differing.items() if key not in CLIENT}
            told += [text for key, text in differing.items() if key in CLIENT]
        elif name in UNFAIR_FACTS:
            unfair[name] = (
                f"{UNFAIR_FACTS[name]}: {shorten_text(theirs, MAX_FACT_CHARS)} and {shorten_text(ours, MAX_FACT_CHARS)}"
            )
        else:
            told.append(f"{name} {shorten_text(theirs, MAX_FACT_CHARS)} / {shorten_text(ours, MAX_FACT_CHARS)}")
    if base.tool != candidate.tool:
        told.append(f"tool {base.tool} / {candidate.tool}")
    if "epochs" not in unfair and pairs.repeats[0] != pairs.repeats[1]:
        unfair["epochs"] = f"{UNFAIR_FACTS['epochs']}: base has {pairs.repeats[0]}, candidate {pairs.repeats[1]}"
    both = ((theirs[0], ours[0]) for theirs, ours in zip(pairs.base, pairs.candidate, strict=True) if theirs and ours)
    if other := sum(bool(one.prompt and two.prompt and one.prompt != two.prompt) for one, two in both):
        first = next((name for name in PROMPTS if name in unfair), "prompt")
        differ = f"prompts differ on {other:,} of {len(pairs.names):,} rows"
        unfair[first] = f"{differ}, {unfair[first]}" if first in unfair else differ
    unknown = tuple(name for name in ANSWERS if name not in base.facts and name not in candidate.facts)
    return unfair, FactDifferences((), tuple(told), unknown)
