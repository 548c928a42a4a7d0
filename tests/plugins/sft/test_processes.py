"""[train] processes: what several processes train is what one trains, they go on where they stopped, and all end."""

from __future__ import annotations

import importlib
import json
import os
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import harness_sft
from harness.errors import CheckFailedError, UsageError
from harness.internals import schema
from harness.records.findings import Finding
from harness.records.models import ModelRef, Progress
from harness.reports.run_folder import read_steps
from harness_lora import lora
from harness_sft import TrainingJob, check, sft
from harness_sft.processes import resolve_processes
from harness_sft.ranks import EpochSampler, pad_dataset
from tests.helpers.gpus import L4, machine
from tests.helpers.warm import use_warm_python

WEIGHTS = "adapter_model.safetensors"
ROWS = [{"prompt": f"what is {i}?" + "!" * (i % 7), "completion": f" it is {i * i}"} for i in range(43)]
RECIPE: dict[str, Any] = {"num_train_epochs": 2, "max_length": 64, "learning_rate": 5e-3, "validation": 0.15}
PARENT = """
import sys
from pathlib import Path
from harness.records.models import ModelRef
from harness_lora import lora
from harness_sft import sft

_, model, out, rows, recipe = sys.argv
ref = ModelRef("base", model, digest="d" * 64, options={"device": "cpu", "dtype": "float32"})
tell = lambda one: print(one.done, flush=True)
sft(ref, lora(r=4, lora_dropout=0.0), eval(rows), Path(out), progress=tell, seed=3, processes=2, **eval(recipe))
"""


def train(model: Path, folder: Path, processes: int, progress: Callable[[Progress], None], **given: Any) -> Path:
    """Train on 37 rows, five steps an epoch, of which the last is a smaller one."""
    ref = ModelRef("base", str(model), digest="d" * 64, options={"device": "cpu", "dtype": "float32"})
    adapter, out, recipe = lora(r=4, lora_dropout=0.0), folder / "adapter", RECIPE | given
    return sft(ref, adapter, ROWS, out, progress=progress, seed=3, processes=processes, **recipe)


@pytest.mark.slow
def test_two_train_what_one_trains(tiny_model: Path, tmp_path: Path, warm: Path) -> None:
    """Two processes have the losses, the validation and the adapter of one; stopped and killed, they end with bits.

    Their epochs have five and a half batches for each, and no row is trained on twice. While they train they listen
    on the loopback device alone. Ctrl-C lets both save the step that they are in. A parent that is killed leaves no
    process behind.
    """
    import torch
    from safetensors.torch import load_file

    one, seen = train(tiny_model, tmp_path / "one", 1, lambda _: None), list[Progress]()
    places: set[str] = set()

    def look(progress: Progress) -> None:
        seen.append(progress)
        if progress.done == 1:
            places.update(*map(iterate_listen_addresses, list_children(os.getpid())))

    two = train(tiny_model, tmp_path / "two", 2, look)
    assert places == {"127.0.0.1"}
    left, right = read_steps(one), read_steps(two)
    assert [s.loss for s in right] == pytest.approx([s.loss for s in left], abs=1e-6)
    assert [(s.step, s.tokens, s.learning_rate) for s in right] == [(s.step, s.tokens, s.learning_rate) for s in left]
    facts, others = read_adapter_note(one)["facts"], read_adapter_note(two)["facts"]
    assert others["validation_loss"] == pytest.approx(facts["validation_loss"], abs=1e-6)
    assert others["rows"] == facts["rows"] == 37 and others["processes"] == 2 and "processes" not in facts
    pairs = [load_file(out / WEIGHTS) for out in (one, two)]
    assert all(torch.allclose(pairs[0][name], pairs[1][name], atol=1e-6) for name in pairs[0])
    assert [p.done for p in seen] == list(range(11)) and "validation loss" in seen[-1].remark
    assert sorted(p.name for p in two.iterdir()) == sorted(p.name for p in one.iterdir())

    def stop(progress: Progress) -> None:
        if progress.done == 3:
            raise KeyboardInterrupt

    again = tmp_path / "again"
    with use_warm_python(warm), pytest.raises(KeyboardInterrupt):
        train(tiny_model, again, 2, stop)
    [kept] = (again / "checkpoints").glob("checkpoint-*/harness-checkpoint.json")
    assert 3 <= int(kept.parent.name.rpartition("-")[2]) < 10 and not (again / "processes").exists()
    kill_after_a_step(tiny_model, again / "adapter")
    later: list[Progress] = []
    with use_warm_python(warm):
        train(tiny_model, again, 2, later.append)
    assert [p.done for p in later if p.done] == list(range(int(kept.parent.name.rpartition("-")[2]) + 1, 11))
    assert (again / "adapter" / WEIGHTS).read_bytes() == (two / WEIGHTS).read_bytes()
    assert [s.loss for s in read_steps(again / "adapter")] == [s.loss for s in right]


def test_a_checkpoint_for_which_there_is_no_room(tiny_model: Path, tmp_path: Path) -> None:
    """What torch says where it cannot write, which is no word of a disk, is a line; the next run goes on."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def shrink(progress: Progress) -> None:
        if progress.done == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))

    try:
        with pytest.raises(UsageError, match=r"; free space and run again to resume from the last checkpoint, step 2$"):
            train(tiny_model, tmp_path, 1, shrink, save_steps=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    later: list[int] = []
    train(tiny_model, tmp_path, 1, lambda progress: later.append(progress.done), save_steps=2)
    assert [done for done in later if done] == list(range(3, 11))


def kill_after_a_step(model: Path, out: Path) -> None:
    """Train in a process of its own, kill that after its first step, and see that the others end."""
    command = [sys.executable, "-c", PARENT, str(model), str(out), repr(ROWS), repr(RECIPE)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as parent:
        assert parent.stdout
        for line in parent.stdout:
            if line.strip().isdecimal() and int(line):
                break
        pids = list_children(parent.pid)
        parent.kill()
    assert len(pids) == 2
    until = time.monotonic() + 20
    while any(map(is_alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(is_alive, pids))


def list_children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def iterate_listen_addresses(pid: int) -> Iterator[str]:
    """Yield the addresses at which a process takes connections."""
    held = {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in held:
                words = struct.iter_unpack("<I", bytes.fromhex(fields[1].partition(":")[0]))
                address = ip_address(b"".join(word.to_bytes(4) for (word,) in words))
                yield str(getattr(address, "ipv4_mapped", None) or address)


def is_alive(pid: int) -> bool:
    """Return whether a process runs: one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


SICK = """
from dataclasses import replace
from harness_sft import SFT
from tests.helpers.gpus import L4, machine  # noqa: E402

def trainer():
    class Sick(SFT.trainer()):
        def compute_loss(self, *args, **given):
            loss = super().compute_loss(*args, **given)
            return loss * float("nan") if self.ranks.number == 1 and self.state.global_step == 2 else loss
    return Sick

SICK = replace(SFT, trainer=trainer, where="sick:SICK")
"""


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
@pytest.mark.parametrize("shard", [False, True])
def test_nan_in_one(shard: bool, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is not finite in the second process ends both, is told once as T2, and nothing is written.

    So it is where they share the weights, and the first waits for the second's slices.
    """
    (tmp_path / "sick.py").write_text(SICK)
    monkeypatch.syspath_prepend(str(tmp_path))
    sick = importlib.import_module("sick").SICK
    found: list[tuple[str, Finding]] = []
    steps: list[int] = []
    ref = ModelRef("base", str(tiny_model), digest="d" * 64, options={"device": "cpu", "dtype": "float32"})
    recipe = {name: p.default for name, p in schema.list_options(sft)[0].items()} | RECIPE
    out = tmp_path / "run" / "adapter"
    with pytest.raises(CheckFailedError, match="training: the loss is nan at step 3; lower learning_rate"):
        harness_sft.train_model(
            TrainingJob(
                ref, lora(r=4), ROWS, recipe, 3, sick, out, processes=2, shard=shard,
                progress=lambda one: steps.append(one.done),
                flag=lambda code, finding: found.append((code, finding)),
            )
        )  # fmt: skip
    assert [code for code, _ in found] == ["T2"] and list(dict.fromkeys(steps)) == [0, 1, 2]
    assert not out.exists() and not (tmp_path / "run" / "processes").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": 3}, "processes: is 3, but the 4 batches of a step (gradient_accumulation_steps) cannot"),
        ({"processes": 2, "auto_find_batch_size": True}, "auto_find_batch_size: cannot be set with several processes"),
        (
            {"processes": 2, "train_sampling_strategy": "group_by_length"},
            'train_sampling_strategy: must be "random" or "sequential" with several',
        ),
        ({"processes": 2, "average_tokens_across_devices": False}, "average_tokens_across_devices: is false"),
        ({"processes": 4096, "gradient_accumulation_steps": 4096}, "processes = 4096: this machine has "),
    ],
)
@pytest.mark.slow
def test_refused(options: dict[str, Any], message: str) -> None:
    """What several processes would train otherwise than one is refused in one line before anything is loaded."""
    with pytest.raises(UsageError) as caught:
        check(**options)
    [line] = caught.value.messages
    assert line.startswith(message)


def test_auto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "auto" is one process a GPU, as far as the batches of a step can be dealt out, and one without a GPU."""
    machine(tmp_path, monkeypatch, L4, L4, L4)
    assert [resolve_processes("auto", {}, steps, "cuda") for steps in (1, 2, 3, 4, 9, 8)] == [1, 2, 3, 2, 3, 2]
    assert resolve_processes("auto", {}, 8, "cpu") == 1


def test_order() -> None:
    """Every process draws the order that one alone draws; what is added comes last, and anew in every epoch."""
    from accelerate.data_loader import SeedableRandomSampler

    alone = SeedableRandomSampler(range(7), data_seed=5)
    order = EpochSampler(7, 8, 5)
    for epoch in range(3):
        alone.set_epoch(epoch)
        order.set_epoch(epoch)
        assert list(order) == [*alone, 7]
    assert list(EpochSampler(3, 4, None)) == [0, 1, 2, 3]


def test_fill() -> None:
    """Added rows are one token with nothing to learn, and none are added where the batches are whole."""
    from datasets import Dataset

    rows = Dataset.from_list([{"row": i, "input_ids": [5, 6], "labels": [-100, 6], "seq_lengths": [2]} for i in (1, 2)])
    assert pad_dataset(rows, 2) is rows
    filled = pad_dataset(rows, 4)
    assert filled[:2] == rows[:]
    assert filled[3] == {"row": 1, "input_ids": [5], "labels": [-100], "seq_lengths": [1]}


def read_adapter_note(out: Path) -> dict[str, Any]:
    """Return what the trainer wrote beside an adapter."""
    found: dict[str, Any] = json.loads((out / "harness-adapter.json").read_text())
    return found
