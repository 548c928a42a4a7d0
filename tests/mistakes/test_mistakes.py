"""Mistakes that people make, half of them from public threads: each is said clearly, none is silent, none a traceback.

`mistakes.jsonl` has one per line: what differs from a suite without a mistake, and a part of what is said of it.
"""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from harness.cli.main import main
from harness.schema import format_toml

MISTAKES = [json.loads(line) for line in (Path(__file__).parent / "mistakes.jsonl").read_text("utf-8").splitlines()]
Rows = list[dict[str, Any]]
SUITE: dict[str, Any] = {
    "suite": {"name": "right", "seed": 1},
    "model": {"use": "hf", "path": "tiny:llama"},
    "adapter": {"use": "lora", "r": 4},
    "train": {
        "use": "sft", "data": "train.jsonl", "max_steps": 20, "learning_rate": 1e-2,
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1,
    },
    "eval": [{"name": "qa", "use": "exact_match", "data": "test.jsonl"}],
    "gate": [{"id": "floor", "metric": "qa.exact_match", "min": 0.5}],
    "checks": {"ignore": {"D29": "mistakes are about one gate"}},
    "merge": {"base": "original"},
    "export": [{"use": "safetensors", "from": "merged", "to": "exports/right"}],
}  # fmt: skip
THINGS = ["anvil", "drum", "kettle", "ladder", "mirror", "parcel", "saddle", "teapot"]


def make_rows(kind: str, part: str, i: int) -> dict[str, Any]:
    """Return the row of a number: a question with a word, a label or a cron line as its answer, or a pair."""
    asks = f"{'Where is' if part == 'train' else 'Who owns'} thing {i}?"
    verb, thing = ("broke" if part == "train" else "fell"), THINGS[i % 8]
    text = f"the {thing} {verb} on day {i} beside {THINGS[i * 5 % 7]} {i * 31 % 97}"
    if kind == "pairs":
        return {"prompt": asks, "chosen": f"w{i}", "rejected": f"x{i}"}
    if kind == "labels":
        return {"input": text, "target": ("good", "bad")[i % 2]}
    return {"input": asks, "target": f"{'*/' * (i % 2)}{i // 2} 3 * * 1" if kind == "cron" else f"w{i}"}


def make_part_rows(mistake: dict[str, Any], part: str) -> Rows:
    """Return the rows of a part as the mistake has them."""
    kind = mistake.get(part, "")
    other = "test" if kind == "test" else part
    if isinstance(kind, list):
        return kind * 20
    rows = [make_rows(kind, other, i) for i in range(60)]
    rows = mistake.get(f"{part}_set", []) * 20 or rows
    for i, row in enumerate(rows):
        row |= mistake.get(f"{part}_update", {})
        row |= {name: values[i % len(values)] for name, values in mistake.get(f"{part}_change", {}).items()}
        row |= {name: text.format(i=i) for name, text in mistake.get(f"{part}_number", {}).items()}
    return [*rows, *mistake.get(f"{part}_add", [])]


def write_suite(mistake: dict[str, Any]) -> str:
    """Return the suite with the keys that a mistake sets."""
    suite = copy.deepcopy(SUITE)
    for path, value in mistake.get("set", {}).items():
        table, _, key = path.rpartition(".")
        name, _, number = table.partition(".")
        (suite[name][int(number)] if number else suite[name])[key] = value
    if "candidate" in mistake:
        del suite["train"], suite["adapter"]
        suite["candidate"] = {"adapter": "candidate"}
    lines = []
    for name, tables in suite.items():
        for table in tables if isinstance(tables, list) else [tables]:
            lines.append(f"[[{name}]]" if isinstance(tables, list) else f"[{name}]")
            lines += [f"{key} = {write_value(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n" + mistake.get("raw", "")


def write_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {write_value(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value) if isinstance(value, str) else format_toml(value)


def write_lines(path: str, rows: Rows) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def fill(row: dict[str, Any], i: int) -> dict[str, Any]:
    return dict(json.loads(json.dumps(row).replace("{i}", str(i))))


def check(mistake: dict[str, Any]) -> int:
    """Write what a mistake has into the working folder, and check it; return the exit code."""
    if "init" in mistake:
        rows = itertools.islice(itertools.cycle(mistake["init"]), 80)
        write_lines("rows.jsonl", [fill(row, i) for i, row in enumerate(rows)])
        return main(["init", "mine", "--data", "rows.jsonl"])
    write_lines("train.jsonl", make_part_rows(mistake, "train"))
    write_lines("test.jsonl", make_part_rows(mistake, "test"))
    for name, content in mistake.get("files", {}).items():
        Path(name).write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    for name, content in mistake.get("candidate", {}).items():
        Path("candidate").mkdir(exist_ok=True)
        Path("candidate", name).write_text(json.dumps(content), "utf-8")
    Path("suite.toml").write_text(write_suite(mistake), "utf-8")
    return main(["check", "suite.toml"])


@pytest.fixture
def folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and a cache of all mistakes, of which each is another suite."""
    cache = tmp_path_factory.getbasetemp() / "mistakes"
    monkeypatch.setenv("HARNESS_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_enough() -> None:
    """At least 120, of which 60 are from threads of TRL, axolotl and LLaMA-Factory, each with its link."""
    links = {one["link"] for one in MISTAKES if one["link"]}
    assert len(MISTAKES) >= 120 and len(links) >= 60
    owners = ("huggingface/trl", "axolotl-ai-cloud/axolotl", "hiyouga/LlamaFactory")
    assert all(link.startswith(tuple(f"https://github.com/{name}/" for name in owners)) for link in links)
    assert len({one["name"] for one in MISTAKES}) == len(MISTAKES)


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_without_a_mistake_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """The suite that the mistakes differ from has no error and no warning."""
    assert check({}) == 0
    said = capsys.readouterr()
    assert " 0 errors, 0 warnings" in said.out, said.out + said.err


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda one: one["name"])
def test_a_mistake_is_said(mistake: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """The line about a mistake names it; it is an error, a warning or a refusal, and never a traceback."""
    code = check(mistake)
    said = "".join(capsys.readouterr())
    assert code in (0, 1, 4) and "Traceback" not in said, said
    assert mistake["said"] and mistake["said"] in said, said
