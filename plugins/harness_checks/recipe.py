"""D12 to D14, D20 and M6: what of the base an adapter reaches, and options that train or serve something else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness_hf
from harness import Built, Finding, ModelRef, UsageError, checker
from harness.internals import Suite, weight_files
from harness_checks.batches import TAIL_TOKENS
from harness_hf import IGNORED_LABEL, ModelTokenizer
from harness_lora import read_config, restrict_targets, text_linears

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_UNTRAINED_NORM = 1e-16  # in a row of the head that was never trained; those of reserved tokens are zeros
LOW_RATE, HIGH_RATE = 5e-5, 1e-3  # of learning: below it a full fine-tuning's, above it a LoRA diverges
MAX_TINY_RATE = 0.1  # what random weights of 0.1 M parameters can take, to learn anything in a test
MAX_FULL_RATE = 1e-4  # above it training all weights forgets
BATCH, RANK = 32, 64
MOST_EPOCHS = 10


@checker(title="low-adapter-coverage")
def few_targets(built: Built, base: ModelRef, suite: Suite) -> Iterator[Finding]:
    """An adapter that covers little of the model.

    PEFT adapts q and v only where it is not told otherwise, and takes a list of which one name matches without a
    word (peft#3554). LoRA works as well as full fine-tuning where it is on all linears, the MLPs first.
    """
    if (options := adapter_options(suite)) is None:
        return
    targets, model = options.get("target_modules"), harness_hf.build_skeleton(base.path)
    linears = {name: model.get_submodule(name) for name in text_linears(model)}
    adapted, listed = _find_adapted_modules(model, options), targets if isinstance(targets, list) else []
    if unmatched := [t for t in listed if not any(n.endswith(f".{t}") or n == t for n in adapted)]:
        yield Finding("error", f"target_modules match nothing: {', '.join(unmatched)}", fix="name modules of the base")
    total = sum(m.weight.numel() for m in linears.values())
    reached = sum(m.weight.numel() for name, m in linears.items() if name in adapted)
    if total and reached / total < 0.5:
        what = f"the adapter reaches {reached / total:.0%} of the linear parameters ({len(adapted)} modules)"
        left = sorted({name.rpartition(".")[2] for name in linears if name not in adapted})
        yield Finding("warning", what, [f"not adapted: {', '.join(left)}"], 'set target_modules = "all-linear"')


@checker(title="fused-moe-experts")
def fused_experts(built: Built, base: ModelRef, suite: Suite) -> Iterator[Finding]:
    """Experts that are neither adapted nor quantised.

    Mixtures of experts keep all experts of a layer in one parameter of three dimensions, which is no linear: LoRA on
    "all-linear" passes it by, and so does a 4-bit load (unsloth#11014). PEFT reaches it by target_parameters.
    """
    if (options := adapter_options(suite)) is None:
        return
    model, named = harness_hf.build_skeleton(base.path), tuple(options.get("target_parameters") or ())
    part = harness_hf.language_model_name(model) or ""  # no row of text reaches what lies beside it
    parameters = ((name, p) for name, p in model.named_parameters() if name.startswith(part))
    stacks = [(name, p) for name, p in parameters if p.ndim >= 3 and "conv" not in name]
    if fused := [(name, p) for name, p in stacks if not name.endswith(named)]:
        share = sum(p.numel() for _, p in fused) / sum(p.numel() for p in model.parameters())
        what = (
            f"{share:.0%} of the parameters are fused experts, which no adapter trains and 4-bit "
            "loading does not shrink"
        )
        evidence = [f"{name}: {list(p.shape)}" for name, p in fused]
        yield Finding(
            "warning", what, evidence, 'set target_parameters = ["…"] in [adapter]; memory use will not shrink'
        )


@checker(title="untrained-end-mark")
def untrained_ends(built: Built, base: ModelRef, suite: Suite) -> Iterator[Finding]:
    """An untrained end-of-turn token that the base cannot generate.

    In a base that is no chat model, the head has zeros for marks such as `<|im_end|>`. An adapter on the linears
    changes only the head's input, and zeros stay zeros: the loss falls, and the model never ends its turn
    (axolotl#2073). The check looks at the tokens that rows end with, if neither the head nor the token is trained.
    """
    options, head = adapter_options(suite), built.model.get_output_embeddings()
    names = weight_names(built.model, head)
    if options is None or trains_module(names, options):
        return
    learnt = [[x for x in e.labels if x != IGNORED_LABEL][-TAIL_TOKENS:] for e in built.examples]
    ends = {x for last in learnt for x in last} & ModelTokenizer(built.tokenizer).stop_ids
    if zeros := [i for i in sorted(ends) if _is_token_row_zero(Path(base.path), names, i)]:
        marks = ", ".join(f'"{built.tokenizer.convert_ids_to_tokens(i)}"' for i in zeros)
        what = f"rows end with {marks}, which the base cannot generate: its row of the output embeddings is zero"
        yield Finding(
            "error", what, (), f"set {suggest_option(names)} in [adapter], or use an end token that the base knows"
        )


def weight_names(model: PreTrainedModel, part: Any) -> set[str]:
    """Return the names of a module's weight, several if it is tied. Empty without a module."""
    named = model.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if part is not None and parameter is part.weight}


def trains_module(names: set[str], options: Mapping[str, Any]) -> bool:
    """Return whether an adapter trains a module with such a weight."""
    targets = options.get("target_modules") or ()
    modules = (*(options.get("modules_to_save") or ()), *(targets if isinstance(targets, list) else ()))
    return any(name.split(".")[-2] in modules for name in names)


def suggest_option(names: set[str]) -> str:
    """Return the adapter options that train a head of these names.

    Training by token index would reach only the embeddings.
    """
    return f'modules_to_save = ["{min(names).split(".")[-2]}"]' + (", ensure_weight_tying = true" * (len(names) > 1))


def adapter_options(suite: Suite) -> Mapping[str, Any] | None:
    """Return the options of the trained adapter.

    None if all weights are trained.
    """
    if suite.adapter is None:
        return {}
    return suite.adapter.options if suite.adapter.use != "none" else None


def _is_token_row_zero(folder: Path, names: set[str], token: int) -> bool:
    """Return whether a token's row is zero in the stored weight.

    That is the first tensor in the folder's files with one of the names.
    """
    from safetensors import safe_open

    for file in weight_files(folder):
        with safe_open(folder / file, "pt") as opened:
            if name := next((n for n in opened.keys() if n in names), None):  # noqa: SIM118 -- no mapping
                rows = opened.get_slice(name)
                return token < rows.get_shape()[0] and bool(rows[token : token + 1].abs().max() <= MAX_UNTRAINED_NORM)
    return False


def _find_adapted_modules(model: PreTrainedModel, options: Any) -> set[str]:
    """Return the modules that PEFT adapts: its own choice, on the model without weights."""
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    fields = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "target_parameters")
    chosen = {"target_modules": "all-linear"} | {k: v for k, v in options.items() if k in fields}
    config = restrict_targets(LoraConfig(task_type="CAUSAL_LM", r=1, **chosen), model)
    try:
        tuned = LoraModel(model, config, "default", low_cpu_mem_usage=True)
    except ValueError:  # no target at all
        return set()
    found = {n.removeprefix("model.") for n, m in tuned.named_modules() if hasattr(m, "lora_A")}
    tuned.unload()
    return found


@checker(title="unusual-hyperparameters")
def unusual_recipe(suite: Suite) -> Iterator[Finding]:
    """Options outside their usual range.

    A learning rate of 0 trains nothing. For LoRA a rate below 5e-5 is a full fine-tuning's: it wants about ten times as
    much ("LoRA Without Regret", 2025). One above 1e-3 diverges or forgets. Where all weights are trained, one above
    1e-4 does; judged answers (DPO, KTO) want a tenth of all that. More than ten epochs memorise. LoRA also tolerates
    large batches worse than full fine-tuning, and at ranks above 64 the scale alpha/r starves the update unless
    use_rslora is set (arXiv:2312.03732). -device: a device that is not on this machine, which a run here refuses, or a
    precision that has no effect on it.
    """
    yield from _check_device(suite)
    if suite.train is None or not suite.trains:
        return
    train: dict[str, Any] = dict(suite.train.options)
    whole, judged = bool(suite.adapter and suite.adapter.use == "none"), suite.train.use in ("dpo", "kto")
    rate, tiny = train.get("learning_rate"), suite.model.path.startswith("tiny:")  # random weights want a high one
    best = "5e-7 to 5e-6" if judged else "1e-5 to 5e-5"
    if rate is None:
        if whole and not tiny:
            yield Finding("warning", "learning_rate is the default, which is for adapters", fix=best)
    elif rate <= 0:
        yield Finding("error", f"learning_rate is {rate}: nothing is trained", fix="start with 2e-4")
    elif whole and rate > (MAX_FULL_RATE / 10 if judged else MAX_FULL_RATE) and not tiny:
        yield Finding("warning", f"learning_rate is {rate:g}, which makes a training of all weights forget", fix=best)
    elif not (whole or judged) and rate < LOW_RATE:
        yield Finding("warning", f"learning_rate is {rate:g}, as in full fine-tuning", fix="use 1e-4 to 5e-4 for LoRA")
    elif not whole and rate > (MAX_TINY_RATE if tiny else HIGH_RATE / 10 if judged else HIGH_RATE):
        best = "5e-6 to 5e-5" if judged else "1e-4 to 5e-4"
        yield Finding("warning", f"learning_rate is {rate:g}, at which LoRA diverges or forgets", fix=best)
    if (epochs := train.get("num_train_epochs", 0)) > MOST_EPOCHS and train.get("max_steps", -1) <= 0:
        what = f"num_train_epochs is {epochs:g}: a model memorises rows that it sees so often"
        yield Finding("warning", what, fix="1 to 5; with validation and patience training stops earlier")
    batch = train.get("per_device_train_batch_size", 2) * train.get("gradient_accumulation_steps", 4)
    if batch > BATCH and not (whole or judged):
        yield Finding(
            "warning",
            f"a step has {batch} rows; LoRA loses more than full fine-tuning at such batch sizes",
            fix="16 to 32",
        )
    options = suite.adapter.options if suite.adapter else {}
    if options.get("r", 0) > RANK and not options.get("use_rslora"):
        yield Finding("warning", f"r is {options['r']} without use_rslora", fix="set use_rslora = true, or a smaller r")


def _check_device(suite: Suite) -> Iterator[Finding]:
    """Ask the loader for the device, as a run does."""
    if suite.model.use != "hf":
        return
    try:
        device = harness_hf.resolve_device(str(suite.model.options.get("device", "auto")))
    except UsageError as error:
        yield Finding("warning", f"a run on this machine ends: {error}", kind="device")
        return
    if suite.train and suite.train.options.get("fp16") and device.type == "cpu":
        what = "fp16 = true has no effect on a CPU, which trains in float32"
        yield Finding("warning", what, (), "remove it, or train on a GPU", "device")


@checker(title="unsupported-adapter-scaling")
def scaling_lost(suite: Suite, adapter: ModelRef) -> Iterator[Finding]:
    """An adapter with scaling that some servers load incorrectly.

    vLLM, SGLang and others apply alpha/r to every LoRA: the scale of rsLoRA, of patterns and the magnitudes of DoRA
    were lost in one release or another (sglang#40835, vllm#10798), and the served model was not the gated one. An
    adapter that was trained here has its scale written into its matrices, so this is about DoRA, and about adapters
    made elsewhere. The merged model has no scaling to lose.
    """
    if adapter.adapter is None or not any(export.from_ == "adapter" for export in suite.exports):
        return
    config = read_config(adapter.adapter)
    if risky := [n for n in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern") if getattr(config, n, None)]:
        what = f"the exported adapter has {', '.join(risky)}, which some servers load incorrectly"
        yield Finding("warning", what, fix="ship the merged model, or test the server on the rows of an evaluation")
