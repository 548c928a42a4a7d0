"""One row, all the way: Sample -> Score -> Result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from harness.artifacts.digests import digest_value, row_digest
from harness.records.completion import TRUNCATED, FinishReason

Prompt = str | list[dict[str, str]]
"""What a model is asked: a text, or chat messages."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of an evaluation's data.

    `input` is text or chat messages, `target` what is wanted (several: any of them), `row` every
    column of the row as it was read, `cluster` what rows share that are not independent, `second_cluster` the same of a
    second column, `key` what tells its question from others (`harness.data.identity`).
    """

    id: str
    input: Prompt = ""
    target: str | list[str] = ""
    row: Mapping[str, Any] = field(default_factory=dict)
    cluster: str | None = None
    key: str = ""
    second_cluster: str | None = None

    @property
    def targets(self) -> list[str]:
        """The target as a list of accepted answers."""
        return [self.target] if isinstance(self.target, str) else list(self.target)

    @property
    def digest_fields(self) -> list[Any]:
        """The fields as they were given, for a digest.

        The derived `key` is left out, and so is a missing `second_cluster`.
        """
        second = [] if self.second_cluster is None else [self.second_cluster]
        return [self.id, self.input, self.target, self.row, self.cluster, *second]

    @property
    def question(self) -> Any:
        """The prompt, or the text to score."""
        return self.input or self.row.get("text", "")

    @property
    def digests(self) -> dict[str, str]:
        """The digests of row, prompt and target, as in the evidence."""
        texts = {"doc_hash": self.row, "prompt_hash": self.question, "target_hash": self.target}
        return {name: digest_value(text) for name, text in texts.items()}

    @property
    def digest(self) -> str:
        """One sha256 of all that evidence tells of it."""
        clusters = {"cluster": self.cluster, "second_cluster": self.second_cluster}
        return row_digest({"id": self.id, **clusters, **self.digests})


def rows_digest(samples: Iterable[Sample]) -> str:
    """Return one sha256 of rows in their order. It is made of the digest of each row."""
    return digest_value([sample.digest for sample in samples])


@dataclass(frozen=True, slots=True)
class Draw:
    """One of several answers to a row: its values by metric, its text, a note, and how it ended."""

    values: Mapping[str, float]
    answer: str | None = None
    note: str | None = None
    finish_reason: FinishReason = ""
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """The metric values, weight, answer and note of one row.

    The weight is 1, or the number of tokens for a perplexity; `weights` overrides it for single metrics. The value of a
    "perplexity" metric is in nats per unit of weight.

    The metrics in `lost`, proportions of weight 0, should have a value but have none: where a gate tries to prove a
    claim it takes the worst value, where it tries to refute one the best. A metric in `partly_lost` has a value from
    some of its answers only, and a share of them, above 0, has none.

    `details` are for people, and are written to the samples file. The harness itself fills in finish reason and tokens
    from the loader. For a row with several answers `draws` holds each of them, and the values are their means.
    """

    id: str
    values: Mapping[str, float]
    weight: float = 1.0
    answer: str | None = None
    note: str | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    partly_lost: Mapping[str, float] = field(default_factory=dict)
    finish_reason: FinishReason = ""
    tokens: int | None = None
    draws: tuple[Draw, ...] = ()

    @property
    def answers(self) -> Sequence[Score]:
        """Each of its answers as a score of its own."""
        if not self.draws:
            return [self]
        same = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in (*Draw.__slots__, "draws")}
        return [Score(**same, **{n: getattr(d, n) for n in Draw.__slots__}) for d in self.draws]

    @property
    def is_cut(self) -> bool:
        """Whether its answer ended at a limit, and not by itself."""
        return self.finish_reason in TRUNCATED

    def weight_of(self, metric: str) -> float:
        return self.weights.get(metric, self.weight)

    def with_value(self, value: float) -> Score:
        """Fill in `value` for every lost or partly lost metric.

        The row then counts in these metrics as any other. A partly lost value is mixed with `value` by the lost share.
        """
        weights = {name: weight for name, weight in self.weights.items() if name not in self.lost}
        parts = {n: (1 - share) * self.values[n] + share * value for n, share in self.partly_lost.items()}
        values = {**self.values, **dict.fromkeys(self.lost, value), **parts}
        return replace(self, values=values, weights=weights, lost=(), partly_lost={})


@dataclass(frozen=True)
class Caveat:
    """A caveat about an evaluation as a whole.

    A marking evaluator may yield it among its Scores. Its `outcome`, if any, is that of every gate on `metrics` (on all
    metrics, if none is named), regardless of the rows. It can block a gate, and never pass one.
    """

    text: str
    outcome: Literal["INCONCLUSIVE", "ERROR"] | None = None
    metrics: tuple[str, ...] = ()

    def blocks(self, metric: str) -> bool:
        return self.outcome is not None and (not self.metrics or metric in self.metrics)


@dataclass(frozen=True)
class Labels:
    """Human labels of answers that a metric's instrument scored too.

    A marking evaluator may yield them. `truth` holds 1 (the candidate's is better, or the criterion is met), 0, or one
    half for a tie; `said` (the field) holds the instrument's value for the same answer, from 0 to 1. Labels of one
    prompt share a cluster. `rows` are the ids of the labelled rows, a random sample of all, by which the labels correct
    a "proportion": see `harness.gates.labels`. A claim against a baseline is decided by these rows alone. The labels
    are the only data of an "agreement", which needs no rows.
    """

    metric: str
    truth: tuple[float, ...]
    said: tuple[float, ...]
    clusters: tuple[int, ...]
    rows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """The scores and metrics of one subject on one evaluation.

    `missing` holds the ids of rows without a score, `digest` identifies the weights, `rows` is the digest of the
    evaluated rows. If it may stop early, `order` holds the ids that it evaluated, in their random order.
    """

    subject: str
    eval: str
    scores: tuple[Score, ...]
    metrics: Mapping[str, float]
    digest: str
    missing: tuple[str, ...] = ()
    seconds: float = 0.0
    rows: str = ""
    order: tuple[str, ...] = ()
    caveats: tuple[Caveat, ...] = ()
    labels: tuple[Labels, ...] = ()
    other_runs: tuple[Result, ...] = ()  # of the recipe with its other seeds, where a gate is about the recipe

    @property
    def answers(self) -> list[Score]:
        """The scores, of a row with several answers one for each."""
        return [answer for score in self.scores for answer in score.answers]

    def labels_of(self, metric: str) -> Labels | None:
        return next((found for found in self.labels if found.metric == metric), None)
