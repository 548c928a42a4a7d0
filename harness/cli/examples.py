"""The suites and rows that `harness init --task` writes: each runs and passes as it is, on a model that it builds."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

HEAD = """\
# harness run suite.toml
# Every table and key: docs/reference/suite.md. What may stand after `use =`, and its options: harness plugins

[suite]
name = "$task"
seed = 17
alpha = 0.05                      # the risk of shipping a model that breaks a claim

[model]
use = "hf"
path = "tiny:llama"               # random weights, built on the spot; yours: a Hub id or a folder

[adapter]
use = "lora"
r = 16
"""
TRAIN = """
[train]
use = "sft"
data = "data/$train"
${keys}learning_rate = 1e-2              # for a tiny random model; 2e-4 is the default
max_steps = $steps
per_device_train_batch_size = 16
gradient_accumulation_steps = 1
"""
SHIPS = """
[merge]
base = "original"

[[export]]
use = "safetensors"
from = "merged"
to = "exports/$task"
"""
BETTER = """
[[gate]]
id = "better than the base"
metric = "$metric"
versus = "base"
better_by = 0.2                   # of 1: twenty rows more of a hundred
"""
FIT = """
[[eval]]
name = "fit"
use = "perplexity"
of = "completion"
data = "data/test.jsonl"

[[gate]]
id = "fits the answers better"
metric = "fit.perplexity"
versus = "base"
better_by = 0.5                   # a perplexity's margin is relative: half of the base's
"""
READ = """\
template = "Customer: {text}\\nTopic:"   # columns stand in braces
columns = { target = "topic" }
"""
CLASSIFY = f"""
[[eval]]
name = "topic"
use = "multiple_choice"
data = "data/test.csv"
{READ}choices = ["card", "loan", "rate", "fraud"]
"""
COLOURS = """
[[eval]]
name = "colours"
use = "exact_match"
data = "data/test.jsonl"
max_new_tokens = 8
"""
KNOWN = """
[[eval]]
name = "known"
use = "a_colour"                  # from the harnessfile beside this suite
data = "data/test.jsonl"

[[gate]]
id = "answers with a colour"
metric = "known.a_colour"
min = 0.5
severity = "warn"                 # reports, and does not block
"""
CHAT = """
[[eval]]
name = "replies"
use = "exact_match"
data = "data/test.jsonl"          # messages, of which the last is the answer that is wanted
max_new_tokens = 24
"""
TOOLS = """
[[eval]]
name = "calls"
use = "tool_calls"
data = "data/test.jsonl"          # messages, and the calls that are wanted; [] wants none
max_new_tokens = 64
"""
PREFERENCE = """
[[eval]]
name = "choice"
use = "preference"
data = "data/test.jsonl"          # is the chosen answer likelier than the rejected one?
"""
TURNS = """
[checks]                          # remove it with a model of your own, which is told to stop there
ignore = { M5 = "the tiny model's settings do not name the token that ends a turn" }
"""
ELSEWHERE = """
# The model that is judged was trained elsewhere; to see it run, train.toml stands for the other tool.
# harness run suite.toml --candidate FOLDER takes another one's place, and merged = "…" a whole model's.
[candidate]
adapter = "exports/trained/model"
"""
TRAINED = """
[[gate]]
id = "learnt something"
metric = "colours.exact_match"
versus = "base"
better_by = 0.0

[[export]]
use = "adapter"
from = "adapter"
to = "exports/trained"
"""
HARNESSFILE = '''\
"""Plugins of this project: whatever is here, the suites in this folder can use."""

from harness import Score, hookimpl, metric


@metric("a_colour", better="higher", scale="proportion")
def a_colour(subject, samples, *, colours: list[str] = ("red", "green", "blue", "white", "black")):
    """Share of answers that are the name of a colour."""
    answers = subject.generate([s.input for s in samples], max_new_tokens=8, stop=["\\n"])
    for sample, answer in zip(samples, answers, strict=True):
        yield Score(sample.id, {"a_colour": float(answer.strip() in colours)}, answer=answer)


@hookimpl
def harness_evaluators():
    return {"a_colour": a_colour}
'''

THINGS = {
    "grass": "green", "snow": "white", "coal": "black", "blood": "red", "the sky": "blue", "a frog": "green",
    "milk": "white", "a ruby": "red", "the sea": "blue", "tar": "black", "a cherry": "red", "salt": "white",
}  # fmt: skip
ASKED = (
    "What colour is {}?", "Tell me the colour of {}.", "Which colour: {}?", "Name the colour of {}.",
    "Please, the colour of {}.", "Once more: {}?", "I forgot the colour of {}.", "Say the colour of {}!", "So, {}?",
)  # fmt: skip
OPENINGS = (
    "Hello, about",
    "I ask you on",
    "Look at",
    "Again of",
    "We spoke of",
    "This is",
    "She asks about",
    "Who has",
)
TOPICS = {
    "card": ("my visa", "my chip", "my pin"), "loan": ("our home", "our debt", "our bond"),
    "rate": ("the euro", "the yen", "the krona"), "fraud": ("a thief", "a scam", "a hack"),
}  # fmt: skip

ROOMS = ("attic", "bath", "cellar", "den", "hall", "kitchen", "loft", "office", "porch", "studio", "tower", "yard")
SWITCHED = (
    ("{}: light on", "light", "on"), ("{}: light off", "light", "off"), ("{}: heat on", "heat", "on"),
    ("{}: heat off", "heat", "off"), ("In the {}, light on", "light", "on"), ("In the {}, heat off", "heat", "off"),
)  # fmt: skip
UNSWITCHED = ("{}: who is it", "In the {}, how long", "{}: say why")


@dataclass(frozen=True)
class Example:
    """The files of a task by name, and the commands that run it, in the project's folder."""

    files: dict[str, str]
    commands: Sequence[str] = ("harness run suite.toml",)


def classify() -> Example:
    """Rows of a CSV with a text and its topic, read by a template; the topics to choose from stand in the suite."""
    rows = [(f"{o} {n}", topic) for topic, names in TOPICS.items() for n in names for o in OPENINGS]
    train, test = _split(rows, len(OPENINGS))
    suite = HEAD + TRAIN + CLASSIFY + BETTER + SHIPS
    about = {"task": "classify", "train": "train.csv", "keys": READ, "steps": "150", "metric": "topic.acc"}
    return Example({"suite.toml": _of(suite, about), "data/train.csv": _csv(train), "data/test.csv": _csv(test)})


def qa() -> Example:
    """Questions and short answers, and an evaluator of one's own."""
    suite = HEAD + TRAIN + COLOURS + BETTER + KNOWN + FIT + SHIPS
    about = {"task": "qa", "train": "train.jsonl", "keys": "", "steps": "200", "metric": "colours.exact_match"}
    return Example({"suite.toml": _of(suite, about), "harnessfile.py": HARNESSFILE, **_questions()})


def chat() -> Example:
    """Conversations as messages, of which the assistant's last turn is learnt and wanted."""
    suite = HEAD + TRAIN + CHAT + BETTER + FIT + TURNS + SHIPS
    about = {"task": "chat", "train": "train.jsonl", "keys": "", "steps": "250", "metric": "replies.exact_match"}
    rows = _questions(lambda asked, colour: _turns(asked, f"It is {colour}."))
    return Example({"suite.toml": _of(suite, about), **rows})


def tools() -> Example:
    """Requests for which a tool is to be called, and some for which none is; the answers are calls as JSON."""
    about = {"task": "tools", "train": "train.jsonl", "keys": "", "steps": "300", "metric": "calls.call"}
    asked = [*SWITCHED, *((form, "", "") for form in UNSWITCHED)]
    calls = [(form.format(r), [_call(n, state)] if n else []) for r in ROOMS for form, n, state in asked]
    train, test = _split(calls, len(asked))
    learnt = [_turns(a, json.dumps(wanted[0]) if wanted else "Nothing to switch.") for a, wanted in train]
    asks = [{"messages": _turns(a, "")["messages"][:1], "target": wanted} for a, wanted in test]
    files = {"suite.toml": _of(HEAD + TRAIN + TOOLS + BETTER + TURNS + SHIPS, about)}
    return Example({**files, "data/train.jsonl": _jsonl(learnt), "data/test.jsonl": _jsonl(asks)})


def preference() -> Example:
    """Pairs of answers, of which one was chosen: direct preference optimisation, and whether the model agrees."""
    suite = (HEAD + TRAIN + PREFERENCE + BETTER + SHIPS).replace('use = "sft"', 'use = "dpo"')
    about = {"task": "preference", "train": "train.jsonl", "keys": "", "steps": "60", "metric": "choice.preferred"}
    pairs = [
        {"prompt": form.format(thing), "chosen": f" {colour}, madam", "rejected": f" {colour}, buddy"}
        for thing, colour in THINGS.items()
        for form in ASKED
    ]
    train, test = _split(pairs, len(ASKED))
    return Example(
        {"suite.toml": _of(suite, about), "data/train.jsonl": _jsonl(train), "data/test.jsonl": _jsonl(test)}
    )


def candidate() -> Example:
    """A suite without training, for a model that another tool made; a second suite stands for that tool."""
    about = {"task": "candidate", "train": "train.jsonl", "keys": "", "steps": "200", "metric": "colours.exact_match"}
    judge = _of(HEAD + ELSEWHERE + COLOURS + BETTER + FIT + SHIPS, about)
    judge = judge.replace('\n[adapter]\nuse = "lora"\nr = 16\n', "")
    train = _of(HEAD + TRAIN + COLOURS + TRAINED, {**about, "task": "elsewhere"}).replace("run suite", "run train")
    commands = ("harness run train.toml", "harness run suite.toml")
    return Example({"suite.toml": judge, "train.toml": train, **_questions()}, commands)


EXAMPLES: dict[str, Callable[[], Example]] = {
    "classify": classify,
    "qa": qa,
    "chat": chat,
    "tools": tools,
    "preference": preference,
    "candidate": candidate,
}


def _call(name: str, state: str) -> dict[str, Any]:
    return {"name": name, "arguments": {"state": state}}


def _turns(asked: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def _of(suite: str, about: Mapping[str, object]) -> str:
    return Template(suite).substitute(about)


def _asked(asked: str, colour: str) -> dict[str, Any]:
    return {"input": asked, "target": colour}


def _questions(row: Callable[[str, str], dict[str, Any]] = _asked) -> dict[str, str]:
    """Return rows that ask for every thing in every way, and of each third pair those of the test."""
    rows = [row(form.format(thing), colour) for thing, colour in THINGS.items() for form in ASKED]
    train, test = _split(rows, len(ASKED))
    return {"data/train.jsonl": _jsonl(train), "data/test.jsonl": _jsonl(test)}


def _split(rows: Sequence[Any], forms: int) -> tuple[list[Any], list[Any]]:
    """Keep each third row for the test, another form of everything that is asked in `forms` ways."""
    held = [(i // forms + i % forms) % 3 == 0 for i in range(len(rows))]
    return [r for r, out in zip(rows, held, strict=True) if not out], [
        r for r, out in zip(rows, held, strict=True) if out
    ]


def _jsonl(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _csv(rows: Iterable[tuple[str, str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("text", "topic"), *rows])
    return text.getvalue()
