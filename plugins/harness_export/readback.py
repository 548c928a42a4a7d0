"""Is what was quantised the model it was made of? Asked in a process of its own, of what lies on the disk.

    python -m harness_export.readback < QUESTION

The question is a JSON object, {"parent": FOLDER, "copy": FOLDER}, and so is the last line of stdout: {"facts": {…}}, or
{"finding": "…"} where a tensor is not its parent's, rounded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import CheckFailed, ModelRef, isolated

if TYPE_CHECKING:
    from torch import Tensor

HALF_GAP = 0.16  # of a block's largest number: half the widest gap of NF4's grid, 0.152, and rounding
SCALES = 0.05  # of the tensor's largest number: what the scales lose in 8 bits
ROW = 0.01  # of a row's largest number, in int8: half of 1/127, and rounding
TEXTS = (
    "The committee met on Tuesday to discuss the budget for the coming year, and most members agreed that the roof of "
    "the old library could not wait any longer.",
    "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n"
    "    return total / len(values)\n",
    "Q: What is the capital of France?\nA: Paris.\nQ: What is the capital of Italy?\nA: Rome.\n",
)


def compare(parent: Path, copy: Path) -> dict[str, Any]:
    """Compare every tensor, then what both predict. Raises CheckFailed at a tensor that is off by more."""
    from harness_hf import load

    refs = [ModelRef("copy", str(copy)), ModelRef("parent", str(parent))]
    config = json.loads((parent / "config.json").read_text("utf-8"))
    dtype: Any = config.get("dtype") or config.get("torch_dtype") or "float32"
    with load(refs, dtype=dtype, device="cpu") as subjects:
        ours, theirs = subjects
        wrong = total = 0.0
        layers = 0
        for name, there, here, allowed in _pairs(theirs.model, ours.model):  # type: ignore[attr-defined]
            off = (here - there).abs()
            if not bool((off <= allowed).all()):  # NaN is not
                raise CheckFailed(f'"{name}" is not its parent\'s, rounded: off by {float(off.max()):.3g}')
            if bool(allowed.any()):
                layers += 1
                wrong += float(off.square().sum())
                total += float(there.square().sum())
        if not layers:
            raise CheckFailed("no layer is quantised")
        pairs = ours.token_kl(TEXTS, theirs)  # type: ignore[attr-defined]
    kl = sum(nats for nats, _ in pairs) / sum(tokens for _, tokens in pairs)
    if not math.isfinite(kl):
        raise CheckFailed("its probabilities are not finite")
    return {"kl": round(kl, 6), "relative_error": round(math.sqrt(wrong / total), 6), "layers": layers}


def _pairs(parent: Any, copy: Any) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Yield name, the parent's numbers, the copy's, and how far each may be off; in float32."""
    import torch
    from transformers.pytorch_utils import Conv1D

    modules, originals = dict(copy.named_modules()), dict(parent.named_modules())
    for name, weight in parent.named_parameters():
        owner, _, kind = name.rpartition(".")
        there, module = weight.detach().float(), modules[owner]
        unpacked = _unpacked(module) if kind == "weight" else None
        if unpacked is None:
            here = getattr(module, kind).detach().float()
            yield name, there, here, torch.zeros_like(there)
            continue
        if isinstance(originals[owner], Conv1D):
            there = there.T.contiguous()
        yield name, there, unpacked, _allowed(module, there)


def _unpacked(module: Any) -> Tensor | None:
    """Return a quantised layer's weight as numbers, or None where it is not quantised."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    if isinstance(module, Linear4bit):
        numbers: Tensor = dequantize_4bit(module.weight.data, module.weight.quant_state)
        return numbers.float()
    if isinstance(module, Linear8bitLt):
        scale = module.weight.SCB if module.weight.SCB is not None else module.state.SCB
        rounded: Tensor = module.weight.data.float()
        rows: Tensor = scale.float()[:, None] / 127
        return rounded * rows
    return None


def _allowed(module: Any, there: Tensor) -> Tensor:
    import torch
    from bitsandbytes.nn import Linear4bit

    from harness_hf import BLOCK

    if not isinstance(module, Linear4bit):
        return (ROW * there.abs().amax(1, keepdim=True)).expand_as(there)
    flat = there.flatten().abs()
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK).amax(1)
    return (HALF_GAP * blocks.repeat_interleave(BLOCK)[: len(flat)] + SCALES * flat.max()).view_as(there)


if __name__ == "__main__":
    isolated.answer(lambda parent, copy: compare(Path(parent), Path(copy)))
