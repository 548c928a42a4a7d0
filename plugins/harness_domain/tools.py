"""Answers that call tools: the right ones, with the right arguments, and only where a call is wanted. `tool_calls`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from harness import Prompt, Sample, Score, Subject, UsageError, evaluator, metric
from harness.internals import chat
from harness_domain import values
from harness_domain.calls import Call, parse_call, parse_calls
from harness_domain.matching import generate_all

Format = Literal[
    "auto", "hermes", "xml", "mistral", "llama3", "python", "json",
    "deepseek", "kimi", "glm", "gpt-oss", "granite", "phi", "lfm2", "gemma", "react",
]  # fmt: skip


def _require_valid_tools_and_targets(samples: Sequence[Sample], options: Mapping[str, Any], folder: Path) -> None:
    """Raise UsageError on invalid tools, or targets that do not call them."""
    for sample in samples:
        _parse_target_calls(sample, _parse_defaults_and_text_keys(sample)[0])


@evaluator(check_rows=_require_valid_tools_and_targets, json_targets=True)
@metric("call", better="higher", scale="proportion")
@metric("name", better="higher", scale="proportion")
@metric("arguments", better="higher", scale="proportion")
@metric("refusal", better="higher", scale="proportion")
def tool_calls(
    subject: Subject, samples: Sequence[Sample], *,
    format: Format = "auto", order: bool = False, ignore: tuple[str, ...] = (),
    max_new_tokens: int = 256, stop: tuple[str, ...] = (), thought: tuple[str, ...] = (),
) -> Iterator[Score]:  # fmt: skip
    """Score an answer's tool calls against the row's expected calls.

    The target is a list of {name, arguments}; messages may end in the assistant's `tool_calls` instead, and "[]"
    expects no call. A row's `tools` go to the chat template. `call`: exactly the expected calls, with `order` in their
    order. `refusal`: a call if one is expected, and none otherwise. The other two count only rows that expect calls:
    `name`, exactly the expected names, and `arguments`, the share of the expected calls that were made, name and
    arguments, regardless of additional calls. Arguments are compared as JSON values; an omitted one has the default of
    the tool's schema, and those in `ignore` do not count. An answer that begins a call, or has a tool's name as a call
    would, but cannot be parsed scores 0 in all of these, with the reason in the row's note. Raises UsageError on a row
    with invalid tools or calls, and if the template leaves tools out.
    """
    tools = [_parse_defaults_and_text_keys(s) for s in samples]
    wanted = [_parse_target_calls(s, own) for s, (own, _) in zip(samples, tools, strict=True)]
    found = generate_all(subject, samples, max_new_tokens, stop, thought)
    # behind what is asked, which `harness plan` listens to without a model
    if sample := next((s for s, (own, _) in zip(samples, tools, strict=True) if own), None):
        require_tools_in_template(subject, sample.input, f'row "{sample.id}": ')
    for sample, (own, texts), calls, (said, details) in zip(samples, tools, wanted, found, strict=True):
        weights = {"name": float(bool(calls)), "arguments": float(bool(calls))}
        about: dict[str, Any] = {"answer": said, "weights": weights, "details": details}
        try:
            made = parse_calls(said, format, own, texts)
        except ValueError as error:
            nothing = dict.fromkeys(("call", "name", "arguments", "refusal"), 0.0)
            yield Score(sample.id, nothing, note=f"cannot be read: {error}", **about)
            continue
        full = []
        for some in (made, calls):  # with the defaults of what is left out, and without what does not count
            given = [(c.name, {**own.get(c.name, {}), **c.arguments}) for c in some]
            kept = [(name, {k: v for k, v in args.items() if k not in ignore}) for name, args in given]
            full.append([Call(name, values.compose_unicode(args)) for name, args in kept])
        yield Score(sample.id, _compute_call_metrics(*full, order=order), **about)


def require_tools_in_template(subject: Subject, prompt: Prompt, where: str) -> None:
    """Raise UsageError where the chat template leaves a prompt's tools out: a model that sees none can call none."""
    if (render := getattr(subject, "render", None)) is None or not isinstance(prompt, list):
        return
    messages, given = chat.split_arguments(prompt)
    try:
        seen = [render(chat.join_arguments(messages, some)) for some in (given, {**given, chat.TOOLS: []})]
    except AttributeError:  # a server renders by itself
        return
    if seen[0] == seen[1]:
        what = "the chat template renders the same text with and without the tools"
        raise UsageError(f"{where}{what}; describe them in a message instead")


def _compute_call_metrics(made: Sequence[Call], wanted: Sequence[Call], *, order: bool) -> dict[str, float]:
    names = [[c.name for c in some] for some in (made, wanted)]
    named = names[0] == names[1] if order else sorted(names[0]) == sorted(names[1])
    hits, left = sum(map(_is_same_call, made, wanted)), list(made)
    if not order:  # equality is transitive, so the first that fits will do
        for call in wanted:
            if (place := next((i for i, one in enumerate(left) if _is_same_call(one, call)), None)) is not None:
                del left[place]
        hits = len(made) - len(left)
    return {
        "call": float(len(made) == len(wanted) == hits),
        "name": float(named),
        "arguments": hits / len(wanted) if wanted else 0.0,
        "refusal": float(bool(made) == bool(wanted)),
    }


def _is_same_call(one: Call, other: Call) -> bool:
    return one.name == other.name and values.is_equal_json(one.arguments, other.arguments)


def _parse_defaults_and_text_keys(sample: Sample) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """Return default arguments and text-only arguments, by tool. Raises UsageError on an invalid or repeated tool."""
    defaults, texts = dict[str, dict[str, Any]](), dict[str, list[str]]()
    for tool in chat.split_arguments(sample.input)[1].get(chat.TOOLS, []) if isinstance(sample.input, list) else []:
        own = tool.get("function", tool)
        where = f'row "{sample.id}": the tool {tool!r:.60}'
        if not isinstance(own, Mapping) or not isinstance(own.get("name"), str):
            raise UsageError(f"{where} has no name; give {{name, description, parameters}}, alone or under function")
        schema = own.get("parameters") or {}
        named = schema.get("properties", {}) if isinstance(schema, Mapping) else None
        if not isinstance(named, Mapping) or not all(isinstance(p, (Mapping, bool)) for p in named.values()):
            raise UsageError(f"{where} has parameters that are not a JSON Schema of an object")
        if (name := own["name"]) in defaults:
            raise UsageError(f'row "{sample.id}": two tools have the name "{name}"')
        defaults[name] = {n: p["default"] for n, p in named.items() if isinstance(p, Mapping) and "default" in p}
        texts[name] = [key for key, p in named.items() if _is_text_only_schema(p)]
    return defaults, texts


def _is_text_only_schema(schema: Any) -> bool:
    """Return whether a schema allows strings only. This follows from its type, else from its enumerated values."""
    if not isinstance(schema, Mapping):
        return False
    if "type" in schema:
        return schema["type"] in ("string", ["string"])
    listed = schema.get("enum") or [schema.get("const")]
    return isinstance(listed, list) and all(isinstance(value, str) for value in listed)


def _parse_target_calls(sample: Sample, tools: Mapping[str, Any]) -> list[Call]:
    """Return the expected calls of a row, empty for a plain answer.

    Raises UsageError on an invalid target, or a call of an unknown tool.
    """
    messages = sample.row.get("messages")
    last: Any = messages[-1] if isinstance(messages, list) and messages else None
    said = isinstance(last, Mapping) and last.get("role") == "assistant" and not last.get("tool_calls")
    if said and last.get("content") and last["content"] == sample.target:  # in words, which calls nothing
        return []
    where = f'row "{sample.id}": the target'
    if not isinstance(sample.target, str) or not sample.target.strip():
        raise UsageError(f"{where} is missing; give a list of calls, [] for no call")
    try:
        found = values.parse_json(sample.target)
        calls = [parse_call(one) for one in (found if isinstance(found, list) else [found])]
    except ValueError as error:
        raise UsageError(f"{where} is not a tool call: {error}; give a list of {{name, arguments}}") from None
    if tools and (strange := next((c.name for c in calls if c.name not in tools), None)):
        raise UsageError(f'{where} calls "{strange}", which is not one of the row\'s tools')
    return calls
