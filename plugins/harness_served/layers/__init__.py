"""What is looked at, one after the other; each comes to `same`, `differs`, `not proven` or `cannot be seen`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from typing import Any

from harness_api import RequestRefused
from harness_served import IDENTITY, LAYERS
from harness_served.layers.identity import same_model
from harness_served.parity import UNPROVEN, LayerVerdict, Parity


def compare(parity: Parity, wanted: Collection[str], hold: Mapping[str, Any]) -> Iterator[tuple[str, LayerVerdict]]:
    """Look at layer after layer, and yield what came of each; the identity comes last, for it is asked twice.

    Raises UsageError where a server gives up, or another model answers at the end than did at the start.
    """
    began = parity.runtime.identity()
    for name in (name for name in LAYERS if name in wanted and name != IDENTITY):
        try:
            parity.found[name] = import_module(f"harness_served.layers.{name}").look(parity)
        except RequestRefused as refused:  # as where a conversation is longer than its context, which `ids` says
            if not refused.trouble.status:
                raise
            parity.found[name] = LayerVerdict(UNPROVEN, f"it refuses a request: {refused}")
        yield name, parity.found[name]
    parity.found[IDENTITY] = same_model(parity, began, hold)
    yield IDENTITY, parity.found[IDENTITY]
