"""A model under test as Inspect sees one: a ModelAPI over a Subject, whose requests are gathered into batches."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextvars import Context, ContextVar
from dataclasses import dataclass
from typing import Any

from inspect_ai._util.registry import RegistryInfo, set_registry_info  # noqa: TID253
from inspect_ai.model import (  # noqa: TID253 -- a base class; this module is imported when rows are scored
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    StopReason,
)
from inspect_ai.tool import ToolCall, ToolChoice, ToolInfo  # noqa: TID253

from harness import Completion, FinishReason, Prompt, Subject, UsageError
from harness.internals import chat, generate_final_answers
from harness_domain import parse_calls, require_tools_in_template
from harness_inspect.options import InspectOptions

IDLE_S = 0.05  # seconds without a new request, after which those that wait are asked
SCORING = ContextVar("scoring", default="")  # the scorer that runs
STOP_REASONS: Mapping[FinishReason, StopReason] = {"length": "max_tokens", "context": "model_length"}
FINISH_REASONS: Mapping[str, FinishReason] = {"max_tokens": "length", "model_length": "context", "tool_calls": "tool"}
IGNORED_OPTIONS = ("temperature", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty", "logit_bias")


@dataclass(frozen=True)
class Request:
    """A sample's conversation and generation limits."""

    prompt: Prompt
    max_new_tokens: int
    stop: tuple[str, ...]


class RequestBatcher:
    """Batcher of the running samples' requests to a subject.

    The subject runs in a thread of its own. `error` is the first that it raised, which would be that of all other
    requests.
    """

    def __init__(self, subject: Subject, thought: Sequence[str] = ()) -> None:
        self.subject, self.thought = subject, thought
        self.error: Exception | None = None
        self._waiting: list[tuple[Request, asyncio.Future[tuple[str, str]]]] = []
        self._running: asyncio.Task[None] | None = None
        self._renders_tools = False

    async def ask(self, request: Request) -> tuple[str, str]:
        """Return the answer to a request, and the whole completion. Raises the subject's error."""
        if self.error:
            raise self.error
        future: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._running is None or self._running.done():  # in a context that no sample's limits belong to
            self._running = asyncio.create_task(self._answer_waiting_requests(), context=Context())
        return await future

    async def _answer_waiting_requests(self) -> None:
        while self._waiting:
            before = 0
            while before < len(self._waiting):
                before = len(self._waiting)
                await asyncio.sleep(IDLE_S)
            taken, self._waiting = self._waiting, []
            groups: dict[tuple[int, tuple[str, ...]], list[tuple[Request, asyncio.Future[tuple[str, str]]]]] = {}
            for request, future in taken:
                groups.setdefault((request.max_new_tokens, request.stop), []).append((request, future))
            for (new, stop), some in groups.items():
                await self._answer(new, stop, some)

    async def _answer(
        self, new: int, stop: tuple[str, ...], some: Sequence[tuple[Request, asyncio.Future[tuple[str, str]]]]
    ) -> None:
        def generate() -> list[tuple[str, str]]:
            prompts = [request.prompt for request, _ in some]
            if not self._renders_tools and (offered := [p for p in prompts if _has_tools(p)]):
                require_tools_in_template(self.subject, offered[0], "")
                self._renders_tools = True
            return generate_final_answers(self.subject, prompts, thought=self.thought, max_new_tokens=new, stop=stop)

        found: list[tuple[str, str]] = []
        try:
            found = await asyncio.to_thread(generate)
        except Exception as error:
            self.error = error
        for number, (_, future) in enumerate(some):
            if future.done():  # its sample ended at a limit
                continue
            if self.error:
                future.set_exception(self.error)
            else:
                future.set_result(found[number])


class SubjectAPI(ModelAPI):  # type: ignore[misc] # Inspect is not typed here
    """Answers Inspect's requests with a Subject. `misuse` tells of what no evaluation may ask of it."""

    def __init__(self, subject: Subject, options: InspectOptions) -> None:
        super().__init__(model_name=subject.name)
        set_registry_info(self, RegistryInfo(type="modelapi", name="harness"))  # which `@modelapi` does for a name
        self.batcher, self.options = RequestBatcher(subject, options.thought), options
        self.misuse: UsageError | None = None
        self.ignored: dict[str, None] = {}  # what the task asks for that its eval decides, as lines

    def max_connections(self) -> int:
        """Return how many requests may wait at once: all."""
        return 1 << 20

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Answer a conversation. Raises UsageError where no answer of the model may be used, or could be."""
        if why := self._find_misuse_error(config):
            self.misuse = self.misuse or UsageError(f'task "{self.options.task}": {why}')
            raise self.misuse
        for name in IGNORED_OPTIONS:
            if getattr(config, name) not in (None, 0, {}):
                self.ignored[f"the task sets {name}, which only its eval can set here"] = None
        tools = [] if tool_choice == "none" else tools
        request = Request(
            make_prompt(input, tools), config.max_tokens or self.options.max_new_tokens, tuple(config.stop_seqs or ())
        )
        said, whole = await self.batcher.ask(request)
        return make_output(self.model_name, said, Completion.of(whole), tools)

    def _find_misuse_error(self, config: GenerateConfig) -> str:
        if scorer := SCORING.get():
            return f'scorer "{scorer}" asks the model to grade its own answers; give it another model'
        if (config.num_choices or 1) > 1 or config.logprobs:
            what = "log-probabilities" if config.logprobs else f"{config.num_choices} answers at once"
            return f"asks for {what}, which a model is not asked for here"
        return ""


def make_prompt(messages: Sequence[ChatMessage], tools: Sequence[ToolInfo]) -> Prompt:
    """Convert a conversation to a prompt of the harness.

    Tools become arguments of the chat template. Raises UsageError at content other than text.
    """
    found: list[dict[str, Any]] = []
    for message in messages:
        parts = message.content if isinstance(message.content, list) else []
        if odd := next((part.type for part in parts if part.type not in ("text", "reasoning")), ""):
            raise UsageError(f'a message has content of the type "{odd}", and models here read text alone')
        turn: dict[str, Any] = {"role": message.role, "content": message.text}
        if message.role == "assistant" and message.tool_calls:
            called = [{"name": call.function, "arguments": call.arguments} for call in message.tool_calls]
            turn["tool_calls"] = [{"type": "function", "function": call} for call in called]
        if message.role == "tool":
            turn |= {"name": message.function} if message.function else {}
            turn |= {"content": message.error.message} if message.error else {}
        found.append(turn)
    given = [{"type": "function", "function": _convert_tool_to_json(tool)} for tool in tools]
    return chat.join_arguments(found, {chat.TOOLS: given} if given else {})


def _has_tools(prompt: Prompt) -> bool:
    return isinstance(prompt, list) and chat.TOOLS in chat.split_arguments(prompt)[1]


def _convert_tool_to_json(tool: ToolInfo) -> dict[str, Any]:
    parameters = tool.parameters.model_dump(exclude_none=True)
    return {"name": tool.name, "description": tool.description, "parameters": parameters}


def make_output(model: str, said: str, whole: Completion, tools: Sequence[ToolInfo]) -> ModelOutput:
    """Convert an answer to Inspect's output, with tool calls parsed. Unparsable calls stay text."""
    texts = {tool.name: [n for n, p in tool.parameters.properties.items() if p.type == "string"] for tool in tools}
    try:
        calls = parse_calls(said, "auto", [*texts], texts) if tools else []
    except ValueError:
        calls = []
    made = [ToolCall(id=f"call_{n}", function=c.name, arguments=dict(c.arguments)) for n, c in enumerate(calls)]
    reason: StopReason = "tool_calls" if made else STOP_REASONS.get(whole.finish_reason, "stop")
    message = ChatMessageAssistant(content="" if made else str(said), tool_calls=made or None, model=model)
    usage = None if whole.tokens is None else ModelUsage(output_tokens=whole.tokens, total_tokens=whole.tokens)
    return ModelOutput(model=model, choices=[ChatCompletionChoice(message=message, stop_reason=reason)], usage=usage)
