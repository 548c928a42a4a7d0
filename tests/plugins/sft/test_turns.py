"""[train] sft: which turns of messages are learnt, in the preview as in the training."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import trl

from harness.errors import UsageError
from harness.records.models import ModelRef
from harness_hf.tiny import CHAT_TEMPLATE
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


def build_labels(base: Path, rows: list[Any], **options: Any) -> list[list[str]]:
    """Return the parts of each row that are learnt."""
    built = sft.build(ModelRef("base", str(base)), None, rows, seed=1, max_length=4096, **options)
    return [[part for learnt, part in built.parts(example) if learnt] for example in built.examples]


def write_base(tiny_model: Path, folder: Path, template: str) -> Path:
    """Write a model with a chat template."""
    base = shutil.copytree(tiny_model, folder)
    (base / "chat_template.jinja").write_text(template, "utf-8")
    return base


ONE, TWO = make_chat({}, {}), make_chat({}, {}, {}, {})
SYSTEM = [{"role": "system", "content": "Be brief."}]


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, THINKS])
def test_each_row_learns_its_own_answers(template: str, tiny_model: Path, tmp_path: Path) -> None:
    """What a row learns does not depend on other rows: the assistant's turns, with their ends, and no other turn."""
    base = write_base(tiny_model, tmp_path / "base", template)
    rows = [{"messages": messages} for messages in (ONE, TWO, [*SYSTEM, *TWO], TWO + TWO, ONE)]
    mixed = build_labels(base, rows)
    assert mixed == [build_labels(base, [row])[0] for row in rows]
    for row, parts in zip(rows, mixed, strict=True):
        answers = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
        assert parts == [f"{answer}<|end|>\n" for answer in answers] or template == THINKS
        assert [part.removeprefix("<think></think>") for part in parts] == [f"{answer}<|end|>\n" for answer in answers]


@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}, {"weight": 0.0, "train": True}])
@pytest.mark.parametrize("template", [CHAT_TEMPLATE, THINKS])
def test_a_turn_that_is_context_is_not_learnt(template: str, mark: Any, tiny_model: Path, tmp_path: Path) -> None:
    """An answer with weight 0 is not learnt, nothing else becomes learnt, and a weight of 1 changes nothing."""
    base = write_base(tiny_model, tmp_path / "base", template)
    marks = ([{}, mark, {}, {}], [{}, {}, {}, mark], [{"weight": 1}, {"weight": 1}, {}, {}], [mark, {}, {}, {}])
    learnt = build_labels(base, [{"messages": make_chat(*one)} for one in marks])
    parts = [[part.removeprefix("<think></think>") for part in row] for row in learnt]
    first, last = "turn1<|end|>\n", "turn3<|end|>\n"
    assert parts == [[last], [first], [first, last], [first, last]]


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, THINKS])
def test_all_turns_are_learnt_by_a_key(template: str, tiny_model: Path, tmp_path: Path) -> None:
    """With assistant_only_loss = false all messages but those of context are, the first with what stands before it."""
    base = write_base(tiny_model, tmp_path / "base", template)
    marks = ([{}, {}, {}, {}], [{}, {"weight": 0}, {}, {}], [{"weight": 0}, {}, {}, {}])
    rows = [{"messages": make_chat(*one)} for one in marks]
    whole, middle, front = ("".join(parts) for parts in build_labels(base, rows, assistant_only_loss=False))
    assert whole.startswith("<s><|user|>\nturn0<|end|>\n<|assistant|>\nturn1") and whole.endswith("turn3<|end|>\n")
    assert "turn1<|end|>" not in middle and "turn2<|end|>\n" in middle
    assert front == whole.removeprefix("<s><|user|>\nturn0<|end|>\n")


def test_a_completion_of_several_turns(tiny_model: Path) -> None:
    """Of a completion the assistant's turns are learnt, of a prompt none; a key learns the whole completion."""
    turns = make_chat({}, {}, {}, {})
    row = {"prompt": turns[:1], "completion": turns[1:]}
    assert build_labels(tiny_model, [row]) == [["turn1<|end|>\n", "turn3<|end|>\n"]]
    [[whole]] = build_labels(tiny_model, [row], assistant_only_loss=False)
    assert whole == "turn1<|end|>\n<|user|>\nturn2<|end|>\n<|assistant|>\nturn3<|end|>\n"
    marked = {**row, "completion": [{**turns[1], "weight": 0}, *turns[2:]]}
    assert build_labels(tiny_model, [marked]) == [["turn3<|end|>\n"]]
    late = {"prompt": turns[:3], "completion": turns[3:]}
    assert build_labels(tiny_model, [late]) == [["turn3<|end|>\n"]]
    assert build_labels(tiny_model, [late], completion_only_loss=False) == [["turn1<|end|>\n", "turn3<|end|>\n"]]


CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
CALLS = [
    {"role": "user", "content": "What is one and one?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "add", "tool_call_id": "abcdefghi", "content": "2"},
    {"role": "assistant", "content": "It is two."},
    {"role": "user", "content": "And three?"},
    {"role": "assistant", "content": "It is four."},
]
SAME = [{"role": role, "content": "ok"} for _ in range(3) for role in ("user", "assistant")]
CONVERSATIONS = {"one": ONE, "two": TWO, "system": [*SYSTEM, *TWO], "same": SAME, "calls": CALLS}
FAMILIES = {  # of TRL's templates that write the same text with and without markers, and the most that it marks wrongly
    "cohere": "",
    "cohere2": "",
    "gemma": "",
    "gemma3": "",
    "gptoss": "<|start|>assistant",
    "idefics3": "",
    "lfm2": "",
    "lfm2_v2": "",
    "llama3": "",
    "muse_glimmer": "<|start|>assistant",
    "nemotron_3_nano": "<think>\n",
    "nemotron_3_super": "<think>\n",
    "phi3": "",
    "phi3_5": "",
    "qwen2_5": "\n",
    "qwen2_5_vl": "\n",
    "qwen3_8": "<think>\n",
    "qwen3_instruct_2507": "",
    "qwen3_vl": "",
    "smolvlm": "",
}
WITHOUT_CALLS = {"phi3", "phi3_5"}  # they leave tool calls out


@pytest.mark.parametrize("name", FAMILIES)
def test_masks_are_those_of_trl(name: str, tiny_model: Path, tmp_path: Path) -> None:
    """Without markers each turn is learnt as with TRL's, except for what generation opens before the turn.

    Where TRL learns the opening as well, the model would be trained to write what it is given.
    """
    folder = Path(trl.__file__).with_name("chat_templates")
    plain, marked = ((folder / f"{name}{end}.jinja").read_text("utf-8") for end in ("", "_training"))
    bases = [write_base(tiny_model, tmp_path / str(i), template) for i, template in enumerate((plain, marked))]
    compared = 0
    for kind, messages in CONVERSATIONS.items():
        if kind == "calls" and name in WITHOUT_CALLS:
            continue
        rows = [{"messages": messages, **({"tools": [TOOL]} if kind == "calls" else {})}]
        try:
            [theirs] = build_labels(bases[1], rows)
        except UsageError:  # of a template without system messages or tools
            with pytest.raises(UsageError):
                build_labels(bases[0], rows)
            continue
        [ours] = build_labels(bases[0], rows)
        assert len(ours) == len(theirs) == sum(message["role"] == "assistant" for message in messages)
        for one, two in zip(ours, theirs, strict=True):
            assert two.endswith(one) and FAMILIES[name].startswith(two.removesuffix(one)), (kind, one, two)
        compared += 1
    assert compared >= 3


LAST_ALONE = (
    "{% for m in messages %}{% if loop.last or m.role == 'user' %}{{ m.role }}: {{ m.content }};{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "messages", "problem"),
    [
        (CHAT_TEMPLATE, TWO[:1], 'row 2 has no message with the role "assistant" to learn from; remove it'),
        (LAST_ALONE, TWO, "row 2 the chat template does not show where message 2 ends"),
        (
            CHAT_TEMPLATE.replace("{{ message", "{% generation %}{% endgeneration %}{{ message"),
            TWO,
            "row 1 has no token between the chat template's generation markers",
        ),
    ],
)
def test_rows_without_a_mask_are_refused(
    template: str, messages: Any, problem: str, tiny_model: Path, tmp_path: Path
) -> None:
    """A row whose answers cannot be told from its other turns is refused with its number."""
    base = write_base(tiny_model, tmp_path / "base", template)
    with pytest.raises(UsageError) as caught:
        build_labels(base, [{"messages": ONE}, {"messages": messages}])
    assert caught.value.messages[0].startswith(f"[train] data: {problem}")


def test_all_rows_without_a_mask_are_named_at_once(tiny_model: Path, tmp_path: Path) -> None:
    """A line for each reason, with up to five rows and the count of the others."""
    base = write_base(tiny_model, tmp_path / "base", LAST_ALONE)
    rows = [{"messages": TWO if i % 2 else ONE} for i in range(16)] + [{"messages": TWO[:1]}]
    with pytest.raises(UsageError) as caught:
        build_labels(base, rows)
    ends, none = caught.value.messages
    assert ends.startswith("[train] data: row 2 the chat template does not show where message 2 ends")
    assert ends.endswith(" (rows 2, 4, 6, 8, 10 and 3 more)")
    assert none == '[train] data: row 17 has no message with the role "assistant" to learn from; remove it'


def test_the_training_learns_what_the_preview_shows(tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """The trainer that trains has the labels of the preview, cut and packed as well."""
    from harness_lora import lora
    from harness_sft.supervised import CheckedTrainer

    rows = [{"messages": make_chat({}, {}, {}, {"weight": 0})} for _ in range(4)]
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
