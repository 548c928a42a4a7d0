"""T1 to T7 and M1: the adapter, or the whole model, as it came out of the training, and what its trainer wrote."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness_hf
from harness import Finding, ModelRef, checker
from harness.internals import is_sealed, weight_files

WEIGHTS = "adapter_model.safetensors"
NOTE = "harness-adapter.json"
MAX_RISE_NATS = 0.02  # nats per token
MAX_LOST_SHARE = 0.25  # of the KL between a base and what was trained of it, to what is written of that


@checker(title="untrained-adapter-weights")
def did_not_move(adapter: ModelRef) -> Iterator[Finding]:
    """Training changed nothing.

    The B of a LoRA starts at zero, so one that still is zero has never had a gradient: a frozen module, a learning
    rate of zero, gradient checkpointing that cut the graph (transformers#42489, peft#1142). The merged model would
    be the base. `sft` looks after three steps, and at modules_to_save and starts other than zero (PiSSA, OLoRA) too.
    """
    if adapter.adapter is None:
        return  # M2 compares a whole model with its base
    matrices = {
        name: t for name, t in _iterate_trained_tensors(adapter) if "lora_B" in name or "lora_embedding_B" in name
    }
    if still := [name for name, tensor in matrices.items() if not tensor.any()]:
        what = f"{len(still)} of {len(matrices)} adapted modules did not change: their lora_B is zero"
        yield Finding(
            "error",
            what,
            still,
            "name target_modules that the rows pass through; check learning_rate and frozen parameters",
        )


@checker(title="non-finite-weights")
def not_finite(adapter: ModelRef) -> Iterator[Finding]:
    """Weights or a loss that are not finite.

    A NaN hides: Trainer logs a loss of 0.0 for it unless told not to, and attention on a CPU can give finite logits
    for weights that are NaN. `sft` looks at loss, gradient and weights in every step, and stops before it saves.
    """
    import torch

    for name, tensor in _iterate_trained_tensors(adapter):
        if bad := int((~torch.isfinite(tensor)).sum()):
            what = f'"{name}": {bad} of {tensor.numel()} weights are not finite'
            yield Finding("error", what, (), "lower learning_rate, or look for damaged rows")
    if (loss := read_training_note(adapter).get("facts", {}).get("train_loss", 0.0)) is None or not math.isfinite(loss):
        yield Finding("error", f"the training loss is {loss}", (), "lower learning_rate, or look for damaged rows")


@checker(title="repacked-quantized-weights")
def repacked(adapter: ModelRef, load: Callable[..., Any]) -> Iterator[Finding]:
    """A 4-bit weight that was repacked in memory.

    On a CPU with AVX512-BF16 bitsandbytes repacks a 4-bit weight at its first evaluation and leaves everything that
    reads it afterwards wrong: gradients, dequantisation, the merge. The model is loaded, answers once, and must hold
    its weights as before.
    """
    if not adapter.quantization:
        return
    with load([adapter]) as [subject]:
        subject.generate(["a"], max_new_tokens=2)
        if (model := getattr(subject, "model", None)) is not None:
            harness_hf.assert_not_repacked(model)  # a CheckFailedError, which becomes an error
    yield from ()


@checker(title="loss-spike")
def spiked(adapter: ModelRef) -> Iterator[Finding]:
    """The loss spiked during training.

    The median of five losses was above each of the 20 before them, and above their median by six of their deviations,
    a quarter of it, and a tenth of a nat. What was learnt until then may be lost: a learning rate that is too high, a
    warmup that is too short, or rows that are broken.
    """
    if spikes := read_training_note(adapter).get("facts", {}).get("spikes", ()):
        lines = [f"steps {s['first']} to {s['last']}: {s['loss']:.3g}, {s['before']:.3g} before" for s in spikes]
        what = f"the loss spiked {len(spikes)} time{'s' if len(spikes) > 1 else ''} during training"
        yield Finding("warning", what, lines, "lower learning_rate, raise warmup_ratio, or look at the rows")


@checker(title="rising-validation-loss")
def overfits(adapter: ModelRef) -> Iterator[Finding]:
    """The validation loss rose.

    It is the mean negative log-likelihood a token on rows that are not trained on, after each epoch. Where it ends
    0.02 nats above its lowest (2 % of a perplexity), the later epochs learnt the training rows by heart. With
    `patience` the adapter is the one of the best epoch, and this is a note.
    """
    facts = read_training_note(adapter).get("facts", {})
    losses, kept = facts.get("validation_loss") or [], facts.get("kept_step")
    if not losses or losses[-1] - (least := min(losses)) < MAX_RISE_NATS:
        return
    best = losses.index(least) + 1
    what = f"the validation loss rose from {least:.3f} after validation {best} to {losses[-1]:.3f} at the end"
    lines = [", ".join(f"{loss:.3f}" for loss in losses)]
    if kept is not None:
        yield Finding("note", f"{what}; the adapter is from step {kept}", lines)
    else:
        yield Finding("warning", what, lines, "set patience = 1, train fewer epochs, or add rows")


@checker(title="saved-adapter-mismatch")
def saved_otherwise(adapter: ModelRef) -> Iterator[Finding]:
    """A saved adapter that differs from the trained one.

    Where processes share the weights between them, saving can write one's slice beside the others' starts, or
    nothing (accelerate#4206, peft#2892), and the file loads. `sft` notes the sha256 of each tensor's bytes while they
    are in memory, before a file of them exists; here the file's are compared. A scaling that is folded into the
    matrices, and a start that is converted, make another file than what was trained; there is nothing noted then.
    """
    if adapter.adapter is None or not (wanted := read_training_note(adapter).get("trained")):
        return  # a whole model was read back where it was written
    import torch

    bits = (
        (name, tensor.contiguous().view(-1).view(torch.uint8).numpy())
        for name, tensor in _iterate_trained_tensors(adapter)
    )
    found = {name: hashlib.sha256(data).hexdigest() for name, data in bits}
    if odd := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
        lost = sum(name not in found for name in odd)
        what = f"{len(odd)} of {len(wanted)} tensors on disk differ from the trained ones, limit 0"
        yield Finding(
            "error",
            f"{what}; {lost} of the differing tensors are missing in the file",
            odd,
            "train again; the saved adapter is damaged",
        )


@checker(title="update-lost-to-rounding")
def rounded_away(adapter: ModelRef) -> Iterator[Finding]:
    """A training of all weights that rounding mostly undoes.

    All weights are trained in float32 and written in the base's dtype. In bfloat16 a weight keeps a change of more than
    about its 500th part, and what is less is lost: a low rate and few steps move most weights by less. The trained
    model is compared with itself as written, and with its base: KL grows with the square of a change, so where the
    first is a quarter of the second half of the way is lost. Whether what is left will do, the gates decide.
    """
    facts = read_training_note(adapter).get("facts", {})
    lost, way = facts.get("kl_rounding"), facts.get("kl_training")
    if lost is not None and way and lost > MAX_LOST_SHARE * way:
        what = f"rounding to the base's dtype undid {lost:.2g} of {way:.2g} nats per token (KL) of the training"
        fix = (
            "use a base in float32, more steps or a higher learning_rate, or train a LoRA, whose weights are in float32"
        )
        yield Finding("warning", f"{what}, limit {MAX_LOST_SHARE:.0%}", (), fix)


@checker(title="base-model-mismatch")
def another_base(adapter: ModelRef, base: ModelRef) -> Iterator[Finding]:
    """An adapter on a base it was not trained on.

    A revision of a model has the same names and shapes, so it loads and merges without a warning, and the result is
    neither (peft#1567). Our trainer writes the digest of the base beside the adapter; it is compared here. What such a
    note says in a folder that was not made here proves nothing, and is told as the adapter's own word. Of
    one made elsewhere the name of its base is told, too: its instruct twin has the same shapes.
    """
    if (made_for := read_training_note(adapter).get("base_digest")) and base.digest and made_for != base.digest:
        what = f"the adapter was trained on weights {made_for[:16]}, but the base has {base.digest[:16]}"
        yield Finding("error", what, (), "name the base that it was trained on")
    elif not (made_for and is_sealed(Path(adapter.adapter or adapter.path))):
        said = "says" if made_for else "does not state"
        told = f"the adapter {said} which weights it was trained on, so the base is taken on trust"
        about = Path(adapter.adapter or adapter.path) / "adapter_config.json"
        if about.is_file() and (name := json.loads(about.read_text("utf-8")).get("base_model_name_or_path")):
            told += f'; its configuration names "{name}"'
        yield Finding("note", told)


def _iterate_trained_tensors(adapter: ModelRef) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of an adapter or a whole model.

    They are loaded one at a time.
    """
    from safetensors import safe_open

    folder = adapter.adapter or Path(adapter.path)
    for file in (folder / name for name in ([WEIGHTS] if adapter.adapter else weight_files(folder))):
        if file.is_file():
            with safe_open(file, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118 -- no mapping
                    yield name, opened.get_tensor(name)


def read_training_note(adapter: ModelRef) -> dict[str, Any]:
    """Return the note that a trainer left beside its output. Empty if there is none."""
    return harness_hf.read_json_file(Path(adapter.adapter or adapter.path), NOTE)
