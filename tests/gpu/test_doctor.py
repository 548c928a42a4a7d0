"""`harness doctor` says of a machine what `run` would say, before anything is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cli import doctor_report as examination
from harness.cli.doctor_report import FAILS, FINE, ODD, MachineCheck, examine_machine
from harness.errors import UsageError
from harness.testing import Project
from harness.workers import gpus
from harness.workers.gpus import Gpu
from harness.workers.local import LocalWorkers
from harness_hf import models
from tests.helpers.gpus import H100, L4, machine

OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask no other interpreter for bitsandbytes and vLLM: seconds each."""
    monkeypatch.setattr(examination, "_ask_interpreter", lambda *_: "")


def list_failures(lines: list[MachineCheck]) -> tuple[str, ...]:
    return tuple(line.text for line in lines if line.state == FAILS)


@pytest.mark.parametrize("visible", ["", "7"], ids=["old driver", "no such GPU"])
def test_a_gpu_that_cannot_be_used(visible: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver too old for the build, or a name of no GPU: the words of the model that would not load."""
    error = OLD if not visible else "No CUDA GPUs are available"
    machine(tmp_path, monkeypatch, L4, error=error)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    def init() -> None:
        raise RuntimeError(error)

    for place, name, value in ((torch, "__version__", "2.13.0+cu130"), (torch.version, "cuda", "13.0")):
        monkeypatch.setattr(place, name, value)
    monkeypatch.setattr(torch.cuda, "init", init)
    with pytest.raises(UsageError) as caught:
        models.resolve_device("auto")
    assert list_failures(examine_machine()) == caught.value.messages


def test_a_full_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's process holds it."""
    full = (L4[0], L4[1], 200_000_000)
    machine(tmp_path, monkeypatch, full)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(models, "read_gpu", lambda _: Gpu(*full, bf16=True))
    with pytest.raises(UsageError) as caught:
        models.load_model(tmp_path, device="cuda:0")
    assert list_failures(examine_machine()) == caught.value.messages


@pytest.mark.parametrize(("found", "on"), [((L4, L4), "local:3"), ((L4, H100), "local:2")], ids=["few", "kinds"])
def test_workers_that_cannot_be(found: Any, on: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than there are cards, or on cards of two kinds."""
    machine(tmp_path, monkeypatch, *found)
    with pytest.raises(UsageError) as caught:
        LocalWorkers(on.removeprefix("local:"))
    assert list_failures(examine_machine(on=on)) == caught.value.messages
    assert list_failures(examine_machine()) == ()


@pytest.mark.parametrize(
    ("device", "found", "says"),
    [
        ("dxg", (L4,), "1 by PyTorch (WSL2)"),
        ("kfd", (("AMD Instinct MI300X", 205_000_000_000, 204_000_000_000),), "1 by PyTorch"),
    ],
    ids=["WSL2", "ROCm"],
)
def test_drivers_without_proc(
    device: str, found: Any, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What PyTorch sees counts, where /proc and NVML have nothing."""
    machine(tmp_path, monkeypatch, *found, device=device)
    monkeypatch.setattr(examination, "gpu_device_files", lambda: [f"/dev/{device}"])
    lines = {line.name: line for line in examine_machine(on="local:1")}
    assert lines["driver"].text.endswith(says)
    assert (lines["GPU 0"].state, lines["workers"].state) == (FINE, FINE)
    assert found[0][0] in lines["GPU 0"].text


def test_counts_that_differ_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under CDI or LXD the host's list is another than what a process gets; nothing fails for that."""
    machine(tmp_path, monkeypatch, L4)
    monkeypatch.setattr(examination, "read_nvml", lambda: ("580.65.06", 8))
    lines = {line.name: line for line in examine_machine()}
    assert (lines["driver"].state, list_failures([*lines.values()])) == (ODD, ())
    assert lines["driver"].text == "580.65.06; GPUs: 0 in /proc, 8 by NVML, 1 by PyTorch"


@pytest.mark.slow
def test_a_machine_without_a_gpu(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing fails, and what keeps the GPU away is said; who asks for one all the same is refused."""
    monkeypatch.setattr(gpus, "NODES", ())
    done = project.harness("doctor")
    assert (done.code, "device        the CPU: no GPU was found on this machine" in done.out) == (0, True), done.out
    assert project.harness("doctor", "--device", "cpu").code == 0
    odd = project.harness("doctor", "--device", "foo")
    assert (odd.code, '✗ device        [model] device "foo": unknown; known: auto, cpu, cuda, mps' in odd.out) == (
        4,
        True,
    )
    asked = project.harness("doctor", "--device", "cuda")
    assert (asked.code, '✗ device        [model] device "cuda": no GPU was found on this' in asked.out) == (4, True), (
        asked.out
    )
