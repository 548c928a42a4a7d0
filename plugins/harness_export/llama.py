"""A Llama as llama.cpp wants it: names of tensors, the order of rows, what configuration and tokenizer become.

The tokenizer is a byte-level BPE; what a GGUF file cannot say of it is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from harness import UsageError
from harness_hf import SPLITS, ModelTokenizer, split_name

ARCHITECTURE = "LlamaForCausalLM"
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
LAYER = {
    **{"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"},
    **{"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"},
    **{"self_attn.o_proj": "attn_output"},
    **{"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"},
}
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's types of tokens
FURTHER_STOPS = ("eot", "eom")
KEYS = {  # of the architecture in a GGUF file -> fields of a Llama
    **{"block_count": "layers", "context_length": "context", "embedding_length": "width"},
    **{"feed_forward_length": "inner", "attention.head_count": "heads", "attention.head_count_kv": "kv_heads"},
    **{"attention.key_length": "head", "attention.value_length": "head", "attention.layer_norm_rms_epsilon": "eps"},
    **{"rope.dimension_count": "head", "rope.freq_base": "theta", "vocab_size": "vocabulary"},
}


@dataclass(frozen=True)
class Llama:
    """The settings in a Llama's config.json that determine its computation."""

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
        """Return the divisor of each rotary frequency (transformers, `_compute_llama3_parameters`)."""
        assert self.scaling
        factor, low, high, old = (self.scaling[name] for name in LLAMA3)
        found = []
        for i in range(0, self.head, 2):
            turns = old / (2 * math.pi * self.theta ** (i / self.head))  # within the context it was trained on
            smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
            found.append(1 / ((1 - smooth) / factor + smooth))
        return found


def read_llama_config(folder: Path) -> Llama:
    """Read the config.json of a plain Llama.

    Raises UsageError for any other model, naming llama.cpp's own converter.
    """
    config = json.loads((folder / "config.json").read_text("utf-8"))
    made = ", ".join(config.get("architectures") or ["none named"])
    if made != ARCHITECTURE:
        raise _make_unsupported_model_error(f"the architecture {made}, and only {ARCHITECTURE} is supported")
    odd = [name for name in ("attention_bias", "mlp_bias", "quantization_config") if config.get(name)]
    if odd or config.get("hidden_act", "silu") != "silu":
        raise _make_unsupported_model_error(f"{', '.join(odd) or 'another activation than silu'} in its config.json")
    rope = config.get("rope_parameters") or {**(config.get("rope_scaling") or {}), "rope_theta": config["rope_theta"]}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3") or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise _make_unsupported_model_error(f'rotary positions of the type "{kind}"')
    heads, width = int(config["num_attention_heads"]), int(config["hidden_size"])
    return Llama(
        layers=int(config["num_hidden_layers"]), width=width, inner=int(config["intermediate_size"]), heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads), head=int(config.get("head_dim") or width // heads),
        context=int(config["max_position_embeddings"]), vocabulary=int(config["vocab_size"]),
        eps=float(config["rms_norm_eps"]), theta=float(rope.get("rope_theta", 10000.0)),
        tied=bool(config.get("tie_word_embeddings")),
        scaling={name: float(rope[name]) for name in LLAMA3} if kind == "llama3" else None,
    )  # fmt: skip


def gguf_tensor_name(tensor: str, llama: Llama) -> str | None:
    """Return llama.cpp's name for a tensor.

    None for a head tied to the embeddings, or frequencies that llama.cpp makes itself. Raises UsageError for a tensor
    that a plain Llama does not have.
    """
    if (tensor == "lm_head.weight" and llama.tied) or tensor.endswith("rotary_emb.inv_freq"):
        return None
    module, _, part = tensor.rpartition(".")
    if part == "weight" and module in NAMES:
        return f"{NAMES[module]}.weight"
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", tensor)
    if not found or found[2] not in LAYER:
        raise _make_unsupported_model_error(f'the tensor "{tensor}", which a plain Llama does not have')
    return f"blk.{found[1]}.{LAYER[found[2]]}.weight"


def reorder_heads(name: str, weight: Any, llama: Llama) -> Any:
    """Put a query's or key's rows into llama.cpp's order: a head's halves, which rotate together, become pairs."""
    heads = {"attn_q": llama.heads, "attn_k": llama.kv_heads}.get(name.rpartition(".")[0].rpartition(".")[2])
    if heads is None:
        return weight
    # (heads · head, width), of numpy or torch
    return weight.reshape(heads, 2, llama.head // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def _make_unsupported_model_error(what: str) -> UsageError:
    return UsageError(f'export "gguf": the model has {what}; convert it with llama.cpp\'s convert_hf_to_gguf.py')


def gguf_metadata(folder: Path, llama: Llama) -> Iterator[tuple[str, Any]]:
    """Yield GGUF keys and values for the architecture and the tokenizer.

    The tokens are padded to the number of embeddings. Raises UsageError for a tokenizer that llama.cpp does not
    support.
    """
    for key, name in KEYS.items():
        yield f"llama.{key}", getattr(llama, name)  # floats become 32 bits
    tokens = ModelTokenizer.of(str(folder))
    tokenizer = tokens.tokenizer
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    yield "tokenizer.ggml.model", "gpt2"
    yield "tokenizer.ggml.pre", _require_supported_pretokenizer(backend)
    names, types = _list_token_texts_and_types(backend, llama.vocabulary)
    yield "tokenizer.ggml.tokens", names
    yield "tokenizer.ggml.token_type", types
    yield "tokenizer.ggml.merges", [m if isinstance(m, str) else " ".join(m) for m in backend["model"]["merges"]]
    for ours, theirs in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items():
        if (number := getattr(tokenizer, f"{ours}_token_id")) is not None:
            yield f"tokenizer.ggml.{theirs}_token_id", int(number)
    path = folder / "generation_config.json"
    named = json.loads(path.read_text("utf-8")).get("eos_token_id") if path.is_file() else None
    stops = set(named) if isinstance(named, list) else set() if named is None else {int(named)}
    further = sorted((tokens.stop_ids | stops) - {tokenizer.eos_token_id})
    if len(further) > len(FURTHER_STOPS):
        raise _make_unsupported_tokenizer_error(
            f"{len(further) + 1} stop tokens, but a GGUF file has room for {len(FURTHER_STOPS) + 1}"
        )
    for name, number in zip(FURTHER_STOPS, further, strict=False):
        yield f"tokenizer.ggml.{name}_token_id", number
    # whether a text gets a BOS in front and an EOS behind
    plain, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    for bos, eos in product((False, True), repeat=2):
        if whole == [*([tokenizer.bos_token_id] * bos), *plain, *([tokenizer.eos_token_id] * eos)]:
            yield "tokenizer.ggml.add_bos_token", bos
            yield "tokenizer.ggml.add_eos_token", eos
            break
    else:
        raise _make_unsupported_tokenizer_error("that adds tokens other than BOS and EOS to a text")
    if isinstance(tokenizer.chat_template, dict):
        raise _make_unsupported_tokenizer_error("with several chat templates; keep only the evaluated one")
    if tokenizer.chat_template:
        yield "tokenizer.chat_template", tokenizer.chat_template


def _require_supported_pretokenizer(backend: dict[str, Any]) -> str:
    model = backend["model"]
    if model["type"] != "BPE" or (backend.get("decoder") or {}).get("type") != "ByteLevel":
        raise _make_unsupported_tokenizer_error(f"of type {model['type']}, and only byte-level BPE is supported")
    if backend.get("normalizer"):
        raise _make_unsupported_tokenizer_error("that normalises text, which llama.cpp does not")
    odd = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if found := [name for name in odd if model.get(name)]:
        raise _make_unsupported_tokenizer_error(f"with {', '.join(found)}, which llama.cpp does not support")
    if not model["merges"]:
        raise _make_unsupported_tokenizer_error("without merges, which llama.cpp needs")
    if (name := split_name(backend)) is None:
        raise _make_unsupported_tokenizer_error(
            f"that splits text in an unsupported way (supported: {', '.join(SPLITS)})"
        )
    return name


def _list_token_texts_and_types(backend: dict[str, Any], rows: int) -> tuple[list[str], list[int]]:
    names = {number: token for token, number in backend["model"]["vocab"].items()}
    types = dict.fromkeys(names, NORMAL)
    for added in backend["added_tokens"]:
        if odd := [name for name in ("lstrip", "rstrip", "single_word") if added[name]]:
            raise _make_unsupported_tokenizer_error(
                f'whose token "{added["content"]}" has {odd[0]}, which a GGUF file cannot store'
            )
        names[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    if max(names) >= rows:
        raise _make_unsupported_tokenizer_error(f"of {max(names) + 1} tokens, but only {rows} embeddings")
    return [names.get(i, f"[PAD{i}]") for i in range(rows)], [types.get(i, UNUSED) for i in range(rows)]


def _make_unsupported_tokenizer_error(what: str) -> UsageError:
    return UsageError(f'export "gguf": the model has a tokenizer {what}; see llama.cpp\'s convert_hf_to_gguf.py')
