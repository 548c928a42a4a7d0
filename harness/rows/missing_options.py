"""What a gate on rows was not told: all of it in one message, with a command that tells it."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Callable, Sequence
from copy import copy

from harness.errors import UsageError
from harness.rows.arguments import write_option_words
from harness.rows.gating import MeasuredRows
from harness.rows.suites import PreparedRows
from harness.rows.wording import CALLER, MissingOptionError

USUAL_RANGES = ((0, 1), (0, 100))  # of scores that are no shares
MAX_GRADE = 10  # the largest whole score that is taken for a grade
USUAL_SHARE = 0.02  # of a range: a margin to begin with


def require_options(args: Namespace, prepare: Callable[[Namespace], PreparedRows]) -> PreparedRows:
    """Return the rows that `prepare` makes of the options that were given.

    An option that lacks is filled in with a likely value until nothing lacks, so that one UsageError names all of them.
    """
    missing, trial = list[MissingOptionError](), copy(args)
    while True:
        try:
            prepared = prepare(trial)
            break
        except MissingOptionError as error:
            value = _complete_value(trial, error)
            if getattr(trial, error.name, None) == value:  # it did not help
                raise UsageError(*error.messages, *_describe_options(missing)) from None
            missing = [one for one in missing if one.name != error.name]
            missing.append(MissingOptionError(*error.messages, name=error.name, value=value, reason=error.reason))
            setattr(trial, error.name, value)
        except UsageError as error:
            raise UsageError(*error.messages, *_describe_options(missing)) from None
    if not missing:
        return prepared
    missing = _add_range(missing, prepared, trial)
    for one in missing:
        setattr(trial, one.name, one.value)
    command = f"  {_write_command(trial)}"
    if len(missing) == 1:
        raise UsageError(*missing[0].messages, command)
    headline = f"gate: {len(missing)} options are missing; check their values, and copy:"
    raise UsageError(headline, command, *_describe_options(missing))


def _complete_value(trial: Namespace, error: MissingOptionError) -> object:
    """Return the value of a missing option: a metric is named after the task that was missing before it."""
    before = str(getattr(trial, "metric", ""))
    return f"{before}{error.value}" if error.name == "metric" and before.endswith(":") else error.value


def _add_range(
    missing: Sequence[MissingOptionError], prepared: PreparedRows, trial: Namespace
) -> list[MissingOptionError]:
    """Add the range of a score, without which no claim on its mean can pass, and a margin of a fiftieth of it."""
    (one,) = prepared.judged.measured.values()
    blocked = any(gate.forbids_risk(gate.risk(one.metric)) for gate in prepared.judged.suite.gates)
    if not blocked or (ends := _find_likely_range(one)) is None:
        return [*missing]
    low, high = ends
    reason = f"the lowest and the highest score that a row can have; {_describe_values(one)}"
    found = MissingOptionError("", name="range", value=[low, high], reason=reason)
    claim, margin = "worse_by_at_most", USUAL_SHARE * (high - low)
    scaled = [
        MissingOptionError(*own.messages, name=own.name, value=margin, reason=own.reason) if own.name == claim else own
        for own in missing
    ]
    return [*scaled, found]


def _find_likely_range(one: MeasuredRows) -> tuple[int, int] | None:
    """Return the range that scores of rows seem to have. None where they could be any number."""
    scores = _list_scores(one)
    low, high = min(scores), max(scores)
    if all(score.is_integer() for score in scores) and 0 <= low < high <= MAX_GRADE:
        return int(low), int(high)
    if one.metric.better == "lower":  # losses have no end
        return None
    return next(((least, most) for least, most in USUAL_RANGES if least <= low and most / 2 < high <= most), None)


def _describe_values(one: MeasuredRows) -> str:
    scores = _list_scores(one)
    return f"{min(scores):g} to {max(scores):g} occur"


def _list_scores(one: MeasuredRows) -> list[float]:
    return [score.values[one.metric.name] for result in one.results.values() for score in result.scores]


def _describe_options(missing: Sequence[MissingOptionError]) -> list[str]:
    """Return a line for each option that lacks."""
    return [f"  {_write_options(Namespace(**{one.name: one.value}))}: {one.reason}" for one in missing]


def _write_command(trial: Namespace) -> str:
    """Return the whole command, or the whole call."""
    rows = dict.fromkeys(map(str, trial.rows))
    if CALLER.get() == "command":
        return f"{shlex.join(['harness', 'gate', *rows])} {_write_options(trial)}"
    return f"harness.gate({', '.join(rows)}, {_write_options(trial)})"


def _write_options(options: Namespace) -> str:
    words, values = write_option_words(options)
    if CALLER.get() == "command":
        return shlex.join(words)
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
