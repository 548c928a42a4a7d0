"""vLLM's side of a comparison: `PYTHON -P bench/vllm_engine.py JOB`, by the interpreter of vLLM's own environment.

Without -P it would import the vllm.py beside it. JOB is a JSON file; what was found is printed as the last line.
Imports nothing of this project, which is not there.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
ENGINE = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Load the model and do the job, "generation" or "choice"."""
    os.environ |= QUIET | ENGINE | {"VLLM_CPU_KVCACHE_SPACE": str(job["cache"])}
    import vllm

    engine = vllm.LLM(
        job["folder"],
        dtype=job["dtype"],
        max_model_len=job["context"],
        max_num_seqs=64,
        enable_prefix_caching=True,
        enforce_eager=True,
        disable_log_stats=True,
    )
    found: dict[str, Any] = {"generation": time_generation, "choice": time_choice}[job["part"]](
        engine, vllm.SamplingParams, job
    )
    return found | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "version": vllm.__version__}


def time_generation(engine: Any, params: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Answer each group's prompts, greedily; nothing of a group before is in the cache."""
    answers, seconds = [], []
    for group in [job["warm"], *job["groups"]]:
        engine.reset_prefix_cache()
        options = params(temperature=0, max_tokens=job["max_new_tokens"], stop=group["stop"])
        done, took = _time_call(lambda g=group, o=options: engine.generate(g["prompts"], o, use_tqdm=False))
        answers.append([output.outputs[0].text for output in done])
        seconds.append(took)
    return {"answers": [text for group in answers[1:] for text in group], "seconds": seconds[1:]}


def time_choice(engine: Any, params: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Score pairs of token ids, once reading the prefix cache and once as vLLM does by default.

    Rows of positions that came from the cache are not computed, so only those of the ending are read, and a request
    that had more of it in the cache is asked again without.
    """
    totals, seconds, again = [], [], 0
    for reads in (True, False):
        options = params(max_tokens=1, prompt_logprobs=0, detokenize=False)
        options.skip_reading_prefix_cache = not reads
        engine.reset_prefix_cache()
        _ask(engine, options, [job["warm"]])
        (found, repeated), took = _time_call(
            lambda o=options, r=reads: _score(engine, params, o, job["pairs"], cached=r)
        )
        totals, again = (found, repeated) if reads else (totals, again)
        seconds.append(took)
    return {"totals": totals, "seconds": seconds, "again": again}


def _score(
    engine: Any, params: Any, options: Any, pairs: Sequence[Sequence[list[int]]], *, cached: bool
) -> tuple[list[float], int]:
    done = _ask(engine, options, pairs[:1]) + _ask(engine, options, pairs[1:])  # the first fills the cache
    late = [i for i, output in enumerate(done) if cached and output.num_cached_tokens > len(pairs[i][0]) - 1]
    plain = params(max_tokens=1, prompt_logprobs=0, detokenize=False)
    for i, output in zip(late, _ask(engine, plain, [pairs[i] for i in late]), strict=True):
        done[i] = output
    return [_sum_logprobs(output, *pair) for output, pair in zip(done, pairs, strict=True)], len(late)


def _ask(engine: Any, options: Any, pairs: Sequence[Sequence[list[int]]]) -> list[Any]:
    prompts = [{"prompt_token_ids": context + ending} for context, ending in pairs]
    return list(engine.generate(prompts, options, use_tqdm=False)) if prompts else []


def _sum_logprobs(output: Any, context: list[int], ending: list[int]) -> float:
    rows = output.prompt_logprobs[len(context) :]
    return sum(row[token].logprob for row, token in zip(rows, ending, strict=True))


def _time_call(function: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.perf_counter()
    return function(), time.perf_counter() - begun


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text("utf-8")))))
