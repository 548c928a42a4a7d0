"""[train] processes: how it ends where one of them is killed, hangs, or has no room. No rank here imports torch."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.records.models import ModelRef, Progress
from harness_sft import processes
from harness_sft.job import Method, TrainingJob, reporting_full_disk

RANK = """
import os, signal, sys, time
from pathlib import Path
from harness import Progress, UsageError
from harness_sft import worker

def train(desk, job):
    number, stop, folder = desk.number, desk.folder / worker.STOP, Path(job["out"]).parent
    (folder / f"pid-{number}").write_text(str(os.getpid()))
    step = lambda done: desk.progress(Progress("train", done, 9))
    exec(job["recipe"]["does"])

worker.HEARTBEAT_S, worker._run_distributed_training = 0.05, train
sys.exit(worker.main(Path(sys.argv[1])))
"""
Launch = Callable[..., Path]


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Return what starts two ranks that do as told; a whole checkpoint is there, of step 5."""
    (tmp_path / "fake_rank.py").write_text(RANK)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, value in {
        "WORKER": "fake_rank",
        "ERROR_GRACE_S": 0.5,
        "GRACE_S": 0.5,
        "QUIET_SECONDS": 0.4,
        "HUNG_SECONDS": 1.0,
    }.items():
        monkeypatch.setattr(processes, name, value)
    folder = tmp_path / "trained"
    for step, whole in ((4, True), (5, True), (6, False)):
        (folder / f"checkpoints/checkpoint-{step}").mkdir(parents=True)
        if whole:
            (folder / f"checkpoints/checkpoint-{step}/harness-checkpoint.json").write_text('{"stamp": "s"}')
    method = Method("SFTConfig", lambda: None, lambda rows: rows, lambda: None, where="nowhere:NONE")

    def start(does: str, progress: Callable[[Progress], None] = lambda _: None) -> Path:
        given: dict[str, Any] = {"out": folder / "out", "progress": progress, "flag": lambda *_: None}
        return processes.launch_processes(
            TrainingJob(ModelRef("base", "."), None, [], {"does": does}, 1, method, **given), 2
        )

    yield start
    pids = [int(path.read_text()) for path in folder.glob("pid-*")]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids) and not (folder / "processes").exists()


AGAIN = "run again to resume from the last checkpoint, step 5"
KILLED = """
step(1)
if number:
    (folder / "gone").touch()
    os.kill(os.getpid(), signal.SIGKILL)
while not (folder / "gone").exists():
    time.sleep(0.01)
time.sleep(0.1)
raise """


@pytest.mark.slow
@pytest.mark.parametrize("complaint", ["RuntimeError('gloo: GLHF!')", "UsageError('TRL refuses: gloo')"])
def test_one_that_is_killed_is_told_before_the_others_complain(launch: Launch, complaint: str) -> None:
    """Whatever the survivors say of their lost connection, the line is the signal and what the next run does."""
    with pytest.raises(UsageError) as caught:
        launch(KILLED + complaint)
    assert str(caught.value) == f"rank 1 was killed by SIGKILL (out of memory?); {AGAIN}"


HANGS = "step(1); step(2)\nif number: os.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(60)"


@pytest.mark.slow
def test_one_that_hangs_is_told_and_ended(launch: Launch) -> None:
    """A rank that is stopped is named while the others wait, and after a longer time all are ended."""
    told: list[Progress] = []
    with pytest.raises(UsageError) as caught:
        launch(HANGS, told.append)
    who = r"rank 1 of 2 sent no heartbeat for \d\.\d s"
    assert told[-1].done == 2
    assert re.fullmatch(rf"{who}; the training will be stopped after \d\.\d s without a step", told[-1].remark)
    assert [one.remark for one in told].count(told[-1].remark) == 1
    assert re.fullmatch(rf"{who}; the training was stopped; {re.escape(AGAIN)}", str(caught.value))


@pytest.mark.slow
def test_a_deadlock_of_living_ranks_is_ended(launch: Launch) -> None:
    """Where all give signs of life and none comes to a step, that is told; batches between steps are work."""
    with pytest.raises(
        UsageError, match=r"all ranks send heartbeats, but made no step for \d\.\d s; the training was stopped"
    ):
        launch("step(1); time.sleep(60)")
    works = "for _ in range(15): time.sleep(0.1); desk.tell({'at work': True})\nif not number: step(2)"
    launch(f"step(1)\n{works}")


@pytest.mark.slow
def test_one_interruption_is_enough(launch: Launch) -> None:
    """Ctrl-C ends ranks that do not come to the end of their step soon."""
    begun = 0.0

    def stop(progress: Progress) -> None:
        nonlocal begun
        if progress.done == 2:
            begun = time.monotonic()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(HANGS, stop)
    assert time.monotonic() - begun < 20  # else it hangs for a minute


@pytest.mark.slow
def test_a_step_that_has_ended_is_saved(launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once all have heard of an interruption they may write for longer than they had to hear of it."""
    monkeypatch.setattr(processes, "HUNG_SECONDS", 60.0)
    monkeypatch.setattr(processes, "GRACE_S", 2.0)

    def stop(progress: Progress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    waits = "step(1)\nwhile not stop.exists(): time.sleep(0.01)\n(folder / f'heard-{number}').touch()\n"
    waits += "while len([*folder.glob('heard-*')]) < 2: time.sleep(0.01)\nstop.unlink(missing_ok=True)\n"
    with pytest.raises(KeyboardInterrupt):
        launch(waits + "time.sleep(2.5)\n(folder / f'saved-{number}').touch()\nraise KeyboardInterrupt", stop)
    assert len([*(tmp_path / "trained").glob("saved-*")]) == 2


def test_a_disk_on_which_no_error_can_be_told(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the events have no room either, the disk tells why the ranks ended."""
    about = os.statvfs("/")
    full = os.statvfs_result((*about[:4], 0, *about[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    with pytest.raises(
        UsageError,
        match=("No space left on device; free space and run again to resume from the last checkpoint, step 5"),
    ):
        launch("if number: raise RuntimeError('connection closed')\nos._exit(1)")


def test_an_error_of_slices_is_one_of_the_disk(tmp_path: Path) -> None:
    """That of torch for a checkpoint in slices is no Exception, and holds the others' words in its own."""

    class CheckpointError(BaseException):
        """As torch.distributed.checkpoint.CheckpointException."""

    says = f'^"{tmp_path}": No space left on device; free space and run again$'
    with pytest.raises(UsageError, match=says), reporting_full_disk(tmp_path):
        raise CheckpointError(
            "ranks:[0]\nRuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 1 vs 2"
        )
    with pytest.raises(CheckpointError), reporting_full_disk(tmp_path):
        raise CheckpointError("ranks:[0]\nanother")


@pytest.mark.slow
def test_a_half_of_an_event_swallows_no_other(launch: Launch) -> None:
    """What a full disk took of one rank's line is no part of the next one's."""
    half = "if number: time.sleep(0.3); raise UsageError('what is wrong')\nos.write(desk.stream, b'{\"progress\": {')"
    with pytest.raises(UsageError, match=r"^what is wrong$"):
        launch(half + "\nos._exit(0)")


def test_the_clock_stops_with_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was stopped and goes on takes no rank for hung; there is more time before the first step.

    So there is after the last, when what was trained is written.
    """
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = processes.StepPace(2)
    now += 7 * 3600
    assert pace.find_warning() == ("", False)
    pace.idle = processes.HUNG_SECONDS
    assert pace.find_warning()[1] is False
    pace.step(more=True)
    pace.idle = processes.HUNG_SECONDS
    assert pace.find_warning()[1] is True
    pace.took += [200.0] * 9
    assert pace.find_warning() == ("", False)
    pace.step(more=False)
    pace.idle = processes.HUNG_SECONDS
    assert pace.find_warning()[1] is False
    pace.idle = processes.START_TIMEOUT_S
    assert pace.find_warning()[1] is True
