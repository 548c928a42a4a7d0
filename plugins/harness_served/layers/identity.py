"""The layer of a server's identity, as it reports it.

Reports and replies are compared with one another and with the export. They prove nothing, for a server may report
anything; but a contradiction is a finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness_hf import select_template
from harness_served.parity import DIFFERS, SAME, UNKNOWN, LayerVerdict, Parity
from harness_served.precision import FLOAT_BITS, count_bits
from harness_served.runtime import read_context_limit

UNPRINTED_FACTS = ("template", "adapters")  # facts too long to print, or printed by another layer


def compare_identity(parity: Parity, told: Sequence[Mapping[str, Any]]) -> LayerVerdict:
    """Compare the identities reported at the start and after each layer."""
    runtime, tokenizer = parity.runtime, parity.reference.tokens.tokenizer
    if error := next(_find_errors(parity, told), None):
        return LayerVerdict(DIFFERS, error, "told")
    own = {
        "template": select_template(tokenizer.chat_template, {}),
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
    }
    for key, ours in own.items():
        if key in told[0] and ours and told[0][key] != ours:
            parity.notes.append(f"{runtime.name} reports another {key} than the export's; the other layers decide")
    shown = {k: v for k, v in told[0].items() if k not in UNPRINTED_FACTS and v is not None}
    if not set(shown) - {"id", "owned_by"}:
        return LayerVerdict(UNKNOWN, f"{runtime.name} reports only names; {runtime.hint}")
    said = ", ".join(f"{k} {runtime.server.peer.redact(str(v), 100)}" for k, v in shown.items())
    return LayerVerdict(SAME, f"{runtime.name}: {said}; unchanged at the end", "told")


def _find_errors(parity: Parity, told: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    runtime, first = parity.runtime, told[0]
    for now in told:
        for key in sorted(first.keys() | now.keys()):
            if first.get(key) != now.get(key):
                words = " and ".join(runtime.server.peer.redact(repr(one.get(key)), 80) for one in (first, now))
                yield f"two models answer behind this address, or it changed: {key} is {words}; check its replicas"
    facts = runtime.server.peer.facts(runtime.model)
    for what, names in facts.items():
        if isinstance(names, list) and len(names) > 1:
            yield f"two models answer behind this address: {what} are {', '.join(names)}; check its replicas"
    if others := {*facts.get("models that replied", ())} & {*runtime.others}:
        yield f'"{others.pop()}" replied, but "{runtime.model}" was requested; check the gateway\'s routes'
    wanted = parity.context or parity.reference.context
    if (context := read_context_limit(first)) and context < wanted:
        fix = "start it with a longer one (-c, --max-model-len), or name what you need with --context"
        yield f"its context is {context} tokens, but the export's is {wanted}; {fix}"
    served, own = count_bits(str(first.get("model_ftype", ""))), count_bits(parity.reference.stored)
    if served and own and served < min(own, FLOAT_BITS) and not parity.declared:
        stored = parity.reference.stored
        fix = "serve the export, or gate that copy as a candidate of its own"
        yield f"it serves {first['model_ftype']}, but the export is {stored}; {fix}"
