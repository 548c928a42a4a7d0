"""The loss is the model's: what is trained on against the log-probabilities of a model's own logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
trl_utils = pytest.importorskip("trl.trainer.utils")

from bench import architectures  # noqa: E402
from harness.errors import UsageError  # noqa: E402
from harness.records.models import ModelRef, Progress  # noqa: E402
from harness_hf import TOKEN_STATISTICS  # noqa: E402
from harness_hf.models import load_model, quiet_loading  # noqa: E402
from harness_lora import lora  # noqa: E402
from harness_preference import dpo, kto  # noqa: E402
from harness_sft import likelihood, sft  # noqa: E402

pytestmark = pytest.mark.slow
ROWS = [{"prompt": f"what is {i}?", "completion": f" it is {i * i}"} for i in range(16)]
PAIRS = [{"prompt": r["prompt"], "chosen": r["completion"], "rejected": " no"} for r in ROWS]
LABELLED = [{**r, "label": i % 2 == 0} for i, r in enumerate(ROWS)]
KNOWN: dict[str, dict[str, Any]] = {  # classes whose scale, cap or router TRL knows
    "LlamaForCausalLM": {},
    "GraniteForCausalLM": {"logits_scaling": 4.0},
    "Gemma2ForCausalLM": {"final_logit_softcapping": 2.0},
    "MixtralForCausalLM": {"output_router_logits": True},
}
UNKNOWN = ["ModernBertDecoderForCausalLM", "InklingForCausalLM", "Llama4ForCausalLM"]
BATCH = {"input_ids": torch.arange(20, 60)[None], "attention_mask": torch.ones(1, 40, dtype=torch.long)}
BATCH["labels"] = torch.where(torch.arange(40) < 10, -100, BATCH["input_ids"])


def build_model(name: str, folder: Path, **more: Any) -> ModelRef:
    """Write a small random model of a class."""
    architectures.build(name, folder / name, **more)
    return ModelRef("base", str(folder / name), options={"device": "cpu", "dtype": "float32"})


def load_with_fused_head(ref: ModelRef) -> Any:
    """Return a model as TRL patches it, with all that its trainers ask of it."""
    model = load_model(ref.path, dtype="float32", device="cpu")
    trl_utils.add_fused_lm_head(model, outputs=("log_probs", *TOKEN_STATISTICS))
    return model


def train_on_base(use: Any, ref: ModelRef, rows: Any, folder: Path, **more: Any) -> tuple[Path, list[str]]:
    """Train on a base; return what was written, and the remarks."""
    told: list[str] = []

    def progress(one: Progress) -> None:
        told.extend([one.remark] * ("TRL" in one.remark))

    recipe = {"max_length": 64, "gradient_accumulation_steps": 1, "learning_rate": 1e-2, "num_train_epochs": 1} | more
    adapter = recipe.pop("adapter", None)
    return use(ref, adapter, rows, folder / "run" / "made", progress=progress, seed=3, **recipe), told


def compute_nll(path: str | Path) -> float:
    """Return the negative log-likelihood a token of a model's answers to the rows, from its own logits."""
    model = load_model(path, dtype="float32", device="cpu")
    ids = sft.build(ModelRef("base", str(path)), None, ROWS, seed=3).examples
    total = tokens = 0.0
    for example in ids:
        labels = torch.tensor(example.labels)[1:]
        with torch.no_grad():
            logp = model(torch.tensor([example.ids]), use_cache=False).logits[0, :-1].log_softmax(-1)
        total -= float(logp[labels != -100].gather(1, labels[labels != -100, None]).sum())
        tokens += int((labels != -100).sum())
    return total / tokens


@pytest.mark.parametrize("name", KNOWN)
def test_what_trl_knows_is_no_alarm(name: str, tmp_path: Path) -> None:
    """Scales, caps and routers that TRL reads leave the log-probabilities what the model says."""
    model = load_with_fused_head(build_model(name, tmp_path, **KNOWN[name]))
    apart, limit = likelihood.logprob_mismatch(model, BATCH | {"output_router_logits": name.startswith("Mixtral")})
    assert apart < 1e-5 < limit < 1.1e-3
    assert likelihood.choose_loss(model, BATCH) == ""


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_trl_does_not_know_is_trained_from_its_own_logits(name: str, tmp_path: Path) -> None:
    """A head that is another is found, in words, and afterwards what is trained on is the model's own."""
    model = load_with_fused_head(build_model(name, tmp_path))
    assert likelihood.logprob_mismatch(model, BATCH)[0] > 0.1
    told = likelihood.choose_loss(model, BATCH)
    assert name in told and told.startswith("TRL's fused head ") and "\n" not in told
    assert likelihood.logprob_mismatch(model, BATCH)[0] < 1e-5


def test_a_masked_vocabulary_hides_nothing(tmp_path: Path) -> None:
    """Logits that are far below all others, as of tokens that are none, round to no wide limit."""
    model = load_with_fused_head(build_model("ModernBertDecoderForCausalLM", tmp_path))
    torch.nn.init.constant_(model.decoder.bias[7:8], -1e30)
    apart, limit = likelihood.logprob_mismatch(model, BATCH)
    assert limit < 1.1e-3 < apart


def test_where_neither_way_is_the_models_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained on another number than the model's."""
    monkeypatch.setattr(likelihood, "use_own_logits", lambda model: None)
    with pytest.raises(
        UsageError,
        match=r"ModernBertDecoderForCausalLM: .* in training differ by .* nats from the model's own, limit",
    ):
        likelihood.choose_loss(load_with_fused_head(build_model("ModernBertDecoderForCausalLM", tmp_path)), BATCH)


def test_own_logits_give_what_trl_gives(tmp_path: Path) -> None:
    """Log-probabilities, what is logged of them and the gradient, where TRL's are right."""
    found = []
    for change in (lambda model: None, likelihood.use_own_logits):
        model = load_with_fused_head(build_model("LlamaForCausalLM", tmp_path))
        change(model)
        made = model(**BATCH, fused_lm_head=True)
        made.log_probs.sum().backward()
        fields = [made[name].detach().float() for name in ("log_probs", *TOKEN_STATISTICS, "label_mask")]
        found.append([*fields, *(p.grad for p in model.parameters())])
        assert model(**BATCH).logits.shape[1] == 40
    for ours, theirs in zip(*found, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4, rel=1e-4)


def test_looking_changes_nothing(tmp_path: Path) -> None:
    """No random number is drawn, and each module is left in its own mode; numbers that are not finite are T2's."""
    model = load_with_fused_head(build_model("LlamaForCausalLM", tmp_path)).train()
    model.lm_head.eval()
    before = torch.get_rng_state(), [module.training for module in model.modules()]
    likelihood.choose_loss(model, BATCH)
    after = torch.get_rng_state(), [module.training for module in model.modules()]
    assert torch.equal(before[0], after[0]) and before[1] == after[1]
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    assert likelihood.logprob_mismatch(model, BATCH)[0] == 0.0


@pytest.mark.parametrize("name", ["ModernBertDecoderForCausalLM", "Llama4ForCausalLM"])
def test_all_weights_learn_the_rows(name: str, tmp_path: Path) -> None:
    """A class that TRL trained on another loss, or not at all, now has a likelihood that rises, and it is told."""
    ref = build_model(name, tmp_path)
    out, told = train_on_base(sft, ref, ROWS, tmp_path, num_train_epochs=3, per_device_train_batch_size=4)
    assert len(told) == 1
    note = json.loads((out / "harness-adapter.json").read_text())["facts"]
    assert note["own_logits"] is True
    assert compute_nll(out) < compute_nll(ref.path) - 1
    assert note["train_loss"] < compute_nll(ref.path)


@pytest.mark.parametrize(("use", "rows"), [(dpo, PAIRS), (kto, LABELLED)])
@pytest.mark.parametrize("adapted", [False, True])
def test_judged_answers_are_of_the_models_likelihood(use: Any, rows: Any, adapted: bool, tmp_path: Path) -> None:
    """DPO and KTO go without the fused head too, with their reference: the first rewards are zero."""
    adapter = lora(lora_dropout=0.0, r=4) if adapted else None
    ref = build_model("ModernBertDecoderForCausalLM", tmp_path)
    out, told = train_on_base(
        use, ref, rows, tmp_path, adapter=adapter, per_device_train_batch_size=4, learning_rate=1e-3
    )
    facts = json.loads((out / "harness-adapter.json").read_text())["facts"]
    assert len(told) == 1 and facts["own_logits"] is True
    assert facts["first_reward"] == pytest.approx(0.0, abs=1e-5)
    assert facts["reward_margin"] > 0


@pytest.mark.parametrize(
    ("use", "rows", "options"),
    [
        (sft, ROWS, {"loss_type": "dft"}),
        (sft, ROWS, {"label_smoothing_factor": 0.1}),
        (sft, ROWS, {"packing": True, "neftune_noise_alpha": 5.0}),
        (dpo, PAIRS, {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.5, 0.5]}),
        (kto, LABELLED, {"undesirable_weight": 2.0, "per_device_train_batch_size": 4}),
    ],
)
@pytest.mark.filterwarnings("ignore:`label_smoothing_factor` is deprecated")
def test_weights_and_smoothing_are_no_alarm(
    use: Any, rows: Any, options: Any, tiny_model: Path, tmp_path: Path
) -> None:
    """What is done with log-probabilities afterwards is no other likelihood."""
    ref = ModelRef("base", str(tiny_model), options={"device": "cpu", "dtype": "float32"})
    out, told = train_on_base(use, ref, rows, tmp_path, adapter=lora(r=4), max_steps=1, **options)
    assert told == []
    assert "own_logits" not in json.loads((out / "harness-adapter.json").read_text())["facts"]


@pytest.mark.parametrize(("use", "rows"), [(sft, ROWS), (dpo, PAIRS), (kto, LABELLED)])
def test_a_skeleton_tells_before_a_base_is_loaded(use: Any, rows: Any, tiny_model: Path, tmp_path: Path) -> None:
    """`harness check` finds the class by two layers of random weights."""
    base, state = build_model(UNKNOWN[0], tmp_path), torch.get_rng_state()
    told = [use.build(base, None, rows, seed=seed).slow for seed in (3, 4)]
    assert "ModernBertDecoderForCausalLM" in told[0] == told[1]
    assert torch.equal(torch.get_rng_state(), state)
    assert use.build(ModelRef("base", str(tiny_model)), None, rows, seed=3).slow == ""


def test_a_router_that_lora_would_break_is_refused_before_loading(tmp_path: Path) -> None:
    """A router that returns two tensors, which PEFT cannot wrap, is left out of "all-linear" and refused by name."""
    ref = build_model("Llama4ForCausalLM", tmp_path)
    with (
        quiet_loading(),
        pytest.raises(UsageError, match='target_modules "router": cannot be adapted on a base of type "llama4_text"'),
    ):
        lora(target_modules=["router", "q_proj"]).check_targets(ref.path)
    adapter = lora(target_modules="all-linear", lora_dropout=0.0)
    adapter.check_targets(ref.path)
    _, told = train_on_base(sft, ref, ROWS, tmp_path, adapter=adapter)
    assert len(told) == 1
