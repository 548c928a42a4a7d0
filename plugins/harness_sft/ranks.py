"""The processes of a training, seen from one of them.

Imports torch inside functions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import CheckFailedError, Finding
from harness_hf import IGNORED_LABEL

if TYPE_CHECKING:
    from datasets import Dataset


def raise_finding(code: str, finding: Finding) -> None:
    """Raise a finding during training as a CheckFailedError."""
    raise CheckFailedError(f"training: {finding.what}; {finding.fix}")


class Ranks:
    """The one process of a training: nobody to wait for."""

    number, count = 0, 1
    sharded = False  # whether each holds a slice of every weight
    at_work: Callable[[], None] = staticmethod(lambda: None)  # tells that much is done between two steps

    @property
    def first(self) -> bool:
        """Return whether this is the process that tells, writes and removes."""
        return self.number == 0

    def sum_over_processes(self, *values: float) -> tuple[float, ...]:
        """Return each value added up over the processes."""
        return values

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in rank order."""
        return [value]

    def wait(self) -> None:
        """Wait until all have come here."""
        self.sum_over_processes(0.0)

    def stop_if_asked(self) -> None:
        """Raise KeyboardInterrupt in all processes if one should stop.

        All stop after the same step.
        """


class DistributedRanks(Ranks):
    """One of several processes, in torch's default group.

    A signal sets `asked`; `stop` is a file that the parent creates.
    """

    def __init__(self, stop: Path, sharded: bool, at_work: Callable[[], None]) -> None:
        import torch.distributed as dist

        self.number, self.count, self.sharded = dist.get_rank(), dist.get_world_size(), sharded
        self.stop, self.asked, self.at_work = stop, False, at_work

    def sum_over_processes(self, *values: float) -> tuple[float, ...]:
        import torch
        import torch.distributed as dist

        total = torch.tensor(values, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(total)
        return tuple(total.tolist())

    def stop_if_asked(self) -> None:
        [asked] = self.sum_over_processes(float(self.asked or self.stop.exists()))
        if asked:
            self.stop.unlink(missing_ok=True)  # which tells the parent that all have heard it
            raise KeyboardInterrupt

    def gather(self, value: Any) -> list[Any]:
        import torch.distributed as dist

        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found


def pad_dataset(rows: Dataset, size: int) -> Dataset:
    """Pad a dataset with unsupervised rows of one token.

    The number of rows becomes a multiple of `size`, the rows of a batch on all processes.
    """
    from datasets import Dataset, concatenate_datasets

    # Otherwise accelerate fills an epoch's last batches with rows from its beginning, which are then trained on twice.
    if not (missing := -len(rows) % size):
        return rows
    first, empty = rows[0], {"labels": [IGNORED_LABEL], "seq_lengths": [1]}
    length = len(first["input_ids"])
    blank = {n: empty.get(n, v[:1] if isinstance(v, list) and len(v) == length else v) for n, v in first.items()}
    more = Dataset.from_dict({name: [value] * missing for name, value in blank.items()}, features=rows.features)
    return concatenate_datasets([rows, more])


class EpochSampler:
    """The row order of an epoch, independent of the process count.

    Rows come as they are drawn, then the padding rows.
    """

    def __init__(self, rows: int, filled: int, seed: int | None) -> None:
        self.rows, self.filled, self.seed, self.epoch = rows, filled, seed, 0

    def __len__(self) -> int:
        return self.filled

    def __iter__(self) -> Any:
        from accelerate.data_loader import SeedableRandomSampler

        drawn: Any = range(self.rows)
        if self.seed is not None:  # as accelerate does it
            drawn = SeedableRandomSampler(range(self.rows), data_seed=self.seed)
            drawn.set_epoch(self.epoch)
        yield from drawn
        yield from range(self.rows, self.filled)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
