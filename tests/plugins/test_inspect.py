"""[[eval]] use = "inspect": tasks of each kind, run by Inspect with the harness's subject as their model."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.testing import ROWS, SUITE, TRAIN, CommandOutcome, FakeSubject, Project
from harness_inspect import inspect, metrics_for, rows_for
from tests.helpers.sampling import HARNESSFILE as SAMPLING

pytest.importorskip("inspect_ai")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The 'initial' parameter is deprecated:DeprecationWarning"),  # Inspect's retries
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
]
LIBRARY = Path(__file__).parents[1] / "tasks" / "library.py"
TASK = """
[[eval]]
name = "{task}"
use = "inspect"
task = "library.py@{task}"
{options}

[[gate]]
id = "{task} holds"
metric = "{task}.{metric}"
min = {least}
severity = "warn"
"""


@pytest.fixture(autouse=True)
def no_streams_left() -> Iterator[None]:
    """Collect the streams that Inspect leaves open here, where their warnings are expected."""
    yield
    gc.collect()


class Recorder(FakeSubject):
    """A fake subject that keeps the size of each batch, and answers as it is told."""

    def __init__(self, skill: float = 1.0, answer: Callable[[Any], str] | None = None) -> None:
        super().__init__("base", skill)
        vars(self).update(batches=[], prompts=[], answer=answer)

    def generate(self, prompts: Any, **_: Any) -> list[str]:
        """Answer a batch."""
        batches, asked, answer = (vars(self)[name] for name in ("batches", "prompts", "answer"))
        batches.append(len(prompts))
        asked += prompts
        return [answer(p) for p in prompts] if answer else super().generate(prompts)


def run_task(subject: Any, name: str, **options: Any) -> dict[str, Any]:
    """Put the samples of a task to a subject, and return its scores by sample."""
    from harness.data.rows import to_samples

    given = {"task": f"library.py@{name}", **options}
    rows = rows_for(given, LIBRARY.parent)
    samples = to_samples(rows, "here", columns={}, cluster=None, slices=())
    return {s.id: s for s in inspect(subject, samples, folder=LIBRARY.parent, **given)}


def run_inspect_suite(project: Project, *evals: str, text: str = SUITE) -> CommandOutcome:
    """Run a suite with evaluations of Inspect beside its own."""
    shutil.copy(LIBRARY, project.folder / "library.py")
    project.write({"suite.toml": text + "".join(evals), "test.jsonl": ROWS, "train.jsonl": TRAIN})
    return project.run()


def rows(project: Project, subject: str, name: str) -> dict[str, dict[str, Any]]:
    """Read the newest samples file of an evaluation."""
    paths = project.folder.glob(f"reports/*/{subject}/samples_{name}_*")
    lines = max(paths, key=lambda p: p.stat().st_mtime_ns).read_text("utf-8").splitlines()
    return {row["id"]: row for row in map(json.loads, lines)}


# -- kinds of tasks


def test_one_turn_goes_in_one_batch() -> None:
    """All samples of a task are asked together, and each scores as Inspect scores it."""
    subject = Recorder(0.5)
    scores = run_task(subject, "one_turn")
    assert vars(subject)["batches"] == [64]
    right = FakeSubject("base", 0.5).generate([f"question {i} say w{i}" for i in range(64)])
    assert [scores[f"q{i}"].values["exact"] for i in range(64)] == [float(w == f"w{i}") for i, w in enumerate(right)]


def test_two_turns_go_in_two_batches() -> None:
    """The second turns of 64 samples are batches of 32 or more, behind the model's own answers."""
    subject = Recorder()
    scores = run_task(subject, "two_turns")
    assert min(vars(subject)["batches"]) >= 32 and sum(vars(subject)["batches"]) == 128
    last = vars(subject)["prompts"][-1]
    assert [turn["role"] for turn in last] == ["user", "assistant", "user"] and last[1]["content"].startswith("w")
    assert {s.values["exact"] for s in scores.values()} == {1.0}


def test_tools_are_called() -> None:
    """The template gets the tools, a call in the answer is carried out, and its result is asked with."""

    def answer(prompt: Any) -> str:
        if prompt[-1]["role"] == "tool":
            return str(prompt[-1]["content"])
        [offered] = prompt[0]["chat_template_kwargs"]["tools"]
        assert offered["function"]["name"] == "add" and set(offered["function"]["parameters"]["properties"]) == {
            "x",
            "y",
        }
        call = {"name": "add", "arguments": {"x": int(prompt[0]["content"].split()[1]), "y": 1}}
        return f"<tool_call>{json.dumps(call)}</tool_call>"

    subject = Recorder(answer=answer)
    scores = run_task(subject, "tools")
    assert [s.values["includes"] for s in scores.values()] == [1.0] * 4 and vars(subject)["batches"] == [4, 4]
    called = vars(subject)["prompts"][-1][1]["tool_calls"]
    assert called[0]["function"]["name"] == "add" and scores["s3"].answer == "the sum: 4"


def test_a_template_without_tools_is_refused() -> None:
    """A model that is not shown the tools can call none, which would look like a bad model."""

    class Blind(Recorder):
        def render(self, messages: list[dict[str, Any]]) -> str:
            """Write the last message alone."""
            return str(messages[-1]["content"])

    with pytest.raises(Exception, match="renders the same text with and without the tools; describe them"):
        run_task(Blind(), "tools")


def test_code_runs_in_the_sandbox_that_is_named() -> None:
    """`local` isolates nothing, so a task runs there only where its eval says so."""
    with pytest.raises(Exception, match='runs in the sandbox "local", which isolates nothing; set sandbox = "local"'):
        run_task(Recorder(), "code")
    assert [s.values["runs"] for s in run_task(Recorder(), "code", sandbox="local").values()] == [1.0] * 4
    if not shutil.which("docker"):
        with pytest.raises(Exception, match="needs docker, which is not installed"):
            run_task(Recorder(), "one_turn", sandbox="docker")


def test_another_model_may_grade() -> None:
    """A judge of the task's own grades; the model under test may not, whether by Inspect's default or in secret."""
    assert {s.values["model_graded_qa"] for s in run_task(Recorder(), "graded").values()} == {1.0}
    assert {s.values["model_graded_qa"] for s in run_task(Recorder(), "graded", args={"grade": "I"}).values()} == {0.0}
    with pytest.raises(Exception, match='scorer "model_graded_qa" has the model grade its own answers'):
        run_task(Recorder(), "graded_by_itself")
    with pytest.raises(Exception, match='scorer "asks_itself" asks the model to grade its own answers'):
        run_task(Recorder(), "graded_in_secret")


def test_a_choice_is_a_letter() -> None:
    """The solver writes the choices into the prompt, and the scorer reads the letter."""
    scores = run_task(Recorder(), "choices")
    assert [s.values["choice"] for s in scores.values()] == [1.0, 0.0] * 3


def test_several_scorers_are_several_metrics() -> None:
    """Each scorer has a metric, one with a table of values one for each key; an eval may take one of them."""
    given = {"task": "library.py@several_scorers"}
    assert [m.name for m in metrics_for(given, LIBRARY.parent)] == ["exact", "includes", "table/short", "table/half"]
    [score, *_] = run_task(Recorder(), "several_scorers").values()
    assert score.values == {"exact": 1.0, "includes": 1.0, "table/short": 1.0, "table/half": 0.5}
    assert [m.name for m in metrics_for({**given, "scorer": "includes"}, LIBRARY.parent)] == ["includes"]
    assert {*run_task(Recorder(), "several_scorers", scorer="includes")["q0"].values} == {"includes"}
    with pytest.raises(Exception, match='scorer is "include"; the task has no such; did you mean "includes"'):
        metrics_for({**given, "scorer": "include"}, LIBRARY.parent)


@pytest.mark.parametrize(("asks", "limit"), [(True, "turn_limit"), (False, "time_limit")])
def test_a_solver_that_never_ends_is_ended(asks: bool, limit: str) -> None:
    """A sample that goes on ends at a limit, and counts as it stands, and as cut."""
    scores = run_task(Recorder(), "endless", args={"asks": asks}, **{limit: 2})
    assert {(s.finish_reason, s.is_cut) for s in scores.values()} == {("limit", True)}
    assert {s.note for s in scores.values()} == {f"ended at its {limit.removesuffix('_limit')} limit"}


def test_a_sample_that_fails_has_no_score(project: Project) -> None:
    """An error of a sample is a missing row, with its reason; where all fail nothing was measured."""
    assert sorted(run_task(Recorder(), "failing")) == ["q1", "q2", "q3", "q5", "q6", "q7"]
    done = run_inspect_suite(project, TASK.format(task="failing", metric="exact", least=0.5, options=""))
    assert done.code == 6 and "2 of 8 rows have no score" in done.out
    assert '2 samples failed, for instance "q0": ValueError' in " ".join((done.out + done.err).split())
    with pytest.raises(Exception, match=r"all 8 samples failed: .*a wheel came off"):
        run_task(Recorder(), "failing", args={"every": 1})


def test_epochs_are_repeats(project: Project) -> None:
    """The answers of a sample are the eval's `repeats`: the task's own epochs are told, and not run."""
    sampled = SUITE.replace('use = "fake"\npath', 'use = "sampling"\npath')
    project.write({"harnessfile.py": SAMPLING})
    options = "temperature = 0.7\nrepeats = 4\npass_at = [4]"
    done = run_inspect_suite(
        project, TASK.format(task="epochs", metric="exact.pass@4", least=0.1, options=options), text=sampled
    )
    assert done.code == 0, done.out + done.err
    for row in rows(project, "merged", "epochs").values():
        right = [draw["values"]["exact"] for draw in row["draws"]]
        assert right == [float(text == row["target"]) for text in row["resps"][0]]
        assert (row["exact"], row["exact.pass@4"]) == (sum(right) / 4, max(right))


# -- in a suite


def test_equal_rows_have_equal_values(project: Project) -> None:
    """Our exact_match and Inspect's exact give the same 200 rows the same values."""
    some = [{"id": f"q{i}", "messages": [{"role": "user", "content": f"question {i} say w{i}"}], "target": f"w{i}"}
            for i in range(200)]  # fmt: skip
    ours = '[[eval]]\nname = "ours"\nuse = "exact_match"\ndata = "two.jsonl"\n' \
           'columns = { input = "messages", target = "target" }\n'  # fmt: skip
    library = LIBRARY.read_text("utf-8").replace("range(64)", "range(200)")
    theirs = TASK.format(task="one_turn", metric="exact", least=0.2, options="args = { n = 200 }")
    project.write({"two.jsonl": some, "many.py": library})
    done = run_inspect_suite(project, ours, theirs.replace("library.py", "many.py"))
    assert done.code == 0, done.out + done.err
    for subject in ("base", "merged"):
        one, other = rows(project, subject, "ours"), rows(project, subject, "one_turn")
        assert len(one) == 200 and {i: r["exact_match"] for i, r in one.items()} == {
            i: r["exact"] for i, r in other.items()
        }
    again = project.run()
    assert all(r.cache_hits == r.requests for r in again.report.results if r.eval == "one_turn")


def test_a_log_of_inspect_gets_the_same_verdict(project: Project) -> None:
    """`harness gate` on Inspect's own logs of a task decides as a suite does that runs it."""
    import inspect_ai
    from inspect_ai.model import GenerateConfig, Model

    from harness_inspect.model import SubjectAPI
    from harness_inspect.options import InspectOptions

    claim = '[[gate]]\nid = "kept"\nmetric = "one_turn.exact"\nversus = "base"\nbetter_by = 0.3\nseverity = "warn"\n'
    done = run_inspect_suite(project, TASK.format(task="one_turn", metric="exact", least=0.2, options=""), claim)
    [ours] = [v for v in done.report.verdicts if v.gate == "kept" and v.candidate == "merged"]
    asked = InspectOptions("library.py@one_turn")
    for name, skill in (("base", 0.3), ("merged", 0.9)):
        api = SubjectAPI(FakeSubject(name, skill), asked)
        inspect_ai.eval(f"{LIBRARY}@one_turn", model=Model(api, GenerateConfig()), display="none",
                        log_dir=str(project.folder / name), log_format="json")  # fmt: skip
    found = project.harness("gate", "base", "merged", "--metric", "exact", "--better-by", "0.3", "--json")
    [theirs] = [v for item in json.loads(found.out)["run"]["results"] for v in item["verdicts"]]
    for key in ("outcome", "n", "method", "won_count", "lost_count"):
        assert getattr(ours, key) == theirs[key]
    for key in ("estimate", "lower", "upper", "p_pass", "p_fail"):
        assert getattr(ours, key) == pytest.approx(theirs[key], abs=1e-12)


@pytest.mark.parametrize(
    ("task", "options", "says"),
    [
        ("graded_by_itself", "", 'scorer "model_graded_qa" has the model grade its own answers; give it another model'),
        ("twins", "", 'two samples have the id "q0"; give each its own'),
        ("unscored", "", "has no scorer, so nothing would be measured"),
        ("code", "", 'runs in the sandbox "local", which isolates nothing; set sandbox = "local" if you trust it'),
        ("nothing", "", 'task "library.py@nothing": '),
        ("one_turn", "turn_limit = 0", "turn_limit is 0; it must be 1 or more"),
        ("one_turn", "args = { wrong = 1 }", 'has no argument "wrong"; remove it from args'),
        ("one_turn", 'task = "gone.py@x"', "there is no file"),
        ("one_turn", 'task = "no/such"', "there is no such task; check its name"),
        ("downloads", "", "cannot be loaded: "),
    ],
)
def test_a_task_that_cannot_run_is_refused(
    project: Project, task: str, options: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake is one line before any model is loaded."""
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    text = TASK.format(task=task, metric="exact", least=0.5, options=options)
    text = text.replace(f'task = "library.py@{task}"\n', "", 1) if options.startswith("task") else text
    done = run_inspect_suite(project, text)
    assert done.code == 4 and says in done.err, done.err
    [line] = [line for line in done.err.splitlines() if says in line]
    assert line.startswith("error: ") or line.startswith("  ")


def test_values_beyond_one_need_their_scale(project: Project) -> None:
    """A value that is no share is refused by name; with `scale = "mean"` it is a mean."""
    done = run_inspect_suite(project, TASK.format(task="beyond", metric="points", least=0.5, options=""))
    assert 'scorer "points" gave 3 to sample "q0", which is not between 0 and 1; set scale = "mean"' in done.out
    assert {s.values["points"] for s in run_task(Recorder(), "beyond", scale="mean").values()} == {3.0}


def test_an_interrupt_ends_the_evaluation() -> None:
    """Ctrl+C while a sample waits for its answer is an interrupt, and no failure of the evaluator."""

    def interrupt(_: Any) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
        return "too late"

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever an earlier test left
    try:
        with pytest.raises(KeyboardInterrupt):
            run_task(Recorder(answer=interrupt), "one_turn", args={"n": 1})
    finally:
        signal.signal(signal.SIGINT, before)


def test_ids_are_no_patterns() -> None:
    """A sample is found by its id, whatever characters it has, and one without gets its number."""
    scores = run_task(Recorder(), "odd_names")
    assert [*scores] == [f"[q{i}]*|?" for i in range(4)] + ["5"]
    assert {s.values["exact"] for s in scores.values()} == {1.0}


def test_a_target_may_be_a_list() -> None:
    """Any of several targets is right."""
    assert {s.values["exact"] for s in run_task(Recorder(), "several_targets").values()} == {1.0}


def test_a_missing_inspect_is_one_line(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Inspect the line says what to install."""
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    done = run_inspect_suite(project, TASK.format(task="one_turn", metric="exact", least=0.5, options=""))
    assert done.code == 4 and done.err.count("\n") == 1
    assert 'eval "one_turn": needs the module "inspect_ai"; pip install inspect-ai' in done.err


def test_an_old_inspect_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The version that is wanted is told with the line that installs it."""
    monkeypatch.setattr("harness_inspect.tasks.version", lambda _: "0.3.100")
    with pytest.raises(Exception, match=r"inspect_ai 0\.3\.100 is installed; pip install 'inspect_ai>=0\.3\.285'"):
        metrics_for({"task": "library.py@one_turn"}, LIBRARY.parent)
