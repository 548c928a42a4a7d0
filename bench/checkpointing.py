"""What gradient checkpointing saves in memory and costs in time: at the domain suite's settings, and on longer rows."""

from __future__ import annotations

from statistics import median
from typing import Any

from bench.child import call
from bench.page import Bar, Section, format_gigabytes, format_table
from bench.setting import Setting
from bench.training import DATA, LENGTH, make_training_rows, train

QUICK = {"rounds": 1, "steps": 2, "lengths": [LENGTH]}
LOSS = 1e-3  # nats; the same arithmetic, done twice


def measure(
    setting: Setting, *, rounds: int = 2, steps: int = 6, lengths: list[int] | None = None, data: str = DATA
) -> dict[str, Any]:
    """Train so many steps of one packed row of each length in tokens, without and with checkpointing, in turn."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for length in lengths or [LENGTH, 1024, 2048]:
        sides = found[str(length)] = {"without": [], "with": []}
        for _ in range(rounds):
            for name, each in sides.items():
                given = {"steps": steps, "length": length, "data": data, "checkpointing": name == "with"}
                each.append(call(train_side, setting, **given))
    return {"rounds": rounds, "steps": steps, "data": data, "lengths": found}


def train_side(setting: Setting, steps: int, length: int, data: str, *, checkpointing: bool) -> dict[str, Any]:
    """Train some steps; the documents are repeated where there are fewer than fill the rows."""
    documents = make_training_rows(steps * length // 16, data)  # a document has more than 16 tokens
    recipe = {"packing": True, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
    facts = train(
        setting, documents, max_steps=steps, max_length=length, gradient_checkpointing=checkpointing, **recipe
    )
    return {"rate": facts["tokens_per_second"], "loss": facts["train_loss"]}


def section(found: dict[str, Any]) -> Section:
    """Write the part's table."""
    lines, apart = [], 0.0
    for length, sides in found["lengths"].items():
        rate = {name: median(each["rate"] for each in rounds) for name, rounds in sides.items()}
        peak = {name: max(each["peak"] for each in rounds) for name, rounds in sides.items()}
        loss = {name: rounds[0]["loss"] for name, rounds in sides.items()}
        apart = max(apart, abs(loss["with"] - loss["without"]))
        time, memory = rate["without"] / rate["with"], peak["with"] / peak["without"]
        numbers = [f"{rate['without']:.1f}", f"{rate['with']:.1f}", f"{time:.2f}×"]
        numbers += [format_gigabytes(peak["without"]), format_gigabytes(peak["with"]), f"{memory:.2f}×"]
        lines.append([length, *numbers])
    head = ["tokens a row", "tokens a second", "with", "time", "peak memory", "with", "memory"]
    text = [
        f"QLoRA on packed rows of `{found['data']}`, {found['steps']} steps of one row, each training in a process of "
        "its own; the memory is the most that the process had, libraries and base included.",
        format_table(head, lines),
    ]
    bar = Bar("checkpointing: loss", f"{apart:.1e} nats apart", f"< {LOSS:g}", apart < LOSS, result=True)
    return Section("Gradient checkpointing", text, [bar])
