"""D24 and T8: recipes by their effect: what the schedule and the optimizer can move, and whether the loss fell."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import Built, Finding, ModelRef, checker
from harness.internals import Suite, read_steps

LEAST_STEPS = 3
HIGH_RATE_SHARE = 0.1  # of the peak rate
MIN_HIGH_STEPS = 0.5  # share of the steps
SGD_RATE = 1e-3  # of plain gradients, which for a LoRA are small
EPSILON, DECAY, NOISE, SMOOTHING, DROPOUT = 1e-4, 10.0, 50.0, 0.5, 0.5
MAX_SCALE = 64.0  # by which an adapter's product is multiplied
MAX_BETA = 5.0  # of DPO and KTO, which are used with 0.01 to 0.5
MIN_LOSSES = 20
MIN_FALL_ERRORS = 2.0  # standard errors


@checker(title="ineffective-recipe")
def ineffective_recipe(built: Built, suite: Suite) -> Iterator[Finding]:
    """Options that together train almost nothing, or only noise.

    Computed is what the schedule does: the optimizer steps, and in how many of them the rate is above a tenth of its
    peak. Adam divides by adam_epsilon where that is larger than the gradients; SGD moves by rate times gradient, a
    thousandth of what Adam does; weight decay takes rate times itself of every weight in every step. An adapter's
    product is multiplied by lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora.
    """
    config = built.config
    steps = _count_steps(built)
    if 0 < steps < LEAST_STEPS:
        yield Finding("warning", f"the training has {steps} steps", fix="raise num_train_epochs or max_steps")
    elif (rates := _compute_learning_rate_schedule(config, steps)) and max(rates) > 0:
        high = sum(rate > HIGH_RATE_SHARE * max(rates) for rate in rates)
        if high < MIN_HIGH_STEPS * len(rates):
            what = f"learning_rate is above a tenth of its peak in only {high} of {len(rates)} steps"
            yield Finding("warning", what, (), "change lr_scheduler_type or lr_scheduler_kwargs")
    for what, fix in _iterate_extreme_options(config, suite):
        yield Finding("warning", what, (), fix)
    beta = getattr(config, "beta", None)
    if suite.train and suite.train.use in ("dpo", "kto") and beta == 0:
        yield Finding("error", "beta is 0: the loss has no gradient", (), "start with 0.1")


def _iterate_extreme_options(config: Any, suite: Suite) -> Iterator[tuple[str, str]]:
    """Yield options far outside their usual range, and remedies."""
    adapter: Mapping[str, Any] = suite.adapter.options if suite.adapter else {}
    rate, name = getattr(config, "learning_rate", 0.0), str(getattr(config, "optim", "")).rpartition(".")[2].lower()
    if name == "sgd" and 0 < rate < SGD_RATE:
        yield (
            f"optim is sgd at a rate of {rate:g}, which changes almost nothing",
            'set optim = "adamw_torch", or a rate of 1e-2',
        )
    for option, most, fix in (
        ("adam_epsilon", EPSILON, "the default is 1e-8"),
        ("weight_decay", DECAY, "usual values are 0 to 0.1"),
        ("neftune_noise_alpha", NOISE, "usual values are 5 to 15"),
        ("label_smoothing_factor", SMOOTHING, "usual values are 0 to 0.1"),
        (
            "beta",
            MAX_BETA if suite.train and suite.train.use in ("dpo", "kto") else math.inf,
            "usual values are 0.01 to 0.5",
        ),
    ):
        if (value := getattr(config, option, None)) is not None and abs(value) > most:
            yield f"{option} is {value:g}", fix
    if (dropout := adapter.get("lora_dropout", 0.0)) > DROPOUT:
        yield f"lora_dropout is {dropout:g}, which drops most of what is trained", "usual values are 0 to 0.1"
    if (alpha := adapter.get("lora_alpha")) is not None:
        rank = adapter.get("r", alpha) or 1
        factor = alpha / (math.sqrt(rank) if adapter.get("use_rslora") else rank)
        if factor > MAX_SCALE:
            yield f"the adapter is multiplied by {factor:g} (lora_alpha and r)", "set lora_alpha to r to 2 r"
        if factor == 0:
            yield "lora_alpha is 0: the adapter is multiplied by 0", "set lora_alpha to r to 2 r"


def _count_steps(built: Built) -> int:
    """Return the optimizer steps of a training in one process.

    0 if the configuration does not determine them.
    """
    config = built.config
    if (most := getattr(config, "max_steps", 0)) > 0:
        return int(most)
    size = getattr(config, "per_device_train_batch_size", 0) * getattr(config, "gradient_accumulation_steps", 0)
    rows = min(built.kept, len({e.number for e in built.examples}))
    return math.ceil(rows / size * getattr(config, "num_train_epochs", 0)) if size else 0


def _compute_learning_rate_schedule(config: Any, steps: int) -> list[float]:
    """Return the learning rate of every step.

    Empty if the schedule depends on more than the step.
    """
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    try:
        warmup = config.get_warmup_steps(steps)
        given = {"num_warmup_steps": warmup, "num_training_steps": steps}
        kwargs = dict(config.lr_scheduler_kwargs or {})
        schedule = get_scheduler(config.lr_scheduler_type, optimizer, **given, scheduler_specific_kwargs=kwargs)
        rates = []
        for _ in range(steps):
            rates.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            schedule.step()
    except (ValueError, TypeError, AttributeError):  # one that goes by the validation loss, or another library's
        return []
    return rates


@checker(title="loss-did-not-fall")
def loss_did_not_fall(adapter: ModelRef) -> Iterator[Finding]:
    """A training loss that did not fall beyond its noise.

    The mean loss of the last quarter of the steps must be lower than that of the first by two standard errors.
    """
    folder = Path(adapter.adapter or adapter.path)
    losses = [step.loss for step in read_steps(folder) if step.loss is not None]
    if len(losses) < MIN_LOSSES:
        return
    part = len(losses) // 4
    first, last = losses[:part], losses[-part:]
    fall = statistics.fmean(first) - statistics.fmean(last)
    noise = _compute_standard_error(first, last)
    if fall <= MIN_FALL_ERRORS * noise:
        what = f"the loss fell by {fall:.3g} nats per token from the first to the last quarter of the steps"
        fix = "check whether learning_rate is too low or too high, or whether the base is as good on these rows"
        yield Finding("warning", f"{what}; its noise is {noise:.2g}", (), fix)


def _compute_standard_error(first: Sequence[float], last: Sequence[float]) -> float:
    """Return the standard error of the difference of two means.

    The spread of each includes its own trend.
    """
    return math.sqrt(statistics.variance(first) / len(first) + statistics.variance(last) / len(last))
