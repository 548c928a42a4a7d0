"""Adapters of real models that were moved as training would, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness_lora.adapter import Lora


def make_adapter(base: Path, adapter: Lora, folder: Path, noise: float = 0.05, seed: int = 0) -> Any:
    """Return a model with an adapter whose weights are moved by noise as training would, saved to a folder."""
    import torch
    from peft import get_peft_model

    from harness_hf.models import load_model
    from harness_lora.targets import restrict_targets

    model = load_model(base, dtype="float32", device="cpu", quantization=adapter.quantization)
    torch.manual_seed(seed)
    adapted = get_peft_model(model, restrict_targets(adapter.peft_config(), model))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad and noise:
                parameter.add_(noise * torch.randn_like(parameter))
    adapted.eval().save_pretrained(folder)
    return adapted
