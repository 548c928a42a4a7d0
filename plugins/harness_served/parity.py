"""One comparison of a runtime with an export: what is asked, what was found, and the order in which it is looked at.

It goes on after a layer that differs, so that one run tells all faults; log-probabilities are asked with ids where that
is possible, so that a template's fault does not hide another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from harness import Prompt, UsageError
from harness.internals import REPLACEMENT_CHARACTER, chat, http_client
from harness_served import DRAWN, GREEDILY
from harness_served.conversations import PROSE, PROSE_REPEATS, make_conversations
from harness_served.runtime import GREEDY, Runtime, RuntimeAnswer

if TYPE_CHECKING:
    from harness.internals import ReplayRows
    from harness_served.reference import Reference, TokenScores

Verdict = Literal["same", "differs", "not proven", "unknown"]
SAME: Verdict = "same"
DIFFERS: Verdict = "differs"
UNPROVEN: Verdict = "not proven"
UNKNOWN: Verdict = "unknown"
NOISE_FACTOR = 4  # the noise, that a bound is; the merge check's own factor
VERDICT_ORDER = (DIFFERS, UNKNOWN, UNPROVEN, SAME)
REPLICAS = (3, 10)  # numbers of replicas for which it is said how likely a wrong one is missed
SUITE_ROWS = 8  # prompts of the suite that are looked at, beside the made ones
TEMPLATE_TOKENS = 100  # tokens that a template may put around a conversation
SECOND_SEED_OFFSET = 1000  # added to the seed of a second draw, which an alarm gets that may be by chance
A = TypeVar("A")
R = TypeVar("R")


@dataclass(frozen=True)
class LayerVerdict:
    """A layer's verdict, with its reason and numbers.

    `seen` is the kind of evidence.
    """

    verdict: Verdict
    reason: str
    seen: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RenderedConversation:
    """A conversation in the export's template and tokens. A text prompt has no messages."""

    messages: Sequence[Mapping[str, Any]]
    text: str
    ids: list[int]

    @property
    def prompt(self) -> Prompt:
        """The messages, or the text."""
        return [dict(m) for m in self.messages] or self.text


class GreedyAnswer(NamedTuple):
    """A runtime's greedy answer and its tokens."""

    prompt: RenderedConversation
    said: RuntimeAnswer
    ids: list[int]
    streamed: bool = False


class SampledAnswer(NamedTuple):
    """A runtime's sampled answer and its tokens.

    `part` is whether a part of a character follows the tokens, `reported` whether the runtime reported them.
    """

    said: RuntimeAnswer
    ids: list[int]
    part: bool
    reported: bool

    @property
    def outcomes(self) -> int:
        """The number of tokens with a known sampled outcome."""
        return len(self.ids) + self.part


@dataclass
class Parity:
    """A comparison of a runtime with the exported model so far."""

    runtime: Runtime
    reference: Reference
    arithmetic: str
    seed: int = 0
    alpha: float = 0.01
    context: int = 0
    concurrency: int = 1
    declared: bool = False  # whether the arithmetic was named, and not found
    again: ReplayRows | None = None  # rows of the suite, where one was named
    found: dict[str, LayerVerdict] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    heard: dict[str, Any] = field(default_factory=dict)  # what later layers need of earlier ones

    @cached_property
    def prompts(self) -> list[RenderedConversation]:
        """The conversations that the export's template takes: eight made ones, then more."""
        tokens, limit = self.reference.tokens, self.reference.context - DRAWN
        room = (self.context or (limit if limit > 0 else 10**9)) - TEMPLATE_TOKENS
        many = max(1, room // len(tokens.encode_plain(PROSE)))
        made = make_conversations(
            str(tokens.tokenizer.eos_token or ""), many if self.context else min(many, PROSE_REPEATS), self.seed
        )
        prompts, refused = self._prompted(made)
        if not prompts:
            raise UsageError(f"the export rejects every conversation: {refused or 'its context is too short'}")
        return prompts

    @cached_property
    def rows(self) -> list[RenderedConversation]:
        """A few prompts of the suite's rows.

        Templates fail on users' inputs, and weights on the rows that the model was tuned for.
        """
        tasks, drawn = (self.again.collection.tasks, self.again.drawn) if self.again else ({}, {})
        inputs = [(tasks[name].samples or ())[number].input for name in drawn for number in drawn[name]]
        return self._prompted(inputs[:SUITE_ROWS])[0]

    def _prompted(self, conversations: Sequence[Prompt]) -> tuple[list[RenderedConversation], str]:
        """Render the conversations that the export's template and context take.

        Also returns the last refusal of the template.
        """
        tokens, prompts, refused = self.reference.tokens, list[RenderedConversation](), ""
        for asked in conversations:
            try:
                text = asked if isinstance(asked, str) else tokens.render([dict(m) for m in asked])
            except UsageError as error:
                refused = str(error)
                continue
            ids = tokens.encode_prompts([asked])[0]
            if not self.reference.context or len(ids) + DRAWN <= self.reference.context:
                prompts.append(RenderedConversation([] if isinstance(asked, str) else asked, text, ids))
        return prompts, refused

    @property
    def drawn_prompts(self) -> list[RenderedConversation]:
        """The prompts after which tokens are drawn. They are the made conversations and the suite's prompts."""
        return [*(self.prompts if self.runtime.takes_ids else self.plain_prompts), *self.rows]

    @property
    def max_prompt_tokens(self) -> int:
        """The tokens of the longest conversation that was compared."""
        return max(len(p.ids) for p in [*self.prompts, *self.rows])

    @property
    def plain_prompts(self) -> list[RenderedConversation]:
        """The conversations without tools.

        A server may take tools only with a parser of calls.
        """
        return [p for p in self.prompts if chat.TOOLS not in chat.split_arguments(p.messages)[1]]

    @cached_property
    def answers(self) -> list[GreedyAnswer]:
        """The runtime's greedy answers as clients get them. The first is also streamed."""
        prompts = [*self.plain_prompts, *self.rows]
        said = self.ask_each(lambda p: self.runtime.answer(p.messages, p.text, GREEDILY, GREEDY), prompts)
        found = [(p, answer, False) for p, answer in zip(prompts, said, strict=True) if answer]
        if self.plain_prompts and (streamed := self.runtime.stream(prompts[0].messages, GREEDILY, GREEDY)):
            found.append((prompts[0], streamed, True))
        return [GreedyAnswer(p, answer, self.ids_of(p, answer), streamed) for p, answer, streamed in found]

    @cached_property
    def answers_scored(self) -> list[TokenScores]:
        """The reference's scores of those answers, at every position."""
        return [self.reference.score(answer.prompt.ids, answer.ids) for answer in self.answers]

    def ask_each(self, ask: Callable[[A], R], asked: Sequence[A]) -> list[R]:
        """Return the answers to all requests, `concurrency` at a time."""
        return ask_each(ask, asked, self.concurrency)

    def ids_of(self, prompt: RenderedConversation, said: RuntimeAnswer) -> list[int]:
        """Return the tokens of an answer to a prompt: as told, else as the export cuts it behind the prompt.

        A text is read up to a broken character, and only where its tokens are as many as is told: llama.cpp leaves out
        parts of a character, a text special tokens.
        """
        if said.ids and self.are_all(said, said.ids):
            return said.ids
        text, broken, _ = said.text.partition(REPLACEMENT_CHARACTER)
        [(_, ids)] = self.reference.tokens.encode_pairs([(prompt.prompt, text)])
        own = [self.decode([i]).strip() for i in ids]
        same = said.texts is None or own == [text.strip() for text in said.texts[: len(own)]]
        return ids if same and (broken or self.are_all(said, ids)) else []

    def sampled_of(self, prompt: RenderedConversation, said: RuntimeAnswer) -> SampledAnswer:
        """Return an answer's sampled tokens up to a part of a character.

        Also whether one follows. llama.cpp reports no such part, and its neighbour under another token's number.
        """
        if not said.ids or not said.texts or self.are_all(said, said.ids):
            ids, (text, broken, _) = self.ids_of(prompt, said), said.text.partition(REPLACEMENT_CHARACTER)
            told = ids is said.ids
            return SampledAnswer(said, ids, part=bool(broken and not told and (ids or not text)), reported=told)
        parts, pairs = self.reference.part_ids, list(zip(said.ids, said.texts, strict=False))
        own = (i not in parts and self.decode([i]).strip() == text.strip() for i, text in pairs)
        odd = next((at for at, same in enumerate(own) if not same), len(pairs))
        part = odd == len(pairs) or pairs[odd][0] in parts or REPLACEMENT_CHARACTER in pairs[odd][1]
        return SampledAnswer(said, said.ids[:odd], part, reported=True)

    def are_all(self, said: RuntimeAnswer, ids: list[int]) -> bool:
        """Return whether the tokens match the reported number. A final stop token may be missing."""
        ends = said.ended == "stop" and ids[-1:] not in ([i] for i in self.reference.stop_ids)
        return said.said is None or said.said - len(ids) in (0, int(ends))

    def covers_answer(self, said: RuntimeAnswer, ids: list[int]) -> bool:
        """Return whether the tokens cover the whole answer.

        They do not if they stop before a broken character, or are missing for a text.
        """
        text = REPLACEMENT_CHARACTER not in said.text and bool(ids) == bool(said.text)
        return self.are_all(said, ids) and (ids is said.ids or text)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode tokens without special ones, up to a part of a character."""
        return str(self.reference.tokens.tokenizer.decode(ids, skip_special_tokens=True)).partition(
            REPLACEMENT_CHARACTER
        )[0]

    def choice_margins(self, said: RuntimeAnswer, ids: list[int], scored: TokenScores) -> list[float]:
        """Return the lead of the export's choice over each token.

        It is in nats. If the text was tokenized here, the leads end where that choice may be the same text, cut
        otherwise.
        """
        leads, first = (scored.best[:-1] - scored.own).tolist(), scored.first.tolist()
        for at, lead in enumerate(leads if ids is not said.ids else ()):
            other = lead > 0 and first[at] not in self.reference.stop_ids
            if other and self.decode(ids[at:]).startswith(self.decode([first[at]])):
                return leads[:at]
        return leads

    @property
    def compared_answers(self) -> int:
        """The number of answers that came on separate connections.

        A load balancer chooses a replica for each.
        """
        return len(self.heard.get("told", ())) + len(self.__dict__.get("answers", ()))

    def layer_verdict(self, name: str) -> Verdict | None:
        """Return a layer's verdict. None if it was not compared."""
        return self.found[name].verdict if name in self.found else None


def ask_each(ask: Callable[[A], R], asked: Sequence[A], concurrency: int) -> list[R]:
    """Return the answers to all requests, in order."""
    found = http_client.map_concurrent(lambda number, _: ask(asked[number]), len(asked), concurrency)
    return [answer for _, answer in sorted(found, key=lambda pair: pair[0])]


def missed_replicas(answers: int) -> dict[str, float]:
    """Return the chance of missing one wrong replica.

    It is by the number of replicas: none of the answers came from the wrong one.
    """
    return {str(k): (1 - 1 / k) ** answers for k in REPLICAS}


def merge_replicas(made: Sequence[Parity]) -> dict[str, LayerVerdict]:
    """Return the worst verdict on each layer. Its reason names the replica."""
    found: dict[str, LayerVerdict] = {}
    for number, parity in enumerate(made, 1):
        for name, layer in parity.found.items():
            if name not in found or VERDICT_ORDER.index(layer.verdict) < VERDICT_ORDER.index(found[name].verdict):
                about = f"replica {number}: " if len(made) > 1 and layer.verdict != SAME else ""
                found[name] = replace(layer, reason=f"{about}{layer.reason}")
    return found


def parity_exit_code(found: Mapping[str, LayerVerdict], wanted: Collection[str]) -> int:
    """Return the exit code of a comparison.

    It is 1 if a layer differs, 6 if a wanted one is not proven to be the same, else 0.
    """
    if any(layer.verdict == DIFFERS for layer in found.values()):
        return 1
    return 0 if all(name in found and found[name].verdict == SAME for name in wanted) else 6
