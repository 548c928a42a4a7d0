"""What a run tells of how it was made: steps of the training, rows as the model sees them, memory by stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import harness
from harness.pipeline import record
from harness.pipeline.record import MemoryPeaks
from harness.records.run import Segment, ShownRow, TrainingStep
from harness.release.verify import verify_export
from harness.reports.run_folder import MAX_STEPS, STEPS, read_steps, write_steps
from harness.testing import SUITE, Project
from tests.helpers.suites import SELECT, SPLIT

CURVE = tuple(TrainingStep(i, float(i), i / 3, 1 / i, 0.1, tokens=10 * i) for i in (1, 2, 3))
BUILDS = """
from pathlib import Path
from harness import Built, Example, hookimpl
from harness.testing import write_fake

class Letters:
    def decode(self, ids, clean_up_tokenization_spaces):
        return "".join(map(chr, ids))

def build(ref, adapter, rows, *, seed):
    with open("built", "a") as f:
        f.write("x")
    texts = [(f"<user>{r['prompt']}", f"<bot>{r['completion']}") for r in rows]
    labels = [[-100] * len(p) + [1] * len(a) for p, a in texts]
    examples = [Example(i, [*map(ord, p + a)], l) for i, ((p, a), l) in enumerate(zip(texts, labels), 1)]
    return Built(Letters(), examples, len(rows), CUT, False, lambda n: iter(()), None, None)

def builds(ref, adapter, rows, out: Path, *, progress, seed):
    return write_fake(out, 0.9)

builds.build = build

def looks(built):
    "Look at nothing."
    return []

@hookimpl
def harness_trainers():
    return {"builds": builds}

@hookimpl
def harness_checks():
    return {"X1": looks}
"""


@pytest.mark.slow
def test_a_training_that_is_reused_has_its_curve(suite: Project) -> None:
    """It is kept with the adapter: read again it is the one of the run that trained."""
    once, again = suite.run().report, suite.run().report
    assert "reused" not in once.facts["training"] and "reused" in again.facts["training"]
    assert once.training == again.training == CURVE


TELLS = """
from pathlib import Path
from harness import TrainingStep, hookimpl, write_steps
from harness import TRAINING_LOGS

from harness.testing import write_fake

def tells(ref, adapter, rows, out: Path, *, progress, seed, skill: float = 0.9):
    write_fake(out, skill)
    write_steps(out, [TrainingStep(1, loss=skill)])
    (out.parent / TRAINING_LOGS).mkdir()
    (out.parent / TRAINING_LOGS / f"of-{skill}").touch()
    return out

@hookimpl
def harness_trainers():
    return {"tells": tells}
"""


@pytest.mark.slow
def test_a_sweep_tells_of_the_training_it_chose(suite: Project) -> None:
    """Its last trial is not that one; the folder has the logs of the chosen one alone."""
    sweep = '\n[sweep]\n"train.skill" = [0.3, 0.9, 0.91]\nby = "qa.exact_match"\n'
    text = SPLIT.replace('use = "fake"\ndata', 'use = "tells"\ndata') + sweep
    suite.write({"suite.toml": text, "select.jsonl": SELECT, "harnessfile.py": TELLS})
    run = suite.run().report
    assert run.sweep and (run.sweep.chosen, len(run.sweep.trials)) == (0.9, 3)
    assert run.training == (TrainingStep(1, loss=0.9),)
    assert [path.name for path in Path(run.folder).glob("training/*")] == ["of-0.9"]
    assert Path(run.facts["training"]["logs"]).name == "training"


def test_logs_that_cannot_be_copied_cost_a_warning(suite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on, and says where they are."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.pipeline.artifacts.shutil.copytree", full)
    text = SUITE.replace('use = "fake"\ndata', 'use = "tells"\ndata')
    outcome = suite.write({"suite.toml": text, "harnessfile.py": TELLS}).run()
    assert outcome.code == 0
    [warning] = [w for w in outcome.report.warnings if "the training's logs remain in \"" in w]
    assert "$HARNESS_CACHE/trained/" in warning


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": "1"}', '{"steps": 1}', "\x00", '{"loss": [1]}', "[" * 9999])
def test_a_trainer_owes_no_steps(tmp_path: Path, text: str) -> None:
    """What is no step is none, and costs nothing else."""
    (tmp_path / STEPS).write_text(text, "utf-8")
    assert read_steps(tmp_path / "adapter") == read_steps(tmp_path / "no/where") == ()


def test_steps_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Of many a part: the first, the last, those with a validation loss, and every so many of the others."""
    write_steps(tmp_path / "adapter", CURVE)
    assert read_steps(tmp_path / "adapter") == CURVE
    (tmp_path / STEPS).write_text('{"step": 1, "seconds": 2, "loss": NaN}\n', "utf-8")
    assert read_steps(tmp_path / "adapter") == (TrainingStep(1, 2.0),)
    write_steps(tmp_path / "adapter", [TrainingStep(i, validation=1.0 if i == 1500 else None) for i in range(1, 5001)])
    found = [step.step for step in read_steps(tmp_path / "adapter")]
    assert (found[:2], found[-1], 1500 in found) == ([1, 6], 5000, True)
    assert len(found) <= MAX_STEPS + 2


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--no-cache"]])
def test_rows_are_shown_as_the_model_sees_them(suite: Project, flags: list[str]) -> None:
    """The first, the middle and the last, what is learnt apart; also where the checks are not run again."""
    text = SUITE.replace('use = "fake"\ndata', 'use = "builds"\ndata')
    suite.write({"suite.toml": text, "harnessfile.py": BUILDS.replace("CUT", "None")})
    runs = [suite.run("-p", "no:checks", *flags).report for _ in range(2)]
    assert len((suite.folder / "built").read_text()) == (2 if flags else 1)
    for run in runs:
        assert [row.number for row in run.shown_rows] == [1, 11, 20]
        assert run.shown_rows[0].segments == (Segment("<user>train 0 say t0"), Segment("<bot> t0", True))
    evidence = json.loads((suite.folder / "exports/fake/evidence/report.json").read_text("utf-8"))
    assert (evidence["shown_rows"], verify_export(suite.folder / "exports/fake").ok) == ([], True)


def test_rows_are_shown_as_they_are_cut(suite: Project) -> None:
    """What is cut off before training is not shown, and of a very long row the rest is left out."""
    text = SUITE.replace('use = "fake"\ndata', 'use = "builds"\ndata')
    suite.write({"suite.toml": text, "harnessfile.py": BUILDS.replace("CUT", "22")})
    assert suite.run().report.shown_rows[0].segments == (Segment("<user>train 0 say t0"), Segment("<b", True))
    long = [{"input": "x" * 30_000, "target": "y"}] * 3
    suite.write({"train.jsonl": long, "harnessfile.py": BUILDS.replace("CUT", "None")})
    row = suite.run().report.shown_rows[0]
    assert row == ShownRow(1, (Segment("<user>" + "x" * 19_993 + "…"),))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks begin anew on Linux alone")
def test_peaks_are_a_stage_s_own() -> None:
    """A stage inside another counts for both, and what was freed before a stage does not count for it."""
    measured, mib = MemoryPeaks(), 1 << 20
    with measured.stage("outer"):
        with measured.stage("large"):
            held = bytearray(200 * mib)
            del held
        with measured.stage("small"):
            pass
    assert measured.peaks["outer"] == measured.peaks["large"] > measured.peaks["small"] + 150 * mib
    with measured.stage("small"):
        held = bytearray(100 * mib)
        del held
    assert measured.peaks["small"] > 100 * mib


def test_peaks_that_cannot_begin_anew_are_told_where_they_rose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Elsewhere a stage that stayed below the peak before it has none."""
    peaks = iter([100, 100, 100, 100, 100, 300, 300, 300])
    monkeypatch.setattr(record, "PROCESS", tmp_path / "no/such")
    monkeypatch.setattr(record, "_read_peak_resident_bytes", lambda: next(peaks))
    measured = MemoryPeaks()
    with measured.stage("calm"):
        pass
    with measured.stage("large"):
        next(peaks)
        next(peaks)
    assert measured.peaks == {"large": 300}


def test_stages_tell_their_memory(suite: Project) -> None:
    """Every stage of a run that took time has a peak, in bytes that a process can hold."""
    run = harness.run("suite.toml", plugins=("harness.testing",))
    assert run.memory.keys() == run.stages.keys()
    assert all(10**7 < peak < 10**12 for peak in run.memory.values())
