"""[train] shard: what processes train that share the weights is what one trains, and what cannot be shared is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from harness.errors import UsageError  # noqa: E402
from harness.records.models import ModelRef, Progress  # noqa: E402
from harness.reports.run_folder import read_steps  # noqa: E402
from harness.testing import Project  # noqa: E402
from harness_lora import lora, qlora  # noqa: E402
from harness_sft import SFT, TrainingJob, check, sft  # noqa: E402
from harness_sft.ranks import Ranks  # noqa: E402
from harness_sft.sharding import check_split  # noqa: E402

ROWS = [{"prompt": f"what is {i}?" + "!" * (i % 7), "completion": f" it is {i * i}"} for i in range(43)]
RECIPE: dict[str, Any] = {
    "max_length": 64,
    "learning_rate": 5e-3,
    "validation": 0.15,
    "max_grad_norm": 0.1,
    "save_steps": 3,
}
TOLD = "sharded over 2 processes, experimental: never tested on a GPU"


def train(
    model: Path,
    out: Path,
    processes: int,
    progress: Callable[[Progress], None],
    dtype: str = "float32",
    **given: Any,
) -> Path:
    """Train an adapter on 37 rows, or all weights where `out` is to hold a whole model."""
    ref = ModelRef("base", str(model), digest="d" * 64, options={"device": "cpu", "dtype": dtype})
    adapter = lora(r=4, lora_dropout=0.0) if out.name == "adapter" else None
    shard, recipe = processes > 1, {"num_train_epochs": 2, **RECIPE, **given}
    return sft(ref, adapter, ROWS, out, progress=progress, seed=3, processes=processes, shard=shard, **recipe)


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
@pytest.mark.parametrize(
    ("kind", "given"),
    [("adapter", {"gradient_checkpointing": True}), ("merged", {"patience": 3, "learning_rate": 3e-3})],
)
def test_two_train_what_one_trains(kind: str, given: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    """Two processes that share the weights, killed after four steps and started again, end with the weights of one.

    So it is with the losses and the validation, gradients clipped. Not killed they end with the same bytes.
    """
    weights = {"adapter": "adapter_model.safetensors", "merged": "model.safetensors"}[kind]
    one, seen = train(tiny_model, tmp_path / "one" / kind, 1, lambda _: None, **given), list[Progress]()

    def kill(progress: Progress) -> None:
        if progress.done == 4:
            raise OSError("killed")

    with pytest.raises(OSError, match="killed"):
        train(tiny_model, tmp_path / "two" / kind, 2, kill, **given)
    two = train(tiny_model, tmp_path / "two" / kind, 2, seen.append, **given)
    assert TOLD in [p.remark for p in seen] and [p.done for p in seen if p.done] == list(range(4, 11))
    left, right = read_steps(one), read_steps(two)
    assert [s.loss for s in right] == pytest.approx([s.loss for s in left], abs=1e-6)
    assert [(s.step, s.tokens, s.learning_rate) for s in right] == [(s.step, s.tokens, s.learning_rate) for s in left]
    facts, others = read_adapter_note(one)["facts"], read_adapter_note(two)["facts"]
    assert others["validation_loss"] == pytest.approx(facts["validation_loss"], abs=1e-6)
    assert (others["processes"], others["sharded"]) == (2, True) and "sharded" not in facts
    alone, shared = load_file(one / weights), load_file(two / weights)
    assert alone.keys() == shared.keys()
    assert all(torch.allclose(alone[name], shared[name], atol=1e-6, rtol=0) for name in alone)
    assert sorted(p.name for p in two.iterdir()) == sorted(p.name for p in one.iterdir())
    if kind == "adapter":
        through = train(tiny_model, tmp_path / "through" / kind, 2, seen.append, **given)
        assert (through / weights).read_bytes() == (two / weights).read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_half_precision(tiny_model: Path, tmp_path: Path) -> None:
    """On a base in bfloat16 two processes train an adapter in float32, with the losses of one but for rounding."""
    one, two = (
        train(tiny_model, tmp_path / f"{n}" / "adapter", n, lambda _: None, dtype="bfloat16", max_steps=4)
        for n in (1, 2)
    )
    assert [s.loss for s in read_steps(two)] == pytest.approx([s.loss for s in read_steps(one)], rel=2e-3)
    weights = load_file(two / "adapter_model.safetensors")
    assert {t.dtype for t in weights.values()} == {torch.float32} and read_adapter_note(two)["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"processes": 1},
            "shard: splits the weights between processes, but there is only one; set processes",
        ),
        ({"optim": "paged_adamw_8bit"}, 'optim: is "paged_adamw_8bit", but shard = true needs "adamw_torch" or'),
        ({"torch_compile": True}, "torch_compile: cannot be set with shard = true"),
        ({"fsdp": "full_shard"}, "fsdp: cannot be set with several processes: set shard = true; remove it"),
        ({"adapter": qlora()}, "shard: sharding a 4-bit base is not tested; use"),
        ({"adapter": lora(use_dora=True)}, "shard: is not tested with use_dora in [adapter]"),
        ({"adapter": lora(init_lora_weights="pissa")}, "shard: is not tested with init_lora_weights in"),
    ],
)
@pytest.mark.slow
def test_refused(options: dict[str, Any], message: str) -> None:
    """What no test proves with shared weights is refused in one line before anything is loaded."""
    with pytest.raises(UsageError) as caught:
        check(**{"processes": 2, "shard": True, **options})
    [line] = caught.value.messages
    assert line.startswith(message)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            "shard = true",
            "shard: splits the weights between processes, and there is one; set processes, or remove shard",
        ),
        ('shard = "yes"', '[train] "shard" is "yes"; it must be true or false'),
        (
            "processes = 2\nshard = true",
            'shard: the trainer "fake" cannot shard weights between processes; remove shard',
        ),
    ],
)
def test_refused_at_collection(keys: str, message: str, suite: Project) -> None:
    """A suite that cannot mean it is a mistake at its line."""
    text = (suite.folder / "suite.toml").read_text("utf-8")
    use = '"sft"' if keys == "shard = true" else '"fake"'
    assert '[train]\nuse = "fake"\n' in text
    suite.write({"suite.toml": text.replace('[train]\nuse = "fake"\n', f"[train]\nuse = {use}\n{keys}\n")})
    outcome = suite.run("--collect-only")
    assert outcome.code == 4 and message in outcome.err


def test_weights_that_are_not_split_are_counted() -> None:
    """A model that nobody has split, as accelerate leaves it on a CPU without a word, is refused in one line."""
    with pytest.raises(
        UsageError, match=r"\[train\] shard: only 0 of 2 parameters are split, and 1 processes hold 12 numbers of 12"
    ):
        check_split(torch.nn.Linear(3, 3), Ranks())


def test_one_process_reads_the_base(tiny_model: Path, tmp_path: Path) -> None:
    """Of several that share the weights the first alone holds them whole: 70 B would be there eight times else."""
    from harness_hf import quiet_loading
    from harness_sft.train import build_trainer

    class Second(Ranks):
        number, count, sharded = 1, 2, True

    class Reached(Exception):
        pass

    def built(model: Any, **_: Any) -> None:
        assert {p.device.type for name, p in model.named_parameters() if "lora" not in name} == {"meta"}
        raise Reached

    method = replace(SFT, trainer=lambda: built)
    ref = ModelRef("base", str(tiny_model), options={"device": "cpu"})
    job = TrainingJob(ref, lora(r=4), ROWS, RECIPE, 3, method, tmp_path, progress=lambda _: None, ranks=Second())
    with quiet_loading(), pytest.raises(Reached):
        build_trainer(job, ROWS, [], SimpleNamespace(seed=3))  # type: ignore[arg-type]


def test_a_checkpoint_is_taken_up_as_it_was_written() -> None:
    """Of as many processes, and of slices where they are shared: else another training begins."""

    from harness_sft.train import _digest_job

    class Two(Ranks):
        count = 2

    class Sharded(Two):
        sharded = True

    ref = ModelRef("base", "model", digest="d" * 64)
    assert (
        len(
            {
                _digest_job(TrainingJob(ref, None, ROWS, RECIPE, 3, SFT, ranks=ranks()))
                for ranks in (Ranks, Two, Sharded)
            }
        )
        == 3
    )


def read_adapter_note(out: Path) -> dict[str, Any]:
    """Return what the trainer wrote beside what it trained."""
    found: dict[str, Any] = json.loads((out / "harness-adapter.json").read_text())
    return found
