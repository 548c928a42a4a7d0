"""numpy and scipy, imported on first use, since most commands compute nothing."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["Bools", "Counts", "Floats", "Ints", "distributions", "np", "optimize", "special"]

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from scipy import optimize, special
    from scipy import stats as distributions

    Bools = NDArray[np.bool_]
    Counts = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Ints = NDArray[np.intp]
else:

    class LazyModule(ModuleType):
        """A module that is imported on first attribute access."""

        def __getattr__(self, name: str) -> Any:
            found = getattr(import_module(self.__name__), name)
            setattr(self, name, found)
            return found

    np, special = LazyModule("numpy"), LazyModule("scipy.special")
    distributions, optimize = LazyModule("scipy.stats"), LazyModule("scipy.optimize")
    Bools = Counts = Floats = Ints = Any
