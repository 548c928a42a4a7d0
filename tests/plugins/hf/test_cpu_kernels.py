"""The kernels for CPUs, on and off: the same scores, answers and losses, by an option or by the environment."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import harness_hf
from harness import ModelRef, UsageError
from harness.reports.run_folder import read_steps
from harness_hf.cpu import VARIABLE
from tests.helpers.late import import_late

torch = pytest.importorskip("torch")
import_late("transformers")
EXAMPLES = "".join(f"Question {i}: what is {i} plus {i}? Answer: {i + i}.\n" for i in range(6))
PROMPTS = [f"{EXAMPLES}Question {i}: what is {i} plus 1? Answer:" for i in range(20, 24)]
PAIRS = [*((prompt, f" {i}") for prompt in PROMPTS for i in (1, 22)), ("", EXAMPLES)]
ROWS = [{"prompt": f"What is {i}?", "completion": f" {i}, that is all."} for i in range(24)]
SPIN = "import os, sys, {}; {}; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
SWITCHES = ("option", "environment")


def run_python(code: str, **env: str) -> str:
    """Return what Python prints in a process whose environment says nothing of threads and kernels but `env`."""
    rest = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", VARIABLE)}
    done = subprocess.run([sys.executable, "-c", code], env=rest | env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def turn_off(how: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the options of a loader that turn the kernels off, or set the environment variable."""
    if how == "environment":
        monkeypatch.setenv(VARIABLE, "0")
    return {"cpu_kernels": False} if how == "option" else {}


def score_and_generate(model: Path, dtype: str, **options: Any) -> tuple[list[float], list[str], set[str]]:
    """Return scores, answers, and the modules that the classes of a model's layers are from."""
    with harness_hf.load([ModelRef("base", str(model))], dtype=dtype, device="cpu", **options) as [subject]:
        scores = [found.total for found in subject.logprobs(PAIRS)]
        modules = {type(module).__module__ for module in subject.model.modules()}
        return scores, subject.generate(PROMPTS, max_new_tokens=8), modules


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the names of the kernels of attention and of the head that are used from now on."""
    from harness_hf.cpu import attention, head

    names: set[str] = set()

    def record(module: Any, name: str) -> None:
        function = getattr(module, name)

        def call(*args: Any, **options: Any) -> Any:
            names.add(name)
            return function(*args, **options)

        monkeypatch.setattr(module, name, call)

    for name in ("_attend_by_tiles", "_attend_with_shared_prefix", "_find_document_batches_in_mask"):
        record(attention, name)
    record(head, "compute_token_statistics")
    return names


@pytest.mark.parametrize("how", SWITCHES)
def test_scores_and_answers_are_the_same_without(
    how: str, tiny_model: Path, used: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32, of which rounding leaves four decimals; without, no layer and no attention is ours."""
    from harness_hf.cpu import linear

    scores, texts, modules = score_and_generate(tiny_model, "float32")
    tiled = {"_attend_by_tiles"} if linear.is_onednn_available() else set()
    assert used == {"_attend_with_shared_prefix"} | tiled
    assert ("harness_hf.cpu.linear" in modules) == linear.is_onednn_available()
    used.clear()
    plain, plain_texts, plain_modules = score_and_generate(tiny_model, "float32", **turn_off(how, monkeypatch))
    assert not used and "harness_hf.cpu.linear" not in plain_modules
    assert scores == pytest.approx(plain, abs=1e-3) and texts == plain_texts


@pytest.mark.parametrize("how", SWITCHES)
@pytest.mark.parametrize("packing", [False, True])
def test_a_training_has_the_same_loss_without(
    how: str, packing: bool, tiny_model: Path, tmp_path: Path, used: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of each step, and the weights that come out, within what float32 rounds."""
    from safetensors.torch import load_file

    from harness_lora import lora
    from harness_sft import sft

    def train(name: str, **options: Any) -> tuple[list[float | None], dict[str, Any]]:
        about = {"device": "cpu", "dtype": "float32", **options}
        ref = ModelRef("base", str(tiny_model), digest="d" * 64, options=about)
        recipe = {"num_train_epochs": 1, "packing": packing, "max_length": 128, "per_device_train_batch_size": 1}
        out = sft(ref, lora(), ROWS, tmp_path / name / "adapter", progress=lambda _: None, seed=3, **recipe)
        return [step.loss for step in read_steps(out)], load_file(out / "adapter_model.safetensors")

    losses, weights = train("on")
    assert used >= {"compute_token_statistics", *(["_find_document_batches_in_mask"] if packing else [])}
    used.clear()
    plain_losses, plain_weights = train("off", **turn_off(how, monkeypatch))
    assert not used
    assert losses == pytest.approx(plain_losses, abs=1e-5) and len(losses) > 1
    assert all(torch.allclose(weights[name], plain_weights[name], atol=1e-4) for name in weights)


def test_an_adapter_of_a_model_without_kernels_has_none(tiny_model: Path) -> None:
    """What is put on a model later is computed as its loader was told."""
    from peft import LoraConfig, get_peft_model

    from harness_hf.cpu import linear

    if not linear.is_onednn_available():
        pytest.skip("no oneDNN for float32 here")
    config = LoraConfig(target_modules="all-linear")
    for on in (True, False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT's, of a name of transformers
            model = get_peft_model(harness_hf.load_model(tiny_model, cpu_kernels=on), config)
        harness_hf.use_cpu_kernels(model)
        assert any(type(m).__module__ == "harness_hf.cpu.linear" for m in model.modules()) == on


def test_another_value_of_the_variable_is_refused(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`no` is neither on nor off."""
    monkeypatch.setenv(VARIABLE, "no")
    with pytest.raises(UsageError, match=f'^{VARIABLE} "no": unknown value; set it to 0 or 1$'):
        harness_hf.load_model(tiny_model)


@pytest.mark.parametrize(
    ("env", "spins"),
    [
        ({}, "3000"),
        ({VARIABLE: "1"}, "3000"),
        ({VARIABLE: "0"}, "None"),
        ({"GOMP_SPINCOUNT": "9"}, "9"),
        ({"OMP_WAIT_POLICY": "x"}, "None"),
    ],
)
def test_threads_spin_for_a_bounded_time(env: dict[str, str], spins: str) -> None:
    """The plugin bounds it before torch is there; beside one busy process answers took 21 times as long else."""
    assert run_python(SPIN.format("harness_hf", "pass"), **env) == f"{spins} False"


def test_loading_plugins_bounds_the_spinning_before_torch() -> None:
    """Whichever plugins there are, none imports torch before the count is set."""
    code = "from harness.plugins import load_plugins; load_plugins(None)"
    assert run_python(SPIN.format("harness", code)) == "3000 False"


def test_answers_are_kept_apart(tmp_path: Path) -> None:
    """What was computed without the kernels is no answer of a model with them, and the other way round."""
    code = "from harness.answers import keys; print(sorted(keys.environment_switches().items()))"
    assert VARIABLE in run_python(code, **{VARIABLE: "0"}) and VARIABLE not in run_python(code)
