"""[train] use = "dpo" or "kto": an adapter, or all weights, from judged answers, with TRL's trainers.

[[eval]] use = "preference": whether a model finds the chosen answer of a pair likelier.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import harness
import harness_sft
from harness import Adapter, Evaluator, Finding, ModelRef, Progress, Subject, Trainer, hookimpl
from harness.internals import schema
from harness_preference.evaluator import preference
from harness_preference.methods import METHODS
from harness_sft import MemoryOptions, Rows, StepOptions, TrainingJob, TrainingOptions, trainer_capabilities


@dataclass(frozen=True, kw_only=True)
class Preference(MemoryOptions, StepOptions):
    """The options that only preference trainers share."""

    num_train_epochs: float = 1
    learning_rate: float = 1e-5
    beta: float = 0.1
    loss_type: str | list[str] = "sigmoid"


@dataclass(frozen=True, kw_only=True)
class DPO(TrainingOptions, Preference):
    """The options of `dpo`."""

    gradient_accumulation_steps: int = 8


@dataclass(frozen=True, kw_only=True)
class KTO(TrainingOptions, Preference):
    """The options of `kto`."""

    per_device_train_batch_size: int = 4
    loss_type: str = "kto"


@hookimpl
def harness_trainers() -> dict[str, Trainer]:
    return {"dpo": dpo, "kto": kto}


@hookimpl
def harness_evaluators() -> dict[str, Evaluator]:
    return {"preference": preference}


@harness.trainer(columns=("prompt", "chosen", "rejected"), **trainer_capabilities(DPO, METHODS["dpo"]))
@schema.accepts_options(DPO)
def dpo(
    ref: ModelRef,
    adapter: Adapter | None,
    rows: Rows,
    out: Path,
    options: DPO,
    *,
    progress: Callable[[Progress], None],
    seed: int,
    flag: Callable[[str, Finding], None] | None = None,
    watch: Callable[[Subject], dict[str, float]] | None = None,
) -> Path:
    """Train on pairs of answers, prompt/chosen/rejected, by direct preference optimisation (arXiv:2305.18290).

    The reference is the model before training: the base without the adapter, or a second copy where all weights are
    trained. `beta` holds the model to it. The first loss must be what no difference gives, ln 2 for "sigmoid", else
    P1 is flagged. `options` are further fields of TRL's DPOConfig; all else is as in `harness_sft.sft`.
    """
    job = TrainingJob(ref, adapter, rows, options.recipe(), seed, METHODS["dpo"], out, progress, flag, watch)
    return harness_sft.train_model(job)


@harness.trainer(columns=("prompt", "completion", "label"), **trainer_capabilities(KTO, METHODS["kto"]))
@schema.accepts_options(KTO)
def kto(
    ref: ModelRef,
    adapter: Adapter | None,
    rows: Rows,
    out: Path,
    options: KTO,
    *,
    progress: Callable[[Progress], None],
    seed: int,
    flag: Callable[[str, Finding], None] | None = None,
    watch: Callable[[Subject], dict[str, float]] | None = None,
) -> Path:
    """Train on answers with a label, prompt/completion/label, by Kahneman-Tversky optimisation (arXiv:2402.01306).

    `label` says whether an answer is wanted. The divergence from the reference is estimated within each batch of
    `per_device_train_batch_size`, which must be 2 or more, and in the order of the rows. `options` are further fields
    of TRL's KTOConfig; all else is as in `dpo`.
    """
    job = TrainingJob(ref, adapter, rows, options.recipe(), seed, METHODS["kto"], out, progress, flag, watch)
    return harness_sft.train_model(job)
