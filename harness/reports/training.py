"""The steps of a training: as its trainer notes them beside the adapter, and as a report holds them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from harness.files import write_text
from harness.records.run import TrainingStep
from harness.reports.report_json import made

STEPS = "training.jsonl"  # beside an adapter's folder, a step a line
LOGS = "logs"
"""The folder beside an adapter's in which its trainer logs for people, in whatever form."""
MOST = 1000  # steps in a report; of a longer training every so many


def write_steps(adapter: Path, steps: Iterable[TrainingStep]) -> None:
    """Write the steps of a training beside its adapter's folder, where they stay as long as that."""
    lines = (json.dumps({k: v for k, v in asdict(step).items() if v is not None}) + "\n" for step in steps)
    write_text(adapter.with_name(STEPS), "".join(lines))


def read_steps(adapter: Path) -> tuple[TrainingStep, ...]:
    """Read the steps of a training, at most MOST of them; a trainer owes us none, so that what is no step is nothing.

    The first, the last and every one with a validation loss are kept, of the others every so many.
    """
    try:
        lines = adapter.with_name(STEPS).read_text("utf-8").splitlines()
        found = [made(TrainingStep, json.loads(line, parse_constant=lambda _: None), "it") for line in lines]
    except (OSError, ValueError, TypeError, RecursionError):
        return ()
    return tuple(_thinned([step for step in found if isinstance(step, TrainingStep)]))


def _thinned(steps: Sequence[TrainingStep]) -> list[TrainingStep]:
    every = math.ceil(len(steps) / MOST)
    last = len(steps) - 1
    return [s for i, s in enumerate(steps) if not i % max(every, 1) or i == last or s.validation is not None]
