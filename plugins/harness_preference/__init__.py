"""[train] use = "dpo" or "kto": an adapter, or all weights, from judged answers, with TRL's trainers.

[[eval]] use = "preference": whether a model finds the chosen answer of a pair likelier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
from harness import hookimpl, schema
from harness_preference.evaluator import preference

if TYPE_CHECKING:
    from harness import Adapter, Built, Finding, ModelRef, Progress, Subject

Rows = Sequence[Mapping[str, Any]]


@hookimpl
def harness_trainers() -> dict[str, Any]:
    return {"dpo": dpo, "kto": kto}


@hookimpl
def harness_evaluators() -> dict[str, Any]:
    return {"preference": preference}


def _with(name: str) -> dict[str, Callable[..., Any]]:
    """Return what can be done with a trainer besides training: check its options, prepare its rows, time its steps."""

    def check(**options: Any) -> None:
        from harness_preference.methods import METHODS
        from harness_sft import build_config

        about: dict[str, Any] = {"name": METHODS[name].config, "refused": METHODS[name].refused}
        build_config(
            schema.with_defaults(harness_trainers()[name], options), Path("checkpoints"), seed=0, device="cpu", **about
        )

    def build(ref: ModelRef, adapter: Adapter | None, rows: Rows, *, seed: int, **options: Any) -> Built:
        from harness_preference.build import build

        return build(name, ref, adapter, rows, schema.with_defaults(harness_trainers()[name], options), seed=seed)

    def measure(ref: ModelRef, adapter: Adapter | None, rows: Rows, *, seed: int, **options: Any) -> dict[str, Any]:
        from harness_preference.methods import METHODS
        from harness_sft import measure_by

        return measure_by(
            ref, adapter, rows, schema.with_defaults(harness_trainers()[name], options), seed=seed, method=METHODS[name]
        )

    return {"check": check, "build": build, "measure": measure}


@harness.trainer(columns=("prompt", "chosen", "rejected"), **_with("dpo"))
def dpo(
    ref: ModelRef,
    adapter: Adapter | None,
    rows: Rows,
    out: Path,
    *,
    progress: Callable[[Progress], None],
    seed: int,
    flag: Callable[[str, Finding], None] | None = None,
    watch: Callable[[Subject], dict[str, float]] | None = None,
    num_train_epochs: float = 1,
    max_steps: int = -1,
    learning_rate: float = 1e-5,
    lr_scheduler_type: str = "cosine",
    warmup_ratio: float = 0.05,
    per_device_train_batch_size: int = 2,
    gradient_accumulation_steps: int = 8,
    max_length: int = 1024,
    gradient_checkpointing: bool = False,
    bf16: bool | None = None,
    beta: float = 0.1,
    loss_type: str | list[str] = "sigmoid",
    validation: float = 0.0,
    patience: int = 0,
    save_steps: int = 50,
    logging_steps: int = 10,
    report_to: list[str] | None = None,
    **options: Any,
) -> Path:
    """Train on pairs of answers, prompt/chosen/rejected, by direct preference optimisation (arXiv:2305.18290).

    The reference is the model before training: the base without the adapter, or a second copy where all weights are
    trained. `beta` holds the model to it. The first loss must be what no difference gives, ln 2 for "sigmoid", else
    P1 is flagged. `options` are further fields of TRL's DPOConfig; all else is as in `harness_sft.sft`.
    """
    from harness_preference.methods import METHODS
    from harness_sft import train_by

    given = locals()
    recipe = {name: given[name] for name in schema.options_of(dpo)[0]} | options
    how: dict[str, Any] = {"seed": seed, "progress": progress, "flag": flag, "watch": watch}
    return train_by(ref, adapter, rows, out, recipe, method=METHODS["dpo"], **how)


@harness.trainer(columns=("prompt", "completion", "label"), **_with("kto"))
def kto(
    ref: ModelRef,
    adapter: Adapter | None,
    rows: Rows,
    out: Path,
    *,
    progress: Callable[[Progress], None],
    seed: int,
    flag: Callable[[str, Finding], None] | None = None,
    watch: Callable[[Subject], dict[str, float]] | None = None,
    num_train_epochs: float = 1,
    max_steps: int = -1,
    learning_rate: float = 1e-5,
    lr_scheduler_type: str = "cosine",
    warmup_ratio: float = 0.05,
    per_device_train_batch_size: int = 4,
    gradient_accumulation_steps: int = 4,
    max_length: int = 1024,
    gradient_checkpointing: bool = False,
    bf16: bool | None = None,
    beta: float = 0.1,
    loss_type: str = "kto",
    validation: float = 0.0,
    patience: int = 0,
    save_steps: int = 50,
    logging_steps: int = 10,
    report_to: list[str] | None = None,
    **options: Any,
) -> Path:
    """Train on answers with a label, prompt/completion/label, by Kahneman-Tversky optimisation (arXiv:2402.01306).

    `label` says whether an answer is wanted. The divergence from the reference is estimated within each batch of
    `per_device_train_batch_size`, which must be 2 or more, and in the order of the rows. `options` are further fields
    of TRL's KTOConfig; all else is as in `dpo`.
    """
    from harness_preference.methods import METHODS
    from harness_sft import train_by

    given = locals()
    recipe = {name: given[name] for name in schema.options_of(kto)[0]} | options
    how: dict[str, Any] = {"seed": seed, "progress": progress, "flag": flag, "watch": watch}
    return train_by(ref, adapter, rows, out, recipe, method=METHODS["kto"], **how)
