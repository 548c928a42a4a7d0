"""Core names for first-party plugins, without any promise of stability.

A third-party plugin that needs one should request that it join `harness`. `internals.pyi` lists where each is defined.
"""

from harness.lazy import attach_lazily

__getattr__, __all__ = attach_lazily(__name__, __file__)


def __dir__() -> list[str]:
    return __all__
