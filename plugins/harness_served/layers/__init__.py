"""Compare the layers one after the other; each is `same`, `differs`, `not proven` or `unknown`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from typing import Any

from harness import UsageError
from harness_api import RequestRefusedError
from harness_served import DRAWN, IDENTITY, LAYERS
from harness_served.parity import SAME, UNKNOWN, UNPROVEN, LayerVerdict, Parity
from harness_served.runtime import read_context_limit

DULL = ("template", "adapters")  # of what is told: too long to print, or printed by another layer


def compare_layers(parity: Parity, wanted: Collection[str]) -> Iterator[tuple[str, LayerVerdict]]:
    """Look at layer after layer, and yield what came of each; the identity comes last, for it is asked twice.

    Raises UsageError where a server gives up, or another model answers at the end than did at the start.
    """
    began = parity.runtime.identity()
    for name in (name for name in LAYERS if name in wanted and name != IDENTITY):
        try:
            compare = getattr(import_module(f"harness_served.layers.{name}"), f"compare_{name}")
            parity.found[name] = compare(parity)
        except RequestRefusedError as refused:  # as where a conversation is longer than its context, which `ids` says
            if not refused.trouble.status:
                raise
            parity.found[name] = LayerVerdict(UNPROVEN, f"it rejected a request: {refused}")
        yield name, parity.found[name]
    parity.found[IDENTITY] = _same_model(parity, began)
    yield IDENTITY, parity.found[IDENTITY]


def _same_model(parity: Parity, began: Mapping[str, Any]) -> LayerVerdict:
    """Say what a runtime tells of itself; whether it is true is for the other layers. Raises UsageError if it changed.

    What the export says of itself otherwise is a note, for it decides nothing.
    """
    runtime, now, tokenizer = parity.runtime, parity.runtime.identity(), parity.reference.tokens.tokenizer
    for key in sorted(began.keys() | now.keys()):
        if began.get(key) != now.get(key):
            change = f"{key} was {began.get(key)!r:.80}, is {now.get(key)!r:.80}; neither can be compared"
            raise UsageError(f"{runtime.server.where}: the model changed during the comparison: {change}")
    own = {"template": tokenizer.chat_template, "bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}
    for key, ours in own.items():
        if key in began and ours and began[key] != ours:
            parity.notes.append(f"{runtime.name} reports another {key} than the export's; the other layers decide")
    told_type = str(began.get("model_ftype", ""))
    if any(told_type.upper().startswith(kind) for kind in ("Q", "IQ", "MOSTLY_Q")) and not parity.reference.gguf:
        parity.notes.append(f"it serves {told_type}, but the export has more bits: gate that as a candidate of its own")
    if (context := read_context_limit(began)) and context < parity.max_prompt_tokens + DRAWN:
        parity.notes.append(f"its context is only {context} tokens")
    told = {k: v for k, v in began.items() if k not in DULL and v is not None}
    if not set(told) - {"id", "owned_by"}:
        return LayerVerdict(UNKNOWN, f"{runtime.name} reports only names; {runtime.hint}")
    said = ", ".join(f"{k} {runtime.server.peer.redact(str(v), 100)}" for k, v in told.items())
    return LayerVerdict(SAME, f"{runtime.name}: {said}; unchanged at the end", "told")
