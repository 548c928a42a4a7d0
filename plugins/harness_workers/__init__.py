"""Where models answer: in pieces of requests, in this process or in workers of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.internals import lazily

if TYPE_CHECKING:
    from harness_workers.cards import Seen, card, enough, gpus, here, nodes, seen
    from harness_workers.child import Desk
    from harness_workers.loading import load_now
    from harness_workers.local import workers
    from harness_workers.pieces import common
    from harness_workers.protocol import Lost, Worker, is_sign, read_error, read_ref, told_error, told_ref

__all__ = [
    "Desk",
    "Lost",
    "Seen",
    "Worker",
    "card",
    "common",
    "enough",
    "gpus",
    "here",
    "is_sign",
    "load_now",
    "nodes",
    "read_error",
    "read_ref",
    "seen",
    "told_error",
    "told_ref",
    "workers",
]
LATER = dict.fromkeys(__all__, "harness_workers.protocol")
LATER |= dict.fromkeys(("Seen", "card", "enough", "gpus", "here", "nodes", "seen"), "harness_workers.cards")
LATER |= {"Desk": "harness_workers.child", "load_now": "harness_workers.loading"}
LATER |= {"common": "harness_workers.pieces", "workers": "harness_workers.local"}
__getattr__ = lazily(__name__, LATER)
