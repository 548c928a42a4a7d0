"""Numbers, times, verdicts and texts of others as a person reads them on one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.markup import escape as unmarked

from harness.records import words
from harness.records.verdicts import Outcome, Verdict
from harness.texts.shown import shown

SAME = "for the same reason"
NAMED = 5  # rows that are named where there may be many


def title(v: Verdict) -> str:
    """Return the name of a verdict's gate, and in brackets why it does not block by itself."""
    if v.group:
        return f'{v.gate} (one of "{v.group}")'
    if not v.blocking:
        return f"{v.gate} (warn)"
    informs = v.outcome is not Outcome.PASS and not v.decides
    return f"{v.gate} (not what ships)" if informs else v.gate


def reasons(verdicts: Sequence[Verdict], *, tests: bool) -> list[str]:
    """Return why each verdict is as it is, a long reason once: gates that no row was put to often share theirs."""
    whys = [v.why if tests else words.brief(v) for v in verdicts]
    return [
        SAME if why == before and v.estimate is None and len(why) > len(SAME) else why
        for v, why, before in zip(verdicts, whys, ["", *whys], strict=False)
    ]


def some(ids: Sequence[str]) -> str:
    """Return the first ids as text, with dots for the others."""
    return ", ".join([*ids[:NAMED], *("…" for _ in ids[NAMED : NAMED + 1])])


def escape(text: str) -> str:
    """Return a text as data for rich: on one line, no markup, nothing that a terminal obeys, no secret."""
    return unmarked(shown(text))


def duration(seconds: float) -> str:
    """Write seconds as a person would: 12.3 s, 4 min 05 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def interval(lower: float | None, upper: float | None, write: Callable[[float], str]) -> str:
    """Return an interval in brackets after a space, or nothing where a bound is lacking."""
    return "" if lower is None or upper is None else f" [{write(lower)}, {write(upper)}]"


def describe(key: str, value: object) -> str:
    """Write a fact about a model or a training in words."""
    label = key.replace("_", " ")
    if label.endswith("bytes") and isinstance(value, (int, float)):
        return f"{label.removesuffix('bytes').strip()} {value / 1e6:,.1f} MB".strip()
    return f"{label} {fact(value)}"


def fact(value: object) -> str:
    """Write a number with four digits that matter, anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def percent(share: float) -> str:
    """Write a share in percent, with as many digits as it has: 95 %, 97.5 %."""
    return f"{round(100 * share, 3):g} %"


def place(path: str | Path) -> str:
    """Write a path as short as it can be given from here."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except (OSError, ValueError):  # elsewhere, or there is no here
        return str(path)
