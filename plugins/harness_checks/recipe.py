"""D14 and M6: options that train or serve something else than was meant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import Finding, ModelRef, Suite, checker

LOW, HIGH = 5e-5, 1e-3  # of the learning rate: below it a full fine-tuning's, above it a LoRA diverges
TINY = 0.1  # what random weights of 0.1 M parameters can take, to learn anything in a test
FULL = 1e-4  # above it training all weights forgets
BATCH, RANK = 32, 64


@checker(title="unusual-hyperparameters")
def unusual_recipe(suite: Suite) -> Iterator[Finding]:
    """Options outside what works.

    A learning rate of 0 trains nothing. For LoRA a rate below 5e-5 is a full fine-tuning's: it wants about ten times as
    much ("LoRA Without Regret", 2025). One above 1e-3 diverges or forgets. Where all weights are trained, one above
    1e-4 does; judged answers (DPO, KTO) want a tenth of all that. LoRA also tolerates large batches worse than full
    fine-tuning, and at ranks above 64 the scale alpha/r starves the update unless use_rslora is set (arXiv:2312.03732).
    """
    if suite.train is None or not suite.trains:
        return
    train: dict[str, Any] = dict(suite.train.options)
    whole, judged = bool(suite.adapter and suite.adapter.use == "none"), suite.train.use in ("dpo", "kto")
    yield from _rate(train.get("learning_rate"), whole, judged, tiny=suite.model.path.startswith("tiny:"))
    batch = train.get("per_device_train_batch_size", 2) * train.get("gradient_accumulation_steps", 4)
    if batch > BATCH and not (whole or judged):
        yield Finding("warning", f"a step is {batch} rows; LoRA loses more than full fine-tuning there", fix="16 to 32")
    options = suite.adapter.options if suite.adapter else {}
    if options.get("r", 0) > RANK and not options.get("use_rslora"):
        yield Finding("warning", f"r is {options['r']} without use_rslora", fix="use_rslora = true, or a smaller r")


def _rate(rate: float | None, whole: bool, judged: bool, tiny: bool) -> Iterator[Finding]:
    """Yield what is unusual about a learning rate; a tiny model of random weights wants a high one."""
    best = "5e-7 to 5e-6" if judged else "1e-5 to 5e-5"
    if rate is None:
        if whole and not tiny:
            yield Finding("warning", "learning_rate is the default, which is for adapters", fix=best)
    elif rate <= 0:
        yield Finding("error", f"learning_rate is {rate}: nothing is learnt", fix="2e-4 is a good start")
    elif whole and rate > (FULL / 10 if judged else FULL) and not tiny:
        yield Finding("warning", f"learning_rate is {rate:g}, where training all weights forgets", fix=best)
    elif not (whole or judged) and rate < LOW:
        yield Finding("warning", f"learning_rate is {rate:g}, a full fine-tuning's", fix="LoRA wants 1e-4 to 5e-4")
    elif not whole and rate > (TINY if tiny else HIGH):
        yield Finding("warning", f"learning_rate is {rate:g}, where LoRA diverges or forgets", fix="1e-4 to 5e-4")


@checker(title="unsupported-adapter-scaling")
def scaling_lost(suite: Suite, adapter: ModelRef) -> Iterator[Finding]:
    """An adapter whose scaling servers are known to get wrong.

    vLLM, SGLang and others apply alpha/r to every LoRA: the scale of rsLoRA, of patterns and the magnitudes of DoRA
    were lost in one release or another (sglang#40835, vllm#10798), and the served model was not the gated one. An
    adapter that was trained here has its scale written into its matrices, so this is about DoRA, and about adapters
    made elsewhere. The merged model has no scaling to lose.
    """
    if adapter.adapter is None or not any(export.from_ == "adapter" for export in suite.exports):
        return
    from harness_lora import read_config

    config = read_config(adapter.adapter)
    names = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern")
    if risky := [name for name in names if getattr(config, name, None)]:
        what = f"the exported adapter has {', '.join(risky)}, which servers have got wrong"
        yield Finding("warning", what, fix="ship the merged model, or try the server on the rows of an evaluation")
