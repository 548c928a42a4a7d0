"""`tool_calls`: which calls an answer makes, in every form, and whether they are those that are wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness import Sample, UsageError
from harness.internals import chat
from harness.testing import Project, write_fake
from harness_domain import tool_calls
from harness_domain.calls import Call, parse_calls
from tests.helpers.answers import Says, score_answer

OSLO = Call("weather", {"city": "Oslo", "days": 2})
NOW = Call("now", {})
AS_JSON = '{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}'
AS_XML = "<function=weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>"
LLAMA = '{"name": "weather", "parameters": {"city": "Oslo", "days": 2}}'
OPENAI = json.dumps(
    {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo", "days": 2}'}}
)


@pytest.mark.parametrize(
    ("answer", "form", "calls"),
    [
        (f"<tool_call>\n{AS_JSON}\n</tool_call>", "hermes", [OSLO]),
        (f'I see. <tool_call>{AS_JSON}</tool_call>\n<tool_call>{{"name": "now"}}', "hermes", [OSLO, NOW]),
        (f"<tool_call>\n{AS_XML}\n</tool_call>", "xml", [OSLO]),
        (f"I see.\n\n<tool_call>\n{AS_XML}\n</tool_call>\n<function=now></function>", "xml", [OSLO, NOW]),
        ("<function=now>\n</function>\n</tool_call>", "xml", [NOW]),
        ("<function=f>\n<parameter=x>\n\n a\n b\n\n</parameter>\n</function>", "xml", [Call("f", {"x": "\n a\n b\n"})]),
        (f"[TOOL_CALLS] [{AS_JSON}]", "mistral", [OSLO]),
        ('[TOOL_CALLS]weather[ARGS]{"city": "Oslo", "days": 2}[TOOL_CALLS]now[ARGS]{}', "mistral", [OSLO, NOW]),
        (f"<|python_tag|>{LLAMA}", "llama3", [OSLO]),
        (f'{LLAMA}; {{"name": "now", "parameters": {{}}}}', "llama3", [OSLO, NOW]),
        ('[weather(city="Oslo", days=2), now()]', "python", [OSLO, NOW]),
        ('<|python_tag|>weather(city="Oslo", days=2)', "llama3", [OSLO]),
        (AS_JSON, "json", [OSLO]),
        (f'[{AS_JSON}, {{"name": "now", "arguments": {{}}}}]', "json", [OSLO, NOW]),
        (f"```json\n{AS_JSON}\n```", "json", [OSLO]),
        (f'{{"tool_calls": [{OPENAI}]}}', "json", [OSLO]),
        ("It is cold in Oslo.", "hermes", []),
        ("It is cold in Oslo.", "xml", []),
        ("It is cold in Oslo.", "mistral", []),
        ("It is cold in Oslo.", "llama3", []),
        ("It is cold in Oslo.", "json", []),
        ('{"answer": 42}', "json", []),
        ('{"answer": 42}', "llama3", []),
        ('[weather(city="\\d", days=2)]', "python", [Call("weather", {"city": "\\d", "days": 2})]),
        ("<tool_call>now\n</tool_call>", "glm", [NOW]),
        ("<function=weather>{}</function>", "xml", [Call("weather", {})]),
        ('Here:\n```json\n{"name": "now", "arguments": {}}\n```', "json", [NOW]),
        ('{"name": "now", "arguments": {}}<|eot_id|>', "json", [NOW]),
        ("```tool_code\nprint(now())\n```", "gemma", [NOW]),
        ("<tool_call>[]</tool_call>", "hermes", []),
        ("[1] says it is cold", "mistral", []),
        (f"<tool_call>{AS_JSON}\nLet me know!", "hermes", [OSLO]),
        (f"[TOOL_CALLS][{AS_JSON}] Let me know!", "mistral", [OSLO]),
        ("[TOOL_CALLS]now[ARGS]{} Let me know!", "mistral", [NOW]),
        (f"<|python_tag|>{LLAMA}; {LLAMA}\nLet me know!", "llama3", [OSLO, OSLO]),
        (f"{AS_JSON}\nLet me know!", "json", [OSLO]),
        (f"Here is the call:\n{AS_JSON}\nLet me know!", "json", [OSLO]),
        (f"Here is the call: {AS_JSON}, {AS_JSON}. Let me know!", "json", [OSLO, OSLO]),
        (f"Here are the calls: [{AS_JSON}]", "json", [OSLO]),
        (f"~~~json\n{AS_JSON}\n~~~", "json", [OSLO]),
        (f"```json {AS_JSON}```", "json", [OSLO]),
        (f"The call: `{AS_JSON}`", "json", [OSLO]),
        ('Thought: cold?\nAction: weather\nAction Input: {"city": "Oslo", "days": 2}', "react", [OSLO]),
        ('Action: now\nAction Input:\nObservation: 9\nAction: weather\nAction Input: {"city": "x"}', "react", [NOW]),
        ('Action: `weather`\nAction Input:\n```json\n{"city": "Oslo", "days": 2}\n```', "react", [OSLO]),
        (f"[{AS_JSON}]", "mistral", [OSLO]),
        ("[1] says it is cold", "json", []),
        ("", "json", []),
    ],
)
def test_forms(answer: str, form: str, calls: list[Call]) -> None:
    """Every form is read as such, and "auto" tells which it is."""
    assert parse_calls(answer, form) == calls
    assert parse_calls(answer, "auto", ("weather", "now")) == calls


@pytest.mark.parametrize(
    ("answer", "calls"),
    [
        ('weather(city="Oslo", days=2)\nLet me know!', [OSLO]),
        ('weather(city="Oslo", days=2)\nnow()\nLet me know!', [OSLO, NOW]),
        ('Here is the call: weather(city="Oslo", days=2)', [OSLO]),
        ('Here is the call:\n`weather(city="Oslo", days=2)`\nLet me know (soon)!', [OSLO]),
        ('Sure!\n```python\nweather(city="Oslo", days=2)\n```\nLet me know!', [OSLO]),
        ("The function now returns the time: it is nine.", []),
        ('I could say: {"name": "rain", "arguments": {}}', []),
    ],
)
def test_python_calls_of_known_tools_in_prose(answer: str, calls: list[Call]) -> None:
    """A call of a row's tool is read where it stands in one place of the prose around it."""
    assert parse_calls(answer, "auto", ("weather", "now")) == calls


@pytest.mark.parametrize(
    "answer",
    [
        '<tool_call>{"name": "weather", "arguments": {"city"</tool_call>',
        "<tool_call>weather</tool_call>",
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": [1]}</tool_call>',
        "<tool_call>\n<function=weather>\n<parameter=city>\nOslo",
        "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n</tool_call>",
        "<tool_call>\n<function=weather>\nOslo\n</function>\n</tool_call>",
        "<function=weather>\n<parameter=city>\na\n</parameter><parameter=city>\nb\n</parameter>\n</function>",
        "[TOOL_CALLS] [{]",
        "[TOOL_CALLS]weather",
        '<|python_tag|>{"name": ',
        "<|python_tag|>weather(Oslo)",
        "[weather(**{})]",
        '{"name": "weather", "arguments": {"city": ',
        '{"name": "weather", "arguments": "Oslo"}',
        '{"name": "weather", "arguments": {"a": 1, "a": 2}}',
        "<｜tool▁call▁begin｜>weather<｜tool▁sep｜>{",
        "<|tool_call_begin|>functions.weather:0",
        "commentary to=functions.weather json",
        "call:weather{city:Oslo}",
        '<|tool_call>call:rain{city:<|"|>Oslo<|"|>}<tool_call|>',
        '<minimax:tool_call>\n<invoke name="rain">\n</invoke>\n</minimax:tool_call>',
        '<invoke name="weather"><parameter name="city">Oslo</parameter></invoke>',
        'Action: weather\nAction Input: {"city": "Os',
        "Action: weather\nIt is cold.",
        '{"action": "weather", "action_input": {"city": "Oslo"}}',
        'Sure, {"name": "weather", "arguments": {}} it is',
        'Either: {"name": "weather", "arguments": {"city": "Oslo"}}\nor: {"name": "weather", "arguments": {}}',
        'weather(city="Oslo") returns the weather (in Oslo)',
        'Here: weather(city="Oslo")\nor weather(city="Bergen")',
        '{"weather": {"city": "Oslo"}}',
    ],
)
def test_what_begins_a_call_and_is_none(answer: str) -> None:
    """Half a call is no answer in words: it cannot be read, and is wrong in every metric."""
    with pytest.raises(ValueError):
        parse_calls(answer, "auto", ("weather",))
    for wanted in ([], [{"name": "weather"}]):
        score = score_answer(tool_calls, answer, make_sample(wanted))
        assert set(score.values.values()) == {0.0}
        assert (score.note or "").startswith("cannot be read: ")


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"default": 1}}},
        },
    },
    {"name": "now", "description": "the time"},
]


def make_sample(target: Any, tools: Any = TOOLS) -> Sample:
    """Return a row as collection would make it."""
    messages = chat.join_arguments([{"role": "user", "content": "?"}], {"tools": tools} if tools else {})
    return Sample("x", messages, json.dumps(target) if not isinstance(target, str) else target)


def said(*calls: Call) -> str:
    return json.dumps([{"name": c.name, "arguments": c.arguments} for c in calls]) if calls else "In words."


def test_xml_arguments_have_the_types_of_the_schema() -> None:
    """What a tool's schema calls a string is text, though it reads as a number; all else is JSON where it is some."""
    kinds: dict[str, Any] = {"zip": {"type": "string"}, "unit": {"enum": ["1", "2"]}, "days": {"type": "integer"}}
    tools = [{"name": "at", "parameters": {"properties": kinds}}]
    given = {"zip": "0150", "unit": "2", "days": "3", "wet": "True", "note": "a {", "at": '{"x": [1]}'}
    written = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in given.items())
    wanted = {"zip": "0150", "unit": "2", "days": 3, "wet": True, "note": "a {", "at": {"x": [1]}}
    answer = f"<tool_call>\n<function=at>\n{written}</function>\n</tool_call>"
    score = score_answer(tool_calls, answer, make_sample([{"name": "at", "arguments": wanted}], tools))
    assert score.values["call"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "turn", "texts"),
    [
        ("qwen3_6", "<|im_start|>assistant", False),
        ("glm4moe", "<|assistant|>", False),
        ("lfm2_2_5", "<|im_start|>assistant", False),
        ("gptoss", "<|start|>assistant", False),
        ("deepseekv3", "<｜Assistant｜>", True),
    ],
)
def test_what_templates_write_is_read(template: str, turn: str, texts: bool) -> None:
    """Calls that today's chat templates write are read back as they were, texts with line breaks too."""
    trl = pytest.importorskip("trl")
    source = (Path(trl.__file__).parent / "chat_templates" / f"{template}.jinja").read_text("utf-8")
    calls = [Call("weather", {"city": "Oslo\nS", "days": 2, "wet": False, "at": [1.5, {"x": None}]}), NOW]
    calls = calls[:1] if template == "gptoss" else calls  # which writes one
    made = [{"name": c.name, "arguments": json.dumps(c.arguments) if texts else c.arguments} for c in calls]
    said = {"role": "assistant", "content": None if texts else "", "tool_calls": []}
    said["tool_calls"] = [{"type": "function", "function": one} for one in made]
    tools = [{"type": "function", "function": {"name": "now", "description": "the time", "parameters": {}}}]
    written = compile_template(source).render(messages=[{"role": "user", "content": "?"}, said], tools=tools)
    assert parse_calls(written.rpartition(turn)[2] if texts else written.split(turn)[-1], "auto") == calls


def compile_template(template: str) -> Any:
    """Compile a chat template as transformers does."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    return _compile_jinja_template(template)


PARIS = Call("weather", {"city": "Paris"})


@pytest.mark.parametrize(
    ("made", "wanted", "options", "values"),
    [
        ([PARIS], [PARIS], {}, (1, 1, 1, 1)),
        ([Call("weather", {"days": 1.0, "city": "Paris"})], [PARIS], {}, (1, 1, 1, 1)),
        ([Call("weather", {"city": "Paris", "days": True})], [PARIS], {}, (0, 1, 0, 1)),
        ([Call("weather", {"city": "paris"})], [PARIS], {}, (0, 1, 0, 1)),
        ([Call("weather", {"city": "paris"})], [PARIS], {"ignore": ("city",)}, (1, 1, 1, 1)),
        ([NOW], [PARIS], {}, (0, 0, 0, 1)),
        ([NOW, PARIS], [PARIS, NOW], {}, (1, 1, 1, 1)),
        ([NOW, PARIS], [PARIS, NOW], {"order": True}, (0, 0, 0, 1)),
        ([PARIS, NOW], [PARIS, NOW], {"order": True}, (1, 1, 1, 1)),
        ([PARIS], [PARIS, NOW], {}, (0, 0, 0.5, 1)),
        ([PARIS, PARIS], [PARIS], {}, (0, 0, 1, 1)),
        ([PARIS, OSLO], [OSLO, OSLO], {}, (0, 1, 0.5, 1)),
        ([], [PARIS], {}, (0, 0, 0, 0)),
        ([], [], {}, (1, None, None, 1)),
        ([NOW], [], {}, (0, None, None, 0)),
    ],
)
def test_tool_calls(made: list[Call], wanted: list[Call], options: dict[str, Any], values: tuple[Any, ...]) -> None:
    """Calls count as a whole, names and arguments apart; where none is wanted only these two say something."""
    target = [{"name": c.name, "arguments": c.arguments} for c in wanted]
    score = score_answer(tool_calls, said(*made), make_sample(target), **options)
    found = [score.values[m] if score.weight_of(m) else None for m in ("call", "name", "arguments", "refusal")]
    assert tuple(found) == values


@pytest.mark.parametrize(
    ("target", "tools", "what"),
    [
        ("weather in Oslo", TOOLS, "the target is not a tool call:"),
        ("", TOOLS, "the target is missing; give a list of calls, [] for no call"),
        ([{"arguments": {}}], TOOLS, "has no name"),
        (
            [{"name": "weather", "arguments": [1]}],
            TOOLS,
            'the arguments of "weather" are [1]; they must be an object; give a list',
        ),
        ([{"name": "rain"}], TOOLS, 'the target calls "rain", which is not one of the row\'s tools'),
        ([], [{"description": "nameless"}], "has no name; give {name, description, parameters}"),
        (
            [],
            [{"name": "a", "parameters": {"properties": []}}],
            "has parameters that are not a JSON Schema of an object",
        ),
        ([], [{"name": "a"}, {"name": "a"}], '": two tools have the name "a"'),
    ],
)
def test_rows_that_are_none(target: Any, tools: Any, what: str) -> None:
    """A target that is no call, and tools that are none, are refused with their row."""
    with pytest.raises(UsageError, match='row "x": ') as error:
        score_answer(tool_calls, "", make_sample(target, tools))
    assert what in str(error.value)


class Renders(Says):
    """A model whose chat template writes tools, or leaves them out."""

    writes: bool

    def render(self, messages: list[dict[str, Any]]) -> str:
        turns, given = chat.split_arguments(messages)
        return json.dumps([turns, given.get("tools") if self.writes else None])


@pytest.mark.parametrize("writes", [True, False])
def test_a_template_that_leaves_tools_out(writes: bool) -> None:
    """Tools that the model never sees are a mistake, and no failure of the model."""
    model = Renders(said(NOW))
    model.writes = writes
    if writes:
        assert next(tool_calls(model, [make_sample([{"name": "now"}])])).values["call"] == 1
        return
    with pytest.raises(UsageError, match="the chat template renders the same text with and without the tools"):
        next(tool_calls(model, [make_sample([{"name": "now"}])]))


@pytest.mark.parametrize(
    "answer", ["The weather (in Oslo) is fine.", "weather < 5", "I have no weather(s).", '{"a": 1}']
)
def test_a_tools_name_in_words_is_no_call(answer: str) -> None:
    """A refusal may speak of a tool."""
    assert score_answer(tool_calls, answer, make_sample([])).values["refusal"] == 1


EVAL = """
[suite]
name = "t"

[model]
use = "fake"
path = "base"

[[eval]]
name = "calls"
use = "tool_calls"
data = "test.jsonl"
max_new_tokens = 40
"""
ASKED = {"role": "user", "content": 'q say {"name":"now","arguments":{}}'}
CALLS = [{"type": "function", "function": {"name": "now", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("row", "wanted", "call"),
    [
        ({"messages": [ASKED], "target": [{"name": "now", "arguments": {}}]}, '[{"name": "now", "arguments": {}}]', 1),
        ({"messages": [ASKED], "target": '[{"name": "now"}]'}, '[{"name": "now"}]', 1),
        ({"messages": [ASKED, {"role": "assistant", "content": None, "tool_calls": CALLS}]}, json.dumps(CALLS), 1),
        ({"messages": [ASKED], "target": []}, "[]", 0),
        ({"messages": [ASKED, {"role": "assistant", "content": "It is noon."}]}, "It is noon.", 0),
        ({"input": "in text say nothing", "target": {"name": "now"}}, '{"name": "now"}', 0),
    ],
)
def test_rows(project: Project, row: dict[str, Any], wanted: str, call: int) -> None:
    """Rows are accepted as people have them: with a target, as JSON or its text, or as the chat that is trained on."""
    tools = {"tools": TOOLS} if "messages" in row else {}
    write_fake(project.folder / "base", 1.0)  # says the last word of every prompt
    project.write({"suite.toml": EVAL, "test.jsonl": [row | tools]})
    done = project.run()
    assert done.report.results[0].metrics["call"] == call
    [line] = next((done.folder / "reports").glob("*/base/samples_calls_*.jsonl")).read_text("utf-8").splitlines()
    assert json.loads(line)["target"] == wanted


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"messages": [ASKED], "target": "call now"}, "the target is not a tool call:"),
        (
            {"messages": [ASKED], "target": None},
            "the target is missing; give a list of calls, [] for no call",
        ),
        (
            {"messages": [ASKED], "target": [{"name": "now"}], "tools": [{"name": "never"}]},
            "\", which is not one of the row's tools",
        ),
        (
            {"messages": [ASKED], "target": [], "tools": "now"},
            'as its "tools"; give a list of objects, or drop the column',
        ),
        ({"messages": "now?", "target": []}, 'no column "input"'),
        ({"input": "now?", "target": [], "tools": TOOLS}, 'has "tools" for a chat template, but the input is text'),
        ({"messages": [ASKED], "target": [5]}, "5 is not a call, which is an object with a name and arguments"),
    ],
)
def test_mistakes_are_told_at_collection(project: Project, row: dict[str, Any], what: str) -> None:
    """A row that is wrong is one line, before anything is opened."""
    project.write({"suite.toml": EVAL, "test.jsonl": [row]})
    done = project.run("--collect-only")
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert what in done.err
