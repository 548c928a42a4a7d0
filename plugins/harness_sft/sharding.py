"""Weights sharded over several processes by PyTorch's FSDP2, and their trainer.

Each process holds a slice of every tensor. `fully_shard` is called here and not by accelerate, which shards on
accelerators only and elsewhere silently falls back to whole models. So there is one way, the same on a CPU and on GPUs,
and its result is counted.
"""
# ruff: noqa: TID253 (imported inside functions, only where a training begins)

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import state_dict as states
from torch.distributed.checkpoint.state_dict_loader import load as load_slices
from torch.distributed.checkpoint.state_dict_saver import save as save_slices
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import Trainer
from transformers.trainer import SCHEDULER_NAME

from harness import CheckFailedError, UsageError
from harness_hf import use_cpu_kernels
from harness_sft.ranks import Ranks

STATE = "sharded"  # a folder in a checkpoint
STATE_OPTIONS = states.StateDictOptions(ignore_frozen_params=True, strict=False)


class ShardedTrainer(Trainer):  # type: ignore[misc]
    """Put before a trainer: with shared weights it saves and takes up slices, and moves nothing that is whole."""

    ranks: Ranks

    def _move_model_to_device(self, model: Any, device: Any) -> None:
        if not self.ranks.sharded:  # else its slices are moved
            super()._move_model_to_device(model, device)

    def _defer_fsdp_gradient_reduction(self) -> AbstractContextManager[None]:
        return nullcontext()  # after each batch of a step, so that no gradient stays whole

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if not self.ranks.sharded:  # else it lies beside the optimizer's state
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.ranks.sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        save_slices(
            _collect_model_optimizer_slices(self.model, self.optimizer.optimizer),
            checkpoint_id=Path(output_dir) / STATE,
        )
        if self.ranks.first:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self.ranks.sharded:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.ranks.sharded:
            super()._load_optimizer_and_scheduler(checkpoint)
        elif checkpoint:
            optimizer = self.optimizer.optimizer
            state = _collect_model_optimizer_slices(self.model, optimizer)
            load_slices(state, checkpoint_id=Path(checkpoint) / STATE)
            states.set_model_state_dict(self.model, state["model"], options=STATE_OPTIONS)
            states.set_optimizer_state_dict(self.model, optimizer, state["optimizer"], options=STATE_OPTIONS)
            self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))


def shard_model(model: nn.Module, ranks: Ranks, device: str) -> None:
    """Split every parameter over the processes, layer by layer.

    Only one layer at a time is whole. On GPUs, layers are moved there as they are split. Raises UsageError if the
    trained weights have several dtypes, or a parameter was not split.
    """
    if len(trained := sorted({str(p.dtype) for p in model.parameters() if p.requires_grad})) > 1:
        raise UsageError(f"[train] shard: trains weights of {' and '.join(trained)}, which must have a single dtype")
    mesh, whole = init_device_mesh(device, (ranks.count,)), {n: p.detach() for n, p in model.named_parameters()}
    layers = set(getattr(model, "_no_split_modules", None) or ())
    for module in reversed([m for m in model.modules() if type(m).__name__ in layers]):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)  # else what it holds stays whole after a validation
    check_split(model, ranks)
    scatter_weights(model, whole, ranks, device)


@torch.no_grad()
def scatter_weights(model: nn.Module, whole: dict[str, torch.Tensor], ranks: Ranks, device: str) -> None:
    """Give each process its slices of the first one's weights.

    Buffers are broadcast. Raises UsageError if the model is built differently without its weights, as other processes
    do.
    """
    made = [(name, str(p.dtype), tuple(p.shape)) for name, p in model.named_parameters()]
    if any(other != made for other in ranks.gather(made)):
        raise UsageError("[train] shard: this model is built differently without its weights; set shard = false")
    if not ranks.first:
        model.to_empty(device=device)
        use_cpu_kernels(model)
    for name, parameter in model.named_parameters():
        there = whole.pop(name) if ranks.first else torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        write_parameter(parameter, there, source=0)
    for buffer in model.buffers():
        dist.broadcast(buffer, 0)


def check_split(model: nn.Module, ranks: Ranks) -> None:
    """Raise UsageError unless every parameter is split exactly once.

    The slices of all processes must add up to it.
    """
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    whole = [name for name, p in parameters.items() if not isinstance(p, DTensor)]
    [held] = ranks.sum_over_processes(sum(local_part(p).numel() for p in parameters.values()))
    total = sum(p.numel() for p in parameters.values())
    if whole or held != total:
        split = f"{len(parameters) - len(whole)} of {len(parameters)} parameters are split"
        there = f"{ranks.count} processes hold {held:,.0f} numbers of {total:,}"
        raise UsageError(f"[train] shard: only {split}, and {there}; this model cannot be sharded: set shard = false")


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return the part of a tensor that this process holds."""
    held: torch.Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return held


def gather_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return a whole tensor on the CPU. Every process must call it."""
    found: torch.Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return found.detach().cpu()


def write_parameter(parameter: torch.Tensor, values: torch.Tensor, source: int | None = None) -> None:
    """Write a whole tensor into a possibly sharded parameter.

    The values are those of all processes, or of the one with rank `source`.
    """
    if isinstance(parameter, DTensor):
        values = values.to(parameter.to_local().device)
        values = distribute_tensor(values, parameter.device_mesh, parameter.placements, src_data_rank=source)
    parameter.copy_(values)


def gather_trained(model: Any, ranks: Ranks) -> dict[str, torch.Tensor]:
    """Return the trained weights, whole and on the CPU.

    Only in the first process; elsewhere the result is empty. The embeddings are included, since an adapter of them is
    saved with them. Raises CheckFailedError if a slice differs from that of the process it came from: gathering has
    lost slices before (accelerate#4206).
    """
    ends = [end for end in (model.get_input_embeddings(), model.get_output_embeddings()) if end is not None]
    embedded = {id(p) for end in ends for p in end.parameters()}
    saved = {n: p for n, p in model.named_parameters() if p.requires_grad or id(p) in embedded}
    found, own = {}, {}
    for name, parameter in saved.items():
        own[name] = tensor_sha256(local_part(parameter))
        tensor = gather_tensor(parameter)
        if ranks.first:
            found[name] = tensor
    told, odd = ranks.gather(own), []
    for name, tensor in found.items():
        slices = list(tensor.chunk(ranks.count))  # FSDP2 cuts the first dimension
        slices += [tensor[:0]] * (ranks.count - len(slices))
        if [tensor_sha256(each) for each in slices] != [each[name] for each in told]:
            odd.append(name)
    if odd:
        what = f"{len(odd)} of {len(found)} gathered tensors differ from those of the {ranks.count} processes"
        raise CheckFailedError(f'training: {what}, such as "{odd[0]}" [gathered-slices]; set shard = false')
    return found


def tensor_sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data).hexdigest()


def _collect_model_optimizer_slices(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return this process's slices of trained weights and optimizer state."""
    trained = states.get_model_state_dict(model, options=STATE_OPTIONS)
    return {"model": trained, "optimizer": states.get_optimizer_state_dict(model, optimizer, options=STATE_OPTIONS)}
