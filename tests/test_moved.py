"""What plugins imported before the core had rooms, and what they import now."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import harness
from harness import errors
from harness.lazy import MOVED

OLD = {
    "harness.check": ("Built", "Flag", "STAGES"),
    "harness.copies": ("NOTE",),
    "harness.marking": ("Marking",),
    "harness.paths": ("cache_dir", "write_text"),
    "harness.report": ("Run", "Trial", "read_run"),
    "harness.result": ("Metric", "Sample", "metric"),
    "harness.subject": ("Progress", "Subject"),
    "harness.wheel": ("fetch_wheel",),
}


@pytest.mark.parametrize("path", MOVED)
def test_names_are_found_under_an_old_path(path: str) -> None:
    """A module that was moved gives its names under its old path, and no others."""
    module = import_module(path)
    assert all(getattr(module, name) for name in OLD[path])
    assert not hasattr(module, "nothing") and not hasattr(module, "__file__")


@pytest.mark.parametrize("name", harness.__all__)
def test_a_public_name_is_its_modules_own(name: str) -> None:
    """Every public name of the package is there, whether it was imported with it or is when asked for."""
    module, colon, own = harness.LATER.get(name, "harness").partition(":")
    there = import_module(module)
    assert getattr(harness, name) is (getattr(there, own or name) if own or not colon else there)


def test_names_before_findings_are_the_new_classes() -> None:
    """A plugin of others may yield a Flag and raise a Finding of harness.errors, as it did."""
    assert harness.Flag is harness.Finding is import_module("harness.check").Flag
    assert errors.Finding is errors.CheckFailed


def test_importing_the_package_imports_no_room_that_acts() -> None:
    """The names that are imported when they are asked for cost nothing before."""
    code = "import harness, sys; print(*(m for m in sys.modules if m.startswith('harness.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "harness.records.samples" in loaded
    assert not {m.split(".")[1] for m in loaded} & {"evaluation", "data", "pipeline", "suite", "release", "cli"}
