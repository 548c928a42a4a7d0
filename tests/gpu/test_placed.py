"""Where models and their inputs go on GPUs, recorded on a machine without one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.errors import UsageError
from harness.records.models import ModelRef
from harness.workers import gpus
from harness.workers.gpus import Gpu
from harness.workers.local import LocalWorkers
from harness_hf import models
from harness_hf.scoring import Scorer
from harness_ray.cluster import RayWorkers
from harness_sft.job import base_placement
from harness_sft.processes import resolve_processes
from harness_vllm import engine
from harness_vllm.environment import Flags
from tests.helpers.gpus import L4, machine


@pytest.fixture
def third_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch see GPUs without bfloat16, and this process have chosen GPU 2."""
    told = {"is_available": True, "current_device": 2, "is_bf16_supported": False}
    for name, value in told.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value, **__: value)
    monkeypatch.setattr(models, "read_gpu", lambda _: Gpu("Tesla T4", 16_000_000_000, 15_000_000_000, bf16=False))


@pytest.mark.usefixtures("third_of_four")
def test_a_gpu_has_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that load weights know nothing of the GPU that a process has chosen: all ranks would fill the first."""

    class Given(Exception):
        pass

    def given(path: Any, options: Any) -> None:
        raise Given(options["device_map"])

    monkeypatch.setattr(models, "_load_pretrained", given)
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "bitsandbytes"}}')
    for device, number in (("auto", 2), ("cuda", 2), ("cuda:1", 1)):
        with pytest.raises(Given) as caught:
            models.load_model(tmp_path, device=device)
        assert caught.value.args == ({"": torch.device("cuda", number)},)
    full = Gpu("Tesla T4", 16_000_000_000, 300_000_000, bf16=False)
    monkeypatch.setattr(models, "read_gpu", lambda _: full)
    with pytest.raises(UsageError, match=r"GPU 2 is full: 0\.3 of 16\.0 GB are free"):
        models.load_model(tmp_path)


@pytest.mark.usefixtures("third_of_four")
def test_a_gpu_without_bfloat16() -> None:
    """A T4 answers in float16, or 8 B would not fit; it trains in float32, where no gradient vanishes."""
    assert models.resolve_dtype("auto", torch.device("cuda", 0)) == torch.float16
    adapter: Any = object()
    assert base_placement(ModelRef("base", "x"), adapter, sharded=False) == {"dtype": "float32"}
    asked = ModelRef("base", "x", options={"dtype": "float16", "device": "cuda"})
    assert base_placement(asked, adapter, sharded=False) == {"dtype": "float16", "device": "cuda"}
    assert base_placement(asked, adapter, sharded=True) == {"dtype": "float16", "device": "cpu"}


def test_a_head_on_another_gpu_is_asked_by_numbers(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor of places goes to a model's first GPU, and the head that it indexes may be on its last."""
    model, kept = models.load_model(tiny_model, device="cpu", dtype="float32"), list[Any]()
    forward = model.forward

    def recorded(**given: Any) -> Any:
        kept.append(given.get("logits_to_keep", 0))
        return forward(**given)

    head, pairs = list(range(5, 40)), [([*range(5, 40), i], [50 + i, 7]) for i in range(6)]
    monkeypatch.setattr(model, "forward", recorded)
    scorer = Scorer(model, 256)
    scorer.packs = True  # `forward` takes what it takes
    shared = dict(scorer.score(pairs))
    assert any(isinstance(one, list) for one in kept), head
    assert all(isinstance(one, int) or all(isinstance(i, int) for i in one) for one in kept)
    plain = dict(Scorer(model, 256, reference=True).score(pairs))
    assert all(abs(shared[i].total - plain[i].total) < 1e-3 for i in plain)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_model_on_two_gpus_scores_as_on_one(tiny_model: Path) -> None:
    """Sharing is not given up, and a single pair is scored."""
    pairs = [([*range(5, 40), i], [50 + i, 7]) for i in range(6)]
    spread = Scorer(models.load_model(tiny_model, dtype="float32", device_map="balanced"), 256)
    alone = Scorer(models.load_model(tiny_model, dtype="float32", device="cuda:0"), 256)
    for some in (pairs, pairs[:1]):
        found, wanted = dict(spread.score(some)), dict(alone.score(some))
        assert all(abs(found[i].total - wanted[i].total) < 1e-3 for i in wanted)
    assert spread.packs


def test_several_processes_do_not_spread() -> None:
    """Each of them would put its model on all GPUs."""
    with pytest.raises(UsageError, match="device_map: cannot be set with several processes"):
        resolve_processes(2, {"device_map": "auto"}, 2, "cuda")


def test_vllm_leaves_room_for_the_logits_of_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not in vLLM's plan; who names other numbers gets them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    names = "gpu_memory_utilization", "max_num_batched_tokens"
    made = engine._make_arguments(torch.float16, 64, Flags("auto"), 2)
    assert [made[name] for name in names] == [0.4, 2048]
    flags = Flags("auto", gpu_memory_utilization=0.6, engine={"max_num_batched_tokens": 512})
    made = engine._make_arguments(torch.float16, 64, flags, 1)
    assert [made[name] for name in names] == [0.6, 512]


def test_a_worker_of_several_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`local:2x2` gives each of two workers two GPUs, for a model that is spread or cut over them."""
    machine(tmp_path, monkeypatch, *[L4] * 5)
    assert (LocalWorkers("2x2").gpus, LocalWorkers("1x2").gpus) == (["0,1", "2,3"], ["0,1", "2,3"])
    with pytest.raises(UsageError, match=r"this machine has 5 GPUs; use at most 2$"):
        LocalWorkers("3x2")
    monkeypatch.setattr(gpus, "NODES", ())
    with pytest.raises(UsageError, match="this machine has 0 GPUs; use at most 0"):
        LocalWorkers("1x2")


def test_a_cluster_that_grows_is_asked_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ?gpus=2 a worker has two, also where none is there before one is asked for; no core answers for them."""
    asked: list[dict[str, Any]] = []
    there: dict[str, float] = {"CPU": 8.0}
    remote = SimpleNamespace(options=lambda **how: asked.append(how) or SimpleNamespace(remote=object))
    ray = SimpleNamespace(cluster_resources=lambda: there, available_resources=lambda: there, remote=lambda _: remote)
    monkeypatch.setattr("harness_ray.cluster.connect_ray", lambda _: ray)
    monkeypatch.setattr("harness_ray.cluster.RELEASE_TIMEOUT_S", 0.0)
    for count, workers in ((0, 1), (5, 2)):
        there["GPU"] = count
        assert len(RayWorkers("head:6379?gpus=2", None).start()) == workers
    assert {(one["num_gpus"], one["num_cpus"]) for one in asked} == {(2, 0)}
    with pytest.raises(UsageError, match=r'write "ray", "ray:HOST:PORT" or "ray:HOST:PORT\?gpus=1"'):
        RayWorkers("head:6379?gpus=0", None)
