"""Adapters of PEFT's other methods: one line before anything is loaded, from every trainer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import ModelRef, UsageError
from harness.testing import Project
from harness_lora import lora
from harness_preference import dpo, kto
from harness_sft import sft

pytestmark = pytest.mark.slow
pytest_plugins = ["harness.testing"]
PLUGIN = """
from harness import hookimpl

class Other:
    quantization = None

    def __init__(self, method):
        self.method = method

    def check(self): ...
    def check_targets(self, base): ...
    def check_merge(self, variant, base, adapter=None): ...
    def check_fits(self, base, base_digest, adapter): ...
    def merge(self, base, adapter, out, *, variant): ...

    def peft_config(self):
        import peft
        return getattr(peft, self.method)(task_type="CAUSAL_LM") if self.method else None

def other(*, method: str = "IA3Config"):
    return Other(method)

@hookimpl
def harness_adapters():
    return {"other": other}
"""
SUITE = """
[suite]
name = "other"

[model]
use = "hf"
path = "tiny:llama"

[adapter]
use = "other"
method = "{method}"

[train]
use = "{trainer}"
data = "train.jsonl"

[[eval]]
name = "qa"
use = "exact_match"
data = "test.jsonl"
"""
ROWS = {
    "sft": [{"prompt": f"Where is {i}?", "completion": f"in room {i}"} for i in range(8)],
    "dpo": [{"prompt": f"Where is {i}?", "chosen": f"in room {i}", "rejected": "nowhere"} for i in range(8)],
    "kto": [{"prompt": f"Where is {i}?", "completion": f"in room {i}", "label": i % 2 == 0} for i in range(8)],
}


@pytest.mark.parametrize(
    ("method", "trainer"),
    [
        ("IA3Config", "sft"),
        ("IA3Config", "dpo"),
        ("AdaLoraConfig", "kto"),
        ("VeraConfig", "sft"),
        ("LoHaConfig", "sft"),
        ("OFTConfig", "sft"),
        ("PromptTuningConfig", "sft"),
        ("", "sft"),
    ],
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_another_method_is_refused_in_preflight(project: Project, method: str, trainer: str, command: str) -> None:
    """The line says what the adapter is, and what the trainer trains; nothing is evaluated."""
    if method == "AdaLoraConfig":  # PEFT wants the number of steps
        pytest.importorskip("peft")
        plugin = PLUGIN.replace('(task_type="CAUSAL_LM")', '(task_type="CAUSAL_LM", total_step=9)')
    else:
        plugin = PLUGIN
    suite = SUITE.format(method=method, trainer=trainer)
    test = [{"input": "What of it?", "target": "nothing"}]
    project.write({"harnessfile.py": plugin, "suite.toml": suite, "train.jsonl": ROWS[trainer], "test.jsonl": test})
    done = project.harness(command, str(project.folder / "suite.toml"))
    assert done.code == 4
    assert "trains LoRA and whole models" in done.err
    assert (method or "None") in done.err
    assert "Traceback" not in done.err


def _list_peft_methods() -> list[str]:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return sorted(kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING)


@pytest.mark.parametrize("train", [sft, dpo, kto])
def test_each_method_of_peft_but_lora_is_refused(train: Any, tmp_path: Path) -> None:
    """Whatever PEFT has beside LoRA is refused before a row is read, by the trainer itself too."""
    assert {"LORA", "IA3", "VERA", "OFT", "BOFT", "HRA", "FOURIERFT", "LOKR", "PROMPT_TUNING"} <= {
        *_list_peft_methods()
    }
    for method in _list_peft_methods():
        config = SimpleNamespace(peft_type=method)
        adapter: Any = SimpleNamespace(peft_config=lambda config=config: config, quantization=None)
        if method != "LORA":
            with pytest.raises(UsageError, match="trains LoRA and whole models"):
                train(ModelRef("base", "nowhere"), adapter, [], tmp_path, progress=print, seed=0)
            with pytest.raises(UsageError, match="trains LoRA and whole models"):
                train.build(ModelRef("base", "nowhere"), adapter, [], seed=0)


def test_lora_is_a_method_that_is_trained() -> None:
    """What the harness's own adapters return is not refused, DoRA among it."""
    from harness_sft.job import check_method

    for adapter in (lora(), lora(use_dora=True), None):
        check_method(adapter)
