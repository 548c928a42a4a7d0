"""Conversion of `harness gate` arguments to a claim and options.

`harness.gate` uses it as well.
"""

from __future__ import annotations

import shlex
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.rows.records import COLUMNS, SIDES
from harness.rows.wording import FLAGS, MissingOptionError, write_option
from harness.stats.values import find_alpha_error

if TYPE_CHECKING:
    from harness.records.claims.gate import Gate

OPTIONS = (  # of the command, in the order of its help
    "worse_by_at_most", "better_by", "min", "max", "cap", "range", "alpha", "metric", "tool", "better", "scale",
    *COLUMNS, *SIDES, "repeats", "cluster", "slice", "missing", "allow", "only_common",
)  # fmt: skip
CLAIMS = {"worse_by_at_most": "no-worse", "better_by": "better", "min": "at-least", "max": "at-most"}
EXAMPLES = {  # of claims
    ("worse_by_at_most", 0.02): "the candidate is worse than the base by at most that",
    ("better_by", 0): "the candidate is better than the base",
    ("min", 0.8): "the candidate alone is at least that",
}


def parse_gate(given: Namespace) -> Gate:
    """Return the claim that was given as a gate. Raises UsageError where there is none, or several."""
    from harness.records.claims.gate import Gate

    if given.base_score or given.candidate_score:
        if not (given.base_score and given.candidate_score) or given.score:
            both = f"{write_option('base_score')} and {write_option('candidate_score')}"
            raise UsageError(f"gate: {both} belong together, and replace {write_option('score')}")
        if len(given.rows) == 1:
            given.rows = [*given.rows, *given.rows]
    said = [name for name in CLAIMS if getattr(given, name) is not None]
    if len(said) > 1:
        raise UsageError("gate: give only one claim")
    if not said:
        raise _make_missing_claim_error(given)
    alone = said[0] in ("min", "max")
    if len(given.rows) > 2 or (len(given.rows) == 1 and not alone):
        bounds = f"{write_option('min')} or {write_option('max')}"
        raise UsageError(f"gate: name BASE and CANDIDATE, or only CANDIDATE with {bounds}")
    claim: dict[str, Any] = {said[0]: getattr(given, said[0])}
    if error := find_alpha_error(given.alpha):
        raise UsageError(f"{write_option('alpha')} is {given.alpha:g}; {error}")
    claim |= {"cap": given.cap, "range": None if given.range is None else [float(x) for x in given.range]}
    return Gate(CLAIMS[said[0]], where="gate", versus=None if alone else "base", **claim)


def _make_missing_claim_error(given: Namespace) -> MissingOptionError:
    """Return the error for a gate without a claim, with one that fits the number of its runs."""
    claims = (f"  {write_option(*claim):<25} {meaning}" for claim, meaning in EXAMPLES.items())
    name, value = [*EXAMPLES][-1 if len(given.rows) == 1 else 0]
    others = " or ".join(write_option(*claim) for claim in EXAMPLES if claim != (name, value))
    reason = f"{EXAMPLES[name, value]}; or {others}"
    return MissingOptionError("gate: give one claim:", *claims, name=name, value=value, reason=reason)


def parse_rows_options(given: Namespace) -> dict[str, Any]:
    """Return the given options for reading rows, as an evaluation's.

    Unset options are left out.
    """
    task, colon, rest = given.metric.rpartition(":")
    metric, _, filter_ = rest.partition(",")
    said = {"task": task if colon else "", "metric": metric, "filter": filter_}
    plain = (*COLUMNS, *SIDES, "repeats", "tool", "better", "scale", "only_common")
    said |= {name: getattr(given, name) for name in plain}
    said["missing"] = given.missing if given.missing != "refuse" else ""
    said["allow"] = [name for name in given.allow.split(",") if name]
    return {name: value for name, value in said.items() if value}


def parse_clusters(given: str | list[str] | None) -> str | list[str] | None:
    """Return the columns of clusters as a suite has them."""
    return given[0] if isinstance(given, list) and len(given) == 1 else given


def describe_invocation(given: Namespace) -> dict[str, Any]:
    """Return the options of a gate and its command line.

    Options at their defaults are left out. Empty if the command was no `harness gate`.
    """
    rows = getattr(given, "rows", None)
    if not isinstance(rows, list):
        return {}
    words, options = write_option_words(given)
    return {"command": shlex.join(["harness", "gate", *dict.fromkeys(map(str, rows)), *words]), **options}


def write_option_words(given: Namespace) -> tuple[list[str], dict[str, Any]]:
    """Return the options of a gate on rows that were given, as words of a command and by name."""
    words, options = list[str](), dict[str, Any]()
    for name in OPTIONS:
        value = getattr(given, name, None)
        if value is None or (name not in CLAIMS and value in ("", [], False, 0, 0.05, "refuse")):
            continue
        options[name] = value
        flag = f"--{value if name == 'better' else FLAGS.get(name, name).replace('_', '-')}"
        for one in [value] if name == "range" or not isinstance(value, list) else value:
            texts = [] if name == "better" or one is True else one if name == "range" else [one]
            words += [flag, *map(str, texts)]
    return words, options
