"""The layer of sampling defaults, against the export's generation_config.json.

They apply where a request names no value. Reported defaults decide; else text that was drawn so is scored by the
export: of text drawn at temperature 1 and unfiltered the sum of surprise less entropy is a martingale with a known
variance. An alarm is drawn once more, and so are too few tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from harness_served.parity import (
    DIFFERS,
    SAME,
    SECOND_SEED_OFFSET,
    UNKNOWN,
    UNPROVEN,
    LayerVerdict,
    Parity,
    SampledAnswer,
)
from harness_served.runtime import RuntimeAnswer

if TYPE_CHECKING:
    from harness_served.reference import TokenScores

NEUTRAL_VALUES: Mapping[str, tuple[float, ...]] = {  # values that change nothing
    **{"temperature": (1.0,), "top_k": (0.0, -1.0), "top_p": (1.0,), "min_p": (0.0,), "typical_p": (1.0,)},
    **{"repetition_penalty": (1.0,), "presence_penalty": (0.0,), "frequency_penalty": (0.0,)},
    **{"dry_multiplier": (0.0,), "xtc_probability": (0.0,)},
}
TOKENS_PER_CONVERSATION = 40  # of each conversation
MIN_TOKENS = 64
Sampled = tuple[SampledAnswer, "TokenScores"]


def compare_defaults(parity: Parity) -> LayerVerdict:
    """Compare reported defaults, or else the answers drawn with them."""
    named = read_generation_config(parity)
    if (told := parity.runtime.defaults()) is not None:
        apart = [key for key in told if _is_different(key, float(told[key]), named)]
        odd = [f"{key} {told[key]:g} instead of the export's {named.get(key, 'none')}" for key in apart]
        greedy = not named.get("do_sample") and told.get("temperature") == 0
        if odd and not greedy:
            says = f"{', '.join(odd)}; set them in requests, or start the server with the export's"
            return LayerVerdict(DIFFERS, says, "told")
        return LayerVerdict(SAME, "as in the export's generation_config.json", "told")
    if parity.layer_verdict("ids") == DIFFERS:
        return LayerVerdict(UNPROVEN, "the prompts differ, so sampled tokens cannot be compared")
    return sample_twice(parity, "defaults", {}, named)


def sample_twice(
    parity: Parity, layer: str, how: Mapping[str, Any], named: Mapping[str, Any], tokens: int = TOKENS_PER_CONVERSATION
) -> LayerVerdict:
    """Test how surprising sampled answers are.

    After an alarm or with few tokens there is a second sample, and both count at alpha's square. `how` are the fields
    of the requests, beside the seed, `named` the export's values for fields that they leave out.
    """
    heard = list[Sampled]()
    drawn = _measure_surprise(parity, how, named, heard, parity.seed, parity.alpha, tokens)
    if drawn.verdict == DIFFERS:
        parity.notes.append(f"{layer}: sampled once more, since the first sample {drawn.reason}")
    if drawn.verdict == DIFFERS or 0 < drawn.numbers["tokens"] < MIN_TOKENS:
        drawn = _measure_surprise(parity, how, named, heard, parity.seed + SECOND_SEED_OFFSET, parity.alpha**2, tokens)
    return drawn


def read_generation_config(parity: Parity) -> dict[str, Any]:
    """Return the values set in the export's generation_config.json."""
    path = parity.reference.folder / "generation_config.json"
    found = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return {key: value for key, value in found.items() if value is not None}


def _is_different(key: str, told: float, named: Mapping[str, Any]) -> bool:
    wanted = (float(named[key]),) if key in named else NEUTRAL_VALUES.get(key, (told,))
    return not any(math.isclose(told, one, abs_tol=1e-3) for one in wanted)


def _measure_surprise(
    parity: Parity,
    how: Mapping[str, Any],
    named: Mapping[str, Any],
    heard: list[Sampled],
    seed: int,
    alpha: float,
    most: int,
) -> LayerVerdict:
    """Sample, and test the surprise of all answers so far.

    The new answers are added to `heard`.
    """
    filtered = [key for key in NEUTRAL_VALUES if key in named and _is_different(key, float(named[key]), {})]
    prompts = parity.plain_prompts

    def draw(number: int) -> RuntimeAnswer:
        return parity.runtime.chat(prompts[number].messages, most, {**how, "seed": seed + number})

    for prompt, said in zip(prompts, parity.ask_each(draw, range(len(prompts))), strict=True):
        answer = parity.sampled_of(prompt, said)
        if answer.outcomes:
            heard.append((answer, parity.reference.score(prompt.ids, answer.ids)))
    tokens = sum(answer.outcomes for answer, _ in heard)
    margins = (max(parity.choice_margins(a.said, a.ids, scores), default=0.0) for a, scores in heard)
    greedy = all(margin < 0.5 for margin in margins)
    numbers = {"tokens": float(tokens), "z": _compute_z(heard)}
    if tokens < MIN_TOKENS:
        return LayerVerdict(
            UNPROVEN, f"only {tokens} tokens were sampled, at least {MIN_TOKENS} are needed", "text", numbers
        )
    z, far = numbers["z"], NormalDist().inv_cdf(1 - alpha / 2)
    above = _compute_z([pair for pair in heard if pair[0].reported])  # a text may be cut into rarer tokens
    verdict, says = UNPROVEN, f"surprise {z:+.1f} at {tokens} tokens; a weak filter could go unnoticed"
    but = "the requests name temperature 1 and no filter" if how else "the export sets no such option"
    if greedy and not how:
        verdict = DIFFERS if named.get("do_sample") else SAME
        says = f"answers greedily, and the export has do_sample = {bool(named.get('do_sample'))} ({tokens} tokens)"
    elif greedy and z >= -far:
        says = f"the export is so certain of {tokens} tokens that sampling does not show"
    elif greedy:  # transformers serve never samples by itself, and reports no log-probabilities
        obeys = any(answer.said.logprobs is not None for answer, _ in heard) or named.get("do_sample")
        verdict, says = DIFFERS if obeys else UNKNOWN, f"answers greedily ({tokens} tokens), but {but}"
    elif filtered and not how:
        says = f"samples; replies do not show whether the export's {', '.join(filtered)} are applied"
    elif z < -far:
        says = f"filters, or samples at a lower temperature: surprise {z:+.1f} at {tokens} tokens, but {but}"
        verdict = DIFFERS
    elif above > far:
        cause = "samples at a higher temperature, or from another model"
        verdict, says = DIFFERS, f"{cause}: surprise {above:+.1f} at {tokens} tokens, but {but}"
    elif how:
        verdict = SAME
    return LayerVerdict(verdict, says, "text", numbers)


def _compute_z(heard: Sequence[Sampled]) -> float:
    """Return the answers' excess surprise in standard errors. Positive if above the export's expectation."""
    total = sum(float(scores.surprise[: answer.outcomes].sum()) for answer, scores in heard)
    variance = sum(float(scores.variance[: answer.outcomes].sum()) for answer, scores in heard)
    return total / math.sqrt(variance) if variance else 0.0
