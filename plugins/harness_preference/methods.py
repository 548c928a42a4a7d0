"""DPO and KTO as methods of `harness_sft`, and their rows.

The rows are of one shape, whole, all of them texts or all of them messages. Imports torch inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness import HELD_OUT, Adapter, ModelRef, UsageError
from harness_lora import MOVES_BASE
from harness_sft import Method, Row, Select, base_placement, check_shapes, import_later, name_rows, take_columns

DATA = "[train] data:"
REFUSED_FIELDS = {
    "sync_ref_model": "the reference is the model before training",
    "ref_model_mixup_alpha": "the reference is the model before training",
    "ref_model_sync_steps": "the reference is the model before training",
    "precompute_ref_log_probs": "the reference is computed in every step, which a resumed training can repeat",
    "precompute_ref_batch_size": "the reference is computed in every step",
    "padding_free": "TRL does not support it at present",
    "pad_token": "the tokenizer's own is used",
    "activation_offloading": "it is not tested yet",
}
REFERENCE_BYTES = 4  # bytes a parameter, in float32


def check_adapter(adapter: Adapter | None) -> None:
    """Raise UsageError for an adapter that changes its base.

    The base without the adapter is the reference, so it must be the model before training.
    """
    if adapter is None:
        return
    config = adapter.peft_config()
    start = config.init_lora_weights
    if isinstance(start, str) and start.startswith(MOVES_BASE):
        why = "moves a part of the base into the adapter, but the reference is the base without it"
        raise UsageError(f'init_lora_weights "{start}": {why}; remove it')
    if config.bias != "none":
        raise UsageError(f'bias "{config.bias}": trains biases of the base, which is the reference; remove it')


def load_reference(ref: ModelRef, adapter: Adapter | None) -> dict[str, Any]:
    """Load a second copy as reference if all weights are trained.

    Returns arguments of the trainer, empty with an adapter.
    """
    if adapter is not None:
        return {}
    from harness_hf import load_model

    return {"ref_model": load_model(ref.path, **base_placement(ref, None, sharded=False)).requires_grad_(False)}


def select_pairs(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return prompt, chosen and rejected of each row.

    Raises UsageError, with row numbers, for rows that are no pair.
    """
    return _select_columns_of_one_kind(rows, ("prompt", "chosen", "rejected"), "prompt, chosen and rejected")


def select_labelled(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return prompt, completion and label of each row.

    Raises UsageError, with row numbers, for rows of another form, and if all labels are equal.
    """
    found = _select_columns_of_one_kind(rows, ("prompt", "completion", "label"), "prompt and completion")
    if odd := [row["row"] for row in found if row["label"] not in (True, False) or isinstance(row["label"], float)]:
        label = found[odd[0] - 1]["label"]
        raise UsageError(f"{DATA} {name_rows(odd)}: label is {label!r:.40}; it must be true or false")
    found = [{**row, "label": bool(row["label"])} for row in found]
    if len(labels := {row["label"] for row in found if not row.get(HELD_OUT)}) == 1:
        only = "wanted" if True in labels else "unwanted"
        raise UsageError(f"{DATA} all rows are {only} answers (label); add some of the other kind, or use sft")
    return found


def _select_columns_of_one_kind(rows: Sequence[Mapping[str, Any]], columns: tuple[str, ...], what: str) -> list[Row]:
    answers = [name for name in columns if name not in ("prompt", "label")]
    kinds = [_detect_text_or_chat(row.get("prompt"), [row.get(name) for name in answers]) for row in rows]
    want = f"{what}, either all texts, or all messages that end with an answer of the assistant that is not empty"
    check_shapes(kinds, want)
    return take_columns(rows, columns)


def _detect_text_or_chat(prompt: Any, answers: Sequence[Any]) -> str:
    """Return a row's form, "text" or "chat". Empty for any other row."""
    if isinstance(prompt, str) and prompt.strip() and all(isinstance(a, str) and a.strip() for a in answers):
        return "text"
    ends = all(_is_list_of_messages(messages) and messages[-1]["role"] == "assistant" for messages in answers)
    return "chat" if _is_list_of_messages(prompt) and ends else ""


def _is_list_of_messages(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(m, Mapping) and "role" in m and (m.get("content") or m.get("tool_calls")) for m in value)


def _make_method(name: str, select: Select) -> Method:
    checked, preview = (import_later("harness_preference.trainer", f"{kind}{name}") for kind in ("Checked", "Preview"))
    how: dict[str, Any] = {
        "refused": REFUSED_FIELDS,
        "fits": check_adapter,
        "reference": REFERENCE_BYTES,
        "beside": load_reference,
    }
    return Method(f"{name}Config", checked, select, preview, **how)


METHODS = {"dpo": _make_method("DPO", select_pairs), "kto": _make_method("KTO", select_labelled)}
