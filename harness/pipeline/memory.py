"""The peak memory of a stage: what the process held, and what PyTorch held of the GPUs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

PROCESS = Path("/proc/self")
PEAK = "5"  # written to clear_refs: VmHWM begins anew (proc(5), Linux 4.0)


class Memory:
    """Peaks by stage, in bytes; a stage inside another counts for both.

    Where the system does not let a peak begin anew, a stage has one only if it rose in it.
    """

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self._open: list[dict[str, int]] = []  # the peaks of the stages that are open, so far

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage; what is measured twice under a name has the higher peak."""
        self._take()
        self._open.append({})
        before = None if _begin() else _resident()
        try:
            yield
        finally:
            self._take()
            found = self._open.pop()
            if before is not None and found.get("", 0) <= before:
                found.pop("", None)
            for where, peak in found.items():
                key = f"{name} ({where})" if where else name
                self.peaks[key] = max(peak, self.peaks.get(key, 0))

    def _take(self) -> None:
        """Add the peaks since they last began to every stage that is open, and let them begin anew."""
        if not self._open:
            return
        torch = _torch_on_gpus()
        cuda = sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count())) if torch else 0
        now = {"": _resident(), "cuda": int(cuda)}  # what PyTorch allocated of all GPUs together
        for peaks in self._open:
            peaks |= {where: max(peak, peaks.get(where, 0)) for where, peak in now.items() if peak}
        _begin()


def _begin() -> bool:
    """Let the peaks begin anew; return whether the process' does."""
    if torch := _torch_on_gpus():
        for i in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(i)
    try:
        (PROCESS / "clear_refs").write_text(PEAK, "ascii")
    except OSError:
        return False
    return True


def _resident() -> int:
    """Return the most bytes that the process held in memory at once since the peak began; 0 where nobody knows."""
    try:
        lines = (PROCESS / "status").read_text("utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        import resource
    except ModuleNotFoundError:  # not on this system
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _torch_on_gpus() -> ModuleType | None:
    """Return PyTorch where it is imported and computes on a GPU; it is imported for no such question."""
    torch = sys.modules.get("torch")
    return torch if torch and torch.cuda.is_available() and torch.cuda.is_initialized() else None
