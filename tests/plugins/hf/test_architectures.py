"""Architectures: a sample of what `make architectures` checks, and the few that need more than others."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

import harness_hf
from bench import architectures
from harness.errors import UsageError
from harness.records.models import ModelRef

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

pytestmark = pytest.mark.slow

WHOLE = "its cache does not reproduce a plain forward: answers are generated without a cache"
LONGROPE = {
    "rope_parameters": {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8},
    "original_max_position_embeddings": 32,
}
SAMPLE: dict[str, tuple[dict[str, Any], str, str]] = {  # options, how it scores, a note
    "LlamaForCausalLM": ({}, "shares prefixes", ""),
    "Qwen3ForCausalLM": ({}, "shares prefixes", ""),
    "MistralForCausalLM": ({"sliding_window": 8}, "plain", "its cache layers are DynamicSlidingWindowLayer"),
    "GPT2LMHeadModel": ({}, "plain", "its positions are not rotary"),
    "MambaForCausalLM": ({}, "plain", "its forward lacks position_ids, cache, logits_to_keep or attention_mask"),
    "FalconForCausalLM": ({"alibi": True}, "plain", "its positions are not rotary"),
    "BambaForCausalLM": ({}, "plain", "its cache layers are LinearAttentionLayer"),
    "RecurrentGemmaForCausalLM": ({}, "plain", WHOLE),
    "RwkvForCausalLM": ({}, "plain", WHOLE),
    "Phi3ForCausalLM": (LONGROPE, "plain", "its rotary positions are longrope"),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what was read of models in the test's own folder."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", SAMPLE)
def test_a_class_does_what_a_plain_forward_does(name: str, tmp_path: Path) -> None:
    """Scores, greedy answers, the merged model and the export, of a small random model of every kind."""
    options, scores, note = SAMPLE[name]
    row = architectures.check(name, tmp_path, **options)
    assert row.right, row
    assert row.kind == scores
    assert note in row.note


@pytest.mark.parametrize(("name", "options"), [("CpmAntForCausalLM", {}), ("BertLMHeadModel", {"is_decoder": False})])
def test_a_class_that_looks_ahead_is_refused(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """What sees the tokens it should predict has neither log-probabilities nor answers, and is named."""
    row = architectures.check(name, tmp_path, **options)
    assert row.kind.startswith("refused: is not causal: later tokens change its predictions")


def test_a_sparse_class_is_looked_at_beyond_what_it_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An indexer that chooses among tokens to come is seen only in rows that are longer than what it chooses."""
    from transformers.models.deepseek_v32.modeling_deepseek_v32 import DeepseekV32Indexer

    architectures.build("DeepseekV32ForCausalLM", tmp_path, index_topk=16)
    refs = [ModelRef("base", str(tmp_path))]
    with harness_hf.load(refs, dtype="float32"):
        choose = DeepseekV32Indexer.forward

    def ahead(self: Any, hidden: Any, q: Any, positions: Any, mask: Any, *more: Any, **given: Any) -> Any:
        return choose(self, hidden, q, positions, torch.ones_like(mask), *more, **given)

    monkeypatch.setattr(DeepseekV32Indexer, "forward", ahead)
    with pytest.raises(UsageError, match="is not causal"), harness_hf.load(refs, dtype="float32"):
        pass


def test_a_class_that_cannot_be_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a forward of tokens alone fails there is one line that names the class."""
    architectures.build("GPT2LMHeadModel", tmp_path)
    monkeypatch.setattr(transformers.GPT2LMHeadModel, "forward", lambda self, input_ids, **_: input_ids.missing)
    with (
        pytest.raises(UsageError, match=r"GPT2LMHeadModel cannot be run on tokens alone: .*'missing'"),
        harness_hf.load([ModelRef("base", str(tmp_path))], dtype="float32"),
    ):
        pass


def test_longrope_depends_on_the_row_alone(tmp_path: Path) -> None:
    """A short row in a long one's company keeps its score, and an answer over the boundary is turned anew."""
    architectures.build("Phi3ForCausalLM", tmp_path, **LONGROPE)
    pairs = [("a b", " c"), ("x" * 40, " y")]
    with harness_hf.load([ModelRef("base", str(tmp_path))], dtype="float32") as [subject]:
        alone = [subject.logprobs([pair])[0].total for pair in pairs]
        assert [p.total for p in subject.logprobs(pairs)] == pytest.approx(alone, abs=1e-4)
        ids = subject.tokens.encode_prompts(["z" * 24])[0]
        for _ in range(20):
            with torch.inference_mode():
                ids.append(int(subject.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        assert subject.generate(["z" * 24], max_new_tokens=20) == [subject.tokens.decode(ids[25:])]
        assert WHOLE not in str(subject.notes)


def test_every_class_is_checked() -> None:
    """The page's list is that of all auto classes; most are refused by what they are, each in a few words."""
    names = architectures.list_classes()
    assert len(names) > 1000
    assert set(SAMPLE) <= set(names)
    assert all(inspect.isclass(getattr(transformers, name)) for name in SAMPLE)
    refused = {name: architectures.find_refusal(name) for name in names}
    assert not [why for why in refused.values() if why is not None and not 10 < len(why) < 100]
    assert all(refused[name] is None for name in SAMPLE)
    assert {"BertForMaskedLM", "T5ForConditionalGeneration", "CLIPModel"} <= {n for n, why in refused.items() if why}
