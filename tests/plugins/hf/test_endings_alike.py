"""Forty answers of one script end alike whoever generates them, and one model under two limits is told apart."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import harness_hf
from harness.records.completion import Completion, completion_from_json, completion_to_json
from harness.records.models import ModelRef
from harness.testing import ROWS, SUITE, TRAIN, Project
from harness.workers.protocol import ANSWER_WRITERS, read_rows
from harness_api.replies import read_answer

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

LIMIT, STOP = 9, ["#"]
PROMPTS = [f"answer {i}:" for i in range(40)]


@pytest.fixture
def subject(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Load the tiny model in float32."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    with harness_hf.load([ModelRef("base", str(tiny_model))], dtype="float32") as (loaded,):
        yield loaded


def make_script(tokens: Any) -> list[tuple[list[int], str, str]]:
    """Return forty answers: all tokens that a model would say, the text and the ending that they come to."""
    [a], [stop] = tokens.encode_plain("a"), tokens.encode_plain("#")
    eos, found = tokens.tokenizer.eos_token_id, list[tuple[list[int], str, str]]()
    for i in range(40):
        length = i % 10
        if i % 4 == 0:  # ends by itself, also as its very last token
            found.append(([a] * min(length, LIMIT - 1) + [eos], "a" * min(length, LIMIT - 1), "eos"))
        elif i % 4 == 1:
            found.append(([a] * min(length, LIMIT - 1) + [stop], "a" * min(length, LIMIT - 1), "stop"))
        elif i % 4 == 2:
            found.append(([a] * (LIMIT + i), "a" * LIMIT, "length"))
        else:
            found.append(([eos], "", "eos"))
    return found


def answer_with_hf(subject: Any, script: Any, monkeypatch: pytest.MonkeyPatch) -> list[Completion]:
    said = {tuple(ids): told[0] for ids, told in zip(subject.tokens.encode_prompts(PROMPTS), script, strict=True)}

    def choose(logits: Any, answers: Sequence[Any]) -> Any:
        return torch.tensor([said[tuple(answer.prompt)][len(answer.ids)] for answer in answers])

    monkeypatch.setattr("harness_hf.generation.choose_greedily", choose)
    found: list[Completion] = subject.generate(PROMPTS, max_new_tokens=LIMIT, stop=STOP)
    return found


def answer_with_vllm(subject: Any, script: Any) -> list[Completion]:
    """Answer as vLLM does: the token that ends an answer is among its tokens, a stop string is no part of its text."""
    from harness_vllm.subject import VLLMSubject

    def answer(*_: Any) -> list[Any]:
        found = []
        for ids, text, ended in script:
            reason = {"eos": ("stop", None), "stop": ("stop", "#"), "length": ("length", None)}[ended]
            about = {"finish_reason": reason[0], "stop_reason": reason[1]}
            found.append(SimpleNamespace(token_ids=ids[:LIMIT], text=text, **about))
        return found

    one: Any = object.__new__(VLLMSubject)
    eos = subject.tokens.tokenizer.eos_token_id
    one.tokens, one.context, one.engine, one.stops = subject.tokens, 512, SimpleNamespace(answer=answer), [eos]
    one.name = "base"
    found: list[Completion] = one.generate(PROMPTS, max_new_tokens=LIMIT, stop=STOP)
    return found


def answer_with_server(script: Any) -> list[Completion]:
    """Answer as an OpenAI-compatible server that tells which stop string it was."""
    found = []
    for ids, text, ended in script:
        choice = {"text": text, "finish_reason": "length" if ended == "length" else "stop"}
        choice |= {"stop_reason": "#"} if ended == "stop" else {}
        usage = {"completion_tokens": min(len(ids), LIMIT)}
        found.append(read_answer({"choices": [choice], "usage": usage}, STOP))
    return found


def test_forty_answers_end_alike(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From hf, vLLM, a server, through a worker's messages and out of the cache: the same texts, endings and tokens."""
    script = make_script(subject.tokens)
    own = answer_with_hf(subject, script, monkeypatch)
    sent = json.loads(json.dumps([[i, ANSWER_WRITERS["generate"](said)] for i, said in enumerate(own)]))
    worked = [answer for _, answer in read_rows("generate", sent, set(range(40)))]
    cached = [completion_from_json(json.loads(json.dumps(completion_to_json(said)))) for said in own]
    want = [(text, ended) for _, text, ended in script]
    for found in (own, answer_with_vllm(subject, script), answer_with_server(script), worked, cached):
        assert [(str(said), Completion.of(said).finish_reason) for said in found] == want
        assert all(Completion.of(said).finish_reason for said in found)
        assert [Completion.of(said).tokens for said in found] == [said.tokens for said in own]


TWIN = '''
from contextlib import contextmanager
from dataclasses import replace
from harness import Completion, hookimpl, loader
from harness.testing import identity, load as fake, open_source


class Wordy:
    """A fake model that says nothing of use in fewer than a hundred tokens."""

    def __init__(self, subject):
        self.subject = subject

    def __getattr__(self, name):
        return getattr(self.subject, name)

    def generate(self, prompts, *, max_new_tokens=64, **how):
        texts = self.subject.generate(prompts)
        if max_new_tokens < 100:
            return [Completion(f"let me think of {prompt}", "length", max_new_tokens) for prompt in prompts]
        return [Completion(text, "eos", 100) for text in texts]


@loader(open=lambda path: replace(open_source(path), context=4096), identity=identity)
@contextmanager
def wordy(refs):
    """Load models that say much."""
    with fake(refs) as subjects:
        yield [Wordy(subject) for subject in subjects]


@hookimpl
def harness_loaders():
    return {"wordy": wordy}
'''


@pytest.mark.slow
@pytest.mark.parametrize("claim", ["min = 0.5", 'versus = "base"\nworse_by_at_most = 0.5', "max = 1.0"])
def test_a_limit_that_cuts_is_told_and_passes_nothing(project: Project, claim: str) -> None:
    """With 16 tokens E2 names the eval and no guarded gate passes; with 256 it is silent and the gate passes."""
    suite = SUITE.replace('use = "fake"\npath', 'use = "wordy"\npath').replace(
        "min = 0.5", f"{claim}\ncut_at_most = 0.05"
    )
    said = {}
    for limit in (16, 256):
        text = suite.replace('data = "test.jsonl"', f'data = "test.jsonl"\nmax_new_tokens = {limit}')
        project.write({"suite.toml": text, "test.jsonl": ROWS, "train.jsonl": TRAIN, "harnessfile.py": TWIN})
        said[limit] = project.run()
    assert said[16].code == 6 and said[256].code == 0, said[256].out
    assert '"merged::qa": 60 of 60 answers were truncated at 16 tokens' in said[16].out and "E2" in said[16].out
    assert "E2" not in said[256].out
