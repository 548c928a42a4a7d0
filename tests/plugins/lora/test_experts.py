"""Mixtures of experts: what PEFT adapts of a stack of matrices is merged into the checkpoint as that stores it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402

from harness.errors import UsageError  # noqa: E402
from harness.records.models import ModelRef  # noqa: E402
from harness_checks.merged import equals_base  # noqa: E402
from harness_hf.models import load_model  # noqa: E402
from harness_lora import lora, parity, qlora  # noqa: E402
from harness_lora.divergence import token_windows  # noqa: E402
from harness_sft import sft  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning"),
]
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
SMALL |= {
    "max_position_embeddings": 512,
    "num_experts_per_tok": 2,
    "intermediate_size": 128,
    "moe_intermediate_size": 64,
}
LINEAR = {"layer_types": ["linear_attention", "full_attention"], "shared_expert_intermediate_size": 64}
LINEAR |= {f"linear_{of}_head_dim": 32 for of in ("key", "value")}
LINEAR |= {f"linear_num_{of}_heads": 2 for of in ("key", "value")}
RANKS = {"q_lora_rank": 64, "kv_lora_rank": 64, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16}
RANKS |= {"num_key_value_heads": 4, "head_dim": 8}
KINDS: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": {"num_experts": 4, "mlp_only_layers": [0]},
    "qwen3_next": {"num_experts": 4, **LINEAR},
    "deepseek_v3": {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, **RANKS},
    "gpt_oss": {"num_local_experts": 4},
}
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
Base = Callable[..., Path]


@pytest.fixture
def base(tiny_model: Path, tmp_path: Path) -> Base:
    """Return what writes a random model of a kind, with its experts as its files have them, or as the model does."""

    def write(kind: str, dtype: torch.dtype = torch.bfloat16, *, fused: bool = False) -> Path:
        folder = tmp_path / "base"
        shutil.copytree(tiny_model, folder)
        told = json.loads((folder / "config.json").read_text("utf-8"))
        tokens = {name: told[name] for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL | KINDS[kind] | tokens))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.to(dtype).save_pretrained(folder, save_original_format=not fused)
        return folder

    return write


def adapt(base: Path, folder: Path, **options: Any) -> None:
    """Write an adapter that was put on a base by PEFT and moved by noise, as training would."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", **options})
    adapted = get_peft_model(load_model(base, dtype="float32", device="cpu"), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    adapted.save_pretrained(folder)


def merge(base: Path, adapter: Path, out: Path) -> dict[str, Any]:
    """Merge and return the tensors that were written."""
    out.mkdir()
    lora().merge(str(base), adapter, out, variant="original")
    tensors: dict[str, Any] = load_file(out / "model.safetensors")
    return tensors


def count_differing_weights(base: Path, adapter: Path, merged: dict[str, Any], *, fused: bool = False) -> int:
    """Return how many weights are not those of PEFT's own merge in float64, rounded once."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64).double()
    whole = PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=False).merge_and_unload()
    whole.save_pretrained(adapter.parent / "peft", save_original_format=not fused)
    wanted = load_file(adapter.parent / "peft" / "model.safetensors")
    assert wanted.keys() == merged.keys()
    return sum(int((tensor != wanted[name].to(tensor.dtype)).sum()) for name, tensor in merged.items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": "all-linear"},
        {"target_modules": [], "target_parameters": EXPERTS, "use_rslora": True, "rank_pattern": {EXPERTS[0]: 3}},
        {"target_modules": ["o_proj"], "target_parameters": EXPERTS[1:], "alpha_pattern": {EXPERTS[1]: 5}},
    ],
    ids=["default", "experts", "half"],
)
def test_experts_are_merged_exactly(options: dict[str, Any], kind: str, base: Base, tmp_path: Path) -> None:
    """Every weight is the sum in float64 rounded once, whatever the names and the shape that the files give it."""
    folder = base(kind)
    adapt(folder, tmp_path / "adapter", **options)
    merged = merge(folder, tmp_path / "adapter", tmp_path / "merged")
    assert count_differing_weights(folder, tmp_path / "adapter", merged) == 0
    before = load_file(folder / "model.safetensors")
    changed = [name for name, tensor in merged.items() if not torch.equal(tensor, before[name])]
    assert any(".experts." in name for name in changed) or (kind, options["target_modules"]) == (
        "gpt_oss",
        "all-linear",
    )


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
@pytest.mark.parametrize("block", [100, 64 * 65])
def test_a_stack_that_is_one_tensor_is_merged_in_blocks(
    kind: str, block: int, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block may end in the middle of a matrix, and hold the end of one and the beginning of the next."""
    monkeypatch.setattr("harness_lora.merge.BLOCK_VALUES", block)
    folder = base(kind, torch.float32, fused=True)
    assert "model.layers.0.mlp.experts.gate_up_proj" in load_file(folder / "model.safetensors")
    adapt(folder, tmp_path / "adapter", target_modules=[], target_parameters=EXPERTS)
    merged = merge(folder, tmp_path / "adapter", tmp_path / "merged")
    assert count_differing_weights(folder, tmp_path / "adapter", merged, fused=True) == 0


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_experts_that_were_saved_singly_are_merged_as_peft_loads_them(kind: str, base: Base, tmp_path: Path) -> None:
    """An adapter made before transformers stacked the experts has an A and a B for each of them."""
    folder, made = base(kind), tmp_path / "adapter"
    write_per_expert_adapter(folder, made)
    lora().check_fits(str(folder), "", made)
    assert count_differing_weights(folder, made, merge(folder, made, tmp_path / "merged")) == 0


def test_experts_that_were_saved_singly_with_another_scale_are_refused(base: Base, tmp_path: Path) -> None:
    """PEFT doubles rank and alpha of what it fuses, which leaves alpha/r as it was, and not alpha/√r."""
    folder, made = base("mixtral"), tmp_path / "adapter"
    write_per_expert_adapter(folder, made, use_rslora=True)
    with pytest.raises(UsageError, match=r'adapter ".*": has separate experts and use_rslora, and PEFT loads it with'):
        lora().check_fits(str(folder), "", made)


def write_per_expert_adapter(base: Path, folder: Path, **options: Any) -> None:
    """Write an adapter with matrices of its own for each expert."""
    torch.manual_seed(1)
    tensors = {}
    for name, weight in load_file(base / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if module.endswith("q_proj") or ".experts." in module:
            tensors[f"base_model.model.{module}.lora_A.weight"] = 0.1 * torch.randn(4, weight.shape[1])
            tensors[f"base_model.model.{module}.lora_B.weight"] = 0.1 * torch.randn(len(weight), 4)
    there = {name.rpartition(".lora_")[0].rpartition(".")[2] for name in tensors}
    folder.mkdir()
    LoraConfig(r=4, lora_alpha=6, target_modules=sorted(there), task_type="CAUSAL_LM", **options).save_pretrained(
        folder
    )
    save_file(tensors, folder / "adapter_model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [lora, qlora])
def test_experts_are_trained_merged_and_verified(
    make: Any, kind: str, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From preflight to the merge's own verification, which asks PEFT's forward pass; in 4 bits experts stay whole."""
    monkeypatch.setattr(parity, "token_windows", lambda tokenizer, longest: token_windows(tokenizer, 500, longest))
    folder, made, out = base(kind), tmp_path / "adapter", tmp_path / "merged"
    adapter = make(r=4, lora_dropout=0.0, target_parameters=EXPERTS if kind == "gpt_oss" else None)
    variant = "dequantized" if make is qlora else "original"
    adapter.check()
    adapter.check_targets(str(folder))
    adapter.check_merge(variant, str(folder))
    ref = ModelRef("base", str(folder), options={"device": "cpu", "dtype": "float32"})
    rows = [{"prompt": f"what is {i}?", "completion": f" it is {i * i}"} for i in range(8)]
    recipe: dict[str, Any] = {"max_steps": 2, "learning_rate": 2e-2, "max_length": 64, "gradient_accumulation_steps": 1}
    sft(ref, adapter, rows, made, progress=lambda _: None, seed=3, **recipe)
    config = json.loads((made / "adapter_config.json").read_text("utf-8"))
    assert config["target_parameters"] == sorted(config["target_parameters"])
    out.mkdir()
    adapter.merge(str(folder), made, out, variant=variant)
    quantization = dict(adapter.quantization) if adapter.quantization else None
    found = parity.verify_merge(parity.MergeFolders(str(folder), str(made), str(out), quantization))
    assert found["kl"] < 1e-6
    assert found["changed"] > 8
    twin = ModelRef("adapter", str(folder), adapter=made, quantization=quantization)
    assert list(equals_base(ModelRef("merged", str(out), "m"), twin, ModelRef("base", str(folder)))) == []


def test_dropout_on_experts_is_refused_before_the_training(base: Base) -> None:
    """PEFT would say so only when it is put on the model."""
    with pytest.raises(UsageError, match=r"lora_dropout: PEFT adapts this base's experts .* set lora_dropout = 0, or"):
        lora().check_targets(str(base("qwen3_moe")))


def test_an_adapter_made_elsewhere_is_asked_for_itself(base: Base, tmp_path: Path) -> None:
    """What the suite's own adapter would be is nothing to a candidate; how that is stored, and adapted, is."""
    folder, made = base("qwen3_moe"), tmp_path / "adapter"
    adapt(folder, made, target_modules="all-linear")
    lora().check_merge("original", str(folder), made)
    config = json.loads((made / "adapter_config.json").read_text("utf-8"))
    (made / "adapter_config.json").write_text(json.dumps({**config, "init_lora_weights": "pissa"}), "utf-8")
    with pytest.raises(UsageError, match='initialised with "pissa" belongs to a changed base'):
        lora().check_merge("original", str(folder), made)


def test_parameter_that_there_is_not_is_refused(base: Base) -> None:
    """PEFT only warns of it."""
    adapter = lora(lora_dropout=0.0, target_modules=["q_proj"], target_parameters=["experts.gate_up"])
    with pytest.raises(UsageError, match=r'target_parameters "experts.gate_up": matches no parameter of the base'):
        adapter.check_targets(str(base("gpt_oss")))


@pytest.mark.parametrize("operation", ["Transpose", "Chunk"])
def test_what_is_computed_otherwise_is_refused_before_the_training(
    operation: str, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What transformers makes of the files by other operations is named, with a way out; it may ship as an adapter."""
    from transformers.core_model_loading import Chunk, Transpose, WeightConverter

    folder, target = base("gpt_oss"), "self_attn.v_proj.weight"
    adapt(folder, tmp_path / "adapter", target_modules=["v_proj"])
    if operation == "Transpose":
        made = WeightConverter(target, target, [Transpose(0, 1)])
    else:
        made = WeightConverter("kv_proj.weight", ["k_proj.weight", "v_proj.weight"], [Chunk(dim=0)])
        weights = load_file(folder / "model.safetensors")
        for name in [name for name in weights if name.endswith(target)]:
            other = name.replace("v_proj", "k_proj")
            weights[name.replace("v_proj", "kv_proj")] = torch.cat([weights.pop(other), weights.pop(name)])
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    monkeypatch.setattr("harness_lora.skeleton.get_model_conversion_mapping", lambda model: [made])
    lora(target_modules=["q_proj"]).check_merge("original", str(folder))
    lora().check_fits(str(folder), "", tmp_path / "adapter")
    with pytest.raises(
        UsageError, match=rf'"model.layers.0.self_attn.v_proj.weight" is .* by {operation} on loading, .*; ship'
    ):
        lora(target_modules=["v_proj"]).check_merge("original", str(folder))


def test_a_quantised_base_is_refused_before_the_training(base: Base) -> None:
    """Nothing is merged onto weights that are stored in 4 bits, and that is known without an adapter."""
    folder = base("gpt_oss")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.experts.gate_up_proj_blocks"] = torch.zeros(4, 8, dtype=torch.uint8)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "mxfp4"}}))
    with pytest.raises(UsageError, match="is stored quantised; merge onto the half-precision original"):
        lora().check_merge("original", str(folder))
