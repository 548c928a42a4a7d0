"""TRL's DPOTrainer and KTOTrainer, checked as `sft` is, and previews.

Their reference is the model before training, and their rewards are recorded.
"""
# ruff: noqa: TID253 (imported inside functions, only where a training begins)

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments
from trl import DPOTrainer, KTOTrainer

from harness import Example, Finding, UsageError
from harness.internals import chat
from harness_hf import IGNORED_LABEL, ModelTokenizer, RowEncoder
from harness_sft import CheckedTrainerMixin, TokenCounts, encode_dataset, name_rows

PAIR_COLUMNS = ("chosen_ids", "rejected_ids")  # the first is what is to be learnt
SINGLE_COLUMNS = ("completion_ids",)
KL_COLUMN = "KL_completion_ids"  # of KTO: another row's answer, for its estimate of the divergence
MAX_START_DEVIATION = 0.01  # a reward at the first step, or the first loss from ln 2: what rounding makes is far below
# TRL's metrics
REWARD_METRICS = {"chosen": "rewards/chosen", "rejected": "rewards/rejected", "accuracy": "rewards/accuracies"}
LAST_STEPS = 10  # steps whose mean is reported
FIX = "the reference must be the model before training: use the same base, and no adapter that changes it"


def encode_judged(
    dataset: Dataset, tokenizer: Any, args: TrainingArguments, answers: Sequence[str], *, compared: bool
) -> Any:
    """Return a Dataset of prompts and answers in tokens.

    TRL's collators of judged answers take it. With `compared`, a row also has the answer of the one before it in its
    batch (KTO's estimate of the divergence).
    """
    encoder = RowEncoder(ModelTokenizer(tokenizer))
    whole = encode_dataset(dataset, partial(_encode_prompt_and_answers, encoder, answers), args.dataset_num_proc)
    if not compared:
        return whole

    def rotate(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        return {KL_COLUMN: [*batch["completion_ids"][-1:], *batch["completion_ids"][:-1]]}

    return whole.map(rotate, batched=True, batch_size=args.per_device_train_batch_size)


def _encode_prompt_and_answers(
    encoder: RowEncoder, answers: Sequence[str], row: Mapping[str, Any]
) -> dict[str, list[int]]:
    texts = [row[name.removesuffix("_ids")] for name in answers]
    encoded = encoder.encode_answers(row["prompt"], texts, chat.training_template_arguments(row))
    return {"prompt_ids": encoded[0].prompt} | {name: one.answer for name, one in zip(answers, encoded, strict=True)}


def _find_rows_without_answer(whole: Any, args: TrainingArguments) -> list[int]:
    """Return the indexes of rows without an answer after truncation."""
    if args.max_length is None or getattr(args, "truncation_mode", "keep_start") != "keep_start":
        return []
    return [i for i, ids in enumerate(whole["prompt_ids"]) if len(ids) >= args.max_length]


class ReferenceModelMixin(CheckedTrainerMixin):
    """Rewards, reference checks and row preparation of DPO and KTO.

    The reference is the model before training.
    """

    answers: tuple[str, ...] = ()  # the columns of tokens beside the prompt's

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        self.remembered = {"rewards": []}  # of each step, those before an interruption too
        self.step_rewards: list[dict[str, float]] = []  # of each batch of the step that runs

    def _prepare_dataset(self, dataset: Dataset, tokenizer: Any, args: TrainingArguments, name: str) -> Any:
        """Encode the rows whole, count and check them, and drop none."""
        whole = encode_judged(dataset, tokenizer, args, self.answers, compared=getattr(self, "calculate_KL", False))
        if lost := _find_rows_without_answer(whole, args):
            numbers = [whole[i]["row"] for i in lost]
            how = f"raise max_length (now {args.max_length}) or remove the rows"
            raise UsageError(f"[train] data: {name_rows(numbers)}: no token of an answer is left to train on; {how}")
        cut, end = args.max_length, getattr(args, "truncation_mode", "keep_start") == "keep_end"
        tokens = supervised = truncated = 0
        for row in whole:
            for column in self.answers:
                prompt, answer = len(row["prompt_ids"]), len(row[column])
                size = min(prompt + answer, cut or prompt + answer)
                tokens, truncated = tokens + size, truncated + (prompt + answer > size)
                supervised += min(answer, size) if end else size - prompt
        self.counts[name] = TokenCounts(len(whole), tokens, supervised, truncated)
        return whole

    def _prepare_rows(self, dataset: Dataset, name: str) -> list[dict[str, Any]]:
        prepared = self._prepare_dataset(dataset, self.processing_class, self.args, name)
        self._set_signature_columns_if_needed()
        return [{k: v for k, v in row.items() if k in self._signature_columns} for row in prepared]

    def sample_token_ids(self, count: int) -> list[list[int]]:
        """Return prompts with their first answers, in tokens."""
        rows = self.train_dataset.select(range(min(count, len(self.train_dataset))))
        return [[*row["prompt_ids"], *row[self.answers[0]]] for row in rows]

    def validate(self) -> float:
        """Return the mean loss of the held-out rows."""
        size, total = self.args.per_device_eval_batch_size, 0.0
        self.model.eval()
        for start in range(0, len(self.held_out), size):
            rows = self.held_out[start : start + size]
            batch = self._prepare_inputs(self.data_collator(rows))
            with torch.no_grad(), self.compute_loss_context_manager():
                total += float(self.compute_loss(self.model, batch)) * len(rows)
        self._metrics["eval"].clear()
        self.model.train()
        return total / len(self.held_out)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        metrics = self._metrics["train"]
        before = {key: len(metrics.get(key, ())) for key in REWARD_METRICS.values()}
        loss = super().training_step(*args, **kwargs)
        found = {
            name: metrics[key][-1] for name, key in REWARD_METRICS.items() if len(metrics.get(key, ())) > before[key]
        }
        if not self.state.global_step and self.args.disable_dropout:  # dropout alone makes two answers of one model
            self._flag_reference_mismatch(found, float(loss) * self.current_gradient_accumulation_steps)
        self.step_rewards.append(found)
        return loss

    def end_step(self) -> None:
        """Add up the rewards of the batches of a step."""
        self.remembered["rewards"].append(
            {name: _average_finite_metric(self.step_rewards, name) for name in REWARD_METRICS}
        )
        self.step_rewards = []

    def extra_facts(self) -> dict[str, Any]:
        """Return the first loss, and the rewards of the last steps."""
        rewards = self.remembered["rewards"]
        last = {name: _average_finite_metric(rewards[-LAST_STEPS:], name) for name in REWARD_METRICS}
        told = {f"{name}_reward": last[name] for name in ("chosen", "rejected")}
        told |= {"reward_margin": last["chosen"] - last["rejected"], "reward_accuracy": last["accuracy"]}
        first = [abs(rewards[0][name]) for name in ("chosen", "rejected")]
        told["first_reward"] = max(filter(math.isfinite, first), default=math.nan)  # a step may lack one kind
        told["first_loss"] = self.watch.steps[0].loss or 0.0
        return super().extra_facts() | {name: value for name, value in told.items() if math.isfinite(value)}

    def _flag_reference_mismatch(self, found: dict[str, float], loss: float) -> None:
        """Report a reference that is not the model before training."""
        rewards = [found[name] for name in ("chosen", "rejected") if name in found]
        plain = self.args.loss_type == ["sigmoid"] and not self.aux_loss_enabled and not self.use_weighting
        weight = self.loss_weights[0] if plain else 1.0
        if plain and abs(loss - weight * math.log(2)) > MAX_START_DEVIATION * weight:
            want = f"it must be {f'{weight:g} * ' * (weight != 1)}ln 2 = {weight * math.log(2):.4f}"
            what = f"the first loss is {loss:.4f}, but {want}, so the reference is another model"
        elif max(map(abs, rewards), default=0.0) > MAX_START_DEVIATION:
            said = ", ".join(f"{reward:.3g}" for reward in rewards)
            what = f"the first rewards are {said} instead of 0, so the reference is another model"
        else:
            return
        self.flag("P1", Finding("error", what, (), FIX))


class CheckedDPO(ReferenceModelMixin, DPOTrainer):  # type: ignore[misc]
    answers = PAIR_COLUMNS


class CheckedKTO(ReferenceModelMixin, KTOTrainer):  # type: ignore[misc]
    answers = SINGLE_COLUMNS


class PairsPreview(Trainer):  # type: ignore[misc]
    """Put before a trainer that only prepares rows: it keeps them whole beside what it makes of them."""

    answers: tuple[str, ...] = ()
    whole: Any = None

    def _prepare_dataset(self, dataset: Dataset, tokenizer: Any, args: TrainingArguments, name: str) -> Any:
        compared = getattr(self, "calculate_KL", False)
        self.whole = encode_judged(dataset, tokenizer, args, self.answers, compared=compared)
        lost = {*_find_rows_without_answer(self.whole, args)}
        return self.whole.select([i for i in range(len(self.whole)) if i not in lost])

    def examples(self) -> list[Example]:
        """Return each answer after its prompt in tokens, before truncation."""
        rows = ((row["row"], row["prompt_ids"], row[column]) for column in self.answers for row in self.whole)
        return [Example(number, asked + said, [IGNORED_LABEL] * len(asked) + said) for number, asked, said in rows]

    def batch(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Return rows as a batch with labels, as other trainers have them."""
        batch = self.data_collator(rows)
        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED_LABEL)
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}


class PreviewDPO(PairsPreview, DPOTrainer):  # type: ignore[misc]
    answers = PAIR_COLUMNS


class PreviewKTO(PairsPreview, KTOTrainer):  # type: ignore[misc]
    answers = SINGLE_COLUMNS


def _average_finite_metric(steps: Sequence[dict[str, float]], name: str) -> float:
    """Return a metric's mean over the steps where it is finite.

    NaN if there are none, as a batch of KTO may lack one kind of answers.
    """
    found = [step[name] for step in steps if math.isfinite(step.get(name, math.nan))]
    return sum(found) / len(found) if found else math.nan
