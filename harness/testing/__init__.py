"""Fakes for tests, ours and plugin authors': a world without torch in which suites run in milliseconds.

`pytest_plugins = ["harness.testing"]` gives the fixture `project`; the suites it writes may say `use = "fake"` for
model, adapter and train. A fake model is right on a share of prompts, its skill: the right answer to a prompt is the
prompt's last word. SUITE, with ROWS as test.jsonl and TRAIN as train.jsonl, is such a suite, which passes and ships.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.answers import keys
from harness.artifacts.digests import digest_value, weights_digest
from harness.capabilities import loader, trainer
from harness.errors import UsageError
from harness.hookspec import hookimpl
from harness.protocols import AdapterFactory, Loader, Trainer
from harness.records.models import Logprob, ModelRef, Progress
from harness.records.run import Run, TrainingStep
from harness.records.samples import Prompt
from harness.reports.run_folder import write_steps

if TYPE_CHECKING:
    import pytest

ROWS = [{"id": f"q{i}", "input": f"question {i} say w{i}", "target": f"w{i}", "kind": "ab"[i % 2]} for i in range(60)]
TRAIN = [{"input": f"train {i} say t{i}", "target": f"t{i}"} for i in range(20)]
SUITE = """
[suite]
name = "fake"

[model]
use = "fake"
path = "base"

[adapter]
use = "fake"

[train]
use = "fake"
data = "train.jsonl"

[[eval]]
name = "qa"
use = "exact_match"
data = "test.jsonl"
slices = ["kind"]

[[gate]]
id = "floor"
metric = "qa.exact_match"
min = 0.5

[[export]]
use = "safetensors"
to = "exports/fake"
"""


@dataclass(frozen=True)
class FakeSubject:
    """A subject with correct answers to a share `skill` of prompts.

    The share is chosen by hash: prompts correct at one skill stay so at a higher one.
    """

    name: str
    skill: float
    digest: str = "fake"
    nbytes: int = 1000
    parameters: int = 10

    def generate(self, prompts: Sequence[Prompt], **_: Any) -> list[str]:
        """Answer with the last word of the prompt, or with "wrong"."""
        return [_split_words(p)[-1] if _map_prompt_to_fraction(p) < self.skill else "wrong" for p in prompts]

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]], **_: Any) -> list[Logprob]:
        """Score a continuation: one nat a word where the model is right, two where it is wrong."""
        found = []
        for prompt, text in pairs:
            right = text.strip() == _split_words(prompt)[-1] if prompt else True
            nats = 1.0 if right and _map_prompt_to_fraction(prompt or text) < self.skill else 2.0
            words = max(1, len(text.split()))
            found.append(Logprob(-nats * words, words, len(text.encode()), greedy=right))
        return found

    def token_kl(self, texts: Sequence[str], against: FakeSubject) -> list[tuple[float, int]]:
        """Return the difference in skill for every word."""
        return [(abs(self.skill - against.skill) * len(t.split()), len(t.split())) for t in texts]


@dataclass(frozen=True)
class FakeSource:
    """A fake model's folder."""

    path: str
    digest: str
    context: int | None = 200
    facts: Mapping[str, Any] = field(default_factory=lambda: {"parameters": 10})

    def count_tokens(self, pairs: Sequence[tuple[Prompt, str]]) -> list[int]:
        """Count words."""
        return [len(_split_words(p)) + len(c.split()) for p, c in pairs]


@dataclass(frozen=True)
class FakeAdapter:
    """An adapter that is only a number, with an optionally lossy merge."""

    loses: float = 0.0
    quantization: Mapping[str, Any] | None = None

    def check(self) -> None:
        """Raise UsageError if `loses` is above 1."""
        if self.loses > 1:
            raise UsageError(f"loses is {self.loses}; it must be at most 1")

    def check_targets(self, base: str) -> None:
        """Accept every base."""

    def check_merge(self, variant: str, base: str, adapter: Path | None = None) -> None:
        """Raise UsageError for "dequantized", since a fake model is never quantised."""
        if variant == "dequantized":
            raise UsageError('base "dequantized": a fake model is never quantised')

    def check_fits(self, base: str, base_digest: str, adapter: Path) -> None:
        """Refuse an adapter without a skill."""
        if not (adapter / "skill.json").is_file():
            raise UsageError(f'adapter "{adapter}": has no skill.json')

    def peft_config(self) -> None:
        """Return nothing; there is no PEFT here."""

    def merge(self, base: str, adapter: Path, out: Path, *, variant: str) -> None:
        """Write a fake model with the adapter's skill, reduced by `loses`."""
        write_fake(out, _read_skill(adapter) - self.loses)


def open_source(path: str, *, dtype: str = "auto") -> FakeSource:
    """Open a folder that `write_fake` wrote."""
    if not (Path(path) / "skill.json").is_file():
        raise UsageError(f'path "{path}": there is no model')
    return FakeSource(path, weights_digest(Path(path)))


def identity(ref: ModelRef, *, dtype: str = "auto") -> str:
    """Return the identity of a fake model: all that lies in its folders, and how it is loaded."""
    folders = [Path(ref.path), *([ref.adapter] if ref.adapter else [])]
    return digest_value([[keys.digest_folder(folder) for folder in folders], ref.quantization, dtype])


@loader(open=open_source, identity=identity)
@contextmanager
def load(refs: Sequence[ModelRef], *, dtype: str = "auto") -> Iterator[list[FakeSubject]]:
    """Load fake models."""
    yield [FakeSubject(r.name, _read_skill(r.adapter or Path(r.path)), r.digest) for r in refs]


def measure(
    ref: ModelRef, adapter: FakeAdapter | None, rows: Sequence[Any], *, seed: int, skill: float = 0.9,
    spread: float = 0.0,
) -> dict[str, Any]:  # fmt: skip
    """Return fake timings: three steps in one second. An adapter has one parameter, the model ten."""
    took = {"setup": 2.0, "steps": 3, "tokens": 30, "seconds": 1.0, "processor": 1.0}
    return took | {"whole_steps": 30, "whole_tokens": 300, "trainable": 1 if adapter else 10}


@trainer(measure=measure)
def train(
    ref: ModelRef, adapter: FakeAdapter, rows: Sequence[Any], out: Path, *, progress: Any, seed: int,
    skill: float = 0.9, spread: float = 0.0,
) -> Path:  # fmt: skip
    """Write an adapter of the given skill, varied by seed within `spread`."""
    losses = [1.0 / (step + 1) for step in range(3)]
    for step, loss in enumerate(losses, 1):
        progress(Progress("train", step, 3, {"loss": loss}))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.mkdir()
    write_fake(out, skill + spread * (2 * _map_prompt_to_fraction(f"{seed} of {skill}") - 1))
    write_steps(out, [TrainingStep(i, float(i), i / 3, loss, 0.1, tokens=10 * i) for i, loss in enumerate(losses, 1)])
    return out


def write_fake(folder: Path, skill: float) -> Path:
    """Write a fake model: a skill, and one tensor so that its weights have a digest."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "skill.json").write_text(json.dumps({"skill": skill}), "utf-8")
    (folder / "config.json").write_text("{}", "utf-8")
    header = json.dumps({"w": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<d", skill))
    return folder


@hookimpl
def harness_loaders() -> dict[str, Loader]:
    return {"fake": load}


@hookimpl
def harness_adapters() -> dict[str, AdapterFactory]:
    def fake(*, loses: float = 0.0) -> FakeAdapter:
        """A number instead of an adapter."""
        return FakeAdapter(loses)

    return {"fake": fake}


@hookimpl
def harness_trainers() -> dict[str, Trainer]:
    return {"fake": train}


class Project:
    """A folder with a suite, and methods to run commands on it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def write(self, files: Mapping[str, str | list[dict[str, Any]]]) -> Project:
        """Write files; a list of dicts becomes JSON lines."""
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = content if isinstance(content, str) else "".join(json.dumps(r) + "\n" for r in content)
            path.write_text(lines, "utf-8")
        return self

    def harness(self, *words: str) -> CommandOutcome:
        """Run a command line in process, capturing exit code and output."""
        from harness.cli.main import main

        self.capsys.readouterr()
        needs = words[0] in ("run", "check", "plan", "plugins", "blame")
        try:
            code = main([*words, *(("-p", __name__) if needs else ())])
        except SystemExit as ended:  # by argparse: a wrong word, or --help
            code = int(ended.code or 0)
        printed = self.capsys.readouterr()
        return CommandOutcome(code, printed.out, printed.err, self.folder)

    def run(self, *flags: str, suite: str = "suite.toml") -> CommandOutcome:
        """Run `harness run` on the suite."""
        return self.harness("run", str(self.folder / suite), "--out", str(self.folder / "reports"), *flags)


@dataclass(frozen=True)
class CommandOutcome:
    """The exit code and output of a command line."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def report(self) -> Run:
        """The report of the last run."""
        from harness.reports.report_json import read_run

        return read_run(max(self.folder.glob("reports/*/report.json"), key=lambda p: p.stat().st_mtime_ns).parent)

    def verdict(self, gate: str, candidate: str = "merged") -> str:
        """The outcome of a gate on a candidate."""
        return next(v.outcome for v in self.report.verdicts if v.gate == gate and v.candidate == candidate)


def _make_pytest_fixture(function: Any) -> Any:
    """Make a pytest fixture, if pytest is installed. The fakes do not need it."""
    try:
        import pytest
    except ModuleNotFoundError:
        return function
    return pytest.fixture(function)


@_make_pytest_fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Project:
    """A project in a temporary folder, with its own cache. It has two fake models: base (skill 0.3) and good (0.95)."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HARNESS_LEDGER", raising=False)  # attempts of tests are nobody else's
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):  # a job that runs tests is told of none of their suites
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    write_fake(tmp_path / "base", 0.3)
    write_fake(tmp_path / "good", 0.95)
    return Project(tmp_path, capsys)


def _read_skill(folder: Path) -> float:
    return float(json.loads((folder / "skill.json").read_text("utf-8"))["skill"])


def _split_words(prompt: Prompt) -> list[str]:
    text = prompt if isinstance(prompt, str) else " ".join(str(m.get("content") or "") for m in prompt)
    return text.split() or [""]


def _map_prompt_to_fraction(prompt: Prompt) -> float:
    """Hash a prompt's last three words to a number below 1."""
    last = " ".join(_split_words(prompt)[-3:])
    return int(hashlib.sha256(last.encode()).hexdigest()[:8], 16) / 2**32


def __getattr__(name: str) -> Any:
    """Import `StubJudge` on first access."""
    if name == "StubJudge":
        from harness.testing.judge import StubJudge

        return StubJudge
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "ROWS", "SUITE", "TRAIN", "CommandOutcome", "FakeAdapter", "FakeSource", "FakeSubject", "Project", "StubJudge",
    "project", "write_fake",
]  # fmt: skip
