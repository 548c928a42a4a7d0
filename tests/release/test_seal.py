"""What ships is what was opened: a candidate's folder that changes while it is measured, in any of its files."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.artifacts.attestation import EVIDENCE, MANIFEST
from harness.artifacts.digests import hash_files, weights_digest, weights_digest_of_files
from harness.records.models import ModelRef
from harness.release.conversions import seal_candidate
from harness.testing import ROWS, SUITE, TRAIN, Project, write_fake
from tests.helpers.files import F32, write
from tests.helpers.suites import make_waive_command

# Judges as exact_match does; the candidate's last row is followed by whatever `edit` does to folders of its name.
EVALUATOR = """
import json, shutil
from pathlib import Path
from harness import Score, hookimpl, metric
from harness.testing import write_fake

def edit(folder):
    {edit}

@metric("right", better="higher", scale="proportion")
def swaps(subject, samples):
    for s, a in zip(samples, subject.generate([s.input for s in samples]), strict=True):
        yield Score(s.id, {{"right": float(a == s.target)}}, answer=a)
    if subject.name != "base":
        for path in sorted({folders}):
            edit(path.parent)

@hookimpl
def harness_evaluators():
    return {{"swaps": swaps}}
"""
EXPORTER = """
def plain(ref, to):
    shutil.copytree(ref.adapter or ref.path, to, dirs_exist_ok=True)
    return to

@hookimpl
def harness_exporters():
    return {"plain": plain}
"""
FILES = {
    "config.json": "{}",
    "generation_config.json": "{}",
    "tokenizer.json": '{"model": {"vocab": {"a": 1}}}',
    "tokenizer_config.json": "{}",
    "merges.txt": "a b\n",
    "chat_template.jinja": "{{ messages }}",
    "additional_chat_templates/tools.jinja": "{{ tools }}",
}
TENSORS = "model.safetensors"
EDITS = {name: f'(folder / "{name}").write_text(\'{{"evil": 1}}\', "utf-8")' for name in FILES}
EDITS |= {f"{name} is gone": f'(folder / "{name}").unlink()' for name in FILES}
EDITS |= {
    "other tensors": f'data = (folder / "{TENSORS}").read_bytes(); '
    f'(folder / "{TENSORS}").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))',
    "another model": "write_fake(folder, 0.1)",
    "a file more": '(folder / "added_tokens.json").write_text("{}", "utf-8")',
    "a link": '(folder / "notes.txt").symlink_to("/etc/passwd")',
    "other free text": f'p = folder / "{TENSORS}"; d = p.read_bytes(); n = int.from_bytes(d[:8], "little"); '
    'h = json.dumps({**json.loads(d[8:8 + n]), "__metadata__": {"format": "tf"}}).encode(); '
    'p.write_bytes(len(h).to_bytes(8, "little") + h + d[8 + n:])',
}


def write_model_files(folder: Path) -> Path:
    """Write a whole model: weights, configuration, tokenizer, templates."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(text, "utf-8")
    return folder


@pytest.fixture
def candidate(project: Project) -> Project:
    """A project with a good candidate made elsewhere, and a suite that an evaluator of its own judges."""
    write_model_files(project.folder / "good")
    text = SUITE.replace('use = "exact_match"', 'use = "swaps"').replace("qa.exact_match", "qa.right")
    return project.write({"suite.toml": text, "test.jsonl": ROWS, "train.jsonl": TRAIN})


def make_plugin_text(edit: str, folders: str) -> str:
    return EVALUATOR.format(edit=edit, folders=folders)


def test_untouched_candidate_ships(candidate: Project) -> None:
    """With an evaluator that changes nothing, every file ships and the export is verified."""
    candidate.write({"harnessfile.py": make_plugin_text("pass", "[]")})
    outcome = candidate.run("--candidate", "good")
    assert outcome.code == 0, outcome.out
    model = candidate.folder / "exports/fake/model"
    assert {p.relative_to(model).as_posix() for p in model.rglob("*") if p.is_file()} == {*FILES, TENSORS, "skill.json"}
    assert candidate.harness("verify", "exports/fake").code == 0


@pytest.mark.parametrize("case", EDITS)
def test_candidate_that_changes_while_it_is_measured(case: str, candidate: Project) -> None:
    """One file replaced, removed or added between measuring and export: exit 1, one line, and nothing is written."""
    candidate.write({"harnessfile.py": make_plugin_text(EDITS[case], f'[Path("good/{TENSORS}")]')})
    outcome = candidate.run("--candidate", "good")
    assert outcome.code == 1, outcome.out
    (said,) = (line for line in outcome.out.splitlines() if line.startswith("error: "))
    assert said.startswith('error: export "') or (case == "a link" and "leads out of the folder" in said)
    assert "Traceback" not in outcome.out
    assert not list((candidate.folder / "exports").glob("*/*"))


@pytest.mark.parametrize("kind", ["adapter", "merged"])
@pytest.mark.parametrize("case", ["other tensors", "config.json", "a file more"])
def test_trained_candidate_that_changes(kind: str, case: str, candidate: Project) -> None:
    """What was trained and merged here is compared with its seal as well."""
    text = (candidate.folder / "suite.toml").read_text("utf-8").replace('use = "safetensors"', 'use = "plain"')
    folders = f'Path("cache/trained").glob("*/{kind}*/{TENSORS}")'
    candidate.write(
        {
            "suite.toml": text + f'from = "{kind}"\n',
            "harnessfile.py": make_plugin_text(EDITS[case], folders) + EXPORTER,
        }
    )
    candidate.harness(*make_waive_command("M6").split())  # a fake adapter is no PEFT folder
    outcome = candidate.run()
    assert (outcome.code, 'error: export "' in outcome.out) == (1, True), outcome.out
    assert not list((candidate.folder / "exports").glob("*/*"))


def test_adapters_digest_is_in_the_manifest(candidate: Project) -> None:
    """From the base, the adapter's tensors and the quantisation `verify` comes to the digest that was judged."""
    text = (candidate.folder / "suite.toml").read_text("utf-8").replace('use = "safetensors"', 'use = "plain"')
    candidate.write(
        {"suite.toml": text + 'from = "adapter"\n', "harnessfile.py": make_plugin_text("pass", "[]") + EXPORTER}
    )
    candidate.harness(*make_waive_command("M6").split())  # a fake adapter is no PEFT folder
    outcome = candidate.run()
    assert outcome.code == 0, outcome.out
    manifest = json.loads((candidate.folder / "exports/fake" / EVIDENCE / MANIFEST).read_text("utf-8"))
    weights = weights_digest(candidate.folder / "exports/fake/model")
    assert manifest["adapter"] == {
        "base": weights_digest(candidate.folder / "base"),
        "weights": weights,
        "quantization": None,
    }
    assert candidate.harness("verify", "exports/fake").code == 0


def test_weights_digest_comes_of_one_pass(tmp_path: Path) -> None:
    """However tensors are spread over files and in whatever order, their digest is one; each byte changes it."""
    a, b = {**F32, "data_offsets": [0, 8]}, {**F32, "data_offsets": [8, 16]}
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [8, 8]}
    data = bytes(range(16))
    places = [tmp_path / name for name in ("in-order", "turned", "apart")]
    for place in places:
        place.mkdir()
    write(places[0] / "m.safetensors", {"a": a, "e": empty, "b": b}, data)
    write(places[1] / "m.safetensors", {"b": a, "e": empty, "a": b}, data[8:] + data[:8])
    write(places[2] / "m1.safetensors", {"b": a, "e": empty}, data[8:])
    write(places[2] / "m2.safetensors", {"a": a}, data[:8])
    digests = {weights_digest(place) for place in places}
    digests |= {weights_digest_of_files(hash_files(place, [p.name for p in place.iterdir()])) for place in places}
    assert len(digests) == 1
    write(places[0] / "m.safetensors", {"a": a, "e": empty, "b": b}, data[:-1] + b"x")
    assert weights_digest(places[0]) not in digests


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def bind_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket is at most 108 bytes long
        s.bind(path.name)
        os.chdir(here)


ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    f"a pipe {name}": (lambda folder, name=name: make_fifo(folder / name), f'"{name}": is not a file')  # type: ignore[misc]
    for name in ("notes.txt", "pipe", "extra.safetensors", "extra.json", "model.gguf", "harness-note.json")
}
ODD |= {
    "a socket": (lambda folder: bind_socket(folder / "notes.txt"), '"notes.txt": is not a file'),
    "a link to a device": (lambda folder: (folder / "notes.txt").symlink_to("/dev/zero"), "leads out of the folder"),
    "a link out": (lambda folder: (folder / "notes.txt").symlink_to("/etc/passwd"), "leads out of the folder"),
    "a link beside": (lambda folder: (folder / "notes.txt").symlink_to("../test.jsonl"), "leads out of the folder"),
    "templates elsewhere": (lambda folder: (folder / "additional_chat_templates").symlink_to("/etc"), "leads out"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_no_candidate_may_hold(case: str, project: Project) -> None:
    """A pipe is not waited for, and a link is not followed out of the folder: exit 4, one line."""
    edit, told = ODD[case]
    edit(project.folder / "good")
    outcome = project.write({"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": TRAIN}).run("--candidate", "good")
    assert (outcome.code, told in outcome.err, outcome.err.count("\n")) == (4, True, 1), outcome.err + outcome.out


def test_download_cache_is_a_candidate(project: Project) -> None:
    """In a Hub cache every file is a link to a blob beside the snapshots; those are followed, and files ship."""
    snapshot = project.folder / "models--a--b/snapshots/0123"
    (project.folder / "models--a--b/blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted((project.folder / "good").iterdir())):
        path.rename(project.folder / f"models--a--b/blobs/{number}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    project.write({"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": TRAIN})
    outcome = project.run("--candidate", str(snapshot))
    assert outcome.code == 0, outcome.out + outcome.err
    assert not any(p.is_symlink() for p in (project.folder / "exports").rglob("*"))
    assert project.harness("verify", "exports/fake").code == 0
    assert seal_candidate(ModelRef("merged", str(snapshot))).digest == weights_digest(snapshot)


def test_what_was_not_sealed_is_not_exported(tmp_path: Path) -> None:
    """What lies in no folder has no seal."""
    assert seal_candidate(ModelRef("merged", "served-name")).seal is None
    assert seal_candidate(ModelRef("merged", str(write_fake(tmp_path, 0.5)))).seal is not None
