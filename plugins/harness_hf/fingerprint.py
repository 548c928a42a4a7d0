"""Computation of an export's fingerprint from the model and its base. See `harness.internals.Fingerprint`."""

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
from harness_hf.sources import count_parameters, resolve_folder
from harness_hf.tokens import ModelTokenizer

MAX_FLOAT32_PARAMETERS = 2_000_000_000  # parameters up to which it is computed in float32
MIN_TOLERANCE_NATS = 0.003  # nats in float32: llama.cpp keeps keys and values in f16
NOISY_CHATS, NOISY_TEXTS = 16, 4  # by which the noise of an arithmetic is measured
BATCH_ROWS = 8  # rows
Row = tuple[list[int], list[int]]  # tokens, and the places of them at which a probe ends


@dataclass(frozen=True)
class _Probes:
    """The numbers of probes, and their rows."""

    numbers: list[tuple[int, ...]]
    rows: list[Row]


@dataclass(frozen=True)
class _Predictions:
    """Tokens next to each probe, and their log-probabilities, both (P, TOP_LOGPROBS)."""

    values: torch.Tensor
    ids: torch.Tensor


def make_fingerprint(ref: ModelRef, base: Path | None) -> Fingerprint:
    """Compute a model's fingerprint from its predictions at the probes.

    Probes where the base's predictions are farthest from it come first. Raises UsageError if one of the two cannot be
    loaded.
    """
    whole = resolve_folder(ref.path)  # of a GGUF file, what it holds
    own = ref.adapter if ref.adapter and any(ref.adapter.glob("tokenizer*")) else whole
    tokens = ModelTokenizer.of(str(own))
    seed = int(ref.digest[:8] or "0", 16)
    chats, texts = _encode_chat_probes(tokens, seed), _encode_text_probes(tokens, seed)
    dtype = "float32" if count_parameters(whole) <= MAX_FLOAT32_PARAMETERS else "auto"
    with quiet_loading(), torch.inference_mode():
        model = load_model(whole, dtype=dtype, adapter=ref.adapter, quantization=ref.quantization)
        found = [_predict_probe_logprobs(model, probes.rows) for probes in (chats, texts)]
        far = [torch.zeros(len(one.values)) for one in found]
        if ref.adapter or base:
            other = model if ref.adapter else load_model(resolve_folder(str(base)), dtype=dtype)
            with other.disable_adapter() if ref.adapter else nullcontext():
                pairs = zip(found, (chats, texts), strict=True)
                far = [
                    _compute_weighted_base_distance(own, _predict_probe_logprobs(other, probes.rows, own.ids).values)
                    for own, probes in pairs
                ]
        noise = _measure_arithmetic_noise(model, chats.rows[:NOISY_CHATS] + texts.rows[:NOISY_TEXTS])
    columns = [
        list(_iterate_probes_by_distance(p, own, order))
        for p, own, order in zip((chats, texts), found, far, strict=True)
    ]
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


def _encode_chat_probes(tokens: ModelTokenizer, seed: int) -> _Probes:
    """Encode the probe chats, each with its last place. Empty without a chat template."""
    if not isinstance(tokens.tokenizer.chat_template, str):
        return _Probes([], [])
    encoded = tokens.encode_prompts([[{"role": "user", "content": text}] for text in fingerprint.make_chats(seed)])
    return _Probes([(n,) for n in range(len(encoded))], [(ids, [len(ids) - 1]) for ids in encoded])


def _encode_text_probes(tokens: ModelTokenizer, seed: int) -> _Probes:
    """Encode the probe texts, with the places where words end.

    A place counts only if the tokens up to it are those of the words alone.
    """
    numbers, rows = list[tuple[int, ...]](), list[Row]()
    for number, text in enumerate(fingerprint.make_texts(seed)):
        every = range(1, fingerprint.TEXT_WORDS + 1)
        *parts, whole = tokens.encode_prompts([*(fingerprint.first_words(text, words) for words in every), text])
        ends = [(words, len(ids) - 1) for words, ids in zip(every, parts, strict=True) if whole[: len(ids)] == ids]
        numbers += [(number, words) for words, _ in ends]
        rows.append((whole, [place for _, place in ends]))
    return _Probes(numbers, rows)


def _predict_probe_logprobs(model: Any, rows: Sequence[Row], ids: torch.Tensor | None = None) -> _Predictions:
    """Return the likeliest tokens after each probe, with their log-probabilities. With `ids`, these tokens instead."""
    values, tokens = (
        [torch.empty(0, fingerprint.TOP_LOGPROBS)],
        [torch.empty(0, fingerprint.TOP_LOGPROBS, dtype=torch.long)],
    )
    done = 0
    for first in range(0, len(rows), BATCH_ROWS):
        some = rows[first : first + BATCH_ROWS]
        width = max(len(one) for one, _ in some)
        padded = [
            [*one, *[0] * (width - len(one))] for one, _ in some
        ]  # behind what is read, so that it changes nothing
        logits = model(input_ids=torch.tensor(padded, device=model.device), use_cache=False).logits  # (B, T, V)
        for row, (_, places) in enumerate(some):
            logs = logits[row, places].float().log_softmax(-1).cpu()  # (places, V)
            wanted = logs.topk(fingerprint.TOP_LOGPROBS).indices if ids is None else ids[done : done + len(places)]
            values.append(logs.gather(1, wanted.clamp(max=logs.shape[1] - 1)))
            tokens.append(wanted)
            done += len(places)
    return _Predictions(torch.cat(values), torch.cat(tokens))


def _compute_weighted_base_distance(own: _Predictions, other: torch.Tensor) -> torch.Tensor:
    """Return the base's distance (P,), in nats, at each probe.

    It is weighted by the model's own probabilities.
    """
    return (own.values.exp() * (own.values - other)).sum(-1)


def _measure_arithmetic_noise(model: Any, rows: Sequence[Row]) -> dict[str, float]:
    """Return the noise of each arithmetic, in nats.

    It is the root mean square error of the greatest log-probabilities, at least MIN_TOLERANCE_NATS.
    """
    exact, noise = _predict_probe_logprobs(model, rows).values, {"float32": MIN_TOLERANCE_NATS}
    for kind in ("f16", "bf16", "q8"):
        rough = _predict_probe_logprobs(compute_as_runtime(copy.deepcopy(model), kind), rows).values
        noise[kind] = max(MIN_TOLERANCE_NATS, float((rough - exact).pow(2).mean().sqrt()))
    return {kind: round(nats, 6) for kind, nats in noise.items()}


def _iterate_probes_by_distance(
    probes: _Probes, own: _Predictions, far: torch.Tensor
) -> Iterator[tuple[int | float, ...]]:
    """Yield the probes, those first where the base is farthest."""
    for at in far.argsort(descending=True, stable=True).tolist():
        yield (*probes.numbers[at], int(own.ids[at, 0]), *(round(v, 4) for v in own.values[at].tolist()))
