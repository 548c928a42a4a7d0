"""Does an exported adapter swap in? Asked in a process of its own, on a base that already serves the gated one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import CheckFailedError
from harness.internals import subprocess_call

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROMPTS = ("What is the capital of France?", "Say hello.", "1, 2, 3,")
ANSWER_TOKENS = 16


def check_hot_swap(**question: Any) -> dict[str, Any]:
    """Swap the exported adapter in and return the facts.

    This runs in a process of its own. Raises CheckFailedError if the adapter answers differently.
    """
    return subprocess_call.call_module(
        "harness_export.hot_swap", question, "export: the adapter could not be hot-swapped"
    )


def swap_adapters(
    base: str, gated: str, exported: str, quantization: Mapping[str, Any] | None, placed: Mapping[str, Any]
) -> dict[str, Any]:
    """Compare the gated adapter's answers with the exported one's.

    The exported one is loaded beside the gated one, and the time of the swap is returned. The first three arguments are
    folders. Raises CheckFailedError if an answer differs.
    """
    from harness_hf import add_adapter, load_model, load_tokenizer

    tokenizer = load_tokenizer(base)
    model = load_model(base, quantization=quantization, **placed)
    model = add_adapter(model, Path(gated), "gated").eval()
    before = _generate_greedy_token_ids(model, tokenizer)
    begun = time.perf_counter()
    add_adapter(model, Path(exported), "exported").set_adapter("exported")
    took = time.perf_counter() - begun
    if _generate_greedy_token_ids(model.eval(), tokenizer) != before:
        raise CheckFailedError("export: after a hot swap the exported adapter answers differently from the gated one")
    return {"swap_in_ms": round(1000 * took, 1)}


def _generate_greedy_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    import torch

    found = []
    for prompt in PROMPTS:
        asked = tokenizer(prompt, return_tensors="pt").to(model.device)
        told = {name: asked[name] for name in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            found.append(model.generate(**told, max_new_tokens=ANSWER_TOKENS, do_sample=False)[0].tolist())
    return found


if __name__ == "__main__":
    subprocess_call.serve_call(swap_adapters)
