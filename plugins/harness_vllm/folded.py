"""An adapter folded into its base, for vLLM: docs/decisions/0092-folded.md says why.

Imports torch: import this module inside functions.
"""
# ruff: noqa: TID253 (imported only where a model is loaded)

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from harness import UsageError, cache_dir, digest_of
from harness.internals import exclusive, folder_in_place, locked
from harness_lora import Merge, check_base, check_mergeable, make_plan, read_config, workers

DIGITS = 32  # hex digits by which a folder is named


@contextmanager
def folded(base: Path, adapter: Path | None, dtype: torch.dtype, digest: str = "") -> Iterator[Path]:
    """Yield the folder of a base with an adapter folded in, the base's own without one; it is gone afterwards.

    Processes that want the same at once, by `digest` and place, share one, and the last removes it; what killed ones
    left is removed by the next. The sum is computed in float64 and rounded once, to the dtype that answers are
    computed in. Raises UsageError where an adapter cannot be folded.
    """
    if adapter is None:
        yield base
        return
    place = cache_dir() / "vllm" / digest_of([digest, str(base), str(adapter), str(dtype)])[:DIGITS]
    with exclusive(place.parent / "folding.lock"):
        for left in place.parent.glob("[0-9a-f]" * DIGITS):
            _remove_unheld(left)
        if not place.exists():
            with folder_in_place(place) as work:
                _fold(base, adapter, dtype, work)
        handle = os.open(place, os.O_RDONLY)
        locked(handle, shared=True)
    try:
        yield place
    finally:
        with exclusive(place.parent / "folding.lock"):
            os.close(handle)
            _remove_unheld(place)


def _remove_unheld(folder: Path) -> None:
    with suppress(OSError):  # another user's, or it is gone
        handle = os.open(folder, os.O_RDONLY)
        if locked(handle):
            shutil.rmtree(folder)
        os.close(handle)


def _fold(base: Path, adapter: Path, dtype: torch.dtype, work: Path) -> None:
    try:
        check_mergeable(read_config(adapter), trained=True)
        there, _ = check_base(base)
        plan = make_plan(base, adapter, there, None)
    except UsageError as error:
        what = "; ".join(m.removeprefix("[merge] ") for m in error.messages)
        how = 'vLLM answers for an adapter folded into its base; "hf" for one beside it'
        raise UsageError(f"{what} ({how})") from None
    files = {header.file for header in there.values()}
    with workers() as pool:
        merge = Merge(plan, None, dtype, pool)
        for file in sorted(files):
            with safe_open(file, "pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 -- no mapping
            for name in tensors.keys() & plan.must:
                before = tensors[name].float()  # holds any half precision, so that rounding is left to the end
                parts = merge.blocks(name, before, lambda _, total: total.to(dtype))
                tensors[name] = torch.cat(parts).reshape(before.shape).contiguous()
            save_file(tensors, work / file.name, {"format": "pt"})
    for path in base.iterdir():
        if path not in files:
            (work / path.name).symlink_to(path.absolute())
