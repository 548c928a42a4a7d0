"""GPUs are counted by the PyTorch of a process like those that get one, on machines that no test has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.errors import UsageError
from harness.workers import gpus
from harness.workers.local import LocalWorkers
from harness_hf import resolve_device
from harness_sft.processes import reject_processes
from tests.helpers.gpus import H100, L4, machine

OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"


def read_refusal(count: int) -> str:
    """Return why so many workers cannot be, which processes of a training hear, too."""
    with pytest.raises(UsageError) as answering:
        LocalWorkers(str(count))
    with pytest.raises(UsageError) as training:
        reject_processes(count, {}, count)
    [told], [also] = answering.value.messages, training.value.messages
    said = told.removeprefix(f'--on "local:{count}": ')
    assert also == f"processes = {count}: {said}"
    return said


def test_counted_where_proc_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WSL2, ROCm and LXD have no GPU in /proc: two workers get two all the same, and a third none."""
    machine(tmp_path, monkeypatch, L4, L4)
    assert LocalWorkers("2").gpus == ["0", "1"]
    assert read_refusal(3) == "this machine has 2 GPUs; use at most 2"


def test_only_what_is_visible_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA ends its list at the first name that is none, and so do workers."""
    machine(tmp_path, monkeypatch, L4, L4, L4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0,7,1")
    assert LocalWorkers("2").gpus == ["2", "0"]
    assert read_refusal(3) == "this machine has 2 GPUs; use at most 2"


def test_two_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker on a GPU of another kind would answer otherwise; two of one kind are chosen by name."""
    machine(tmp_path, monkeypatch, L4, H100, L4)
    said = read_refusal(2)
    assert said.startswith("NVIDIA H100 80GB HBM3 and NVIDIA L4 do not compute the same bits; name GPUs of one kind in")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    assert LocalWorkers("2").gpus == ["0", "2"]


def test_instances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a card that is cut in instances a process sees one; each worker gets its own where they are named."""
    part = ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 5_000_000_000, 5_000_000_000)
    machine(tmp_path, monkeypatch, part, part)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert read_refusal(2) == "this machine has 1 GPUs; use at most 1; name its MIG instances in CUDA_VISIBLE_DEVICES"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-0,MIG-1")
    assert LocalWorkers("2").gpus == ["MIG-0", "MIG-1"]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"error": OLD}, "PyTorch 2.13.0+cu130 cannot use the driver: The NVIDIA driver on your system is too old"),
        ({"cuda": None}, "PyTorch 2.13.0+cpu is built for CPUs; install a build for CUDA or ROCm (pytorch.org)"),
        ({"visible": "7"}, 'CUDA_VISIBLE_DEVICES = "7" names no GPU of this machine; nvidia-smi -L lists them'),
    ],
    ids=["old", "build", "visible"],
)
def test_why_none_is_seen(found: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is said with what mends it."""
    visible = found.pop("visible", None)
    machine(tmp_path, monkeypatch, L4, **found)  # type: ignore[arg-type]
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    told = gpus.probe_gpus_of()
    assert (told.cards, told.no_gpu_reason().startswith(said)) == ((), True), told


def test_a_gpu_that_cannot_be_used_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours on the CPU, beside a GPU whose driver is too old, are nobody's wish; a hidden one is."""

    def init() -> None:
        raise RuntimeError(OLD)

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", init)
    assert resolve_device("auto").type == "cpu"  # no driver has a GPU
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(gpus, "NODES", (str(tmp_path / "nvidia*"),))
    for device in ("auto", "cuda", "cuda:0"):
        with pytest.raises(UsageError, match=f'device "{device}": PyTorch .* is too old.*; or set device = "cpu"'):
            resolve_device(device)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert resolve_device("auto").type == "cpu"
