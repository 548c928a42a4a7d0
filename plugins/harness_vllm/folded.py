"""An adapter folded into its base, for vLLM: docs/decisions/0092-folded.md says why.

Imports torch: import this module inside functions.
"""
# ruff: noqa: TID253 (imported only where a model is loaded)

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from harness import UsageError, cache_dir
from harness.internals import folder_in_place
from harness_lora import Merge, check_base, check_mergeable, make_plan, read_config, workers


class _Passed(Exception):
    """What was folded was loaded, and is no longer needed."""


@contextmanager
def folded(base: Path, adapter: Path | None, dtype: torch.dtype) -> Iterator[Path]:
    """Yield the folder of a base with an adapter folded in, the base's own without one; it is gone afterwards.

    The sum is computed in float64 and rounded once, to the dtype that answers are computed in. What a killed process
    left is removed by the next. Raises UsageError where an adapter cannot be folded.
    """
    if adapter is None:
        yield base
        return
    with suppress(_Passed), folder_in_place(cache_dir() / "vllm" / "folded") as work:
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
        yield work
        raise _Passed
