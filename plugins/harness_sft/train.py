"""One training, from rows to an adapter or a whole model.

A whole model is written as its base lies on the disk.
"""
# ruff: noqa: TID253 (imported inside functions, only where a training begins, or is prepared)

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from peft import get_peft_model, get_peft_model_state_dict
from transformers import GenerationConfig, PreTrainedModel, set_seed
from trl import SFTConfig

import harness_hf
from harness import (
    TRAINING_LOGS,
    Adapter,
    CheckFailedError,
    Progress,
    UsageError,
    digest_value,
    write_steps,
    write_text,
)
from harness.internals import replace_folder, seal_folder
from harness_hf import load_model, uses_cpu_kernels
from harness_lora import (
    ADAPTER_NOTE,
    MOVES_BASE,
    check_base,
    check_targets,
    copy_rest,
    find_tensor,
    fold_scales,
    list_towers,
    restrict_targets,
)
from harness_sft.job import (
    CHECKPOINTS,
    TrainingJob,
    base_placement,
    check_method,
    last_whole_checkpoint,
    reporting_full_disk,
)
from harness_sft.memory import check_memory
from harness_sft.processes import launch_processes, reject_shards, resolve_processes
from harness_sft.rows import Row, as_dataset
from harness_sft.sentinels import InitialWeights
from harness_sft.sharding import gather_trained, tensor_sha256
from harness_sft.trainer import CheckedTrainerMixin

EVENTS = "TENSORBOARD_LOGGING_DIR"  # which transformers reads
LAST_STEPS = 10  # what the training loss of an adapter is the mean of
LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes")
ROWS, TOKENS = 4, 256  # training rows that are read before and after, and how much of each
# nats per token between what was rounded in memory and what is read back, both computed in float32
TOLERANCE_NATS = 1e-6


def train_model(job: TrainingJob) -> Path:
    """Train, or go on from the last checkpoint; see `harness_sft.sft`."""
    checkpoints, ranks = job.out.parent / CHECKPOINTS, job.ranks
    device = harness_hf.resolve_device(job.ref.options.get("device", "auto")).type
    config = job.config(checkpoints, device)
    check_method(job.adapter)
    job.method.fits(job.adapter)
    spread = {} if job.shard else {"device_map": job.ref.options.get("device_map")}
    count = resolve_processes(job.processes, {**job.recipe, **spread}, config.gradient_accumulation_steps, device)
    if job.shard:
        reject_shards(count, job.recipe, job.adapter)
    if device == "cuda" and ranks.count == 1:
        check_memory(replace(job, processes=count))
    if count > 1:  # they do what follows; with `shard` they share the weights
        return launch_processes(job, count)
    config.gradient_accumulation_steps //= ranks.count
    rows = job.split()
    stamp = _digest_job(job)
    with harness_hf.quiet_loading(), quiet_libraries(), _redirect_tensorboard_events(job.out.parent / TRAINING_LOGS):
        checkpoint = last_whole_checkpoint(checkpoints, stamp)
        ranks.wait()
        if checkpoint is None and ranks.first:
            shutil.rmtree(checkpoints, ignore_errors=True)
        trainer, facts = build_trainer(job, *rows, config, stamp)
        start = trainer.model.peft_config["default"].init_lora_weights if job.adapter else None
        initial = None
        if ranks.first and isinstance(start, str) and start.startswith(MOVES_BASE):
            initial = checkpoints / "initial"  # it holds a part of the base, so its training is told from its start
            trainer.model.save_pretrained(initial)
        with harness_hf.cpu_training(trainer.model):
            trainer.run(checkpoint)
        with reporting_full_disk(job.out.parent):
            _write_trained(trainer, job, initial, facts)
        del trainer
        harness_hf.free_memory()  # it and its callbacks hold each other, and what is loaded next wants the room
    if ranks.first:
        shutil.rmtree(checkpoints, ignore_errors=True)
    return job.out


def build_trainer(
    job: TrainingJob, kept: list[Row], held_out: list[Row], config: SFTConfig, stamp: str = ""
) -> tuple[CheckedTrainerMixin, dict[str, Any]]:
    """Return the trainer, and the facts about its model: parameters, and bytes of the base as it is held."""
    adapter, ranks, ref = job.adapter, job.ranks, job.ref
    # Without an adapter all weights are trained, in float32: half precision would lose most steps of Adam.
    placed, attention = base_placement(ref, adapter, sharded=ranks.sharded), job.recipe.get("attn_implementation")
    if ranks.sharded and not ranks.first:  # it gets its slices from the first, so that one holds the whole base
        base = harness_hf.build_skeleton(ref.path, placed["dtype"], attention)
        harness_hf.use_cpu_kernels(base, placed.get("cpu_kernels", True))
    else:
        bits = adapter.quantization if adapter else None
        base = load_model(ref.path, quantization=bits, attention=attention, **placed)
    size = base_bytes(base)
    model = _add_adapter(base, adapter, config.seed) if adapter else base
    trainable, total = model.get_nb_trainable_parameters() if adapter else (base.num_parameters(),) * 2
    told = {"trainable": trainable, "parameters": total, "base MB": round(size / 1e6, 1)}
    job.progress(Progress("train", 0, 0, told, _describe_adapted_tower(base) if adapter else ""))
    try:
        given: dict[str, Any] = {"job": job, "stamp": stamp, "args": config, **job.method.beside(ref, adapter)}
        given |= {"held_out": as_dataset(held_out) if held_out else None, "train_dataset": as_dataset(kept)}
        trainer = job.method.trainer()(model, **given, processing_class=harness_hf.load_tokenizer(ref.path))
    except (ValueError, RuntimeError) as error:  # options that TRL checks only against the rows and the model
        raise UsageError(f"[train] TRL rejects it: {' '.join(str(error).split())}") from error
    if ranks.sharded:
        remark = f"sharded over {ranks.count} processes, experimental: never tested on a GPU"
        job.progress(Progress("train", 0, 0, remark=remark))
    return trainer, {"trainable_parameters": trainable, "total_parameters": total, "base_bytes": size}


def _describe_adapted_tower(base: PreTrainedModel) -> str:
    """Describe the adapted part of a base with several towers.

    Empty for a base that reads only text.
    """
    beside = ", ".join(list_towers(base))
    return f"adapts {harness_hf.language_model_name(base)}, which processes text; unchanged: {beside}" if beside else ""


def _add_adapter(base: PreTrainedModel, adapter: Adapter, seed: int) -> Any:
    """Put a new adapter on the base, initialised by the seed.

    Raises UsageError if it does not fit, or one of its targets matches no module.
    """
    config, names = restrict_targets(adapter.peft_config(), base), [name for name, _ in base.named_modules()]
    set_seed(seed)
    try:
        model = get_peft_model(base, config)
    except (ValueError, TypeError, IndexError, RuntimeError) as error:  # e.g. a 4-bit layer saved whole
        raise UsageError(f"[adapter] does not fit the base: {' '.join(str(error).split())}") from None
    check_targets(config.target_modules, names)  # without the experts, of which PEFT has made `target_parameters`
    harness_hf.use_cpu_kernels(model)
    harness_hf.keep_decoded(model, part=16, width=2)  # for it needs memory itself
    return model


def _write_trained(
    trainer: CheckedTrainerMixin, job: TrainingJob, initial: Path | None, facts: Mapping[str, Any]
) -> None:
    """Write the trained weights after all processes agree on them.

    Raises CheckFailedError if they hold different weights, or different slices than were gathered.
    """
    whole, trained = not hasattr(trainer.model, "peft_config"), dict[str, str]()
    gathered = gather_trained(trainer.model, trainer.ranks) if trainer.ranks.sharded else None
    if not whole and (gathered is None or trainer.ranks.first):
        found = get_peft_model_state_dict(trainer.model, state_dict=gathered)
        trained = {name: tensor_sha256(found[name]) for name in sorted(found)}  # by the names of an adapter's file
    if gathered is None:
        held = trainer.ranks.gather(digest_value(trained or InitialWeights(trainer.model).sums))
        if len(set(held)) > 1:
            raise CheckFailedError(f"training: {len(held)} processes have different weights at its end; train again")
    if not trainer.ranks.first:
        return
    write_steps(job.out, trainer.watch.steps)
    reports = job.recipe["report_to"]
    note = {
        "base_digest": job.ref.digest,
        "dtype": str(trainer.model.dtype).removeprefix("torch."),  # what a 4-bit load rounds from
        "facts": {**facts, **_collect_facts(trainer), **({"report_to": reports} if reports else {})},
        "recipe": dict(job.recipe) | {"seed": trainer.args.seed},
        "versions": _find_versions(),
    }
    if whole:
        write_whole(trainer, Path(job.ref.path), job.out, note, gathered)
    else:
        _write_adapter(trainer, job.out, initial, note, trained, gathered)


def _write_adapter(
    trainer: CheckedTrainerMixin,
    out: Path,
    initial: Path | None,
    note: dict[str, Any],
    trained: dict[str, str],
    gathered: Any,
) -> None:
    """Write an adapter and a note with its tensors' digests.

    The digests are left out if scales were folded or the start was converted, since the file then holds other tensors.
    """
    with replace_folder(out) as work:
        kwargs = {"path_initial_model_for_weight_conversion": str(initial)} if initial else {}
        trainer.model.save_pretrained(work, state_dict=gathered, **kwargs)
        (work / "README.md").unlink(missing_ok=True)  # a model card with blanks to fill in
        config = json.loads((work / "adapter_config.json").read_text("utf-8"))
        for name in ("target_modules", "target_parameters"):
            if isinstance(config[name], list):  # of a set, in the order of hashes that differ between processes
                config[name].sort()
        write_text(work / "adapter_config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
        folded = fold_scales(work)  # before it is evaluated: what is gated is what servers get
        told = note if folded or initial else {**note, "trained": trained}
        write_text(work / ADAPTER_NOTE, json.dumps(told, indent=2) + "\n")
        seal_folder(work, out)


def write_whole(
    trainer: CheckedTrainerMixin, base: Path, out: Path, note: dict[str, Any], gathered: dict[str, Any] | None
) -> None:
    """Write a whole model in its base's dtypes and verify it.

    All other files are the base's; the model is read back and compared. `gathered` are the weights, if this process
    holds slices of them. The cost of rounding is a fact of the training, as is the distance from the base if the model
    was rounded, and the gates decide on the rounded model. Raises CheckFailedError if the model on the disk answers
    differently from the rounded one.
    """
    model = trainer.model.eval()
    trainer.accelerator.free_memory()  # two moments of each weight, which are not needed any more
    trainer.optimizer = None
    model.zero_grad(set_to_none=True)
    model.forward = model.__dict__.pop("_original_forward", model.forward)  # without accelerate's mixed precision
    if gathered is not None:
        model = load_model(base, dtype="float32", device="cpu", cpu_kernels=uses_cpu_kernels(model))
        model.load_state_dict(gathered, strict=False)  # a tied weight has one name of two
    there, names = check_base(base)
    stored = _find_stored_dtypes(model, {name: header.dtype for name, header in there.items()})
    rows = [torch.tensor([ids[:TOKENS]], device=model.device) for ids in trainer.sample_token_ids(ROWS)]
    before = _compute_row_log_probs(model, rows)
    reload = partial(load_model, dtype="float32", device=model.device.type, cpu_kernels=uses_cpu_kernels(model))
    with replace_folder(out) as work:
        model.generation_config = GenerationConfig()  # the base's is copied, and transformers refuses some of them
        _cast_parameters(model, stored)
        model.save_pretrained(work)
        for name in ("config.json", "generation_config.json"):
            (work / name).unlink(missing_ok=True)
        copy_rest(base, names, work)
        _cast_parameters(model, dict.fromkeys(stored, torch.float32))
        rounded = _compute_row_log_probs(model, rows)
        again = _compute_row_log_probs(reload(work), rows)
        off, _ = harness_hf.kl_and_agreement(rounded, again)
        if not off <= TOLERANCE_NATS:
            what = "the saved model answers differently from the trained one [saved-parity]"
            why = "transformers did not save or load this architecture completely"
            raise CheckFailedError(f"training: {what}: KL {off:.2g} nats per token, limit {TOLERANCE_NATS:g}; {why}")
        lost, kept = harness_hf.kl_and_agreement(before, again)
        facts: dict[str, Any] = {**note["facts"], "kl_rounding": lost, "top1_rounding": kept}
        if set(stored.values()) != {torch.float32}:  # else nothing was rounded
            start = _compute_row_log_probs(reload(base), rows)
            facts["kl_training"], _ = harness_hf.kl_and_agreement(before, start)
        write_text(work / ADAPTER_NOTE, json.dumps({**note, "facts": facts}, indent=2) + "\n")
        seal_folder(work, out)


def _find_stored_dtypes(model: PreTrainedModel, there: Mapping[str, str]) -> dict[str, torch.dtype]:
    """Return the stored dtype of each parameter in the base's files.

    A parameter that is not there gets the commonest dtype. Any but half precision becomes float32.
    """
    known = {"BF16": torch.bfloat16, "F16": torch.float16}
    [(commonest, _)] = Counter(there.values()).most_common(1)
    found = {name: there.get(find_tensor(name, there) or "", commonest) for name, _ in model.named_parameters()}
    return {name: known.get(dtype, torch.float32) for name, dtype in found.items()}


def _cast_parameters(model: PreTrainedModel, dtypes: Mapping[str, torch.dtype]) -> None:
    """Bring weights to their dtypes, and no buffers: angles of rotary positions are not stored, and never rounded."""
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])


def _compute_row_log_probs(model: PreTrainedModel, rows: list[Any]) -> list[Any]:
    """Return log-probabilities (tokens, vocabulary) of each row."""
    with torch.inference_mode():
        return [model(ids, use_cache=False).logits[0].float().log_softmax(-1).cpu() for ids in rows]


def _collect_facts(trainer: CheckedTrainerMixin) -> dict[str, Any]:
    counts, ends = trainer.counts["train"], trainer.watch.ends
    kept = {"kept_step": best.step} if trainer.patience and (best := trainer.watch.best()) else {}
    last = [step.loss or 0.0 for step in trainer.watch.steps[-LAST_STEPS:]]
    return {
        "steps": trainer.state.global_step,
        "rows": counts.rows,
        "tokens": counts.tokens,
        "supervised_tokens": counts.supervised,
        "truncated_rows": counts.truncated,
        "tokens_per_second": round(trainer.watch.tokens_per_second(), 1),
        "train_loss": sum(last) / len(last),
        "spikes": [asdict(spike) for spike in trainer.watch.spikes.found],
        "validation_rows": len(trainer.held_out),
        "validation_loss": [end.loss for end in ends if end.loss is not None],
        "watched": [{"step": end.step, **end.watched} for end in ends if end.watched],
        **kept,
        **({"processes": trainer.ranks.count} if trainer.ranks.count > 1 else {}),
        **({"sharded": True} if trainer.ranks.sharded else {}),
        **trainer.extra_facts(),
    }


def base_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of a model's weights in memory.

    The constants of 4-bit blocks are included.
    """
    parameters = list(model.parameters())
    states = [getattr(parameter, "quant_state", None) for parameter in parameters]
    parts = filter(None, [*states, *(getattr(state, "state2", None) for state in states)])
    constants = (value for part in parts for value in (part.absmax, part.code) if value is not None)
    return int(sum(held.nbytes for held in (*parameters, *constants)))


def _find_versions() -> dict[str, str]:
    """Return the versions of the libraries that decide on a training; bitsandbytes need not be there."""
    installed = {}
    for name in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def _digest_job(job: TrainingJob) -> str:
    """Return a digest of everything that determines a training's result.

    So no checkpoint of another training is resumed.
    """
    adapter, ref, ranks = job.adapter, job.ref, job.ranks
    config = adapter.peft_config().to_dict() if adapter else {}
    lora = {key: sorted(v) if isinstance(v, set) else v for key, v in config.items()}
    versions = [*_find_versions().values()]
    model = [ref.path, ref.digest, dict(ref.options), adapter and adapter.quantization]
    what = [model, lora, list(job.rows), dict(job.recipe), job.seed, versions]
    # How many processes there are, and whether they share the weights, decides what a checkpoint is.
    what += [] if harness_hf.kernels_enabled() else ["no CPU kernels"]
    what += [*([ranks.count] if ranks.count > 1 else []), *(["shard"] if ranks.sharded else [])]
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


@contextmanager
def _redirect_tensorboard_events(folder: Path) -> Iterator[None]:
    """Send TensorBoard's events to a folder, unless the user chose one."""
    given = os.environ.get(EVENTS)
    os.environ[EVENTS] = given or str(folder)
    try:
        yield
    finally:
        if given is None:
            del os.environ[EVENTS]


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide progress bars of datasets, and irrelevant warnings of PEFT."""
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            ignore = partial(warnings.filterwarnings, "ignore")
            ignore("`is_gradient_checkpointing` is deprecated", FutureWarning)  # a name that transformers has renamed
            # It advises to convert such adapters, which is what we do.
            ignore("(PiSSA|OLoRA) changes the base weights", UserWarning)
            ignore("Setting `save_embedding_layers` to `True`", UserWarning)
            # It does not look for them among parameters, for which it has set some itself.
            ignore("The following (rank|alpha)_pattern keys", RuntimeWarning)
            # It takes the bias of lora_bias, which has one dimension, for a shard of a matrix.
            ignore(r"Adapter 'default': \d+ LoRA tensor\(s\) have invalid shape", UserWarning)
            yield
    finally:
        if shown:
            datasets.enable_progress_bars()
