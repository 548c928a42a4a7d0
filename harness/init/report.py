"""What `harness init --data` says of the parts of a table, and of the rows that are left out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from harness.data.resolver import quote_text
from harness.init.columns import CONFLICTING, CONTRADICTED, REPEATED, SHOWN_EXAMPLES, WITHOUT
from harness.texts.shortening import shorten

ALPHA = 0.05  # of the suite
NEAR_COPIES_TEXT = "near-copies of rows of another part"
MAX_LABEL_CHARS = 30
MAX_LEFT_OUT = 0.05  # share of the rows that are left out without a warning
CORRECT = "correct these rows to keep them"
KEEP = {  # how rows are kept, by why they are left out
    NEAR_COPIES_TEXT: "name a column that such rows share with --group to keep them in one part",
    REPEATED: "make their questions different to keep them",
    CONFLICTING: "give each input one label to keep them",
    CONTRADICTED: "keep one of each pair of such rows",
    WITHOUT: "fill in what is missing to keep them",
}


def describe_large_losses(left_out: Counter[str], rows: int, examples: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a warning for each reason why many rows are left out, with examples and the way to keep them."""
    lines = []
    for reason, count in left_out.items():
        if count > MAX_LEFT_OUT * rows and examples.get(reason):
            shown = " and ".join(examples[reason][:SHOWN_EXAMPLES])
            share = f"{count:,} of {rows:,} rows ({count / rows:.0%})"
            lines.append(f"warning: {share} are left out: {reason}, such as {shown}; {KEEP.get(reason, CORRECT)}")
    return lines


def describe_part(part: str, labels: Counter[str], choices: bool) -> str:
    first = [f"{_quote_label(label)} {n / labels.total():.0%}" for label, n in labels.most_common(4)]
    shares = f": {', '.join(first)}{' …' * (len(labels) > 4)}" if choices and labels else ""
    return f"{part}: {labels.total():,} rows{shares}"


def describe_majority_baseline(counts: Mapping[str, Counter[str]], choices: bool) -> list[str]:
    """Describe the majority baseline and whether any model can beat it.

    Also lists the labels that a part lacks.
    """
    confirm = counts["confirm"]
    (answer, often), *_ = confirm.most_common(1)
    share, total = often / confirm.total(), confirm.total()
    what = "majority class" if choices else "constant answer"
    lines = [f"{what} {_quote_label(answer)}: {share:.1%} of the rows that confirm, which is the score to beat"]
    known = sum(counts.values(), Counter[str]()) if choices else Counter[str]()
    for part in ("select", "confirm"):
        lacking = [f"{_quote_label(label)} ({known[label]} in all)" for label in known if label not in counts[part]]
        if lacking and counts[part]:
            more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
            lines.append(f"{part} has no row with {', '.join(lacking[:3])}{more}; it proves nothing about such rows")
    if share**total > ALPHA:  # even if every row is right
        fewest = math.ceil(math.log(ALPHA) / math.log(share))
        lines.append(
            f"nothing can be proved: even {total:,} right of {total:,} rows are not more than {share:.1%} at "
            f"alpha {ALPHA:g}; {fewest:,} rows that confirm are needed"
        )
    return lines


def _quote_label(label: str) -> str:
    return quote_text(shorten(label, MAX_LABEL_CHARS))
