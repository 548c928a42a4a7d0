"""D7-clock: chat templates that write the time; and D9 where a base cannot be packed."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from harness.records.findings import TrainingRow
from harness.records.models import ModelRef
from harness_checks.batches import documents_see_each_other, other_template
from harness_checks.clocks import find_clock, stop_clock

MOMENT = datetime(2024, 7, 26, 8, 5, 3)
ROW = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "yes"}]}
DATED = {**ROW, "chat_template_kwargs": {"date_string": "26 Jul 2024"}}


@pytest.mark.parametrize(
    ("template", "stopped"),
    [
        ("{{ strftime_now('%d %b %Y') }}", '{{ "26 Jul 2024" }}'),
        ('{{ strftime_now( "%H:%M" ) }}', '{{ "08:05" }}'),
        ("{{ strftime_now('say \"%Y\"') }}", '{{ "say \\"2024\\"" }}'),
        ("{{ messages }}", "{{ messages }}"),
        (None, None),
        ({"default": "{{ strftime_now('%Y') }}", "rag": "{{ 1 }}"}, {"default": '{{ "2024" }}', "rag": "{{ 1 }}"}),
    ],
)
def test_a_clock_is_stopped(template: Any, stopped: Any) -> None:
    """A template with a moment in place of the time is a template still."""
    assert stop_clock(template, MOMENT) == stopped


def find_clock_messages(template: str, rows: list[dict[str, Any]], inputs: list[Any]) -> list[str]:
    from transformers.utils.chat_template_utils import _compile_jinja_template

    def render(messages: Any, template: str, given: Any) -> str:
        return str(_compile_jinja_template(template).render(messages=messages, **given))

    task: Any = SimpleNamespace(brings_rows=False, samples=[SimpleNamespace(input=one) for one in inputs])
    made = [TrainingRow(i, "?", row, row) for i, row in enumerate(rows, 1)]
    return [f"{f.severity}: {f.what}" for f in find_clock(made, {"qa": task}, template, render)]


def test_the_time_and_the_date() -> None:
    """The time of day is an error, the date a warning, and one that the rows set, or no chat, nothing."""
    chat = [{"role": "user", "content": "?"}]
    date = "{{ date_string if date_string else strftime_now('%d %b %Y') }}{{ messages[0]['content'] }}"
    timed = date.replace("%d %b %Y", "%H:%M")
    [found] = find_clock_messages(timed, [ROW], [chat])
    assert found.startswith('error: the chat template writes the current time into training rows, "qa"')
    [found] = find_clock_messages(date, [ROW], ["text"])
    assert found.startswith("warning: the chat template writes the current date into training rows: ")
    assert "midnight" in found
    [found] = find_clock_messages(date, [DATED], [chat])
    assert 'into "qa"' in found
    assert find_clock_messages(date, [DATED], ["text"]) == []
    assert find_clock_messages("{{ messages }}", [ROW], [chat]) == []


def test_templates_by_name(tiny_model: Path, tmp_path: Path) -> None:
    """A tokenizer with several templates is checked by the one that transformers takes for each row."""
    from harness_hf import load_tokenizer

    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    tokenizer = load_tokenizer(str(tmp_path))
    plain = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.chat_template = {"default": plain, "tool_use": "{{ strftime_now('%d %b') }}{{ tools }}" + plain}
    tokenizer.save_pretrained(tmp_path)

    def check(row: dict[str, Any]) -> list[str]:
        built: Any = SimpleNamespace(tokenizer=tokenizer, chat_template=tokenizer.chat_template, examples=[])
        rows = [TrainingRow(1, "?", row, row)]
        return [f.kind for f in other_template(built, ModelRef("base", str(tmp_path)), rows, {})]

    assert check(ROW) == []
    assert check({"messages": [ROW["messages"][0], {**ROW["messages"][1], "thinking": "hm"}]}) == ["keys"]
    assert check({**ROW, "tools": [{"name": "f"}]}) == ["clock"]


def test_a_base_that_cannot_be_packed_here() -> None:
    """Where the base itself says that it cannot keep packed sequences apart, that is an error, and no crash."""
    import torch

    ids = torch.tensor([[1, 5, 6, 7, 1, 8, 9, 10]])

    def model(**_: Any) -> Any:
        raise ValueError("`f` can't keep packed sequences apart without `causal_conv1d`. Install it.")

    model.config = SimpleNamespace(vocab_size=20)  # type: ignore[attr-defined]
    examples = [SimpleNamespace(ids=[1, 5, 6, 7]), SimpleNamespace(ids=[1, 8, 9, 10])]
    batches: Any = lambda count: iter([{"input_ids": ids}])  # noqa: E731
    built: Any = SimpleNamespace(packing=True, batches=batches, examples=examples, kept_span=slice(None), model=model)
    [found] = documents_see_each_other(built)
    assert found.severity == "error"
    assert found.what.startswith("the base cannot be trained with packing here: `f` can't keep")
    assert "packing = false" in found.fix


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bamba", "qwen3_next"])
def test_hybrid_models_are_not_packed_without_their_library(kind: str) -> None:
    """The sentence that is looked for is the one that transformers raises on its classes without causal_conv1d."""
    import importlib.util

    import torch
    import transformers

    if importlib.util.find_spec("causal_conv1d"):
        pytest.skip("causal_conv1d is installed")
    small: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 20}
    small |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    if kind == "bamba":
        small |= {"attn_layer_indices": [1], "mamba_chunk_size": 16, "mamba_n_heads": 8, "mamba_d_head": 8}
        made: Any = transformers.BambaForCausalLM(transformers.BambaConfig(**small, mamba_d_state=16))
    else:
        small |= {
            "layer_types": ["linear_attention", "full_attention"],
            "head_dim": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
        }
        small |= {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "moe_intermediate_size": 16}
        small |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "shared_expert_intermediate_size": 16}
        made = transformers.Qwen3NextForCausalLM(transformers.Qwen3NextConfig(**small))
    ids, positions = torch.tensor([[1, 5, 6, 7, 1, 8, 9, 10]]), torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]])
    ends = torch.tensor([0, 4, 8], dtype=torch.int32)
    packed = {"input_ids": ids, "position_ids": positions, "cu_seq_lens_q": ends, "cu_seq_lens_k": ends}
    packed |= {"max_length_q": 4, "max_length_k": 4, "seq_idx": torch.tensor([[0] * 4 + [1] * 4], dtype=torch.int32)}
    examples = [SimpleNamespace(ids=[1, 5, 6, 7]), SimpleNamespace(ids=[1, 8, 9, 10])]
    batches: Any = lambda count: iter([packed])  # noqa: E731
    built: Any = SimpleNamespace(
        packing=True, batches=batches, examples=examples, kept_span=slice(None), model=made.eval()
    )
    [found] = documents_see_each_other(built)
    assert "cannot be trained with packing here" in found.what
