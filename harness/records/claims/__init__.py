"""The kinds of claims; a gate is of the last one that has its keys."""

from harness.records.claims.bound import Bound
from harness.records.claims.difference import Difference
from harness.records.claims.failures import Failures
from harness.records.claims.gate import KINDS
from harness.records.claims.loss_rate import LossRate

KINDS += (Bound(), Failures(), Difference(), LossRate())
