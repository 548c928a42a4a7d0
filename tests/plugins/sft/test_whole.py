"""[adapter] use = "none": all weights are trained, and what was trained is the one candidate."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

import harness  # noqa: E402
from harness.errors import CheckFailedError, UsageError  # noqa: E402
from harness.pipeline.session import Options, prepare_collection  # noqa: E402
from harness.records.models import ModelRef, Progress  # noqa: E402
from harness.release.verify import verify_export  # noqa: E402
from harness_checks.recipe import unusual_recipe  # noqa: E402
from harness_checks.trained import not_finite, rounded_away  # noqa: E402
from harness_hf import load_model  # noqa: E402
from harness_sft import sft  # noqa: E402

DATA = Path(__file__).parents[3] / "suites" / "data"
ROWS = [{"prompt": f"what is {i}?", "completion": f" it is {i * i}"} for i in range(24)]
SUITE = f"""
[suite]
name = "whole"

[model]
use = "hf"
path = "tiny:llama"
dtype = "float32"

[adapter]
use = "none"

[train]
use = "sft"
data = "{DATA}/colours-train.jsonl"
learning_rate = 5e-3
max_steps = 30
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
better_by = 0.5

[[export]]
use = "safetensors"
to = "out"
"""
Train = Callable[..., Path]


@pytest.fixture
def trained(tiny_model: Path, tmp_path: Path) -> Train:
    """Return a function that trains all weights of the tiny model and returns the folder it wrote."""

    def run(*, name: str = "run", progress: Any = None, base: Path = tiny_model, **recipe: Any) -> Path:
        ref = ModelRef("base", str(base), digest="d" * 64, options={"device": "cpu", "dtype": "float32"})
        options = {"num_train_epochs": 2, "max_length": 64, "learning_rate": 2e-3, "save_steps": 2} | recipe
        return sft(
            ref, None, ROWS, tmp_path / name / "merged", progress=progress or (lambda _: None), seed=3, **options
        )

    return run


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that writes the suite, with texts replaced or added."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))

    def write(more: str = "", **changed: str) -> Path:
        path, text = tmp_path / "suite.toml", SUITE
        for old, new in changed.items():
            text = text.replace(f'{old} = "', f'{old} = "{new}', 1)
        path.write_text(text + more, "utf-8")
        return path

    return write


def test_the_one_candidate_is_the_trained_model(suite: Callable[..., Path]) -> None:
    """There is no adapter to gate or to merge, and whoever asks for one is told so."""
    collection = prepare_collection(suite(), Options())
    assert collection.trains_all_weights and collection.candidates == ("merged",)
    assert prepare_collection(suite('\n[merge]\nbase = "original"\n'), Options()).candidates == ("merged",)
    with pytest.raises(
        UsageError,
        match=r"\[merge\] base: training changes all weights, so there is no adapter to merge into another base",
    ):
        prepare_collection(suite('\n[merge]\nbase = "dequantized"\n'), Options())
    with pytest.raises(UsageError, match='no candidate "adapter"'):
        prepare_collection(suite('\n[[export]]\nuse = "adapter"\nfrom = "adapter"\nto = "x"\n'), Options())
    with pytest.raises(UsageError, match='unknown option "r"'):
        prepare_collection(suite(), Options(overrides=("adapter.r=8",)))


def test_rates_of_adapters_are_told(suite: Callable[..., Path]) -> None:
    """A learning rate that suits an adapter is too high for all weights, and for judged answers less is much."""
    base = ("model.path='x'",)

    def said(*overrides: str) -> list[str]:
        return [f.what for f in unusual_recipe(prepare_collection(suite(), Options(overrides=overrides)).suite)]

    from harness.suite.reader import read_suite

    def of(*overrides: str) -> list[str]:
        return [f.what for f in unusual_recipe(read_suite(suite(), (*base, *overrides)))]

    assert of("train.learning_rate=2e-4") == ["learning_rate is 0.0002, which makes a training of all weights forget"]
    assert of("train.learning_rate=2e-5") == []
    assert of("train.use='dpo'", "train.learning_rate=2e-5") == [
        "learning_rate is 2e-05, which makes a training of all weights forget"
    ]
    assert of("train.use='dpo'", "adapter.use='lora'", "train.learning_rate=1e-5") == []
    assert of("adapter.use='lora'", "train.learning_rate=1e-5") == ["learning_rate is 1e-05, as in full fine-tuning"]
    assert said("train.learning_rate=5e-3") == []  # a random model wants a high one


@pytest.mark.parametrize(
    ("lost", "way", "told"), [(0.3, 1.0, True), (0.2, 1.0, False), (0.0, 0.0, False), (0.3, None, False)]
)
def test_what_is_rounded_away_is_told(tmp_path: Path, lost: float, way: float | None, told: bool) -> None:
    """T7 warns where rounding took more than a quarter of the KL that the training made, and only where it is known."""
    facts = {"kl_rounding": lost} | ({"kl_training": way} if way is not None else {})
    (tmp_path / "harness-adapter.json").write_text(json.dumps({"facts": facts}))
    assert [f.severity for f in rounded_away(ModelRef("merged", str(tmp_path)))] == ["warning"] * told


@pytest.mark.slow
def test_all_weights_are_trained_and_ship(suite: Callable[..., Path], tmp_path: Path) -> None:
    """A run trains, gates and exports the whole model, whose bytes are the ones that were gated."""
    overrides = (f"export.0.to={json.dumps(str(tmp_path / 'out'))}",)
    run = harness.run(suite(), out=tmp_path / "reports", overrides=overrides)
    assert (run.exit_code, run.problem) == (0, None)
    facts = run.facts["training"]
    assert facts["trainable_parameters"] == facts["total_parameters"] == run.facts["model"]["parameters"]
    assert facts["kl_rounding"] < 1e-9 and facts["top1_rounding"] == 1.0
    assert [v.candidate for v in run.verdicts] == ["merged"]
    assert verify_export(tmp_path / "out").ok
    overrides = (f"export.0.to={json.dumps(str(tmp_path / 'again'))}",)
    again = harness.run(suite(), out=tmp_path / "reports", overrides=overrides)
    assert "reused" in again.facts["training"]


@pytest.mark.slow
def test_resume(trained: Train) -> None:
    """A training of all weights that was killed ends with the bits of one that was not."""

    def interrupt(progress: Progress) -> None:
        if progress.done == 3:
            raise OSError("killed")

    whole = trained(name="whole")
    with pytest.raises(OSError, match="killed"):
        trained(progress=interrupt)
    one, two = (load_file(out / "model.safetensors") for out in (whole, trained()))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.slow
def test_the_dtype_is_the_bases(trained: Train, tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Weights train in float32 and are rounded once, to the base's dtype; what is read back must be just that."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).save_pretrained(half)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(half)
    out = trained(base=half)
    assert {t.dtype for t in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    facts = json.loads((out / "harness-adapter.json").read_text())["facts"]
    assert 0 < facts["kl_rounding"] < 0.02 < facts["kl_training"]
    assert (out / "config.json").read_bytes() == (half / "config.json").read_bytes()

    def forgetful(path: Any, **given: Any) -> Any:
        model = load_model(path, **given)
        if Path(path) != half:
            model.model.norm.weight.data.mul_(1.1)
        return model

    monkeypatch.setattr("harness_sft.train.load_model", forgetful)
    with pytest.raises(
        CheckFailedError, match=r"the saved model answers differently from the trained one \[saved-parity\]"
    ):
        trained(name="again", base=half)


@pytest.mark.slow
def test_mixed_precision_is_written_as_it_was_trained(trained: Train) -> None:
    """In bfloat16, as on a GPU, the weights are still float32, and so are the answers that are compared."""
    assert {t.dtype for t in load_file(trained(bf16=True) / "model.safetensors").values()} == {torch.float32}


@pytest.mark.slow
def test_what_a_base_keeps_in_float32_stays_so(trained: Train, tiny_model: Path, tmp_path: Path) -> None:
    """Of a base of several dtypes each tensor is written in its own."""
    mixed = tmp_path / "mixed"
    shutil.copytree(tiny_model, mixed)
    weights = load_file(mixed / "model.safetensors")
    weights = {name: t if "norm" in name else t.bfloat16() for name, t in weights.items()}
    save_file(weights, mixed / "model.safetensors", metadata={"format": "pt"})
    found = load_file(trained(base=mixed) / "model.safetensors")
    assert {name: t.dtype for name, t in found.items()} == {name: t.dtype for name, t in weights.items()}
    assert not torch.equal(found["model.norm.weight"], found["model.norm.weight"].bfloat16().float())


@pytest.mark.slow
def test_nothing_moves(trained: Train) -> None:
    """A learning rate of zero is told after the first steps, for all weights too."""
    with pytest.raises(CheckFailedError, match=r"21 of 21 trained weights have not changed after 3 steps"):
        trained(learning_rate=0.0)


@pytest.mark.slow
def test_weights_that_are_not_finite_are_found(trained: Train) -> None:
    """T2 reads the files of a whole model."""
    from safetensors.torch import save_file

    out = trained(num_train_epochs=1)
    ref = ModelRef("merged", str(out))
    assert not list(not_finite(ref))
    weights = load_file(out / "model.safetensors")
    weights["model.norm.weight"][0] = torch.nan
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    assert [f.what for f in not_finite(ref)] == ['"model.norm.weight": 1 of 64 weights are not finite']
