"""Copies in FP8 (e4m3): ours and other tools' are read back, compared with their parent, evaluated and loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import harness_hf
from harness import ModelRef, UsageError
from harness.artifacts.formats import check_configuration, check_files
from harness.errors import CheckFailedError
from harness_hf import sources

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from harness_export.fp8 import MAX_E4M3, check_fp8_options, compare_fp8, fp8  # noqa: E402
from harness_hf.fp8 import dequantize_folder  # noqa: E402

pytestmark = pytest.mark.slow
UP = "model.layers.0.mlp.up_proj.weight"
Tensors = dict[str, Any]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path_factory.mktemp("cache")))


def export(parent: Path, to: Path, **options: Any) -> Path:
    to.mkdir()
    return fp8(ModelRef("merged", str(parent)), to, progress=lambda _: None, **options)


def edit(folder: Path, change: Callable[[Tensors], Any]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def write_fine_grained_fp8(parent: Path, to: Path, block: int = 32) -> Path:
    """Write a copy as transformers' fine-grained FP8 lies on the disk: a scale of each block, under another name."""
    shutil.copytree(parent, to)

    def quantise(tensors: Tensors) -> None:
        for name in [n for n in tensors if n.endswith("_proj.weight")]:
            rows, columns = tensors[name].shape
            blocks = tensors[name].reshape(rows // block, block, columns // block, block)
            scale = blocks.abs().amax((1, 3)) / MAX_E4M3
            tensors[name] = (blocks / scale[:, None, :, None]).reshape(rows, columns).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = scale

    edit(to, quantise)
    config = json.loads((to / "config.json").read_text("utf-8"))
    said = {"quant_method": "fp8", "weight_block_size": [block, block], "activation_scheme": "dynamic"}
    (to / "config.json").write_text(json.dumps({**config, "quantization_config": said}), "utf-8")
    return to


@pytest.mark.parametrize("scales", ["channel", "tensor"])
def test_copy_is_its_parent_rounded(tiny_model: Path, tmp_path: Path, scales: str) -> None:
    """Linear layers but the head are in 8 bits, what is loaded is what they say, and `verify` would take the files."""
    copy = export(tiny_model, tmp_path / "copy", scales=scales)
    written = load_file(copy / "model.safetensors")
    assert written[UP].dtype is torch.float8_e4m3fn
    assert written[f"{UP}_scale"].shape == ((len(written[UP]), 1) if scales == "channel" else (1,))
    assert written["lm_head.weight"].dtype is torch.float32
    facts = json.loads((copy / "harness-copy.json").read_text("utf-8"))["facts"]
    assert facts["layers"] == 14
    assert 0.01 < facts["relative_error"] < 0.04
    check_files(copy)
    check_configuration(copy)
    source = harness_hf.load.open(str(copy))  # type: ignore[attr-defined]
    assert source.facts["dtype"] == "F8_E4M3"
    assert source.facts["bytes"] == (copy / "model.safetensors").stat().st_size
    with harness_hf.load([ModelRef("copy", str(copy))], dtype="float32", device="cpu") as [subject]:
        weight = dict(subject.model.named_parameters())[UP]  # type: ignore[attr-defined]
        assert torch.equal(weight, written[UP].float() * written[f"{UP}_scale"].float())


def test_half_precision_keeps_its_scales(tiny_model: Path, tmp_path: Path) -> None:
    """Scales are rounded to the model's own dtype before its numbers are divided by them."""
    parent = shutil.copytree(tiny_model, tmp_path / "parent")
    edit(parent, lambda t: t.update({name: tensor.bfloat16() for name, tensor in t.items()}))
    copy = export(parent, tmp_path / "copy")
    assert load_file(copy / "model.safetensors")[f"{UP}_scale"].dtype is torch.bfloat16


def test_shards_stay_shards(tiny_model: Path, tmp_path: Path) -> None:
    """A model in several files is quantised file by file, and its index names the scales."""
    parent = shutil.copytree(tiny_model, tmp_path / "parent")
    tensors = load_file(parent / "model.safetensors")
    (parent / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, parent / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (parent / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    copy = export(parent, tmp_path / "copy")
    check_files(copy)
    check_files(sources.resolve_folder(str(copy)))


@pytest.mark.parametrize("made", [write_fine_grained_fp8, lambda parent, to: export(parent, to)])
def test_copy_made_elsewhere_is_taken_as_it_is(
    tiny_model: Path, tmp_path: Path, made: Callable[[Path, Path], Path]
) -> None:
    """Other tools' layouts are read by what their tensors are called, compared, and shipped byte by byte."""
    own = made(tiny_model, tmp_path / "own")
    copy = export(tiny_model, tmp_path / "copy", path=str(own))
    assert (copy / "model.safetensors").read_bytes() == (own / "model.safetensors").read_bytes()
    facts = json.loads((copy / "harness-copy.json").read_text("utf-8"))["facts"]
    assert facts["made"] == "elsewhere"
    assert 0.01 < facts["relative_error"] < 0.04


def swap_layers(tensors: Tensors) -> None:
    other = UP.replace("layers.0", "layers.1")
    for end in ("", "_scale"):
        tensors[UP + end], tensors[other + end] = tensors[other + end].clone(), tensors[UP + end].clone()


OTHER: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "a swapped layer": (swap_layers, r'up_proj\.weight" differs from its parent\'s rounded value'),
    "a changed scale": (lambda t: t[f"{UP}_scale"][3].mul_(1.1), f'"{UP}" differs from its parent\'s rounded value'),
    "another norm": (lambda t: t["model.norm.weight"][3].add_(0.01), '"model.norm.weight" differs from its parent'),
    "a missing tensor": (lambda t: t.pop("lm_head.weight"), '"lm_head.weight" is only in the parent model'),
    "one more": (lambda t: t.update(more=torch.ones(3)), '"more" is not in the parent model'),
    "another shape": (
        lambda t: t.update({"lm_head.weight": torch.ones(3)}),
        r'"lm_head.weight" has shape \[3\], but \[261, 64\] in the parent',
    ),
    "NaN": (lambda t: t[UP].view(torch.uint8)[3].fill_(0x7F), f'"{UP}" has NaN'),
    "a scale of 0": (lambda t: t[f"{UP}_scale"][3].zero_(), f'"{UP}_scale" has a scale that is not above 0'),
    "a scale of NaN": (lambda t: t[f"{UP}_scale"][3].fill_(torch.nan), f'"{UP}_scale" has a scale that'),
    "no scale": (lambda t: t.pop(f"{UP}_scale"), f'"{UP}" has no scale'),
    "half the scales": (lambda t: t.update({f"{UP}_scale": torch.ones(5, 1)}), r"has the shape \[5, 1\]"),
}


@pytest.mark.parametrize(("change", "why"), OTHER.values(), ids=OTHER)
def test_another_models_tensor_is_named(
    tiny_model: Path, tmp_path: Path, change: Callable[[Tensors], Any], why: str
) -> None:
    """What is not the parent, rounded, is one line with the tensor's name."""
    own = edit(export(tiny_model, tmp_path / "own"), change)
    with pytest.raises((CheckFailedError, UsageError), match=why):
        export(tiny_model, tmp_path / "copy", path=str(own))


def test_configuration_and_tokenizer_are_the_parents(tiny_model: Path, tmp_path: Path) -> None:
    """A key that decides how it computes, and another template, are told."""
    copy = export(tiny_model, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text("utf-8"))
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}), "utf-8")
    with pytest.raises(CheckFailedError, match=r"config.json: rms_norm_eps is 0.1, but 1e-06 in the parent model"):
        compare_fp8(tiny_model, copy)
    (copy / "config.json").write_text(json.dumps(config), "utf-8")
    (copy / "chat_template.jinja").write_text("{{ messages }}", "utf-8")
    with pytest.raises(CheckFailedError, match="the chat template that was read back differs"):
        compare_fp8(tiny_model, copy)


def test_what_cannot_be_quantised(tiny_model: Path, tmp_path: Path) -> None:
    """An adapter, a model that is quantised already, and a path without FP8 are refused with the reason."""
    with pytest.raises(UsageError, match="adapter is an adapter"):
        fp8(ModelRef("adapter", str(tiny_model), adapter=tmp_path), tmp_path, progress=lambda _: None)
    with pytest.raises(UsageError, match="which is not a folder with FP8 weights"):
        check_fp8_options(tiny_model, {"path": str(tiny_model)})
    with pytest.raises(UsageError, match="is quantised already"):
        check_fp8_options(export(tiny_model, tmp_path / "copy"), {})


@pytest.mark.parametrize("seed", range(5))
def test_random_numbers_of_every_size(tiny_model: Path, tmp_path: Path, seed: int) -> None:
    """Rows from 1e-6 to 1e6, and one of zeros, are within half a step of what is read back."""
    parent = shutil.copytree(tiny_model, tmp_path / "parent")
    draw = torch.Generator().manual_seed(seed)

    def spread(tensors: Tensors) -> None:
        rows = 10 ** torch.empty(len(tensors[UP]), 1).uniform_(-6, 6, generator=draw)
        tensors[UP] = torch.randn(tensors[UP].shape, generator=draw) * rows
        tensors[UP][seed] = 0

    edit(parent, spread)
    copy = export(parent, tmp_path / "copy")
    (tmp_path / "plain").mkdir()
    dequantize_folder(copy, tmp_path / "plain")
    there, here = (load_file(f / "model.safetensors")[UP] for f in (parent, tmp_path / "plain"))
    assert ((there - here).abs() <= there.abs() / 16 + there.abs().amax(1, keepdim=True) / MAX_E4M3 * 2**-9).all()
