"""Every field of PEFT's LoraConfig: trained, merged and equal to PEFT's own merge, or refused before the training."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from harness.errors import UsageError  # noqa: E402
from harness.records.models import ModelRef  # noqa: E402
from harness_hf.models import load_model  # noqa: E402
from harness_lora import fields, lora, parity, qlora  # noqa: E402
from harness_lora.adapter import Lora  # noqa: E402
from harness_lora.parity import MergeFolders  # noqa: E402
from harness_sft import sft  # noqa: E402
from tests.helpers.late import import_late  # noqa: E402

peft, transformers = import_late("peft"), import_late("transformers")

pytestmark = [
    pytest.mark.xdist_group("peft"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning"),
]
DOCS = Path(__file__).parents[3] / "docs/reference/adapters.md"
IDS = torch.arange(20, 60).view(2, 20)
ROWS = [{"prompt": f"what is {i}?", "completion": f" it is {i * i}"} for i in range(8)]
RECIPE: dict[str, Any] = {"max_steps": 2, "learning_rate": 2e-2, "max_length": 64, "gradient_accumulation_steps": 1}
BLOCKS = {"target_modules_bd_a": ["o_proj"], "target_modules_bd_b": ["q_proj"], "nblocks": 2}

# Options of the adapter, and what else the base must be: "biased" has biases, "tied" one tensor for embedding and head.
BOTH: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"r": 4, "lora_alpha": 3, "lora_dropout": 0.1}, ""),
    ({"use_rslora": True}, ""),
    ({"use_dora": True}, ""),
    ({"use_dora": True, "use_rslora": True}, ""),
    ({"init_lora_weights": False}, ""),
    ({"init_lora_weights": "gaussian"}, ""),
    ({"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"layers.1.mlp.up_proj": 7}}, ""),
    ({"rank_pattern": {"q_proj": 4}, "use_rslora": True}, ""),
    ({"target_modules": r".*\.(q|v)_proj"}, ""),
    ({"exclude_modules": ["q_proj"]}, ""),
    ({"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1], "layers_pattern": "layers"}, ""),
    ({"target_modules": ["q_proj", "embed_tokens"]}, ""),
    ({"target_modules": ["q_proj", "embed_tokens"], "use_dora": True}, ""),
    ({"modules_to_save": ["lm_head", "norm"]}, ""),
    ({"target_modules": ["q_proj"], "target_parameters": ["mlp.up_proj.weight"], "lora_dropout": 0.0}, ""),
    ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, "tied"),
    ({"trainable_token_indices": [1, 2]}, ""),  # both are in every row
    ({"trainable_token_indices": {"embed_tokens": [1, 2]}}, ""),
    ({"bias": "all", "target_modules": ["q_proj"]}, "biased"),
    ({"bias": "lora_only", "target_modules": ["q_proj"]}, "biased"),
    ({"lora_bias": True, "rank_pattern": {"q_proj": 4}, "target_modules": ["q_proj", "v_proj"]}, "biased"),
]
FULL: list[tuple[dict[str, Any], str]] = [
    ({"init_lora_weights": "mica"}, ""),
    ({"init_lora_weights": "orthogonal"}, ""),
    ({"init_lora_weights": "pissa", "r": 8, "lora_dropout": 0.0}, ""),
    ({"init_lora_weights": "pissa_niter_4", "r": 8, "lora_dropout": 0.0}, ""),
    ({"init_lora_weights": "olora", "r": 8, "lora_dropout": 0.0}, ""),
    ({"velora_config": {"num_groups": 8}}, ""),
    ({"use_bdlora": BLOCKS, "target_modules": ["q_proj", "o_proj"]}, ""),
    ({"use_bdlora": {**BLOCKS, "match_strict": False}}, ""),
]
REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (
        lora,
        {"init_lora_weights": "eva"},
        'init_lora_weights "eva": EVA needs a pass over the data before training, which is not supported',
    ),
    (
        lora,
        {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}},
        (
            'option "loftq_config": is not supported in training: LoftQ changes the base, which is not supported; '
            "use qlora, or remove it"
        ),
    ),
    (
        lora,
        {"init_lora_weights": "corda"},
        'init_lora_weights "corda": CorDA needs a pass over the data before training, which is not supported',
    ),
    (
        lora,
        {"init_lora_weights": "lora_ga"},
        'init_lora_weights "lora_ga": LoRA-GA needs gradients before training, which are not supported',
    ),
    (lora, {"eva_config": {"rho": 2.0}}, 'option "eva_config": is not supported in training: EVA needs'),
    (lora, {"corda_config": {}}, 'option "corda_config": is not supported in training: CorDA needs'),
    (lora, {"lora_ga_config": {}}, 'option "lora_ga_config": is not supported in training: LoRA-GA needs'),
    (
        lora,
        {"monteclora_config": {"num_samples": 2}},
        'option "monteclora_config": is not supported in training: its loss',
    ),
    (lora, {"kasa_config": {}}, 'option "kasa_config": is not supported in training: KaSA changes the base'),
    (
        lora,
        {"alora_invocation_tokens": [3]},
        'option "alora_invocation_tokens": is not supported in training: it acts only after',
    ),
    (lora, {"arrow_config": {"top_k": 2}}, 'option "arrow_config": is not supported in training: it routes'),
    (
        lora,
        {"layer_replication": [[0, 1], [0, 1]]},
        'option "layer_replication": is not supported in training: it changes the layers of the model; remove it',
    ),
    (
        lora,
        {"use_qalora": True},
        'option "use_qalora": is not supported in training: PEFT supports it only on GPTQ bases',
    ),
    (lora, {"qalora_group_size": 8}, 'option "qalora_group_size": is not supported in training'),
    (
        lora,
        {"megatron_config": {}},
        'option "megatron_config": is not supported in training: the trainer does not support Megatron',
    ),
    (lora, {"megatron_core": "megatron.core"}, 'option "megatron_core": is not supported in training'),
    (lora, {"runtime_config": {}}, 'option "runtime_config": is not supported in training'),
    (
        qlora,
        {"use_bdlora": BLOCKS},
        (
            'option "use_bdlora": is not supported in training: PEFT silently trains a plain LoRA on a 4-bit base; '
            "use lora, or remove it"
        ),
    ),
    (
        qlora,
        {"velora_config": {}},
        'option "velora_config": is not supported in training: PEFT does not support it on a 4-bit',
    ),
    (qlora, {"init_lora_weights": "pissa"}, 'init_lora_weights "pissa": cannot be computed on a 4-bit base; use lora'),
    (qlora, {"init_lora_weights": "olora"}, 'init_lora_weights "olora": cannot be computed on a 4-bit base; use lora'),
    (qlora, {"init_lora_weights": "mica"}, 'init_lora_weights "mica": cannot be computed on a 4-bit base; use lora'),
    (
        qlora,
        {"init_lora_weights": "orthogonal"},
        'init_lora_weights "orthogonal": cannot be computed on a 4-bit base; use lora',
    ),
    (lora, {"target_modules": ["lm_head"]}, 'target_modules "lm_head": TRL computes the loss from this module'),
    (
        lora,
        {"use_bdlora": {"nblock": 2}},
        'option "use_bdlora.nblock": is not a field of PEFT\'s BdLoraConfig; did you',
    ),
    (lora, {"use_bdlora": 2}, 'option "use_bdlora": is 2; it must be a table'),
    (
        lora,
        {"lora_bias": True, "use_dora": True},
        "LoraConfig: The argument lora_bias=True is not supported for DoRA",
    ),
]


@pytest.fixture(scope="module")
def bases(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the tiny model, one with biases that are not zero, and one whose head is its embedding."""
    found = {"": tiny_model}
    for name, change in {"biased": {"attention_bias": True}, "tied": {"tie_word_embeddings": True}}.items():
        folder = tmp_path_factory.mktemp(name) / "base"
        shutil.copytree(tiny_model, folder)
        config = transformers.AutoConfig.from_pretrained(tiny_model, **change)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(folder)
        found[name] = folder
    return found


@pytest.fixture(autouse=True)
def _short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a merge's verification answer in a few tokens, since nothing here ends a turn: that was a third of all."""
    monkeypatch.setattr(parity, "SMOKE_TOKENS", 8)


def identify(value: Any) -> str | None:
    """Return the name of a case, from its options."""
    return " ".join(f"{k}={v}" for k, v in value.items()) or "plain" if isinstance(value, dict) else None


def test_every_field_is_in_one_table() -> None:
    """A field that a newer PEFT brings is refused until somebody has proved or refused it here, and written it down."""
    tables = [fields.RESERVED_FIELDS, fields.MERGEABLE_FIELDS, fields.UNTRAINED_FIELDS, fields.REFUSED_FIELDS]
    placed = sorted(name for table in tables for name in table)
    assert placed == sorted(f.name for f in dataclasses.fields(peft.LoraConfig))
    page = DOCS.read_text("utf-8")
    assert [name for name in placed if name not in fields.RESERVED_FIELDS and f"`{name}`" not in page] == []
    tested = {name for options, _ in BOTH + FULL for name in options}
    assert set() == fields.MERGEABLE_FIELDS - tested - {"fan_in_fan_out"}  # that one: test_merge_conv1d
    refused = {name for _, options, _ in REFUSED for name in options}
    assert set() == {*fields.UNTRAINED_FIELDS, *fields.REFUSED_FIELDS, *fields.FULL_PRECISION_FIELDS} - refused


def test_field_of_a_newer_peft_is_refused(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no table knows is neither trained nor merged."""
    monkeypatch.setattr(fields, "MERGEABLE_FIELDS", fields.MERGEABLE_FIELDS - {"use_dora"})
    with pytest.raises(UsageError, match='option "use_dora": is not supported in training: it is not tested yet'):
        lora(use_dora=True).check()
    monkeypatch.undo()
    adapter = lora(use_dora=True)
    adapter.check()
    monkeypatch.setattr(fields, "MERGEABLE_FIELDS", fields.MERGEABLE_FIELDS - {"use_dora"})
    with pytest.raises(
        UsageError, match=r'\[merge\] an adapter with "use_dora" cannot be merged: it is not tested yet'
    ):
        adapter.check_merge("original", str(tiny_model))


@pytest.mark.parametrize(("make", "options", "why"), REFUSED, ids=identify)
def test_refused_before_the_training(make: Any, options: dict[str, Any], why: str) -> None:
    """What is not merged exactly, or is not what it says, is refused in one line before a model loads."""
    with pytest.raises(UsageError) as caught:
        make(**options).check()
    assert caught.value.messages[0].startswith(why)
    assert "\n" not in caught.value.messages[0]


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["embed_tokens"]},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [1]},
    ],
)
def test_half_of_a_tied_pair_is_refused(options: dict[str, Any], bases: dict[str, Path]) -> None:
    """An embedding that the base ties to its head is not trained apart from it."""
    lora(**options).check_targets(str(bases[""]))
    with pytest.raises(UsageError, match="the base ties its embedding to its head"):
        lora(**options).check_targets(str(bases["tied"]))


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings=True. and a tied layer is part:UserWarning")
def test_head_that_was_adapted_apart_from_its_embedding(bases: dict[str, Path], tmp_path: Path) -> None:
    """An adapter made elsewhere may change a tied head alone: it is evaluated, and no merged weight equals it."""
    model = load_model(bases["tied"], dtype="float32", device="cpu")
    peft.PeftModel(model, peft.LoraConfig(target_modules=["lm_head"], task_type="CAUSAL_LM")).save_pretrained(
        tmp_path / "adapter"
    )
    lora().check_fits(str(bases["tied"]), "", tmp_path / "adapter")
    with pytest.raises(UsageError, match=r'"lm_head" and "model.embed_tokens" are one tied weight in this base, and'):
        merge(lora(), bases["tied"], tmp_path / "adapter", tmp_path / "merged", "original")


@pytest.mark.parametrize("stored", ["once", "twice"])
def test_tokens_of_a_tied_embedding_are_merged_into_both(stored: str, bases: dict[str, Path], tmp_path: Path) -> None:
    """Rows of a tied embedding are the head's too, also where the base stores the weight under both names."""
    base = shutil.copytree(bases["tied"], tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    if stored == "twice":
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    config = peft.LoraConfig(target_modules=["q_proj"], trainable_token_indices=[20, 21], task_type="CAUSAL_LM")
    model = peft.PeftModel(load_model(base, dtype="float32", device="cpu"), config)
    for name, parameter in model.named_parameters():
        parameter.data += 0.1 * ("trainable_tokens_delta" in name)
    model.save_pretrained(tmp_path / "adapter")
    merged = merge(lora(), base, tmp_path / "adapter", tmp_path / "merged", "original")
    assert torch.allclose(merged(IDS).logits, model.eval()(IDS).logits, atol=1e-4)
    written = load_file(tmp_path / "merged/model.safetensors")
    assert torch.equal(written.get("lm_head.weight", written["model.embed_tokens.weight"]), merged.lm_head.weight)


def test_an_adapter_of_more_tokens_or_of_a_compiled_model(bases: dict[str, Path], tmp_path: Path) -> None:
    """Added tokens need a base that has them, and a compiled model's names lose their prefix."""
    model = load_model(bases[""], dtype="float32", device="cpu")
    size = model.config.vocab_size + 3
    model.resize_token_embeddings(size)
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    peft.PeftModel(model, config).save_pretrained(tmp_path, save_embedding_layers=True)
    with pytest.raises(UsageError, match=rf"save the base after resize_token_embeddings\({size}\), and name that one"):
        lora().check_fits(str(bases[""]), "", tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    save_file({f"_orig_mod.{name}": t for name, t in tensors.items()}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UsageError, match=r'contains the prefix of a compiled model; remove "_orig_mod\." from'):
        lora().check_fits(str(bases[""]), "", tmp_path)


def test_blocks_that_layers_share_are_refused_before_the_training(tmp_path: Path) -> None:
    """Zamba2 runs one block in several layers, and PEFT gives each of them matrices of its own."""
    sizes = {"vocab_size": 261, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    sizes |= {"num_hidden_layers": 2, "mamba_d_state": 8, "mamba_ngroups": 1, "n_mamba_heads": 2, "num_mem_blocks": 1}
    config = transformers.AutoConfig.for_model("zamba2", **sizes, layers_block_type=["hybrid"] * 2, adapter_rank=2)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    lora(target_modules=["in_proj"]).check_merge("original", str(tmp_path))
    shared = lora(target_modules=["q_proj"])
    shared.check_targets(str(tmp_path))
    with pytest.raises(
        UsageError,
        match=r'\[merge\] "model\.layers\.0\.shared_transformer\.self_attn\.q_proj" and "model\.layers\.1\.shared_transformer\.self_attn\.q_proj" are one tied weight in this base, and the adapter changes each separately, which one merged weight cannot represent',  # noqa: E501
    ):
        shared.check_merge("original", str(tmp_path))


@pytest.mark.parametrize("option", ["modules_to_save", "exclude_modules"])
def test_name_that_matches_nothing_is_refused(option: str, bases: dict[str, Path]) -> None:
    """PEFT trains on without a word when it finds no module to save or to leave out."""
    options: dict[str, Any] = {option: ["lm_heda"]}
    with pytest.raises(UsageError, match=f'{option} "lm_heda": matches no module of the base; did you mean "lm_head"'):
        lora(**options).check_targets(str(bases[""]))


@pytest.mark.parametrize("tokens", [[3, 261], {"embed_tokens": [261]}])
def test_token_that_there_is_not_is_refused(tokens: Any, bases: dict[str, Path]) -> None:
    """A token beyond the vocabulary is told before a model is loaded."""
    with pytest.raises(UsageError, match="there is no token 261 in a vocabulary of 261"):
        lora(trainable_token_indices=tokens).check_targets(str(bases[""]))
    with pytest.raises(UsageError, match="there is no token -1"):
        lora(trainable_token_indices=[-1]).check_targets(str(bases[""]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adapter", "why"),
    [
        (qlora(modules_to_save=["q_proj"], target_modules=["v_proj"]), "only Tensors of floating point"),
        (lora(use_bdlora=BLOCKS), "matches neither A nor B block-diagonal patterns"),
        (lora(use_bdlora={**BLOCKS, "nblocks": 7}, target_modules=["q_proj", "o_proj"]), "not divisible by 7"),
    ],
)
def test_what_peft_finds_only_with_the_base(adapter: Lora, why: str, bases: dict[str, Path], tmp_path: Path) -> None:
    """What fits no layer of the base is a mistake of the user, told in one line before the first step."""
    with pytest.raises(UsageError, match=rf"^(\[adapter\] )?does not fit the base: .*{why}"):
        train(adapter, bases[""], tmp_path)


@pytest.mark.parametrize("targets", ["all-linear", r".*\.q_proj", ["q_proj", "up_proj"]])
def test_bias_needs_a_bias(targets: Any, bases: dict[str, Path]) -> None:
    """A bias of the adapter is merged into the layer's; where the layer has none, PEFT cannot merge either."""
    with pytest.raises(UsageError, match=r'lora_bias: "model.*" has no bias to merge it into'):
        lora(lora_bias=True, target_modules=targets).check_targets(str(bases[""]))
    lora(lora_bias=True, target_modules=r".*\.q_proj").check_targets(str(bases["biased"]))


@pytest.mark.slow
@pytest.mark.parametrize(("options", "base"), BOTH + FULL, ids=identify)
def test_merged_on_a_full_base(options: dict[str, Any], base: str, bases: dict[str, Path], tmp_path: Path) -> None:
    """Trained, merged and loaded from disk again, a model answers as its adapter, and has the weights PEFT merges."""
    adapter, folder = lora(**options), bases[base]
    out = train(adapter, folder, tmp_path)
    merged = merge(adapter, folder, out, tmp_path / "merged", "original")
    assert compute_logit_difference(load_model(folder, dtype="float32", device="cpu", adapter=out), merged) < 1e-4
    assert compute_logit_difference(load_model(folder, dtype="float32", device="cpu"), merged) > 1e-2
    assert_same_weights(merge_with_peft(folder, out), tmp_path / "merged")
    verify_merge_parity(MergeFolders(str(folder), str(out), str(tmp_path / "merged")))


@pytest.mark.slow
@pytest.mark.parametrize(("options", "base"), BOTH, ids=identify)
def test_merged_on_a_4bit_base(options: dict[str, Any], base: str, bases: dict[str, Path], tmp_path: Path) -> None:
    """Merged onto the dequantised base, a QLoRA is the model it was; onto the original one it is what PEFT merges."""
    adapter, folder = qlora(**options), bases[base]
    out = train(adapter, folder, tmp_path)
    merged = merge(adapter, folder, out, tmp_path / "dequantized", "dequantized")
    held = load_model(folder, dtype="float32", device="cpu", quantization=adapter.quantization, adapter=out)
    assert compute_logit_difference(held, merged) < 1e-4
    verify_merge_parity(
        MergeFolders(str(folder), str(out), str(tmp_path / "dequantized"), dict(adapter.quantization or {}))
    )
    merge(adapter, folder, out, tmp_path / "original", "original")
    assert_same_weights(merge_with_peft(folder, out), tmp_path / "original")


def verify_merge_parity(question: MergeFolders) -> None:
    """Let the merge's own verification look: at every bit, and at the answers before any rounding."""
    found = parity.verify_merge(question)
    assert found["kl"] < 1e-6
    assert found["changed"] > 0


@pytest.mark.parametrize(
    "options",
    [
        {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}},
        {"monteclora_config": {"num_samples": 2}},
        {"target_modules": ["lm_head"]},
    ],
)
def test_merged_when_trained_elsewhere(options: dict[str, Any], bases: dict[str, Path], tmp_path: Path) -> None:
    """An adapter that is not trained here, and is a plain LoRA once it is trained, is merged as one."""
    torch.manual_seed(0)
    model = load_model(bases[""], dtype="float32", device="cpu")
    config = peft.LoraConfig(**{"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | options)
    adapted = peft.PeftModel(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                parameter.normal_(std=0.2)
    adapted.eval().save_pretrained(tmp_path / "adapter")
    merged = merge(lora(), bases[""], tmp_path / "adapter", tmp_path / "merged", "original")
    assert compute_logit_difference(adapted, merged) < 1e-5
    assert_same_weights(merge_with_peft(bases[""], tmp_path / "adapter"), tmp_path / "merged")


def train(adapter: Lora, base: Path, folder: Path) -> Path:
    """Check as preflight does, train a few steps, and return the adapter."""
    adapter.check()
    adapter.check_targets(str(base))
    adapter.check_merge("original", str(base))
    ref = ModelRef("base", str(base), options={"device": "cpu", "dtype": "float32"})
    return sft(ref, adapter, ROWS, folder / "adapter", progress=lambda _: None, seed=3, **RECIPE)


def merge(adapter: Lora, base: Path, out: Path, to: Path, variant: str) -> Any:
    """Merge as a run does, and load the result back from disk."""
    to.mkdir()
    adapter.merge(str(base), out, to, variant=variant)
    return load_model(to, dtype="float32", device="cpu")


def merge_with_peft(base: Path, out: Path) -> dict[str, Any]:
    """Return the weights of PEFT's own merge, in float32."""
    model = load_model(base, dtype="float32", device="cpu")
    weights: dict[str, Any] = peft.PeftModel.from_pretrained(model, str(out)).merge_and_unload().state_dict()
    return weights


def assert_same_weights(wanted: dict[str, Any], folder: Path) -> None:
    """Compare every tensor of a merged folder with PEFT's."""
    found = load_file(folder / "model.safetensors")
    assert found.keys() <= wanted.keys()
    for name, tensor in found.items():
        assert torch.allclose(tensor, wanted[name], rtol=1e-5, atol=1e-6), name


def compute_logit_difference(one: Any, other: Any) -> float:
    """Return the greatest difference of two models' logits."""
    with torch.no_grad():
        return float((one.eval()(IDS).logits.float() - other.eval()(IDS).logits.float()).abs().max())
