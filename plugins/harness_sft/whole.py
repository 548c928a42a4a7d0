"""A model of which all weights were trained, written as its base lies on the disk."""
# ruff: noqa: TID253 (imported inside functions, only where a training begins)

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from harness import CheckFailed, write_text
from harness.internals import folder_in_place, seal_folder
from harness_hf import load_model
from harness_lora import ADAPTER_NOTE, Header, check_base, copy_rest, find_tensor
from harness_sft.trainer import Checked

ROWS, TOKENS = 4, 256  # training rows that are read before and after, and how much of each
SAME = 1e-6  # nats a token between what was rounded in memory and what is read back, both computed in float32


def write_whole(trainer: Checked, base: Path, out: Path, note: dict[str, Any], gathered: dict[str, Any] | None) -> None:
    """Write each weight in the dtype of the base's, and everything else as the base has it; read it back and compare.

    `gathered` are the weights, where this process holds slices of them. What rounding costs is a fact of the training,
    beside how far that led from the base where it was rounded, and the gates decide on the rounded model. Raises
    CheckFailed when what lies on the disk answers otherwise than what was rounded.
    """
    model = trainer.model.eval()
    trainer.accelerator.free_memory()  # two moments of each weight, which are not needed any more
    trainer.optimizer = None
    model.zero_grad(set_to_none=True)
    model.forward = model.__dict__.pop("_original_forward", model.forward)  # without accelerate's mixed precision
    if gathered is not None:
        model = load_model(base, dtype="float32", device="cpu")
        model.load_state_dict(gathered, strict=False)  # a tied weight has one name of two
    there, names = check_base(base)
    stored = _dtypes(model, there)
    rows = [torch.tensor([ids[:TOKENS]], device=model.device) for ids in trainer.sequences(ROWS)]
    before = _distributions(model, rows)
    with folder_in_place(out) as work:
        model.generation_config = GenerationConfig()  # the base's is copied, and transformers refuses some of them
        _cast(model, stored)
        model.save_pretrained(work)
        for name in ("config.json", "generation_config.json"):
            (work / name).unlink(missing_ok=True)
        copy_rest(base, names, work)
        _cast(model, dict.fromkeys(stored, torch.float32))
        rounded = _distributions(model, rows)
        again = _distributions(load_model(work, dtype="float32", device=model.device.type), rows)
        off, _ = _apart(rounded, again)
        if not off <= SAME:
            what = "what was saved answers otherwise than what was trained [saved-parity]"
            why = "transformers did not save or load all of this architecture"
            raise CheckFailed(f"training: {what}: KL {off:.2g} nats a token, limit {SAME:g}; {why}")
        lost, kept = _apart(before, again)
        facts: dict[str, Any] = {**note["facts"], "kl_rounding": lost, "top1_rounding": kept}
        if set(stored.values()) != {torch.float32}:  # else nothing was rounded
            start = _distributions(load_model(base, dtype="float32", device=model.device.type), rows)
            facts["kl_training"], _ = _apart(before, start)
        write_text(work / ADAPTER_NOTE, json.dumps({**note, "facts": facts}, indent=2) + "\n")
        seal_folder(work, out)


def _dtypes(model: PreTrainedModel, there: Mapping[str, Header]) -> dict[str, torch.dtype]:
    """Return each parameter's dtype in a base's files, or the commonest there; what is no half is kept in float32."""
    known = {"BF16": torch.bfloat16, "F16": torch.float16}
    [(commonest, _)] = Counter(header.dtype for header in there.values()).most_common(1)
    found = {name: there.get(find_tensor(name, there) or "") for name, _ in model.named_parameters()}
    return {name: known.get(one.dtype if one else commonest, torch.float32) for name, one in found.items()}


def _cast(model: PreTrainedModel, dtypes: Mapping[str, torch.dtype]) -> None:
    """Bring weights to their dtypes, and no buffers: angles of rotary positions are not stored, and never rounded."""
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])


def _distributions(model: PreTrainedModel, rows: list[Any]) -> list[Any]:
    """Return log-probabilities (tokens, vocabulary) of each row."""
    with torch.inference_mode():
        return [model(ids, use_cache=False).logits[0].float().log_softmax(-1).cpu() for ids in rows]


def _apart(before: list[Any], after: list[Any]) -> tuple[float, float]:
    """Return KL(before ‖ after) in nats a token, and the share of first choices that are the same."""
    tokens = sum(len(p) for p in before)
    kl = sum(float((p.exp() * (p - q)).sum()) for p, q in zip(before, after, strict=True)) / tokens
    return kl, sum(int((p.argmax(-1) == q.argmax(-1)).sum()) for p, q in zip(before, after, strict=True)) / tokens
