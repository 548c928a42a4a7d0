"""`harness init`: what it writes runs, passes and tells how to go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli.init import SCHEMA, TASKS, list_example_suites
from harness.cli.main import main
from harness.pipeline.run import Options, prepare_collection


@pytest.mark.parametrize("task", TASKS)
def test_what_init_writes_is_a_suite_without_a_warning(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every suite of a task is collected, has rows to test on that it does not train on, and is warned of nothing."""
    assert main(["init", str(tmp_path / task), "--task", task]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(tmp_path / task / name) for name in (*TASKS[task], SCHEMA)]
    here = tmp_path / task
    several = f"cd {here} && harness run train.toml && harness run suite.toml"
    assert f"next: {several if task == 'candidate' else f'harness run {here}/suite.toml'}\n" in said.err
    for suite in (tmp_path / task).glob("*.toml"):
        collection = prepare_collection(suite, Options())
        alone = task == "candidate" and suite.name == "suite.toml"
        assert collection.warnings == ()
        assert collection.suite.gates and bool(collection.training) != alone
        tested = {str(s.input) for t in collection.tasks.values() for s in t.samples or ()}
        assert len(tested) >= 30 and not tested & {str(row.get("prompt")) for row in collection.training or ()}


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
@pytest.mark.parametrize("task", ["classify", "tools"])  # a text and a chat; all six take two minutes of a core
def test_what_init_writes_runs_and_passes(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands that init names end with exit 0, every gate passed and the model exported, as its rows say."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--task", task]) == 0
    for name in list_example_suites(task):
        assert main(["run", name]) == 0
    assert list(tmp_path.glob("exports/*/model/*.safetensors"))
    assert main(["verify", str(next(tmp_path.glob("exports/*"))), "--recompute"]) == 0


def test_unknown_task_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A task that there is not is told with those that there are, and nothing is written."""
    with pytest.raises(SystemExit) as ended:
        main(["init", str(tmp_path), "--task", "clasify"])
    err = capsys.readouterr().err
    assert (ended.value.code, "classify" in err, list(tmp_path.iterdir())) == (4, True, [])
