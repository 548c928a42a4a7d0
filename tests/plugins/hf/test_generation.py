"""Generation: greedy, the same in any company, and it ends where it should."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import chisquare

import harness_hf
from harness.errors import UsageError
from harness.records.models import ModelRef, Sampling

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from harness_hf import generation  # noqa: E402
from harness_hf.cpu import attention, cascade  # noqa: E402

pytestmark = pytest.mark.slow
PROMPTS = [f"{'word ' * (i % 5)}prompt number {i}:" for i in range(20)]
EXAMPLES = "".join(f"Say {i}: {i}{i}\n" for i in range(12))


@pytest.fixture
def subject(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Load the tiny model in float32."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    with harness_hf.load([ModelRef("base", str(tiny_model))], dtype="float32") as (loaded,):
        yield loaded


def generate_with_transformers(subject: Any, prompt: Any, new: int) -> list[int]:
    """Let transformers generate greedily for one prompt."""
    ids = torch.tensor([subject.tokens.encode_prompts([prompt])[0]])
    with torch.inference_mode():
        out = subject.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            do_sample=False,
            eos_token_id=[2, 4],
            pad_token_id=0,
        )
    return [i for i in out[0, ids.shape[1] :].tolist() if i not in (0, 2, 4)]


def test_answers_are_transformers_own(subject: Any) -> None:
    """Texts and chats get the answer that `model.generate` gives them one at a time."""
    prompts = [*PROMPTS, [{"role": "user", "content": "hi"}]]
    expected = [subject.tokens.decode(generate_with_transformers(subject, p, 24)) for p in prompts]
    assert subject.generate(prompts, max_new_tokens=24) == expected


@pytest.mark.parametrize("rows", [1, 3, 32])
@pytest.mark.parametrize("front", ["", EXAMPLES])
def test_answers_do_not_depend_on_company(subject: Any, rows: int, front: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, in small batches that are refilled or all at once, behind a shared beginning or not: the same answers."""
    monkeypatch.setattr("harness_hf.generation.MAX_BATCH_ROWS", rows)
    prompts = [front + p for p in PROMPTS]
    alone = [subject.generate([p], max_new_tokens=16)[0] for p in prompts]
    assert subject.generate(prompts, max_new_tokens=16) == alone


def test_a_shared_beginning_is_run_once(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples in front of all prompts go through the model in one row."""
    subject.generate([EXAMPLES + p for p in PROMPTS], max_new_tokens=1)  # how to answer is tried once
    seen: list[tuple[int, ...]] = []
    subject.model.register_forward_pre_hook(
        lambda _m, _a, kw: seen.append(tuple(kw["input_ids"].shape)), with_kwargs=True
    )
    subject.generate([EXAMPLES + p for p in PROMPTS], max_new_tokens=2)
    assert seen[0][0] == 1
    assert seen[0][1] >= len(EXAMPLES)
    assert all(width < 64 for _, width in seen[1:])


@pytest.mark.parametrize("rows", [3, 32])
def test_a_shared_beginning_is_kept_once(subject: Any, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys and values stand beside the batch in one row, and the logits are those of the rows in full."""
    monkeypatch.setattr(generation, "MAX_BATCH_ROWS", rows)
    prompts = subject.tokens.encode_prompts([EXAMPLES + p for p in PROMPTS])
    ending = generation.StopCondition(subject.tokens, frozenset(), ())
    seen: dict[type, dict[tuple[int, int], torch.Tensor]] = {}
    for kind in (generation.Batch, cascade.CascadeBatch):
        kept = seen.setdefault(kind, {})

        def choose(logits: torch.Tensor, rows: Any, kept: Any = kept) -> torch.Tensor:
            kept.update({(a.number, len(a.ids)): row for a, row in zip(rows, logits, strict=True)})
            return logits.argmax(-1)

        answers = [generation.AnswerState(i, ids, 3 + i % 5, ending) for i, ids in enumerate(prompts)]
        columns: set[int] = set()
        subject.model.register_forward_pre_hook(
            lambda _m, _a, kw, columns=columns: columns.add(kw["attention_mask"].shape[1]), with_kwargs=True
        )
        assert len(list(generation.answer_in_batches(subject.model, answers, choose, kind=kind))) == len(prompts)
    assert min(columns) < len(EXAMPLES) // 2
    assert seen[cascade.CascadeBatch].keys() == seen[generation.Batch].keys()
    for place, logits in seen[generation.Batch].items():
        assert torch.allclose(seen[cascade.CascadeBatch][place], logits, atol=1e-4)


def test_a_shared_beginning_kept_once_is_tried(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it does not give what a plain forward gives, the rows hold the beginning themselves."""
    prompts = [EXAMPLES + p for p in PROMPTS]
    right = subject.generate(prompts, max_new_tokens=8)
    assert cascade.VERIFIED_MODELS.pop(subject.model)
    attend = attention._attend_with_shared_prefix
    monkeypatch.setattr(attention, "_attend_with_shared_prefix", lambda *a, **k: attend(*a, **k) * 1.05)
    assert subject.generate(prompts, max_new_tokens=8) == right
    assert not cascade.VERIFIED_MODELS.pop(subject.model)


def test_rows_stop_one_by_one(subject: Any) -> None:
    """The text ends before the first stop string, for each row where its own comes."""
    full = subject.generate(PROMPTS, max_new_tokens=32)
    stop = [full[0][3], full[1][5:7]]
    cut = [min((t.find(s) for s in stop if s in t), default=len(t)) for t in full]
    assert subject.generate(PROMPTS, max_new_tokens=32, stop=stop) == [t[:c] for t, c in zip(full, cut, strict=True)]
    assert len(set(cut)) > 2


def test_finished_rows_leave_the_batch(subject: Any) -> None:
    """A row that has ended costs nothing more."""
    sizes: list[int] = []
    full = subject.generate(PROMPTS[:2], max_new_tokens=20)
    other = next(c for c in full[0] if c not in full[1])
    subject.model.register_forward_pre_hook(lambda _m, _a, kw: sizes.append(len(kw["input_ids"])), with_kwargs=True)
    subject.generate(PROMPTS[:2], max_new_tokens=20, stop=[other])
    assert sizes[0] == 2
    assert sizes[-1] == 1


def test_a_stop_string_over_several_tokens_is_found(subject: Any) -> None:
    """A stop string of many tokens ends the answer when its last token comes."""
    full = subject.generate(PROMPTS[:1], max_new_tokens=32)[0]
    assert subject.generate(PROMPTS[:1], max_new_tokens=32, stop=[full[4:12]]) == [full[: full.find(full[4:12])]]


def test_a_stop_string_may_be_a_special_token(subject: Any) -> None:
    """It is in no decoded text, so the answer ends at the token itself, as in lm_eval."""
    full, forwards = subject.generate(PROMPTS[:1], max_new_tokens=8)[0], []

    def fourth(_: Any, __: Any, out: Any) -> Any:
        forwards.append(1)
        return out.index_fill(-1, torch.tensor([3]), 99.0) if len(forwards) == 4 else out

    subject.model.lm_head.register_forward_hook(fourth)
    ids = subject.tokens.tokenizer(full, add_special_tokens=False)["input_ids"][:3]
    assert subject.generate(PROMPTS[:1], max_new_tokens=8, stop=["<unk>"]) == [subject.tokens.decode(ids)]
    assert len(forwards) == 4


def test_the_end_of_a_turn_is_a_stop_token(subject: Any) -> None:
    """EOS and what ends a turn in the chat template both end an answer, though only one of them is eos."""
    tokenizer = subject.tokens.tokenizer
    turn_end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert subject.tokens.stop_ids == {tokenizer.eos_token_id, turn_end}
    with torch.no_grad():
        subject.model.lm_head.weight[:] = 0
        subject.model.lm_head.weight[turn_end] = subject.model.lm_head.weight.new_zeros(64)
    subject.model.lm_head.register_forward_hook(lambda _m, _i, out: out.index_fill(-1, torch.tensor([turn_end]), 9.0))
    assert subject.generate(PROMPTS[:3], max_new_tokens=8) == ["", "", ""]


def test_answers_end_with_the_context(subject: Any) -> None:
    """A prompt that leaves room for a few tokens gets a few, one that leaves none is refused."""
    room = 512 - 506  # a letter is a token, and there is a BOS
    assert subject.generate(["x" * 505]) == [
        subject.tokens.decode(generate_with_transformers(subject, "x" * 505, room))
    ]
    with pytest.raises(UsageError, match="a prompt has 601 tokens, but the context is 512"):
        subject.generate(["x" * 600])


def test_nothing_asked_nothing_answered(subject: Any) -> None:
    """No prompts give no answers, no tokens give empty ones."""
    assert subject.generate([]) == []
    assert subject.generate(["a", "b"], max_new_tokens=0) == ["", ""]


def test_nan_is_no_answer(subject: Any) -> None:
    """The argmax of NaN is a token like any other, so it is looked for."""
    with torch.no_grad():
        subject.model.lm_head.weight[5] = float("nan")
    with pytest.raises(RuntimeError, match="not finite"):
        subject.generate(["a"])


def test_memory_running_out_loses_no_answer(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that do not fit are halved, and every prompt gets its answer."""
    from harness_hf.generation import Batch

    expected, forward = subject.generate(PROMPTS, max_new_tokens=12), Batch._forward
    sizes = []

    def small(self: Any, ids: Any, *rest: Any) -> Any:
        sizes.append(len(ids))
        if len(ids) > 6:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, ids, *rest)

    monkeypatch.setattr(Batch, "_forward", small)
    assert subject.generate(PROMPTS, max_new_tokens=12) == expected
    assert max(sizes) > 6


def sample_answers(subject: Any, prompts: list[str], seeds: list[int], **how: Any) -> list[str]:
    """Answer with random numbers."""
    sampling = Sampling(how.pop("temperature", 1.0), seeds=tuple(seeds), **how)
    return list(subject.generate(prompts, max_new_tokens=12, sampling=sampling))


@pytest.mark.parametrize("rows", [1, 3, 32])
def test_a_drawn_answer_depends_on_its_own_seed_alone(subject: Any, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same prompt and seed give the same answer in any company; another seed another."""
    monkeypatch.setattr("harness_hf.generation.MAX_BATCH_ROWS", rows)
    alone = [sample_answers(subject, [p], [i])[0] for i, p in enumerate(PROMPTS)]
    assert sample_answers(subject, PROMPTS, list(range(len(PROMPTS)))) == alone
    assert len(set(sample_answers(subject, PROMPTS[:1] * 8, list(range(8))))) > 4


def test_narrow_sampling_is_greedy(subject: Any) -> None:
    """One token to choose from, a tiny share, or no temperature: the likeliest."""
    greedy = subject.generate(PROMPTS[:4], max_new_tokens=12)
    for how in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 0.0}, {"temperature": 1e-4}):
        assert sample_answers(subject, PROMPTS[:4], [5, 6, 7, 8], **how) == greedy


def draw_first_tokens(subject: Any, logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Draw the first token of each row (B,) from logits (B, V), with the row's number as its seed."""
    from harness_hf.generation import AnswerState, StopCondition, draw_tokens

    ending = StopCondition(subject.tokens, frozenset(), ())
    return draw_tokens(sampling, logits, [AnswerState(i, [1], 1, ending, i) for i in range(len(logits))])


def test_tokens_are_drawn_as_often_as_they_are_likely(subject: Any) -> None:
    """Over 40,000 seeds the first token comes as often as temperature, top-k and top-p say, by a chi-square test."""
    logits = torch.log(torch.tensor([[0.4, 0.1, 0.3, 0.2]])).repeat(40_000, 1)
    for sampling, expected in (
        (Sampling(1.0), [0.4, 0.1, 0.3, 0.2]),
        (Sampling(0.5), [16 / 30, 1 / 30, 9 / 30, 4 / 30]),
        (Sampling(1.0, top_k=2), [4 / 7, 0, 3 / 7, 0]),
        (Sampling(1.0, top_p=0.65), [4 / 7, 0, 3 / 7, 0]),
        (Sampling(1.0, top_p=0.85), [4 / 9, 0, 3 / 9, 2 / 9]),
    ):
        counts = torch.bincount(draw_first_tokens(subject, logits, sampling), minlength=4).tolist()
        kept = [(n, share * len(logits)) for n, share in zip(counts, expected, strict=True) if share]
        assert sum(n for n, _ in kept) == len(logits)
        assert chisquare(*zip(*kept, strict=True)).pvalue > 1e-3


@pytest.mark.parametrize(("noise", "most"), [(0.01, 0.015), (0.05, 0.04), (0.2, 0.12), (0.5, 0.27)])
def test_models_that_nearly_agree_draw_the_same_token(subject: Any, noise: float, most: float) -> None:
    """With one seed, little more tokens differ than must, however the ranks change; with other seeds most do."""
    random = torch.Generator().manual_seed(1)
    logits = 3.5 * torch.randn(1000, 5000, generator=random)  # about 4 nats of entropy
    moved = logits + noise * torch.randn(logits.shape, generator=random)
    least = (logits.softmax(-1) - moved.softmax(-1)).abs().sum(-1).mean() / 2  # the total variation distance
    ours, theirs = (draw_first_tokens(subject, each, Sampling(1.0)) for each in (logits, moved))
    assert least - 0.03 < (ours != theirs).float().mean() < most
    assert (ours != theirs.roll(1)).float().mean() > 0.7


def test_answers_come_as_they_end(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is given when it ends, not when all have ended."""
    from harness_hf.generation import Batch

    subject.generate(PROMPTS[:1], max_new_tokens=1)  # how to answer is tried once
    monkeypatch.setattr("harness_hf.generation.MAX_BATCH_ROWS", 2)
    stream = subject.stream_generate(PROMPTS, max_new_tokens=8)
    steps: list[int] = []
    monkeypatch.setattr(Batch, "step", count_calls(Batch.step, steps))
    next(stream)
    assert len(steps) <= 8
    assert len(dict(stream)) == len(PROMPTS) - 1


def test_a_long_prompt_loses_its_beginning_when_told_to(subject: Any) -> None:
    """With `truncate` the answer has its room, and the prompt's end is what is answered."""
    long = "x" * 600 + "y" * 20
    kept = subject.tokens.encode_prompts([long])[0][-(512 - 8) :]
    expected = subject.tokens.decode(
        subject.model.generate(
            torch.tensor([kept]), max_new_tokens=8, do_sample=False, eos_token_id=[2, 4], pad_token_id=0
        )[0, len(kept) :]
    )
    assert subject.generate([long], max_new_tokens=8, truncate=True) == [expected]


def count_calls(function: Any, calls: list[int]) -> Any:
    """Wrap a method so that its calls are counted."""

    def call(self: Any) -> Any:
        calls.append(1)
        return function(self)

    return call


def test_the_first_step_does_not_copy_the_head(subject: Any) -> None:
    """The prompts' last hidden states come to a frozen head in one piece, or torch copies its weight once a row."""
    head = subject.model.get_output_embeddings()
    seen: list[bool] = []
    head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].is_contiguous()))
    subject.generate(PROMPTS, max_new_tokens=2)
    assert seen
    assert all(seen)


def test_a_wrong_cache_is_noticed(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where answers in batches are not a plain forward's, the model's own cache is tried, then none; it is told."""
    expected = subject.generate(PROMPTS, max_new_tokens=8)

    def broken(model: Any, *rest: Any) -> Any:
        forward = model.forward
        with monkeypatch.context() as patched:
            patched.setattr(model, "forward", lambda **kw: forward(**{**kw, "position_ids": None, "cache": None}))
            yield from alone(model, *rest)

    alone = generation._answer_one_by_one
    monkeypatch.setattr(generation, "answer_in_batches", broken)
    generation.CHOSEN_WAYS.clear()
    assert subject.generate(PROMPTS, max_new_tokens=8) == expected
    assert subject.notes == []
    monkeypatch.setattr(generation, "_answer_one_by_one", broken)
    generation.CHOSEN_WAYS.clear()
    assert subject.generate(PROMPTS, max_new_tokens=8) == expected
    assert "does not reproduce a plain forward: answers are generated without a cache" in subject.notes[0]


def test_answers_tell_how_they_ended(subject: Any) -> None:
    """A stop token said at once or in the last place is an end, a stop string in the last place is one, too."""
    free = subject.generate(PROMPTS, max_new_tokens=24)
    assert {(s.finish_reason, s.tokens) for s in free if s.finish_reason == "length"} <= {("length", 24)}
    prompt, ids = next((p, ids) for p in PROMPTS if len(ids := generate_with_transformers(subject, p, 24)) >= 6)
    place = next(i for i in range(2, 6) if ids[i] not in ids[:i])
    subject.tokens.stop_ids.add(ids[place])
    told = [subject.generate([prompt], max_new_tokens=n)[0] for n in (place, place + 1, place + 2)]
    assert [(s.finish_reason, s.tokens) for s in told] == [("length", place), ("eos", place + 1), ("eos", place + 1)]
    subject.tokens.stop_ids.remove(ids[place])
    text = subject.tokens.decode(ids[: place + 1])
    told = [subject.generate([prompt], max_new_tokens=n, stop=[text])[0] for n in (place, place + 1, 24)]
    assert [s.finish_reason for s in told] == ["length", "stop", "stop"] and told[1] == told[2] == ""
    subject.tokens.stop_ids.update(range(len(subject.tokens.tokenizer)))
    assert {(s, s.finish_reason, s.tokens) for s in subject.generate(PROMPTS, max_new_tokens=8)} == {("", "eos", 1)}
    assert subject.generate(["a"], max_new_tokens=0)[0].finish_reason == "length"


@pytest.mark.parametrize("way", ["answer_in_batches", "_answer_one_by_one", "_answer_without_cache"])
def test_a_stop_token_that_is_never_said_cuts_every_answer(
    subject: Any, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit, or where the context ends; a prompt that was cut tells by how much."""
    monkeypatch.setattr(generation, "_list_stop_tokens", lambda model: set())
    monkeypatch.setattr(subject.tokens, "stop_ids", set())
    monkeypatch.setitem(generation.CHOSEN_WAYS, subject.model, getattr(generation, way))
    assert {(s.finish_reason, s.tokens, s.lost) for s in subject.generate(PROMPTS[:4], max_new_tokens=5)} == {
        ("length", 5, 0)
    }
    long = "word " * ((subject.context - 12) // 5)
    (said,) = subject.generate([long], max_new_tokens=50)
    assert said.finish_reason == "context" and said.tokens == subject.context - len(
        subject.tokens.encode_prompts([long])[0]
    )
    (said,) = subject.generate([long], max_new_tokens=50, truncate=True)
    assert (
        said.finish_reason == "length"
        and said.lost == len(subject.tokens.encode_prompts([long])[0]) - subject.context + 50
    )
