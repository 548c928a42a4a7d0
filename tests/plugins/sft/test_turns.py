"""[train] sft: turns that are marked as context are not learnt, in the preview as in the training."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from harness.errors import UsageError
from harness.records.models import ModelRef
from harness_sft import sft
from harness_sft.rows import select_columns

pytestmark = pytest.mark.slow
THINKS = (  # a template that writes the last turn otherwise than those before, as Qwen3's does
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{% if loop.last and m.role == 'assistant' %}<think>"
    "</think>{% endif %}{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def make_chat(*marks: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a conversation whose turns have these marks."""
    roles = ("user", "assistant") * len(marks)
    return [{"role": role, "content": f"turn{i}", **m} for i, (role, m) in enumerate(zip(roles, marks, strict=False))]


@pytest.mark.parametrize("template", ["", THINKS])
@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}, {"weight": 0.0, "train": True}])
def test_a_turn_that_is_context_is_not_learnt(template: str, mark: Any, tiny_model: Path, tmp_path: Path) -> None:
    """The turn and its end have no labels, wherever it stands; all other tokens have, and so have other rows."""
    base = shutil.copytree(tiny_model, tmp_path / "base")
    if template:
        (base / "chat_template.jinja").write_text(template, "utf-8")
    rows = [{"messages": make_chat({}, mark, {}, {})}, {"messages": make_chat({"weight": 1}, {}, {}, {})}]
    rows += [{"messages": make_chat({}, {}, {}, mark)}, {"messages": make_chat(mark, {}, {}, {})}]
    built = sft.build(ModelRef("base", str(base)), None, rows, seed=1)
    shown = [built.show(example) for example in built.examples]
    assert "<|user|>\nturn0<|end|>\n<|assistant|>\nturn1" in shown[0].replace("⟦", "").replace("⟧", "")
    kept = [[part for learnt, part in built.parts(e) if learnt] for e in built.examples]
    lost = ["".join(part for learnt, part in built.parts(e) if not learnt) for e in built.examples]
    assert (lost[1], "turn1<|end|>\n" in lost[0], "turn3<|end|>\n" in lost[2]) == ("", True, True)
    assert lost[3].startswith("<s><|user|>\nturn0<|end|>\n")
    assert all(f"turn{i}<|end|>\n" in "".join(kept[0]) for i in (0, 2, 3))
    assert all(f"turn{i}<|end|>\n" in "".join(kept[2]) for i in (0, 1, 2))


def test_a_prompt_s_answer_in_two_turns(tiny_model: Path) -> None:
    """Of an answer of several turns the one that is context is not learnt, nor is the prompt."""
    turns = make_chat({}, {"weight": 0}, {}, {})
    built = sft.build(ModelRef("base", str(tiny_model)), None, [{"prompt": turns[:1], "completion": turns[1:]}], seed=1)
    learnt = "".join(part for learnt, part in built.parts(built.examples[0]) if learnt)
    assert ("turn1" in learnt, "turn3<|end|>\n" in learnt, "turn0" in learnt) == (False, True, False)


def test_the_training_learns_what_the_preview_shows(tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """The trainer that trains has the labels of the preview, cut and packed as well."""
    from harness_lora import lora
    from harness_sft.supervised import CheckedTrainer

    rows = [{"messages": make_chat({}, {"weight": 0}, {}, {})} for _ in range(4)]
    seen: list[int] = []

    def look(trainer: Any) -> Iterator[None]:
        seen.append(sum(label != -100 for row in trainer.train_dataset for label in row["labels"]))
        raise KeyboardInterrupt

    monkeypatch.setattr(CheckedTrainer, "train", look)
    monkeypatch.setattr(CheckedTrainer, "save_interrupted", lambda self: None)
    ref = ModelRef("base", str(tiny_model), options={"device": "cpu", "dtype": "float32"})
    for number, how in enumerate(({}, {"max_length": 40}, {"packing": True})):
        with pytest.raises(KeyboardInterrupt):
            sft(ref, lora(r=2), rows, tmp_path / str(number) / "x", progress=lambda _: None, seed=1, **how)
        built = sft.build(ref, None, rows, seed=1, **how)
        assert seen[-1] == sum(label != -100 for e in built.examples for label in e.labels[built.kept_span])


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ([{}, {"weight": 0.5}], 'rows 1, 2: "weight" of a message is 0.5; it must be 0 or 1'),
        ([{}, {"train": "no"}], "rows 1, 2: \"train\" of a message is 'no'; it must be true or false"),
        ([{}, {"weight": 0}], "rows 1, 2: every answer has weight = 0 or train = false, so nothing is trained"),
    ],
)
def test_marks_that_cannot_be_obeyed(marks: Any, message: str) -> None:
    """A weight between 0 and 1, and rows of which no answer is learnt, are one line with their numbers."""
    with pytest.raises(UsageError) as caught:
        select_columns([{"messages": make_chat(*marks)}] * 2)
    assert caught.value.messages[0].startswith(f"[train] data: {message}")
