"""A training in several processes, seen from their parent.

Each runs `harness_sft.worker`. They find each other through a file, because the store of `torchrun` listens on all
network devices of a machine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import IO, Any, NamedTuple

from harness import Adapter, Finding, Progress, UsageError, write_text
from harness.internals import (
    assign_gpus,
    disk_full_error,
    error_from_json,
    format_duration,
    list_gpus,
    ref_to_json,
    shorten_text,
)
from harness_sft.job import TrainingJob, resume_hint
from harness_sft.ranks import raise_finding

JOB, EVENTS, STOP, STORE, SAID = "job.json", "events.jsonl", "stop", "store", "said.txt"
SINGLE_PROCESS_OPTIONS = {  # options that mean another training in several processes, and why
    "accelerator_config": "the harness distributes rows",
    "auto_find_batch_size": "only one process would halve its batch",
    "dataloader_drop_last": "the last batch of an epoch is smaller",
    "device_map": "each process would spread its model over all GPUs",
    "ddp_backend": "it is always gloo on a CPU and NCCL on GPUs",
    "deepspeed": "shard = true is the only way",
    "fsdp": "set shard = true",
    "fsdp_config": "set shard = true",
    "local_rank": "the harness sets it",
}
UNSHARDED_OPTIONS = {  # options that cannot go with shared weights, and why
    "torch_compile": "it is not tested here",
    "fp16": "its losses are scaled by each process's part of the gradient",
}
SHARDED_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused")
WORKER = "harness_sft.worker"  # what each of them runs
# errors that say what is wrong; others may be complaints that another is gone
RAISED_ERRORS = ("UsageError", "CheckFailedError")
POLL_INTERVAL_S = 0.05  # seconds
ERROR_GRACE_S = 2.0  # seconds to wait after an error: the first process to report one is not always the first to fail
GRACE_S = 10.0  # seconds, or two usual steps, in which all must have ended the step that they are in
HEARTBEAT_S = 20.0  # seconds between two signs of life
# without a step, after which that is reported, and the training is ended
QUIET_SECONDS, HUNG_SECONDS = 600.0, 1800.0
# times the usual step after which a slow one is reported, and twice that after which the training is ended
SLOW_STEP_FACTOR = 20
# seconds before the first step and after the last: models are loaded, kernels compiled, weights written
START_TIMEOUT_S = 3600.0
CONNECTIONS = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}  # the processes are on one machine


class PaceWarning(NamedTuple):
    """A warning about missing steps, and whether the training ends."""

    message: str
    is_over: bool


def reject_processes(processes: int | str, recipe: Mapping[str, Any], accumulated: int) -> None:
    """Raise UsageError if several processes cannot train by a recipe.

    In one process, `accumulated` batches make a step.
    """
    if processes in (1, "auto"):
        return
    if accumulated % int(processes):
        what = f"the {accumulated} batches of a step (gradient_accumulation_steps) cannot be divided evenly"
        raise UsageError(f"processes: is {processes}, but {what}; set a divisor of {accumulated}")
    for name, why in SINGLE_PROCESS_OPTIONS.items():
        if recipe.get(name):
            raise UsageError(f"{name}: cannot be set with several processes: {why}; remove it")
    if recipe.get("train_sampling_strategy", "random") not in ("random", "sequential"):
        raise UsageError('train_sampling_strategy: must be "random" or "sequential" with several processes')
    if recipe.get("average_tokens_across_devices") is False:
        raise UsageError(
            "average_tokens_across_devices: is false, but a token must count the same in all processes; remove it"
        )
    assign_gpus(f"processes = {processes}", int(processes))


def reject_shards(processes: int | str, recipe: Mapping[str, Any], adapter: Adapter | None) -> None:
    """Raise UsageError where processes cannot share the weights: what no test proves here."""
    if processes == 1 or (processes == "auto" and len(list_gpus()) < 2):
        raise UsageError("shard: splits the weights between processes, but there is only one; set processes")
    if (optim := recipe.get("optim", "adamw_torch")) not in SHARDED_OPTIMIZERS:
        want = " or ".join(f'"{name}"' for name in SHARDED_OPTIMIZERS)
        raise UsageError(f'optim: is "{optim}", but shard = true needs {want}')
    for name, why in UNSHARDED_OPTIONS.items():
        if recipe.get(name):
            raise UsageError(f"{name}: cannot be set with shard = true: {why}; remove one of the two")
    if adapter is None:
        return
    if adapter.quantization:
        how = 'use = "lora" in [adapter], or shard = false'
        raise UsageError(f"shard: sharding a 4-bit base is not tested; {how}")
    config = adapter.peft_config()
    used = [n for n in ("use_dora", "target_parameters", "trainable_token_indices") if getattr(config, n)]
    if isinstance(config.init_lora_weights, str) and config.init_lora_weights != "gaussian":
        used.append("init_lora_weights")
    if used:
        raise UsageError(f"shard: is not tested with {used[0]} in [adapter]; remove one of them")


def resolve_processes(processes: int | str, recipe: Mapping[str, Any], accumulated: int, device: str) -> int:
    """Return the number of processes; "auto" is one for each GPU. Raises as `reject_processes`."""
    if processes == "auto":
        there = len(list_gpus()) if device == "cuda" else 1
        processes = next(n for n in range(max(1, there), 0, -1) if accumulated % n == 0)
    if processes != 1:
        reject_processes(processes, recipe, accumulated)
    return int(processes)


class RemoteAdapter:
    """An adapter that another process told of: what a training needs of one."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self.told, self.quantization = told, told["quantization"]

    def peft_config(self) -> Any:
        from peft import get_peft_config

        return get_peft_config(deepcopy(self.told["config"]))


def _convert_adapter_to_json(adapter: Any) -> dict[str, Any]:
    """Return an adapter as JSON has it, sets in order."""
    told = {"config": adapter.peft_config().to_dict(), "quantization": adapter.quantization}
    return dict(json.loads(json.dumps(told, default=lambda one: sorted(one) if isinstance(one, set) else str(one))))


def launch_processes(job: TrainingJob, count: int) -> Path:
    """Train in `count` processes and return `out`.

    Their events are passed on as they come. An interruption lets them save the current step if they finish it; a second
    one ends them at once, as does any other exception, or the end of this process. Raises the error that one of them
    raised, and UsageError if a signal ended one, no step comes any more or the disk is full.
    """
    folder = job.out.parent.resolve() / "processes"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    adapter = None if job.adapter is None else _convert_adapter_to_json(job.adapter)
    if adapter and _convert_adapter_to_json(RemoteAdapter(adapter)) != adapter:  # the others would read another one
        raise UsageError("[train] processes: the adapter cannot be sent to other processes; train in one")
    told: dict[str, Any] = {"ref": ref_to_json(job.ref), "adapter": adapter, "rows": list(job.rows)}
    told |= {"out": str(job.out.resolve()), "recipe": dict(job.recipe), "seed": job.seed}
    told |= {"method": job.method.where, "shard": job.shard}
    try:
        write_text(folder / JOB, json.dumps(told, default=dict))
        (folder / EVENTS).touch()
        with (folder / SAID).open("wb") as said, closing(TrainingProcesses(folder, count, said, job)) as run:
            run.follow()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return job.out


class TrainingProcesses:
    """Training processes and their events.

    They end when their standard input closes, that is when this process ends.
    """

    def __init__(self, folder: Path, count: int, said: IO[bytes], job: TrainingJob) -> None:
        self.folder, self.progress, self.flag = folder, job.progress, job.flag or raise_finding
        self.errors: list[Mapping[str, Any]] = []
        self.flagged: set[str] = set()
        self.until = float("inf")
        self.stopping = self.interrupted = self.done = False
        self.lost = ""  # how a signal ended one of them
        self.last, self.pace = Progress("train", 0, 0), StepPace(count)
        command = [sys.executable, "-P", "-m", WORKER, str(folder)]
        how: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": said, "stderr": said, "start_new_session": True}
        # this one's modules, one thread unless told, this machine alone
        modules = os.pathsep.join(p or "." for p in sys.path)
        shared = {"OMP_NUM_THREADS": "1", **CONNECTIONS, **os.environ, "PYTHONPATH": modules}
        shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        places = ({"RANK": str(number), "LOCAL_RANK": str(number)} for number in range(count))
        self.processes = [subprocess.Popen(command, env=shared | place, **how) for place in places]

    def follow(self) -> None:
        """Pass on events until all processes have ended.

        Raises the error that made one of them end early.
        """
        with (self.folder / EVENTS).open(encoding="utf-8") as stream:
            try:
                self._read_events_until_end(stream)
            except KeyboardInterrupt:
                if self.pace.took:  # before that there is nothing to save
                    (self.folder / STOP).touch()
                    self.stopping, self.progress = True, lambda _: None
                    self.until = time.monotonic() + max(
                        GRACE_S, 0.0 if self.pace.told else 2 * self.pace.median_seconds()
                    )
                    self._read_events_until_end(stream)
                raise
        if self.done and not self.errors:
            return
        if self.lost:
            raise UsageError(f"{self.lost}; {self._again()}")
        if self.interrupted and not self.errors:
            raise KeyboardInterrupt
        code = max(process.poll() or 0 for process in self.processes)
        lines = (self.folder / SAID).read_text("utf-8", "replace").splitlines()
        how = f"its processes ended with exit code {code}: {shorten_text(lines[-1]) if lines else 'no output'}"
        error: Exception = RuntimeError(f"training: {how}; {self._again()}")
        if self.errors:
            error = error_from_json(min(self.errors, key=lambda e: e["kind"] not in RAISED_ERRORS))
        if full := disk_full_error(error, self.folder):  # so that nobody could tell it
            raise UsageError(f"{full}; free space and {self._again()}")
        raise error

    def _read_events_until_end(self, stream: IO[str]) -> None:
        """Handle events until the processes end or one reports an error.

        Lines are handled when complete, and those left at the end too.
        """
        begun, last = "", False
        while not last:
            last = not self._poll_still_running()
            while part := stream.readline():
                begun += part
                if begun.endswith("\n"):
                    self._handle_event_line(begun)
                    begun = ""
            if not last:
                time.sleep(POLL_INTERVAL_S)

    def _poll_still_running(self) -> bool:
        codes = [process.poll() for process in self.processes]
        killed = [(number, -code) for number, code in enumerate(codes) if code is not None and code < 0]
        if killed and not (self.lost or any(error["kind"] in RAISED_ERRORS for error in self.errors)):
            number, by = killed[0]
            why = " (out of memory?)" if by == signal.SIGKILL else ""
            self.lost = f"rank {number} was killed by {signal.Signals(by).name}{why}"
        if self.stopping and not (self.folder / STOP).exists():  # all have heard it, and save
            self.stopping, self.until = False, float("inf")
        if any(codes):  # the others wait for it
            self._limit_remaining_time()
        said, hung = self.pace.find_warning()
        if hung and not self.done:
            raise UsageError(f"{said}; {self._again()}")
        if said:
            self.progress(replace(self.last, remark=said))
        return None in codes and not hung and time.monotonic() < self.until

    def _limit_remaining_time(self) -> None:
        self.until = min(self.until, time.monotonic() + ERROR_GRACE_S)

    def _again(self) -> str:
        return resume_hint(self.folder.parent)

    def _handle_event_line(self, line: str) -> None:
        event: dict[str, Any] = {}
        with suppress(ValueError):  # a blank, or the half that a full disk took
            event = json.loads(line)
        if "rank" in event:
            self.pace.silent[event["rank"]] = 0.0
        if "progress" in event:
            one = Progress(**event["progress"])
            if one.done > self.last.done:
                self.pace.step(more=one.done < one.total)
            self.last = one
            self.progress(one)
        elif "at work" in event:
            self.pace.idle = 0.0
        elif "flag" in event:
            if event["flag"] not in self.flagged:  # of all processes, which see the same
                self.flagged.add(event["flag"])
                self.flag(event["flag"], Finding(**event["finding"]))
            (self.folder / event["answer"]).touch()
        elif "error" in event:
            self._poll_still_running()  # which sees whom a signal ended before
            self.errors.append(event["error"])
        self.interrupted = self.interrupted or "interrupted" in event
        self.done = self.done or "done" in event
        if self.errors:
            self._limit_remaining_time()

    def close(self) -> None:
        """Kill the remaining processes and their children. SIGKILL also ends a stopped one."""
        for process in self.processes:
            if process.poll() is None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
        for process in self.processes:
            process.wait()
            assert process.stdin
            process.stdin.close()


class StepPace:
    """Durations of steps, and heartbeats of the processes.

    Times are seconds since the last step (`since`), the last batch (`idle`), and each process's heartbeat (`silent`).
    """

    def __init__(self, count: int) -> None:
        self.took: list[float] = []
        self.since = self.idle = 0.0
        self.silent = [0.0] * count
        self.told = self.between = False
        self._looked = time.monotonic()

    def step(self, *, more: bool) -> None:
        """Record the end of a step, and whether more follow."""
        self.took.append(self.since)
        self.since, self.idle, self.told, self.between = 0.0, 0.0, False, more

    def median_seconds(self) -> float:
        return median(self.took[1:] or [0.0])

    def find_warning(self) -> PaceWarning:
        """Return a warning if no step has come for too long.

        Its message is empty otherwise. `is_over` means that the training hangs.
        """
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, ERROR_GRACE_S), now  # in more this process was stopped itself
        self.since, self.idle = self.since + passed, self.idle + passed
        self.silent = [seconds + passed for seconds in self.silent]
        if self.idle < QUIET_SECONDS:
            return PaceWarning("", False)
        end = max(HUNG_SECONDS, 2 * SLOW_STEP_FACTOR * self.median_seconds()) if self.between else START_TIMEOUT_S
        hung = self.idle >= end
        if not hung and (self.told or self.idle < max(QUIET_SECONDS, SLOW_STEP_FACTOR * self.median_seconds())):
            return PaceWarning("", False)
        self.told = True
        gone = " and ".join(str(number) for number, seconds in enumerate(self.silent) if seconds > self.idle / 2)
        who = (
            f"rank {gone} of {len(self.silent)} sent no heartbeat"
            if gone
            else "all ranks send heartbeats, but made no step"
        )
        then = "was stopped" if hung else f"will be stopped after {format_duration(end)} without a step"
        return PaceWarning(f"{who} for {format_duration(self.idle)}; the training {then}", hung)
