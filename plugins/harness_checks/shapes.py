"""Comparison of stored tensor shapes with a model's config.json."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from harness import UsageError
from harness.internals import weight_files
from harness_hf import load_config
from harness_lora import read_headers


def find_mismatched_shapes(folder: Path) -> list[str]:
    """Return the tensors that do not fit the folder's configuration.

    Each comes with both shapes. Empty for quantised models, since their files hold other shapes.
    """
    if not weight_files(folder) or not (folder / "config.json").is_file():
        return []
    with suppress(UsageError):  # the loader says what it refuses
        if getattr(load_config(str(folder)), "quantization_config", None):
            return []  # its files hold other shapes
        from harness_lora import CheckpointLayout, TensorPlace  # imports PEFT

        layout = CheckpointLayout(folder, read_headers(folder))
        return [
            f'"{name}" has shape {list(there)}, but config.json needs {list(wanted)}'
            for name, place in sorted(layout.places.items())
            if place == TensorPlace(place.parameter)
            and (there := layout.there[name].shape) != (wanted := layout.shapes[place.parameter])
        ]
    return []
