"""Candidates that other tools made: their folders as they write them, gated and exported by the same suite."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.pipeline.run import Options, open_run
from harness.suite.tables import Candidate
from harness.testing import ROWS, CommandOutcome, Project
from tests.helpers import elsewhere
from tests.helpers.suites import REAL, TEXTS

pytestmark = [
    pytest.mark.xdist_group("elsewhere"),
    pytest.mark.usefixtures("warm_children"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
Edit = Callable[[Path], None]


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the base "tiny", a plain adapter, a DoRA, and the first merged as "merged"."""
    from harness_lora import lora
    from tests.helpers.adapters import make_adapter

    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(tiny_model, folder / "tiny")
    make_adapter(folder / "tiny", lora(), folder / "plain")
    make_adapter(folder / "tiny", lora(use_dora=True), folder / "dora")
    (folder / "merged").mkdir()
    lora().merge(str(folder / "tiny"), folder / "plain", folder / "merged", variant="original")
    return folder


@pytest.fixture
def ready(made: Path, project: Project) -> Project:
    """A project with the suite, which has an adapter and a merge, and its rows, and a link to the base."""
    (project.folder / "tiny").symlink_to(made / "tiny")
    project.write({"suite.toml": REAL, "test.jsonl": ROWS[:6], "texts.jsonl": TEXTS})
    return project


def list_export_files(outcome: CommandOutcome, to: Path) -> set[str]:
    """Return the files of an export, once it is sure that it was written."""
    assert outcome.code == 0, outcome.out + outcome.err
    return {path.name for path in (to / "model").iterdir()}


@pytest.mark.parametrize("tool", elsewhere.ADAPTERS)
def test_adapter_of_another_tool_is_read_as_it_lies(tool: str, made: Path, ready: Project) -> None:
    """What each tool writes fits the base and can be merged, without a file being changed."""
    elsewhere.ADAPTERS[tool](made / "plain", made / "tiny", ready.folder / "theirs")
    options = Options(candidate=str(ready.folder / "theirs"))
    session = open_run(ready.folder / "suite.toml", options).session
    assert session.opened.adapter is not None
    assert session.suite.candidate == Candidate(session.suite.candidate.where, adapter=str(ready.folder / "theirs"))  # type: ignore[union-attr]


def test_adapter_of_another_tool_is_gated_merged_and_exported(made: Path, ready: Project) -> None:
    """Of an adapter with all that tools leave beside one, no pickle, log or class of its base ships."""
    elsewhere.unsloth(made / "plain", made / "tiny", ready.folder / "unsloth")
    elsewhere.llama_factory(ready.folder / "unsloth", made / "tiny", ready.folder / "theirs")
    elsewhere.edit_json(ready.folder / "theirs", auto_mapping=elsewhere.CLASS | {"unsloth_fixed": True})
    outcome = ready.run("--candidate", "theirs")
    files = list_export_files(outcome, ready.folder / "exports/adapter")
    assert {elsewhere.CONFIG, elsewhere.WEIGHTS} <= files
    assert not {name for name in files if name.endswith((".bin", ".png", ".log", ".pt"))}
    config = json.loads((ready.folder / "exports/adapter/model" / elsewhere.CONFIG).read_text("utf-8"))
    assert (config["auto_mapping"], config["base_model_name_or_path"]) == (None, None)
    assert "model.safetensors" in list_export_files(outcome, ready.folder / "exports/merged")
    assert "warning" not in outcome.err.lower()


def test_fused_model_of_mlx_is_gated(made: Path, ready: Project) -> None:
    """A folder of mlx_lm.fuse is a merged model like any other."""
    elsewhere.mlx_fused(made / "merged", made / "tiny", ready.folder / "fused")
    ready.write({"suite.toml": REAL.partition('[[export]]\nuse = "adapter"')[0]})
    outcome = ready.run("--candidate", "fused")
    assert outcome.code == 0, outcome.out + outcome.err


def drop_tensors(like: str) -> Edit:
    """Return the edit that leaves out an adapter's tensors whose names have `like` in them."""

    def edit(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / elsewhere.WEIGHTS)
        save_file({n: t for n, t in tensors.items() if like not in n}, folder / elsewhere.WEIGHTS)

    return edit


def edit_adapter_config(**keys: Any) -> Edit:
    """Return the edit that changes an adapter's configuration."""
    return lambda folder: elsewhere.edit_json(folder, **keys)


LLAMA = "transformers.models.llama.modeling_llama"
BROKEN: dict[str, tuple[str, Edit, str]] = {
    "half of its layers": (
        "plain",
        drop_tensors("layers.1."),
        "it lacks 14 of the tensors that its adapter_config.json",
    ),
    "no magnitudes": (
        "dora",
        drop_tensors("lora_magnitude"),
        "it lacks 14 of the tensors that its adapter_config.json",
    ),
    "a class from elsewhere": (
        "plain",
        edit_adapter_config(auto_mapping={"base_model_class": "M", "parent_library": "their.code"}),
        "set it to null",
    ),
    "a class of a command": (
        "plain",
        edit_adapter_config(auto_mapping={"base_model_class": "M", "parent_library": "transformers.commands.serve"}),
        "set it to null",
    ),
    "more than a class": (
        "plain",
        edit_adapter_config(auto_mapping={"base_model_class": "M", "parent_library": LLAMA, "code": "x"}),
        "set it to null",
    ),
    "a field of tomorrow": (
        "plain",
        edit_adapter_config(use_new=1),
        'has "use_new", which the installed PEFT does not know; update peft, or remove it',
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_adapter_is_one_clear_line(case: str, made: Path, ready: Project) -> None:
    """What is missing or would run code is told before anything is measured, and never as a traceback."""
    which, edit, told = BROKEN[case]
    shutil.copytree(made / which, ready.folder / "theirs")
    edit(ready.folder / "theirs")
    outcome = ready.run("--candidate", "theirs")
    assert (outcome.code, told in outcome.err) == (4, True), outcome.out + outcome.err
    assert outcome.err.count("error: ") == 1 and "Traceback" not in outcome.err
    assert "base::" not in outcome.out


def test_adapter_of_mlx_is_told_what_to_do(made: Path, ready: Project) -> None:
    """MLX's own adapters are not read, and the line says how they become a model that is."""
    elsewhere.mlx_adapter(made / "plain", made / "tiny", ready.folder / "theirs")
    outcome = ready.run("--candidate", "theirs")
    assert (outcome.code, "fuse it with mlx_lm.fuse" in outcome.err) == (4, True), outcome.err


def test_suite_without_a_merge_says_that_the_adapter_alone_is_judged(made: Path, ready: Project) -> None:
    """Without [merge] and without an export of a merged model, a warning says what is not measured."""
    ready.write({"suite.toml": REAL.partition("[[export]]")[0]})
    outcome = ready.run("--candidate", str(made / "plain"), "--collect-only")
    assert "evaluates only the adapter, not the model it is merged into; add [merge]" in outcome.err
    assert (
        "evaluates only the adapter"
        not in ready.write({"suite.toml": REAL}).run("--candidate", str(made / "plain"), "--collect-only").err
    )
