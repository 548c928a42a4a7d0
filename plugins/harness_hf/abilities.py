"""Abilities of a causal LM, and tolerances for its scores.

They are running on tokens alone, causality, and sharing prefixes by custom masks and positions.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from harness.internals import memory_error

# nats per token that a score may be from a plain forward's: in half precision rows in other company differ by 0.05 on
# average and 0.28 at most (bfloat16, 135 M parameters, 170 pairs)
TOLERANCE_BY_DTYPE = {torch.float32: 1e-3, torch.float16: 0.15, torch.bfloat16: 1.0}
PROBE_TOKENS = 8  # tokens, that are followed by as many, or by none


def find_masking_error(model: PreTrainedModel) -> str:
    """Return the reason custom masks are invalid for a model.

    Empty if they are valid: every layer has full attention, takes any mask, and has rotary positions that do not depend
    on the length of the input.
    """
    config = model.config.get_text_config()
    takes = inspect.signature(model.forward).parameters
    kind = next(
        (kind for rope in _list_rope_settings(model) if (kind := rope.get("rope_type")) in ("dynamic", "longrope")), ""
    )
    layers = {type(layer).__name__ for layer in DynamicCache(config=model.config).layers} - {DynamicLayer.__name__}
    attention = getattr(config, "_attn_implementation", None)
    wanted = {"position_ids", "cache", "logits_to_keep", "attention_mask"}
    rotary = any(name.endswith("rotary_emb") for name, _ in model.named_modules())
    reasons = {
        "its forward lacks position_ids, cache, logits_to_keep or attention_mask": not wanted <= takes.keys(),
        "its attention does not accept a custom mask": attention not in ("sdpa", "eager"),
        "its positions are not rotary": getattr(config, "alibi", False) or not rotary,
        f"its rotary positions are {kind}": bool(kind),
        "it is not causal": not getattr(config, "is_causal", True),
        f"its cache layers are {', '.join(sorted(layers))}": bool(layers),
    }
    return next((why for why, so in reasons.items() if so), "")


def rope_switch_length(model: PreTrainedModel) -> float:
    """Return the length beyond which LongRoPE rotates all positions differently.

    It is in tokens, and infinity for other models.
    """
    lengths = [
        r["original_max_position_embeddings"] for r in _list_rope_settings(model) if r.get("rope_type") == "longrope"
    ]
    return min(lengths, default=math.inf)


def _list_rope_settings(model: PreTrainedModel) -> list[dict[str, Any]]:
    """Return a model's rotary settings, and those per layer kind."""
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    return [rope, *(part for part in rope.values() if isinstance(part, dict))]


def find_run_error(model: PreTrainedModel) -> str | None:
    """Return why a model cannot be asked at all: it does not run on tokens alone, or predicts something else."""
    try:
        wide = _compute_logits(model, _make_probe_ids(model)).shape[-1]
    except Exception as error:
        if memory_error(error):
            raise
        return f"cannot be run on tokens alone: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    known = model.get_input_embeddings().num_embeddings
    return f"predicts {wide} classes, but reads {known} tokens" if wide > known else None


def find_causality_error(model: PreTrainedModel) -> str | None:
    """Return an error if a model looks ahead, else None.

    Such a model has neither scores nor answers.
    """
    ids = _make_probe_ids(model)
    alone, followed = (_compute_logits(model, row) for row in (ids[:, :-PROBE_TOKENS], ids))  # (T, V)
    apart = _measure_max_logprob_difference(alone[-PROBE_TOKENS:], followed[-2 * PROBE_TOKENS : -PROBE_TOKENS])
    # a quantised layer computes rows of another number otherwise
    limit = max(
        TOLERANCE_BY_DTYPE[coarsest_dtype(model)],
        TOLERANCE_BY_DTYPE[torch.float16] if getattr(model, "is_quantized", False) else 0.0,
    )
    return "is not causal: later tokens change its predictions" if apart > limit else None


def _compute_logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Return the logits (T, V) of a row (1, T). The mask is that of scoring."""
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]
    return found


def _make_probe_ids(model: PreTrainedModel) -> torch.Tensor:
    """Return a row (1, T) of probe tokens.

    It is longer than the number of tokens that a sparse layer selects, if the context allows.
    """
    config = model.config.get_text_config()
    chosen = getattr(config, "index_topk", None) or 0  # of the tokens of a row, which a sparse layer looks at alone
    before = chosen if chosen < (getattr(config, "max_position_embeddings", None) or math.inf) else 0
    return torch.tensor([[i % config.vocab_size for i in range(5, 5 + before + 2 * PROBE_TOKENS)]], device=model.device)


def _measure_max_logprob_difference(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the largest difference between two runs' top log-probabilities.

    Both have logits (T, V); the first one's likeliest token is compared at each place.
    """
    one, other = one.float(), other.float()
    return (one.log_softmax(-1) - other.log_softmax(-1)).abs().gather(-1, one.topk(1).indices).max()


def coarsest_dtype(model: PreTrainedModel) -> torch.dtype:
    """Return the coarsest dtype the model computes in."""
    computes = {getattr(module, "compute_dtype", None) for module in model.modules()}
    rough = {torch.bfloat16, torch.float16} & {model.dtype, *computes}
    return min(rough, key=lambda dtype: -torch.finfo(dtype).eps) if rough else torch.float32
