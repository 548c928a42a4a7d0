"""A GGUF file in K-quants, of somebody else or of ours, is a copy: compared, evaluated, gated and shipped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import harness_export
from harness import ModelRef, UsageError
from harness.artifacts.gguf import read_gguf
from harness.errors import CheckFailedError
from harness.release.conversions import CONVERSION_NOTES
from harness.release.verify import verify_export
from harness.testing import Project
from tests.helpers.llamas import build

pytest.importorskip("gguf")
pytest.importorskip("torch")

from tests.helpers.k_quants import rewrite

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("model for GGUF"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
FILE_TYPES = {"Q4_K": 15, "Q5_K": 17, "Q6_K": 18}
Damage = Callable[[dict[str, Any]], None]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose rows are whole blocks of K-quants, but those of down_proj."""
    return build(tmp_path_factory.mktemp("parent"), hidden_size=256, intermediate_size=288, initializer_range=0.05)


@pytest.fixture(scope="module")
def plain(parent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parent as a GGUF file in F32."""
    to = tmp_path_factory.mktemp("plain")
    harness_export.gguf(ModelRef("merged", str(parent)), to, quantization="F32")
    return to / "model.gguf"


def choose_matrix_types(type_: str) -> Callable[[str], str]:
    """Return the type of each matrix: what llama.cpp takes where rows are no whole blocks, and a finer head."""
    other = {"output.weight": "Q6_K"}
    return lambda name: "Q8_0" if "ffn_down" in name else other.get(name, type_)


def write_quantized_gguf(
    plain: Path, to: Path, type_: str = "Q4_K", values: Damage = lambda tensors: None, **said: Any
) -> Path:
    told = {"general.file_type": FILE_TYPES[type_], **{name.replace("__", "."): value for name, value in said.items()}}
    return rewrite(plain, to, choose_matrix_types(type_), values, told)


def take(parent: Path, file: Path, to: Path) -> Path:
    to.mkdir()
    harness_export.gguf.check(parent, {"path": str(file)})  # type: ignore[attr-defined]
    return harness_export.gguf(ModelRef("merged", str(parent)), to, path=str(file))


@pytest.mark.parametrize("type_", FILE_TYPES)
def test_file_made_elsewhere_is_taken_as_it_is(parent: Path, plain: Path, tmp_path: Path, type_: str) -> None:
    """It is copied byte by byte, and its notes say which types it holds and how far off they are."""
    file = write_quantized_gguf(plain, tmp_path / "own.gguf", type_)
    to = take(parent, file, tmp_path / "to")
    assert (to / "model.gguf").read_bytes() == file.read_bytes()
    facts = json.loads((to / CONVERSION_NOTES).read_text("utf-8"))["facts"]
    assert facts["made"] == "elsewhere"
    assert "2 Q8_0" in facts["tensors"]
    assert 0.001 < facts["relative_error"] < {"Q4_K": 0.1, "Q5_K": 0.05, "Q6_K": 0.03}[type_]


def swap_query_weights(tensors: dict[str, Any]) -> None:
    one, two = "blk.0.attn_q.weight", "blk.1.attn_q.weight"
    tensors[one], tensors[two] = tensors[two], tensors[one]


def scale_weight_row(tensors: dict[str, Any]) -> None:
    tensors["blk.1.ffn_up.weight"][7] *= 1.2


def scale_norm_weight(tensors: dict[str, Any]) -> None:
    tensors["output_norm.weight"][3] *= 1.001


def cut(tensors: dict[str, Any]) -> None:
    tensors["blk.1.ffn_up.weight"] = tensors["blk.1.ffn_up.weight"][:-1]


OTHER: dict[str, tuple[Damage, str]] = {
    "a swapped layer": (swap_query_weights, r'"blk\.0\.attn_q\.weight" differs from its parent\'s rounded value'),
    "a changed scale": (scale_weight_row, r'"blk\.1\.ffn_up\.weight" differs from its parent\'s rounded value'),
    "another norm": (scale_norm_weight, r'"output_norm\.weight" differs from its parent\'s in F32'),
    "a missing tensor": (
        lambda t: t.pop("output.weight"),
        r'"output\.weight" is not both in the model and in the file',
    ),
}


@pytest.mark.parametrize(("values", "why"), OTHER.values(), ids=OTHER)
def test_another_models_tensor_is_named(parent: Path, plain: Path, tmp_path: Path, values: Damage, why: str) -> None:
    """What is not the parent, rounded, is told by the name of its tensor."""
    with pytest.raises(CheckFailedError, match=why):
        take(parent, write_quantized_gguf(plain, tmp_path / "own.gguf", values=values), tmp_path / "to")


SAID = {
    "text for a type": (
        {"general__file_type": "Q4_K_M"},
        "has the general.file_type Q4_K_M, which llama.cpp does not define",
    ),
    "finer than it is": ({"general__file_type": 18}, r'is labelled Q6_K, but "[\w.]+" is Q4_K, which is'),
    "another template": ({"tokenizer__chat_template": "{{ messages }}"}, "chat template that was read back differs"),
    "another stop": ({"tokenizer__ggml__eos_token_id": 9}, "has other special tokens"),
    "other positions": ({"llama__context_length": 7}, "max_position_embeddings is 512 in the model, but 7 in the file"),
}


@pytest.mark.parametrize(("said", "why"), SAID.values(), ids=SAID)
def test_metadata_of_another_model_is_told(
    parent: Path, plain: Path, tmp_path: Path, said: dict[str, Any], why: str
) -> None:
    """A file says the parent's configuration, tokenizer and template, and a type that it holds."""
    with pytest.raises((CheckFailedError, UsageError), match=why):
        take(parent, write_quantized_gguf(plain, tmp_path / "own.gguf", **said), tmp_path / "to")


def test_what_is_no_such_file_is_told_before_training(parent: Path, plain: Path, tmp_path: Path) -> None:
    """A path without a file, a file that is cut, two settings for one thing, a coarser type: one line each."""
    whole = write_quantized_gguf(plain, tmp_path / "own.gguf")
    (tmp_path / "cut.gguf").write_bytes(whole.read_bytes()[:-5])
    coarse = bytearray(whole.read_bytes())
    at = coarse.index(b"blk.0.ffn_up.weight") + len("blk.0.ffn_up.weight") + 4 + 16
    coarse[at] = 16  # IQ2_XXS
    (tmp_path / "coarse.gguf").write_bytes(coarse)
    check = harness_export.gguf.check  # type: ignore[attr-defined]
    for options, why in (
        ({"path": str(tmp_path / "none.gguf")}, "but there is no GGUF file"),
        ({"path": str(tmp_path / "cut.gguf")}, "is truncated"),
        ({"path": str(tmp_path / "coarse.gguf")}, "is not a valid GGUF file|is labelled Q4_K_M, but"),
        (
            {"path": str(whole), "quantization": "F16"},
            '"path" names a GGUF file that is quantised already; remove "quantization"',
        ),
    ):
        with pytest.raises(UsageError, match=why):
            check(parent, options)


def test_coarser_than_it_says_is_told(parent: Path, plain: Path, tmp_path: Path) -> None:
    """A file that calls itself Q6_K and holds Q4_K, or Q4_K_M with a type that is not compared, says so."""
    mixed = rewrite(plain, tmp_path / "mixed.gguf", choose_matrix_types("Q4_K"), said={"general.file_type": 18})
    with pytest.raises(UsageError, match=r'is labelled Q6_K, but "[\w.]+" is Q4_K, which is coarser$'):
        harness_export.gguf.check(parent, {"path": str(mixed)})  # type: ignore[attr-defined]


def test_importance_matrix_is_allowed_for(parent: Path, plain: Path, tmp_path: Path) -> None:
    """A file that says so is compared more widely at the ends of its grids, and not at all in types without a K."""
    said = {"general.file_type": 15, "quantize.imatrix.file": "own.dat"}
    take(parent, rewrite(plain, tmp_path / "k.gguf", choose_matrix_types("Q4_K"), said=said), tmp_path / "to")
    with pytest.raises(CheckFailedError, match="differs from its parent's rounded value by up to"):
        take(
            parent,
            rewrite(plain, tmp_path / "s.gguf", choose_matrix_types("Q4_K"), swap_query_weights, said),
            tmp_path / "swapped",
        )
    other = rewrite(plain, tmp_path / "other.gguf", lambda name: "Q5_0", said=said)
    with pytest.raises(UsageError, match="in Q5_0, quantised with an importance matrix, which cannot be compared"):
        take(parent, other, tmp_path / "other")


SUITE = """
[suite]
name = "copies"
[model]
path = "base"
dtype = "float32"
device = "cpu"
[candidate]
merged = "merged"
[[eval]]
name = "text"
use = "perplexity"
data = "text.jsonl"
[[gate]]
id = "fluent"
metric = "text.perplexity"
allow_approximate = true
max = 100000
[[gate]]
id = "close"
metric = "text.perplexity"
allow_approximate = true
versus = "parent"
worse_by_at_most = "20%"
[[export]]
use = "gguf"
name = "q4"
path = "own/model.gguf"
to = "exports/q4"
"""


def test_it_is_gated_and_shipped(parent: Path, plain: Path, project: Project) -> None:
    """The suite names the file, beside it; what ships is that file, and the evidence says what it is made of."""
    from safetensors.torch import load_file, save_file

    for name in ("base", "merged"):
        shutil.rmtree(project.folder / name, ignore_errors=True)
        shutil.copytree(parent, project.folder / name)
    base = project.folder / "base/model.safetensors"
    save_file({name: tensor * 1.001 for name, tensor in load_file(base).items()}, base, {"format": "pt"})
    (project.folder / "own").mkdir()
    file = write_quantized_gguf(plain, project.folder / "own/model.gguf")
    texts = [{"id": f"t{i}", "text": f"the quick brown fox {i} jumps over {i * 7} lazy dogs"} for i in range(40)]
    outcome = project.write({"suite.toml": SUITE, "text.jsonl": texts}).run()
    assert outcome.code == 0, outcome.out + outcome.err
    export = project.folder / "exports/q4"
    assert verify_export(export).ok
    assert (export / "model/model.gguf").read_bytes() == file.read_bytes()
    manifest = json.loads((export / "evidence/manifest.json").read_text("utf-8"))
    assert manifest["made_of"]["candidate"] == "merged"
    card = (export / "README.md").read_text("utf-8")
    assert "made elsewhere" in card
    assert str(project.folder) not in card
    write_quantized_gguf(plain, file, values=swap_query_weights)  # another file in its place is another copy
    again = project.run()
    assert again.code == 6
    assert "blk.0.attn_q.weight" in again.report.exports[0].reasons[0]


@pytest.mark.skipif(find_spec("llama_cpp") is not None, reason="llama-cpp-python is installed")
def test_missing_llama_cpp_is_told_before_training(parent: Path) -> None:
    """The line names the extra that brings it."""
    with pytest.raises(
        UsageError,
        match=r'Q4_K_M needs the module "llama_cpp"; pip install llama-cpp-python, or .* \[llama-cpp\]',
    ):
        harness_export.gguf.check(parent, {"quantization": "Q4_K_M"})  # type: ignore[attr-defined]


@pytest.mark.parametrize("quantization", ["Q6_K", "Q5_K_M", "Q4_K_M"])
def test_llama_cpp_makes_them(parent: Path, tmp_path: Path, quantization: str) -> None:
    """What its quantizer makes of our file, finer types for rows that are no whole blocks too, is read back."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    to = tmp_path / "to"
    to.mkdir()
    harness_export.gguf(ModelRef("merged", str(parent)), to, quantization=quantization)  # type: ignore[arg-type]
    found = read_gguf(to / "model.gguf").tensors
    assert found["blk.0.attn_q.weight"].type == quantization[:4]
    assert found["blk.0.ffn_down.weight"].type in ("Q5_0", "Q5_1", "Q8_0")
    assert sorted(path.name for path in to.iterdir()) == [CONVERSION_NOTES, "model.gguf"]
