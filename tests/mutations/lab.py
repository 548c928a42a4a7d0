"""A small suite on a tiny model, what can be changed of it, and what the checks say then."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from harness.errors import UsageError
from harness.pipeline.run import Options, check_suite, prepare_collection, run_suite

DATA = Path(__file__).parents[2] / "suites" / "data"
THINGS = [
    "anvil",
    "basket",
    "candle",
    "drum",
    "engine",
    "fiddle",
    "goblet",
    "hammer",
    "ink",
    "jacket",
    "kettle",
    "ladder",
    "mirror",
    "needle",
    "organ",
    "pillow",
]
ROWS = [{"prompt": f"Where is the {t}?\n", "completion": f"in room {i + 10}"} for i, t in enumerate(THINGS)]
EVAL = [
    {"input": f"Which shelf has the {t}?\n", "target": f"shelf {i}", "group": f"g{i}"}
    for i, t in enumerate(["quilt", "rope", "saddle", "tray", "urn", "vase", "wheel", "yarn"])
]
CHAT = [
    {
        "messages": [
            {"role": "user", "content": f"Where is the {t}?"},
            {"role": "assistant", "content": f"Room {i + 10}."},
        ]
    }
    for i, t in enumerate(THINGS)
]
LORA = "r = 4\nlora_dropout = 0.0\n"
SUITE = f"""
[suite]
name = "lab"

[model]
use = "hf"
path = "tiny:llama"
dtype = "float32"
device = "cpu"

[adapter]
use = "lora"
{LORA}
[train]
use = "sft"
data = "train.jsonl"
max_length = 256
per_device_train_batch_size = 4
gradient_accumulation_steps = 1

[[eval]]
name = "qa"
use = "exact_match"
data = "test.jsonl"
max_new_tokens = 8
"""
COLOURS = """
[[eval]]
name = "fit"
use = "perplexity"
of = "completion"
data = "colours-test.jsonl"

[[gate]]
id = "learned something"
metric = "fit.perplexity"
allow_approximate = true
versus = "base"
better_by = 0.1

[[export]]
use = "safetensors"
to = "out"
"""
UNGATED = {"checks_ignore.D29": "all weights are trained in some, so that there is no adapter"}


@dataclass(frozen=True)
class Seen:
    """What a run said: the codes of errors and warnings that count, and how it ended."""

    alarms: tuple[str, ...]
    code: int

    def has(self, code: str) -> bool:
        """Return whether there is an alarm of this code, or one with this text, and no check crashed."""
        if any(alarm.endswith("-crashed") for alarm in self.alarms):
            return False
        return any(alarm == code or alarm.startswith(f"{code}-") or code in alarm for alarm in self.alarms)

    def __str__(self) -> str:
        return f"exit {self.code} {', '.join(dict.fromkeys(self.alarms)) or 'clean'}"[:150]


class Lab:
    """A folder with the small suite; `check` looks without training, `run` trains on the colours and looks at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def check(self, rows: Any = ROWS, test: Any = EVAL, *, more: str = "", files: Any = (), **changes: Any) -> Seen:
        """Check the suite with other rows, more TOML, or options changed: `train_learning_rate=0.0`."""
        self._write(rows, test, more, files)
        return self.check_file(self.folder / "suite.toml", *_format_overrides(changes))

    def check_file(self, suite: Path, *overrides: str) -> Seen:
        """Check a suite."""
        try:
            options = Options(overrides=overrides, plugins=("tests.mutations.broken",))
            found, _, _ = check_suite(prepare_collection(suite, options), options)
        except UsageError as error:
            return Seen(error.messages, 4)
        alarms = tuple(f.code for f in found if f.severity != "note" and f.ignored is None)
        return Seen(alarms, 4 if any(f.stops_run for f in found) else 0)

    def run(self, *ignore: str, more: str = "", files: Any = (), candidate: Path | None = None, **changes: Any) -> Seen:
        """Train on the colours, merge, and gate; with `adapter_use="none"` train all weights."""
        for name in ("colours-train.jsonl", "colours-test.jsonl"):
            shutil.copyfile(DATA / name, self.folder / name)
        suite = SUITE.partition("[[eval]]")[0].replace("train.jsonl", "colours-train.jsonl")
        suite = suite.replace(LORA, "") if changes.get("adapter_use") == "none" else suite
        options = {"train_learning_rate": 1e-2, "train_max_steps": 60, "train_per_device_train_batch_size": 8}
        self._write(ROWS, EVAL, COLOURS + more, files, suite)
        run = run_suite(
            self.folder / "suite.toml",
            Options(
                overrides=_format_overrides(UNGATED | options | changes),
                plugins=("tests.mutations.broken",),
                out=self.folder / "reports",
                candidate=str(candidate) if candidate else None,
                ignore=ignore,
                export=False,
            ),
        )
        alarms = [f.code for f in run.findings if f.severity != "note" and f.ignored is None]
        return Seen(tuple(alarms + ([run.problem] if run.problem and not alarms else [])), run.exit_code)

    def fake(self, skill: float, *replied: str, rows: Any = None, **changes: Any) -> Seen:
        """Run a suite on a model that is right on a share of the prompts; `replied` are the names in its replies."""
        from harness.testing import FakeSubject, write_fake

        write_fake(self.folder / "base", 0.3)
        rows = rows or [{"input": f"number {i} say w{i}", "target": f"w{i}"} for i in range(40)]
        suite = SUITE.replace('"hf"', '"fake"').replace('"lora"\nr = 4\nlora_dropout = 0.0', '"fake"')
        suite = suite.replace('"tiny:llama"\ndtype = "float32"\ndevice = "cpu"', f'"{self.folder / "base"}"')
        suite = re.sub(r'"sft"(\ndata = .*)\n(.*\n)*?\n', rf'"fake"\1\nskill = {skill}\n\n', suite)
        self._write(ROWS, rows, "", (), suite)
        folders = {"out": self.folder / "reports", "overrides": _format_overrides(changes)}
        options = Options(plugins=("harness.testing",), export=False, **folders)
        facts = {"path": "a", "models that replied": [*replied]}
        with patch.object(FakeSubject, "facts", facts, create=True):
            run = run_suite(self.folder / "suite.toml", options)
        return Seen(tuple(f.code for f in run.findings if f.severity != "note" and f.ignored is None), run.exit_code)

    def model(self, change: Callable[[Path], None]) -> Path:
        """Return a copy of the tiny model that was changed on the disk."""
        from harness_hf.sources import resolve_folder

        folder = self.folder / "model"
        shutil.copytree(resolve_folder("tiny:llama"), folder, dirs_exist_ok=True)
        change(folder)
        return folder

    def _write(self, rows: Any, test: Any, more: str, files: Any, suite: str = SUITE) -> None:
        self._lines("train.jsonl", rows)
        self._lines("test.jsonl", test)
        for name, content in dict(files).items():
            self._lines(name, content)
        (self.folder / "suite.toml").write_text(suite + more, "utf-8")

    def _lines(self, name: str, rows: str | bytes | Sequence[Any]) -> None:
        if isinstance(rows, bytes):
            (self.folder / name).write_bytes(rows)
        else:
            text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
            (self.folder / name).write_text(text, "utf-8")


def _format_overrides(changes: dict[str, Any]) -> tuple[str, ...]:
    """Write `train_learning_rate=0.0` as the command line does; the table is what stands before the first "_"."""
    return tuple(f"{key.replace('_', '.', 1)}={json.dumps(value)}" for key, value in changes.items())
