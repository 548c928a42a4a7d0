"""The exported model as it must answer: its own weights in float32, and at the runtime's arithmetic beside.

A GGUF file is read back, so that what is left between it and a runtime is arithmetic. Imports torch: import this
module inside functions.
"""
# ruff: noqa: TID253 (imported only where a model is compared)

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from harness import UsageError
from harness.internals import REPLACEMENT_CHARACTER, read_gguf_type
from harness_hf import ModelTokenizer, compute_as_runtime, count_parameters, load_model, quiet_loading, resolve_folder

CLIP_NATS = 8.0  # nats
MAX_FLOAT32_PARAMETERS = 8_000_000_000  # parameters up to which the reference is computed in float32


@dataclass(frozen=True)
class TokenScores:
    """A model's scores of an answer's T tokens.

    Each token has its log-probability. Each position (one more) has the likeliest token and its log-probability, the
    surprise beyond expectation with its variance, and the lead of the stop token.
    """

    own: torch.Tensor  # (T,)
    best: torch.Tensor  # (T + 1,)
    first: torch.Tensor  # (T + 1,)
    surprise: torch.Tensor  # (T + 1,), -log p less the entropy, clipped, less the exact mean of that; all parts of
    # characters are one outcome, and the last place has that outcome's
    variance: torch.Tensor  # (T + 1,), of the surprise
    ends: torch.Tensor  # (T + 1,), by how much the likeliest stop token leads the likeliest other


class Reference:
    """An exported model, or an exported adapter on its base.

    Raises UsageError if it cannot be loaded.
    """

    def __init__(self, model: Path, base: str = "", dtype: str = "auto") -> None:
        adapter = (model / "adapter_config.json").is_file()
        self.folder = resolve_folder(base) if adapter else resolve_folder(str(model))
        files = model if adapter and any(model.glob("tokenizer*")) else self.folder
        self.tokens, self.adapter, self.computed = ModelTokenizer.of(str(files)), adapter, dtype
        self.gguf = read_gguf_type(model)
        if dtype == "auto":
            self.computed = "float32" if count_parameters(self.folder) <= MAX_FLOAT32_PARAMETERS else "bfloat16"
        with quiet_loading():
            self.model = load_model(self.folder, dtype=self.computed, adapter=model if adapter else None)
        config = self.model.config
        self.context = int(getattr(config.get_text_config(), "max_position_embeddings", 0) or 0)  # tokens, 0: not told
        dtype = str(getattr(config, "dtype", "") or "").removeprefix("torch.")
        self.stored = self.gguf or dtype  # the type of most of its weights
        self._models = {"": self.model}

    @cached_property
    def stop_ids(self) -> list[int]:
        """The stop tokens: those of the tokenizer, the template and the generation configuration."""
        told = getattr(self.model.generation_config, "eos_token_id", None)
        named = told if isinstance(told, list) else [] if told is None else [told]
        return sorted({*self.tokens.stop_ids, *named})

    @cached_property
    def part_ids(self) -> list[int]:
        """The tokens that are a part of a character. No text shows them."""
        tokenizer = self.tokens.tokenizer
        return [i for i in range(len(tokenizer)) if REPLACEMENT_CHARACTER in str(tokenizer.decode([i]))]

    def score(self, prompt: Sequence[int], said: Sequence[int], arithmetic: str = "") -> TokenScores:
        """Score the tokens of an answer to a prompt.

        The model computes in its own dtype, or at the runtime's arithmetic. Raises UsageError for a token that the
        export does not have.
        """
        if arithmetic not in self._models:  # one copy at a time
            self._models = {"": self.model, arithmetic: compute_as_runtime(copy.deepcopy(self.model), arithmetic)}
        model = self._models[arithmetic]
        rows = model.get_input_embeddings().num_embeddings
        if odd := [i for i in said if not 0 <= i < rows]:
            told = f"the runtime sent the token {odd[0]}, but the export has {rows} tokens"
            raise UsageError(f"{told}, so it serves another model")
        ids = torch.tensor([[*prompt, *said]], device=model.device)
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 :]
            logs = logits.float().log_softmax(-1).cpu()  # (T + 1, V)
        chosen = torch.tensor(list(said), dtype=torch.long)[:, None]
        best, first = logs.max(-1)
        stop = logs[:, self.stop_ids].max(-1).values if self.stop_ids else torch.full_like(best, -torch.inf)
        others = logs.index_fill(1, torch.tensor(self.stop_ids, dtype=torch.long), -torch.inf).max(-1).values
        surprise, variance = self._score_surprise(logs, said)
        return TokenScores(logs[:-1].gather(-1, chosen)[:, 0], best, first, surprise, variance, stop - others)

    def _score_surprise(self, logs: torch.Tensor, said: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the surprise of each token, and its variance.

        Both are (T + 1,): the last place is that of a part of a character after the tokens.
        """
        parts = torch.tensor(self.part_ids, dtype=torch.long)
        part = logs[:, parts].logsumexp(-1, keepdim=True)
        logs = torch.cat([logs.index_fill(1, parts, -torch.inf), part], -1)  # (T + 1, V + 1)
        likely, plain = logs.exp(), -logs.clamp(min=-1e4)
        clipped = (plain - (likely * plain).sum(-1, keepdim=True)).clamp(-CLIP_NATS, CLIP_NATS)
        mean = (likely * clipped).sum(-1)
        variance = (likely * clipped**2).sum(-1) - mean**2
        chosen = torch.tensor([*said, -1])
        chosen = torch.where(torch.isin(chosen, parts) | (chosen < 0), logs.shape[1] - 1, chosen)
        return clipped.gather(-1, chosen[:, None])[:, 0] - mean, variance

    def answer(self, prompt: Sequence[int], most: int) -> list[int]:
        """Return the greedy answer to a prompt, with any final stop token."""
        ids = torch.tensor([list(prompt)], device=self.model.device)
        how = {"max_new_tokens": most, "do_sample": False, "eos_token_id": self.stop_ids}
        with torch.inference_mode(), quiet_loading():
            out = self.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **how)
        return [int(i) for i in out[0, ids.shape[1] :]]

    @contextmanager
    def with_adapter_scaled(self, factor: float) -> Iterator[None]:
        """Scale the adapter's effect within a context. A factor of 0 gives the base."""
        scales = [m.scaling for m in self.model.modules() if isinstance(getattr(m, "scaling", None), dict)]
        before = [dict(scale) for scale in scales]
        for scale in scales:
            scale.update({name: value * factor for name, value in scale.items()})
        try:
            yield
        finally:
            for scale, old in zip(scales, before, strict=True):
                scale.update(old)

    @contextmanager
    def with_rope_scaled(self, factor: float) -> Iterator[None]:
        """Scale the base of rotary positions, if any, within a context."""
        found = [m for m in self.model.modules() if hasattr(m, "inv_freq") and hasattr(m, "config")]
        before = [m.inv_freq.clone() for m in found]
        for module in found:
            steps = torch.arange(len(module.inv_freq), device=module.inv_freq.device) / len(module.inv_freq)
            module.inv_freq.mul_(torch.tensor(factor, device=steps.device) ** -steps)
        try:
            yield
        finally:
            for module, old in zip(found, before, strict=True):
                module.inv_freq.copy_(old)
