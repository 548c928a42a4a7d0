"""Make the fingerprint of an export (`harness.internals.Fingerprint`) from the model and its base."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from harness import ModelRef
from harness.internals import Fingerprint, fingerprint, read_gguf_type
from harness_hf.arithmetic import compute_as_runtime
from harness_hf.models import load_model, quiet_loading
from harness_hf.sources import count_parameters
from harness_hf.tokens import ModelTokenizer

EXACT = 8_000_000_000  # parameters up to which it is computed in float32
FLOOR = 0.003  # nats in float32: llama.cpp keeps keys and values in f16
NOISY_CHATS, NOISY_TEXTS = 16, 4  # by which the noise of an arithmetic is measured
Logs = torch.Tensor  # (P, V), log-probabilities next to P probes


@dataclass(frozen=True)
class _Probes:
    """Tokens, and at which places of them a probe ends."""

    numbers: list[tuple[int, ...]]
    rows: list[tuple[list[int], list[int]]]


def make_fingerprint(ref: ModelRef, base: Path | None) -> Fingerprint:
    """Compute what a model says next to the probes; of the base it takes how far it is from it.

    Raises UsageError where one cannot be loaded.
    """
    folder = Path(ref.adapter or ref.path)
    tokens = ModelTokenizer.of(str(folder if any(folder.glob("tokenizer*")) else ref.path))
    seed = int(ref.digest[:8] or "0", 16)
    chats, texts = _encode_chats(tokens, seed), _encode_texts(tokens, seed)
    dtype = "float32" if count_parameters(Path(ref.path)) <= EXACT else "auto"
    with quiet_loading(), torch.inference_mode():
        model = load_model(ref.path, dtype=dtype, adapter=ref.adapter, quantization=ref.quantization)
        found = [_compute(model, probes.rows) for probes in (chats, texts)]
        far = [torch.zeros(len(logs)) for logs in found]
        if ref.adapter or base:
            other = model if ref.adapter else load_model(base or "", dtype=dtype)
            with other.disable_adapter() if ref.adapter else nullcontext():
                far = [_distance(logs, _compute(other, p.rows)) for logs, p in zip(found, (chats, texts), strict=True)]
        noise = _measure_noise(model, chats.rows[:NOISY_CHATS] + texts.rows[:NOISY_TEXTS])
    columns = [list(_tell(p, logs, order)) for p, logs, order in zip((chats, texts), found, far, strict=True)]
    config = model.config
    context = int(getattr(config.get_text_config(), "max_position_embeddings", 0) or 0)
    template = tokens.tokenizer.chat_template
    vocabulary = json.dumps(sorted(tokens.tokenizer.get_vocab().items()), ensure_ascii=True)
    return Fingerprint(
        seed=seed,
        chat=columns[0],
        text=columns[1],
        vocabulary=sha256(vocabulary.encode()).hexdigest(),
        template=sha256(template.encode()).hexdigest() if isinstance(template, str) else None,
        context=context,
        stored=read_gguf_type(Path(ref.path)) or str(config.dtype).removeprefix("torch."),
        dtype=str(model.dtype).removeprefix("torch."),
        noise=noise,
    )


def _encode_chats(tokens: ModelTokenizer, seed: int) -> _Probes:
    """Return the chats that the template takes, each with its last place."""
    if not isinstance(tokens.tokenizer.chat_template, str):
        return _Probes([], [])
    encoded = tokens.encode_prompts([[{"role": "user", "content": text}] for text in fingerprint.make_chats(seed)])
    return _Probes([(n,) for n in range(len(encoded))], [(ids, [len(ids) - 1]) for ids in encoded])


def _encode_texts(tokens: ModelTokenizer, seed: int) -> _Probes:
    """Return the texts, each with the places at which words end whose tokens are those of the words alone."""
    numbers, rows = list[tuple[int, ...]](), list[tuple[list[int], list[int]]]()
    for number, text in enumerate(fingerprint.make_texts(seed)):
        every = range(1, fingerprint.TEXT_WORDS + 1)
        *parts, whole = tokens.encode_prompts([*(fingerprint.first_words(text, words) for words in every), text])
        ends = [(words, len(ids) - 1) for words, ids in zip(every, parts, strict=True) if whole[: len(ids)] == ids]
        numbers += [(number, words) for words, _ in ends]
        rows.append((whole, [place for _, place in ends]))
    return _Probes(numbers, rows)


def _compute(model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> Logs:
    found = [torch.empty(0, model.get_input_embeddings().num_embeddings)]
    for ids, places in rows:
        logits = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, places]
        found.append(logits.float().log_softmax(-1).cpu())  # (places, V)
    return torch.cat(found)


def _distance(logs: Logs, other: Logs) -> torch.Tensor:
    """Return the KL divergence from the base's prediction, (P,)."""
    width = min(logs.shape[1], other.shape[1])
    return (logs.exp()[:, :width] * (logs[:, :width] - other[:, :width])).sum(-1)


def _measure_noise(model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> dict[str, float]:
    """Return what each arithmetic costs the greatest log-probabilities, in nats."""
    exact = _compute(model, rows).topk(fingerprint.TOP).values
    noise = {"float32": FLOOR}
    for kind in ("f16", "bf16", "q8"):
        rough = _compute(compute_as_runtime(copy.deepcopy(model), kind), rows).topk(fingerprint.TOP).values
        noise[kind] = max(FLOOR, float((rough - exact).pow(2).mean().sqrt()))
    return {kind: round(nats, 6) for kind, nats in noise.items()}


def _tell(probes: _Probes, logs: Logs, far: torch.Tensor) -> Iterator[tuple[int | float, ...]]:
    """Yield the probes, those first where the base is farthest."""
    best = logs.topk(fingerprint.TOP) if len(logs) else None
    for at in far.argsort(descending=True, stable=True).tolist():
        assert best
        values = [round(v, 4) for v in best.values[at].tolist()]
        yield (*probes.numbers[at], int(best.indices[at, 0]), *values)
