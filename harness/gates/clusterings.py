"""In which ways rows are in clusters: by the columns that a suite declares, and by the question that they ask.

It imports no statistics, so collection may import it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.records.samples import Sample

Labels = Sequence[str]  # of each row, which cluster of a kind it is in
KINDS = ("clusters", "second clusters", "questions")  # in the order of `labels_of`


def cluster_labels(samples: Sequence[Sample], *, questions: bool = True) -> tuple[Labels, Labels, Labels]:
    """Return each row's cluster, second cluster and question.

    A row without one is a cluster of its own.
    """
    first = [s.id if s.cluster is None else s.cluster for s in samples]
    second = [s.id if s.second_cluster is None else s.second_cluster for s in samples]
    return first, second, [(questions and s.key) or s.id for s in samples]


def coarsest_clusterings(clusterings: Sequence[Labels]) -> list[Labels]:
    """Return the clusterings that matter.

    Dropped are those in which no rows share a cluster, and those nested in another.
    """
    grouping, found = [c for c in clusterings if len(set(c)) < len(c)], list[Labels]()
    for i, own in enumerate(grouping):
        others = [other for j, other in enumerate(grouping) if j < i or (j > i and not is_nested(other, own))]
        if not any(is_nested(own, other) for other in others):
            found.append(own)
    return found


def is_nested(inner: Labels, outer: Labels) -> bool:
    """Return whether each inner cluster lies within one outer cluster."""
    first: dict[str, str] = {}
    return all(first.setdefault(i, o) == o for i, o in zip(inner, outer, strict=True))


def coarsest_cluster_of_rows(samples: Sequence[Sample]) -> Labels:
    """Return each row's cluster in the coarsest clustering.

    It is that with the fewest clusters. If no rows share a cluster, each is its own.
    """
    return next(iter(sort_clusterings(samples)), [s.id for s in samples])


def sort_clusterings(samples: Sequence[Sample]) -> list[Labels]:
    """Return the kinds of clusters that cross each other, that with the fewest clusters first."""
    return sorted(coarsest_clusterings(cluster_labels(samples)), key=lambda c: len(set(c)))


def connect_clusters(clusterings: Sequence[Labels]) -> Labels:
    """Return one cluster for rows that clusters of any kind connect."""
    names: dict[tuple[int, str], tuple[int, str]] = {}

    def find(name: tuple[int, str]) -> tuple[int, str]:
        while names.setdefault(name, name) != name:
            name = names[name]
        return name

    for row in zip(*clusterings, strict=True):
        for kind, name in enumerate(row[1:], 1):
            names[find((kind, name))] = find((0, row[0]))
    return [str(find((0, name))) for name in clusterings[0]]


def count_repeated_questions(samples: Sequence[Sample]) -> dict[str, int]:
    """Count the rows with a repeated question.

    Returns those rows, their distinct questions, and the count of the most frequent one.
    """
    asked = Counter(s.key for s in samples if s.key)
    several = [n for n in asked.values() if n > 1]
    return {"rows": sum(several), "questions": len(several), "most": max(several, default=0)}
