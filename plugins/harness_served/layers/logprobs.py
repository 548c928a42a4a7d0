"""The layer of log-probabilities, against those of the exported weights.

Both are of the runtime's own tokens; the weights compute in the reference's dtype, float32 unless large. The bound is
measured: four times the error that the runtime's kind of arithmetic causes in the exported model itself.
"""
# ruff: noqa: TID253 (imported only where a model is compared)

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness_served import DRAWN
from harness_served.parity import (
    DIFFERS,
    NOISE_FACTOR,
    SAME,
    UNKNOWN,
    UNPROVEN,
    LayerVerdict,
    Parity,
    RenderedConversation,
)
from harness_served.runtime import RuntimeAnswer

# conversations that are drawn once more, with the same seed, for a noise of the runtime's own
REPEATED_CONVERSATIONS = 2
ROUNDING_NATS = 0.001  # nats per token of KL that rounding alone may come to, where it goes one way
MIN_TOKENS = 64  # tokens, for anything to be said
MIN_TOLERANCE_NATS = 0.003  # nats per token in float32: llama.cpp keeps keys and values in f16,
LINEAR_ERROR_TOKENS = 64  # and sums them so: beyond so many tokens the error grows as the root of their number


@dataclass(frozen=True)
class DrawnTokens:
    """Tokens drawn by a runtime after a conversation, with their log-probabilities."""

    prompt: RenderedConversation
    ids: list[int]
    logprobs: list[float]


def compare_logprobs(parity: Parity) -> LayerVerdict:
    """Draw, and compare; raises UsageError as the server is asked."""
    runtime, said = parity.runtime, list(draw_from_runtime(parity))
    parity.heard["told"] = said
    if not said:
        return LayerVerdict(UNKNOWN, f"{runtime.name} reports no log-probabilities with its tokens; {runtime.hint}")
    if not runtime.takes_ids and parity.layer_verdict("ids") != SAME:
        return LayerVerdict(
            UNPROVEN, "the prompt's tokens differ from the export's, and the server does not accept token ids"
        )
    ours = [parity.reference.score(t.prompt.ids, t.ids).own for t in said]
    apart = torch.cat([torch.tensor(t.logprobs) - own for t, own in zip(said, ours, strict=True)])
    if len(apart) < MIN_TOKENS:
        return LayerVerdict(
            UNPROVEN, f"only {len(apart)} tokens were sent, at least {MIN_TOKENS} are needed: its answers are short"
        )
    own, itself = arithmetic_tolerance(parity, said, ours), _measure_repetition(parity, said)
    parity.heard["noise"] = max(own, itself)
    limit, found = NOISE_FACTOR * max(own, itself), root_mean_square(apart)
    mean, error = float(apart.mean()), float(apart.std()) / math.sqrt(len(apart))
    numbers = {"rms": found, "bound": limit, "median": float(apart.abs().median()), "max": float(apart.abs().max())}
    numbers |= {"kl": mean, "error": error, "tokens": len(apart), "noise": own, "itself": itself}
    told = f"{len(apart)} tokens, contexts up to {parity.max_prompt_tokens}"
    if itself > NOISE_FACTOR * own:
        why = f"two samples of the same tokens differ by RMS {itself:.2f} nats, limit {NOISE_FACTOR * own:.3f}"
        return LayerVerdict(DIFFERS, f"{why}: replicas differ, or the model changed", "told", numbers)
    if found <= limit and mean - 3 * error <= max(ROUNDING_NATS, max(own, itself) ** 2):
        says = f"KL {mean:.4f} ± {error:.4f} nats per token, RMS {found:.3f}, limit {limit:.3f}"
        return LayerVerdict(SAME, f"{says} (own {parity.arithmetic}: {own:.3f}), {told}", "told", numbers)
    far = sum(root_mean_square(torch.tensor(t.logprobs) - own) > limit for t, own in zip(said, ours, strict=True))
    where = f"in {far} of {len(said)} conversations"  # not in all: replicas may differ
    says = f"RMS {found:.2f} nats per token, limit {limit:.3f}, KL {mean:.3f} ± {error:.3f}, {told}, {where}"
    return LayerVerdict(DIFFERS, f"{says}; {explain_mismatch(parity, said, limit)}", "told", numbers)


def draw_from_runtime(
    parity: Parity, most: int = DRAWN, some: int = 0, seed: int | None = None
) -> Iterator[DrawnTokens]:
    """Yield tokens that the runtime draws unfiltered after each prompt.

    An answer is skipped if its tokens and log-probabilities cannot be matched.
    """
    runtime, seed = parity.runtime, parity.seed if seed is None else seed
    prompts = parity.drawn_prompts[: some or None]

    def draw(number: int) -> RuntimeAnswer | None:
        prompt, how = prompts[number], {**runtime.draws, "seed": seed + number}
        if runtime.takes_ids:
            return runtime.complete(prompt.ids, prompt.text, most, how)
        return runtime.answer(prompt.messages, prompt.text, most, how)

    for prompt, said in zip(prompts, parity.ask_each(draw, range(len(prompts))), strict=True):
        if said is None or said.logprobs is None:
            continue  # nothing is told, or of this answer nothing, which begins with a part of a character
        ids, told = parity.ids_of(prompt, said), len(said.logprobs)
        if ids is not said.ids and len(ids) not in (told, told - (said.ended == "stop")):
            continue  # its text is cut otherwise, so nothing says which token is which
        if many := min(len(ids), told):
            yield DrawnTokens(prompt, ids[:many], said.logprobs[:many])


def arithmetic_tolerance(parity: Parity, said: Sequence[DrawnTokens], ours: Sequence[torch.Tensor]) -> float:
    """Return the error that the runtime's arithmetic causes in the export.

    It is the root mean square in nats per token, on the same tokens, and at least MIN_TOLERANCE_NATS.
    """
    if parity.arithmetic == "float32":
        deep = torch.cat([torch.full((len(t.ids),), len(t.prompt.ids) / LINEAR_ERROR_TOKENS) for t in said])
        return MIN_TOLERANCE_NATS * float(deep.clamp(min=1).mean().sqrt())
    rough = [parity.reference.score(t.prompt.ids, t.ids, parity.arithmetic).own for t in said]
    return max(MIN_TOLERANCE_NATS, root_mean_square(torch.cat(rough) - torch.cat(list(ours))))


def root_mean_square(values: Any) -> float:
    """Return the root of the mean square."""
    return float(values.pow(2).mean().sqrt())


def _measure_repetition(parity: Parity, said: Sequence[DrawnTokens]) -> float:
    """Return the RMS difference between repeated draws of the runtime.

    Tokens count up to the first that differs.
    """
    again = [
        (one, other)
        for other in draw_from_runtime(parity, DRAWN // 2, REPEATED_CONVERSATIONS)
        for one in said
        if one.prompt is other.prompt
    ]
    pairs: list[float] = []
    for one, other in again:
        for a, b, x, y in zip(one.ids, other.ids, one.logprobs, other.logprobs, strict=False):
            if a != b:
                break
            pairs.append(x - y)
    return root_mean_square(torch.tensor(pairs)) if pairs else 0.0


def explain_mismatch(parity: Parity, said: Sequence[DrawnTokens], limit: float) -> str:
    """Name the known fault closest to the runtime's answers. It explains, and decides nothing."""
    reference = parity.reference
    wrong = {"rotary base a tenth of the export's": reference.with_rope_scaled(0.1)}
    if reference.adapter:
        wrong |= {
            "the base without its adapter": reference.with_adapter_scaled(0.0),
            "the adapter at half": reference.with_adapter_scaled(0.5),
        }
        wrong |= {"the adapter at twice its scale": reference.with_adapter_scaled(2.0)}
    theirs, found = torch.cat([torch.tensor(t.logprobs) for t in said]), {}
    for name, way in wrong.items():
        with way:
            found[name] = root_mean_square(theirs - torch.cat([reference.score(t.prompt.ids, t.ids).own for t in said]))
    name = min(found, key=lambda name: found[name])
    if found[name] > limit:
        return "other weights than the export's, or computed differently"
    return f"closest of {len(found)} known faults: {name} (RMS {found[name]:.2f})"
