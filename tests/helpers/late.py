"""Modules that are imported when something of them is asked for: to collect tests costs no second of PEFT."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest


class Late:
    """Stands for a module; what is set is set on the module itself."""

    def __init__(self, name: str) -> None:
        vars(self)["_name"] = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pytest looks at all that a test file has
            raise AttributeError(name)
        return getattr(import_module(self._name), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(import_module(self._name), name, value)


def import_late(name: str) -> Any:
    """Return a module that is imported on its first use; skip the file that asks where it is not installed."""
    top = name.partition(".")[0]
    if find_spec(top) is None:
        pytest.skip(f"{top} is not installed", allow_module_level=True)
    return Late(name)
