"""TRL's SFTTrainer, checked: no row is dropped, and the validation loss does not depend on the batch size."""
# ruff: noqa: TID253 (imported inside functions, only where a training begins, or is prepared)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainingArguments
from trl import SFTTrainer

from harness import Example, UsageError
from harness_hf import IGNORED_LABEL, ModelTokenizer, RowEncoder
from harness_sft.rows import SPLITTING_STRATEGIES, TokenCounts, check_endings, encode_dataset, name_rows
from harness_sft.trainer import CheckedTrainerMixin

TRAINER_COLUMNS = ("input_ids", "labels", "seq_lengths", "completion_mask", "assistant_masks")


class Preview(SFTTrainer):  # type: ignore[misc]
    """An SFTTrainer that keeps its rows from before truncation and packing."""

    answers: tuple[str, ...] = ("",)  # of a row, each of which is an example
    whole: Any = None

    def __init__(self, model: Any, *, args: TrainingArguments, **given: Any) -> None:
        self.assistant_only = args.assistant_only_loss
        args.assistant_only_loss = False  # for which TRL takes a template of its own, or refuses the model's
        super().__init__(model, args=args, **given)
        args.assistant_only_loss = self.assistant_only

    def _prepare_dataset(
        self, dataset: Dataset, tokenizer: Any, args: TrainingArguments, packing: bool, formatting: Any, name: str
    ) -> Any:
        how = {"completion_only": self.completion_only_loss, "assistant_only": self.assistant_only}
        encoder = RowEncoder(ModelTokenizer(tokenizer), **how)
        whole = encode_dataset(dataset, partial(_encode_ids_and_labels, encoder), args.dataset_num_proc)
        text = isinstance(dataset[0].get("completion", dataset[0].get("text")), str)
        self.check_rows(whole, args, packing, name, text=text)
        return super()._prepare_dataset(whole, tokenizer, args, packing, formatting, name)

    def check_rows(self, whole: Dataset, args: TrainingArguments, packing: bool, name: str, *, text: bool) -> None:
        """Keep the tokens of the rows before truncation."""
        self.whole = whole

    def examples(self) -> list[Example]:
        """Return the rows in tokens, before they are cut."""
        columns = (self.whole[name] for name in ("row", "input_ids", "labels"))
        return [Example(*row) for row in zip(*columns, strict=True)]

    def batch(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Return rows as a batch with labels."""
        batch: Mapping[str, Any] = self.data_collator(
            [{k: v for k, v in row.items() if k in TRAINER_COLUMNS} for row in rows]
        )
        return batch


def _encode_ids_and_labels(encoder: RowEncoder, row: Mapping[str, Any]) -> dict[str, list[int]]:
    try:
        encoded = encoder.encode(row)
    except UsageError as error:
        raise UsageError(*(f"[train] data: row {row['row']} {message}" for message in error.messages)) from None
    return {"input_ids": encoded.ids, "labels": encoded.labels}


class CheckedTrainer(CheckedTrainerMixin, Preview):
    """An SFTTrainer that refuses rows it would drop."""

    def check_rows(self, whole: Dataset, args: TrainingArguments, packing: bool, name: str, *, text: bool) -> None:
        """Count and check the rows before TRL truncates them.

        Only then may TRL truncate, drop and pack them. Raises UsageError for rows without a learnt token, and as
        `check_endings` does.
        """
        cut = None if packing and args.packing_strategy in SPLITTING_STRATEGIES else args.max_length
        keep_end = args.truncation_mode == "keep_end"
        left = slice(-cut, None) if cut and keep_end else slice(cut)
        tokens = supervised = truncated = 0
        empty = []
        for number, ids, labels in zip(whole["row"], whole["input_ids"], whole["labels"], strict=True):
            learnt = sum(label != IGNORED_LABEL for label in labels[left][1:])  # the first token is never predicted
            tokens, supervised = tokens + len(ids[left]), supervised + learnt
            truncated += bool(cut and len(ids) > cut)
            if not learnt:
                empty.append(number)
        if empty:
            how = f"raise max_length (now {cut}) or remove the rows"
            raise UsageError(f"[train] data: {name_rows(empty)}: no token of the answer is left to train on; {how}")
        self.counts[name] = TokenCounts(len(whole), tokens, supervised, truncated)
        if text:
            check_endings(whole, self._tokenizer, None if keep_end else cut)

    def _prepare_rows(self, dataset: Dataset, name: str) -> list[dict[str, Any]]:
        prepared = self._prepare_dataset(dataset, self.processing_class, self.args, False, None, name)
        return [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in prepared]

    def sample_token_ids(self, count: int) -> list[list[int]]:
        """Return the first rows as they are trained on, in tokens."""
        return [list(row["input_ids"]) for row in self.train_dataset.select(range(min(count, len(self.train_dataset))))]

    def validate(self) -> float:
        """Return the mean validation loss per supervised token, in nats.

        It does not depend on the batch size.
        """
        total = tokens = 0.0
        size = self.args.per_device_eval_batch_size
        together, end = size * self.ranks.count, len(self.held_out)
        if self.ranks.sharded:  # each process computes as many batches as the first
            end = -(-end // together) * together
        self.model.eval()
        for start in range(size * self.ranks.number, end, together):
            rows = self.held_out[start : start + size]
            batch = self._prepare_inputs(self.data_collator(rows or self.held_out[:1]))
            with torch.no_grad(), self.compute_loss_context_manager():
                found = self.model(**batch, fused_lm_head=True, use_cache=False)
            if rows:
                total -= float(found.log_probs.sum(dtype=torch.float64))
                tokens += int(found.label_mask.sum())
            self.ranks.at_work()
        self.model.train()
        total, tokens = self.ranks.sum_over_processes(total, tokens)
        return total / tokens
