"""[adapter] lora and qlora: options, what an adapter fits, and merges equal to the adapter they come from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

import harness_export  # noqa: E402
import harness_hf  # noqa: E402
from bench import merges  # noqa: E402
from harness.errors import CheckFailedError, UsageError  # noqa: E402
from harness.records.models import ModelRef, Progress  # noqa: E402
from harness_checks.merged import differs_from_adapter, equals_base  # noqa: E402
from harness_export import hot_swap  # noqa: E402
from harness_hf.models import load_model, load_tokenizer  # noqa: E402
from harness_hf.tokens import ModelTokenizer  # noqa: E402
from harness_lora import divergence, lora, parity, qlora  # noqa: E402
from harness_lora.adapter import Lora  # noqa: E402
from harness_lora.divergence import CHATS, TEXTS, token_windows  # noqa: E402
from harness_lora.files import read_config, read_headers  # noqa: E402
from harness_lora.merge import fold_scales  # noqa: E402
from tests.helpers.adapters import make_adapter  # noqa: E402
from tests.helpers.late import import_late  # noqa: E402

merging = import_late("harness_lora.merge")

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning"),  # for what is refused
]
IDS = torch.arange(20, 60).view(2, 20)


@pytest.mark.parametrize("module", ["harness_lora", "harness_sft"])
def test_import_is_light(module: str) -> None:
    """Listing plugins must not cost the seconds that torch takes to import."""
    heavy = "{'torch', 'numpy', 'peft', 'trl', 'transformers'} & sys.modules.keys()"
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}, sys; print({heavy} or 'light')"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "light", done.stderr


def test_alpha_follows_the_rank_unless_it_is_given() -> None:
    """A sweep of r keeps the scale alpha/r; rslora's scale allows for the rank itself."""
    for make in (lora, qlora):
        assert [make(r=r).fields["lora_alpha"] for r in (4, 16, 64)] == [8, 32, 128]
        assert make(r=64, lora_alpha=32).fields["lora_alpha"] == 32
        assert make(r=64, use_rslora=True).fields["lora_alpha"] == 32


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (lora(use_dorra=True), 'option "use_dorra": is not a field of PEFT\'s LoraConfig; did you mean "use_dora"?'),
        (lora(use_dora="yes"), 'option "use_dora": is "yes"; it must be true or false'),
        (lora(task_type="SEQ_CLS"), 'option "task_type": cannot be set'),
        (lora(r=0), "LoraConfig: `r` should be a positive integer"),
        (lora(lora_dropout=1.5), "LoraConfig: dropout probability has to be between 0 and 1"),
        (lora(init_lora_weights="pisa"), "LoraConfig: Unknown initialization init_lora_weights='pisa'"),
    ],
)
def test_wrong_options(adapter: Lora, message: str) -> None:
    """What PEFT would refuse in the middle of a run is refused before it, in one line."""
    with pytest.raises(UsageError) as caught:
        adapter.check()
    assert caught.value.messages[0].startswith(message)


def test_all_wrong_options_at_once() -> None:
    """Every unknown option is told, not the first."""
    with pytest.raises(UsageError) as caught:
        lora(alpha=1, rslora=True).check()
    assert len(caught.value.messages) == 2


def test_targets_that_match_nothing(tiny_model: Path) -> None:
    """A pattern that matches no module is silently ignored by PEFT as long as another one matches."""
    lora().check_targets(str(tiny_model))
    lora(target_modules=["q_proj"]).check_targets(str(tiny_model))
    with pytest.raises(UsageError, match=r'target_modules "k_prjo": matches no module.*did you mean "k_proj"'):
        lora(target_modules=["q_proj", "k_prjo"]).check_targets(str(tiny_model))
    with pytest.raises(UsageError, match="this expression matches no module"):
        lora(target_modules="q_proj").check_targets(str(tiny_model))
    with pytest.raises(UsageError, match='rank_pattern or alpha_pattern "nope"'):
        lora(rank_pattern={"nope": 4}).check_targets(str(tiny_model))


def test_fits(tiny_model: Path, tmp_path: Path) -> None:
    """An adapter fits the base it was made for, and no base with other weights, names or shapes."""
    made, adapter = tmp_path / "adapter", lora()
    make_adapter(tiny_model, adapter, made)
    adapter.check_fits(str(tiny_model), "a" * 64, made)
    (made / "harness-adapter.json").write_text(json.dumps({"base_digest": "b" * 64}))
    adapter.check_fits(str(tiny_model), "b" * 64, made)
    with pytest.raises(UsageError, match="was trained on weights bbbbbbbbbbbbbbbb, but the base has aaaaaaaaaaaaaaaa"):
        adapter.check_fits(str(tiny_model), "a" * 64, made)

    weights = load_file(tiny_model / "model.safetensors")
    for name, other in {
        "names": {k.replace("layers.1.", "layers.7."): v for k, v in weights.items()},
        "shapes": {k: v[:, :9].contiguous() if "q_proj" in k else v for k, v in weights.items()},
    }.items():
        (tmp_path / name).mkdir()
        save_file(other, tmp_path / name / "model.safetensors")
        shutil.copyfile(tiny_model / "config.json", tmp_path / name / "config.json")
        with pytest.raises(UsageError, match=r"the base has no|has shape \[64, 64\], but \[64, 9\] in the base"):
            adapter.check_fits(str(tmp_path / name), "", made)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("alora_invocation_tokens", [3]),
        ("kasa_config", {}),
        ("arrow_config", {"top_k": 2}),
        ("layer_replication", [[0, 2], [0, 2]]),
        ("use_qalora", True),
    ],
)
def test_what_is_refused_in_training_is_refused_when_made_elsewhere(
    option: str, value: Any, tiny_model: Path, tmp_path: Path
) -> None:
    """Loaded as a plain LoRA it would be evaluated as the base, or change the base it shares."""
    make_adapter(tiny_model, lora(), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, option: value}))
    with pytest.raises(
        UsageError, match=f'was trained with "{option}", which cannot be evaluated here: .*; train without'
    ):
        lora().check_fits(str(tiny_model), "", tmp_path)


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_no_adapter(missing: str, tiny_model: Path, tmp_path: Path) -> None:
    """A folder that lacks a part of an adapter is no candidate, and a pickle is never loaded in its place."""
    make_adapter(tiny_model, lora(), tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(UsageError, match=f"has no {missing}"):
        lora().check_fits(str(tiny_model), "", tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"a pickle")
    with pytest.raises(UsageError, match="pickles are not read"):
        lora().check_fits(str(tiny_model), "", tmp_path)


def test_broken_weights(tiny_model: Path, tmp_path: Path) -> None:
    """A file that was cut short while it was copied is told, not read."""
    make_adapter(tiny_model, lora(), tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(UsageError, match="cannot be read: is not a safetensors file, or is truncated"):
        lora().check_fits(str(tiny_model), "", tmp_path)


@pytest.mark.parametrize(
    "options", [{}, {"double_quant": False}, {"quant_type": "fp4"}, {"target_modules": ["q_proj"]}, {"use_dora": True}]
)
def test_merge_onto_dequantized(options: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    """Merged onto the dequantised base, the model is the one that was trained and evaluated in 4 bits."""
    adapter = qlora(**options)
    trained = make_adapter(tiny_model, adapter, tmp_path / "adapter")
    assert compute_logit_difference(trained, merge(tiny_model, adapter, tmp_path, "dequantized")) < 1e-5
    assert compute_logit_difference(trained, merge(tiny_model, adapter, tmp_path, "original")) > 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"double_quant": False}, {"quant_type": "fp4"}])
def test_dequantized_weights(dtype: str, options: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    """Every linear, targeted or not, gets bit for bit the weights that a really loaded 4-bit model computes with."""
    from bitsandbytes.functional import dequantize_4bit

    adapter = qlora(target_modules=["q_proj"], layers_to_transform=[0], **options)
    make_adapter(tiny_model, adapter, tmp_path / "adapter")
    (tmp_path / "adapter" / "harness-adapter.json").write_text(json.dumps({"dtype": dtype}))
    merge(tiny_model, adapter, tmp_path, "dequantized")
    found = load_file(tmp_path / "merged" / "model.safetensors")
    loaded = load_model(tiny_model, dtype=dtype, device="cpu", quantization=adapter.quantization)
    quantised = {n: m.weight for n, m in loaded.named_modules() if type(m).__name__ == "Linear4bit"}
    assert len(quantised) == 14
    for name, weight in quantised.items():
        if name != "model.layers.0.self_attn.q_proj":
            wanted = dequantize_4bit(weight.data, weight.quant_state).float()
            assert torch.equal(wanted, found[f"{name}.weight"]), name


@pytest.mark.parametrize("block", [1, 1000, 1 << 18])
def test_merge_rounds_once(block: int, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Onto a bfloat16 base, the sum is made in float64 and rounded once, in whatever blocks, and by several threads."""
    monkeypatch.setattr("harness_lora.merge.BLOCK_VALUES", block)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    weights = {k: v.bfloat16() for k, v in load_file(base / "model.safetensors").items()}
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    trained = make_adapter(base, lora(), tmp_path / "adapter")
    merge(base, lora(), tmp_path, "original")
    assert torch.get_num_threads() == 3
    torch.set_num_threads(threads)
    found = load_file(tmp_path / "merged" / "model.safetensors")
    assert all(torch.equal(weights[name], w) for name, w in found.items() if "proj" not in name)
    for name, module in trained.base_model.model.named_modules():
        if hasattr(module, "lora_A"):
            a, b = (getattr(module, f"lora_{x}")["default"].weight.double() for x in "AB")
            wanted = module.get_base_layer().weight.double() + module.scaling["default"] * (b @ a)
            assert torch.equal(wanted.bfloat16(), found[f"{name}.weight"]), name


@pytest.mark.parametrize("quantised", [False, True])
def test_merge_conv1d(quantised: bool, tmp_path: Path) -> None:
    """GPT-2 keeps its linears transposed, and its files may lack the prefix that its modules have."""
    from transformers import GPT2Config, GPT2LMHeadModel

    base, adapter = tmp_path / "base", qlora() if quantised else lora(fan_in_fan_out=True)
    GPT2LMHeadModel(GPT2Config(vocab_size=128, n_positions=64, n_embd=64, n_layer=1, n_head=2)).save_pretrained(base)
    weights = load_file(base / "model.safetensors")
    save_file(
        {k.removeprefix("transformer."): v for k, v in weights.items()}, base / "model.safetensors", {"format": "pt"}
    )
    trained = make_adapter(base, adapter, tmp_path / "adapter")
    merged = merge(base, adapter, tmp_path, "dequantized" if quantised else "original")
    assert compute_logit_difference(trained, merged) < 1e-5


def test_merge_keeps_the_rest(tiny_model: Path, tmp_path: Path) -> None:
    """Tokenizer, template and generation config go along byte for byte, shards and index as they are in the base."""
    base = tmp_path / "base"
    load_model(tiny_model, dtype="float32", device="cpu").save_pretrained(base, max_shard_size="200KB")
    for file in tiny_model.iterdir():
        if "token" in file.name or "template" in file.name:
            shutil.copyfile(file, base / file.name)
    (base / "LICENSE").write_text("of the base")
    (base / "modeling_custom.py").write_text("code is not taken along")
    trained = make_adapter(base, lora(), tmp_path / "adapter")
    assert compute_logit_difference(trained, merge(base, lora(), tmp_path, "original")) < 1e-5
    shards = sorted(file.name for file in base.glob("*.safetensors"))
    assert len(shards) > 1
    assert shards == sorted(file.name for file in (tmp_path / "merged").glob("*.safetensors"))
    same = [file for file in base.iterdir() if file.suffix != ".safetensors" and file.suffix != ".py"]
    assert {file.name for file in same} >= {
        "tokenizer.json",
        "chat_template.jinja",
        "generation_config.json",
        "LICENSE",
    }
    for file in same:
        assert file.read_bytes() == (tmp_path / "merged" / file.name).read_bytes(), file.name
    assert not (tmp_path / "merged" / "modeling_custom.py").exists()


def test_merge_follows_no_link_out_of_the_base(tiny_model: Path, tmp_path: Path) -> None:
    """What lies elsewhere is not taken along as a file of the base, whatever its name; what is not taken may lie."""
    base, secret = tmp_path / "base", tmp_path / "secret"
    shutil.copytree(tiny_model, base)
    secret.write_text("not of the base", "utf-8")
    (base / "notes").symlink_to(secret)
    make_adapter(base, lora(), tmp_path / "adapter")
    merge(base, lora(), tmp_path, "original")
    for name in ("my_token.txt", "NOTICE"):
        (base / name).symlink_to(secret)
        shutil.rmtree(tmp_path / "merged")
        with pytest.raises(UsageError, match=f'{name}": is a link that leads out of the folder'):
            merge(base, lora(), tmp_path, "original")
        (base / name).unlink()


@pytest.mark.parametrize(
    ("adapter", "variant", "message"),
    [
        (lora(), "dequantized", "the adapter was trained on a full base"),
        (qlora(), "merged", '"merged": unknown'),
        (lora(init_lora_weights="pissa"), "original", "belongs to a changed base"),
    ],
)
def test_merge_refused(adapter: Lora, variant: str, message: str, tiny_model: Path, tmp_path: Path) -> None:
    """What cannot be merged exactly is refused with the reason, not merged wrongly."""
    make_adapter(tiny_model, adapter, tmp_path / "adapter")
    with pytest.raises(UsageError, match=message):
        merge(tiny_model, adapter, tmp_path, variant)


def test_merge_refuses_tied_head(tiny_model: Path, tmp_path: Path) -> None:
    """A head trained apart from the embedding it is tied to would change both."""
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    weights = load_file(base / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    plain = make_adapter(base, lora(), tmp_path / "adapter")
    assert compute_logit_difference(plain, merge(base, lora(), tmp_path, "original")) < 1e-5

    shutil.rmtree(tmp_path / "adapter")
    adapter = lora(modules_to_save=["embed_tokens"])
    make_adapter(tiny_model, adapter, tmp_path / "adapter")
    with pytest.raises(UsageError, match="are one tied weight in this base"):
        merge(base, adapter, tmp_path, "original")


@pytest.mark.parametrize("variant", ["original", "dequantized"])
def test_merge_of_nothing(variant: str, tiny_model: Path, tmp_path: Path) -> None:
    """An adapter that was never trained must not be shipped as a fine-tuned model."""
    make_adapter(tiny_model, qlora(), tmp_path / "adapter", noise=0.0)
    with pytest.raises(RuntimeError, match="the adapter is zero"):
        merge(tiny_model, qlora(), tmp_path, variant)


def test_merge_of_what_was_saved_whole_and_is_the_base(tiny_model: Path, tmp_path: Path) -> None:
    """A module that was saved whole, and did not move, is nothing that was trained."""
    make_adapter(tiny_model, lora(modules_to_save=["norm"]), tmp_path / "adapter", noise=0.0)
    with pytest.raises(RuntimeError, match="the adapter is zero"):
        merge(tiny_model, lora(), tmp_path, "original")


def test_merge_of_magnitudes_alone(tiny_model: Path, tmp_path: Path) -> None:
    """A DoRA may move its magnitudes and nothing else; one that moved nothing is zero, as any other."""
    make_adapter(tiny_model, lora(use_dora=True), tmp_path / "adapter", noise=0.0)
    with pytest.raises(RuntimeError, match="the adapter is zero"):
        merge(tiny_model, lora(), tmp_path, "original")
    file = tmp_path / "adapter/adapter_model.safetensors"
    weights = load_file(file)
    save_file({k: 1.5 * v if k.endswith("up_proj.lora_magnitude_vector") else v for k, v in weights.items()}, file)
    adapted = load_model(tiny_model, dtype="float32", device="cpu", adapter=tmp_path / "adapter")
    assert compute_logit_difference(adapted, merge(tiny_model, lora(), tmp_path, "original")) < 1e-5


def test_whole_module_that_did_not_move_is_no_mistake_of_a_4bit_merge(tiny_model: Path, tmp_path: Path) -> None:
    """What was to be put in a tensor's place, and is the same, was not forgotten."""
    adapter = qlora(modules_to_save=["norm"])
    make_adapter(tiny_model, adapter, tmp_path / "adapter")
    file = tmp_path / "adapter/adapter_model.safetensors"
    norm = load_file(tiny_model / "model.safetensors")["model.norm.weight"]
    save_file({k: norm if k.endswith(".norm.weight") else v for k, v in load_file(file).items()}, file)
    merge(tiny_model, adapter, tmp_path, "dequantized")
    twin = ModelRef("adapter", str(tiny_model), adapter=tmp_path / "adapter", quantization=adapter.quantization)
    merged = ModelRef("merged", str(tmp_path / "merged"), "m")
    assert list(equals_base(merged, twin, ModelRef("base", str(tiny_model)))) == []


def test_merge_that_rounds_away(tiny_model: Path, tmp_path: Path) -> None:
    """An update too small for the base's dtype would leave the base as it was, without a word."""
    make_adapter(tiny_model, lora(), tmp_path / "adapter", noise=1e-30)
    with pytest.raises(RuntimeError, match="the merged model equals its base"):
        merge(tiny_model, lora(), tmp_path, "original")


def test_merge_of_nan(tiny_model: Path, tmp_path: Path) -> None:
    """A NaN in the adapter stops the merge; a forward pass can hide it."""
    make_adapter(tiny_model, lora(), tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    next(v for k, v in weights.items() if "lora_B" in k)[0, 0] = float("nan")
    save_file(weights, file)
    with pytest.raises(RuntimeError, match="is not finite"):
        merge(tiny_model, lora(), tmp_path, "original")


@pytest.mark.usefixtures("warm_children")
@pytest.mark.parametrize("variant", ["original", "dequantized"])
def test_merge_is_verified_in_a_process_of_its_own(variant: str, tiny_model: Path, tmp_path: Path) -> None:
    """What lies on the disk is the adapter on that base; how far it is from what was trained in 4 bits is told."""
    make_adapter(tiny_model, qlora(), tmp_path / "adapter")
    merge(tiny_model, qlora(), tmp_path, variant)
    heard: list[Progress] = []
    folders = (str(tiny_model), tmp_path / "adapter", tmp_path / "merged")
    found = qlora().verify(*folders, variant=variant, progress=heard.append)
    ends = {sign.what: (sign.done, sign.total) for sign in heard}  # every stage is counted to its end
    assert len(ends) == 2 and all(done == total for done, total in ends.values())
    assert found["kl"] < 1e-6
    assert (found["top1"], found["changed"]) == (1.0, 14)
    assert (found["kl_rounding"], found["top1_rounding"], found["dtype"]) == (0.0, 1.0, "F32")
    assert found["tokens"] == 2000
    assert found["nll_merged"] == pytest.approx(found["nll_adapter"], abs=1e-4)
    assert ("kl_as_trained" in found) == (variant == "original")
    assert found.get("kl_as_trained", 1) > 1e-4


@pytest.mark.usefixtures("warm_children")
def test_merge_of_another_adapter_is_found(tiny_model: Path, tmp_path: Path) -> None:
    """A merged model whose tensors changed where they should, but by something else, is not the adapter."""
    make_adapter(tiny_model, lora(lora_alpha=64), tmp_path / "adapter")
    merge(tiny_model, lora(), tmp_path, "original")
    shutil.rmtree(tmp_path / "adapter")
    make_adapter(tiny_model, lora(lora_alpha=16), tmp_path / "adapter")
    with pytest.raises(CheckFailedError, match="the merged model differs from the adapter on its base"):
        lora().verify(str(tiny_model), tmp_path / "adapter", tmp_path / "merged", variant="original")


def reseat(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the tensors of a model's folder."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


UP = "model.layers.0.mlp.up_proj.weight"
DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a tensor nobody targets": (
        lambda w: w["model.norm.weight"].add_(0.1),
        'merge: "model.norm.weight" changed, although the adapter does not target it',
    ),
    "NaN": (lambda w: w["model.norm.weight"].fill_(float("nan")), "is not finite"),
    "a tensor less": (lambda w: w.pop("lm_head.weight"), '"lm_head.weight" is missing'),
    "another shape": (
        lambda w: w.update({"lm_head.weight": w["lm_head.weight"][1:].clone()}),
        '" is missing, new, or has another shape or dtype than in the base \\[merge-tensors\\]',
    ),
    "a target left out": (
        lambda w: w.update({UP: w[UP] - w[UP]}),
        "the merged model differs from the adapter on its base",
    ),
    "one bit": (
        lambda w: w[UP].view(torch.int32)[3, 5].bitwise_xor_(1),
        '" differs in 1 of 8192 weights from the float64 sum rounded once',
    ),
    "another dtype": (
        lambda w: w.update({"lm_head.weight": w["lm_head.weight"].half()}),
        '" is missing, new, or has another shape or dtype than in the base \\[merge-tensors\\]',
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_after_the_merge_is_found(case: str, tiny_model: Path, tmp_path: Path) -> None:
    """Every tensor is read back, not those that were written alone."""
    damage, told = DAMAGES[case]
    make_adapter(tiny_model, lora(), tmp_path / "adapter")
    merge(tiny_model, lora(), tmp_path, "original")
    reseat(tmp_path / "merged", damage)
    with pytest.raises(CheckFailedError, match=told):
        parity.verify_merge(parity.MergeFolders(str(tiny_model), str(tmp_path / "adapter"), str(tmp_path / "merged")))


def test_target_that_did_not_change_is_found(tiny_model: Path, tmp_path: Path) -> None:
    """A tensor that has the base's numbers though the adapter adds to it was forgotten by the merge."""
    make_adapter(tiny_model, lora(), tmp_path / "adapter")
    merge(tiny_model, lora(), tmp_path, "original")
    old = load_file(tiny_model / "model.safetensors")[UP]
    reseat(tmp_path / "merged", lambda weights: weights.update({UP: old}))
    with pytest.raises(CheckFailedError, match=f'"{UP}" did not change, although the adapter has weights for it'):
        parity.verify_merge(parity.MergeFolders(str(tiny_model), str(tmp_path / "adapter"), str(tmp_path / "merged")))


def double_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the merge, and what is made again to compare it with, both add twice the update."""
    scale = merging.module_scale
    monkeypatch.setattr("harness_lora.merge.module_scale", lambda module, config: 2 * scale(module, config))


@pytest.mark.parametrize("computed", ["float32", "bfloat16"])
@pytest.mark.parametrize("wrong", [False, True])
def test_mistake_of_the_merge_itself_is_found(
    computed: str, wrong: bool, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT's own forward pass is asked too; in half precision, as for a large model, within noise that is measured."""
    monkeypatch.setattr(parity.MergeFolders, "computed", computed)
    monkeypatch.setattr(parity, "token_windows", lambda tokenizer, longest: token_windows(tokenizer, 500, longest))
    make_adapter(tiny_model, lora(), tmp_path / "adapter")
    if wrong:
        double_scale(monkeypatch)
    merge(tiny_model, lora(), tmp_path, "original")
    question = parity.MergeFolders(str(tiny_model), str(tmp_path / "adapter"), str(tmp_path / "merged"))
    if not wrong:
        assert parity.verify_merge(question)["tokens"] == 500
        return
    with pytest.raises(
        CheckFailedError, match=r"merge-forward\]: before rounding the KL is \S+ nats .+, on 500 tokens"
    ):
        parity.verify_merge(question)


@pytest.mark.parametrize("free", [divergence.GPU_RESERVE_BYTES // 2, 64 * divergence.GPU_RESERVE_BYTES])
@pytest.mark.parametrize("computed", ["float32", "bfloat16"])
@pytest.mark.parametrize("dora", [False, True])
def test_merge_is_verified_on_a_gpu_that_does_not_hold_it(
    free: int, computed: str, dora: bool, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One model at a time is loaded; one that is larger than the free memory is computed layer by layer."""
    import accelerate

    loaded: list[weakref.ref[Any]] = []
    load, offload, offloaded = harness_hf.load_model, accelerate.cpu_offload, []

    def one(*given: Any, **how: Any) -> Any:
        assert [ref() for ref in loaded if ref() is not None] == []
        loaded.append(weakref.ref(model := load(*given, **how)))
        return model

    def layers(model: Any, *given: Any, **how: Any) -> Any:
        offloaded.append(how["preload_module_classes"])
        return offload(model, *given, **how)

    make_adapter(tiny_model, lora(use_dora=dora), tmp_path / "adapter")
    merge(tiny_model, lora(), tmp_path, "original")
    monkeypatch.setattr(parity.MergeFolders, "computed", computed)
    monkeypatch.setattr(parity, "token_windows", lambda tokenizer, longest: token_windows(tokenizer, 60, longest))
    monkeypatch.setattr(divergence, "SMOKE_TOKENS", 4)
    question = parity.MergeFolders(str(tiny_model), str(tmp_path / "adapter"), str(tmp_path / "merged"))
    whole = parity.verify_merge(question)
    monkeypatch.setattr(divergence, "loading_gpu", lambda: ("cpu", free))
    monkeypatch.setattr(parity, "load_model", one)
    monkeypatch.setattr(divergence, "cpu_offload", layers)
    assert parity.verify_merge(question) == whole
    # In half precision two more tell how large noise is.
    models = 3 if computed == "float32" else 5
    assert (len(loaded), offloaded) == (
        models,
        [["LlamaDecoderLayer"]] * (models if free < divergence.GPU_RESERVE_BYTES else 0),
    )


def test_update_that_rounds_away_in_one_tensor_is_no_mistake(tiny_model: Path, tmp_path: Path) -> None:
    """A norm near 1 moved by a hundred-thousandth is the same in bfloat16; the rest of the merge is right."""
    base = copy_in_half_precision(tiny_model, tmp_path / "base", torch.bfloat16)
    make_adapter(base, lora(modules_to_save=["norm"]), tmp_path / "adapter", noise=1e-5)
    merge(base, lora(), tmp_path, "original")
    question = parity.MergeFolders(str(base), str(tmp_path / "adapter"), str(tmp_path / "merged"))
    found = parity.verify_merge(question)
    assert 0 < found["changed"] < 15
    twin = ModelRef("adapter", str(base), adapter=tmp_path / "adapter")
    assert list(equals_base(ModelRef("merged", str(tmp_path / "merged"), "m"), twin, ModelRef("base", str(base)))) == []


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ours", "merged with PEFT"])
def test_healthy_merge_that_moves_first_choices(way: str, tmp_path: Path) -> None:
    """What rounding to bfloat16 costs on a sure model is told, and neither the merge nor a check refuses it."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    merges.write_random_base(base, "surest", "bfloat16", 8)
    merges.write_random_adapter(base, adapter, 16, 2e-4, 8)
    merge(base, lora(), tmp_path, "original")
    if way == "ours":
        found = parity.verify_merge(parity.MergeFolders(str(base), str(adapter), str(tmp_path / "merged")))
        assert found["kl"] < 1e-6
        assert found["kl_rounding"] > 1e-3  # once the limit
        assert found["top1_rounding"] < 0.99  # and so was this
    else:
        merges.WAYS[way](base, adapter, tmp_path / "peft", "bfloat16")
    merged = ModelRef("merged", str(tmp_path / ("merged" if way == "ours" else "peft")), "m")
    twin = ModelRef("adapter", str(base), adapter=adapter)
    assert list(equals_base(merged, twin, ModelRef("base", str(base)))) == []
    assert list(differs_from_adapter(merged, twin, [], harness_hf.load)) == []


@pytest.mark.slow
@pytest.mark.parametrize("way", [way for way in merges.WAYS if way.startswith("broken")])
def test_broken_twin_of_a_healthy_merge_is_found(way: str, tmp_path: Path) -> None:
    """Every line names the number and the limit; the sums and the answers both show it."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    merges.write_random_base(base, "surest", "bfloat16", 8)
    merges.write_random_adapter(base, adapter, 16, 2e-4, 8)
    (tmp_path / "ours").mkdir()
    lora().merge(str(base), adapter, tmp_path / "ours", variant="original")
    merges.WAYS[way](base, adapter, tmp_path / "broken", "bfloat16")
    with pytest.raises(CheckFailedError, match=r"merge-bits\]: \d+ of 39 tensors are wrong, limit 0"):
        parity.verify_merge(parity.MergeFolders(str(base), str(adapter), str(tmp_path / "broken")))
    merged, twin = ModelRef("m", str(tmp_path / "broken"), "m"), ModelRef("a", str(base), adapter=adapter)
    sums = [flag for flag in equals_base(merged, twin, ModelRef("base", str(base))) if flag.kind == "sum"]
    assert [flag.severity for flag in sums] == ["error"]
    [answers] = differs_from_adapter(merged, twin, [], harness_hf.load)
    assert "nats per token, limit 0.02 for bfloat16" in answers.what


@pytest.mark.parametrize("chat", [True, False])
def test_texts_are_of_every_kind(chat: bool, tiny_model: Path) -> None:
    """Two thousand tokens with a tokenizer of bytes too, of every text; chats as the template frames them."""
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = tokenizer.chat_template if chat else None
    found = token_windows(tokenizer)
    assert sum(ids.shape[1] - 1 for ids in found) == 2000
    assert ("<|user|>" in tokenizer.decode(found[0][0])) is chat
    assert len(token_windows(tokenizer, 10**6)) > len(CHATS + TEXTS)


def test_windows_are_heard_together_as_alone(tiny_model: Path) -> None:
    """In batches of like lengths, padded, with what follows each token as in a forward of the window by itself."""
    model, told = harness_hf.load_model(tiny_model, dtype="float32", device="cpu"), list[int]()
    ids = [*token_windows(load_tokenizer(tiny_model), 600, 70), torch.tensor([[7, 8, 9]])]
    found = divergence.ModelOutputs.of(lambda: model, ids, tell=told.append).logprobs
    assert sum(told) == len(ids) > len(told) > 1
    for window, logprobs in zip(ids, found, strict=True):
        alone = model(input_ids=window).logits[0, :-1].log_softmax(-1)
        assert torch.allclose(alone, logprobs, atol=1e-5)


def copy_in_half_precision(model: Path, folder: Path, dtype: torch.dtype) -> Path:
    """Copy a model's folder with its weights in half precision."""
    shutil.copytree(model, folder)
    reseat(folder, lambda weights: weights.update({name: w.to(dtype) for name, w in weights.items()}))
    return folder


def test_merged_model_that_does_not_stop_is_found(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the adapter's answer ends, the merged model's must: lost stop tokens are not seen in probabilities.

    The adapter is asked only where an answer of the merged model does not end.
    """
    base, made = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(tiny_model, base)
    trained, tokenizer = make_adapter(base, lora(), made), load_tokenizer(base)
    stops = set()  # a token that each of the answers has
    for prompt in divergence.PROMPTS:
        text = [{"role": "user", "content": prompt}] if tokenizer.chat_template else prompt
        ids = torch.tensor(ModelTokenizer(tokenizer).encode_prompts([text]))
        found = trained.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=9, do_sample=False)
        stops.add(int(found[0, ids.shape[1] + 5]))
    generation = base / "generation_config.json"
    known = json.loads(generation.read_text("utf-8"))
    generation.write_text(json.dumps({**known, "eos_token_id": sorted(stops)}), "utf-8")
    merge(base, lora(), tmp_path, "original")
    question = parity.MergeFolders(str(base), str(made), str(tmp_path / "merged"))
    asked, ends = [], divergence._find_answer_stop_tokens
    monkeypatch.setattr(divergence, "_find_answer_stop_tokens", lambda *given: asked.append(given[1]) or ends(*given))
    assert parity.verify_merge(question)["stops"] == [True, True]
    assert asked == [question.merged]
    (tmp_path / "merged/generation_config.json").write_text(json.dumps(known), "utf-8")
    with pytest.raises(CheckFailedError, match="the merged model does not; see its stop tokens"):
        parity.verify_merge(question)
    assert asked == [question.merged, question.merged, question.base]


def test_merge_tells_how_far_it_is(tiny_model: Path, tmp_path: Path) -> None:
    """A sign of life for every tensor."""
    make_adapter(tiny_model, lora(), tmp_path / "adapter")
    (tmp_path / "merged").mkdir()
    signs: list[Progress] = []
    lora().merge(str(tiny_model), tmp_path / "adapter", tmp_path / "merged", variant="original", progress=signs.append)
    assert [s.done for s in signs] == list(range(1, signs[0].total + 1))


def test_code_of_the_base_is_not_passed_on(tiny_model: Path, tmp_path: Path) -> None:
    """A configuration that would have code loaded from elsewhere loses that when it is merged."""
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    config = json.loads((base / "config.json").read_text("utf-8"))
    (base / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "m.M"}}), "utf-8")
    make_adapter(base, lora(), tmp_path / "adapter")
    merge(base, lora(), tmp_path, "original")
    assert json.loads((tmp_path / "merged/config.json").read_text("utf-8")) == config


@pytest.mark.parametrize("file", ["../elsewhere.safetensors", "/etc/passwd", "other.safetensors"])
def test_index_of_the_base_that_leads_elsewhere(file: str, tiny_model: Path, tmp_path: Path) -> None:
    """A shard index is read by whoever loads the model; one with tricks in it is not merged."""
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    make_adapter(base, lora(), tmp_path / "adapter")
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": file}}), "utf-8")
    (tmp_path / "merged").mkdir()
    with pytest.raises(UsageError, match="is not a file in the same folder"):
        lora().merge(str(base), tmp_path / "adapter", tmp_path / "merged", variant="original")
    assert not any((tmp_path / "merged").iterdir())


FOLDED: list[dict[str, Any]] = [
    {"use_rslora": True},
    {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"layers.1.mlp.up_proj": 7}},
    {"rank_pattern": {"q_proj": 16}, "use_rslora": True},
    {"use_rslora": True, "use_dora": True},
    {"use_rslora": True, "lora_bias": True},
    {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"layers.1.mlp.up_proj": 7}, "lora_bias": True},
    {"use_rslora": True, "target_modules": ["embed_tokens", "q_proj"]},
]


@pytest.mark.filterwarnings("ignore:.lora_bias=True. was passed:UserWarning")  # that it could not be merged
@pytest.mark.filterwarnings("ignore:Adapter 'default'. .* have invalid shape:UserWarning")  # a bias is no matrix
@pytest.mark.parametrize("options", FOLDED, ids=lambda o: "-".join(o))
def test_folded_adapter_is_plain_and_the_same(tiny_model: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """With alpha/r = 1 on every module, as any server computes it, an adapter answers as before it was folded."""
    adapter = lora(r=8, lora_alpha=32, **options)
    ids = torch.arange(40).view(1, -1) % 200
    with torch.inference_mode():
        before = make_adapter(tiny_model, adapter, tmp_path)(ids).logits
        assert fold_scales(tmp_path)
        after = load_model(tiny_model, dtype="float32", device="cpu", adapter=tmp_path)(ids).logits
    config = read_config(tmp_path)
    assert config.lora_alpha == config.r
    assert not any((config.use_rslora, config.rank_pattern, config.alpha_pattern))
    assert config.use_dora == options.get("use_dora", False)
    ranks = {header.shape[0] for key, header in read_headers(tmp_path).items() if "lora_A" in key}
    assert ranks == {config.r}
    assert torch.allclose(before, after, atol=1e-4)
    assert not fold_scales(tmp_path)  # twice is once


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_exported_adapter_is_swapped_in(tiny_model: Path, tmp_path: Path) -> None:
    """The export loads the adapter beside the gated one and answers alike; another adapter is found out."""
    ref = ModelRef("adapter", str(tiny_model), adapter=tmp_path / "gated", options={"dtype": "float32"})
    make_adapter(tiny_model, lora(r=8), tmp_path / "gated", noise=0.3)
    (tmp_path / "to").mkdir()
    facts: dict[str, Any] = {}
    harness_export.adapter(ref, tmp_path / "to", facts=facts)
    assert 0 < facts["swap_in_ms"] < 10_000
    weights = load_file(tmp_path / "to/adapter_model.safetensors")
    save_file({k: -w if "lora_B" in k else w for k, w in weights.items()}, tmp_path / "to/adapter_model.safetensors")
    question = {"base": str(tiny_model), "gated": str(tmp_path / "gated"), "exported": str(tmp_path / "to")}
    with pytest.raises(CheckFailedError, match="answers differently from the gated one"):
        hot_swap.check_hot_swap(**question, quantization=None, placed=dict(ref.options))


def test_plain_adapter_is_not_touched(tiny_model: Path, tmp_path: Path) -> None:
    """An adapter that has no scaling to lose keeps its bytes."""
    make_adapter(tiny_model, lora(r=8, lora_alpha=32), tmp_path)
    before = (tmp_path / "adapter_model.safetensors").read_bytes()
    assert not fold_scales(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").read_bytes() == before


def test_blocks_of_several_ranks_are_not_folded(tiny_model: Path, tmp_path: Path) -> None:
    """The blocks of a BD-LoRA lie one below the other, so a rank filled up at its end would move them."""
    blocks = {"target_modules_bd_a": ["o_proj"], "target_modules_bd_b": [], "nblocks": 2, "match_strict": False}
    make_adapter(tiny_model, lora(r=8, rank_pattern={"o_proj": 4}, use_bdlora=blocks), tmp_path)
    before = load_model(tiny_model, dtype="float32", device="cpu", adapter=tmp_path)
    fold_scales(tmp_path)
    assert (
        compute_logit_difference(before, load_model(tiny_model, dtype="float32", device="cpu", adapter=tmp_path)) == 0
    )


def merge(base: Path, adapter: Lora, folder: Path, variant: str) -> Any:
    """Merge what is in `folder`/adapter and load the result back from disk."""
    out = folder / "merged"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    adapter.merge(str(base), folder / "adapter", out, variant=variant)
    return load_model(out, dtype="float32", device="cpu")


def compute_logit_difference(one: Any, other: Any) -> float:
    """Return the greatest difference of two models' logits."""
    with torch.no_grad():
        return float((one(IDS).logits.float() - other(IDS).logits.float()).abs().max())
