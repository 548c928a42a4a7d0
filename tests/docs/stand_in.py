"""A tiny model in the place of a packaged one, which learns at the rates that large models are trained with."""

from __future__ import annotations

import json
from pathlib import Path

CONTEXT = 2048  # tokens, which are bytes here
FASTER = 40.0  # times: what 2e-4 does to it is what 8e-3 does to the tiny Llama


def put_in_place(path: str, cache: Path) -> None:
    """Put a tiny Llama where a cache folder has the model `pypi:PACKAGE==VERSION/FILE.gguf` once it was converted."""
    from harness import sha256_of
    from harness_hf import sources

    requirement, _, file = path.removeprefix("pypi:").partition("/")
    wheel = cache / "wheels" / requirement / "stand_in.whl"
    wheel.parent.mkdir(parents=True)
    wheel.write_bytes(b"stands for a package")
    made = sources._conversion(requirement, file, sha256_of(wheel))
    folder = _build(cache / "models" / f"{Path(file).stem}-{made}")
    (folder / sources.NOTE).write_text(json.dumps({"requirement": requirement, "file": file}), "utf-8")


def _build(folder: Path) -> Path:
    """Write a tiny Llama with its norms scaled up and the layers behind them down: the same function.

    An adapter on these layers sees larger inputs, so that a step of it changes what they compute by as much more.
    """
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    from harness_hf.tiny import build_tiny_model

    build_tiny_model(folder)
    model = LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for norm, behind in (
                (layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
                (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
            ):
                norm.weight *= FASTER
                for linear in behind:
                    linear.weight /= FASTER
    model.config.max_position_embeddings = CONTEXT
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(folder, model_max_length=CONTEXT).save_pretrained(folder)
    return folder
