"""From a claim and scores to a verdict. The kinds of claims; a gate is of the last one that has its keys."""

from harness.gates.bound import Bound
from harness.gates.difference import Difference
from harness.gates.failures import Failures
from harness.gates.gate import KINDS
from harness.gates.loss_rate import LossRate

KINDS += (Bound(), Failures(), Difference(), LossRate())
