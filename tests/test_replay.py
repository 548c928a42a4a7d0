"""`harness verify --replay`: the model that ships answers as the evidence says, or it is refused by the row."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.attestation import EVIDENCE, ITEMS, MANIFEST, MODEL
from harness.artifacts.digests import digest_value, weights_digest
from harness.pipeline.replay import _find_row_difference
from harness.records.samples import Sample, Score
from harness.release.export import evidence_row, scores_without_texts
from harness.testing import ROWS, SUITE, CommandOutcome, Project, write_fake
from tests.helpers.exports import decide_gates_again, ledger_of_weights, reseal
from tests.helpers.suites import REAL, TEXTS, run_commands

pytestmark = pytest.mark.xdist_group("replayed export")

MORE = """
[[eval]]
name = "fluency"
use = "perplexity"
data = "texts.jsonl"

[[eval]]
name = "moved"
use = "drift"
data = "texts.jsonl"
"""
WORDS = ("--suite", "suite.toml", "-p", "harness.testing")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a suite that was run by the command line: an export that has rows of three evaluations."""
    folder = tmp_path_factory.mktemp("once")
    return run_commands(folder, "run suite.toml -q", suite=SUITE + MORE, files={"texts.jsonl": TEXTS})


@pytest.fixture
def exported(once: Path, project: Project) -> Project:
    """A project of one's own with that export."""
    shutil.copytree(once, project.folder, dirs_exist_ok=True)
    return project


def replay(project: Project, rows: int, *words: str) -> CommandOutcome:
    """Verify the export and ask rows again."""
    return project.harness("verify", "exports/fake", "--replay", str(rows), *WORDS, *words)


def edit_rows(project: Project, evaluation: str, **changes: Any) -> None:
    """Change what the evidence says of all rows of an evaluation, and make the rest of the evidence agree."""
    export = project.folder / "exports/fake"
    path = export / EVIDENCE / ITEMS
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    rows = [{**r, **changes} if r["item"] == f"merged::{evaluation}" else r for r in rows]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    reseal(export)


def test_what_ships_answers_as_it_did(exported: Project) -> None:
    """All rows that one model can answer are as in the evidence, without train data and whatever else has changed."""
    (exported.folder / "train.jsonl").unlink()
    outcome = replay(exported, 1000, "--seed", "3")
    assert (outcome.code, outcome.err) == (0, "")
    assert (
        f"replay: {len(ROWS) + len(TEXTS)} rows of qa, fluency answered again (seed 3), as in the evidence"
        in outcome.out
    )
    assert 'note: replay: "moved" compares with another model, so it was skipped' in outcome.out
    assert "verified: merged of suite fake" in outcome.out


def test_rows_are_drawn_anew(exported: Project) -> None:
    """Who makes evidence cannot know which rows will be asked; who reads it can ask for the same again."""
    said = [json.loads(replay(exported, 2, "--json").out)["steps"]["replay"] for _ in range(2)]
    assert said[0] != said[1]
    assert said[0].startswith("2 rows of ")


def test_another_model_is_refused_by_its_row(exported: Project) -> None:
    """A model that the evidence was not measured on gives itself away, however well the digests fit."""
    export = exported.folder / "exports/fake"
    write_fake(export / MODEL, 0.2)
    weights = weights_digest(export / MODEL)
    manifest = json.loads((export / EVIDENCE / MANIFEST).read_text("utf-8"))
    evaluations = manifest["evaluations"]
    told = {name: {**about, "weights": weights} for name, about in evaluations.items() if name.startswith("merged::")}
    reseal(export, weights=weights, evaluations=evaluations | told, ledger=ledger_of_weights(manifest, weights))
    decide_gates_again(export)
    assert exported.harness("verify", "exports/fake").code == 0
    outcome = replay(exported, 1000, "--json")
    assert outcome.code == 7
    found = json.loads(outcome.out)
    assert not found["ok"]
    assert 'of "qa": the answer differs (' in found["refused"]
    assert outcome.err.endswith(f"refused: exports/fake: {found['refused']}\n")


def test_weights_of_another_verdict_are_refused(exported: Project) -> None:
    """The digest that the gates judged is made again from the tensors, before any row is asked."""
    export = exported.folder / "exports/fake"
    judged = weights_digest(export / MODEL)
    write_fake(export / MODEL, 0.2)
    reseal(export, weights=judged)
    outcome = replay(exported, 1)
    assert (outcome.code, "/ differ from the evaluated ones" in outcome.err) == (7, True)


EDITS: dict[str, tuple[str, dict[str, Any], str]] = {
    "a value": ("fluency", {"values": {"perplexity": 7.5, "bits_per_byte": 1.0}}, "but 1.0 in the evidence"),
    "an answer": ("qa", {"answer_hash": "0" * 64}, 'of "qa": the answer differs ('),
    "a prompt": ("qa", {"prompt_hash": "0" * 64}, 'row 0 of "qa" differs between subjects'),
    "a weight": ("fluency", {"weight": 7.5}, "its weight is 5.0, but 7.5 in the evidence"),
    "a metric more": ("fluency", {"values": {"perplexity": 1.0, "bits_per_byte": 1.0, "x": 1.0}}, "in the evidence"),
    "a digest": ("qa", {"doc_hash": "0" * 64}, 'row 0 of "qa" differs between subjects'),
}


@pytest.mark.parametrize("case", EDITS)
def test_rows_that_were_written_by_hand(case: str, exported: Project) -> None:
    """Whatever the evidence says of a row is made again and compared."""
    evaluation, changes, told = EDITS[case]
    edit_rows(exported, evaluation, **changes)
    decide_gates_again(exported.folder / "exports/fake")
    outcome = replay(exported, 1000)
    assert (outcome.code, told in outcome.err, outcome.err.count("\n")) == (7, True, 1), outcome.err


@pytest.mark.slow
def test_private_rows_are_compared_by_digest(exported: Project) -> None:
    """Of a private row only a digest is known: answers must come to the same one, log-probabilities need not."""
    text = (
        (SUITE + MORE)
        .replace("slices =", "private = true\nslices =")
        .replace('"perplexity"', '"perplexity"\nprivate = true')
    )
    exported.write({"suite.toml": text})
    assert exported.run().code == 0
    assert f"{len(ROWS) + len(TEXTS)} rows of qa, fluency" in replay(exported, 1000).out
    edit_rows(exported, "fluency", sha256="0" * 64)
    outcome = replay(exported, 1000)
    assert outcome.code == 0
    assert (
        f"{len(TEXTS)} private rows have log-probabilities, which a digest cannot compare approximately" in outcome.out
    )
    edit_rows(exported, "qa", sha256="0" * 64)
    outcome = replay(exported, 1000)
    assert (outcome.code, 'row 0 of "qa": its digest differs' in outcome.err) == (7, True)


def change_target(project: Project, number: int) -> None:
    rows = [{**r, "target": "other"} if i == number else r for i, r in enumerate(ROWS)]
    project.write({"test.jsonl": rows})


UNABLE: dict[str, tuple[Any, str]] = {
    "data that changed": (
        lambda p: change_target(p, 3),
        'differs from the evaluated data, for instance row "q3"; nothing was',
    ),
    "data that is gone": (lambda p: (p.folder / "test.jsonl").unlink(), 'data "test.jsonl" does not exist'),
    "an option that changed": (
        lambda p: p.write({"suite.toml": (SUITE + MORE).replace("slices", "max_new_tokens = 3\nslices")}),
        "max_new_tokens is 3, but 32 in the evidence",
    ),
    "an eval that is gone": (lambda p: p.write({"suite.toml": SUITE}), 'has no eval "fluency", which the export'),
    "another suite's model": (
        lambda p: p.write({"suite.toml": (SUITE + MORE).replace('use = "fake"\npath', 'use = "faked"\npath')}),
        'no loader "faked"',
    ),
}


@pytest.mark.parametrize("case", UNABLE)
def test_what_cannot_be_replayed_is_no_pass(case: str, exported: Project) -> None:
    """Other data, another suite or none: exit 4 and one line, and nothing says verified."""
    edit, told = UNABLE[case]
    edit(exported)
    outcome = replay(exported, 5)
    assert (outcome.code, told in outcome.err, outcome.out) == (4, True, ""), outcome.err
    assert all(line.startswith("error: ") for line in outcome.err.splitlines())


def test_wrong_words(exported: Project) -> None:
    """No rows, or a replay of no suite, is a mistake of the command; what is refused is not replayed."""
    assert replay(exported, 0).code == 4
    assert exported.harness("verify", "exports/fake", "--replay", "3").code == 4
    assert (
        exported.harness("verify", "exports/fake", "--suite", "suite.toml").code == 0
    )  # which is compared, and not run
    (exported.folder / "exports/fake/model/config.json").write_text("{ }", "utf-8")
    outcome = replay(exported, 3)
    assert (outcome.code, "refused: exports/fake: digests" in outcome.err) == (7, True)


@pytest.mark.slow
def test_without_torch(exported: Project) -> None:
    """A machine that cannot load the model says what is missing."""
    exported.write({"suite.toml": (SUITE + MORE).replace('use = "fake"\npath', 'use = "hf"\npath')})
    code = "import sys; sys.modules |= dict.fromkeys(['torch', 'transformers']); from harness.cli.main import main; "
    words = ["verify", "exports/fake", "--replay", "3", *WORDS]
    done = subprocess.run(
        [sys.executable, "-c", f"{code} sys.exit(main({words!r}))"], capture_output=True, text=True, env=os.environ
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert 'error: --replay: needs the module "t' in done.stderr


@pytest.mark.parametrize(("away", "near", "told"), [(5e-4, 1e-3, ""), (5e-2, 1e-3, "nats"), (5e-2, 0.1, "")])
def test_log_probabilities_are_near(away: float, near: float, told: str) -> None:
    """Other hardware sums in another order: a value that no answer gives away may differ by a little, no further."""
    hashes = {"doc_hash": "d", "prompt_hash": "p", "target_hash": "t", "id": "a", "cluster": None, "weight": 4.0}
    row = {**hashes, "weights": {}, "metrics": ["nats"], "nats": 2.25, "resps": [[None]]}
    said = {**hashes, "weights": {}, "answer_hash": digest_value([[None]]), "values": {"nats": 2.25 + away}}
    found = _find_row_difference(said, row, near)
    assert found is not None
    assert found.partition(" ")[0] == told
    answered = {**row, "resps": [["x"]]}
    assert _find_row_difference({**said, "answer_hash": digest_value([["x"]])}, answered, near) != ""


@pytest.mark.parametrize("older", [False, True])
def test_evidence_that_does_not_tell_endings_is_replayed(older: bool) -> None:
    """Whether its rows were remembered from before, or are of a version that did not ask; another answer is told."""
    sample, names = Sample("a", "q", "x"), ["right", *(() if older else ("thought_cut",))]
    values = {"right": 1.0} if older else {"right": 1.0, "thought_cut": math.nan}
    kept = evidence_row(0, sample, Score("a", values, answer="x"), names)
    told = {"right": 1.0, "thought_cut": 0.0}
    for answer, differs in (("x", False), ("y", True)):
        score = Score("a", told, answer=answer, finish_reason="eos", tokens=3)
        row = evidence_row(0, sample, score, ["right", "thought_cut"])
        assert bool(_find_row_difference({"sha256": digest_value(kept)}, row, 0.1)) == differs
        assert bool(_find_row_difference(scores_without_texts(kept), row, 0.1)) == differs


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_real_models_are_replayed(project: Project, tiny_model: Path) -> None:
    """A merged model, and an adapter on the base it was judged on, come to the numbers that they came to."""
    from harness_lora import lora
    from tests.helpers.adapters import make_adapter

    shutil.copytree(tiny_model, project.folder / "tiny")
    make_adapter(project.folder / "tiny", lora(), project.folder / "made")
    project.write({"suite.toml": REAL, "test.jsonl": ROWS[:6], "texts.jsonl": TEXTS})
    assert project.run("--candidate", str(project.folder / "made")).code == 0
    for name in ("adapter", "merged"):
        outcome = project.harness("verify", f"exports/{name}", "--replay", "9", "--suite", "suite.toml")
        assert (outcome.code, outcome.err) == (0, ""), outcome.err
        assert "replay: 9 rows of " in outcome.out
    weights = project.folder / "tiny/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x11")
    outcome = project.harness("verify", "exports/adapter", "--replay", "9", "--suite", "suite.toml")
    assert (outcome.code, "[model] path: holds weights" in outcome.err) == (4, True), outcome.err
