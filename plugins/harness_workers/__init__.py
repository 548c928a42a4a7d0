"""Where models answer: in pieces of requests, in this process or in workers of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.internals import attach

if TYPE_CHECKING:  # what is imported when it is asked for
    from harness_workers.cards import Seen as Seen
    from harness_workers.cards import card as card
    from harness_workers.cards import enough as enough
    from harness_workers.cards import gpus as gpus
    from harness_workers.cards import here as here
    from harness_workers.cards import nodes as nodes
    from harness_workers.cards import seen as seen
    from harness_workers.child import Desk as Desk
    from harness_workers.loading import load_now as load_now
    from harness_workers.local import workers as workers
    from harness_workers.pieces import common as common
    from harness_workers.protocol import Lost as Lost
    from harness_workers.protocol import Worker as Worker
    from harness_workers.protocol import is_sign as is_sign
    from harness_workers.protocol import read_error as read_error
    from harness_workers.protocol import read_ref as read_ref
    from harness_workers.protocol import told_error as told_error
    from harness_workers.protocol import told_ref as told_ref

__getattr__, _ = attach(__name__, __file__)
