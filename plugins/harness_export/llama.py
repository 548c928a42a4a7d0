"""A Llama as llama.cpp wants it: names of tensors, the order of rows, what its configuration becomes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import UsageError

ARCHITECTURE = "LlamaForCausalLM"
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
LAYER = {
    **{"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"},
    **{"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"},
    **{"self_attn.o_proj": "attn_output"},
    **{"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"},
}
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


@dataclass(frozen=True)
class Llama:
    """What of a Llama's config.json decides how it computes."""

    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    head: int  # width of one
    context: int
    vocabulary: int
    eps: float
    theta: float
    tied: bool
    scaling: Mapping[str, float] | None  # of Llama 3's rotary frequencies

    def factors(self) -> list[float]:
        """Return what each rotary frequency is divided by (transformers, `_compute_llama3_parameters`)."""
        assert self.scaling
        factor, low, high, old = (self.scaling[name] for name in LLAMA3)
        found = []
        for i in range(0, self.head, 2):
            turns = old / (2 * math.pi * self.theta ** (i / self.head))  # within the context it was trained on
            smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
            found.append(1 / ((1 - smooth) / factor + smooth))
        return found

    def metadata(self) -> Iterator[tuple[str, int | float]]:
        """Yield the keys of the architecture; floats become 32 bits."""
        yield "llama.block_count", self.layers
        yield "llama.context_length", self.context
        yield "llama.embedding_length", self.width
        yield "llama.feed_forward_length", self.inner
        yield "llama.attention.head_count", self.heads
        yield "llama.attention.head_count_kv", self.kv_heads
        yield "llama.attention.key_length", self.head
        yield "llama.attention.value_length", self.head
        yield "llama.attention.layer_norm_rms_epsilon", self.eps
        yield "llama.rope.dimension_count", self.head
        yield "llama.rope.freq_base", self.theta
        yield "llama.vocab_size", self.vocabulary


def read_config(folder: Path) -> Llama:
    """Read a model's config.json; raises UsageError for what is no plain Llama, naming llama.cpp's own converter."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    made = ", ".join(config.get("architectures") or ["none named"])
    if made != ARCHITECTURE:
        raise _refused(f"architecture {made}, and only {ARCHITECTURE} is known here")
    odd = [name for name in ("attention_bias", "mlp_bias", "quantization_config") if config.get(name)]
    if odd or config.get("hidden_act", "silu") != "silu":
        raise _refused(f"{', '.join(odd) or 'another activation than silu'} in its config.json")
    rope = config.get("rope_parameters") or {**(config.get("rope_scaling") or {}), "rope_theta": config["rope_theta"]}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3") or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise _refused(f'rotary positions of the type "{kind}"')
    heads = int(config["num_attention_heads"])
    return Llama(
        layers=int(config["num_hidden_layers"]),
        width=int(config["hidden_size"]),
        inner=int(config["intermediate_size"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head=int(config.get("head_dim") or config["hidden_size"] // heads),
        context=int(config["max_position_embeddings"]),
        vocabulary=int(config["vocab_size"]),
        eps=float(config["rms_norm_eps"]),
        theta=float(rope.get("rope_theta", 10000.0)),
        tied=bool(config.get("tie_word_embeddings")),
        scaling={name: float(rope[name]) for name in LLAMA3} if kind == "llama3" else None,
    )


def name_of(tensor: str, llama: Llama) -> str | None:
    """Return llama.cpp's name for a tensor; None for a head that is the embeddings, or frequencies it makes itself."""
    if (tensor == "lm_head.weight" and llama.tied) or tensor.endswith("rotary_emb.inv_freq"):
        return None
    module, _, part = tensor.rpartition(".")
    if part == "weight" and module in NAMES:
        return f"{NAMES[module]}.weight"
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module)
    if part != "weight" or not found or found[2] not in LAYER:
        raise _refused(f'a tensor "{tensor}" that is in no plain Llama')
    return f"blk.{found[1]}.{LAYER[found[2]]}.weight"


def reorder(name: str, weight: Any, llama: Llama) -> Any:
    """Put a query's or key's rows into llama.cpp's order: a head's halves, which rotate together, become pairs.

    `weight` is (heads · head, width), of numpy or torch; others come back as they are.
    """
    heads = {"attn_q": llama.heads, "attn_k": llama.kv_heads}.get(name.rpartition(".")[0].rpartition(".")[2])
    if heads is None:
        return weight
    return weight.reshape(heads, 2, llama.head // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def _refused(what: str) -> UsageError:
    return UsageError(f'export "gguf": the model has {what}; convert it with llama.cpp\'s convert_hf_to_gguf.py')
