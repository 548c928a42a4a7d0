"""vLLM in this process: started with what makes its answers ours, asked with token ids."""
# ruff: noqa: TID253 (imported only where a model is loaded)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from harness import CheckFailedError, Generate, UsageError
from harness_hf import format_one_line, free_memory
from harness_vllm import environment
from harness_vllm.environment import Flags

# its own are 128, and all there is
ON_GPU = {"max_num_batched_tokens": 2048}  # each has its logits whole in `prompt_logprobs`, beside what vLLM plans for
MEMORY_SHARE = 0.8  # of a card, for the same reason
ON_CPU = {"block_size": 32, "enforce_eager": True, "kv_cache_memory_bytes": 2 << 30}


class EngineOutput(Protocol):
    """vLLM's output for a scored prompt.

    `prompt_logprobs` has a mapping per token of the prompt, from a token to its `logprob` and `rank`.
    """

    prompt_logprobs: Sequence[Mapping[int, Any] | None] | None
    num_cached_tokens: int | None


class EngineAnswer(Protocol):
    """vLLM's output for a generated answer."""

    token_ids: Sequence[int]
    text: str
    finish_reason: str | None
    stop_reason: int | str | None


class VLLM:
    """An engine with a model.

    `room` is the capacity of its cache in tokens, in blocks of `block` tokens. Raises UsageError if the model does not
    fit into memory, cannot be loaded, or is computed in another dtype.
    """

    def __init__(self, name: str, folder: Path, dtype: torch.dtype, length: int, flags: Flags, share: int) -> None:
        vllm = environment.import_vllm(batch_invariant=flags.batch_invariant)
        self._params = vllm.SamplingParams
        try:
            self._llm = vllm.LLM(str(folder), **_make_arguments(dtype, length, flags, share))
            about, inner = self._llm.llm_engine.vllm_config, self._llm.llm_engine.engine_core.engine_core
            self.block = int(about.cache_config.block_size)
            caches = inner.scheduler.kv_cache_config
            self.room = caches.num_blocks // max(1, len(caches.kv_cache_groups)) * self.block
            found = about.model_config.dtype
        except torch.OutOfMemoryError as error:
            what = (
                f"does not fit into memory: {format_one_line(error)}; choose a smaller dtype, or a tensor_parallel_size"
            )
            raise UsageError(f'model "{name}": {what}') from None
        except Exception as error:  # whatever it calls what it does not take
            raise UsageError(f'model "{name}": vLLM cannot load it: {format_one_line(error)}') from None
        if found != dtype:
            what = f"vLLM computes in {found} instead of {dtype}"
            raise UsageError(f'model "{name}": {what}; name another dtype')

    def score(self, prompts: Sequence[list[int]], *, reads: bool) -> Sequence[EngineOutput]:
        """Score every token of each prompt. `reads` allows reading the prefix cache."""
        how = self._params(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
        how.skip_reading_prefix_cache = not reads
        return self._ask(prompts, [how] * len(prompts))

    def answer(
        self, prompts: Sequence[list[int]], how: Generate, most: Sequence[int], stops: Sequence[int]
    ) -> Sequence[EngineAnswer]:
        """Generate an answer to each prompt.

        It ends at a stop string, one of `stops` or its `most` tokens. Raises CheckFailedError if a log-probability is
        not finite.
        """
        seeds: Sequence[int | None] = [None] * len(prompts)
        chosen: dict[str, Any] = {"stop": [s for s in how.stop if s], "stop_token_ids": list(stops), "logprobs": 0}
        chosen["temperature"] = 0
        if drawn := how.drawn:
            chosen |= {"temperature": drawn.temperature, "top_p": drawn.top_p, "top_k": drawn.top_k}
            seeds = [seed % (1 << 63) for seed in drawn.seeds]
        each = [self._params(max_tokens=n, seed=seed, **chosen) for n, seed in zip(most, seeds, strict=True)]
        answers = [output.outputs[0] for output in self._ask(prompts, each)]
        for answer in answers:
            rows = zip(answer.token_ids, answer.logprobs or (), strict=True)
            if not all(abs(row[token].logprob) < float("inf") for token, row in rows):
                raise CheckFailedError("generation: the model's logits are not finite")
        return answers

    def forget(self) -> None:
        """Empty the prefix cache."""
        if not self._llm.reset_prefix_cache():
            raise CheckFailedError("vllm: its prefix cache could not be emptied")

    def close(self) -> None:
        """End the engine, and give its memory back."""
        del self._llm
        free_memory()

    def _ask(self, prompts: Sequence[list[int]], params: Sequence[Any]) -> list[Any]:
        given = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        try:
            return list(self._llm.generate(given, list(params), use_tqdm=False)) if given else []
        except torch.OutOfMemoryError as error:
            what = "lower gpu_memory_utilization, or max_num_batched_tokens in [model.engine]"
            raise UsageError(f"[model]: vLLM ran out of memory: {format_one_line(error)}; {what}") from None


def _make_arguments(dtype: torch.dtype, length: int, flags: Flags, share: int) -> dict[str, Any]:
    """Return the arguments of `vllm.LLM`. Memory is divided so that `share` engines fit beside each other."""
    ours: dict[str, Any] = {
        "dtype": str(dtype).removeprefix("torch."),
        "tensor_parallel_size": flags.tensor_parallel_size,
        "max_model_len": length,
        "enable_prefix_caching": True,
        "generation_config": "vllm",  # a model's own defaults of sampling are not asked for
        "trust_remote_code": False,
        "disable_log_stats": True,
        "seed": 0,
    }
    if torch.cuda.is_available():
        ours["gpu_memory_utilization"] = (flags.gpu_memory_utilization or MEMORY_SHARE) / share
    return (ON_GPU if torch.cuda.is_available() else ON_CPU) | dict(flags.engine or {}) | ours
