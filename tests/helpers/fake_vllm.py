"""A `vllm` that behaves as the real one was seen to (0.32 on a CPU): tests copy it to a folder on the path.

What it says of a token depends on the tokens before it alone, so `truth` tells what it must say whatever is cached.
Seen: positions that come from the prefix cache have rows of what lay in their memory, any token with any number, also
subnormal ones; `num_cached_tokens` is of a request's first turn; one that is put back for want of blocks begins again
and reads what others left in the cache since. Prompts with `prompt_logprobs` read no cache unless they are told to.
"""

from __future__ import annotations

import json
import math
import random
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

__version__ = "0.32.0"
EOS, VOCABULARY = 2, 200
BYTES = 64  # that a token takes in the cache
KNOWN = ("dtype", "tensor_parallel_size", "max_model_len", "enable_prefix_caching", "generation_config", "seed")
KNOWN += ("trust_remote_code", "disable_log_stats", "block_size", "enforce_eager", "kv_cache_memory_bytes")
STARTED: list[dict[str, Any]] = []  # the arguments of every engine
BROKEN: dict[str, Any] = {}  # how a test breaks it: "stale" ignores the switch, "nan" has no numbers, "other" is off


def _hash(*what: Any) -> int:
    return zlib.crc32(repr(what).encode())


def likeliest(before: list[int]) -> int:
    """Return the token that is likeliest after others."""
    return 3 + _hash(len(before), before[-4:]) % (VOCABULARY - 3) if len(before) % 97 else EOS


def truth(before: list[int], token: int) -> float:
    """Return the log-probability of a token after others."""
    return -0.01 if token == likeliest(before) else -1 - _hash(len(before), before[-4:], token) % 9000 / 1000


@dataclass
class Logprob:
    logprob: float
    rank: int
    decoded_token: str | None = None


@dataclass
class SamplingParams:
    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_reading_prefix_cache: bool | None = None

    def __post_init__(self) -> None:
        if self.skip_reading_prefix_cache is None:
            self.skip_reading_prefix_cache = self.prompt_logprobs is not None


class LLM:
    """An engine whose cache holds blocks by the tokens up to their end."""

    def __init__(self, model: str, **options: Any) -> None:
        if unknown := sorted(set(options) - set(KNOWN)):
            raise TypeError(f"EngineArgs has no {unknown[0]}")
        STARTED.append({"model": model, **options})
        config = json.loads((Path(model) / "config.json").read_text("utf-8"))
        if not any(Path(model).glob("*.safetensors")):
            raise ValueError(f"no weights in {model}")
        if options["max_model_len"] > config.get("max_position_embeddings", math.inf):
            raise ValueError("max_model_len is greater than the derived one")
        self.model, self.length, self.block = model, options["max_model_len"], options["block_size"]
        self.blocks = options["kv_cache_memory_bytes"] // (self.block * BYTES)
        if self.blocks * self.block < self.length:
            raise ValueError("the KV cache is too small for one request of max_model_len; increase it")
        self.cached: dict[tuple[int, ...], None] = {}
        self.luck = random.Random(0)
        cache, dtype = SimpleNamespace(block_size=self.block), SimpleNamespace(dtype=_choose_dtype(options["dtype"]))
        caches = SimpleNamespace(num_blocks=self.blocks, kv_cache_groups=[object()])
        inner = SimpleNamespace(scheduler=SimpleNamespace(kv_cache_config=caches))
        self.llm_engine = SimpleNamespace(
            vllm_config=SimpleNamespace(cache_config=cache, model_config=dtype),
            engine_core=SimpleNamespace(engine_core=inner),
        )

    def reset_prefix_cache(self) -> bool:
        self.cached.clear()
        return True

    def generate(self, prompts: list[dict[str, Any]], params: list[SamplingParams], use_tqdm: bool) -> list[Any]:
        asked = [(list(p["prompt_token_ids"]), how) for p, how in zip(prompts, params, strict=True)]
        for ids, how in asked:
            if len(ids) + how.max_tokens > self.length:
                raise ValueError("The decoder prompt is longer than the maximum model length")
        firsts, used, whole = [], 0, len(asked)
        for i, (ids, how) in enumerate(asked):
            firsts.append(self._hit(ids, how))
            used += math.ceil((len(ids) + 1) / self.block)
            if used > self.blocks and i:
                whole = min(whole, i)
            else:
                self._keep(ids)
        found = []
        for i, (ids, how) in enumerate(asked):
            stale = set(range(firsts[i]))
            if i >= whole:  # put back after half of its prompt
                begun = max(firsts[i], len(ids) // 2)
                stale |= set(range(begun, self._hit(ids, how)))
                self._keep(ids)
            found.append(self._output(ids, how, stale, firsts[i]))
        return found

    def _hit(self, ids: list[int], how: SamplingParams) -> int:
        if how.skip_reading_prefix_cache and not BROKEN.get("stale"):
            return 0
        sizes = range(self.block, len(ids), self.block)
        return max((n for n in sizes if all(tuple(ids[:m]) in self.cached for m in sizes if m <= n)), default=0)

    def _keep(self, ids: list[int]) -> None:
        for size in range(self.block, len(ids) + 1, self.block):
            self.cached.pop(tuple(ids[:size]), None)
            self.cached[tuple(ids[:size])] = None
        while len(self.cached) > self.blocks:
            del self.cached[next(iter(self.cached))]

    def _output(self, ids: list[int], how: SamplingParams, stale: set[int], first: int) -> Any:
        rows: list[Any] = [None]
        off = 0.0 if how.skip_reading_prefix_cache else BROKEN.get("other", 0.0)
        for i in range(1, len(ids)):  # the row of a position comes from the hidden state before it
            rows.append(self._memory(ids[i]) if i - 1 in stale else {ids[i]: self._said(ids[:i], ids[i], off)})
        told = rows if how.prompt_logprobs is not None else None
        return SimpleNamespace(
            prompt_token_ids=ids, prompt_logprobs=told, num_cached_tokens=first, outputs=[self._answer(ids, how)]
        )

    def _said(self, before: list[int], token: int, off: float = 0.0) -> Logprob:
        value = math.nan if BROKEN.get("nan") else truth(before, token) - off
        return Logprob(value, 1 if token == likeliest(before) else 2 + _hash(before[-4:], token) % 50)

    def _memory(self, token: int) -> dict[int, Logprob]:
        other = self.luck.choice([token, token, 22055, -1373398891])
        return {other: Logprob(self.luck.choice([0.0, 3.09e-41, -2.07e-05, -14.3]), self.luck.choice([0, 1, 22055]))}

    def _answer(self, ids: list[int], how: SamplingParams) -> Any:
        luck, made, rows, reason = random.Random(how.seed), list[int](), [], None
        while len(made) < how.max_tokens and reason is None:
            before = ids + made
            token = likeliest(before) if how.temperature == 0 else luck.randrange(3, VOCABULARY)
            made.append(token)
            rows.append({token: self._said(before, token)})
            if token in how.stop_token_ids:
                reason = token
            elif how.stop:
                reason = next((s for s in how.stop if s in self._text(made)), None)
        text = self._text(made) if how.detokenize and how.stop else ""
        told = rows if how.logprobs is not None else None
        # Some versions look at the length before they look for a stop token, others after.
        full = len(made) >= how.max_tokens and not isinstance(reason, str)
        finish = "length" if full or reason is None else "stop"
        return SimpleNamespace(token_ids=made, text=text, logprobs=told, finish_reason=finish, stop_reason=reason)

    def _text(self, ids: list[int]) -> str:
        from transformers import AutoTokenizer

        return str(AutoTokenizer.from_pretrained(self.model).decode(ids, skip_special_tokens=True))


def _choose_dtype(name: str) -> Any:
    import torch

    return torch.float16 if BROKEN.get("dtype") else getattr(torch, name)
