"""Next-token distributions and answer ends of models under comparison.

They are kept when a model is freed. It runs on the GPU if that holds it, and else layer by layer: two models that are
compared are never both loaded.

They are compared on prose, chats, code, numbers and other scripts: with SmolLM2's tokenizer some 2,200 tokens; with one
of bytes 8,000, from which only as many windows are taken as are needed, one of each text before the next of any.
"""
# ruff: noqa: TID253 (imported only where something was merged)

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import cpu_offload
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from harness import CheckFailedError
from harness_hf import ModelTokenizer, free_memory, iterate_row_slices

SMOKE_TOKENS = 48
GPU_RESERVE_BYTES = 2**30  # bytes on a GPU for what a model computes, beside its weights
TOTAL_TOKENS = 2000  # that are predicted in all
WINDOW_TOKENS = 192  # tokens at most of one text that are read at once
BATCH_TOKENS = 512  # tokens of windows that are read together, with their padding
LINES = [json.loads(line) for line in Path(__file__).with_name("texts.jsonl").read_bytes().splitlines()]
CHATS: list[list[dict[str, str]]] = [line for line in LINES if isinstance(line, list)]
TEXTS: list[str] = [line for line in LINES if isinstance(line, str)]
PROMPTS = ("What is the capital of France?", "Say hello.")


class LoadingGpu(NamedTuple):
    """The GPU that models are loaded on, and its free bytes."""

    device: str
    free: int


@dataclass
class Divergence:
    """How far model q is from model p, per token: KL(p ‖ q) and −log p, −log q of the text in nats."""

    kl: float
    top1: float
    margin: float  # the greatest lead of p's first choice over its second where q's first choice is another
    tokens: int
    nll: tuple[float, float]


@dataclass
class ModelOutputs:
    """A freed model's log-probabilities and answer ends, off the GPU."""

    logprobs: list[Any]  # of what follows each token of each window, (T - 1, V) in float32
    ends: list[int | None]  # the tokens at which its answers to the prompts end
    stops: set[int | None]

    @classmethod
    def of(
        cls, load: Callable[[], Any], ids: Sequence[Any], path: str = "", tell: Callable[[int], None] = lambda _: None
    ) -> ModelOutputs:
        """Load a model, compute its outputs, and free it.

        If `path` names its folder, the ends of its answers to the prompts are computed too.
        """
        model = load()
        told = model.generation_config.eos_token_id if path else None
        stops = set(told) if isinstance(told, list) else {told}
        with torch.inference_mode():
            found = cls(
                _compute_window_logprobs(model, ids, tell),
                _find_answer_stop_tokens(model, path, stops) if path else [],
                stops,
            )
        del model
        free_memory()
        return found


def compare_models(one: ModelOutputs, other: ModelOutputs, ids: Sequence[Any]) -> Divergence:
    """Compare the next-token distributions of two models.

    It goes window by window. Raises CheckFailedError if the KL is not finite.
    """
    kl, same, margin, tokens, nll = 0.0, 0, 0.0, 0, [0.0, 0.0]
    for window, p, q in zip(ids, one.logprobs, other.logprobs, strict=False):
        following = window[0, 1:, None]
        kl += _sum_kl_divergence(p, q)
        first, agrees = p.topk(2).values, p.argmax(-1) == q.argmax(-1)
        same += int(agrees.sum())
        margin = max(margin, float((first[:, 0] - first[:, 1]).masked_fill(agrees, 0).max()))
        tokens += len(p)
        for i, logprobs in enumerate((p, q)):
            nll[i] -= float(logprobs.gather(-1, following).sum())
    if not math.isfinite(kl):
        what = f"the merged model's probabilities are not finite [merge-finite]: KL {kl} nats per token"
        raise CheckFailedError(f"merge: {what}, limit: any finite number; train again at a lower learning_rate")
    return Divergence(kl / tokens, same / tokens, margin, tokens, (nll[0] / tokens, nll[1] / tokens))


def _compute_window_logprobs(model: Any, ids: Sequence[Any], tell: Callable[[int], None]) -> list[Any]:
    """Ask for windows of like lengths together: one pass over the weights, which may lie on the other side of a bus."""
    found, left = dict[int, Any](), sorted(range(len(ids)), key=lambda i: -ids[i].shape[1])
    while left:
        size = max(1, BATCH_TOKENS // ids[left[0]].shape[1])
        batch, left = left[:size], left[size:]
        texts = [ids[i][0] for i in batch]
        logits = model(**_pad_token_ids(model, texts, "right"), use_cache=False).logits  # (B, T, V)
        for i, row in zip(batch, logits, strict=True):  # padding goes to the right, where causal models never look
            found[i] = row[: ids[i].shape[1] - 1].float().log_softmax(-1).cpu()
        tell(len(batch))  # how many windows were asked
    return [found[i] for i in range(len(ids))]


def _pad_token_ids(model: PreTrainedModel, texts: list[Any], side: str) -> dict[str, Any]:
    """Pad texts (T,) to ids and mask (B, T). They are moved to the device that the model takes its input on."""
    found = loading_gpu()  # also where none of its layers is in memory yet
    place = found[0] if model.device.type == "meta" and found else model.device
    given = {"input_ids": texts, "attention_mask": [torch.ones_like(text) for text in texts]}
    return {name: pad_sequence(x, batch_first=True, padding_side=side).to(place) for name, x in given.items()}


def _sum_kl_divergence(p: Any, q: Any) -> float:
    """Return the KL divergence Σ p·log(p/q) over a window.

    It is in nats. Each term is computed as p·(exp(x) - 1 - x) with x = log(q/p).
    """
    # So the terms are of second order and positive; the plain sum is float32's rounding where p and q nearly agree.
    total = 0.0
    for rows in iterate_row_slices(p):
        x = q[rows] - p[rows]
        terms, far = p[rows].exp().mul_(x.expm1().sub_(x)), x.abs() >= 1
        if far.any():
            terms = torch.where(far, q[rows].exp() - p[rows].exp() * (1 + x), terms)
        total += float(terms.sum(-1).double().sum())
    return total


def _find_answer_stop_tokens(model: PreTrainedModel, path: str, stops: set[int | None]) -> list[int | None]:
    """Return the stop token of each prompt's greedy completion. None if it does not end within `SMOKE_TOKENS`."""
    tokens = ModelTokenizer.of(path)
    chat = tokens.tokenizer.chat_template
    prompts = [[{"role": "user", "content": text}] if chat else text for text in PROMPTS]
    given = _pad_token_ids(model, list(map(torch.tensor, tokens.encode_prompts(prompts))), "left")
    out = model.generate(**given, max_new_tokens=SMOKE_TOKENS, do_sample=False)
    return [next((i for i in row if i in stops), None) for row in out[:, given["input_ids"].shape[1] :].tolist()]


def loading_gpu() -> LoadingGpu | None:
    """Return the GPU that models are loaded on, if any."""
    return LoadingGpu("cuda:0", torch.cuda.mem_get_info(0)[0]) if torch.cuda.is_available() else None


def device_for(size: int) -> str:
    """Return where a model of so many bytes is loaded: on the GPU, if its free memory holds it."""
    return "auto" if (found := loading_gpu()) is None or size + GPU_RESERVE_BYTES < found[1] else "cpu"


def offload_layers(model: Any, device: str) -> Any:
    """Compute a model's layers on the GPU one after the other.

    This is for a model that the GPU does not hold; any other is returned unchanged.
    """
    found = loading_gpu()
    if device != "cpu" or found is None:
        return model
    whole = list(getattr(model, "_no_split_modules", None) or ())  # some adapters reach into the layers they are on
    return cpu_offload(model, found[0], offload_buffers=True, preload_module_classes=whole)


def token_windows(
    tokenizer: PreTrainedTokenizerBase, tokens: int = TOTAL_TOKENS, longest: int = WINDOW_TOKENS
) -> list[Any]:
    """Tokenize the texts into windows that predict `tokens` in all.

    Each has ids (1, T) with 2 ≤ T ≤ `longest`. They predict fewer if the texts are shorter.
    """
    told = []  # as the tokenizer's template frames a conversation; as plain text what it refuses, or without one
    for messages in CHATS:
        try:
            told.append(str(tokenizer.apply_chat_template(messages, tokenize=False)))
        except Exception:  # no template, or one with rules of its own about turns
            told.append("\n".join(f"{message['role']}: {message['content']}" for message in messages))
    whole = [tokenizer(text, verbose=False).input_ids for text in (*told, *TEXTS)]
    found: list[Any] = []  # the first of each text before the second of any, so that every kind of text is among them
    for start in range(0, max(map(len, whole)), longest):
        for ids in whole:
            part = ids[start : start + longest][: tokens + 1]
            if len(part) > 1:
                found.append(torch.tensor([part]))
                tokens -= len(part) - 1
            if tokens <= 0:
                return found
    return found
