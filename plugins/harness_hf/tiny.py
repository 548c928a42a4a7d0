"""A random Llama of a hundred thousand parameters.

It is made on the spot, for smoke suites and tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

CONTEXT_TOKENS = 512
SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
TURN_END = "<|end|>"  # ends a chat turn, and is not eos: what most instruct models do
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}"
    + TURN_END
    + "\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def build_tiny_model(folder: Path, *, seed: int = 0, stops: bool = False) -> Path:
    """Write a random tiny Llama and a byte-level tokenizer.

    It has 2 layers, hidden size 64 and context 512; the same seed gives the same bytes. With `stops` the end of a turn
    is among its stop tokens. Return the folder.
    """
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    from harness_hf.models import quiet_loading

    tokenizer = _build_byte_tokenizer()
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "max_position_embeddings": CONTEXT_TOKENS,
    }
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
    spread = 0.1  # far enough from uniform that greedy choices are no ties
    config = LlamaConfig(vocab_size=len(tokenizer), initializer_range=spread, **sizes, **heads, **ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).float()
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(TURN_END)] if stops else tokenizer.eos_token_id
    model.generation_config = GenerationConfig(**ids | {"eos_token_id": ends})
    with quiet_loading():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def _build_byte_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    added = [*SPECIAL.values(), TURN_END]
    vocabulary = {token: i for i, token in enumerate([*added, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    bos = SPECIAL["bos_token"]
    backend.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])])
    special = {"additional_special_tokens": [TURN_END], **SPECIAL}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=CONTEXT_TOKENS, **special)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
