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
    """What came of a layer: its verdict, a line that says why, its numbers, and by what it was seen."""

    verdict: Verdict
    reason: str
    seen: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RenderedConversation:
    """A conversation as the export's template and tokenizer have it; a text prompt has no messages."""

    messages: Sequence[Mapping[str, Any]]
    text: str
    ids: list[int]

    @property
    def prompt(self) -> Prompt:
        """The messages, or the text."""
        return [dict(m) for m in self.messages] or self.text


class GreedyAnswer(NamedTuple):
    """A greedy answer of the runtime, its tokens, and whether it was streamed."""

    prompt: RenderedConversation
    said: RuntimeAnswer
    ids: list[int]
    streamed: bool = False


class SampledAnswer(NamedTuple):
    """A sampled answer, its tokens, whether a part of a character follows them, and whether they were reported."""

    said: RuntimeAnswer
    ids: list[int]
    part: bool
    reported: bool

    @property
    def outcomes(self) -> int:
        """The number of tokens of which it is known what was sampled."""
        return len(self.ids) + self.part


@dataclass
class Parity:
    """A runtime beside the exported model, and what was found so far."""

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
        """A few prompts of the suite's rows, for templates fail on what users have, and weights where it was tuned."""
        tasks, drawn = (self.again.collection.tasks, self.again.drawn) if self.again else ({}, {})
        inputs = [(tasks[name].samples or ())[number].input for name in drawn for number in drawn[name]]
        return self._prompted(inputs[:SUITE_ROWS])[0]

    def _prompted(self, conversations: Sequence[Prompt]) -> tuple[list[RenderedConversation], str]:
        """Return those that the export's template and context take, and why one was not taken."""
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
        """What tokens are drawn after: the made conversations, and the suite's prompts."""
        return [*(self.prompts if self.runtime.takes_ids else self.plain_prompts), *self.rows]

    @property
    def max_prompt_tokens(self) -> int:
        """The tokens of the longest conversation that was compared."""
        return max(len(p.ids) for p in [*self.prompts, *self.rows])

    @property
    def plain_prompts(self) -> list[RenderedConversation]:
        """The conversations without tools, which a server may take only with a parser of calls."""
        return [p for p in self.prompts if chat.TOOLS not in chat.split_arguments(p.messages)[1]]

    @cached_property
    def answers(self) -> list[GreedyAnswer]:
        """The runtime's greedy answers as clients get them, the first of which is streamed, too."""
        prompts = [*self.plain_prompts, *self.rows]
        said = self.ask_each(lambda p: self.runtime.answer(p.messages, p.text, GREEDILY, GREEDY), prompts)
        found = [(p, answer, False) for p, answer in zip(prompts, said, strict=True) if answer]
        if self.plain_prompts and (streamed := self.runtime.stream(prompts[0].messages, GREEDILY, GREEDY)):
            found.append((prompts[0], streamed, True))
        return [GreedyAnswer(p, answer, self.ids_of(p, answer), streamed) for p, answer, streamed in found]

    @cached_property
    def answers_scored(self) -> list[TokenScores]:
        """What the reference thinks of those answers, at every place."""
        return [self.reference.score(answer.prompt.ids, answer.ids) for answer in self.answers]

    def ask_each(self, ask: Callable[[A], R], asked: Sequence[A]) -> list[R]:
        """Return what is answered to each, `concurrency` at a time."""
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
        """Return the tokens of an answer up to a part of a character, and whether one follows.

        llama.cpp reports none of these, and what stands next to one under another's number.
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
        """Return whether tokens are as many as is told, but for one that ended them."""
        ends = said.ended == "stop" and ids[-1:] not in ([i] for i in self.reference.stop_ids)
        return said.said is None or said.said - len(ids) in (0, int(ends))

    def covers_answer(self, said: RuntimeAnswer, ids: list[int]) -> bool:
        """Return whether tokens are all that was said, and not those before a broken character, or none for a text."""
        text = REPLACEMENT_CHARACTER not in said.text and bool(ids) == bool(said.text)
        return self.are_all(said, ids) and (ids is said.ids or text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text that tokens come to, special ones left out, up to a part of a character."""
        return str(self.reference.tokens.tokenizer.decode(ids, skip_special_tokens=True)).partition(
            REPLACEMENT_CHARACTER
        )[0]

    def choice_margins(self, said: RuntimeAnswer, ids: list[int], scored: TokenScores) -> list[float]:
        """Return by how much the export's choice leads each token, up to where a text may be of it, cut otherwise."""
        leads, first = (scored.best[:-1] - scored.own).tolist(), scored.first.tolist()
        for at, lead in enumerate(leads if ids is not said.ids else ()):
            other = lead > 0 and first[at] not in self.reference.stop_ids
            if other and self.decode(ids[at:]).startswith(self.decode([first[at]])):
                return leads[:at]
        return leads

    @property
    def compared_answers(self) -> int:
        """How many answers came on connections of their own, each by a replica that a load balancer chose."""
        return len(self.heard.get("told", ())) + len(self.__dict__.get("answers", ()))

    def layer_verdict(self, name: str) -> Verdict | None:
        """Return what came of a layer; None where it was not looked at."""
        return self.found[name].verdict if name in self.found else None


def ask_each(ask: Callable[[A], R], asked: Sequence[A], concurrency: int) -> list[R]:
    """Return what is answered to each, so many at a time."""
    found = http_client.map_concurrent(lambda number, _: ask(asked[number]), len(asked), concurrency)
    return [answer for _, answer in sorted(found, key=lambda pair: pair[0])]


def missed_replicas(answers: int) -> dict[str, float]:
    """Return the chance that one wrong replica of so many gave none of the answers."""
    return {str(k): (1 - 1 / k) ** answers for k in REPLICAS}


def merge_replicas(made: Sequence[Parity]) -> dict[str, LayerVerdict]:
    """Return the worst verdict on each layer, with the replica that it is about."""
    found: dict[str, LayerVerdict] = {}
    for number, parity in enumerate(made, 1):
        for name, layer in parity.found.items():
            if name not in found or VERDICT_ORDER.index(layer.verdict) < VERDICT_ORDER.index(found[name].verdict):
                about = f"replica {number}: " if len(made) > 1 and layer.verdict != SAME else ""
                found[name] = replace(layer, reason=f"{about}{layer.reason}")
    return found


def parity_exit_code(found: Mapping[str, LayerVerdict], wanted: Collection[str]) -> int:
    """Return 1 where a layer differs, 6 where one that is wanted is not proven to be the same, else 0."""
    if any(layer.verdict == DIFFERS for layer in found.values()):
        return 1
    return 0 if all(name in found and found[name].verdict == SAME for name in wanted) else 6
