"""Text fine-tunes of bases that read pictures as well: default settings train, and the rest of the base is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench import architectures
from bench.architectures import _make_small_config
from harness.records.models import ModelRef
from harness.testing import Project
from tests.helpers.adapters import make_adapter
from tests.helpers.multimodal import CLASSES, build

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

from packaging.version import Version  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

import harness_hf  # noqa: E402
from harness.errors import UsageError  # noqa: E402
from harness_export import safetensors  # noqa: E402
from harness_hf.classes import find_class, load_config  # noqa: E402
from harness_lora import list_towers, lora  # noqa: E402

pytestmark = pytest.mark.slow
DATA = Path(__file__).parents[3] / "suites" / "data"
SUITE = f"""
[suite]
name = "pictures"

[model]
use = "hf"
path = "model"
dtype = "float32"

[adapter]
use = "lora"
r = 4
lora_dropout = 0.0

[train]
use = "sft"
data = "{DATA}/colours-train.jsonl"
learning_rate = 1e-2
max_steps = 6
per_device_train_batch_size = 8
gradient_accumulation_steps = 1

[[eval]]
name = "fit"
use = "perplexity"
of = "completion"
data = "{DATA}/colours-test.jsonl"

[[gate]]
id = "learned something"
metric = "fit.perplexity"
allow_approximate = true
versus = "base"
better_by = 0.01

[merge]

[[export]]
use = "safetensors"
from = "merged"
to = "exports/pictures"
"""


@pytest.mark.usefixtures("warm_children")
@pytest.mark.parametrize("name", CLASSES)
def test_a_text_fine_tune_keeps_what_reads_pictures(name: str, project: Project) -> None:
    """Default targets train; the export is the whole model, outside its language part byte for byte the base's."""
    fused_experts = name.startswith("Llama4")
    if fused_experts and Version(transformers.__version__) < Version("5.25"):
        pytest.skip("its forward raises before transformers 5.25")
    build(name, project.folder / "model")
    (project.folder / "model/preprocessor_config.json").write_text('{"image_processor_type": "X"}', "utf-8")
    done = project.write({"suite.toml": SUITE}).harness("run", "suite.toml")
    assert done.code == 0, done.out
    assert "which processes text; unchanged: " in done.out
    out = project.folder / "exports/pictures/model"
    model = transformers.AutoModelForImageTextToText.from_pretrained(out)
    assert type(model).__name__ == name
    before, after = (load_file(folder / "model.safetensors") for folder in (project.folder / "model", out))
    assert before.keys() == after.keys()
    changed = {key for key, tensor in before.items() if not torch.equal(tensor, after[key])}
    beside = [tower.rpartition(".")[2] for tower in list_towers(model)]
    assert changed
    assert not [key for key in changed for tower in beside if f"{tower}." in key]
    assert [key for key in before for tower in beside if f"{tower}." in key]
    assert "AutoModelForImageTextToText.from_pretrained" in (out.parent / "README.md").read_text("utf-8")
    assert (out / "preprocessor_config.json").read_text("utf-8") == '{"image_processor_type": "X"}'
    assert ("fused-moe-experts" in done.out) == fused_experts


def test_pictures_are_read_as_before(tmp_path: Path) -> None:
    """What the towers make of a picture is the base's to the bit; logits on it are those of the adapter on its base."""
    from harness.records.models import ModelRef

    base, adapter, merged, out = (tmp_path / part for part in ("base", "adapter", "merged", "out"))
    model = build("Gemma3ForConditionalGeneration", base)
    with harness_hf.quiet_loading():
        adapted = make_adapter(base, lora(lora_dropout=0.0), adapter)
    merged.mkdir()
    lora().merge(str(base), adapter, merged, variant="original")
    safetensors(ModelRef("merged", str(merged)), out)
    exported = transformers.AutoModelForImageTextToText.from_pretrained(out, dtype=torch.float32).eval()
    picture = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[1, *[290] * 4, 20, 21, 22]])  # (1, 8), four of them the picture's
    given = {"pixel_values": picture, "input_ids": ids, "token_type_ids": (ids == 290).long()}
    with torch.inference_mode():
        features = [m.get_image_features(pixel_values=picture).pooler_output for m in (model, exported)]
        assert torch.equal(*features)
        torch.testing.assert_close(exported(**given).logits, adapted(**given).logits, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(exported(**given).logits, model(**given).logits, atol=1e-2)


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (["vision_tower.encoder.layers.0.self_attn.q_proj", "q_proj"], "which text inputs do not use"),
        (["multi_modal_projector"], "which text inputs do not use"),
        (r".*vision_tower.*\.q_proj", "which text inputs do not use"),
    ],
)
def test_targets_in_a_tower_are_refused(targets: Any, says: str, tmp_path: Path) -> None:
    """An adapter there would have no gradient: the option is named, and the part that has one."""
    build("Gemma3ForConditionalGeneration", tmp_path)
    names = [name for name, _ in harness_hf.build_skeleton(tmp_path).named_modules()]
    if not any(name.endswith("vision_tower.encoder.layers.0.self_attn.q_proj") for name in names):
        targets = [next(n for n in names if "vision_tower" in n and n.endswith("q_proj")), "q_proj"]
    with pytest.raises(UsageError, match=says) as caught:
        lora(target_modules=targets).check_targets(str(tmp_path))
    assert 'name modules of "model.language_model"' in str(caught.value)


def test_names_that_both_parts_have_are_adapted_in_the_language_model(tmp_path: Path) -> None:
    """A list such as q_proj and v_proj means the layers that rows of text go through."""
    from harness_lora.skeleton import adapt_skeleton
    from harness_lora.targets import restrict_targets

    build("Gemma3ForConditionalGeneration", tmp_path)
    model = harness_hf.build_skeleton(tmp_path)
    config = lora(target_modules=["q_proj", "v_proj"], exclude_modules=["layers.0.self_attn.v_proj"]).peft_config()
    names = {
        n for n, m in adapt_skeleton(model, restrict_targets(config, model)).named_modules() if hasattr(m, "lora_A")
    }
    ends = {"0.self_attn.q_proj", "1.self_attn.q_proj", "1.self_attn.v_proj"}
    assert names == {f"base_model.model.model.language_model.layers.{end}" for end in ends}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("T5ForConditionalGeneration", "is an encoder-decoder"),
        ("WhisperForConditionalGeneration", "reads input_features, not text"),
        ("ModernBertForMaskedLM", "does not generate text"),
        ("BertModel", "does not generate text"),
        ("Qwen3Model", "does not generate text"),
        ("LlamaForSequenceClassification", "does not generate text"),
        ("CLIPModel", "does not generate text"),
    ],
)
@pytest.mark.parametrize("command", ["run", "check"])
def test_what_continues_no_text_is_refused_in_one_line(
    name: str, says: str, command: str, tiny_model: Path, project: Project
) -> None:
    """Before any row is read, with exit code 4 and a way out: its rows can be gated all the same."""
    shutil.copytree(tiny_model, project.folder / "model")
    made = getattr(transformers, name).config_class
    config = made(**_make_small_config(made, 261), architectures=[name]).to_dict()
    (project.folder / "model/config.json").write_text(json.dumps(config), "utf-8")
    done = project.write({"suite.toml": SUITE}).harness(command, "suite.toml")
    assert done.code == 4
    [line] = [line for line in done.out.splitlines() + done.err.splitlines() if says in line][:1]
    assert name in line
    assert "harness gate" in line
    assert "Traceback" not in done.out + done.err


def test_a_pipeline_of_diffusers_is_refused(project: Project) -> None:
    """It has no config.json of its own, and is no model of text."""
    project.write({"model/model_index.json": '{"_class_name": "X"}', "suite.toml": SUITE})
    done = project.harness("run", "suite.toml")
    assert done.code == 4
    assert "is a diffusers pipeline, which does not generate text" in done.out + done.err


def test_two_classes_are_not_chosen_from(tmp_path: Path) -> None:
    """A configuration that names two models is not read as one of them."""
    build("Gemma3ForConditionalGeneration", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    config["architectures"].append("Gemma3ForCausalLM")
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(UsageError, match="names Gemma3ForConditionalGeneration and Gemma3ForCausalLM; keep only the"):
        find_class(tmp_path, load_config(tmp_path))


def test_a_processor_is_no_tokenizer(tmp_path: Path) -> None:
    """transformers makes a tokenizer of three marks where a folder has a processor alone; nothing is measured by it."""
    build("Gemma3ForConditionalGeneration", tmp_path)
    for path in tmp_path.glob("token*"):
        path.unlink()
    (tmp_path / "processor_config.json").write_text('{"processor_class": "Gemma3Processor"}', "utf-8")
    with pytest.raises(UsageError, match=r"has no tokenizer, none of .*; a processor alone has no vocabulary"):
        harness_hf.load_tokenizer(tmp_path)


def test_a_model_of_text_alone_is_told_from_its_base(tmp_path: Path) -> None:
    """A candidate without the towers of its base is measured as it is, and what it leaves out is a warning."""
    from harness_checks.merged import tokenizer_changed

    model = build("Gemma3ForConditionalGeneration", tmp_path / "base")
    text = transformers.Gemma3ForCausalLM(model.config.get_text_config())
    text.model.load_state_dict(model.model.language_model.state_dict())
    text.save_pretrained(tmp_path / "text")
    for path in (tmp_path / "base").iterdir():
        if "token" in path.name or "template" in path.name:
            shutil.copy(path, tmp_path / "text")
    refs = [ModelRef(name, str(tmp_path / name)) for name in ("text", "base")]
    [finding] = [f for f in tokenizer_changed(*refs) if f.kind == "text-only"]
    assert finding.severity == "warning"
    assert "reads more than text, but this model lacks vision_config" in finding.what
    assert not [f for f in tokenizer_changed(*refs) if f.kind == "config"]


def test_all_linear_on_mamba_leaves_out_what_peft_refuses(tmp_path: Path) -> None:
    """Default targets adapt the other linears, and the merge is exact."""
    row = architectures.check("FalconMambaForCausalLM", tmp_path)
    assert row.right, row
    assert isinstance(row.merged, float)
