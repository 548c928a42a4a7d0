"""Whether an adapter is applied, at its whole scale: by the direction in which a smaller one would change tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness_served.layers.logprobs import DrawnTokens, draw_from_runtime, root_mean_square
from harness_served.parity import (
    DIFFERS,
    NOISE_FACTOR,
    SAME,
    SECOND_SEED_OFFSET,
    UNKNOWN,
    UNPROVEN,
    LayerVerdict,
    Parity,
)

BASE_PROMPT = "Once upon a time"  # a text prompt for the base of an adapter, and for nothing else
TRIED_SCALE = 0.9  # the scale whose direction is tried
MAX_STANDARD_ERRORS = 3


def compare_lora(parity: Parity) -> LayerVerdict:
    """Estimate the adapter's scale by regression, and compare the base.

    The runtime's difference is regressed on the effect of a smaller scale. The base must be another model.
    """
    import torch

    runtime, reference = parity.runtime, parity.reference
    if not reference.adapter:
        return LayerVerdict(UNKNOWN, "exported as a merged model; export the adapter to compare its scale")
    if "noise" not in parity.heard:
        return LayerVerdict(UNPROVEN, "needs log-probabilities; add the layer logprobs")
    said, bound = parity.heard["told"], NOISE_FACTOR * parity.heard["noise"]
    slope, error = _measure_direction(parity, said)
    if abs(slope) > MAX_STANDARD_ERRORS * error and (
        second := list(draw_from_runtime(parity, seed=parity.seed + SECOND_SEED_OFFSET))
    ):
        parity.notes.append(
            f"lora: sampled once more, since the first sample gave {slope:.2f} ± {error:.2f} of the way"
        )
        slope, error = _measure_direction(parity, second)
    if math.isnan(slope):
        return LayerVerdict(UNPROVEN, "the adapter changes none of the answers")
    numbers = {"slope": slope, "error": error}
    told = [f'"{a["name"]}"' + (f" scale {a['scale']}" if "scale" in a else "") for a in runtime.adapters()]
    says = f"its scale is {1 - (1 - TRIED_SCALE) * slope:.2f} ± {(1 - TRIED_SCALE) * error:.2f}"
    says += f" ({', '.join(told)} reported)" if told else ""
    ids = reference.tokens.encode_prompts([BASE_PROMPT])[
        0
    ]  # for llama.cpp goes on as it first read a prompt, whatever the scale
    base = runtime.complete_as_base(ids, BASE_PROMPT, 2 * len(said[0].ids))
    if base and base.logprobs and base.ids:
        theirs = torch.tensor(base.logprobs)
        tuned = reference.score(ids, base.ids).own[: len(theirs)]
        with reference.with_adapter_scaled(0.0):
            own = reference.score(ids, base.ids).own[: len(theirs)]
        numbers |= {"base": root_mean_square(theirs - tuned), "base from its own": root_mean_square(theirs - own)}
        if numbers["base"] <= bound < root_mean_square(own - tuned):
            says = f'"{runtime.model}" answers as its base, so the adapter is not applied'
            return LayerVerdict(DIFFERS, says, "told", numbers)
    if abs(slope) > MAX_STANDARD_ERRORS * error:
        return LayerVerdict(DIFFERS, says, "told", numbers)
    if parity.layer_verdict("logprobs") != SAME:
        return LayerVerdict(UNPROVEN, f"{says}, but logprobs differ", "told", numbers)
    return LayerVerdict(SAME, says, "told", numbers)


def _measure_direction(parity: Parity, said: Sequence[DrawnTokens]) -> tuple[float, float]:
    """Return the slope towards a smaller scale, and its standard error.

    A slope of 1 is the whole way; both are NaN if the scale changes nothing.
    """
    import torch

    reference = parity.reference
    ours = torch.cat([reference.score(t.prompt.ids, t.ids).own for t in said])
    with reference.with_adapter_scaled(TRIED_SCALE):
        towards = torch.cat([reference.score(t.prompt.ids, t.ids).own for t in said]) - ours
    apart, square = torch.cat([torch.tensor(t.logprobs) for t in said]) - ours, towards.pow(2).sum()
    slope = (apart * towards).sum() / square
    return float(slope), float(((apart - slope * towards) * towards).pow(2).sum().sqrt() / square)
