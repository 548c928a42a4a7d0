"""One folder, one model: what another reader would take for it is left out or refused, never shipped."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.artifacts.digests import weights_digest
from harness.artifacts.formats import UnsafeFileError, check_candidate, check_files, shipping_files
from harness.artifacts.model_files import extra_files, weight_files

Edit = Callable[[Path], object]
EMBEDDING, HEAD, BIAS = "model.embed_tokens.weight", "lm_head.weight", "model.q.bias"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def write_safetensors(path: Path, values: dict[str, float], dtype: str = "F32") -> None:
    """Write a safetensors file of pairs of one number each."""
    header, data = {}, b""
    for name, value in values.items():
        raw = struct.pack("<2f", value, value) if dtype == "F32" else bytes([int(value)] * 2)
        header[name] = {"dtype": dtype, "shape": [2], "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_weights_file(name: str, value: float = 9.0, *names: str) -> Edit:
    return lambda folder: write_safetensors(folder / name, dict.fromkeys(names or (EMBEDDING, HEAD, BIAS), value))


def put(name: str, text: str = "{}") -> Edit:
    def edit(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, "utf-8")

    return edit


def edit_config(**more: object) -> Edit:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        (folder / "config.json").write_text(json.dumps({**config, **more}), "utf-8")

    return edit


def write_shard_index(*files: str, name: str = INDEX) -> Edit:
    """Write an index of the tensors of files that are there."""

    def edit(folder: Path) -> None:
        made = dict.fromkeys((EMBEDDING, HEAD, BIAS), files[0])
        (folder / name).write_text(json.dumps({"weight_map": made}), "utf-8")

    return edit


def chain_edits(*edits: Edit) -> Edit:
    return lambda folder: [edit(folder) for edit in edits]


def rename_weights_file(to: str) -> Edit:
    return lambda folder: (folder / SINGLE).rename(folder / to)


LEFT: dict[str, Edit] = {  # beside a model that all readers take alike without it
    **{name: write_weights_file(name) for name in (
        "consolidated.safetensors", "consolidated.00.safetensors", "consolidated-00001-of-00001.safetensors",
        "zzz.safetensors", "adapter_model.safetensors", "model-00001-of-00001.safetensors", "model.fp16.safetensors",
        "mtp.safetensors", "pytorch_model.safetensors",
    )},
    **{name: put(name) for name in (
        "params.json", "tekken.json", "hf_quant_config.json", "quantize_config.json", "quant_config.json",
        "quant_model_description.json", "modules.json", "chat_template.json", "config.1.0.0.json", "model_index.json",
        "consolidated.safetensors.index.json", "adapter_model.safetensors.index.json", "speculators.json",
    )},
    **{name: put(name, "x") for name in (
        "tokenizer.model", "spiece.model", "other.jinja", "pytorch_model.bin", "model.pt", "consolidated.00.pth",
        "model.ckpt", "flax_model.msgpack", "tf_model.h5", "model.onnx", "head.pt",
    )},
    "two formats": lambda folder: (folder / "model.gguf").write_bytes(b"GGUF"),
    "an index of the single file": write_shard_index(SINGLE),
    "mistral's own": chain_edits(
        write_weights_file("consolidated.safetensors"), put("params.json"), put("tekken.json")
    ),
}  # fmt: skip
REFUSED: dict[str, Edit] = {  # another model, by the very files that it is read from
    "an index of other shards": chain_edits(
        write_weights_file("other.safetensors"), write_shard_index("other.safetensors")
    ),
    "an index of shards and more": chain_edits(
        rename_weights_file("a.safetensors"), write_shard_index("b.safetensors")
    ),
    "an index of nothing": chain_edits(rename_weights_file("a.safetensors"), put(INDEX, '{"weight_map": {}}')),
    "an index without a tensor": chain_edits(
        rename_weights_file("a.safetensors"), put(INDEX, '{"weight_map": {"x": "a.safetensors"}}')
    ),
    "a tied head of its own": edit_config(tie_word_embeddings=True),
    "a text model's tied head": edit_config(tie_word_embeddings=None, text_config={"tie_word_embeddings": True}),
    "quantised by its word alone": edit_config(quantization_config={"quant_method": "fp8"}),
    "quantised by another word": edit_config(compression_config={"quant_method": "compressed-tensors"}),
    "quantised for MLX": edit_config(quantization={"bits": 4}),
    "a draft": edit_config(speculators_config={"verifier": {"name_or_path": "a/b"}}),
    "a draft's heads": edit_config(medusa_num_heads=3, base_model_name_or_path="a/b"),
    "weights by name": edit_config(transformers_weights="other.safetensors"),
    "configurations by version": edit_config(configuration_files=["config.1.0.0.json"]),
    "an adapter": chain_edits(put("adapter_config.json"), write_weights_file("adapter_model.safetensors")),
    "a distributed checkpoint": write_weights_file("shard-00000-model-00000-of-00000.safetensors"),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder as transformers saves a model, of three tensors."""
    folder = tmp_path / "model"
    folder.mkdir()
    write_safetensors(folder / SINGLE, {EMBEDDING: 1.0, HEAD: 2.0, BIAS: 3.0})
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False}
    for name, text in (("config.json", json.dumps(config)), ("tokenizer.json", "{}"), ("README.md", "A model.")):
        (folder / name).write_text(text, "utf-8")
    return folder


@pytest.mark.parametrize("case", LEFT)
def test_what_others_would_read_stays_behind(case: str, model: Path) -> None:
    """It is told, has no part in the digest, and is refused where it lies in an export."""
    names, digest = shipping_files(model), weights_digest(model)
    before = {p.name for p in model.iterdir()}
    LEFT[case](model)
    assert (shipping_files(model), weights_digest(model), weight_files(model)) == (names, digest, [SINGLE])
    assert extra_files(model) == sorted({p.name for p in model.iterdir()} - before)
    with pytest.raises(UnsafeFileError):
        check_files(model)


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_of_two_models_is_refused(case: str, model: Path) -> None:
    """Whatever is left out, readers would differ, so it is neither a candidate nor an export."""
    REFUSED[case](model)
    for check in (check_candidate, check_files):
        with pytest.raises(UnsafeFileError):
            check(model)


def test_healthy_twins_pass(model: Path) -> None:
    """A tied head with the embedding's numbers, quantised tensors that say so, shards with their index."""
    write_safetensors(model / SINGLE, {EMBEDDING: 1.0, HEAD: 1.0, BIAS: 3.0})
    edit_config(tie_word_embeddings=True)(model)
    check_candidate(model)
    check_files(model)
    edit_config(tie_word_embeddings=False, quantization_config={"quant_method": "bitsandbytes"})(model)
    write_safetensors(model / SINGLE, {EMBEDDING: 1.0, HEAD: 2.0, BIAS: 3.0}, dtype="U8")
    check_candidate(model)
    edit_config(quantization_config=None)(model)
    (model / SINGLE).rename(model / "model-00001-of-00001.safetensors")
    write_shard_index("model-00001-of-00001.safetensors")(model)
    check_files(model)
    assert weight_files(model) == ["model-00001-of-00001.safetensors"]
    assert INDEX in shipping_files(model)


def test_an_adapter_with_its_bases_configuration_is_an_adapter(model: Path) -> None:
    """Some trainers write the base's configuration beside an adapter; without weights of a model it is none."""
    (model / SINGLE).rename(model / "adapter_model.safetensors")
    (model / "adapter_config.json").write_text("{}", "utf-8")
    check_candidate(model)
    assert weight_files(model) == ["adapter_model.safetensors"]


def test_what_another_loader_reads_ships(tmp_path: Path) -> None:
    """A folder that is not transformers' own is its loader's: only what is known to be read by others stays behind."""
    write_safetensors(tmp_path / SINGLE, {"w": 1.0})
    for name in ("config.json", "skill.json", "params.json"):
        (tmp_path / name).write_text("{}", "utf-8")
    assert shipping_files(tmp_path) == ["config.json", SINGLE, "skill.json"]
    assert extra_files(tmp_path) == ["params.json"]


def test_notes_of_a_training_do_not_ship_with_an_adapter(tmp_path: Path) -> None:
    """Trainer state and results lie in the folder of an adapter, which has no config.json, as in a model's."""
    write_safetensors(tmp_path / "adapter_model.safetensors", {"w": 1.0})
    for name in ("adapter_config.json", "tokenizer_config.json", "trainer_state.json", "all_results.json"):
        (tmp_path / name).write_text("{}", "utf-8")
    assert shipping_files(tmp_path) == ["adapter_config.json", "adapter_model.safetensors", "tokenizer_config.json"]
