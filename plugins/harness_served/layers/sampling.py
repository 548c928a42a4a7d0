"""Whether chat samples as a request names it: temperature 1 and no filter, so that tokens come as likely as they are.

A gateway that overrides what requests name shows here alone, for a server tells log-probabilities before its sampler;
so does a speculative decoder that accepts wrong drafts.
"""

from __future__ import annotations

from harness_served import DRAWN
from harness_served.layers.defaults import read_generation_config, sample_twice
from harness_served.parity import DIFFERS, UNPROVEN, LayerVerdict, Parity


def compare_sampling(parity: Parity) -> LayerVerdict:
    """Sample by chat with all fields named."""
    if parity.layer_verdict("ids") == DIFFERS:
        return LayerVerdict(UNPROVEN, "the prompts differ, so sampled tokens cannot be compared")
    return sample_twice(parity, "sampling", parity.runtime.draws, read_generation_config(parity), DRAWN)
