"""Parsers of tool calls, in the formats of current open models."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from harness_domain import values

TAGGED_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
MISTRAL, PYTHON = "[TOOL_CALLS]", "<|python_tag|>"
NAMED_CALL = re.compile(r"\s*(?:\[TOOL_CALLS\])?\s*([\w.-]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?(?:\[ARGS\])?\s*(?=\{)")
XML = re.compile(r"<function=([^>\n]+)>(.*?)</function>", re.DOTALL)
PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
GLM = re.compile(r"\s*([\w.-]+)\s*((?:<arg_key>.*?</arg_key>\s*<arg_value>.*?</arg_value>\s*)*)", re.DOTALL)
PAIR = re.compile("<arg_key>(.*?)</arg_key>\\s*<arg_value>(.*?)</arg_value>", re.DOTALL)
LISTED_PREFIX = re.compile(r"(?:functools|<\|tool_call\|>|<function_call>)\s*(?=[\[{])")
CODE = re.compile(r"<\|tool_call_start\|>(.*?)(?:<\|tool_call_end\|>|\Z)|```tool_code\b(.*?)(?:```|\Z)", re.DOTALL)
REACT = re.compile(r"(?:\A|\n)[ \t]*Action:[ \t]*[`*\"]*([\w.-]+)[`*\"]*[ \t]*\n+[ \t]*Action Input:\s*(?:```\w*\s*)?")
OBSERVATION_MARK = re.compile(r"\n[ \t]*Observation:")  # what follows is a reply that the model made up
TURN_END_PATTERN = re.compile(r"(?:<\|(?:eo[mt]_id|im_end|end|call|end_?of_?text)\|>|</s>|\s)+\Z")  # the turn
HEADS = {  # what stands before arguments in JSON: with marks, and without those that are special tokens
    "deepseek": r"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>(?=\w))?([\w.-]+)(?:<｜tool▁sep｜>)?"
    r"\s*(?:```json\s*)?(?=\{)",
    "kimi": r"functions\.([\w.-]+):\d+\s*(?:<\|tool_call_argument_begin\|>)?\s*(?=\{)",
    "gpt-oss": r"to=functions\.([\w.-]+?)(?:<\|channel\|>)?(?:commentary)?\s*"
    r"(?:(?:(?<=\s)|<\|constrain\|>)(?:json|code))?\s*(?:<\|message\|>)?\s*(?=\{)",
}
MARKS = {  # what begins a call; of several the first in the answer counts, and here
    "glm": r"<tool_call>\s*[\w.-]+\s*(?:<arg_key>|\n\s*</tool_call>)",
    "xml": r"(?:<tool_call>\s*)?<function=",
    "hermes": "<tool_call>",
    "mistral": r"\[TOOL_CALLS\]",
    "llama3": r"<\|python_tag\|>",
    "deepseek": "<｜tool▁call▁begin｜>",
    "kimi": r"<\|tool_call_begin\|>|functions\.[\w.-]+:\d+\s*\{",
    "gpt-oss": r"to=functions\.",
    "granite": LISTED_PREFIX.pattern,
    "lfm2": r"<\|tool_call_start\|>|```tool_code\b",
    "react": r"(?:\A|\n)[ \t]*Action:[^\n]*\n+[ \t]*Action Input:",
}
UNMARKED_FORMS = ("json", "python", "llama3", "mistral")  # forms that need no mark
CALL_START = r"(?:\A|\n|[:：])[ \t]*`?(?=[\[{{]{0})"  # where a call in prose may begin: a line, or behind a colon
# marks of forms that are not read: Gemma 4, FunctionGemma, DeepSeek V3.2, MiniMax
UNREAD_CALL = r"<\|tool_call(?:>|\|>(?!\s*[\[{]))|<start_function_call>|<｜(?:tool▁calls|DSML)|<(?:\w+:)?invoke\s"
# a tool's name where a call would have it, in a form that is not known: NAME(…), NAME: {…}, "name": "NAME"
NEXT_CALL = (
    r"(?<![\w.-])(?:function)?(?:{0})(?:[`*]*\((?!s\))|[\"'`*]*:?\s*(?:```\w*\s*)?\{{|\s*<[|｜]|>)"
    r"|(?:[\"'](?:name|tool|function|action)[\"']\s*:|\b(?:name|function)\s*=|Action:)\s*[\"']?(?:{0})(?!\w)"
)
ARGUMENTS = ("arguments", "parameters")  # Llama's word is the second
# as templates write them that know no JSON, and as those do that know it in Python
CONSTANTS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
MOST_ENDS = 100  # brackets that may end a list of Python calls
MOST_PLACES = 20  # of a text where a call in prose may begin, and lines where one may end
Texts = Mapping[str, Collection[str]]  # the arguments of a tool that are text, by its name


@dataclass(frozen=True)
class Call:
    """One call of a tool."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def parse_calls(answer: str, form: str, names: Collection[str] = (), texts: Texts | None = None) -> list[Call]:
    """Parse the tool calls of an answer; prose has none.

    `form` is one of FORMS or TYPED_READERS, or "auto": the form with a mark in the answer. Without a mark, it must be
    JSON as a whole or in fences, begin with a call of the tools `names`, or have such a call in one place of its prose.
    The typed forms do not distinguish the text "5" from the number: arguments in `texts` are text. Raises ValueError on
    a malformed call, or if one of `names` is called in an unknown form.
    """
    text = TURN_END_PATTERN.sub("", answer.strip().removeprefix(values.BOM).strip())
    form = _detect_tool_call_form(text, names) if form == "auto" else form
    try:
        found = list(TYPED_READERS[form](text, texts or {}) if form in TYPED_READERS else FORMS[form](text))
    except ValueError:
        if form not in UNMARKED_FORMS or not (found := _parse_calls_in_prose(text, names)):
            raise
    if not found and form in UNMARKED_FORMS:
        found = _parse_calls_in_prose(text, names)
    if not found:
        marks = [UNREAD_CALL, *(mark for other, mark in MARKS.items() if other != form)]
        near = [NEXT_CALL.format("|".join(map(re.escape, names)))] if names else []
        if begun := re.search("|".join(marks + near), text, re.IGNORECASE):
            raise ValueError(f"{text[begun.start() :]!r:.60} begins a call in an unknown format")
    return found


def parse_call(value: Any) -> Call:
    """Return a call as JSON says it: {name, arguments}, {name, parameters}, or OpenAI's {function: …}.

    Arguments may be the text of a JSON object. Raises ValueError where it is none of these.
    """
    inner = value.get("function", value) if isinstance(value, Mapping) else value
    if not isinstance(inner, Mapping):
        raise ValueError(f"{value!r:.60} is not a call, which is an object with a name and arguments")
    if not isinstance(inner.get("name"), str) or not inner["name"]:
        raise ValueError(f"{value!r:.60} has no name")
    given: Any = next((inner[key] for key in ARGUMENTS if inner.get(key) is not None), {})
    given = values.parse_json(given or "{}") if isinstance(given, str) else given
    if not isinstance(given, Mapping):
        raise ValueError(f'the arguments of "{inner["name"]}" are {given!r:.60}; they must be an object')
    return Call(inner["name"], given)


def _detect_tool_call_form(text: str, names: Collection[str]) -> str:
    if begun := {form: found.start() for form, mark in MARKS.items() if (found := re.search(mark, text))}:
        return min(begun, key=begun.__getitem__)
    named = re.match(r"(?:```\w*\s*)?(\[?)\s*([\w.-]+)(?=(\()|\s*(?:\[ARGS\]\s*)?\{)", text)
    if named and named[2] in names and (named[3] or not named[1]):
        return "python" if named[3] else "mistral"
    return "json"


def _parse_calls_in_prose(text: str, names: Collection[str]) -> list[Call]:
    """Parse the calls of known tools in prose or fences.

    Calls in several places of the prose are ambiguous, and ignored.
    """
    named = "|".join(map(re.escape, names))
    begun = re.compile(rf"\s*\[?\s*(?:{named})\(")
    if fenced := [inner for inner in values.find_fenced(text) if named and begun.match(inner)]:
        return [call for inner in fenced for call in _parse_python_calls(inner)]
    places, end = list[list[Call]](), 0
    pattern = CALL_START.format(rf"|(?:{named})\(" if named else "")
    for start in (m.end() for m in islice(re.finditer(pattern, text), MOST_PLACES)):
        if start >= end:
            calls, behind = _parse_calls_at(text, start)
            if calls and (not names or {call.name for call in calls} <= {*names}):
                places, end = [*places, calls], behind
    if len(places) != 1 or (named and re.search(NEXT_CALL.format(named), text[end:], re.IGNORECASE)):
        return []
    return places[0]


def _parse_calls_at(text: str, start: int) -> tuple[list[Call], int]:
    """Parse the calls at a position: JSON, or whole lines of Python. Returns them with the position behind them."""
    calls, end = list[Call](), start
    with suppress(ValueError):
        while text[end : end + 1] in ("{", "["):
            value, end = values.parse_json_at(text, end)
            calls += _iterate_calls_in_json(value, strict=False)
            end += len(text) - end - len(text[end:].lstrip(" \t\r\n;,"))
    if calls:
        return calls, end
    lines = [m.start() for m in re.finditer(r"(?<=[)\]`])[ \t]*(?:\n|\Z)", text[start:])][:MOST_PLACES]
    for size in reversed(lines):
        with suppress(ValueError):
            return list(_parse_python_calls(text[start : start + size].rstrip("`"))), start + size
    return [], start


def _parse_react_calls(text: str) -> Iterator[Call]:
    """Read ReAct's form: a line "Action:" with a name, and one "Action Input:" with an object, up to an observation."""
    text = OBSERVATION_MARK.split(text)[0]
    for found in REACT.finditer(text):
        given = text[found.end() :].partition("\n")[0].strip()
        empty = given in ("", "None", "none")
        yield parse_call({"name": found[1], "arguments": {} if empty else values.parse_json_at(text, found.end())[0]})


def _parse_qwen_xml_calls(text: str, texts: Texts) -> Iterator[Call]:
    """Read Qwen's newer form: <function=NAME>, a <parameter=KEY> for each argument, </function>, for each call."""
    if len(whole := list(XML.finditer(text))) < text.count("<function="):
        raise ValueError(f"{text[text.rindex('<function=') :]!r:.60} has no </function>")
    for name, inner in (match.groups() for match in whole):
        if inner.lstrip().startswith("{"):  # Llama 3.1's own
            yield Call(name, values.parse_json(inner))
            continue
        found = PARAMETER.findall(inner)
        if left := PARAMETER.sub("", inner).strip():
            raise ValueError(f"{left!r:.60} is not a parameter")
        if len(dict(found)) < len(found):
            raise ValueError(f'a parameter of "{name}" occurs twice')
        yield Call(name, {key: _parse_parameter_value(value, key in texts.get(name, ())) for key, value in found})


def _parse_parameter_value(written: str, is_text: bool) -> Any:
    """Parse a parameter's value, as text if declared, else as JSON.

    A value that is not JSON may be a Python constant, and else is text.
    """
    try:
        return written if is_text else values.parse_json(written)
    except ValueError:
        return CONSTANTS.get(written.strip(), written)


def _parse_tagged_json_calls(text: str) -> Iterator[Call]:
    """Read Hermes' and Qwen's form: <tool_call>{"name": …, "arguments": …}</tool_call>, once for each call."""
    for match in TAGGED_CALL.finditer(text):
        inner = match[1].strip()
        closed = match[0].endswith("</tool_call>")  # else prose may follow
        yield from _iterate_calls_in_json(values.parse_json(inner) if closed else values.parse_json_at(inner, 0)[0])


def _parse_glm_calls(text: str, texts: Texts) -> Iterator[Call]:
    """Read GLM's form: a name and <arg_key>, <arg_value> for each argument, in <tool_call>."""
    for inner in TAGGED_CALL.findall(text):
        if not (whole := GLM.fullmatch(inner)):
            raise ValueError(f"{inner!r:.60} is not a call")
        own = texts.get(whole[1], ())
        yield Call(
            whole[1],
            {key.strip(): _parse_parameter_value(value, key.strip() in own) for key, value in PAIR.findall(whole[2])},
        )


def _parse_calls_after_name_headers(text: str, form: str) -> Iterator[Call]:
    """Read calls with a name header before JSON arguments.

    DeepSeek, Kimi and gpt-oss write this form. Raises ValueError on a mark without a call.
    """
    made = end = 0
    while found := re.compile(HEADS[form]).search(text, end):
        arguments, end = values.parse_json_at(text, found.end())
        made += 1
        yield Call(found[1], arguments)
    if made < len(begun := re.split(MARKS[form], text)[1:]):
        raise ValueError(f"{begun[-1]!r:.60} is not a call")


def _parse_marked_call_lists(text: str) -> Iterator[Call]:
    """Read Granite's and Phi-4's form: a list of calls in JSON behind a mark."""
    for mark in LISTED_PREFIX.finditer(text):
        yield from _iterate_calls_in_json(values.parse_json_at(text, mark.end())[0])


def _parse_marked_python_calls(text: str) -> Iterator[Call]:
    """Read LFM2's and Gemma 3's form: Python calls, or those in JSON, between marks."""
    for code in ((m[1] or m[2] or "").strip() for m in CODE.finditer(text)):
        yield from (
            _iterate_calls_in_json(values.parse_json(code))
            if re.match(r"\[?\s*\{", code)
            else _parse_python_calls(code)
        )


def _parse_mistral_calls(text: str) -> Iterator[Call]:
    """Read Mistral's forms: [TOOL_CALLS] and a list of calls, or a name, [ARGS] and its arguments, for each call."""
    _, mark, rest = text.partition(MISTRAL)
    rest = rest.strip() if mark else text
    if not mark and not NAMED_CALL.match(rest):  # the mark is a special token, which most answers come without
        yield from _parse_json_calls(rest)
        return
    made = rest.startswith("[")
    if made:
        value, end = values.parse_json_at(rest, 0)
        if MISTRAL in rest[end:]:
            raise ValueError(f"{rest[end:].strip()!r:.60} begins another list of calls")
        yield from _iterate_calls_in_json(value)
    while rest and not rest.startswith("["):
        if not (named := NAMED_CALL.match(rest)):
            if made and MISTRAL not in rest:
                return  # prose
            raise ValueError(f"{rest!r:.60} is not a call")
        arguments, end = values.parse_json_at(rest, named.end())
        made = True
        yield Call(named[1], arguments)
        rest = rest[end:].removeprefix("</s>").strip().removeprefix(MISTRAL).strip()


def _parse_llama3_calls(text: str) -> Iterator[Call]:
    """Read Llama 3's form: {"name": …, "parameters": …}, several parted by ";", behind the Python tag or without it."""
    said, tag, rest = text.partition(PYTHON)
    rest = (rest if tag else said).strip()
    if not rest.startswith("{"):
        yield from _parse_python_calls(rest) if tag else ()  # the tag promises a call
        return
    while rest:
        value, end = values.parse_json_at(rest, 0)
        yield from _iterate_calls_in_json(value, strict=bool(tag))
        rest = rest[end:].strip()
        if tag and not rest.startswith((";", "{", PYTHON)):
            return  # prose
        rest = rest.removeprefix(";").removeprefix(PYTHON).strip()


def _parse_json_calls(text: str) -> Iterator[Call]:
    """Read an answer that is JSON, in a fence or not: one call, a list of them, or {"tool_calls": […]}."""
    fenced = [] if text[:1] in ("{", "[") else values.find_fenced(text)
    for inner in map(str.strip, fenced or [text]):
        if inner[:1] not in ("{", "["):
            continue
        try:
            value = values.parse_json(inner)
        except ValueError:
            if inner.startswith("{") and re.search(r"\}\s*;?\s*\{", inner):
                yield from _parse_llama3_calls(inner)
            elif re.match(r'[\[{\s]*"(?:name|function|tool_calls)"', inner):
                raise
            continue  # text that begins with a bracket
        yield from _iterate_calls_in_json(value, strict=False)


def _parse_python_calls(text: str) -> Iterator[Call]:
    """Read Python calls with literal keyword arguments.

    They may be in a list or printed: [get_weather(city="Oslo"), now()]. Raises ValueError on anything else.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes in a model's texts
            found = [getattr(one, "value", None) for one in _parse_python_statements(values.remove_fence(text).strip())]
        for one in [one for some in found for one in (some.elts if isinstance(some, ast.List) else [some])]:
            printed = isinstance(one, ast.Call) and ast.unparse(one.func) == "print" and len(one.args) == 1
            call = one.args[0] if isinstance(one, ast.Call) and printed else one
            if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
                raise ValueError("calls must have keyword arguments")
            given = {str(k.arg): ast.literal_eval(_Constants().visit(k.value)) for k in call.keywords}
            yield Call(ast.unparse(call.func), given)
    except (SyntaxError, ValueError, RecursionError, MemoryError, TypeError) as error:
        raise ValueError(f"{text!r:.60} is not a list of Python calls: {error}") from None


class _Constants(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(CONSTANTS[node.id]) if node.id in CONSTANTS else node


def _parse_python_statements(text: str) -> list[ast.stmt]:
    """Parse Python statements, or a leading list before prose.

    LFM2 adds prose after the list, and breaks lines inside strings.
    """
    ends = (m.end() for m in islice(re.finditer(r"\]", text), MOST_ENDS) if text.startswith("["))
    for part in (text[:end] for end in (*ends, len(text))):
        for one in (part, part.replace("\n", "\\n")):
            with suppress(SyntaxError):
                return ast.parse(one).body
    return ast.parse(text).body


def _iterate_calls_in_json(value: Any, *, strict: bool = True) -> Iterator[Call]:
    """Yield the calls of a JSON value. Unless `strict`, JSON without a name and arguments is an ordinary answer."""
    if isinstance(value, Mapping) and isinstance(value.get("tool_calls"), list):
        value = value["tool_calls"]
    for one in value if isinstance(value, list) else [value]:
        inner = one.get("function", one) if isinstance(one, Mapping) else {}
        if strict or (isinstance(inner, Mapping) and "name" in inner and any(key in inner for key in ARGUMENTS)):
            yield parse_call(one)


FORMS: dict[str, Callable[[str], Iterator[Call]]] = {
    "hermes": _parse_tagged_json_calls,
    "mistral": _parse_mistral_calls,
    "llama3": _parse_llama3_calls,
    "python": _parse_python_calls,
    "json": _parse_json_calls,
    "react": _parse_react_calls,
    **{form: partial(_parse_calls_after_name_headers, form=form) for form in HEADS},
    **dict.fromkeys(("granite", "phi"), _parse_marked_call_lists),
    **dict.fromkeys(("lfm2", "gemma"), _parse_marked_python_calls),
}
TYPED_READERS: dict[str, Callable[[str, Texts], Iterator[Call]]] = {
    "xml": _parse_qwen_xml_calls,
    "glm": _parse_glm_calls,
}  # that know no types of their own
