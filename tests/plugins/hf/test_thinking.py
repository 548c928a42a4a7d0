"""The thinking budget: a thought that is too long is closed by force, and one within it has the bits of any other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import harness_hf
from harness.errors import UsageError
from harness.internals import generate_final_answers
from harness.records.models import Generate, ModelRef, ThoughtBudget
from harness.testing import ROWS, SUITE, TRAIN, Project
from harness.workers.protocol import options_from_json, options_to_json
from tests.helpers.late import import_late

torch = pytest.importorskip("torch")
import_late("transformers")

MARKS = ("[", "]")  # of the tiny model's texts
BUDGET = ThoughtBudget(*MARKS, 12)
ANSWER = 6  # tokens


class Script:
    """Says what was written for a prompt, whatever the logits: its thought, and what follows the end of it."""

    def __init__(self, tokens: Any, told: dict[str, tuple[str, str]]) -> None:
        self.tokens, self.eos = tokens, tokens.tokenizer.eos_token_id
        self.told = {
            tuple(tokens.encode_prompts([p])[0]): tuple(map(tokens.encode_plain, both)) for p, both in told.items()
        }

    def next(self, answer: Any) -> int:
        """Return the token that comes next."""
        thought, after = self.told[tuple(answer.prompt)]
        ended = answer.thinking.ended if answer.thinking else None
        said, place = (after, len(answer.ids) - ended) if ended is not None else (thought, len(answer.ids))
        return int(said[place]) if place < len(said) else int(self.eos)

    def __call__(self, logits: Any, answers: Sequence[Any]) -> Any:
        return torch.tensor([self.next(answer) for answer in answers])


LONG = "[" + "abc " * 40
SAID = {  # the thought, what follows its end; the text, its end, whether the thought was closed by force
    "free": ("[ab]", "yes", "[ab]yes", "eos", False),
    "long": (LONG, "yes", None, "eos", True),
    "ends[": ("ab]", "no", "ab]no", "eos", False),
    "opens [": ("abc " * 40, "no", None, "eos", True),
    "quick": ("yes", "", "yes", "eos", False),
    "talks": ("abc " * 40, "", None, "length", False),
    "babbles": (LONG, "abc " * 40, None, "length", True),
    "silent": ("", "", "", "eos", False),
}


@pytest.fixture
def subject(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Load the tiny model in float32."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    with harness_hf.load([ModelRef("base", str(tiny_model))], dtype="float32") as (loaded,):
        yield loaded


def check(subject: Any, answers: Sequence[Any]) -> None:
    """Hold answers to what was scripted: the first tokens of a thought, its end, then the answer's own tokens."""
    encode, decode = subject.tokens.encode_plain, subject.tokens.decode
    for (prompt, (thought, after, text, ended, forced)), said in zip(SAID.items(), answers, strict=True):
        assert (said.finish_reason, said.forced) == (ended, forced), prompt
        if text is None and forced:
            text = decode([*encode(thought)[: BUDGET.tokens], *encode("]"), *encode(after)[:ANSWER]])
        assert said == (decode(encode(thought)[:ANSWER]) if text is None else text), prompt
        counted = len(encode(str(said))) + (ended == "eos")
        assert said.tokens == counted, prompt


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("fails", [False, True])
def test_thoughts_are_closed_as_scripted(subject: Any, rows: int, fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any company, and when memory runs out in a thought: forced and free answers are what was said."""
    script = Script(subject.tokens, {prompt: both[:2] for prompt, both in SAID.items()})
    monkeypatch.setattr("harness_hf.generation.MAX_BATCH_ROWS", rows)
    monkeypatch.setattr("harness_hf.generation.choose_greedily", script)
    if fails:
        from harness_hf.generation import Batch

        steps, step = iter(range(10_000)), Batch.step

        def failing(batch: Any) -> Any:
            if len(batch.rows) > 1 and next(steps) == 13:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return step(batch)

        monkeypatch.setattr(Batch, "step", failing)
    check(subject, subject.generate(list(SAID), max_new_tokens=ANSWER, thought_budget=BUDGET))


def test_vllm_does_the_same_in_rounds(subject: Any) -> None:
    """An engine that is asked again where a thought ends or is closed comes to the answers of "hf"."""
    from harness_vllm.subject import VLLMSubject

    script = Script(subject.tokens, {prompt: both[:2] for prompt, both in SAID.items()})
    asked: list[int] = []

    class Engine:
        """Says the script from wherever the tokens so far are; a thought's end is where its mark was."""

        def answer(self, prompts: Any, how: Any, most: Sequence[int], stops: Sequence[int]) -> list[Any]:
            asked.append(len(prompts))
            return [self._one(ids, n, stops) for ids, n in zip(prompts, most, strict=True)]

        def _one(self, ids: list[int], most: int, stops: Sequence[int]) -> Any:
            begun = next(p for p in script.told if tuple(ids[: len(p)]) == p)
            thought, after = script.told[begun]
            known, end = ids[len(begun) :], subject.tokens.encode_plain("]")[0]
            at = known.index(end) + 1 if end in known else None
            rest = after[len(known) - at :] if at is not None else [*thought[len(known) :], *after]
            found = [*rest, script.eos][:most]
            return SimpleNamespace(token_ids=found)

    one: Any = object.__new__(VLLMSubject)
    one.tokens, one.context, one.engine, one.stops, one.name = subject.tokens, 512, Engine(), [script.eos], "base"
    check(subject, one.generate(list(SAID), max_new_tokens=ANSWER, thought_budget=BUDGET))
    assert asked[0] == len(SAID) and len(asked) <= 5


def test_a_thought_within_its_budget_has_the_bits_of_one_without(subject: Any) -> None:
    """Nothing is rendered or run again: where nothing is forced, the tokens are those of a plain answer."""
    prompts = [f"{i} [" for i in range(8)]
    plain = subject.generate(prompts, max_new_tokens=24)
    thought = subject.generate(prompts, max_new_tokens=24, thought_budget=ThoughtBudget("[", "]]]", 40))
    assert all(long.startswith(short) for short, long in zip(plain, thought, strict=True))
    assert [a.forced for a in thought] == [a.tokens > 40 for a in thought] and any(a.forced for a in thought)


def test_what_is_matched_is_what_comes_after(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluator gets an answer where without a budget the thought used up all tokens."""
    script = Script(subject.tokens, {prompt: both[:2] for prompt, both in SAID.items()})
    monkeypatch.setattr("harness_hf.generation.choose_greedily", script)
    options: dict[str, Any] = {"thought": MARKS, "max_new_tokens": ANSWER}
    assert [said for said, _ in generate_final_answers(subject, ["long", "opens ["], **options)] == ["", ""]
    found = generate_final_answers(subject, ["long", "opens [", "free"], thought_budget=BUDGET, **options)
    assert [said for said, _ in found] == ["yes", "no", "yes"]


def test_a_mark_that_no_answer_shows_is_refused(subject: Any) -> None:
    """A special token is left out of texts, so that nobody could see where a thought ends."""
    eos = subject.tokens.tokenizer.eos_token
    with pytest.raises(UsageError, match="is a special token of this model, which answers do not contain"):
        subject.generate(["a"], thought_budget=ThoughtBudget("[", eos, 4))


def test_a_budget_reaches_a_worker() -> None:
    """It is JSON on the way, and the same afterwards; without one the message is what it was."""
    how = Generate(max_new_tokens=4, thought_budget=BUDGET)
    assert options_from_json(options_to_json(how.keywords)) == how.keywords
    assert "thought_budget" not in options_to_json(Generate().keywords)


BAD = [
    ("thought_budget = 0", "thought_budget is 0; it must be 1 or more"),
    ("thought_budget = -3", "thought_budget is -3; it must be 1 or more"),
    (
        "thought_budget = 64\n#",
        'thought_budget needs the marks around the reasoning; add thought = ["<think>", "</think>"]',
    ),
    ('thought_budget = "64"', "thought_budget"),
]


@pytest.mark.parametrize(("line", "says"), BAD)
def test_a_budget_that_nothing_keeps_is_refused(project: Project, line: str, says: str) -> None:
    """One clear line at collection."""
    suite = SUITE.replace('data = "test.jsonl"', f'data = "test.jsonl"\n{line}\nthought = ["<think>", "</think>"]', 1)
    if line.endswith("#"):
        suite = SUITE.replace('data = "test.jsonl"', f'data = "test.jsonl"\n{line}', 1)
    done = project.write({"suite.toml": suite, "test.jsonl": ROWS, "train.jsonl": TRAIN}).harness("check", "suite.toml")
    assert done.code == 4 and says in done.err


def test_a_server_cannot_close_a_thought(project: Project) -> None:
    """A loader says what it lacks; the line says what to do, and a short limit without a budget is told."""
    line = 'data = "test.jsonl"\nthought = ["<think>", "</think>"]\n'
    baseline = '[subject.other]\nuse = "api"\npath = "gpt"\nbase_url = "http://localhost:1/v1"\n'
    suite = SUITE.replace('data = "test.jsonl"', f"{line}thought_budget = 64", 1) + baseline
    project.write({"test.jsonl": ROWS, "train.jsonl": TRAIN, "suite.toml": suite})
    done = project.harness("check", "suite.toml")
    says = (
        'thought_budget: the loader "api" cannot end a model\'s reasoning; remove it, and set reasoning_effort in body'
    )
    assert done.code == 4 and says in done.err
    project.write({"suite.toml": SUITE.replace('data = "test.jsonl"', line, 1)})
    done = project.harness("check", "suite.toml")
    assert "max_new_tokens = 32 must hold reasoning and answer; set thought_budget, or 512 or more" in " ".join(
        done.out.split()
    )
