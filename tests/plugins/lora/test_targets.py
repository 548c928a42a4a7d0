"""Which modules an adapter is put on: what PEFT refuses or adapts without effect, told with the list to write."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.records.models import ModelRef
from harness_lora import lora, qlora
from harness_lora.targets import UNCALLED_MODULES
from tests.helpers.late import import_late

pytest.importorskip("torch")
transformers = import_late("transformers")
SMALL: dict[str, Any] = {"vocab_size": 261, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
SMALL |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
READ = re.compile(r"self\.([a-z_]+)\.weight @")  # how transformers multiplies with a linear that it does not call


@pytest.fixture(params=["Mamba", "FalconMamba"])
def mamba(request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path) -> Path:
    """A small model of a class with linears that are never called, with the tokenizer of the tiny Llama."""
    folder = tmp_path / "base"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = getattr(transformers, f"{request.param}Config")(**SMALL)
    getattr(transformers, f"{request.param}ForCausalLM")(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("targets", "culprit", "write"),
    [
        (["in_proj", "out_proj"], "out_proj", '["in_proj"]'),
        (r".*\.(in_proj|out_proj)", "out_proj", '["in_proj"]'),
        (["in_proj", "x_proj", "dt_proj"], "dt_proj", '["in_proj", "x_proj"]'),
        (["conv1d"], "conv1d", '["in_proj", "x_proj"]'),
    ],
)
def test_targets_that_cannot_be_adapted(mamba: Path, targets: Any, culprit: str, write: str) -> None:
    """The line names the module, the type of the base and the list to write instead."""
    with pytest.raises(UsageError) as caught:
        lora(target_modules=targets).check_targets(str(mamba))
    [line] = caught.value.messages
    assert line.startswith(f'target_modules "{culprit}": cannot be adapted on a base of type "')
    assert line.endswith(f"set target_modules = {write}")


@pytest.mark.slow
def test_all_linear_trains_on_mamba(mamba: Path, tmp_path: Path) -> None:
    """The default leaves out what is never called, or the training would stop because it did not move."""
    from harness_sft import sft

    adapter = lora(r=4)
    adapter.check_targets(str(mamba))
    rows = [{"prompt": f"what is {i}?", "completion": f" it is {i * i}"} for i in range(16)]
    recipe: dict[str, Any] = {"max_steps": 4, "learning_rate": 1e-2, "per_device_train_batch_size": 4}
    ref = ModelRef("base", str(mamba), options={"device": "cpu", "dtype": "float32"})
    sft(ref, adapter, rows, tmp_path / "out" / "adapter", progress=lambda _: None, seed=0, **recipe)
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()


def test_linears_that_are_never_called_are_known() -> None:
    """Whatever class of transformers reads the weight of a linear instead of calling it is in the table."""
    from importlib.util import find_spec

    models = Path(str(find_spec("transformers").origin)).parent / "models"  # type: ignore[union-attr]
    found = {path.parent.name: {*READ.findall(path.read_text("utf-8"))} for path in models.glob("*/modeling_*.py")}
    assert {kind: names for kind, names in found.items() if names} == {
        k: {*names} for k, names in UNCALLED_MODULES.items()
    }


@pytest.mark.parametrize("adapter", [lora, qlora])
@pytest.mark.parametrize("option", [{"layers_to_transform": [0]}, {"layers_pattern": "layers"}])
def test_layers_need_a_list_of_targets(adapter: Any, option: dict[str, Any]) -> None:
    """PEFT takes layers only with a list, which the default of target_modules is not."""
    for targets in ({}, {"target_modules": r".*\.q_proj"}):
        with pytest.raises(
            UsageError, match=rf'^option "{next(iter(option))}": needs target_modules as a list of names'
        ):
            adapter(**targets, **option).check()
    adapter(target_modules=["q_proj"], layers_to_transform=[0], layers_pattern="layers").check()
