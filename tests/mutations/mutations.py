"""The mutations: a name, the code that must be told, the broken run and its healthy twin."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from harness import Completion, Score
from tests.mutations.lab import CHAT, EVAL, ROWS, THINGS, Lab, Seen

Try = Callable[[Lab], Seen]
GENERATION = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n{% if message['role'] == 'assistant' %}"
    "{% generation %}INSIDE{% endgeneration %}OUTSIDE{% else %}{{ message['content'] }}<|end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
NONE: dict[str, Any] = {}
NO = [{"role": "assistant", "content": "Nobody knows."}]
THINKING = (  # writes thoughts under one name
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{% if m.reasoning_content is defined %}"
    "<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
THOUGHT = {"reasoning_content": "It is where it was."}
UNKNOWN, UNTAUGHT = {"musing": "It is where it was."}, {"train": False}
PARAGRAPH = (
    "The harbour master keeps a ledger in which every ship that enters is written down with the hour of its arrival, "
    "the name of its captain, the port it comes from and the goods it carries in its hold."
)


@dataclass(frozen=True)
class Mutation:
    """A broken run, its healthy twin, and what must be told of the broken one."""

    name: str
    code: str
    broken: Try
    healthy: Try


def mutate_data(name: str, code: str, rows: Any, *, healthy: Any = ROWS, **both: Any) -> Mutation:
    """Return a mutation of the training rows."""
    return Mutation(name, code, lambda lab: lab.check(rows, **both), lambda lab: lab.check(healthy, **both))


def mutate_options(
    name: str, code: str, broken: Mapping[str, Any], healthy: Mapping[str, Any], rows: Any = ROWS
) -> Mutation:
    """Return a mutation of options."""
    return Mutation(name, code, lambda lab: lab.check(rows, **broken), lambda lab: lab.check(rows, **healthy))


def trained(name: str, code: str, broken: Mapping[str, Any], healthy: Mapping[str, Any], *ignore: str) -> Mutation:
    """Return a mutation of a whole run."""
    return Mutation(name, code, lambda lab: lab.run(*ignore, **broken), lambda lab: lab.run(*ignore, **healthy))


def mutate_sharing(name: str, told: str, how: str) -> Mutation:
    """Return a mutation of what two processes do with weights that they share, by what the message says."""
    about = {"train_use": "sharing", "train_gradient_accumulation_steps": 2, "train_per_device_train_batch_size": 4}
    return trained(name, told, about | {"train_how": how}, about)


def asked(name: str, told: str, use: str, row: Mapping[str, Any], healthy: Mapping[str, Any]) -> Mutation:
    """Return a mutation of what the rows of an evaluation want, or of its `schema`, by what the message says."""

    def attempt(lab: Lab, changed: Mapping[str, Any]) -> Seen:
        schema = changed.get("schema")
        options: dict[str, Any] = {"eval_0.use": use}
        options |= {"eval_0.schema": "schema.json", "files": {"schema.json": schema}} if schema else {}
        test = [{**one, **{k: v for k, v in changed.items() if k != "schema"}} for one in EVAL]
        if use == "tool_calls":
            test = [{**one, "input": [{"role": "user", "content": one["input"]}]} for one in test]
        return lab.check(CHAT if use == "tool_calls" else ROWS, test, **options)

    return Mutation(name, told, lambda lab: attempt(lab, row), lambda lab: attempt(lab, healthy))


def merge(name: str, code: str, how: str, verified: bool = False) -> Mutation:
    """Return a mutation of what the merge writes, which a check finds, or the merge's own verification."""
    about = {"adapter_use": "merging", "adapter_verified": verified}
    bad, good = (about | {"adapter_how": h} for h in (how, "well"))
    return trained(name, code, bad, good)


def check_with_template(lab: Lab, template: str, rows: Any = CHAT, test: Any = None, **changes: Any) -> Seen:
    """Check on a base with this chat template."""
    base = lab.model(lambda folder: (folder / "chat_template.jinja").write_text(template, "utf-8"))
    return lab.check(rows, test or _make_chat_eval(), model_path=str(base), **changes)


def _fill_generation_marks(inside: str, outside: str) -> str:
    return GENERATION.replace("INSIDE", inside).replace("OUTSIDE", outside)


def _make_chat_eval() -> list[dict[str, Any]]:
    return [{"input": [{"role": "user", "content": row["input"]}], "target": row["target"]} for row in EVAL]


def _make_plain_template(reply: str = "<|assistant|>\n") -> str:
    from harness_hf.tiny import CHAT_TEMPLATE

    return CHAT_TEMPLATE.replace(
        "{% if add_generation_prompt %}<|assistant|>\n", "{% if add_generation_prompt %}" + reply
    )


def _double_start_token(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    single = content["post_processor"]["single"]
    content["post_processor"]["single"] = [single[0], *single]
    path.write_text(json.dumps(content), "utf-8")


UNARGUED = '\n[checks]\nignore = { D7-arguments = "another test" }\n'


def _make_timed_template(form: str) -> str:
    """Return a chat template that begins with the time, unless it is given a date."""
    return f"{{{{ date_string if date_string is defined else strftime_now('{form}') }}}}\n{_make_plain_template()}"


def _add_dates(rows: Any) -> list[dict[str, Any]]:
    return [{**row, "chat_template_kwargs": {"date_string": "26 Jul 2024"}} for row in rows]


def _convert_to_chat(rows: Any) -> list[dict[str, Any]]:
    return [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
        }
        for row in rows
    ]


def _check_experts(lab: Lab) -> Seen:
    """Check on a mixture of experts of a few thousand parameters."""

    def build(folder: Path) -> None:
        from transformers import MixtralConfig, MixtralForCausalLM

        config = MixtralConfig(
            vocab_size=261, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, num_local_experts=4, max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        MixtralForCausalLM(config).save_pretrained(folder)

    return lab.check(model_path=str(lab.model(build)))


def _check_model_class(lab: Lab, name: str, **changes: Any) -> Seen:
    """Check on a small random base of a class."""
    from bench import architectures

    return lab.check(model_path=str(lab.model(partial(architectures.build, name))), **changes)


def _check_template_file(lab: Lab, template: str) -> Seen:
    path = lab.folder / "training.jinja"
    path.write_text(template, "utf-8")
    return lab.check(CHAT, _make_chat_eval(), train_chat_template_path=str(path))


def _train_on_pairs(lab: Lab, how: str = "") -> Seen:
    """Train on pairs, with the right reference or a wrong one; so little teaches nobody to stop."""
    about = {"train_how": how, "train_max_steps": 6, "train_data": "pairs.jsonl", "train_learning_rate": 5e-3}
    about |= {"train_per_device_train_batch_size": 4}
    files = {"pairs.jsonl": PAIRED}
    return lab.run("M5", files=files, train_use="misreferenced", **about)


def _train_turn_ending(lab: Lab, trained: bool) -> Seen:
    """Train on messages, on a base that has weights for the end of a turn or, as some bases have, zeros."""

    def clear(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        weights["lm_head.weight"][4] *= float(trained)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        about = json.loads((folder / "generation_config.json").read_text("utf-8"))
        (folder / "generation_config.json").write_text(json.dumps(about | {"eos_token_id": [2, 4]}), "utf-8")

    files = {"chats.jsonl": CHAT}
    about = {"train_data": "chats.jsonl", "train_max_steps": 120}
    return lab.run("D7-form", "D14", "D20", files=files, model_path=str(lab.model(clear)), **about)


def _train_in_bfloat16(lab: Lab, rate: float) -> Seen:
    """Train all weights of a base that is stored in bfloat16."""

    def store(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        weights = {name: weight.bfloat16() for name, weight in load_file(folder / "model.safetensors").items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return lab.run("M5", "D14", model_path=str(lab.model(store)), adapter_use="none", train_learning_rate=rate)


def _replace_row(number: int, **columns: Any) -> list[dict[str, Any]]:
    return [*ROWS[:number], {**ROWS[number], **columns}, *ROWS[number + 1 :]]


def _replace_chat_row(number: int, *messages: tuple[str, str]) -> list[dict[str, Any]]:
    odd = {"messages": [{"role": role, "content": content} for role, content in messages]}
    return [*CHAT[:number], odd, *CHAT[number + 1 :]]


def _add_system_message(text: str, rows: Any) -> list[dict[str, Any]]:
    """Put a system message before the messages of training rows or of an evaluation."""
    first = {"role": "system", "content": text}
    return [{k: [first, *v] if isinstance(v, list) else v for k, v in row.items()} for row in rows]


def _vary_system_messages(rows: Any) -> list[dict[str, Any]]:
    """Return many rows, each with a system message of its own."""
    return [_add_system_message(f"Room {i}: {row}.", [row])[0] for i, row in enumerate([*rows, *rows])]


def _make_conversations(
    first: Mapping[str, Any] = NONE, last: Mapping[str, Any] = NONE, **beside: Any
) -> list[dict[str, Any]]:
    """Return conversations of two questions, whose answers have these keys beside their content."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"Where is the {thing}?"},
                {"role": "assistant", "content": f"Room {i + 10}.", **first},
                {"role": "user", "content": "And its twin?"},
                {"role": "assistant", "content": f"Room {i + 40}.", **last},
            ],
            **beside,
        }
        for i, thing in enumerate(THINGS)
    ]


def _mutate_conversations(name: str, template: str, broken: Any, healthy: Any, code: str = "D7-keys") -> Mutation:
    """Return a mutation of conversations under a chat template."""
    bad, good = (partial(check_with_template, template=template, rows=rows) for rows in (broken, healthy))
    return Mutation(name, code, bad, good)


SHELVES = json.dumps([f"shelf {i}" for i in range(8)])
BEFORE_LAST = (  # as Mistral writes tools, or a system message
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' and loop.index0 >= messages|length - 2 %}"
    "[THE ROOMS ARE NUMBERED]{% endif %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
NUMBERED = (
    "{{ bos_token }}{% for m in messages %}{{ (messages|length + 1) // 2 - loop.index0 // 2 }}<|{{ m.role }}|>\n"
    "{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}1<|assistant|>\n{% endif %}"
)
SCORED = """
[[eval]]
name = "scored"
data = "test.jsonl"
use = "perplexity"
of = "completion"
"""
CHOSEN = SCORED.replace('use = "perplexity"\nof = "completion"', f'use = "multiple_choice"\nchoices = {SHELVES}')


def _mutate_answer_opening(name: str, opened: str, use: str = "sft") -> Mutation:
    """Return a mutation of how the template opens an answer, for rows of messages or of judged answers."""
    chats, more = CHAT, dict[str, Any]()
    if use != "sft":
        chats = [
            {"prompt": r["messages"][:-1], "chosen": r["messages"][-1:], "rejected": b["rejected"][1:]}
            for r, b in zip(CHAT, BOTH, strict=True)
        ]
        more = {"train_use": use}
    if use == "kto":
        chats = [{"prompt": r["prompt"], "completion": r["chosen"], "label": True} for r in chats]
        chats = [{**r, "completion": NO, "label": False} if i % 3 == 0 else r for i, r in enumerate(chats)]
    bad, good = (
        partial(check_with_template, template=_make_plain_template(o), rows=chats, **more)
        for o in (opened, "<|assistant|>\n")
    )
    return Mutation(name, "D8", bad, good)


def _check_spanning_token(lab: Lab, rows: Any, test: Any = EVAL, **changes: Any) -> Seen:
    """Check on a base one of whose tokens is a space with the letter that answers begin with."""

    def change(folder: Path) -> None:
        tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        vocabulary = tokenizer["model"]["vocab"]
        for letter, unused in (("s", "\N{LATIN CAPITAL LETTER A WITH MACRON}"), ("i", "\u0101")):
            vocabulary[f"\u0120{letter}"] = vocabulary.pop(unused)
        tokenizer["model"]["merges"] = [["\u0120", "s"], ["\u0120", "i"]]
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")

    return lab.check(rows, test, model_path=str(lab.model(change)), **changes)


def _mutate_targets(name: str, code: str, test: Any, healthy: Mapping[str, Any], **broken: Any) -> Mutation:
    """Return a mutation of what an evaluation wants, or of how an answer ends."""
    return Mutation(name, code, lambda lab: lab.check(test=test, **broken), lambda lab: lab.check(test=test, **healthy))


WORDS = ["bright", "dark", "plain"]
MOODS = """
[[eval]]
name = "mood"
use = "multiple_choice"
data = "moods.jsonl"
choices = ["bright", "dark", "plain"]

[[gate]]
id = "moods"
metric = "mood.acc"
min = {}
"""


def _repeat_labels(labels: Sequence[str]) -> list[str]:
    return [labels[i % len(labels)] for i in range(36)]


def _mutate_labels(name: str, code: str, learnt: Any, healthy: Any, wanted: Any = None, least: float = 0.9) -> Mutation:
    """Return a mutation of the labels that are learnt, of those that an evaluation wants, or of what is claimed."""

    def attempt(lab: Lab, learnt: Any, wanted: Any, least: float) -> Seen:
        rows = [{"prompt": f"Mood of note {i}:\n", "completion": label} for i, label in enumerate(learnt)]
        test = [{"input": f"Mood of letter {i}:\n", "target": label} for i, label in enumerate(wanted)]
        return lab.check(rows, more=MOODS.format(least), files={"moods.jsonl": test})

    usual = _repeat_labels(WORDS)
    bad, good = partial(attempt, learnt=learnt, wanted=wanted or usual, least=least), partial(attempt, learnt=healthy)
    return Mutation(name, code, bad, partial(good, wanted=usual, least=0.9))


def _mutate_near_copies() -> Mutation:
    """Return a mutation of an evaluation that asks six questions with six endings, where the twin asks 36."""
    things, ends = (
        ("kettle", "lamp", "mixer", "radio", "fan", "clock"),
        ("today", "again", "please", "now", "soon", "then"),
    )

    def attempt(lab: Lab, asked: Sequence[str]) -> Seen:
        rows = [{"prompt": f"Mood of note {i}:\n", "completion": WORDS[i % len(WORDS)]} for i in range(36)]
        test = [{"input": f"{text}\n", "target": WORDS[i % len(WORDS)]} for i, text in enumerate(asked)]
        return lab.check(rows, more=MOODS.format(0.9), files={"moods.jsonl": test})

    def said(thing: str, end: str) -> str:
        return f"The {thing} that came by post on Monday hums, and its {thing} cord is loose {end}:"

    copies = [said(thing, end) for thing in things for end in ends]
    luck = random.Random(7)
    others = [" ".join("".join(luck.choices("abcdefghij", k=5)) for _ in range(12)) + ":" for _ in range(36)]
    return Mutation("six questions in 36 rows", "D28", partial(attempt, asked=copies), partial(attempt, asked=others))


def _sort_by_label(rows: Any) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: not row["label"])


def _add_tools() -> list[dict[str, Any]]:
    return [{**row, "tools": [{"name": "find"}]} for row in _make_chat_eval()]


def _make_mute_base(lab: Lab) -> str:
    """Return a base whose head has zeros for the end of a turn."""
    from safetensors.torch import load_file, save_file

    from harness_hf import load_tokenizer
    from harness_hf.tiny import TURN_END

    def change(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights["lm_head.weight"][load_tokenizer(folder).convert_tokens_to_ids(TURN_END)] = 0
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return str(lab.model(change))


CHATTED = 'Here is the call: {"name": "now", "arguments": {}} Let me know if you need more.'


def _make_tool_call_run(*said: str) -> Try:
    """Return a run of a model that calls a tool in these forms, in turn."""
    asked = [{"role": "user", "content": f"{i} say {said[i % len(said)]}"} for i in range(40)]
    rows = [{"messages": [one], "tools": [{"name": "now"}], "target": [{"name": "now"}]} for one in asked]
    return lambda lab: lab.fake(1.0, rows=rows, **{"eval_0.use": "tool_calls"})


def _make_answer_run(cut: int = 0, empty: int = 0, lost: int = 0) -> Try:
    """Return a run of a model of whose 40 answers some were cut, say nothing, or are to prompts that were cut."""
    from harness.testing import FakeSubject

    plain = FakeSubject.generate

    def generate(self: Any, prompts: Any, **_: Any) -> list[str]:
        numbers = [int(prompt.split()[1]) for prompt in prompts]
        said = zip(numbers, plain(self, prompts), strict=True)
        return [
            Completion("" if i < empty else text, "length" if i < cut else "eos", 8 if i < cut else 2)
            for i, text in said
        ]

    def score(name: str, *values: Any, **about: Any) -> Score:
        note = "prompt cut from the left, tokens: 210" if int(name) <= lost else None
        return Score(name, *values, **about, note=note)

    def attempt(lab: Lab) -> Seen:
        asked = f"cut {cut} empty {empty} say"  # or another run's answers are remembered
        rows = [{"id": str(i + 1), "input": f"number {i} {asked} w{i}", "target": f"w{i}"} for i in range(40)]
        with patch.object(FakeSubject, "generate", generate), patch("harness_domain.matching.Score", score):
            return lab.fake(0.9, rows=rows)

    return attempt


def _frame_prompts(before: str, after: str, rows: Any, column: str = "prompt") -> list[dict[str, Any]]:
    return [{**row, column: f"{before}{row[column].strip()}{after}"} for row in rows]


def _join_to_texts(rows: Any) -> list[dict[str, Any]]:
    return [{"text": f"{row['prompt']}{row['completion']}"} for row in rows]


def _mutate_spelling(asked: str, test: str, rows: Any = ROWS) -> Mutation:
    """Return a mutation that trains on a row of the test in another spelling; its twin asks something else so."""
    other = {"input": f"{test} Who carries it?", "target": "x"}
    row = {"prompt": asked, "completion": "on the left"}
    return Mutation(
        f"a row of the test, spelt otherwise: {asked}",
        "D10-exact",
        lambda lab: lab.check([*rows, row], _append_eval_row(test)),
        lambda lab: lab.check([*rows, row], [*EVAL, other]),
    )


def _make_shots_file(text: str) -> dict[str, Any]:
    return {"shots.jsonl": [{"input": text, "target": "x"}, *FRESH[:2]]}


def _append_eval_row(text: str) -> list[dict[str, Any]]:
    return [*EVAL, {"input": text, "target": "x"}]


TOOLS_TEMPLATE = (
    "{{ bos_token }}{% if quick %}quick\n{% endif %}{% if tools %}{{ tools | tojson }}\n{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>\n"
    "{{ m.content }}{% if m.calls is defined %}{{ m.calls | tojson }}{% endif %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% if calm %}<think></think>{% endif %}{% endif %}"
)
TOOLED = [{**row, "tools": [{"name": f"find{i % 2}"}]} for i, row in enumerate(CHAT)]
CALLING = [
    {"messages": [row["messages"][0], {**row["messages"][1], "calls": [{f"at{i % 2}": i}]}]}
    for i, row in enumerate(CHAT)
]
CALM = [
    {"messages": [r["messages"][0], {**r["messages"][1], "content": f"<think></think>{i}"}]} for i, r in enumerate(CHAT)
]
QUICK = {"chat_template_kwargs": {"quick": True}}
IGNORING = {"more": '\n[checks]\nignore = { D7-frame = "looked at elsewhere", D7-system = "looked at elsewhere" }\n'}
WHO = {"input": "Who was it?\n", "target": "x"}
LEAKED = EVAL[2]["input"].strip()  # five words
NEVER = "Which shelf has the harp?"
TURNS = [("user", LEAKED), ("assistant", "?"), ("user", "And the big one?"), ("assistant", "There.")]
RAISES = "{% if messages|length > 2 %}{{ raise_exception('two at most') }}{% endif %}"
FOUR_TURNS = [
    *CHAT,
    {"messages": [*CHAT[0]["messages"], CHAT[1]["messages"][0], {"role": "assistant", "content": "?"}]},
]
NULL = [*({"input": r["prompt"], "target": r["completion"]} for r in ROWS), {"input": "Where?", "target": None}]
chat = partial(mutate_data, healthy=CHAT, test=_make_chat_eval())
PAIRED = [
    {"prompt": row["prompt"], "chosen": row["completion"], "rejected": f"in room {30 + i}"}
    for i, row in enumerate(ROWS)
]
ALIKE_PAIR = {**PAIRED[0], "rejected": f" {PAIRED[0]['chosen']} "}
LEAKED_PAIR = {**PAIRED[0], "prompt": EVAL[5]["input"].upper()}
BOTH = [
    {"chosen": row["messages"], "rejected": [row["messages"][0], {"role": "assistant", "content": f"Room {30 + i}."}]}
    for i, row in enumerate(CHAT)
]
ASKED = [*BOTH[:3], {**BOTH[3], "rejected": [{"role": "user", "content": "When?"}, BOTH[3]["rejected"][1]]}, *BOTH[4:]]
LABELLED = [
    {"prompt": row["prompt"], "completion": row[name], "label": name == "chosen"}
    for row in PAIRED
    for name in ("chosen", "rejected")
]
judged = partial(mutate_data, healthy=PAIRED, train_use="dpo")
LEAK = {**ROWS[3], "prompt": EVAL[5]["input"].upper()}
PASSAGE = {"prompt": f"Read this: {PARAGRAPH} Where?\n", "completion": "x"}
NEARLY = {"prompt": PARAGRAPH.replace("captain", "skipper") + "\n", "completion": "x"}
NEAR_TEST = "please tell me which of the seven old boats by the northern pier still has a sail that a crew can use"
NEAR_WORDS = NEAR_TEST.replace("northern", "southern")
SHORT = " ".join(PARAGRAPH.split()[:24])
FEWSHOT = "\n[subject.fewshot]\nshots = 3\n"
SHOTS = {"eval_0.fewshot_data": "shots.jsonl"}
UNHARMED = {"train_use": "damaged"}
VALIDATED = {"train_validation_data": "validation.jsonl"}
COLOURS = {"snow": "white", "grass": "green", "coal": "black", "milk": "white", "blood": "red", "a frog": "green"}
ALIKE = [{"prompt": f"Now say the colour of {t}.\n", "completion": c} for t, c in COLOURS.items()]
ODD = [{**row, "completion": f"ZQ{i}XJ {9 * i}"} for i, row in enumerate(ALIKE, 11)]
CONFIRM = '\n[[eval]]\nname = "confirm"\nuse = "exact_match"\ndata = "confirm.jsonl"\n'
SELECT = '\n[[eval]]\nname = "select"\nuse = "exact_match"\ndata = "select.jsonl"\n'
FRESH = [{"input": f"Who owns the {t}?\n", "target": t} for t in ("zither", "apron", "bellows", "crate")]
GROUPED = {"more": '\n[[eval]]\nname = "grouped"\nuse = "exact_match"\ndata = "test.jsonl"\ncluster = "group"\n'}

PINNED = '[[eval]]\nname = "general"\nuse = "pack"\nparts = ["facts"]\ndigest = "{}"\n'
CALL = {"name": "find", "arguments": {"thing": "anvil"}}
CALLED = {"tool_calls": [CALL]}
NO_TOOL = {"target": [CALL], "tools": [{"name": "lose"}]}
OBJECT = {"target": "{}", "schema": '{"type": "object"}'}
NO_TYPE = {"target": "{}", "schema": '{"type": "objekt"}'}
ELSEWHERE = {"target": "{}", "schema": '{"$ref": "https://example.org/a.json"}'}
HALVES = [{**row, "target": f"{i}.5"} for i, row in enumerate(EVAL)]
MUTATIONS: list[Mutation] = [
    mutate_options(
        "pad is eos, through Hugging Face's collator",
        "D1",
        {"train_use": "padded_by_hf", "train_pad": "eos"},
        {"train_use": "padded_by_hf"},
    ),
    Mutation(
        "the end of a turn is outside the generation markers",
        "D2",
        lambda lab: check_with_template(
            lab, _fill_generation_marks("{{ message['content'] }}", "<|end|>\n"), train_assistant_only_loss=True
        ),
        lambda lab: check_with_template(
            lab, _fill_generation_marks("{{ message['content'] }}<|end|>\n", ""), train_assistant_only_loss=True
        ),
    ),
    mutate_options(
        "all labels are masked", "D3", {"train_use": "masking"}, {"train_use": "masking", "train_rows_masked": 0}
    ),
    Mutation(
        "the assistant mask is zero in all rows",
        "build",
        lambda lab: check_with_template(
            lab, _fill_generation_marks("", "{{ message['content'] }}<|end|>\n"), train_assistant_only_loss=True
        ),
        lambda lab: check_with_template(
            lab, _fill_generation_marks("{{ message['content'] }}<|end|>\n", ""), train_assistant_only_loss=True
        ),
    ),
    mutate_options("the whole answer is cut off", "D4", {"train_max_length": 20}, {"train_max_length": 64}),
    mutate_options(
        "the whole answer is cut off, packed",
        "D4",
        {"train_max_length": 20, "train_packing": True},
        {"train_max_length": 64, "train_packing": True},
    ),
    mutate_options("answers are cut", "D5", {"train_max_length": 32}, {"train_max_length": 64}),
    mutate_data(
        "two beginnings",
        "D6",
        [{"text": f"<s><s>{r['prompt']}{r['completion']}"} for r in ROWS],
        healthy=[{"text": f"<s>{r['prompt']}{r['completion']}"} for r in ROWS],
    ),
    Mutation(
        "a tokenizer that writes two beginnings",
        "D6",
        lambda lab: lab.check(model_path=str(lab.model(_double_start_token))),
        lambda lab: lab.check(model_path=str(lab.model(lambda folder: None))),
    ),
    Mutation(
        "another chat template in training",
        "D7",
        lambda lab: _check_template_file(lab, _make_plain_template().replace("<|{{", "[{{").replace("}}|>", "}}]")),
        lambda lab: _check_template_file(lab, _make_plain_template()),
    ),
    mutate_data("trained on text, evaluated on chat", "D7-form", ROWS, healthy=CHAT, test=_make_chat_eval()),
    Mutation(
        "the prompt is no prefix: the template opens a thought that training never sees",
        "D8",
        lambda lab: check_with_template(lab, _make_plain_template("<|assistant|>\n<think>"), _convert_to_chat(ROWS)),
        lambda lab: check_with_template(lab, _make_plain_template(), _convert_to_chat(ROWS)),
    ),
    _mutate_answer_opening(
        "messages behind a thought that the template opens and the rows have not", "<|assistant|>\n<think>\n"
    ),
    _mutate_answer_opening("messages behind a generation prompt with a space more", "<|assistant|>\n{{ ' ' }}"),
    _mutate_answer_opening("pairs behind a thought that the template opens", "<|assistant|>\n<think>\n", "dpo"),
    _mutate_answer_opening("pairs behind a generation prompt with a space more", "<|assistant|>\n{{ ' ' }}", "dpo"),
    _mutate_answer_opening(
        "judged answers behind a thought that the template opens", "<|assistant|>\n<think>\n", "kto"
    ),
    _mutate_conversations(
        "a text that stands before the last question alone",
        BEFORE_LAST,
        _make_conversations(),
        _make_conversations(UNTAUGHT),
        "D8",
    ),
    _mutate_conversations(
        "turns that are numbered from the end", NUMBERED, _make_conversations(), _make_conversations(UNTAUGHT), "D8"
    ),
    Mutation(
        "answers that are scored behind a thought that the template opens",
        "D21",
        lambda lab: check_with_template(lab, _make_plain_template("<|assistant|>\n<think>\n"), more=CHOSEN),
        lambda lab: check_with_template(lab, _make_plain_template(), more=CHOSEN),
    ),
    Mutation(
        "completions that are scored behind a space that the template opens with",
        "D21",
        lambda lab: check_with_template(lab, _make_plain_template("<|assistant|>\n{{ ' ' }}"), more=SCORED),
        lambda lab: check_with_template(lab, _make_plain_template(), more=SCORED),
    ),
    Mutation(
        "a token that spans the end of the prompts that are trained on",
        "D8",
        lambda lab: _check_spanning_token(lab, _frame_prompts("", " ", ROWS)),
        lambda lab: _check_spanning_token(lab, ROWS),
    ),
    Mutation(
        "a token that spans the end of the prompts that are scored",
        "D21-seam",
        lambda lab: _check_spanning_token(lab, ROWS, test=_frame_prompts("", " ", EVAL, "input"), more=SCORED),
        lambda lab: _check_spanning_token(lab, ROWS, more=SCORED),
    ),
    mutate_options(
        "labels are shifted by one",
        "D15",
        {"train_use": "misreading", "train_how": "one"},
        {"train_use": "misreading"},
    ),
    mutate_options(
        "labels are shifted by one, packed",
        "D15",
        {"train_use": "misreading", "train_how": "one", "train_packing": True},
        {"train_use": "misreading", "train_packing": True},
    ),
    Mutation(
        "a head of a dense layer and a norm, which TRL's loss leaves out",
        "D19",
        lambda lab: _check_model_class(lab, "ModernBertDecoderForCausalLM"),
        lambda lab: _check_model_class(lab, "LlamaForCausalLM", train_loss_type="dft"),
    ),
    Mutation(
        "logits that are divided, of which TRL's loss does not know",
        "D19",
        lambda lab: _check_model_class(lab, "InklingForCausalLM"),
        lambda lab: _check_model_class(lab, "GraniteForCausalLM"),
    ),
    Mutation(
        "a chat template that writes the time",
        "D7-clock",
        lambda lab: check_with_template(lab, _make_timed_template("%H:%M:%S")),
        lambda lab: check_with_template(
            lab, _make_timed_template("%H:%M:%S"), _add_dates(CHAT), _add_dates(_make_chat_eval())
        ),
    ),
    Mutation(
        "a chat template that writes the date",
        "D7-clock",
        lambda lab: check_with_template(lab, _make_timed_template("%d %b %Y")),
        lambda lab: check_with_template(
            lab, _make_timed_template("%d %b %Y"), _add_dates(CHAT), _add_dates(_make_chat_eval())
        ),
    ),
    Mutation(
        "a date in the prompts of the evaluation alone",
        "D7-clock",
        lambda lab: check_with_template(lab, _make_timed_template("%d %b %Y"), _add_dates(CHAT), more=UNARGUED),
        lambda lab: check_with_template(
            lab, _make_timed_template("%d %b %Y"), _add_dates(CHAT), _add_dates(_make_chat_eval()), more=UNARGUED
        ),
    ),
    Mutation(
        "the tools of the rows are not trained on",
        "D7-rows",
        lambda lab: check_with_template(
            lab, TOOLS_TEMPLATE, TOOLED, _add_tools(), train_use="misreading", train_how="arguments"
        ),
        lambda lab: check_with_template(lab, TOOLS_TEMPLATE, TOOLED, _add_tools(), train_use="misreading"),
    ),
    Mutation(
        "calls have the arguments of other rows, as null",
        "D7-rows",
        lambda lab: check_with_template(lab, TOOLS_TEMPLATE, CALLING, train_use="misreading", train_how="nulls"),
        lambda lab: check_with_template(lab, TOOLS_TEMPLATE, CALLING, train_use="misreading"),
    ),
    _mutate_conversations(
        "thoughts under a name that the template does not know",
        THINKING,
        _make_conversations(NONE, UNKNOWN),
        _make_conversations(NONE, THOUGHT),
    ),
    _mutate_conversations(
        "thoughts, and a template without them",
        TOOLS_TEMPLATE,
        _make_conversations(NONE, THOUGHT),
        _make_conversations(),
    ),
    _mutate_conversations(
        "a template that drops thoughts in the earlier turn only",
        THINKING.replace("is defined", "is defined and loop.last"),
        _make_conversations(THOUGHT, THOUGHT),
        _make_conversations(NONE, THOUGHT),
    ),
    _mutate_conversations(
        "calls that are not written",
        TOOLS_TEMPLATE,
        _make_conversations(NONE, CALLED),
        _make_conversations(NONE, {"calls": [CALL]}),
    ),
    _mutate_conversations(
        "tools that are not written", THINKING, _make_conversations(tools=[{"name": "find"}]), _make_conversations()
    ),
    _mutate_conversations(
        "a system column beside the messages",
        THINKING,
        _make_conversations(system="Be brief."),
        _make_conversations(system=""),
    ),
    _mutate_conversations(
        "a turn that is half learnt",
        THINKING,
        _make_conversations({"weight": 0.5}),
        _make_conversations({"weight": 0}),
        "build",
    ),
    _mutate_conversations(
        "no answer is learnt",
        THINKING,
        _make_conversations(UNTAUGHT, {"weight": 0}),
        _make_conversations(UNTAUGHT),
        "build",
    ),
    Mutation(
        "tools in training only",
        "D7-arguments",
        lambda lab: check_with_template(lab, TOOLS_TEMPLATE, TOOLED),
        lambda lab: check_with_template(lab, TOOLS_TEMPLATE, TOOLED, _add_tools()),
    ),
    Mutation(
        "tools in evaluation only",
        "D7-arguments",
        lambda lab: check_with_template(lab, TOOLS_TEMPLATE, CHAT, _add_tools()),
        lambda lab: check_with_template(lab, TOOLS_TEMPLATE, [*CHAT[4:], *TOOLED[:4]], _add_tools()),
    ),
    mutate_data(
        "a system message in training only",
        "D7-system",
        _add_system_message("Be brief.", CHAT),
        healthy=CHAT,
        test=_make_chat_eval(),
    ),
    Mutation(
        "a system message in evaluation only",
        "D7-system",
        lambda lab: lab.check(CHAT, _add_system_message("Be brief.", _make_chat_eval())),
        lambda lab: lab.check(
            [*CHAT[:8], *_add_system_message("Be brief.", CHAT[8:])],
            _add_system_message("Be brief.", _make_chat_eval()),
        ),
    ),
    Mutation(
        "another system message in every row of training, none in evaluation",
        "D7-system",
        lambda lab: lab.check(
            [_add_system_message(f"Room {i}.", [row])[0] for i, row in enumerate(CHAT * 2)], _make_chat_eval()
        ),
        lambda lab: lab.check(_vary_system_messages(CHAT), _vary_system_messages(_make_chat_eval())),
    ),
    Mutation(
        "a template argument in evaluation that closes a thought, which training never has",
        "D7-arguments",
        lambda lab: check_with_template(lab, TOOLS_TEMPLATE, **{"eval_0.chat_template_kwargs.calm": True}),
        lambda lab: check_with_template(lab, TOOLS_TEMPLATE, CALM, **{"eval_0.chat_template_kwargs.calm": True}),
    ),
    Mutation(
        "a template argument in training only",
        "D7-arguments",
        lambda lab: check_with_template(lab, TOOLS_TEMPLATE, [{**row, **QUICK} for row in CHAT]),
        lambda lab: check_with_template(
            lab, TOOLS_TEMPLATE, [{**row, **QUICK} for row in CHAT], **{"eval_0.chat_template_kwargs.quick": True}
        ),
    ),
    Mutation(
        "a template argument in evaluation only",
        "D7-arguments",
        lambda lab: check_with_template(lab, TOOLS_TEMPLATE, **{"eval_0.chat_template_kwargs.quick": True}),
        lambda lab: check_with_template(
            lab,
            TOOLS_TEMPLATE,
            **{"train_chat_template_kwargs.quick": True, "eval_0.chat_template_kwargs.quick": True},
        ),
    ),
    mutate_data(
        "a frame around the questions in training only",
        "D7-frame",
        _frame_prompts("### Question:\n", "\n### Answer:\n", ROWS),
        healthy=ROWS,
    ),
    Mutation(
        "a label before the answer in evaluation only",
        "D7-frame",
        lambda lab: lab.check(_frame_prompts("", "", ROWS), _frame_prompts("", " A:", EVAL, "input")),
        lambda lab: lab.check(_frame_prompts("", " A:", ROWS), _frame_prompts("", " A:", EVAL, "input")),
    ),
    Mutation(
        "a label before the question in training only",
        "D7-frame",
        lambda lab: lab.check(_frame_prompts("Question: ", "\n", ROWS), EVAL),
        lambda lab: lab.check(
            _frame_prompts("Question: ", "\n", ROWS), _frame_prompts("Question: ", "\n", EVAL, "input")
        ),
    ),
    Mutation(
        "the reference is another model",
        "P1",
        lambda lab: _train_on_pairs(lab, how="larger"),
        _train_on_pairs,
    ),
    Mutation(
        "the reference is the policy in every step",
        "P5",
        lambda lab: _train_on_pairs(lab, how="policy"),
        _train_on_pairs,
    ),
    judged("a chosen answer is the rejected one", "P2", [ALIKE_PAIR, *PAIRED[1:]]),
    judged("chosen answers are the longer ones", "P3", [{**r, "chosen": f"{r['chosen']}, upstairs"} for r in PAIRED]),
    mutate_data("a pair answers two questions", "P4", ASKED, healthy=BOTH, test=_make_chat_eval(), train_use="dpo"),
    judged("one rejected answer for all", "P7-constant", [{**r, "rejected": "I do not know."} for r in PAIRED]),
    judged("a rejected answer is the question said again", "P7-echo", [{**r, "rejected": r["prompt"]} for r in PAIRED]),
    mutate_data(
        "fifteen wanted answers to one", "P8", [*LABELLED[::2][:15], LABELLED[1]], healthy=LABELLED, train_use="kto"
    ),
    mutate_data("labels are sorted", "P6", _sort_by_label(LABELLED), healthy=LABELLED, train_use="kto"),
    judged(
        "a pair is judged both ways",
        "D11-conflict",
        [*PAIRED, {**PAIRED[2], "chosen": PAIRED[2]["rejected"], "rejected": PAIRED[2]["chosen"]}],
    ),
    judged("a row of the test among the pairs", "D10-exact", [*PAIRED, LEAKED_PAIR]),
    mutate_options(
        "wrapped packing",
        "D9",
        {"train_packing": True, "train_packing_strategy": "wrapped"},
        {"train_packing": True},
    ),
    mutate_data("a row of the test, in capitals", "D10-exact", [*ROWS, LEAK]),
    _mutate_spelling("Which STRASSE has the harp?", "Which Straße has the harp?"),
    _mutate_spelling("Which cafe\u0301 has the harp?", "Which café has the harp?"),
    _mutate_spelling("Which **shelf** has the _harp_?", "Which shelf has the harp?"),
    _mutate_spelling("Which ｓｈｅｌｆ has the har\u00adp?", "Which shelf has the harp?"),
    chat("a row of the test in a middle turn", "D10-exact", _replace_chat_row(3, *TURNS)),
    mutate_data(
        "a row of the test inside a text",
        "D10-exact",
        _join_to_texts([*ROWS, {"prompt": f"{LEAKED}\n", "completion": "shelf 2"}]),
        healthy=_join_to_texts([*ROWS, {"prompt": f"{NEVER}\n", "completion": "shelf 2"}]),
    ),
    mutate_data(
        "a row of the test inside a line of a text",
        "D10-inside",
        _join_to_texts([*ROWS, {"prompt": f"I was asked: {LEAKED} ", "completion": "It was shelf 2."}]),
        healthy=_join_to_texts(
            [*ROWS, {"prompt": f"I was asked: {LEAKED[:-1]} blanket? ", "completion": "It was shelf 2."}]
        ),
    ),
    Mutation(
        "a row of the test behind a prefix of all training rows",
        "D10",
        lambda lab: lab.check(
            _frame_prompts("Question: ", "\n", [*ROWS, LEAK]), _frame_prompts("Question: ", "\n", EVAL, "input")
        ),
        lambda lab: lab.check(
            _frame_prompts("Question: ", "\n", ROWS), _frame_prompts("Question: ", "\n", EVAL, "input")
        ),
    ),
    Mutation(
        "a short row of the test behind a prefix of the training rows alone",
        "D10-exact",
        lambda lab: lab.check(
            _frame_prompts("Q: ", "\n", [*ROWS, {**LEAK, "prompt": "Who was it?"}]), [*EVAL, WHO], **IGNORING
        ),
        lambda lab: lab.check(_frame_prompts("Q: ", "\n", ROWS), [*EVAL, WHO], **IGNORING),
    ),
    Mutation(
        "a row of the training in the test, behind a prefix of all of its rows",
        "D10-exact",
        lambda lab: lab.check([*ROWS, LEAK], _frame_prompts("Q: ", "\n", EVAL, "input"), **IGNORING),
        lambda lab: lab.check(ROWS, _frame_prompts("Q: ", "\n", EVAL, "input"), **IGNORING),
    ),
    Mutation(
        "a row of the test inside a longer question",
        "D10-inside",
        lambda lab: lab.check([*ROWS, {**LEAK, "prompt": f"Tell me now, {LEAKED}\n", "completion": "shelf 2"}]),
        lambda lab: lab.check([*ROWS, {**LEAK, "prompt": f"Tell me now, {LEAKED[:-1]} of the king?\n"}]),
    ),
    Mutation(
        "a row of the test behind a system message of the training rows",
        "D10-exact",
        lambda lab: lab.check(
            _add_system_message("Be brief.", _replace_chat_row(3, *TURNS[:2])),
            _add_system_message("Be brief!", _make_chat_eval()),
            **IGNORING,
        ),
        lambda lab: lab.check(
            _add_system_message("Be brief.", CHAT), _add_system_message("Be brief!", _make_chat_eval()), **IGNORING
        ),
    ),
    Mutation(
        "a passage of the test inside a longer row",
        "D10-coverage",
        lambda lab: lab.check([*ROWS, PASSAGE], _append_eval_row(PARAGRAPH)),
        lambda lab: lab.check([*ROWS, {**PASSAGE, "prompt": f"{SHORT[:40]} where?\n"}], _append_eval_row(PARAGRAPH)),
    ),
    Mutation(
        "a row of the test with one word changed",
        "D10-near",
        lambda lab: lab.check([*ROWS, {**NEARLY, "prompt": NEAR_WORDS}], _append_eval_row(NEAR_TEST)),
        lambda lab: lab.check([*ROWS, NEARLY], EVAL),
    ),
    Mutation(
        "two clusters on both sides of the split",
        "D10-group",
        lambda lab: lab.check([{**r, "group": f"g{i + 6}"} for i, r in enumerate(ROWS)], **GROUPED),
        lambda lab: lab.check([{**r, "group": f"h{i}"} for i, r in enumerate(ROWS)], **GROUPED),
    ),
    Mutation(
        "rows to select with among those that confirm",
        "D10-exact",
        lambda lab: lab.check(more=SELECT + CONFIRM, files={"select.jsonl": FRESH, "confirm.jsonl": FRESH[2:]}),
        lambda lab: lab.check(more=SELECT + CONFIRM, files={"select.jsonl": FRESH[:2], "confirm.jsonl": FRESH[2:]}),
    ),
    Mutation(
        "worked examples of the test",
        "D10-near",
        lambda lab: lab.check(
            test=_append_eval_row(NEAR_TEST), more=FEWSHOT, files=_make_shots_file(NEAR_WORDS), **SHOTS
        ),
        lambda lab: lab.check(
            test=_append_eval_row(NEAR_TEST), more=FEWSHOT, files=_make_shots_file(" ".join(THINGS)), **SHOTS
        ),
    ),
    Mutation(
        "training rows in the select split",
        "D10-exact",
        lambda lab: lab.check([*ROWS, LEAK], FRESH, files={"select.jsonl": EVAL}, **{"eval_0.select": "select.jsonl"}),
        lambda lab: lab.check(ROWS, FRESH, files={"select.jsonl": EVAL}, **{"eval_0.select": "select.jsonl"}),
    ),
    _mutate_targets(
        "targets of two lines", "D16-stop", [*EVAL[:7], {**EVAL[7], "target": "a\nb"}], {"eval_0.stop": []}
    ),
    _mutate_targets("targets that are longer than an answer", "D16-long", EVAL, {}, **{"eval_0.max_new_tokens": 6}),
    _mutate_labels(
        "labels in training that no evaluation chooses from", "D17", _repeat_labels("012"), _repeat_labels(WORDS)
    ),
    _mutate_labels(
        "half of the labels are written otherwise",
        "D17",
        _repeat_labels([*WORDS, "sad", "gay", "flat"]),
        _repeat_labels(WORDS),
    ),
    _mutate_near_copies(),
    _mutate_labels(
        "an evaluation of one label",
        "D18-one",
        _repeat_labels(WORDS),
        _repeat_labels(WORDS),
        _repeat_labels(["bright"]),
    ),
    _mutate_labels("a training of one label", "D18-one", _repeat_labels(["bright"]), _repeat_labels(WORDS)),
    _mutate_labels(
        "a gate below a constant answer", "D18-constant", _repeat_labels(WORDS), _repeat_labels(WORDS), least=0.2
    ),
    mutate_data("an empty answer", "D11-empty", _replace_row(3, completion="  ")),
    mutate_data("an answer that is null", "D11-empty", NULL),
    Mutation(
        "a row of an evaluation without a target",
        "D11-blank",
        lambda lab: lab.check(test=[*EVAL, {"input": "Which shelf?\n", "target": None}]),
        lambda lab: lab.check(test=EVAL),
    ),
    chat("two turns of the user", "D11-roles", _replace_chat_row(3, ("user", "a"), ("user", "b"), ("assistant", "c"))),
    chat(
        "the system comes late", "D11-roles", _replace_chat_row(3, ("user", "a"), ("assistant", "b"), ("system", "c"))
    ),
    chat("an unknown role", "D11-roles", _replace_chat_row(3, ("human", "a"), ("assistant", "b"))),
    chat("no answer at the end", "D11-roles", _replace_chat_row(3, ("user", "a"))),
    Mutation(
        "a chat template that raises",
        "D11-template",
        lambda lab: check_with_template(lab, RAISES + _make_plain_template(), FOUR_TURNS),
        lambda lab: check_with_template(lab, _make_plain_template(), FOUR_TURNS),
    ),
    Mutation(
        "a tokenizer without a chat template",
        "D11-template",
        lambda lab: lab.check(CHAT, model_path=str(lab.model(lambda f: (f / "chat_template.jinja").unlink()))),
        lambda lab: lab.check(model_path=str(lab.model(lambda f: (f / "chat_template.jinja").unlink()))),
    ),
    mutate_data("a row twice", "D11-duplicate", [*ROWS, ROWS[4]]),
    mutate_data("one prompt, two answers", "D11-conflict", [*ROWS, {**ROWS[4], "completion": "in the garden"}]),
    mutate_data("an answer that loops", "D11-loop", _replace_row(3, completion="it is there " * 20)),
    mutate_data("a special token in a text", "D11-special", _replace_row(3, prompt="Where <|end|> is it?\n")),
    mutate_data("a key in a text", "D11-secret", _replace_row(3, completion="AKIA" + "ABCDEFGH12345678")),
    mutate_data("a wrong encoding", "D11-mojibake", _replace_row(3, completion="in the cafÃ© at nine")),
    mutate_data("a row of a megabyte", "D11-long", _replace_row(3, prompt="word " * 250_000)),
    mutate_options("half the targets match", "target_modules", {"adapter_target_modules": ["q_proj", "nope"]}, {}),
    mutate_options("only queries and values", "D12", {"adapter_target_modules": ["q_proj", "v_proj"]}, {}),
    Mutation("fused experts", "D13", _check_experts, lambda lab: lab.check()),
    mutate_options("a learning rate of zero", "D14", {"train_learning_rate": 0.0}, {"train_learning_rate": 2e-4}),
    mutate_options(
        "a full fine-tuning's learning rate", "D14", {"train_learning_rate": 2e-5}, {"train_learning_rate": 1e-4}
    ),
    mutate_options("a step of 256 rows", "D14", {"train_gradient_accumulation_steps": 64}, {}),
    mutate_options("a rank of 128", "D14", {"adapter_r": 128}, {"adapter_r": 128, "adapter_use_rslora": True}),
    mutate_options("options the trainer refuses", "build", {"train_eos_token": "<none>"}, {}),
    trained("trained with a rate of zero", "T1", {"train_learning_rate": 0.0}, {"train_learning_rate": 1e-2}, "D14"),
    trained("one module did not move", "T1", {"train_use": "damaged", "train_how": "zero"}, {"train_use": "damaged"}),
    trained("a module is frozen", "T1", {"train_use": "hurt", "train_how": "frozen"}, {"train_use": "hurt"}),
    trained("a NaN in a gradient", "T2", {"train_use": "hurt", "train_how": "nan"}, {"train_use": "hurt"}),
    trained("a learning rate that leaps", "T4", {"train_use": "hurt", "train_how": "leap"}, {"train_use": "hurt"}),
    Mutation(
        "the validation loss rises",
        "T5",
        lambda lab: lab.run(**VALIDATED, files={"validation.jsonl": ODD}),
        lambda lab: lab.run(**VALIDATED, files={"validation.jsonl": ALIKE}),
    ),
    Mutation(
        "a row of the test to validate with",
        "D10-exact",
        lambda lab: lab.check(**VALIDATED, files={"validation.jsonl": [LEAK, *ALIKE]}),
        lambda lab: lab.check(**VALIDATED, files={"validation.jsonl": ALIKE}),
    ),
    trained("a NaN in the adapter", "T2", {"train_use": "damaged", "train_how": "nan"}, {"train_use": "damaged"}),
    Mutation(
        "all weights are trained, and rounding takes most of it",
        "T7",
        lambda lab: _train_in_bfloat16(lab, 2e-6),
        lambda lab: _train_in_bfloat16(lab, 5e-3),
    ),
    trained("half of each lora_B is at its start", "T6", {"train_use": "damaged", "train_how": "slices"}, UNHARMED),
    trained("each tensor of the adapter is empty", "T6", {"train_use": "damaged", "train_how": "empty"}, UNHARMED),
    mutate_sharing("a process gathers its own slices and no other's", "[gathered-slices]", "slices"),
    mutate_sharing("a process gathers empty tensors", "[gathered-slices]", "empty"),
    mutate_sharing("weights that are to be shared are not split", "parameters are split", "whole"),
    trained(
        "a repacked 4-bit weight",
        "T3",
        {"model_use": "repacking", "adapter_use": "qlora"},
        {"model_use": "repacking", "model_repack": False, "adapter_use": "qlora"},
    ),
    trained(
        "an adapter of another base",
        "M1",
        {"train_use": "another_note"},
        {"train_use": "another_note", "train_wrong": False},
    ),
    merge("the merged model is the base", "M2", "base"),
    merge("a tensor was not merged", "M2", "half"),
    merge("a tensor changed that was not trained", "M2", "elsewhere"),
    merge("the merged model was quantised again", "M3", "nf4"),
    merge("flipped bits", "M2-sum", "flips"),
    merge("a NaN in the merged model", "M3-finite", "nan"),
    merge("a lost token", "M4", "tokens"),
    merge("a lost chat template", "M4-template", "template"),
    merge("two token ids swapped", "M4-tokenizer", "ids"),
    merge("a normaliser more", "M4-tokenizer", "normaliser"),
    merge("a template that drops the system's message", "M4-template", "unheard"),
    merge("a line break less before the answer", "M4-template", "line"),
    merge("another epsilon of the norms", "M4-config", "eps"),
    merge("another context", "M4-config", "context"),
    merge("a penalty on repetition", "M4-generation", "penalty"),
    merge("sampling where the base is greedy", "M4-generation", "sampling"),
    merge("no stop token", "M5", "stops"),
    merge("another stop token", "M5", "other stop"),
    Mutation(
        "the end of a turn has never been trained, and is not now",
        "M5-endless",
        lambda lab: _train_turn_ending(lab, trained=False),
        lambda lab: _train_turn_ending(lab, trained=True),
    ),
    merge(
        "the merged model is the base, and the merge sees it", "merge: the merged model equals its base", "base", True
    ),
    merge("quantised again, and the merge sees it", "merge: the merged model differs from the adapter", "nf4", True),
    merge("no stop token, and the merge sees it", "merge: the adapter stops after", "stops", True),
    asked("a number in words", "has no number", "numeric", {"target": "twelve"}, {"target": 12}),
    asked("a call that is no JSON", "is not a tool call", "tool_calls", {"target": "{call"}, {"target": [CALL]}),
    asked("a call of a tool that is not there", "not one of the", "tool_calls", NO_TOOL, {"target": [CALL]}),
    asked("a target that is no JSON", "is not valid JSON", "json", {"target": "{"}, {"target": "{}"}),
    asked("a schema that is none", 'schema "schema.json": is not a valid schema', "json", NO_TYPE, OBJECT),
    asked("a schema on the web", "which it does not contain", "json", ELSEWHERE, OBJECT),
    asked("no earlier answer", "target is missing", "regression", {"target": None}, {"target": "room 12"}),
    Mutation(
        "another pack than the suite's",
        "but the suite pins 0123456789",
        lambda lab: lab.check(more=PINNED.format("0123456789")),
        lambda lab: lab.check(more=PINNED.format("986508c3220a")),
    ),
    Mutation("one answer to all", "E1", lambda lab: lab.fake(0.0), lambda lab: lab.fake(0.9)),
    Mutation(
        "an end of turn that was never trained",
        "D20",
        lambda lab: lab.check(CHAT, _make_chat_eval(), model_path=_make_mute_base(lab)),
        lambda lab: lab.check(
            CHAT, _make_chat_eval(), model_path=_make_mute_base(lab), adapter_modules_to_save=["lm_head"]
        ),
    ),
    Mutation("answers that are cut", "E2", _make_answer_run(cut=2), _make_answer_run(cut=1)),
    Mutation("answers that say nothing", "E3", _make_answer_run(empty=2), _make_answer_run(empty=1)),
    Mutation("prompts that lost their beginning", "E4", _make_answer_run(lost=1), _make_answer_run()),
    Mutation(
        "calls in a form that is not read", "E5", _make_tool_call_run("call:now{}"), _make_tool_call_run("[now()]")
    ),
    Mutation(
        "unread calls in some rows", "E5", _make_tool_call_run("call:now{}", "[now()]"), _make_tool_call_run(CHATTED)
    ),
    Mutation("calls that are cut off", "E5", _make_tool_call_run('{"name":"now","argu'), _make_tool_call_run("never")),
    Mutation(
        "numbers that are matched without their points",
        "D11-punctuation",
        lambda lab: lab.check(ROWS, HALVES, **{"eval_0.ignore_punctuation": True}),
        lambda lab: lab.check(ROWS, HALVES, **{"eval_0.ignore_punctuation": False}),
    ),
    Mutation("a name served by two", "E6", lambda lab: lab.fake(0.8, "a", "b"), lambda lab: lab.fake(0.7, "a")),
    trained(
        "an exported adapter with DoRA",
        "M6",
        {"adapter_use_dora": True, "export_0.use": "adapter", "export_0.from": "adapter"},
        {"adapter_use_rslora": True, "export_0.use": "adapter", "export_0.from": "adapter"},
    ),
]
