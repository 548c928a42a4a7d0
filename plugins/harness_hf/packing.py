"""Pack requests that share beginnings into rows: each token of their prefix tree is run once.

A row is a piece of the tree in one sequence. Its tokens see the row's prefix, which is in the KV cache, and
their own ancestors in the row; they keep the positions they have in their request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt

from harness.internals import common_prefix_length

WORTH_CACHING = 16  # tokens: a shorter shared prefix costs less to run again than a forward pass of its own


@dataclass
class PackedRow:
    """Tokens to run behind a prefix, with their prediction targets.

    `mask[i, j]` says that token i sees token j of the row; None when each sees all before it. `wanted` are the places
    in the row that predict something; `targets` holds per request its number, the indices into `wanted`, and the token
    ids that come next.
    """

    prefix: list[int]
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    mask: npt.NDArray[np.bool_] | None = None
    wanted: list[int] = field(default_factory=list)
    targets: list[tuple[int, list[int], list[int]]] = field(default_factory=list)


class RowPacker:
    """Packer of (context, continuation) pairs into rows.

    It walks their prefix tree and cuts it into rows of at most `budget` tokens.
    """

    def __init__(self, pairs: Sequence[tuple[list[int], list[int]]], numbers: Sequence[int], budget: int) -> None:
        self.budget = budget
        self.numbers = order = sorted(numbers, key=lambda i: (pairs[i][0] + pairs[i][1])[:-1])
        self.inputs = [(pairs[i][0] + pairs[i][1])[:-1] for i in order]
        self.outputs = [pairs[i][1] for i in order]
        self.first = [len(pairs[i][0]) - 1 for i in order]  # the place that predicts the first wanted token
        self.shared = [0, *(common_prefix_length(a, b) for a, b in pairwise(self.inputs))]  # with the request before
        own = (len(tokens) - shared for tokens, shared in zip(self.inputs, self.shared, strict=True))
        self.nodes = [0, *accumulate(own)]

    def rows(self) -> Iterator[PackedRow]:
        if self.inputs:
            yield from self._split_subtree_into_rows(0, len(self.inputs), 0)

    def _split_subtree_into_rows(self, lo: int, hi: int, cached: int) -> Iterator[PackedRow]:
        """Yield the rows of requests lo..hi. They share at least their first `cached` tokens."""
        if self._count_subtree_tokens(lo, hi, cached) <= self.budget:
            yield self._make_packed_row(range(lo, hi), cached)
            return
        level = common_prefix_length(self.inputs[lo], self.inputs[hi - 1])
        if level == len(self.inputs[hi - 1]):  # one request, or several of the same tokens
            yield from self._split_long_sequence(lo, hi, cached)
            return
        prefix = min(level, *self.first[lo:hi])  # what predicts nothing
        if prefix - cached >= WORTH_CACHING:
            cached = prefix
        cuts = [lo, *(i for i in range(lo + 1, hi) if self.shared[i] <= level), hi]
        packed, size = list[int](), 0
        for begin, end in pairwise(cuts):  # subtrees: those that fit share rows, each that does not is cut by itself
            alone = self._count_subtree_tokens(begin, end, cached)
            if packed and size + alone - (level - cached) > self.budget:
                yield self._make_packed_row(packed, cached)
                packed, size = [], 0
            if alone > self.budget:
                yield from self._split_subtree_into_rows(begin, end, cached)
                continue
            size += alone - (level - cached if packed else 0)
            packed.extend(range(begin, end))
        if packed:
            yield self._make_packed_row(packed, cached)

    def _count_subtree_tokens(self, lo: int, hi: int, cached: int) -> int:
        """Count the tree's tokens of requests lo..hi beyond the first `cached`."""
        return len(self.inputs[lo]) - cached + self.nodes[hi] - self.nodes[lo + 1]

    def _split_long_sequence(self, lo: int, hi: int, cached: int) -> Iterator[PackedRow]:
        """Yield the rows of one long sequence. Each has those before it for its prefix."""
        tokens = self.inputs[lo]
        for start in range(cached, len(tokens), self.budget):
            end = min(start + self.budget, len(tokens))
            row = PackedRow(tokens[:start], tokens[start:end], list(range(start, end)))
            begin = max(start, min(self.first[lo:hi]))
            row.wanted = list(range(begin - start, end - start))
            for i in range(lo, hi):
                if mine := range(max(begin, self.first[i]), end):
                    outputs = self.outputs[i][mine.start - self.first[i] : mine.stop - self.first[i]]
                    row.targets.append((self.numbers[i], [place - begin for place in mine], outputs))
            yield row

    def _make_packed_row(self, requests: Sequence[int], cached: int) -> PackedRow:
        row = PackedRow(self.inputs[requests[0]][:cached])
        path: list[int] = []  # the places in the row of the current request's tokens
        mask: list[tuple[int, int, list[int]]] = []  # new tokens from..to, and the ancestors they share
        indices: dict[int, int] = {}
        branches, before = False, None
        for i in requests:
            tokens = self.inputs[i]
            kept = 0 if before is None else common_prefix_length(before, tokens) - cached
            branches |= kept < len(path)
            start = len(row.tokens)
            row.tokens += tokens[cached + kept :]
            row.positions += range(cached + kept, len(tokens))
            path = path[:kept] + list(range(start, len(row.tokens)))
            mask.append((start, len(row.tokens), path[:kept]))
            wanted = [indices.setdefault(place, len(indices)) for place in path[self.first[i] - cached :]]
            row.targets.append((self.numbers[i], wanted, self.outputs[i]))
            before = tokens
        row.wanted = list(indices)
        if branches:
            row.mask = np.zeros((len(row.tokens), len(row.tokens)), dtype=np.bool_)
            for start, end, ancestors in mask:
                row.mask[start:end, ancestors] = True
                row.mask[start:end, start:end] = np.tri(end - start, dtype=np.bool_)
        return row
