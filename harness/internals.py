"""What first-party plugins use of the core, and what may move with it: no version of the harness promises these names.

A plugin of others that needs one asks for it to join `harness`. `internals.pyi` says where each is defined.
"""

from harness.lazy import attach_lazily

__getattr__, __all__ = attach_lazily(__name__, __file__)


def __dir__() -> list[str]:
    return __all__
