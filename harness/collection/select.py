"""Which items to run: `-k` and `--lf`. What a chosen item's gates compare with or wait for is chosen too."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from harness.collection.collection import Collection
from harness.errors import UsageError
from harness.records.run import ItemResult
from harness.reports.run_folder import read_last_run
from harness.schema import MAX_VALUE_CHARS
from harness.texts.shortening import shorten

PRECEDENCE = {"or": 1, "and": 2, "not": 3}  # operators of `-k`, and how closely


def select_items(collection: Collection, keyword: str, last: Path | None) -> Collection:
    """Select the items that match `keyword` and failed in `last`.

    Items that their gates depend on are selected too. Raises UsageError if no item matches.
    """
    if not keyword.strip() and last is None and collection.items:
        return collection
    matches = compile_keyword(keyword)
    chosen = {i.id for i in collection.items if matches(i.id)}
    if last is not None:
        known = read_last_run(last, collection.suite.name)
        back = [v for v in known.verdicts if v.not_passed]  # which kept a candidate from shipping
        missed = {(r.subject, r.eval) for r in known.results if r.outcome != "done"}
        missed |= {(v.candidate, v.metric.partition(".")[0]) for v in back}
        chosen &= {r.id for r in known.results if (r.subject, r.eval) in missed}
    if not chosen:
        why = f'-k "{keyword}"' if keyword else "--lf"
        raise UsageError(f"{why}: matches none of {len(collection.items)} items; --collect-only lists them")
    of_runs = [replace(i, subject=collection.recipe) for i in collection.items if i.subject in collection.runs]
    chosen |= {of.id for of in of_runs if any(replace(of, subject=run).id in chosen for run in collection.runs)}
    wanted, candidates = set(chosen), collection.candidates
    for item in (i for i in collection.items if i.id in chosen and i.subject in candidates):
        # what the gates on it need: baselines, and the items of gates they wait for
        about = {e for g in collection.gates(item.subject, item.eval) for e in collection.needed_evals(g)}
        gates = [g for g in collection.gates(item.subject) if g.eval in about]
        found = [replace(item, eval=e) for e in about]
        found += [replace(item, subject=g.versus, eval=g.eval) for g in gates if g.versus]
        claims = [g for g in gates if g.of == "recipe"]
        found += [replace(item, subject=run, eval=g.eval) for g in claims for run in collection.runs]
        tasks = [collection.tasks[i.eval] for i in (item, *found) if collection.tasks[i.eval].marks == "pairs"]
        found += [replace(item, subject=t.spec.against, eval=t.spec.name) for t in tasks]
        wanted |= {i.id for i in found}
    items = tuple(i for i in collection.items if i.id in wanted)
    return replace(collection, items=items, deselected=tuple(i.id for i in collection.items if i.id not in wanted))


def compile_keyword(expression: str) -> Callable[[str], bool]:
    """Compile a `-k` expression into a predicate on item ids.

    An expression has parts of names, and, or, not, and parentheses. As in pytest "not" binds closest, then "and", then
    "or"; matching ignores case. Raises UsageError.
    """
    steps = _parse_expression_to_postfix(expression)

    def matches(item: str) -> bool:
        stack: list[bool] = []
        for step in steps:
            if step == "not":
                stack.append(not stack.pop())
            elif step in ("and", "or"):
                right, left = stack.pop(), stack.pop()
                stack.append(left and right if step == "and" else left or right)
            else:
                stack.append(step[1:] in item.lower())
        return stack[-1] if stack else True

    return matches


def _parse_expression_to_postfix(expression: str) -> list[str]:
    """Convert a `-k` expression to postfix notation. A name begins with =."""
    steps: list[str] = []
    waiting: list[str] = []  # operators and parentheses that are not closed
    wants = True  # a name, and no operator
    for word in re.findall(r"[()]|[^\s()]+", expression):
        if wants != (word not in ("and", "or", ")")):
            raise _make_syntax_error(expression, f'found "{word}", expected {"a name" if wants else "and, or"}')
        if word in ("(", "not"):
            waiting.append(word)
        elif word == ")":
            while waiting and waiting[-1] != "(":
                steps.append(waiting.pop())
            if not waiting:
                raise _make_syntax_error(expression, '")" has no matching "("')
            waiting.pop()
        elif word in PRECEDENCE:
            while waiting and waiting[-1] != "(" and PRECEDENCE[waiting[-1]] >= PRECEDENCE[word]:
                steps.append(waiting.pop())
            waiting.append(word)
        else:
            steps.append("=" + word.lower())
        wants = word == "(" or word in PRECEDENCE
    if "(" in waiting:
        raise _make_syntax_error(expression, '"(" is not closed')
    if wants and (steps or waiting):
        raise _make_syntax_error(expression, "it ends where a name is expected")
    return steps + waiting[::-1]


def _make_syntax_error(expression: str, why: str) -> UsageError:
    shown = shorten(expression, MAX_VALUE_CHARS)
    return UsageError(f'-k "{shown}": {why}; write parts of names, joined with and, or, not and parentheses')


def has_failed(report: ItemResult) -> bool:
    """Return whether an item failed. It could not be evaluated, or a blocking gate on it did not pass."""
    return report.outcome == "error" or any(v.not_passed for v in report.verdicts)
