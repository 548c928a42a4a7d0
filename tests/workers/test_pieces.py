"""Requests cut into pieces: by cost alone, whole prompts together, and the same bits whoever answers."""

from __future__ import annotations

import random

import pytest

from harness.workers.chunks import CHUNK_CHARS, ChunkedSubject, common_prefix_length, cut_chunks


def make_pairs(rng: random.Random) -> list[tuple[str, str]]:
    """Return pairs of several choices a prompt, behind examples that all share, and whole texts."""
    examples = "word " * rng.choice((0, 50, 2000))
    prompts = [examples + "".join(rng.choices("ab c", k=rng.randrange(1, 900))) for _ in range(rng.randrange(1, 150))]
    pairs = [(p, f" choice {i}") for p in prompts for i in range(rng.randrange(1, 5))]
    pairs += [("", "text " * rng.randrange(1, 400)) for _ in range(rng.randrange(40))]
    rng.shuffle(pairs)
    return pairs


@pytest.mark.parametrize("seed", range(20))
def test_every_request_is_in_one_piece_and_a_prompt_in_one_too(seed: int) -> None:
    """Pieces hold all requests once; choices of one prompt stay together; whole texts need not; order changes none."""
    rng = random.Random(seed)
    pairs = make_pairs(rng)
    pieces = cut_chunks("logprobs", pairs, {})
    assert sorted(i for piece in pieces for i in piece) == list(range(len(pairs)))
    where: dict[str, set[int]] = {}
    for number, piece in enumerate(pieces):
        for i in piece:
            where.setdefault(pairs[i][0] or pairs[i][1], set()).add(number)
    assert all(len(numbers) == 1 for numbers in where.values())
    mixed = rng.sample(range(len(pairs)), len(pairs))
    again = cut_chunks("logprobs", [pairs[i] for i in mixed], {})
    assert [[pairs[i] for i in piece] for piece in pieces] == [[pairs[mixed[i]] for i in piece] for piece in again]


def test_a_piece_costs_much_more_than_what_it_begins_with() -> None:
    """Worked examples are run again for each piece of answers, so one with long examples holds more rows."""
    examples = "word " * 1000
    rows = [f"{i:05} " + "x" * 200 for i in range(2000)]
    few, many = (cut_chunks("generate", [e + row for row in rows], {"max_new_tokens": 1}) for e in ("", examples))
    assert len(few) > 10
    assert 15 * len(examples) <= sum(len(rows[i]) for i in many[0]) <= 18 * len(examples)
    assert len(cut_chunks("generate", rows, {"max_new_tokens": 1000})) > 10 * len(few)
    assert all(sum(len(rows[i]) for i in piece) < 1.1 * CHUNK_CHARS for piece in few)


def test_examples_make_pieces_of_scores_no_larger() -> None:
    """A subject may keep what rows to score begin with, so few rows behind long examples are pieces for several."""
    rows = [f"{i:05} " + "x" * 200 for i in range(600)]
    few, many = (cut_chunks("logprobs", [(e + row, " yes") for row in rows], {}) for e in ("", "word " * 1000))
    assert len(few) == len(many) > 3
    article = "word " * 20_000
    halves = cut_chunks("logprobs", [(article + row, " yes") for row in rows], {})
    assert len(halves) < 3  # of a text as long as several pieces not one piece a question


def test_what_texts_begin_with_is_counted() -> None:
    """Halving finds what a walk finds."""
    rng = random.Random(0)
    for _ in range(300):
        one, other = ("".join(rng.choices("ab", k=rng.randrange(12))) for _ in range(2))
        same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        assert common_prefix_length(one, other) == same


def test_a_subject_forgets_between_pieces_and_answers_come_in_order() -> None:
    """Each piece is asked of a subject that kept nothing, with the seeds of its own prompts."""

    class Counting:
        name, digest = "counting", "0"
        forgot = 0

        def forget(self) -> None:
            self.forgot += 1

        def generate(self, prompts: list[str], **options: object) -> list[str]:
            return [f"{prompt[:5]} {self.forgot}" for prompt in prompts]

    subject, told = Counting(), []
    rows = [f"{i:05} " + "x" * 2000 for i in reversed(range(60))]
    found = ChunkedSubject(subject, told.append).generate(rows, max_new_tokens=1)  # type: ignore[arg-type]
    assert [text[:5] for text in found] == [row[:5] for row in rows]
    assert [int(text[6:]) for text in found] == sorted((int(text[6:]) for text in found), reverse=True)
    assert subject.forgot == len(told) > 2
    assert (told[-1].done, told[-1].total) == (60, 60)
