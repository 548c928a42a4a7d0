"""From a claim and scores to a verdict. The kinds of claims; a gate is of the last one that has its keys."""

from harness.claims.bound import Bound
from harness.claims.difference import Difference
from harness.claims.failures import Failures
from harness.claims.gate import KINDS
from harness.claims.group import Group

KINDS += (Bound(), Failures(), Difference(), Group())
