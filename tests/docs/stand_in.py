"""A tiny model in the place of a packaged one, which learns a page's task at the rates of large models."""

from __future__ import annotations

import json
from pathlib import Path

CONTEXT = 2048  # tokens
VOCABULARY = 4000  # tokens at most: every word of a page is one, so that there is little to learn about letters
FASTER = 40.0  # times: what 2e-4 does to it is what 8e-3 does to the tiny Llama


def put_in_place(path: str, cache: Path, text: str) -> None:
    """Put a tiny Llama where a cache folder has the model `pypi:PACKAGE==VERSION/FILE.gguf` once it was converted.

    Its tokens are the words of `text`.
    """
    from harness import sha256_of
    from harness_hf import sources

    requirement, _, file = path.removeprefix("pypi:").partition("/")
    wheel = cache / "wheels" / requirement / "stand_in.whl"
    wheel.parent.mkdir(parents=True)
    wheel.write_bytes(b"stands for a package")
    made = sources._conversion(requirement, file, sha256_of(wheel))
    folder = cache / "models" / f"{Path(file).stem}-{made}"
    _build(folder, text)
    (folder / sources.NOTE).write_text(json.dumps({"requirement": requirement, "file": file}), "utf-8")


def _build(folder: Path, text: str) -> None:
    """Write a tiny Llama with its norms scaled up and the layers behind them down: the same function.

    An adapter on these layers sees larger inputs, so that a step of it changes what they compute by as much more.
    """
    import torch
    from tokenizers.pre_tokenizers import ByteLevel

    from harness_hf import tiny

    letters = tiny._tokenizer()
    letters.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    words = letters.train_new_from_iterator([text], VOCABULARY, min_frequency=1, show_progress=False)
    words.model_max_length = CONTEXT
    model = tiny._model(words, seed=0)
    model.config.max_position_embeddings = CONTEXT
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
    model.save_pretrained(folder)
    words.save_pretrained(folder)
