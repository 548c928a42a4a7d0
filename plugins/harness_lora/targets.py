"""Which modules `target_modules` means; a pattern that means none would be trained as if it were not there."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from harness import Mistakes, did_you_mean

Patterns = str | Collection[str] | None


def check_targets(
    targets: Patterns, names: Iterable[str], patterns: Iterable[str] = (), *, option: str = "target_modules"
) -> None:
    """Raise UsageError, a line each, for a pattern of an option that matches none of a model's modules.

    A list matches whole names or their ends, a string is a regular expression of the whole name, as in PEFT;
    `patterns` are the keys of `rank_pattern` and `alpha_pattern`.
    """
    names, mistakes = list(names), Mistakes()
    kind = "parameter" if option == "target_parameters" else "module"
    last = {name.rpartition(".")[2] for name in names}
    wanted = [] if isinstance(targets, str) or targets is None else sorted(targets)
    for target in wanted:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            mistakes.add(f'{option} "{target}"', f"matches no {kind} of the base{did_you_mean(target, last)}")
    if isinstance(targets, str) and targets != "all-linear" and not any(re.fullmatch(targets, n) for n in names):
        mistakes.add(f'target_modules "{targets}"', "this expression matches no module of the base; a list names ends")
    for key in patterns:
        if not any(re.match(rf"(.*\.)?({key})$", name) for name in names):
            mistakes.add(f'rank_pattern or alpha_pattern "{key}"', "matches no module of the base; remove it")
    mistakes.raise_if_any()
