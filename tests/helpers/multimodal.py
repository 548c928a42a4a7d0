"""Small random models that read pictures beside text, one of each class that is fine-tuned on text today."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "initializer_range": 0.2}  # fmt: skip
TOWER = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
         "image_size": 28, "patch_size": 14}  # fmt: skip
QWEN = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64, "patch_size": 14}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
CLASSES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {  # of the text, of the tower, of both
    "Gemma3ForConditionalGeneration": ({}, TOWER, {"mm_tokens_per_image": 4}),
    "Gemma4ForConditionalGeneration": (
        {"vocab_size_per_layer_input": 300, "hidden_size_per_layer_input": 8, "global_head_dim": 16,
         "layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0},
        TOWER | {"num_key_value_heads": 4, "head_dim": 16, "pooling_kernel_size": 1}, {"audio_config": None},
    ),
    "Qwen2_5_VLForConditionalGeneration": (MROPE, QWEN | {"fullatt_block_indexes": [0]}, {}),
    "Qwen3VLForConditionalGeneration": (MROPE, QWEN | {"deepstack_visual_indexes": [0]}, {}),
    "Qwen3_5ForConditionalGeneration": (
        {"layer_types": ["linear_attention", "full_attention"], "linear_key_head_dim": 16, "linear_value_head_dim": 16},
        QWEN, {},
    ),
    "Mistral3ForConditionalGeneration": ({"model_type": "mistral"}, TOWER | {"head_dim": 16}, {}),
    "SmolVLMForConditionalGeneration": ({"model_type": "llama"}, TOWER, {"scale_factor": 1}),
    "Llama4ForConditionalGeneration": (
        {"num_local_experts": 2, "intermediate_size_mlp": 96, "interleave_moe_layer_step": 2},
        TOWER | {"vision_output_dim": 64, "projector_input_dim": 64, "projector_output_dim": 64}, {},
    ),
}  # fmt: skip


def build(name: str, folder: Path) -> Any:
    """Write a small random model of a class, with the tiny model's tokenizer; return the model."""
    import torch
    import transformers

    from harness_hf.models import quiet_loading
    from harness_hf.tiny import _build_byte_tokenizer

    tokenizer, made = _build_byte_tokenizer(), getattr(transformers, name)
    text, tower, both = CLASSES[name]
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    image = {"image_token_id": 290, "image_token_index": 290, "video_token_id": 291, "vision_start_token_id": 292,
             "boi_token_id": 293, "eoi_token_id": 294, "boi_token_index": 293, "eoi_token_index": 294}  # fmt: skip
    config = made.config_class(
        text_config={**TEXT, **ids, "vocab_size": 300, **text}, vision_config=tower, **image, **both
    )
    with torch.random.fork_rng(devices=[]), quiet_loading():
        torch.manual_seed(0)
        model = made(config).float().eval()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return model
