"""`harness init --data` on the layouts of the field, in every format: nothing silent, and a suite that fits."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from harness.data.layouts import find_layout
from harness.pipeline.run import Options, prepare_collection

Row = dict[str, Any]
Init = Callable[..., tuple[int, str]]
THINGS = ["parcel", "invoice", "refund", "password", "courier", "voucher", "zip", "profile", "card", "receipt"]
VERBS = ["broke", "moved", "failed", "stalled", "leaked", "opened", "cracked", "vanished", "changed", "melted"]
ROWS = 300


def asked(i: int) -> str:
    thing, verb = THINGS[i % 10], VERBS[i // 10 % 10]
    return f"the {thing} of {verb} house {i} with {THINGS[i * 7 % 9]} w{i * 31 % 97} x{i * 17 % 89}"


def answered(i: int) -> str:
    return f"{VERBS[i % 7]} {THINGS[i % 10]} {i % 50}"


def options(i: int) -> list[str]:
    return [f"{VERBS[(i + k) % 10]} {THINGS[(i + k) % 10]} {i % 89}" for k in range(4)]


def turns(i: int) -> list[Row]:
    return [{"role": "user", "content": asked(i)}, {"role": "assistant", "content": answered(i)}]


def make_sharegpt_turns(i: int) -> list[Row]:
    return [{"from": "human", "value": asked(i)}, {"from": "gpt", "value": answered(i)}]


def said(text: str) -> list[Row]:
    return [{"role": "assistant", "content": text}]


LAYOUTS: dict[str, tuple[Callable[[int], Row], str, str]] = {  # a row, what is said, what the suite contains
    "alpaca": (
        lambda i: {"instruction": f"Tell me about {asked(i)}", "input": asked(i + 500) if i % 2 else "",
                   "output": answered(i)},
        'layout: Alpaca (instruction, input → output)', 'use = "exact_match"',
    ),
    "dolly": (
        lambda i: {"instruction": asked(i), "context": "", "response": answered(i), "category": THINGS[i % 3]},
        'layout: Alpaca (instruction, context → response)', 'use = "exact_match"',
    ),
    "mmlu": (
        lambda i: {"question": asked(i), "choices": options(i), "answer": i % 4, "subject": "none"},
        'layout: multiple choice; prompt "question", choices "choices", answer "answer"', 'use = "multiple_choice"',
    ),
    "arc": (
        lambda i: {"question": asked(i), "choices": {"text": options(i), "label": [*"ABCD"]},
                   "answerKey": "ABCD"[i % 4]},
        'layout: multiple choice; prompt "question", choices "choices", answer "answerKey"', 'use = "multiple_choice"',
    ),
    "race": (
        lambda i: {"article": f"Once {asked(i + 900)}.", "question": asked(i), "options": options(i),
                   "answer": "ABCD"[i % 4]},
        'layout: multiple choice; prompt "article", "question", choices "options"', 'use = "multiple_choice"',
    ),
    "hellaswag": (
        lambda i: {"ctx": f"Then {asked(i)}", "endings": options(i), "label": str(i % 4)},
        'layout: multiple choice; prompt "ctx", choices "endings", answer "label"', 'use = "multiple_choice"',
    ),
    "piqa": (
        lambda i: {"goal": asked(i), "sol1": options(i)[0], "sol2": options(i)[1], "label": i % 2},
        'layout: multiple choice; prompt "goal", choices "sol1", "sol2", answer "label"', 'use = "multiple_choice"',
    ),
    "medqa": (
        lambda i: {"question": asked(i), "options": dict(zip("ABCD", options(i), strict=True)),
                   "answer": options(i)[i % 4], "answer_idx": "ABCD"[i % 4]},
        'layout: multiple choice; prompt "question", choices "options", answer "answer"', 'use = "multiple_choice"',
    ),
    "gsm8k": (
        lambda i: {"question": asked(i), "answer": f"{i} and {i}000 are {i * 1001}.\n#### {i * 1001:,}"},
        'answers: numbers after "####", by correct', 'use = "numeric"',
    ),
    "squad": (
        lambda i: {"context": f"It is {asked(i // 3)}.", "question": f"What of {asked(i)}?",
                   "answers": {"text": [answered(i), f"it {answered(i)}", answered(i)], "answer_start": [0, 3, 0]}},
        "accepted: any of several answers in 300 rows, of which the first is trained on", "exact_match",
    ),
    "sharegpt": (
        lambda i: {"conversations": make_sharegpt_turns(i)}, 'layout: ShareGPT; messages "conversations"',
        "exact_match",
    ),
    "messages": (lambda i: {"messages": turns(i)}, 'layout: messages; messages "messages"', "exact_match"),
    "long answers": (
        lambda i: {"messages": [*turns(i)[:1], *said(" ".join(answered(i + j) for j in range(20)))]},
        "answers: texts, by perplexity", 'of = "completion"',
    ),
    "prompt and completion": (
        lambda i: {"prompt": asked(i), "completion": answered(i)}, "layout: prompt and completion", "exact_match",
    ),
    "chat prompt and completion": (
        lambda i: {"prompt": turns(i)[:1], "completion": turns(i)[1:]}, "layout: prompt and completion", "exact_match",
    ),
    "preference": (
        lambda i: {"prompt": asked(i), "chosen": answered(i), "rejected": answered(i + 1)},
        "layout: preference pairs", 'use = "dpo"',
    ),
    "chat preference": (
        lambda i: {"chosen": turns(i), "rejected": turns(i)[:1] + said(answered(i + 1))},
        "layout: preference pairs", 'use = "preference"',
    ),
    "sharegpt preference": (
        lambda i: {"conversations": make_sharegpt_turns(i)[:1], "chosen": {"from": "gpt", "value": answered(i)},
                   "rejected": {"from": "gpt", "value": answered(i + 1)}},
        "layout: preference pairs", 'use = "dpo"',
    ),
    "system, context, question, answer": (
        lambda i: {"system": f"You are {THINGS[i % 3]}.", "context": f"In {asked(i)}.",
                   "question": f"What about {asked(i)}?", "answer": answered(i)},
        "layout: system, context, question → answer", "exact_match",
    ),
    "context and question": (
        lambda i: {"context": f"It is {asked(i // 3)}.", "question": f"What of {asked(i)}?", "answer": answered(i)},
        'input: "context", "question", by their names', 'cluster = "context"',
    ),
    "premise and hypothesis": (
        lambda i: {"premise": f"So {asked(i)}.", "hypothesis": f"Thus {asked(i + 900)}.", "label": i % 3},
        'input: "premise", "hypothesis", by their names', 'choices = ["0", "1", "2"]',
    ),
    "classification": (
        lambda i: {"text": asked(i), "label": "spam" if i % 33 == 0 else "ham"},
        'majority class "ham": 97.0% of the rows that confirm', 'use = "multiple_choice"',
    ),
    "text in a column of that name": (
        lambda i: {"conversation": f"[Customer] {asked(i)}", "label": "ab"[i % 2]}, 'input: "conversation", ',
        'template = "Conversation: {conversation}',
    ),
    "question and answer": (
        lambda i: {"question": f"What of {asked(i)}?", "answer": answered(i)}, 'label: "answer", by its name',
        "exact_match",
    ),
}  # fmt: skip


def encode_csv(rows: list[Row], separator: str = ",") -> bytes:
    made = io.StringIO(newline="")
    writer = csv.writer(made, delimiter=separator)
    writer.writerow(rows[0])
    writer.writerows([json.dumps(v) if isinstance(v, (list, dict)) else v for v in row.values()] for row in rows)
    return made.getvalue().encode()


def encode_workbook(rows: list[Row]) -> bytes:
    book = pytest.importorskip("openpyxl").Workbook(write_only=True)
    sheet = book.create_sheet()
    sheet.append([*rows[0]])
    for row in rows:
        sheet.append([json.dumps(v) if isinstance(v, (list, dict)) else v for v in row.values()])
    made = io.BytesIO()
    book.save(made)
    return made.getvalue()


def encode_arrow(rows: list[Row], *, parquet: bool) -> bytes:
    pyarrow, made = pytest.importorskip("pyarrow"), io.BytesIO()
    table = pyarrow.Table.from_pylist(rows)
    if parquet:
        pytest.importorskip("pyarrow.parquet").write_table(table, made)
        return made.getvalue()
    with pyarrow.ipc.new_file(made, table.schema) as writer:
        writer.write_table(table)
    return made.getvalue()


FORMATS: dict[str, Callable[[list[Row]], bytes]] = {
    "a.jsonl": lambda rows: "\n".join(map(json.dumps, rows)).encode(),
    "a.json": lambda rows: json.dumps(rows).encode(),
    "split.json": lambda rows: json.dumps({"columns": [*rows[0]], "data": [[*r.values()] for r in rows]}).encode(),
    "a.csv": encode_csv,
    "a.tsv": lambda rows: encode_csv(rows, "\t"),
    "a.xlsx": encode_workbook,
    "a.parquet": lambda rows: encode_arrow(rows, parquet=True),
    "a.arrow": lambda rows: encode_arrow(rows, parquet=False),
    "a.jsonl.gz": lambda rows: gzip.compress("\n".join(map(json.dumps, rows)).encode()),
}


@pytest.fixture
def init(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Init:
    """Run `harness init mine --data NAME` on a file of this content; returns the exit code and what was said."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, content: bytes, *options: str) -> tuple[int, str]:
        Path(name).write_bytes(content)
        code = main(["init", "mine", "--data", name, *options])
        return code, capsys.readouterr().err

    return run


def encode_jsonl(rows: list[Row]) -> bytes:
    return FORMATS["a.jsonl"](rows)


def read_parts() -> dict[str, list[Row]]:
    files = sorted(Path("mine/data").glob("*.jsonl"))
    return {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in files}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_in_each_format_becomes_a_suite(layout: str, name: str, init: Init) -> None:
    """One command in under ten seconds: the layout is said, an unused column is named, and the suite collects."""
    make, what, contains = LAYOUTS[layout]
    rows = [{**make(i), "source": f"page {i % 5}"} for i in range(ROWS)]
    start = time.process_time()  # of this process, however busy the machine is
    code, told = init(name, FORMATS[name](rows))
    assert (code, time.process_time() - start < 10) == (0, True), told
    assert what in told and "not used:" in told and '"source"' in told, told
    suite = Path("mine/suite.toml").read_text()
    assert contains in suite, suite
    assert prepare_collection(Path("mine/suite.toml"), Options()).warnings == ()
    assert sum(map(len, read_parts().values())) > 0.9 * ROWS


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
@pytest.mark.parametrize("layout", [*LAYOUTS])
def test_each_suite_passes_the_checks(layout: str, init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` finds no error and no warning in what was written, on a model with a chat template."""
    monkeypatch.setenv("HARNESS_CACHE", str(Path("cache").resolve()))
    assert init("a.jsonl", encode_jsonl([LAYOUTS[layout][0](i) for i in range(ROWS)]), "--model", "tiny:chat")[0] == 0
    assert main(["check", "mine/suite.toml"]) == 0


def test_alpaca_keeps_instruction_and_input(init: Init) -> None:
    """What is asked is the instruction, then its input on a line of its own, also where inputs are empty."""
    make = LAYOUTS["alpaca"][0]
    init("a.jsonl", encode_jsonl([make(i) for i in range(ROWS)]))
    rows = {row["id"]: row["messages"] for part in read_parts().values() for row in part}
    for i in (0, 1):
        want = "\n".join(filter(None, [make(i)["instruction"], make(i)["input"]]))
        assert rows[i + 1] == [{"role": "user", "content": want}, {"role": "assistant", "content": answered(i)}]


def test_system_prompts_history_and_tools_are_kept(init: Init) -> None:
    """A column of system prompts becomes the first message, earlier turns come before the question."""
    rows = [{"instruction": asked(i), "output": answered(i), "system": "Be brief.", "history": [["a", "b"]]}
            for i in range(ROWS)]  # fmt: skip
    assert init("a.jsonl", encode_jsonl(rows))[0] == 0
    first = read_parts()["train"][0]["messages"]
    assert [m["role"] for m in first] == ["system", "user", "assistant", "user", "assistant"]


@pytest.mark.parametrize("layout", ["messages", "question", "preference"])
def test_one_question_under_several_system_messages_is_in_one_part(layout: str, init: Init) -> None:
    """Rows that differ in their system message alone stay together, and none is left out."""

    def make(i: int, system: str) -> Row:
        question, answer = f"What of {asked(i)}?", answered(i)
        if layout == "messages":
            before = [{"role": "system", "content": system}, {"role": "user", "content": question}]
            return {"messages": [*before, *said(answer)]}
        answers = {"chosen": answer, "rejected": "no"} if layout == "preference" else {"answer": answer}
        return {"system": system, "question": question, **answers}

    rows = [make(i, system) for i in range(100) for system in ("Be brief.", "Answer as a pirate does.", "Rhyme.")]
    code, told = init("a.jsonl", encode_jsonl(rows))
    parts = [{w for w in json.dumps(part).split() if w.isdigit()} for part in read_parts().values()]
    assert (code, sum(map(len, read_parts().values()))) == (0, 300), told
    assert sum(map(len, parts)) == len(set.union(*parts)) == 100


def test_documents_in_system_messages_are_split(init: Init) -> None:
    """A few questions about many documents are split by document."""
    rows = [{"system": f"The bill says: {asked(i)}.", "question": f"What of {i % 3}?", "answer": answered(i)}
            for i in range(ROWS)]  # fmt: skip
    assert init("a.jsonl", encode_jsonl(rows))[0] == 0
    assert sum(map(len, read_parts().values())) == ROWS


@pytest.mark.parametrize(
    ("history", "roles"),
    [
        (None, []),
        (float("nan"), []),
        ("", []),
        ("[]", []),
        ([["a", "b"]], ["user", "assistant"]),
        ('[["a", "b"]]', ["user", "assistant"]),
        (turns(1), ["user", "assistant"]),
        (json.dumps(make_sharegpt_turns(1)), ["user", "assistant"]),
    ],
)
def test_a_history_of_each_form_is_kept(history: object, roles: list[str]) -> None:
    """Pairs and messages become earlier turns, and an empty history is none."""
    layout = find_layout([{"instruction": "c", "output": "d", "history": history}])
    assert layout
    assert [m["role"] for m in layout.rows[0]["messages"]] == [*roles, "user", "assistant"]


@pytest.mark.parametrize("prompt", ["prompt", "conversations", "chosen"])
def test_a_system_column_is_the_first_message_of_a_pair(prompt: str) -> None:
    """A system text stands before messages as a message, whichever column holds these."""
    asks = make_sharegpt_turns(1)[:1] if prompt == "conversations" else turns(1)[:1]
    pair = {name: said(name) for name in ("chosen", "rejected")}
    row = {prompt: asks, **pair} if prompt != "chosen" else {name: asks + said(name) for name in pair}
    layout = find_layout([{"system": "Be brief.", **row}])
    assert layout
    assert layout.rows[0] == {"prompt": [{"role": "system", "content": "Be brief."}, *turns(1)[:1]], **pair}
    assert "system" in layout.used


@pytest.mark.parametrize("layout", ["messages", "chat prompt and completion", "chat preference"])
def test_template_arguments_of_a_row_are_kept(layout: str) -> None:
    """Tools and chat_template_kwargs stay beside messages, as objects or as JSON."""
    tools, arguments = [{"name": "f"}], {"enable_thinking": False}
    row = {**LAYOUTS[layout][0](1), "tools": json.dumps(tools), "chat_template_kwargs": arguments}
    found = find_layout([row])
    assert found
    assert (found.rows[0]["tools"], found.rows[0]["chat_template_kwargs"]) == (tools, arguments)
    assert found.used >= {"tools", "chat_template_kwargs"}


@pytest.mark.parametrize("key", ["thinking", "reasoning_content", "reasoning"])
def test_thoughts_of_a_message_are_kept(key: str) -> None:
    """The thought before an answer stays in its message."""
    layout = find_layout([{"messages": [*turns(1)[:1], {**turns(1)[1], key: "hm"}]}])
    assert layout
    assert layout.rows[0]["messages"][1] == {**turns(1)[1], key: "hm"}


def test_what_is_left_out_is_named_though_it_is_constant(init: Init) -> None:
    """A column with one value may be a system prompt, and a key of messages a mask."""
    rows = [
        {"messages": [*turns(i)[:1], {**turns(i)[1], "loss": True, "id": None}], "preamble": "Rhyme.", "kind": ""}
        for i in range(ROWS)
    ]
    code, told = init("a.jsonl", encode_jsonl(rows))
    assert code == 0
    assert 'not used: "preamble"\n' in told, told
    assert 'not used in messages: "loss"\n' in told, told


@pytest.mark.parametrize("label", [True, "True", 1, 0])
def test_the_accepted_rows_of_kto_can_be_used(label: object) -> None:
    """Rows that all have a true label are rows to learn from."""
    rows: list[Row] = [{"prompt": asked(i), "completion": answered(i), "label": label} for i in range(9)]
    assert find_layout(rows)
    assert find_layout([{"messages": turns(i), "label": i} for i in range(2)])


@pytest.mark.parametrize(
    ("one", "other"),
    [("How much is 3²", "How much is 32"), ("Is a uppercase", "Is A uppercase"), ("a\u0301", "a\u0301\u200b")],
)
def test_rows_that_differ_in_a_letter_are_kept(one: str, other: str, init: Init) -> None:
    """Inputs that differ in case or in a compatible character are different rows, in one part."""
    rows = [{"text": f"{text} {asked(i)}", "label": label} for i in range(100)
            for text, label in ((one, "yes"), (other, "no"))]  # fmt: skip
    code, told = init("a.jsonl", encode_jsonl(rows))
    assert (code, "left out" in told) == (0, False), told
    houses = [{row["text"].partition("house")[2].split()[0] for row in part} for part in read_parts().values()]
    assert sum(map(len, houses)) == len(set.union(*houses)) == 100


def test_a_row_without_a_label_costs_no_other(init: Init) -> None:
    """A row that is left out is no earlier row of its question."""
    rows = [{"text": asked(i), "label": label} for i in range(100) for label in ("", "ab"[i % 2])]
    assert init("a.jsonl", encode_jsonl(rows))[0] == 0
    assert sum(map(len, read_parts().values())) == 100


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (said("hello"), "1 that begin with the assistant"),
        (turns(1)[:1], "1 with two successive messages of one role"),
        ([*turns(1), {"role": "system", "content": "Be brief."}], "1 with a system message that is not the first"),
    ],
)
def test_chats_out_of_order_are_left_out(first: list[Row], told: str, init: Init) -> None:
    """A chat that D11 would refuse is left out and counted."""
    rows = [{"messages": [*(first if i == 5 else turns(i + 500)), *turns(i)]} for i in range(ROWS)]
    code, err = init("a.jsonl", encode_jsonl(rows))
    assert (code, f"left out: {told}\n" in err) == (0, True), err
    assert "learnt" not in err


def test_a_row_is_named_by_its_id(init: Init) -> None:
    """What the draft refuses is a row of the table, and no temporary file."""
    rows = [{"id": f"n{i}", "image": asked(i), "label": "ab"[i % 2]} for i in range(ROWS)]
    code, told = init("a.jsonl", encode_jsonl(rows), "--input", "image")
    assert code == 4 and re.search('^error: a.jsonl: the row with the id "n[0-9]+" has "image", which', told), told
    assert "suite.toml" not in told and "/" not in told


def test_images_are_left_out(init: Init) -> None:
    """A column of images is not used, and a row with an image is left out and counted."""
    rows = [{"messages": turns(i), "image": f"{i}.png"} for i in range(ROWS)]
    rows[7]["messages"] = [{"role": "user", "content": [{"type": "text", "text": "hi"}, IMAGE]}, *turns(7)[1:]]
    code, told = init("a.jsonl", encode_jsonl(rows))
    assert (code, 'left out: 1 with a part of type "image_url", but only' in told) == (0, True), told
    assert 'not used: "image"' in told


def test_transcripts_of_hh_rlhf_share_their_prompt() -> None:
    """The prompt of two transcripts ends with the last speaker that both have."""
    texts = (f"\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: {answer}" for answer in ("yes", "yet no"))
    layout = find_layout([dict(zip(("chosen", "rejected"), texts, strict=True))])
    assert layout and layout.rows[0] == {
        "prompt": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", "chosen": "yes", "rejected": "yet no",
    }  # fmt: skip


GROUPS: dict[str, tuple[str, Callable[[int], Row]]] = {  # the group, a row
    "id": ("id", lambda i: {"id": f"u{i // 5}", "text": asked(i), "label": "ab"[i % 2]}),
    "choices": ("choices", lambda i: {"choices": f"u{i // 5}", "text": asked(i), "label": "ab"[i % 2]}),
    "an input": (
        "input", lambda i: {"instruction": asked(i), "input": asked(i // 5), "output": answered(i), "group": i}
    ),
    "a target": ("target", lambda i: {"target": f"u{i // 5}", "messages": turns(i)}),
    "a text": ("text", lambda i: {"text": f"u{i // 5}", "messages": turns(i)}),
    "a question": (
        "question", lambda i: {"prompt": asked(i), "question": f"u{i // 5}", "chosen": answered(i), "rejected": "b"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GROUPS)
def test_a_group_has_a_name_that_means_nothing_else(case: str, init: Init) -> None:
    """A group column keeps its values, and no row gets a second reading."""
    group, make = GROUPS[case]
    rows = [make(i) for i in range(ROWS)]
    code, told = init("a.jsonl", encode_jsonl(rows), "--group", group)
    assert code == 0, told
    suite = prepare_collection(Path("mine/suite.toml"), Options()).suite
    assert suite.train and suite.train.cluster == suite.evals[0].cluster
    cluster = str(suite.train.cluster)
    assert cluster.startswith("group") and f', written as "{cluster}"' in told, told
    parts = [{row[cluster] for row in part} for part in read_parts().values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) > 50
    assert {str(row[group]) for row in rows} >= set.union(*parts)


JSON_TEXT = '{"price": 1.10,  "ok": true, "x": null, "of": [1, 2]}'
JSON_ROWS: dict[str, tuple[Row, Row]] = {  # a row of a file, what is written of it
    "a completion": ({"prompt": "a", "completion": JSON_TEXT}, {"completion": JSON_TEXT}),
    "a prompt": ({"prompt": JSON_TEXT, "completion": "a"}, {"prompt": JSON_TEXT}),
    "a list": ({"prompt": "a", "completion": "[1, 2]"}, {"completion": "[1, 2]"}),
    "a chosen answer": ({"prompt": "a", "chosen": JSON_TEXT, "rejected": "b"}, {"chosen": JSON_TEXT}),
    "an object": (
        {"instruction": "a", "output": {"ok": True, "x": None}},
        {"messages": [{"role": "user", "content": "a"}, *said('{"ok": true, "x": null}')]},
    ),
    "a list of objects": (
        {"prompt": "a", "completion": [{"from": "Köln", "n": 1}]}, {"completion": '[{"from": "Köln", "n": 1}]'},
    ),
    "an object as content": (
        {"messages": [*turns(0)[:1], {"role": "assistant", "content": {"ok": True}}]},
        {"messages": [*turns(0)[:1], *said('{"ok": true}')]},
    ),
    "truth": ({"prompt": "a", "completion": True}, {"completion": "true"}),
}  # fmt: skip


@pytest.mark.parametrize("case", JSON_ROWS)
def test_json_stays_json(case: str) -> None:
    """Texts in JSON stay unchanged, and objects become JSON."""
    given, want = JSON_ROWS[case]
    layout = find_layout([given, given])
    assert layout
    assert layout.rows[0].items() >= want.items(), layout.rows[0]


def test_several_inputs_are_named_with_a_comma(init: Init) -> None:
    """`--input A,B` asks both columns in this order, and a column that is missing is named."""
    content = encode_jsonl([{"a": asked(i), "b": asked(i + 700), "c": answered(i)} for i in range(ROWS)])
    code, told = init("a.jsonl", content, "--input", "b,x", "--label", "c")
    assert (code, '--input "x": column does not exist' in told) == (4, True)
    code, told = init("a.jsonl", content, "--input", "b,a", "--label", "c")
    assert (code, 'input: "b", "a", as given' in told) == (0, True), told
    assert 'template = "B: {b}\\nA: {a}\\nC:"' in Path("mine/suite.toml").read_text()


@pytest.mark.parametrize("rare", [0.03, 0.01])
def test_rare_labels_are_in_every_part(rare: float, init: Init) -> None:
    """Labels have their shares of every part, a rare one at least a row."""
    every = round(1 / rare)
    init(
        "a.jsonl",
        encode_jsonl([{"text": asked(i), "label": "rare" if i % every == 0 else "usual"} for i in range(900)]),
    )
    parts = read_parts()
    counts = {name: sum(row["label"] == "rare" for row in part) for name, part in parts.items()}
    assert min(counts.values()) >= 1
    assert all(abs(n - rare * len(parts[name])) <= 1.5 for name, n in counts.items())


def test_what_cannot_be_proved_is_said(init: Init) -> None:
    """With 99 % of one label even all rows right are not better than it, and too rare a label is in no part."""
    rows = [{"text": asked(i), "label": "rare" if i < 4 else "other" if i < 6 else "usual"} for i in range(ROWS)]
    code, told = init("a.jsonl", encode_jsonl(rows))
    assert code == 0 and "nothing can be proved: even 100 right of 100 rows are not more than" in told, told
    assert 'select has no row with "other" (2 in all); it proves nothing about such rows' in told, told


def test_labels_that_may_be_mistakes_are_said(init: Init) -> None:
    """Spellings that count as one, labels that look like a missing value, and ids that repeat are each a line."""
    labels = itertools.cycle(["Pos", "pos", "neg", "None"])
    rows = [{"id": i // 2, "text": asked(i), "label": next(labels)} for i in range(ROWS)]
    code, told = init("a.jsonl", encode_jsonl(rows))
    assert code == 0, told
    assert 'labels that differ only in case count as one: "pos" as "Pos"' in told
    assert 'the label "None" may be a missing value' in told
    assert 'id: row numbers, since "id" is empty or repeated in some rows' in told


@pytest.mark.parametrize(("encoding", "text"), [("cp1256", "منتج جيد"), ("cp1251", "товар")])
def test_a_doubtful_encoding_is_refused(encoding: str, text: str, init: Init) -> None:
    """Of a few letters the encoding is asked for, with what is likely, and taken as given."""
    content = "".join(f"{text} hotel bravo golf {i},{'ab'[i % 2]}\n" for i in range(200))
    code, told = init("a.csv", f"text,label\n{content}".encode(encoding))
    assert code == 4 and f'its encoding may be "{encoding}" ("{text.split()[0]}") or' in told, told
    assert "; name it with --encoding" in told
    code, told = init("a.csv", f"text,label\n{content}".encode(encoding), "--encoding", encoding)
    assert code == 0, told


def test_one_label_in_two_unicode_forms_is_one(init: Init) -> None:
    """A composed and a decomposed spelling are one choice, and a line names them."""
    labels = itertools.cycle(["caf\u00e9", "caf\u00e9", "cafe\u0301", "bar"])
    code, told = init("a.jsonl", encode_jsonl([{"text": asked(i), "label": next(labels)} for i in range(ROWS)]))
    assert (code, 'choices: "bar", "caf\u00e9"\n' in told) == (0, True), told
    assert "labels that differ only in Unicode form count as one: " in told
    assert {row["label"] for part in read_parts().values() for row in part} == {"bar", "caf\u00e9"}


def test_float_ids_are_numbers(init: Init) -> None:
    """An id that a table made a float is the number that it was."""
    init("a.jsonl", encode_jsonl([{"id": float(i), "question": asked(i), "answer": answered(i)} for i in range(ROWS)]))
    assert all("." not in str(row["id"]) for part in read_parts().values() for row in part)


def test_ten_thousand_columns_are_read(init: Init) -> None:
    """A wide table takes seconds, and its unused columns are counted."""
    rows = [{"text": asked(i), "label": "ab"[i % 2], **{f"c{j}": i * j % 7 for j in range(10_000)}} for i in range(80)]
    start = time.process_time()  # of this process, however busy the machine is
    code, told = init("a.csv", encode_csv(rows))
    assert (code, time.process_time() - start < 10) == (0, True), told
    assert 'not used: "c0", "c1"' in told and ', "c9" and 9,990 more' in told, told


IMAGE = {"type": "image_url", "image_url": {"url": "http://x"}}
WRONG: dict[str, tuple[Callable[[int], Row], str]] = {
    "unknown speaker": (
        lambda i: {"conversations": [{"from": "narrator", "value": "x"}]},
        'row 1 has a turn from "narrator", which is unknown',
    ),
    "no speaker": (lambda i: {"messages": [{"text": "x"}]}, 'row 1 has a turn without "role" or "from"; give a list'),
    "text as messages": (lambda i: {"messages": asked(i)}, "as its conversation; give a list of messages with role"),
    "pairs without a prompt": (
        lambda i: {"chosen": asked(i), "rejected": answered(i)},
        "300 without a prompt, which belongs in a column or as messages into chosen and rejected",
    ),
    "equal pairs": (
        lambda i: {"prompt": asked(i), "chosen": "a", "rejected": "a"}, "whose chosen and rejected answers are equal",
    ),
    "tool calls": (
        lambda i: {"messages": [*turns(i)[:1], {"role": "assistant", "content": "", "tool_calls": [{}]}]},
        "with a call of a tool without a name",
    ),
    "mixed prompts": (
        lambda i: {"prompt": turns(i)[:1] if i else asked(i), "completion": answered(i)}, "use one form for all",
    ),
    "history in text": (
        lambda i: {"instruction": asked(i), "output": answered(i), "history": "User: a"},
        'row 1 has "User: a" as its history; give [[question, answer], ...] or messages',
    ),
    "history in numbers": (
        lambda i: {"instruction": asked(i), "output": answered(i), "history": 5}, 'row 1 has "5" as its history; give',
    ),
    "tools in text": (
        lambda i: {"messages": turns(i), "tools": "search"}, 'row 1 has "search" as its tools; give a list of objects',
    ),
    "images alone": (
        lambda i: {"messages": [{"role": "user", "content": [IMAGE]}, *turns(i)[1:]]},
        'no row can be used: 300 with a part of type "image_url", but only text is trained on; correct the rows',
    ),
    "mixed pairs": (
        lambda i: {"prompt": asked(i), "chosen": said("a") if i else "a", "rejected": "b"},
        "row 2 has messages as its answers, and row 1 has text; use one form for all",
    ),
    "an empty turn": (
        lambda i: {"id": f"n{i}", "messages": [*turns(i)[:1], {"role": "user", "content": None}, *turns(i)[1:]]},
        "300 with a message without content; correct the rows",
    ),
    "messages as Python writes them": (
        lambda i: {"messages": str(turns(i)), "label": "a"}, "as its conversation; give a list of messages with role",
    ),
    "one column": (lambda i: {"text": asked(i)}, 'its columns are "text"; an input column and another column'),
    "objects": (lambda i: {"question": asked(i), "answer": {"text": "x"}}, 'column "answer" contains '),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_layout_that_cannot_be_used_is_one_line(case: str, init: Init) -> None:
    """The line names what is wrong with the row or the column, and nothing is written."""
    make, what = WRONG[case]
    code, told = init("a.jsonl", encode_jsonl([make(i) for i in range(ROWS)]))
    assert (code, what in told, told.count("\n"), Path("mine").exists()) == (4, True, 1, False), told
