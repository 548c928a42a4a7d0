"""What goes to the Hub is the verified export, readable there, and no text of a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import ModelCard, parse_eval_result_entries

from harness.release.model_card import load_from_hub
from harness.release.publish import eval_results
from harness.testing import Project

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
    assert passed.harness("verify", "upload", "--recompute").code == 0
    (folder / "more.bin").write_bytes(b"x")
    refused = passed.harness("verify", "upload")
    assert refused.code == 7
    assert 'refused: upload: digests: "model/more.bin" is not in the manifest' in refused.err
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


def test_an_upload_is_one_commit_of_the_folder(passed: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The repository is made where it is not there, and one commit carries every file; an error is one line."""
    calls: list[Any] = []

    def upload(api: Any, **given: Any) -> None:
        files = {path.relative_to(given["folder_path"]).as_posix() for path in Path(given["folder_path"]).rglob("*")}
        calls.append((given["repo_id"], {"README.md", "evidence/manifest.json", "model.safetensors"} <= files))

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda api, repo, exist_ok: f"https://hub/{repo}")
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    outcome = passed.harness("publish", EXPORT, REPO)
    assert (outcome.code, calls) == (0, [(REPO, True)]), outcome.err
    assert f"published: https://hub/{REPO}, root " in outcome.out

    def fail(api: Any, *_: Any, **__: Any) -> None:
        raise OSError("401 Unauthorized\nlog in")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", fail)
    outcome = passed.harness("publish", EXPORT, REPO)
    assert (outcome.code, outcome.err) == (4, f"error: {REPO}: was not uploaded: OSError: 401 Unauthorized log in\n")


def test_results_on_data_sets_of_the_hub_are_entries(passed: Project) -> None:
    """An eval on a data set of the Hub has one entry for each metric, which the library reads; a file's has none."""
    export = passed.folder / EXPORT
    assert [*eval_results(export)] == []
    lock = json.loads((export / "evidence/suite.lock.json").read_text("utf-8"))
    lock["suite"]["evals"][0]["data"] = "hub:team/questions/hard:test[:100]"
    (export / "evidence/suite.lock.json").write_text(json.dumps(lock), "utf-8")
    entries = [huggingface_hub.EvalResultEntry(**entry) for entry in eval_results(export)]
    read = parse_eval_result_entries(huggingface_hub.eval_result_entries_to_yaml(entries))
    assert [(e.dataset_id, e.task_id, e.value) for e in read] == [("team/questions", "hard", 0.9)]
