"""`harness init`: a small project that runs as it is, to be changed into one's own."""

from __future__ import annotations

import json
from pathlib import Path

from harness.errors import UsageError
from harness.files import write_text
from harness.plugins import load_plugins
from harness.suite.json_schema import json_schema

SCHEMA = "suite.schema.json"

SUITE = """\
#:schema suite.schema.json
# harness run suite.toml
# Every table and key: docs/suite.md. What may stand after `use =`, and its options: harness plugins

[suite]
name = "example"
seed = 17
alpha = 0.05                      # the risk of shipping a model that breaks a claim

[model]
use = "hf"
path = "tiny:llama"               # random weights, built on the spot; yours: a Hub id or a folder

[adapter]
use = "lora"
r = 8

[train]
use = "sft"
data = "data/train.jsonl"
learning_rate = 1e-2              # for a tiny random model; 2e-4 is the default
max_steps = 60
per_device_train_batch_size = 8
gradient_accumulation_steps = 1

[[eval]]
name = "colours"
use = "exact_match"
data = "data/test.jsonl"
max_new_tokens = 24

[[eval]]
name = "polite"
use = "polite"                    # from the harnessfile beside this suite
data = "data/test.jsonl"

[[eval]]
name = "fit"
use = "perplexity"
of = "completion"
data = "data/test.jsonl"

[[gate]]
id = "better than the base"
metric = "fit.perplexity"
versus = "base"
better_by = 0.5                   # a perplexity's margin is relative: half of the base's

[[gate]]
id = "polite"
metric = "polite.polite"
min = 0.1
severity = "warn"                 # reports, and does not block

[merge]
base = "original"

[[export]]
use = "safetensors"
from = "merged"
to = "exports/example"
"""

HARNESSFILE = '''\
"""Plugins of this project: whatever is here, the suites in this folder can use."""

from harness import Score, hookimpl, metric


@metric("polite", better="higher", scale="proportion")
def polite(subject, samples, *, words: list[str] = ("please", "thank")):
    """Share of answers with a polite word in them."""
    answers = subject.generate([s.input for s in samples], max_new_tokens=16)
    for sample, answer in zip(samples, answers, strict=True):
        yield Score(sample.id, {"polite": float(any(w in answer.lower() for w in words))}, answer=answer)


@hookimpl
def harness_evaluators():
    return {"polite": polite}
'''

THINGS = {
    "grass": "green", "snow": "white", "coal": "black", "blood": "red", "the sky": "blue", "a lemon": "yellow",
    "a carrot": "orange", "milk": "white", "a ruby": "red", "a frog": "green", "the sea": "blue", "tar": "black",
    "an egg yolk": "yellow", "a pumpkin": "orange", "a cucumber": "green", "a cherry": "red",
}  # fmt: skip
ASKED = ("What colour is {}?", "Tell me the colour of {}.", "{}: which colour?", "The colour of {} is?")


def write_project(folder: Path) -> list[Path]:
    """Write suite, its schema, harnessfile and data. Raises UsageError when one of the files is there already."""
    files = {"suite.toml": SUITE, "harnessfile.py": HARNESSFILE, **_data()}
    taken = [name for name in (*files, SCHEMA) if (folder / name).exists()]
    if taken:
        raise UsageError(f"{folder / taken[0]}: is there already; choose an empty folder")
    for name, text in files.items():
        write_text(folder / name, text)
    made = json_schema(load_plugins(folder / "suite.toml"))
    write_text(folder / SCHEMA, json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    return [folder / name for name in (*files, SCHEMA)]


def _data() -> dict[str, str]:
    """Every thing is asked for in every way; each fourth pair is kept for the test."""
    train: list[str] = []
    test: list[str] = []
    for i, (thing, colour) in enumerate(THINGS.items()):
        for j, form in enumerate(ASKED):
            row = {
                "id": f"{thing}-{j}",
                "prompt": form.format(thing) + "\n",
                "completion": f"{colour}, please",
                "thing": thing,
            }
            (test if (i + j) % len(ASKED) == 0 else train).append(json.dumps(row) + "\n")
    return {"data/train.jsonl": "".join(train), "data/test.jsonl": "".join(test)}
