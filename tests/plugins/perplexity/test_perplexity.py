"""Perplexity and drift: the numbers, their weights, and what happens to rows without text."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import Logprob, ModelRef, Sample, UsageError
from harness_perplexity import drift, perplexity

PERPLEXITY, BITS = {m.name: m for m in perplexity.metrics}.values()


class CharacterModel:
    """A fake: a letter costs its place in the alphabet in tenths of a nat, a token is a character."""

    name, digest = "fake", "0"

    def __init__(self) -> None:
        self.asked: list[tuple[Any, str]] = []

    def logprobs(self, pairs: Sequence[tuple[Any, str]]) -> list[Logprob]:
        self.asked += pairs
        return [Logprob(-sum(ord(c) % 32 / 10 for c in t), len(t), len(t.encode()), False) for _, t in pairs]

    def token_kl(self, texts: Sequence[str], against: Any) -> list[tuple[float, int]]:
        return [(len(t) * 0.25 + (t[0] == "x"), len(t)) for t in texts]


def make_samples(*texts: str) -> list[Sample]:
    return [Sample(str(i), row={"text": t}) for i, t in enumerate(texts)]


def test_perplexity_is_weighted_by_tokens() -> None:
    """Perplexity is exp(sum of nats / sum of tokens), not a mean of rows or of batches."""
    scores = list(perplexity(CharacterModel(), make_samples("a", "zzzz")))
    assert PERPLEXITY.value(scores) == pytest.approx(math.exp((0.1 + 4 * 2.6) / 5))
    assert [s.weight for s in scores] == [1, 4]
    assert scores[1].values["perplexity"] == pytest.approx(2.6)


def test_bits_per_byte_are_weighted_by_bytes() -> None:
    """Bits per byte divide by UTF-8 bytes, so that a text of two-byte letters counts its bytes."""
    scores = list(perplexity(CharacterModel(), make_samples("a", "éé")))
    nats = 0.1 + 2 * (ord("é") % 32) / 10
    assert BITS.value(scores) == pytest.approx(nats / math.log(2) / 5)


def test_chunks_change_nothing() -> None:
    """Rows scored one at a time or all at once give equal scores."""
    samples = make_samples("alpha", "beta", "gamma", "delta")
    whole = list(perplexity(CharacterModel(), samples))
    pieces = [score for sample in samples for score in perplexity(CharacterModel(), [sample])]
    assert whole == pieces


def test_text_comes_from_the_column_or_the_input() -> None:
    """A row's column is scored after nothing; a row without it is scored by its input."""
    model = CharacterModel()
    samples = [Sample("1", row={"body": "from the column"}), Sample("2", "from the input")]
    list(perplexity(model, samples, column="body"))
    assert model.asked == [("", "from the column"), ("", "from the input")]


def test_completions_follow_their_prompt() -> None:
    """After text the target gets a space, after messages it is as it is; of several targets the first."""
    model = CharacterModel()
    chat = [{"role": "user", "content": "capital of France?"}]
    samples = [Sample("1", "capital of France:", "Paris"), Sample("2", chat, ["Paris", "Paris, France"])]
    list(perplexity(model, samples, of="completion"))
    assert model.asked == [("capital of France:", " Paris"), (chat, "Paris")]


@pytest.mark.parametrize(
    ("sample", "of"),
    [
        (Sample("r7", ""), "text"),
        (Sample("r7", "  \n"), "text"),
        (Sample("r7", [{"role": "user", "content": "hi"}]), "text"),
        (Sample("r7", "input", row={"text": 3}), "text"),
        (Sample("r7", "input", ""), "completion"),
        (Sample("r7", "input", []), "completion"),
    ],
)
def test_a_row_without_text_is_named(sample: Sample, of: Any) -> None:
    """A row with nothing to score stops the evaluation and says which row."""
    with pytest.raises(UsageError, match='row "r7"'):
        list(perplexity(CharacterModel(), [Sample("ok", "fine", "fine"), sample], of=of))


def test_a_text_of_no_tokens_is_not_a_perfect_one() -> None:
    """Where a tokenizer leaves nothing, the value is NaN, which a gate turns into an error, and never 0."""

    class Deaf(CharacterModel):
        def logprobs(self, pairs: Sequence[tuple[Any, str]]) -> list[Logprob]:
            return [Logprob(0.0, 0, 0, True) for _ in pairs]

    (score,) = perplexity(Deaf(), make_samples("x"))
    assert math.isnan(score.values["perplexity"])
    assert math.isnan(PERPLEXITY.value([score]))


def test_drift_is_a_mean_over_tokens() -> None:
    """Drift sums the divergence over all tokens and divides by their number."""
    (kl,) = drift.metrics
    scores = list(drift(CharacterModel(), make_samples("abcd", "x"), against=CharacterModel()))
    assert kl.value(scores) == pytest.approx((4 * 0.25 + 0.25 + 1) / 5)
    assert kl.better == "lower"


def test_drift_needs_a_model_that_gives_distributions() -> None:
    """A model behind an API has no distributions: one clear line."""

    class Remote:
        name = "gpt"

    with pytest.raises(UsageError, match='"gpt" does not return token distributions'):
        list(drift(Remote(), make_samples("a"), against=Remote()))  # type: ignore[arg-type]


def test_importing_the_plugins_is_light() -> None:
    """Collection imports the plugins, so they load no numerical library."""
    code = "import sys, harness_perplexity, harness_domain\n"
    code += "print([m for m in ('numpy', 'scipy', 'torch', 'evaluate', 'datasets') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_perplexity_is_lm_evals(tmp_path: Path) -> None:
    """Log-likelihoods of short and of long texts are what lm-evaluation-harness rolls behind one BOS.

    It puts one there itself, so its tokenizer must not: with that of the model it would score the second of two.
    """
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from harness_hf import load
    from harness_hf.tiny import CONTEXT_TOKENS, build_tiny_model

    folder = str(build_tiny_model(tmp_path / "tiny"))
    texts = ["A short text.", "Überlänge: naïve café.", "0123456789 " * (CONTEXT_TOKENS // 4)]
    with load([ModelRef("tiny", folder)], dtype="float32", device="cpu") as (subject,):
        scores = list(perplexity(subject, make_samples(*texts)))
    about = json.loads((tmp_path / "tiny" / "tokenizer.json").read_text("utf-8"))
    (tmp_path / "tiny" / "tokenizer.json").write_text(json.dumps(about | {"post_processor": None}), "utf-8")
    reference = HFLM(pretrained=folder, dtype="float32", device="cpu", batch_size=1)
    requests = [Instance("loglikelihood_rolling", {}, (t,), i) for i, t in enumerate(texts)]
    expected = reference.loglikelihood_rolling(requests, disable_tqdm=True)
    assert [s.values["perplexity"] * s.weight for s in scores] == pytest.approx([-e for e in expected], rel=1e-5)
    size = sum(len(t.encode()) for t in texts)
    assert BITS.value(scores) == pytest.approx(-sum(expected) / math.log(2) / size, rel=1e-5)
