"""What is looked at, one after the other; each comes to `same`, `differs`, `not proven` or `cannot be seen`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from harness_api import RequestRefused
from harness_served import IDENTITY
from harness_served.parity import UNPROVEN, LayerVerdict, Parity

Look = Callable[[Parity], LayerVerdict]


def layers() -> Mapping[str, Look]:
    """Return what can be looked at, in the order in which it is."""
    from harness_served.layers import answers, defaults, gates, ids, logprobs, lora, stops

    looks: dict[str, Look] = {"ids": ids.look, "stops": stops.look, "defaults": defaults.look}
    return looks | {"logprobs": logprobs.look, "lora": lora.look, "answers": answers.look, "gates": gates.look}


def compare(parity: Parity, wanted: Collection[str], hold: Mapping[str, Any]) -> Iterator[tuple[str, LayerVerdict]]:
    """Look at layer after layer, and yield what came of each; the identity comes last, for it is asked twice.

    Raises UsageError where a server gives up, or another model answers at the end than did at the start.
    """
    from harness_served.layers.identity import same_model

    began = parity.runtime.identity()
    for name, look in layers().items():
        if name in wanted:
            try:
                parity.found[name] = look(parity)
            except RequestRefused as refused:  # as where a conversation is longer than its context, which `ids` says
                if not refused.trouble.status:
                    raise
                parity.found[name] = LayerVerdict(UNPROVEN, f"it refuses a request: {refused}")
            yield name, parity.found[name]
    parity.found[IDENTITY] = same_model(parity, began, hold)
    yield IDENTITY, parity.found[IDENTITY]
