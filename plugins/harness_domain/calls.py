"""Calls of tools in answers, in the forms that today's open models write them."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness_domain import values

TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
MISTRAL, PYTHON = "[TOOL_CALLS]", "<|python_tag|>"
NAMED = re.compile(r"\s*(?:\[TOOL_CALLS\])?\s*([\w.-]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?(?:\[ARGS\])?\s*(?=\{)")
XML = re.compile(r"<function=([^>\n]+)>(.*?)</function>", re.DOTALL)
PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
BEGUN = re.compile(r"(?:<tool_call>\s*)?<function=|<tool_call>")
ARGUMENTS = ("arguments", "parameters")  # Llama's word is the second
PYTHONS = {"True": True, "False": False, "None": None}  # as templates write them that know no JSON
Texts = Mapping[str, Collection[str]]  # the arguments of a tool that are text, by its name


@dataclass(frozen=True)
class Call:
    """One call of a tool."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def calls_in(answer: str, form: str, names: Collection[str] = (), texts: Texts | None = None) -> list[Call]:
    """Return the calls that an answer makes, none where it is said in words.

    `form` is one of FORMS, "xml", or "auto": the form whose mark is in the answer; without one an answer that is JSON
    as a whole or in a fence, or a list of Python calls of the tools `names`. XML does not tell the text "5" from the
    number: the arguments in `texts` are text. Raises ValueError on an answer that begins a call and is none.
    """
    text = answer.strip()
    form = _form_of(text, names) if form == "auto" else form
    return list(_xml(text, texts or {}) if form == "xml" else FORMS[form](text))


def call_of(value: Any) -> Call:
    """Return a call as JSON says it: {name, arguments}, {name, parameters}, or OpenAI's {function: …}.

    Arguments may be the text of a JSON object. Raises ValueError where it is none of these.
    """
    inner = value.get("function", value) if isinstance(value, Mapping) else value
    if not isinstance(inner, Mapping):
        raise ValueError(f"{value!r:.60} is no call, want an object with a name and arguments")
    if not isinstance(inner.get("name"), str) or not inner["name"]:
        raise ValueError(f"{value!r:.60} has no name")
    given: Any = next((inner[key] for key in ARGUMENTS if inner.get(key) is not None), {})
    given = values.parse(given or "{}") if isinstance(given, str) else given
    if not isinstance(given, Mapping):
        raise ValueError(f'the arguments of "{inner["name"]}" are {given!r:.60}, want an object')
    return Call(inner["name"], given)


def _form_of(text: str, names: Collection[str]) -> str:
    if begun := BEGUN.search(text):
        return "xml" if begun[0].endswith("<function=") else "hermes"
    if MISTRAL in text:
        return "mistral"
    if text.startswith(PYTHON):
        return "llama3"
    return "python" if _is_python(text, names) else "json"


def _xml(text: str, texts: Texts) -> Iterator[Call]:
    """Read Qwen's newer form: <function=NAME>, a <parameter=KEY> for each argument, </function>, for each call."""
    whole = list(XML.finditer(text))
    if len(whole) < text.count("<function="):
        raise ValueError(f"{text[text.rindex('<function=') :]!r:.60} has no </function>")
    for name, inner in (match.groups() for match in whole):
        found = PARAMETER.findall(inner)
        if left := PARAMETER.sub("", inner).strip():
            raise ValueError(f"{left!r:.60} is no parameter")
        if len(dict(found)) < len(found):
            raise ValueError(f'a parameter of "{name}" stands twice')
        yield Call(name, {key: _read(value, key in texts.get(name, ())) for key, value in found})


def _read(written: str, is_text: bool) -> Any:
    """Return what stands between the tags of a parameter: text where that is wanted, else JSON where it is some."""
    try:
        return written if is_text else values.parse(written)
    except ValueError:
        return PYTHONS.get(written.strip(), written)


def _tagged(text: str) -> Iterator[Call]:
    """Read Hermes' and Qwen's form: <tool_call>{"name": …, "arguments": …}</tool_call>, once for each call."""
    for match in TAGGED.finditer(text):
        yield from _listed(values.parse(match[1]))


def _mistral(text: str) -> Iterator[Call]:
    """Read Mistral's forms: [TOOL_CALLS] and a list of calls, or a name, [ARGS] and its arguments, for each call."""
    _, mark, rest = text.partition(MISTRAL)
    rest = rest.strip() if mark else text
    if not mark and not NAMED.match(rest):  # the mark is a special token, which most answers come without
        yield from _plain(rest)
        return
    if rest.startswith("["):
        yield from _listed(values.parse(rest))
    while rest and not rest.startswith("["):
        if not (named := NAMED.match(rest)):
            raise ValueError(f"{rest!r:.60} is no call")
        arguments, end = values.parse_at(rest, named.end())
        yield Call(named[1], arguments)
        rest = rest[end:].removeprefix("</s>").strip()
        rest = rest.removeprefix(MISTRAL).strip()


def _llama(text: str) -> Iterator[Call]:
    """Read Llama 3's form: {"name": …, "parameters": …}, several parted by ";", behind the Python tag or without it."""
    rest, tagged = text.removeprefix(PYTHON).strip(), text.startswith(PYTHON)
    if not rest.startswith("{"):
        if tagged:  # the tag promises a call
            yield from _pythonic(f"[{rest}]")
        return
    while rest:
        value, end = values.parse_at(rest, 0)
        yield from _listed(value, strict=tagged)
        rest = rest[end:].strip().removeprefix(";").removeprefix(PYTHON).strip()


def _plain(text: str) -> Iterator[Call]:
    """Read an answer that is JSON, in a fence or not: one call, a list of them, or {"tool_calls": […]}."""
    fenced = values.FENCE.fullmatch(text)
    inner = fenced[1].strip() if fenced else text
    if inner[:1] not in ("{", "["):
        return
    try:
        value = values.parse(inner)
    except ValueError:
        if inner.startswith("{") and ";" in inner:
            yield from _llama(inner)
            return
        if re.match(r'[\[{\s]*"(?:name|function|tool_calls)"', inner):
            raise
        return  # text that begins with a bracket
    yield from _listed(value, strict=False)


def _pythonic(text: str) -> Iterator[Call]:
    """Read a list of Python calls with literal keywords: [get_weather(city="Oslo"), now()]."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes in a model's texts
            tree = ast.parse(text.strip(), mode="eval").body
        found = tree.elts if isinstance(tree, ast.List) else [tree]
        for one in found:
            if not isinstance(one, ast.Call) or one.args or any(k.arg is None for k in one.keywords):
                raise ValueError("want calls with keywords")
            yield Call(ast.unparse(one.func), {str(k.arg): ast.literal_eval(k.value) for k in one.keywords})
    except (SyntaxError, ValueError, RecursionError, MemoryError, TypeError) as error:
        raise ValueError(f"{text!r:.60} is no list of Python calls: {error}") from None


def _is_python(text: str, names: Collection[str]) -> bool:
    begun = re.match(r"\[\s*([\w.]+)\(", text)
    return bool(begun and begun[1] in names)


def _listed(value: Any, *, strict: bool = True) -> Iterator[Call]:
    """Yield the calls of a JSON value; unless `strict`, JSON that names nothing is an answer and no call."""
    if isinstance(value, Mapping) and isinstance(value.get("tool_calls"), list):
        value = value["tool_calls"]
    for one in value if isinstance(value, list) else [value]:
        inner = one.get("function", one) if isinstance(one, Mapping) else {}
        if strict or (isinstance(inner, Mapping) and "name" in inner and any(key in inner for key in ARGUMENTS)):
            yield call_of(one)


FORMS: dict[str, Callable[[str], Iterator[Call]]] = {
    "hermes": _tagged,
    "mistral": _mistral,
    "llama3": _llama,
    "python": _pythonic,
    "json": _plain,
}
