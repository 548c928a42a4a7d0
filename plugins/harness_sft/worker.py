"""One of the processes of a training: `python -m harness_sft.worker FOLDER`."""

from __future__ import annotations

import errno
import importlib
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from harness import Finding, Progress
from harness.internals import error_to_json, ref_from_json
from harness_sft.processes import EVENTS, HEARTBEAT_S, JOB, POLL_INTERVAL_S, STOP, STORE, RemoteAdapter

PATIENCE = timedelta(days=1)  # what a process waits for the others: how long is too long the parent knows


class EventWriter:
    """A writer of a process's events for its parent."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number, self.asked = folder, int(os.environ["RANK"]), 0
        self.stream = os.open(folder / EVENTS, os.O_WRONLY | os.O_APPEND)

    def tell(self, event: Mapping[str, Any]) -> None:
        """Add a line to the events, in one write: the other processes add theirs, perhaps after a half of one."""
        line = ("\n" + json.dumps({**event, "rank": self.number}, default=str) + "\n").encode()
        if os.write(self.stream, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder / EVENTS))

    def progress(self, progress: Progress) -> None:
        """Tell the progress, which is that of all."""
        if self.number == 0:
            self.tell({"progress": {**asdict(progress), "facts": dict(progress.facts)}})

    def flag(self, code: str, finding: Finding) -> None:
        """Tell a finding, and wait for leave to go on: at what ends a training nothing more may be written."""
        self.asked += 1
        answer = f"answer-{self.number}-{self.asked}"
        self.tell({"flag": code, "finding": asdict(finding), "answer": answer})
        while not (self.folder / answer).exists():
            time.sleep(POLL_INTERVAL_S)


def main(folder: Path) -> int:
    """Train a job as one of several processes.

    An event reports how it ended. Returns the exit code.
    """
    desk = EventWriter(folder)
    threading.Thread(target=_kill_group_when_parent_ends, args=(desk,), daemon=True).start()
    try:
        _run_distributed_training(desk, json.loads((folder / JOB).read_text("utf-8")))
    except KeyboardInterrupt:
        desk.tell({"interrupted": True})
        return 0  # as wished: another may still be writing
    except BaseException as error:  # that of torch for slices is no Exception
        desk.tell({"error": error_to_json(error)})
        return 1
    if desk.number == 0:
        desk.tell({"done": True})
    return 0


def _run_distributed_training(desk: EventWriter, job: Mapping[str, Any]) -> None:
    import torch
    import torch.distributed as dist

    from harness_sft.job import TrainingJob
    from harness_sft.ranks import DistributedRanks
    from harness_sft.train import train_model

    ref = ref_from_json(job["ref"])
    if cuda := ref.options.get("device", "auto") in ("auto", "cuda") and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    kind, count = "nccl" if cuda else "gloo", int(os.environ["WORLD_SIZE"])
    store = dist.FileStore(str(desk.folder / STORE), count)  # type: ignore[attr-defined]
    dist.init_process_group(kind, store=store, rank=desk.number, world_size=count, timeout=PATIENCE)
    ranks = DistributedRanks(desk.folder / STOP, job["shard"], lambda: desk.tell({"at work": True}))

    def ask(number: int, frame: Any) -> None:  # to end after the step; where a signal comes is told to all
        ranks.asked = True

    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, ask)
    adapter: Any = RemoteAdapter(job["adapter"]) if job["adapter"] else None  # all that a training asks of one
    module, _, name = job["method"].partition(":")
    how: dict[str, Any] = {"method": getattr(importlib.import_module(module), name), "out": Path(job["out"])}
    how |= {"progress": desk.progress, "flag": desk.flag, "ranks": ranks}
    train_model(TrainingJob(ref, adapter, job["rows"], job["recipe"], job["seed"], **how))
    dist.destroy_process_group()


def _kill_group_when_parent_ends(desk: EventWriter) -> None:
    """Send heartbeats, and kill the process group when stdin closes.

    The parent holds the other end of stdin, so nothing started here outlives it.
    """
    while not select.select([0], [], [], HEARTBEAT_S)[0]:  # nothing is ever written there: what can be read is its end
        with suppress(OSError):  # where there is no room
            desk.tell({})
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
