"""Comparison of the layers, one after the other.

Each is `same`, `differs`, `not proven` or `unknown`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from importlib import import_module

from harness_api import RequestRefusedError
from harness_served import IDENTITY, LAYERS
from harness_served.layers.identity import compare_identity
from harness_served.parity import UNPROVEN, LayerVerdict, Parity


def compare_layers(parity: Parity, wanted: Collection[str]) -> Iterator[tuple[str, LayerVerdict]]:
    """Compare the wanted layers in order and yield each verdict.

    The identity comes last, since it is requested after each layer. Raises UsageError if the server gives up.
    """
    parity.heard["identity"] = parity.runtime.identity()
    told = [parity.heard["identity"]]
    for name in (name for name in LAYERS if name in wanted and name != IDENTITY):
        try:
            compare = getattr(import_module(f"harness_served.layers.{name}"), f"compare_{name}")
            parity.found[name] = compare(parity)
        except RequestRefusedError as refused:  # as where a conversation is longer than its context, which `ids` says
            if not refused.trouble.status:
                raise
            parity.found[name] = LayerVerdict(UNPROVEN, f"it rejected a request: {refused}")
        yield name, parity.found[name]
        told.append(parity.runtime.identity())
    parity.found[IDENTITY] = compare_identity(parity, told)
    yield IDENTITY, parity.found[IDENTITY]
