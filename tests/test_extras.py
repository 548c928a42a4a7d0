"""Each extra by itself, in a new environment: what it is for works there, and a gate is decided."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.testing import ROWS, SUITE, TRAIN, write_fake
from harness.testing.judge import StubJudge
from tests.helpers.local_http import LocalHandler, serve_locally

pytestmark = pytest.mark.packaging
ROOT = Path(__file__).parent.parent
MODEL = """
[suite]
name = "alone"

[model]
use = "api"
path = "base"
base_url = "URL"

[candidate]
merged = "better"
"""
QA = """
[[eval]]
name = "qa"
use = "exact_match"
data = "test.jsonl"

[[gate]]
id = "better"
metric = "qa.exact_match"
versus = "base"
better_by = 0.2
"""
JUDGED = """
[[eval]]
name = "chat"
use = "judge"
data = "test.jsonl"
backend = "openai"
model = "stub-judge"
base_url = "JUDGE"
trust_judge = true

[[gate]]
id = "preferred"
metric = "chat.win_rate"
min = 0.5
"""
TASK = """
[[eval]]
name = "task"
use = "lm_eval"
task = "task.yaml"
shots = 0

[[gate]]
id = "right"
metric = "task.exact_match"
min = 0.5
"""
YAML = """
task: task
dataset_path: json
dataset_kwargs: {data_files: {test: test.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{input}}"
doc_to_target: "{{target}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
TINY = """
[suite]
name = "alone"

[model]
use = "hf"
path = "tiny:llama"
dtype = "float32"

[adapter]
use = "lora"
r = 4

[train]
use = "sft"
data = "train.jsonl"
max_steps = 2
learning_rate = 1e-2
per_device_train_batch_size = 4

[[eval]]
name = "fit"
use = "perplexity"
of = "completion"
data = "test.jsonl"

[[gate]]
id = "sane"
metric = "fit.perplexity"
allow_approximate = true
max = 1_000_000.0

[[export]]
use = "safetensors"
to = "exports/tiny"
"""
SECONDS = 900  # for one command; an installation may have to download


class Served(LocalHandler):
    """A server of two models: "better" knows the prompt's last word, "base" does not."""

    def answer(self, body: bytes) -> None:
        reply: dict[str, Any] = {"object": "list", "data": [{"id": name} for name in ("base", "better")]}
        if body:
            asked = json.loads(body)
            prompt = asked["messages"][-1]["content"] if "messages" in asked else asked["prompt"]
            text = prompt.split()[-1] if asked["model"] == "better" else "wrong"
            said = {"message": {"role": "assistant", "content": text}} if "messages" in asked else {"text": text}
            reply = {"choices": [{**said, "finish_reason": "stop"}]}
        self.send(200, json.dumps(reply).encode())


@pytest.fixture
def url() -> Iterator[str]:
    """A server on this machine."""
    with serve_locally(Served) as address:
        yield f"{address}/v1"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source, built once."""
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT))
    (found,) = folder.glob("*.whl")
    return found


def call(*words: str, cwd: Path | None = None, code: int = 0) -> str:
    """Run a command line, see that it ends with `code`, and return what it printed."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "ANTHROPIC_", "PYTHON"))}
    env = {**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | (
        {"HARNESS_CACHE": str(cwd / "cache")} if cwd else {}
    )
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def install_extra(wheel: Path, extra: str, folder: Path) -> str:
    """Install the wheel with one extra into a new environment, and return its command.

    Nothing is compiled that is not imported: most of torch is not.
    """
    venv.create(folder, with_pip=False)
    into = ("--python", str(folder / "bin/python"), "install", "--quiet", "--no-compile")
    call(sys.executable, "-m", "pip", *into, f"finetune-harness[{extra}] @ {wheel.as_uri()}")
    return str(folder / "bin/harness")


def write(folder: Path, suite: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "suite.toml").write_text(suite, "utf-8")
    (folder / "task.yaml").write_text(YAML, "utf-8")
    for name, rows in (("test.jsonl", ROWS), ("train.jsonl", TRAIN)):
        (folder / name).write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    return folder


def assert_gates_pass(command: str, folder: Path) -> None:
    """See that a suite is run to a PASS, and that nothing was missing on the way."""
    told = call(command, "run", "suite.toml", cwd=folder)
    assert re.search(r"[12] PASS in ", told) and "No module named" not in told and "needs the module" not in told, told


CASES = {"api": MODEL + QA, "judge": MODEL + JUDGED, "lm-eval": MODEL + TASK, "hf": TINY}


@pytest.mark.parametrize("extra", CASES)
def test_an_extra_alone_gates(extra: str, wheel: Path, url: str, tmp_path: Path) -> None:
    """With one extra and nothing else a suite of its kind runs to a verdict."""
    command = install_extra(wheel, extra, tmp_path / "env")
    with StubJudge() as judge:
        suite = CASES[extra].replace("URL", url).replace("JUDGE", judge.openai_url)
        assert_gates_pass(command, write(tmp_path / "suite", suite))


def test_the_extra_sign_alone_signs(wheel: Path, tmp_path: Path) -> None:
    """With `sign` and nothing else a key is made, an export is signed, and verified under a policy with the key."""
    command, folder = install_extra(wheel, "sign", tmp_path / "env"), write(tmp_path / "suite", SUITE)
    write_fake(folder / "base", 0.3)
    here = "import sys; from harness.cli.main import main; sys.exit(main(sys.argv[1:]))"
    call(sys.executable, "-c", here, "run", "suite.toml", "-p", "harness.testing", cwd=folder)
    call(command, "keygen", "release", cwd=folder)
    (folder / "policy.toml").write_text('suites = ["fake"]\n' + (folder / "release.pub").read_text("utf-8"), "utf-8")
    call(command, "verify", "exports/fake", "--policy", "policy.toml", cwd=folder, code=7)
    call(command, "sign", "exports/fake", "--key", "release.key", cwd=folder)
    assert "verified: " in call(command, "verify", "exports/fake", "--policy", "policy.toml", cwd=folder)


def test_the_extra_report_alone_writes_pages(wheel: Path, tmp_path: Path) -> None:
    """With `report` and nothing else a run's folder becomes a page with charts."""
    command, folder = install_extra(wheel, "report", tmp_path / "env"), write(tmp_path / "suite", SUITE)
    write_fake(folder / "base", 0.3)
    here = "import sys; from harness.cli.main import main; sys.exit(main(sys.argv[1:]))"
    call(sys.executable, "-c", here, "run", "suite.toml", "-p", "harness.testing", cwd=folder)
    (run,) = folder.glob("reports/*")
    (run / "report.html").unlink(missing_ok=True)
    call(command, "report", str(run), cwd=folder)
    assert "<svg" in (run / "report.html").read_text("utf-8")


def test_the_extra_gate_alone_gates_rows(wheel: Path, tmp_path: Path) -> None:
    """With `gate` and nothing else two folders of lm_eval's are a verdict, by the package's own name."""
    command = install_extra(wheel, "gate", tmp_path / "env")
    kept = Path(__file__).parent / "fixtures" / "rows" / "lm_eval-0.4.13"
    words = ("gate", str(kept / "base"), str(kept / "candidate_bf16"), "--metric", "cap_mc:acc")
    said = call(str(Path(command).with_name("finetune-harness")), *words, "--worse-by-at-most", "0.2", cwd=tmp_path)
    assert "PASS  no-worse" in said
