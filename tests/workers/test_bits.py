"""A real model in real workers: the bits of one process, of one worker, of two and of five are the same."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.records.models import ModelRef, Sampling
from harness.workers import chunks, gpus
from harness.workers.loading import load_in_process
from harness.workers.local import LocalWorkers
from harness.workers.pool import LoadRequest, Pool

OPTIONS = {"dtype": "bfloat16", "device": "cpu", "threads": 1}


def ask_everything(subject: Any, other: Any) -> list[Any]:
    """Ask all that can be asked, in bfloat16, where a row's company shows in its last bits."""
    rng = random.Random(1)
    words = ["the", "red", "sky", "over", "a", "green", "house", "was", "never", "so", "blue", "as", "grass"]
    texts = [" ".join(rng.choices(words, k=rng.randrange(3, 30))) for _ in range(60)]
    pairs = [(text, f" {word}") for text in texts for word in words[:3]]
    drawn = Sampling(1.0, seeds=tuple(range(60)))
    return [
        subject.logprobs(pairs),
        subject.logprobs([("", text) for text in texts]),
        subject.generate(texts, max_new_tokens=6),
        subject.generate(texts, max_new_tokens=6, sampling=drawn),
        subject.token_kl(texts, other),
        subject.count_tokens(pairs),
        [subject.nbytes, subject.context],
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_one_process_and_one_two_and_five_workers_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a worker is killed; a mistake of the model's arrives as it is in one process."""
    import harness_hf

    monkeypatch.setattr(chunks, "CHUNK_CHARS", 700)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(gpus, "NODES", ())
    path = str(harness_hf.open_source("tiny:llama").path)
    refs = [ModelRef(name, path, options=OPTIONS) for name in ("one", "other")]
    signs: list[Any] = []
    with load_in_process(harness_hf.load, refs, signs.append) as [one, other]:
        here = ask_everything(one, other)
        with pytest.raises(UsageError) as mistake:
            one.logprobs([("a", "")])
    assert len(signs) > 20  # pieces
    for count in (1, 2, 5):
        pool = Pool(
            LocalWorkers(str(count)), LoadRequest("hf", refs, str(Path.cwd() / "none.toml"), []), lambda _: None
        )
        with pool.load_models() as [one, other]:
            if count == 2:
                stream = one.stream_generate(["say a", "say b"], max_new_tokens=2)  # type: ignore[attr-defined]
                os.kill(pool.alive[0]._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
                assert len(dict(stream)) == 2
            assert ask_everything(one, other) == here, count
            with pytest.raises(UsageError) as there:
                one.logprobs([("a", "")])
            assert str(there.value) == str(mistake.value)
        assert pool.lost == (count == 2)
