"""D28: rows of an evaluation that are near-copies of each other, and the column that makes them alike."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

from harness import Finding, Sample, checker, quote_text
from harness.internals import Suite, Task, split_grams
from harness_checks.comparable_rows import texts_of_samples
from harness_checks.leaks import tasks_by_data

MAX_ROWS = 2000  # rows of an evaluation that are compared, the first of them
FRAME_SHARE = 0.5  # share of rows above which words are the frame of all and identify none
MIN_SIMILARITY = 0.5  # of the rarer words of the shorter of two rows, weighted by how rare they are
MIN_COPY_SHARE = 0.3  # of rows that must have a near-copy
MIN_GROUP_SIMILARITY = 0.3  # how alike on average rows of one value are, and
MIN_SIMILARITY_RATIO = 1.5  # times as alike as any two rows are those of one value of a column that explains it
MIN_ROWS, MIN_ROW_WORDS = 20, 8  # below which nothing is reported
SHOWN_PAIRS = 5  # pairs that are shown


class SharedColumn(NamedTuple):
    """A column that near-copies share, and its group sizes.

    A group is the rows with one value of the column.
    """

    column: str
    groups: Sequence[int]


@checker(title="near-copies")
def near_copies(tasks: Mapping[str, Task], suite: Suite) -> Iterator[Finding]:
    """Near-copies among the rows of an evaluation.

    Such rows are right or wrong together. Two rows are alike if half of the rare words of the shorter one occur in
    both; for languages without spaces, sequences of five characters are compared instead of words. The check names the
    column that near-copies share, and how often a gate at the suite's alpha passes a model on its limit if rows with
    one value are right or wrong together. It clusters nothing: you know whether rows depend on each other, and declare
    it with `cluster`.
    """
    for group in tasks_by_data(tasks):
        rows = list(group[0].samples or ())[:MAX_ROWS]
        loose = [task for task in group if task.spec.cluster is None]
        if not loose or len(rows) < MIN_ROWS:
            continue
        likeness = row_similarity(rows)
        copies = [i for i, most in enumerate(likeness.max(-1).tolist()) if most >= MIN_SIMILARITY]
        if len(copies) >= MIN_COPY_SHARE * len(rows):
            yield _make_near_copies_finding(loose, rows, likeness, copies, suite.header.alpha)


def _make_near_copies_finding(
    tasks: Sequence[Task], rows: Sequence[Sample], likeness: Any, copies: Sequence[int], alpha: float
) -> Finding:
    names = ", ".join(f'"{task.spec.name}"' for task in tasks)
    pairs = [(i, int(likeness[i].argmax())) for i in copies[:SHOWN_PAIRS]]
    evidence = [f'row "{rows[i].id}" ~ row "{rows[j].id}": {quote_text(str(rows[i].question), 60)}' for i, j in pairs]
    what = f"{len(copies)} of {len(rows)} rows of {names} are near-copies of another row"
    ids = {task.spec.name: [rows[i].id for i in copies] for task in tasks}
    if (alike := find_shared_column(rows, likeness, _list_input_and_target_columns(tasks))) is None:
        fix = "no column identifies what the copies share; add one to the data, and name it with cluster"
        return Finding("warning", f"{what}, and no column identifies their groups", evidence, fix, "", ids)
    rate = passing_rate(alike.groups, alpha)
    what += f', which share "{alike.column}" ({len(alike.groups)} values)'
    what += f"; if rows with the same value are right or wrong together, {rate:.0%} of models at a gate's limit pass"
    what += f" instead of {alpha:.0%}"
    fix = f'write cluster = "{alike.column}", unless rows with the same value are independent'
    return Finding("warning", what, evidence, fix, "", ids)


def _list_input_and_target_columns(tasks: Sequence[Task]) -> set[str]:
    """Return the columns of inputs and targets, which form no groups."""
    named = {str(name) for task in tasks for name in task.spec.columns.values()}
    return named | {"input", "target", "text", "messages", "answer", "label", "gold", "choices"}


def row_similarity(rows: Sequence[Sample]) -> Any:
    """Return how alike two rows are, (n, n): the share of the shorter one's rare words that stand in both."""
    import numpy as np
    from scipy import sparse

    texts = [text.words[: text.asked] or text.words for text in texts_of_samples(rows)]
    words = [set(split_grams(text)) if len(text) >= MIN_ROW_WORDS else set() for text in texts]
    often = Counter(gram for some in words for gram in some)
    weight = {g: math.log(len(rows) / n) for g, n in often.items() if n <= FRAME_SHARE * len(rows)}
    names = {gram: i for i, gram in enumerate(weight)}
    at = [(i, names[gram], math.sqrt(weight[gram])) for i, some in enumerate(words) for gram in some if gram in names]
    row, column, value = zip(*at, strict=True) if at else ((), (), ())
    matrix = sparse.csr_matrix((value, (row, column)), shape=(len(rows), max(len(names), 1)))
    shared = (matrix @ matrix.T).toarray()
    total = shared.diagonal()
    found = shared / np.maximum(np.minimum(total[:, None], total), 1e-12)
    np.fill_diagonal(found, 0.0)
    return found


def find_shared_column(rows: Sequence[Sample], likeness: Any, told: set[str]) -> SharedColumn | None:
    """Return the column that best groups similar rows.

    None if no column's groups are similar enough.
    """
    import numpy as np

    found: list[tuple[float, SharedColumn]] = []
    for name in dict.fromkeys(name for sample in rows for name in sample.row if name not in told):
        places: dict[str, list[int]] = {}
        for i, sample in enumerate(rows):
            places.setdefault(str(sample.row.get(name)), []).append(i)
        several = [group for group in places.values() if len(group) > 1]
        if len(places) < 2 or sum(map(len, several)) < len(rows) / 2:
            continue
        pairs = sum(len(group) * (len(group) - 1) for group in several)
        within = sum(float(likeness[np.ix_(group, group)].sum()) for group in several) / pairs
        if within >= max(MIN_GROUP_SIMILARITY, MIN_SIMILARITY_RATIO * float(likeness.mean())):
            found.append((within, SharedColumn(name, tuple(len(group) for group in places.values()))))
    return max(found, key=lambda one: one[0])[1] if found else None


def passing_rate(groups: Sequence[int], alpha: float) -> float:
    """Return the passing rate of a model on a gate's limit.

    Rows of one group are taken to be all right or all wrong. By the normal distribution: the standard error is that of
    independent rows times the square root of Σn²/Σn (Kish 1965, Survey Sampling).
    """
    effect = sum(n * n for n in groups) / sum(groups)
    return 1 - NormalDist().cdf(NormalDist().inv_cdf(1 - alpha) / math.sqrt(effect))
