"""Which worked examples stand before a document: the same for all, or those lm_eval would draw."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from harness import UsageError

SPARE = 8  # examples drawn beyond those wanted, for documents that are examples themselves

Doc = dict[str, Any]


class Fixed:
    """The same examples before every document, so that their part of the prompt is computed once.

    A document that is one of them gets another in its place, last. Takes the place of lm_eval's random sampler.
    """

    def __init__(self, task: str, sampler: Any, seed: int) -> None:
        self.task, self.pool, self.seed = task, list(sampler.fewshot_docs()), seed
        self.doc: Doc | None = None

    def before(self, number: int, docs: Sequence[Doc], shots: int) -> None:
        """Set which document comes next."""
        self.doc = docs[number]

    def sample(self, n: int, eval_doc: Doc | None = None, **_: Any) -> Sequence[Doc]:
        """Return n examples, none of them the document itself."""
        drawn = random.Random(self.seed).sample(self.pool, min(n, len(self.pool)))  # noqa: S311 -- not for secrets
        spare = random.Random(self.seed + 1).sample(self.pool, min(n + SPARE, len(self.pool)))  # noqa: S311
        found = [d for d in drawn if d != self.doc]
        found += [d for d in spare if d != self.doc and d not in found][: n - len(found)]
        if len(found) < n:
            raise UsageError(f'task "{self.task}": has {len(found)} examples to show, and {n} shots are wanted')
        return found


class Drawn:
    """The examples that lm_eval's own sampler draws: its random numbers go on from document to document.

    Every document is therefore drawn for in order, once, whatever is asked for.
    """

    def __init__(self, sampler: Any, excludes: bool) -> None:
        self.sampler, self.excludes = sampler, excludes
        self.found: list[Sequence[Doc]] = []
        self.number = 0

    def before(self, number: int, docs: Sequence[Doc], shots: int) -> None:
        """Set which document comes next, and draw for those before it."""
        self.number = number
        for doc in docs[len(self.found) : number + 1] if shots else ():
            self.found.append(self.sampler.sample(n=shots, eval_doc=doc if self.excludes else None))

    def sample(self, n: int, eval_doc: Doc | None = None, **_: Any) -> Sequence[Doc]:
        """Return what was drawn for the document."""
        return self.found[self.number]


def install(task: Any, *, fixed: bool, seed: int) -> Fixed | Drawn | None:
    """Put a sampler into a task of lm_eval that has one, and return it; one with an order of its own keeps it."""
    from lm_eval.api.samplers import ContextSampler

    task.set_fewshot_seed(seed=seed)
    if not hasattr(task, "sampler"):
        return None
    if fixed and type(task.sampler) is ContextSampler:
        chosen: Fixed | Drawn = Fixed(task.task_name, task.sampler, seed)
    else:
        chosen = Drawn(task.sampler, task.fewshot_cfg.split == task.config.test_split)
    task.sampler = chosen
    return chosen
