"""The parts of a verdict, and the conditions of a gate: each in a file of its own, and here in its place.

A new gate key is a file here with its keys, its condition and its part, and a line in each of the three lists below.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.records.parts.approximate import ApproximateRisk, RiskKeys, RiskLimit
from harness.records.parts.attempts import CountedAttempt, InterimLooks
from harness.records.parts.cap import Uncapped
from harness.records.parts.clusters import Clusters, ClusterSizes
from harness.records.parts.guarded import GuardedTask
from harness.records.parts.labels import LabelledRows
from harness.records.parts.leaked import LeakedRows, LeakKeys, WithoutLeaks
from harness.records.parts.needed import LabelsNeeded, RowsNeeded
from harness.records.parts.part import Condition, Part
from harness.records.parts.reason import Reason
from harness.records.parts.recipe import RecipeRuns
from harness.records.parts.rows import (
    CorrelatedNeighbours,
    RepeatedQuestions,
    RowsOfOthers,
    UnseenRows,
    WeightlessRows,
)
from harness.records.parts.slices import RefutedSlices, Slices, WorstSlice
from harness.records.parts.truncated import TruncatedAnswers, TruncationKeys, TruncationLimit
from harness.records.parts.waived import VoidWaiver, Waived


@dataclass(frozen=True)
class ConditionKeys(RiskKeys, TruncationKeys, LeakKeys):
    """The keys of all conditions, which a gate has."""


CONDITIONS: tuple[Condition, ...] = (WithoutLeaks(), RiskLimit(), TruncationLimit())
PARTS: tuple[type[Part], ...] = (
    Reason, TruncatedAnswers, Slices, Clusters, Uncapped, ClusterSizes, WeightlessRows, UnseenRows, RowsNeeded,
    LabelsNeeded, RecipeRuns, LabelledRows, RepeatedQuestions, CorrelatedNeighbours, RefutedSlices, WorstSlice,
    ApproximateRisk, LeakedRows, CountedAttempt, InterimLooks, Waived, VoidWaiver, GuardedTask, RowsOfOthers,
)  # fmt: skip
Part.registry.update({part.name: part for part in PARTS})
