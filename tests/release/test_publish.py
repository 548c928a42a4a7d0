"""What goes to the Hub is the verified export, readable there, and no text of a row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import ModelCard, parse_eval_result_entries

from harness.errors import UsageError
from harness.release.model_card import load_from_hub
from harness.release.publish import eval_results, write_upload
from harness.release.verify import verify_export
from harness.testing import ROWS, SUITE, TRAIN, Project
from tests.helpers.exports import reseal
from tests.helpers.fake_hub import FakeHub, start_fake_hub

QUOTES = """
from harness import hookimpl
from harness.records.findings import Finding

def quoted(adapter):
    \"\"\"Quotes.\"\"\"
    yield Finding("note", "row q3 is 'question 3 say w3'", ("q3: question 3 say w3",))

@hookimpl
def harness_checks():
    return {"X1": quoted}
"""
EXPORT, REPO = "exports/fake", "team/fake-model"


def publish(project: Project, *words: str) -> Path:
    """Write what would be uploaded, and return the folder."""
    outcome = project.harness("publish", EXPORT, REPO, "--to", "upload", *words)
    assert outcome.code == 0, outcome.err
    return project.folder / "upload"


def test_a_repository_holds_model_card_and_evidence(passed: Project) -> None:
    """The model lies at the top, where transformers and vLLM look, and the card names the repository."""
    folder = publish(passed)
    export = passed.folder / EXPORT
    for path in (export / "model").iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    card = ModelCard.load(folder / "README.md")
    assert card.data.eval_results
    assert REPO in card.text and '"model"' not in card.text
    (folder / "config.json").write_text("[]")
    assert (export / "model/config.json").read_text() != "[]"  # it is a copy


@pytest.mark.parametrize(
    ("used", "there"),
    [
        ('model = Auto.from_pretrained("model")', f'model = Auto.from_pretrained("{REPO}")'),
        ('PeftModel.from_pretrained(base, "model")', f'PeftModel.from_pretrained(base, "{REPO}")'),
        ("vllm serve model", f"vllm serve {REPO}"),
        ("vllm serve BASE --lora-modules tuned=model", f"vllm serve BASE --lora-modules tuned={REPO}"),
        ('Llama("model/a b.gguf", n_ctx=0)', f'Llama.from_pretrained("{REPO}", "a b.gguf", n_ctx=0)'),
        ("llama-server -m 'model/a b.gguf'", f"llama-server --hf-repo {REPO} --hf-file 'a b.gguf'"),
        ("llama-server -m model/a.gguf", f"llama-server --hf-repo {REPO} --hf-file a.gguf"),
    ],
)
def test_only_the_use_of_a_model_names_the_repository(used: str, there: str) -> None:
    """Each way to load or serve is of the repository; a suite or a metric named "model" stays itself."""
    card = 'name: "model"\n\n## Use\n\n{}\n\n## Check\n\n("model") vllm serve model\n'
    assert load_from_hub(card.format(used), REPO) == card.format(there)


def test_a_licence_is_read_where_a_repository_has_it() -> None:
    """A repository has no folder `model`."""
    card = "Licence of the base: mit, see `{}LICENSE`. It was in `model/LICENSE`.\n\n## Use\n\n\n\n## Check\n"
    assert load_from_hub(card.format("model/"), REPO) == card.format("")


def test_a_download_is_verified_as_it_is(passed: Project) -> None:
    """`harness verify` takes a published folder, beside what the Hub adds, and refuses one that was changed."""
    folder = publish(passed)
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    (folder / ".cache/huggingface").mkdir(parents=True)
    assert "verified: merged of suite fake" in passed.harness("verify", "upload").out
    assert passed.harness("verify", "upload").code == 0
    (folder / "more.bin").write_bytes(b"x")
    refused = passed.harness("verify", "upload")
    assert refused.code == 7
    assert 'refused: upload: digests: "more.bin" is not in the manifest' in refused.err
    assert [path.name for path in passed.folder.iterdir() if path.name.startswith(".harness")] == []


@pytest.mark.parametrize("damage", ["folder", "link"])
def test_a_damaged_download_is_refused(passed: Project, damage: str) -> None:
    """A folder in its evidence, or a link to nothing, is no internal error."""
    evidence = publish(passed) / "evidence"
    if damage == "folder":
        (evidence / "sub").mkdir()
        (evidence / "sub" / "x").write_text("", "utf-8")
    else:
        (evidence / "manifest.json").unlink()
        (evidence / "manifest.json").symlink_to("nowhere")
    refused = passed.harness("verify", "upload")
    assert refused.code == 7 and refused.err.startswith("refused: upload: digests: "), refused.err


def test_no_text_of_a_row_is_published(passed: Project) -> None:
    """Neither inputs, targets and answers, nor what a finding quotes of them, are in any file."""
    passed.write({"harnessfile.py": QUOTES})
    assert passed.run().code == 0
    rows = [json.loads(line) for line in (passed.folder / "test.jsonl").read_text("utf-8").splitlines()]
    kept = [
        json.loads(line)
        for path in passed.folder.rglob("samples_qa*.jsonl")
        for line in path.read_text("utf-8").splitlines()
    ]
    words = {text for row in rows for text in row["target"].split()} | {row["filtered_resps"][0] for row in kept}
    texts = {row["input"] for row in rows} | {f'"{word}"' for word in words}
    assert {"question 3 say w3", '"w3"', '"wrong"'} <= texts
    for path in publish(passed).rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            content = path.read_text("utf-8")
            assert not [text for text in texts if text in content], path


def test_what_is_not_verified_is_not_published(passed: Project) -> None:
    """A changed export is refused with exit 7, and nothing is written."""
    (passed.folder / EXPORT / "model/config.json").write_text("[]")
    outcome = passed.harness("publish", EXPORT, REPO, "--to", "upload")
    assert outcome.code == 7
    assert not (passed.folder / "upload").exists()


@pytest.mark.parametrize(
    ("repo", "says"),
    [("fake", "write OWNER/NAME"), ("team/../x", "Repo id must"), ("team/a b", "Repo id must")],
)
def test_a_name_that_the_hub_refuses_is_one_line(repo: str, says: str, passed: Project) -> None:
    """The library's own rule for names is asked before anything is written."""
    outcome = passed.harness("publish", EXPORT, repo, "--to", "upload")
    assert (outcome.code, says in outcome.err, outcome.err.count("\n")) == (4, True, 1), outcome.err


def test_a_folder_that_is_not_empty_is_left_alone(passed: Project) -> None:
    """Nothing is written over what is there."""
    passed.write({"upload/notes.txt": "mine"})
    outcome = passed.harness("publish", EXPORT, REPO, "--to", "upload")
    assert (outcome.code, "is not an empty folder" in outcome.err) == (4, True)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """An empty Hub."""
    with start_fake_hub() as hub:
        yield hub


def upload(project: Project, hub: FakeHub, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Publish with huggingface_hub's own client, in a process of its own."""
    command = [sys.executable, "-m", "harness", "publish", EXPORT, REPO, *words]
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    return subprocess.run(
        command, cwd=project.folder, env=env, input=stdin, capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
def test_an_upload_is_private_and_complete(passed: Project, hub: FakeHub) -> None:
    """A new repository is private, has what --to writes, and loses what is no longer part of it."""
    written = publish(passed)
    done = upload(passed, hub, "--yes")
    assert (done.returncode, hub.private) == (0, {REPO: True}), done.stderr
    assert f"published: {hub.url}/{REPO}, root " in done.stdout
    expected = {path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()}
    assert hub.files[REPO].keys() == expected
    assert "model.safetensors" in done.stderr
    hub.files[REPO] |= {".gitattributes": b"", "old/model.safetensors": b"x", "evidence/more.json": b"x"}
    done = upload(passed, hub, "--yes")
    assert done.returncode == 0, done.stderr
    assert hub.files[REPO].keys() == expected | {".gitattributes"}
    assert "removed  old/model.safetensors" in done.stderr


@pytest.mark.slow
def test_nothing_is_uploaded_without_a_yes(passed: Project, hub: FakeHub) -> None:
    """Without a terminal nobody can agree; a repository that is public already needs --public."""
    done = upload(passed, hub, stdin="y\n")
    assert (done.returncode, hub.files) == (4, {}), done.stderr
    assert "needs a confirmation, and there is no terminal; add --yes" in done.stderr
    hub.create(REPO, private=False)
    done = upload(passed, hub, "--yes")
    assert (done.returncode, hub.files[REPO]) == (4, {}), done.stderr
    assert f"{REPO}: is public already; add --public" in done.stderr
    assert upload(passed, hub, "--yes", "--public").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(("status", "code"), [(401, 4), (503, 8)])
def test_a_refused_upload_is_one_line(passed: Project, hub: FakeHub, status: int, code: int) -> None:
    """A Hub that refuses is a mistake, and one that fails can be tried again."""
    hub.status = status
    done = upload(passed, hub, "--yes")
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, error.startswith(f"error: {REPO}: ")) == (code, True), done.stderr


@pytest.mark.slow
def test_without_a_network_publish_can_be_tried_again(passed: Project) -> None:
    """One line, and the exit code of a server that does not answer."""
    done = upload(passed, FakeHub("http://127.0.0.1:9"), "--yes")
    assert done.returncode == 8, done.stderr
    assert done.stderr.startswith(f"error: {REPO}: the Hub does not answer: ") and done.stderr.count("\n") == 1


def test_an_upload_is_not_written_into_the_export(passed: Project) -> None:
    """Which would break its seal."""
    outcome = passed.harness("publish", EXPORT, REPO, "--to", f"{EXPORT}/upload")
    assert (outcome.code, "is in the export, which is sealed" in outcome.err) == (4, True), outcome.err
    assert passed.harness("verify", EXPORT).code == 0


@pytest.mark.slow
def test_slice_values_of_private_evaluations_are_not_published(project: Project) -> None:
    """Neither in the report nor in a verdict, whose slices are numbered."""
    suite = SUITE.replace('name = "qa"', 'name = "qa"\nprivate = true')
    suite = suite.replace("min = 0.5", 'min = 0.5\nslice = "kind=*"\nmin_n = 2', 1)
    rows = [{**row, "kind": f"clinic-{row['kind']}"} for row in ROWS]
    project.write({"suite.toml": suite, "test.jsonl": rows, "train.jsonl": TRAIN})
    assert project.run().code == 0
    assert project.harness("verify", EXPORT).code == 0
    folder = publish(project)
    gates = json.loads((folder / "evidence/gates.json").read_text("utf-8"))
    assert any(gate["parts"].get("slices") for gate in gates)
    for path in folder.rglob("*"):
        assert path.is_dir() or b"clinic-" not in path.read_bytes(), path


@pytest.mark.parametrize("results", ["7", "[" * 50_000 + "]" * 50_000, '[{"subject": "merged"}]', "1e400"])
def test_a_report_without_results_is_one_line(results: str, passed: Project) -> None:
    """A report that an attacker resealed ends with the name of the file, and not with a traceback."""
    path = passed.folder / EXPORT / "evidence/report.json"
    report = json.loads(path.read_text("utf-8")) | {"results": "PLACE"}
    path.write_text(json.dumps(report).replace('"PLACE"', results), "utf-8")
    reseal(passed.folder / EXPORT)
    outcome = passed.harness("publish", EXPORT, REPO, "--to", "upload", "--yes")
    assert (outcome.code, outcome.err.count("\n")) == (4, 1), outcome
    assert "evidence/report.json: holds no results that the Hub takes" in outcome.err


def test_results_on_data_sets_of_the_hub_are_entries(passed: Project) -> None:
    """An eval on a data set of the Hub has one entry for each metric, which the library reads; a file's has none."""
    export = passed.folder / EXPORT
    assert [*eval_results(verify_export(export))] == []
    lock = json.loads((export / "evidence/suite.lock.json").read_text("utf-8"))
    lock["suite"]["evals"][0]["data"] = "hub:team/questions/hard:test[:100]"
    (export / "evidence/suite.lock.json").write_text(json.dumps(lock), "utf-8")
    reseal(export)
    entries = [huggingface_hub.EvalResultEntry(**entry) for entry in eval_results(verify_export(export))]
    read = parse_eval_result_entries(huggingface_hub.eval_result_entries_to_yaml(entries))
    assert [(e.dataset_id, e.task_id, e.value) for e in read] == [("team/questions", "hard", 0.9)]


LAUGHS = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))


@pytest.mark.parametrize(
    "metadata", [f"a0: &a0 [x]\n{LAUGHS}", "license: !!python/none x\n", "license: &a [*a]\n", "x\n"]
)
def test_metadata_that_the_harness_does_not_write_are_refused(metadata: str, passed: Project) -> None:
    """Aliases of YAML multiply without end, and the Hub's library follows each."""
    path = passed.folder / EXPORT / "README.md"
    path.write_text(path.read_text("utf-8").replace("---\n", f"---\n{metadata}", 1), "utf-8")
    reseal(passed.folder / EXPORT)
    outcome = passed.harness("publish", EXPORT, REPO, "--to", "upload")
    assert (outcome.code, outcome.err.count("\n")) == (4, 1), outcome
    assert "README.md: its metadata hold" in outcome.err


@pytest.mark.parametrize("name", ["README.md", "evidence/report.json"])
def test_what_changed_after_it_was_verified_is_not_published(name: str, passed: Project) -> None:
    """The bytes of card and report are those of the verified manifest."""
    export = passed.folder / EXPORT
    verified = verify_export(export)
    (export / name).write_text("{}", "utf-8")
    with pytest.raises(UsageError, match=f"{name} changed while it was verified"):
        write_upload(verified, REPO, passed.folder / "upload")
