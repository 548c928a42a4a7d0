"""Real tokens a second of packed rows and of batches of 8 that are padded, on the rows of the domain suite."""

from __future__ import annotations

from statistics import median
from typing import Any

from bench.child import call
from bench.page import Bar, Section, format_gigabytes, format_table
from bench.setting import Setting
from bench.training import BATCH, DATA, LENGTH, make_training_rows, train

QUICK = {"rounds": 1, "documents": 16}
PADDED = {"packing": False, "per_device_train_batch_size": BATCH}
WAYS: dict[str, dict[str, Any]] = {
    "packed": {"packing": True, "per_device_train_batch_size": 1},
    "padded": PADDED,
    "padded, of like lengths": {**PADDED, "train_sampling_strategy": "group_by_length"},
}


def measure(setting: Setting, *, rounds: int = 3, documents: int = 320, data: str = DATA) -> dict[str, Any]:
    """Train one epoch on the same documents in each way, in turn."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name in WAYS:
            found[name].append(call(train_side, setting, way=name, documents=documents, data=data))
    return {"rounds": rounds, "documents": documents, "data": data, "ways": found}


def train_side(setting: Setting, way: str, documents: int, data: str) -> dict[str, Any]:
    """Train one epoch in one way; the tokens are those of the documents, without padding."""
    recipe = {"num_train_epochs": 1, "gradient_accumulation_steps": 1, "max_length": LENGTH, **WAYS[way]}
    facts = train(setting, make_training_rows(documents, data), **recipe)
    return {"rate": facts["tokens_per_second"], "tokens": facts["tokens"], "steps": facts["steps"]}


def section(found: dict[str, Any]) -> Section:
    """Write the part's table."""
    ways, lines = found["ways"], []
    for name, rounds in ways.items():
        rates = " ".join(f"{each['rate']:.1f}" for each in rounds)
        peak = format_gigabytes(max(each["peak"] for each in rounds))
        lines.append([name, rounds[0]["steps"], rounds[0]["tokens"], rates, peak])
    rate = {name: median(each["rate"] for each in rounds) for name, rounds in ways.items()}
    times = rate["packed"] / rate["padded"]
    like = rate["packed"] / rate["padded, of like lengths"]
    text = [
        f"One epoch of {found['documents']} rows of `{found['data']}`, a packed row of at most {LENGTH} tokens a step "
        f"or {BATCH} padded rows; tokens are those of the documents, and padding counts for nothing.",
        format_table(["", "steps", "tokens", "tokens a second, each round", "peak memory"], lines),
        f"Against batches of like lengths packing is {like:.2f}× as fast. That a document has the same loss "
        "packed and alone is a test: `tests/plugins/sft/test_sft.py`, "
        "`test_packed_documents_have_the_losses_they_have_alone`.",
    ]
    bars = [
        Bar("packing: real tokens a second", f"{times:.2f}× batches of {BATCH}, padded", "≥ 1.2×", times >= 1.2),
        Bar("packing: tokens", _format_token_counts(ways), "the same", _has_equal_tokens(ways), result=True),
    ]
    return Section("Packing", text, bars)


def _format_token_counts(ways: dict[str, list[dict[str, Any]]]) -> str:
    return " and ".join(sorted({f"{each['tokens']:,}" for rounds in ways.values() for each in rounds}))


def _has_equal_tokens(ways: dict[str, list[dict[str, Any]]]) -> bool:
    return len({each["tokens"] for rounds in ways.values() for each in rounds}) == 1
