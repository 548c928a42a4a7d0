"""The self-test: what must not ship is caught, what would slip through is told, equal models are not blocked."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.records.models import Sampling
from harness.selftest import ConstantSubject, ShuffledSubject
from harness.testing import SUITE, FakeSubject, Project
from harness.workers.local import LocalWorkers

NAMES = ["base itself", "base nudged", "noise in the weights", "NaN weights", "shuffled answers", "constant answer"]
NAMES += ["training rows in the test"]

HAIR = """
from harness import hookimpl
from harness.testing import write_fake

@hookimpl
def harness_saboteurs():
    def worse(base, out, *, seed):
        \"\"\"The base, with a hundredth of its skill gone.\"\"\"
        write_fake(out, 0.29)
    return {"a hair worse": worse}
"""


def run_selftest(suite: Project, *flags: str) -> tuple[int, str]:
    """Run the command, and return its exit code and what it printed."""
    outcome = suite.harness("selftest", str(suite.folder / "suite.toml"), "-p", "harness.testing", *flags)
    return outcome.code, outcome.out


@pytest.mark.slow
def test_a_suite_with_a_floor_catches_them_all(suite: Project) -> None:
    """Every impostor is named with the gate that kept it back; nothing is exported, nothing counts as an attempt."""
    code, out = run_selftest(suite)
    assert code == 0
    for name in NAMES:
        assert f"caught  {name}" in out
    assert 'gate "floor" is FAIL on merged' in out
    assert "skipped untrained adapter" in out  # a fake has no layers to adapt
    assert "7 of 7 saboteurs caught" in out
    assert not (suite.folder / "exports").exists()
    assert not (suite.folder / "reports").exists()
    assert not list((suite.folder / "cache").glob("attempts*"))


@pytest.mark.slow
def test_a_suite_that_claims_nothing_better_lets_the_base_ship(suite: Project) -> None:
    """Without a claim of improvement a base that answers one row otherwise ships: exit 1, and it says what to claim."""
    claim = SUITE.replace("min = 0.5", 'versus = "base"\nworse_by_at_most = 0.1')
    rows = [
        {"id": f"q{i}", "input": f"question {i} say w{i}", "target": f"w{i}", "kind": "ab"[i % 2]} for i in range(300)
    ]
    suite.write({"suite.toml": claim, "test.jsonl": rows, "harnessfile.py": HAIR})
    code, out = run_selftest(suite, "--only", "a hair worse", "--only", "shuffled answers")
    assert code == 1
    (ships,) = (line for line in out.splitlines() if "a hair worse" in line)
    assert ships.startswith("SHIPS") and "to be better than the base" in out
    assert "caught  shuffled answers" in out and "1 of 2 saboteurs caught" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ("worse_by_at_most = 0.1", "SHIPS"),
        ("worse_by_at_most = 0.02", 'gate "floor" is INCONCLUSIVE on merged: 0.183 against 0.183, +0.000'),
        ("better_by = 0.0", 'gate "floor" is ERROR on merged: none of 60 rows differs from the baseline'),
    ],
)
def test_a_base_that_answers_every_row_alike_is_no_worse_and_no_better(suite: Project, claim: str, said: str) -> None:
    """Turning one bit changes no answer of the fake: a suite that claims no more than that lets it ship."""
    suite.write({"suite.toml": SUITE.replace("min = 0.5", f'versus = "base"\n{claim}')})
    code, out = run_selftest(suite, "--only", "base nudged")
    assert (code, "SHIPS" in out) == ((1, True) if said == "SHIPS" else (0, False))
    assert said in out


def test_a_control_that_is_skipped_leaves_the_equal_models_to_the_next(suite: Project) -> None:
    """What could not be made of this base has no answers to swap: those of the next control are swapped."""
    suite.write({"suite.toml": SUITE.replace("min = 0.5", 'versus = "base"\nbetter_by = 0.0')})
    code, out = run_selftest(suite, "--only", "untrained adapter", "--only", "noise in the weights")
    assert code == 0
    assert "skipped untrained adapter" in out and "caught  noise in the weights" in out
    assert "floor: equal models blocked" in out


@pytest.mark.slow
def test_impostors_answer_in_workers(suite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --on each is answered by two processes, and caught for the same reason."""
    started: list[str] = []
    again = LocalWorkers.restart
    monkeypatch.setattr(LocalWorkers, "restart", lambda self: started.append(self.said) or again(self))
    names = ("--only", "shuffled answers", "--only", "noise in the weights")
    code, there = run_selftest(suite, *names, "--on", "local:2")
    assert (code, len(started), {*started}) == (0, 6, {"local:2"})  # the base, and two impostors
    _, here = run_selftest(suite, *names)
    assert [line.partition(" s  ")[2] for line in here.splitlines()] == [
        line.partition(" s  ")[2] for line in there.splitlines()
    ]
    assert len(started) == 6


def test_an_unknown_name_is_a_mistake(suite: Project) -> None:
    """A misspelt impostor is told with the one that was meant."""
    outcome = suite.harness("selftest", str(suite.folder / "suite.toml"), "-p", "harness.testing", "--only", "noise")
    assert outcome.code == 4
    assert 'no saboteur "noise"' in outcome.err


def test_a_suite_without_gates_has_nothing_to_test(suite: Project) -> None:
    """A self-test of nothing is refused."""
    suite.write({"suite.toml": SUITE.partition("[[gate]]")[0]})
    outcome = suite.harness("selftest", str(suite.folder / "suite.toml"), "-p", "harness.testing")
    assert (outcome.code, "nothing to test" in outcome.err) == (4, True)


def test_disguises_spoil_answers() -> None:
    """Shuffled gives every row another row's answer, constant the first row's; texts are scored as they are."""
    perfect = FakeSubject("base", 1.0)
    prompts = [f"say w{i}" for i in range(4)]
    assert ShuffledSubject(perfect).generate(prompts) == ["?", "w0", "w1", "w2"]
    assert ConstantSubject(perfect).generate(prompts, sampling=Sampling(1.0, seeds=(1, 2, 3, 4))) == ["w0"] * 4
    pairs = [(p, f" w{i}") for i, p in enumerate(prompts)]
    assert [s.greedy for s in ShuffledSubject(perfect).logprobs(pairs)] == [False] * 4
    assert [s.greedy for s in ConstantSubject(perfect).logprobs(pairs)] == [True, False, False, False]
    assert ConstantSubject(perfect).logprobs([("", "text")]) == perfect.logprobs([("", "text")])
    assert ConstantSubject(perfect).nbytes == perfect.nbytes


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_the_smoke_suite_catches_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: object) -> None:
    """On a real model too, the untrained adapter among them."""
    pytest.importorskip("transformers")
    from harness.selftest import run_selftest as run

    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    found = run(Path(__file__).parent.parent / "suites/smoke.toml")
    assert found.exit_code == 0
    assert {t.name for t in found.trials} == {*NAMES, "untrained adapter"}
    assert not [t.name for t in found.trials if t.skipped]
    assert [e.gate for e in found.equals] == ["few answers far worse", "chooses better than the base"]
