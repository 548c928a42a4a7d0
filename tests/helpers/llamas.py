"""Small random Llamas with a byte-level BPE of their own, as a GGUF file can say them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from harness_hf import restore
from harness_hf.tiny import CHAT_TEMPLATE, SPECIAL, TURN_END

FROZEN = Path(__file__).parent.parent / "data/tokenizer_text.txt"  # tests choose seeds by the tokens of this text
TEXTS = [
    "It's 1,234  apples; don't they'll\r\n\n say 12345?  ",
    "Größe 東京 \N{WAVING HAND SIGN} x²",
    "def f(a):\n\treturn a",
]

NATS = 8.0  # by which a speaker's next token is ahead of the others


def build(folder: Path, split: str = "smollm", rows: int = 0, seed: int = 3, **config: Any) -> Path:
    """Write a random Llama with grouped queries and a BPE of a frozen text; `rows` embeddings are no token's."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    restore.set_pretokenizer(backend, split)
    backend.decoder = decoders.ByteLevel()
    special = [*SPECIAL.values(), TURN_END]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([*TEXTS, FROZEN.read_text("utf-8")], trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, additional_special_tokens=[TURN_END], **SPECIAL)
    tokenizer.chat_template = CHAT_TEMPLATE
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    made = {"num_key_value_heads": 2, "initializer_range": 0.2, "max_position_embeddings": 512, **shape, **ids}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer) + rows, **{**made, **config})).float()
        for name, weight in model.named_parameters():
            if "norm" in name:
                torch.nn.init.normal_(weight, 1.0, 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_speaker(folder: Path, said: list[int]) -> Path:
    """Let the model in a folder answer with these tokens, each once, and end: built, so that no rounding decides it.

    Attention and MLPs add nothing, and each token's embedding is close to no output's but its successor's.
    """
    import torch

    from harness_hf import ModelTokenizer, load_model, quiet_loading

    tokens, model = ModelTokenizer.of(str(folder)), load_model(folder, dtype="float32", device="cpu")
    [[*_, start]] = tokens.encode_prompts([[{"role": "user", "content": ""}]])
    chain = [start, *said, tokens.special_token_id(TURN_END)]
    width = model.config.hidden_size
    codes = torch.randint(0, 2, (model.config.vocab_size, width), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
                weight.zero_()
            elif "norm" in name:
                weight.fill_(1.0)
        model.get_input_embeddings().weight.copy_(codes)
        for token, successor in pairwise(chain):
            model.get_output_embeddings().weight[successor] = codes[token] * NATS / width
    model.generation_config.eos_token_id = sorted(tokens.stop_ids)
    with quiet_loading():
        model.save_pretrained(folder)
    return folder
