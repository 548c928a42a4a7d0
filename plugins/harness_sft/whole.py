"""A model of which all weights were trained, written as its base lies on the disk. Imports torch inside functions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import CheckFailed, folder_in_place, seal_folder, write_text
from harness_lora import ADAPTER_NOTE, check_base, copy_rest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from harness_sft.trainer import Checked

ROWS, TOKENS = 4, 256  # training rows that are read before and after, and how much of each
LIMITS = {"float32": 1e-5, "float16": 3e-4, "bfloat16": 2e-2}  # nats a token that rounding may cost, as M3 has them


def write_whole(trainer: Checked, base: Path, out: Path, note: dict[str, Any]) -> None:
    """Write all weights in the dtype of the base's, and everything else as the base has it; read it back and compare.

    Raises CheckFailed when what lies on the disk answers otherwise than what was trained.
    """
    import torch
    from transformers import GenerationConfig

    from harness_hf import load_model

    model = trainer.model.eval()
    trainer.accelerator.free_memory()  # two moments of each weight, which are not needed any more
    trainer.optimizer = None
    model.zero_grad(set_to_none=True)
    there, names = check_base(base)
    stored = _dtype(Counter(header.dtype for header in there.values()).most_common(1)[0][0])
    rows = [torch.tensor([ids[:TOKENS]], device=model.device) for ids in trainer.sequences(ROWS)]
    before = _distributions(model, rows)
    with folder_in_place(out) as work:
        model.generation_config = GenerationConfig()  # the base's is copied, and transformers refuses some of them
        model.to(stored).save_pretrained(work)
        for name in ("config.json", "generation_config.json"):
            (work / name).unlink(missing_ok=True)
        copy_rest(base, names, work)
        again = load_model(work, dtype="float32", device=model.device.type)
        found = _compared(before, _distributions(again, rows), str(stored).removeprefix("torch."))
        del again
        facts: Mapping[str, Any] = {**note["facts"], "saved": found}
        write_text(work / ADAPTER_NOTE, json.dumps({**note, "facts": facts}, indent=2) + "\n")
        seal_folder(work, out)


def _dtype(stored: str) -> Any:
    """Return the dtype of safetensors' name for one; what is wider or no float is kept in float32."""
    import torch

    return {"BF16": torch.bfloat16, "F16": torch.float16}.get(stored, torch.float32)


def _distributions(model: PreTrainedModel, rows: list[Any]) -> list[Any]:
    """Return log-probabilities (tokens, vocabulary) of each row."""
    import torch

    with torch.inference_mode():
        return [model(ids, use_cache=False).logits[0].float().log_softmax(-1).cpu() for ids in rows]


def _compared(before: list[Any], after: list[Any], dtype: str) -> dict[str, Any]:
    """Return KL(trained ‖ saved) in nats a token, the share of first choices kept, and on how many tokens."""
    tokens = sum(len(p) for p in before)
    kl = sum(float((p.exp() * (p - q)).sum()) for p, q in zip(before, after, strict=True)) / tokens
    kept = sum(int((p.argmax(-1) == q.argmax(-1)).sum()) for p, q in zip(before, after, strict=True)) / tokens
    if not kl <= LIMITS[dtype]:
        raise CheckFailed(
            f"training: what was saved answers otherwise than what was trained [saved-parity]: KL {kl:.2g} nats a "
            f"token on {tokens}, limit {LIMITS[dtype]:g} for {dtype}; train again, or take a base in bfloat16"
        )
    return {"kl": kl, "top1": kept, "tokens": tokens, "dtype": dtype}
