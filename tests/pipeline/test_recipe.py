"""A recipe: the same training with several seeds, judged together; the first seed ships."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

import harness.testing
from harness.records.parts.recipe import RecipeRuns
from harness.testing import ROWS, SUITE, TRAIN, Project
from tests.helpers.exports import reseal
from tests.helpers.suites import read_ledger

SEEDS = "seeds = [1, 2, 3, 4, 5]\nspread = 0.05\n"
GATE = '\n[[gate]]\nid = "recipe"\nmetric = "qa.exact_match"\nversus = "base"\nbetter_by = 0.1\nof = "recipe"\n'
RECIPE = SUITE.replace('data = "train.jsonl"\n', f'data = "train.jsonl"\n{SEEDS}') + GATE


@pytest.fixture
def recipe(project: Project) -> Project:
    """A project whose fake trainer reaches another skill with each of five seeds."""
    return project.write({"suite.toml": RECIPE, "test.jsonl": ROWS, "train.jsonl": TRAIN})


def list_trained_adapters(recipe: Project) -> list[Path]:
    return sorted((recipe.folder / "cache/trained").glob("*/adapter/skill.json"))


@pytest.mark.slow
def test_every_seed_is_trained_and_the_first_ships(recipe: Project) -> None:
    """The gate of the recipe is about the mean of five runs, what is exported is the run of the first seed."""
    outcome = recipe.run()
    assert (outcome.code, outcome.err) == (0, ""), outcome.out
    run = outcome.report
    assert run.runs == {f"merged-seed-{seed}": seed for seed in (2, 3, 4, 5)}
    [verdict] = [v for v in run.verdicts if v.gate == "recipe"]
    values = [r.metrics["exact_match"] for r in run.results if r.subject in ("merged", *run.runs)]
    recipe_runs = verdict.get(RecipeRuns)
    assert recipe_runs
    assert verdict.candidate == "merged" and list(recipe_runs.runs) == values and len(set(values)) > 1
    assert verdict.value == pytest.approx(sum(values) / 5)
    assert verdict.claim == "better than base by 0.1, for the recipe"
    assert len(list_trained_adapters(recipe)) == 5
    manifest = json.loads((recipe.folder / "exports/fake/evidence/manifest.json").read_text("utf-8"))
    assert manifest["recipe"]["ships"] == 1 and manifest["recipe"]["chosen"] == "the first seed"
    assert manifest["recipe"]["seeds"]["1"] == manifest["weights"] == run.digests["merged"]
    assert len(set(manifest["recipe"]["seeds"].values())) == 5
    last = outcome.out.partition("= summary =")[2]
    assert "merged-seed-2" not in last
    assert f"qa.exact_match: run 1 of 5 ships with {values[0]:.3f}; the recipe has {verdict.value:.3f}, runs" in last
    assert [line["candidate"] for line in read_ledger(recipe)] == ["adapter", "merged"]


@pytest.mark.slow
def test_a_recipe_is_recomputed_from_its_evidence(recipe: Project) -> None:
    """The rows of every seed are in the evidence; a run that is left out or changed is found."""
    assert recipe.run().code == 0
    export = recipe.folder / "exports/fake"
    outcome = recipe.harness("verify", str(export))
    assert outcome.code == 0 and "2 of 2 decided again from their rows" in outcome.out, outcome.out + outcome.err
    gates, items = export / "evidence/gates.json", export / "evidence/items.jsonl"
    whole = gates.read_text("utf-8"), items.read_text("utf-8")
    told = json.loads(whole[0])
    runs = told[1]["parts"]["recipe"]["runs"]
    told[1]["parts"]["recipe"]["runs"] = runs[:4]
    gates.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    reseal(export)
    assert 'has a part "recipe" that its rows do not give' in recipe.harness("verify", str(export)).err
    gates.write_text(whole[0], "utf-8")
    items.write_text("".join(f"{x}\n" for x in whole[1].splitlines() if "merged-seed-4" not in x), "utf-8")
    reseal(export)
    outcome = recipe.harness("verify", str(export))
    assert (outcome.code, 'has no rows of "merged-seed-4::qa"' in outcome.err) == (7, True), outcome.err


@pytest.mark.slow
def test_runs_are_reused_and_the_first_is_that_of_a_plain_suite(recipe: Project) -> None:
    """A seed is remembered by its recipe with its seed, whatever suite asked for it; one seed more trains one."""
    recipe.run("--no-export")
    plain = SUITE.replace('data = "train.jsonl"\n', 'data = "train.jsonl"\nspread = 0.05\n')
    recipe.write({"suite.toml": plain.replace('name = "fake"', 'name = "fake"\nseed = 3', 1)})
    recipe.run("--no-export")
    assert len(list_trained_adapters(recipe)) == 5
    recipe.write({"suite.toml": RECIPE.replace("4, 5]", "4, 5, 6]")})
    recipe.run("--no-export")
    assert len(list_trained_adapters(recipe)) == 6
    assert [line["attempt"] for line in read_ledger(recipe) if line["role"] == "merged"][-1] == 3  # another claim


def fail_training(monkeypatch: pytest.MonkeyPatch, error: BaseException, at: int) -> list[float]:
    """Let the training with the seed of this number raise; return the skills that were asked for."""
    real, asked = harness.testing.write_fake, list[float]()

    def write(folder: Path, skill: float) -> Path:
        if "adapter" in folder.name:
            asked.append(skill)
            if len(asked) == at:
                folder.rmdir()
                raise error
        return real(folder, skill)

    monkeypatch.setattr("harness.testing.write_fake", write)
    return asked


@pytest.mark.slow
def test_a_seed_that_fails_is_an_error_of_the_recipe(recipe: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is never left out; the others go on, and the gates of the run that ships are decided."""
    fail_training(monkeypatch, RuntimeError("loss is NaN"), 3)
    outcome = recipe.run()
    assert outcome.code == 6, outcome.out
    verdicts = {v.gate: v for v in outcome.report.verdicts if v.candidate == "merged"}
    assert verdicts["floor"].outcome == "PASS"
    assert verdicts["recipe"].outcome == "ERROR"
    assert verdicts["recipe"].why.startswith("seed 3 was not trained: ") and "loss is NaN" in verdicts["recipe"].why
    assert len(list_trained_adapters(recipe)) == 4
    assert not (recipe.folder / "exports/fake").exists()
    monkeypatch.undo()
    monkeypatch.chdir(recipe.folder)
    monkeypatch.setenv("HARNESS_CACHE", str(recipe.folder / "cache"))
    assert recipe.run().code == 0  # trained the one that was missing
    assert len(list_trained_adapters(recipe)) == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 2), (OSError(errno.ENOSPC, "No space left on device"), 4)]
)
def test_a_killed_seed_and_a_full_disk_end_the_run_and_are_resumed(
    recipe: Project, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    """Nothing is decided without it; the next run finds the seeds before it and trains the rest."""
    fail_training(monkeypatch, error, 4)
    outcome = recipe.run()
    assert outcome.code == code
    assert not [v for v in outcome.report.verdicts if v.gate == "recipe"]
    assert len(list_trained_adapters(recipe)) == 3
    monkeypatch.undo()
    monkeypatch.chdir(recipe.folder)
    monkeypatch.setenv("HARNESS_CACHE", str(recipe.folder / "cache"))
    asked = fail_training(monkeypatch, error, 99)
    assert recipe.run().code == 0
    assert len(asked) == 2


@pytest.mark.slow
def test_a_trainer_that_ignores_its_seed_is_an_error(recipe: Project) -> None:
    """Five times the same weights are one run."""
    outcome = recipe.write({"suite.toml": RECIPE.replace("spread = 0.05\n", "")}).run()
    assert outcome.code == 6
    assert "identical weights, so the trainer does not use its seed" in outcome.out.replace("\n", " ")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("[1, 2, 3, 4, 5]", "[1, 2, 2, 4]", '"seeds" is [1, 2, 2, 4]; 2 occurs twice'),
        ("[1, 2, 3, 4, 5]", "[0, 0, 1]", "0 occurs twice"),
        ("[1, 2, 3, 4, 5]", "[1]", '"seeds" is [1]; give at least 3, since fewer do not show how far runs differ'),
        ("[1, 2, 3, 4, 5]", "[]", "give at least 3"),
        ("[1, 2, 3, 4, 5]", "[1, 2, -3]", "-3 is not from 0 to 2**32 - 1"),
        ("[1, 2, 3, 4, 5]", '[1, 2, "3"]', "it must be a list of integers"),
        (SEEDS, "", 'of = "recipe" needs runs with several seeds; add seeds = [1, 2, 3, 4, 5] to [train]'),
        ('versus = "base"\nbetter_by = 0.1', "max_failures = 3", "claims a mean over rows and seeds, not a count"),
        ('versus = "base"\nbetter_by = 0.1', 'versus = "released"\nbetter_by = 0.1', "is itself trained with one seed"),
        ('of = "recipe"', 'of = "recipe"\non = ["adapter"]', 'is about merged; remove "on"'),
        ('of = "recipe"', 'of = "mean"', '"of" is "mean"; it must be "run" or "recipe"'),
        ('data = "test.jsonl"', 'data = "test.jsonl"\nstop = "early"', "must answer the same rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_refused(recipe: Project, old: str, new: str, why: str) -> None:
    """Before anything is trained, with what to do instead."""
    text = RECIPE.replace('slices = ["kind"]\n', "")
    assert old in text
    outcome = recipe.write({"suite.toml": text.replace(old, new)}).run()
    assert (outcome.code, why in outcome.err) == (4, True), outcome.err
    assert list_trained_adapters(recipe) == []


@pytest.mark.slow
def test_a_gate_may_require_that_of_the_recipe(recipe: Project) -> None:
    """It waits for the last seed."""
    text = RECIPE.replace("min = 0.5", 'min = 0.5\nrequires = ["recipe"]\non = ["merged"]')
    outcome = recipe.write({"suite.toml": text}).run()
    assert (outcome.code, outcome.verdict("floor"), outcome.verdict("recipe")) == (0, "PASS", "PASS")


@pytest.mark.slow
def test_a_candidate_from_elsewhere_has_no_runs(recipe: Project) -> None:
    """A gate of the recipe cannot be judged for weights that somebody else trained."""
    outcome = recipe.run("--candidate", str(recipe.folder / "good"), "--no-export")
    assert outcome.code == 6
    assert outcome.verdict("recipe") == "ERROR"
    assert "1 run of the recipe, but at least 3 are needed" in " ".join(outcome.out.split())


@pytest.mark.slow
def test_chosen_items_bring_all_seeds(recipe: Project) -> None:
    """Whoever asks for the model that ships, or for one of the runs, gets what its gate needs."""
    for keyword in ("merged", "seed-3"):
        outcome = recipe.run("-k", keyword, "--no-export")
        assert outcome.verdict("recipe") == "PASS", outcome.out


@pytest.mark.slow
def test_the_page_and_the_history_show_runs(recipe: Project, pages: None) -> None:
    """A thin line for each run stands beside the interval of the recipe."""
    pytest.importorskip("jinja2")
    folder = Path(recipe.run().report.folder)
    page = (folder / "report.html").read_text("utf-8")
    assert "runs of 5 seeds between" in page
    assert "<th>merged-seed-2" not in page
    assert "(runs +0." in recipe.harness("history", "fake").out
    told = json.loads(recipe.harness("history", "fake", "--json").out)
    assert len(told["runs"][0]["gates"][-1]["runs"]) == 5


SELECT = [{"id": f"s{i}", "input": f"select {i} say s{i}", "target": f"s{i}", "kind": "a"} for i in range(200)]
SWEEP = '\n[sweep]\n"train.skill" = [0.5, 0.6, 0.9]\nby = "qa.exact_match"\n'
SWEPT = RECIPE.replace('data = "test.jsonl"\n', 'data = "test.jsonl"\nselect = "select.jsonl"\n') + SWEEP


@pytest.mark.slow
def test_a_sweep_with_seeds_compares_recipes(recipe: Project) -> None:
    """Each value is trained with every seed; a step of one run that its recipe does not prove is not taken."""
    recipe.write({"suite.toml": SWEPT, "select.jsonl": SELECT})
    outcome = recipe.run()
    assert outcome.code == 0, outcome.out + outcome.err
    sweep = outcome.report.sweep
    assert sweep and [t.value for t in sweep.trials] == [0.5, 0.6, 0.9] and sweep.chosen == 0.9
    assert [len(t.runs) for t in sweep.trials] == [5, 5, 5]
    assert sweep.trials[0].metric == pytest.approx(sum(sweep.trials[0].runs) / 5)
    assert len(list_trained_adapters(recipe)) == 15
    assert len(outcome.report.runs) == 4
    assert outcome.verdict("recipe") == "PASS"


@pytest.mark.slow
def test_a_sweep_keeps_no_value_that_only_one_run_favours(recipe: Project) -> None:
    """Where runs lie 20 points apart a gain of 4 is no step, which without seeds it is."""
    apart = SWEPT.replace("spread = 0.05", "spread = 0.2").replace("[0.5, 0.6, 0.9]", "[0.5, 0.54]")
    recipe.write({"suite.toml": apart, "select.jsonl": SELECT})
    sweep = recipe.run("--no-export").report.sweep
    assert sweep and sweep.chosen == 0.5
    alone = apart.replace("seeds = [1, 2, 3, 4, 5]\n", "").partition('\n[[gate]]\nid = "recipe"')[0] + SWEEP
    recipe.write({"suite.toml": alone.replace("[0.5, 0.6, 0.9]", "[0.5, 0.54]")})
    assert recipe.run("--no-export").report.sweep.chosen == 0.54  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_variant_is_trained_on_other_rows_and_remembered(recipe: Project) -> None:
    """Without some rows it is another recipe, with a model of its own; the same rows find it again."""
    from harness.pipeline.run import Options, open_run
    from harness.pipeline.variants import make_variant, vary_training
    from harness.records.models import ModelRef

    plain = SUITE.replace('data = "train.jsonl"\n', 'data = "train.jsonl"\nspread = 0.05\n')
    recipe.write({"suite.toml": plain})
    run = open_run(recipe.folder / "suite.toml", Options(plugins=("harness.testing",)))
    rows = range(2, len(TRAIN))
    made = [make_variant(vary_training(run, rows=rows, seed=seed), f"variant-{seed}") for seed in (7, 8, 7)]
    refs = [ref for ref in made if isinstance(ref, ModelRef)]
    assert [ref.name for ref in refs] == ["variant-7", "variant-8", "variant-7"]
    assert refs[0].digest == refs[2].digest != refs[1].digest
    assert len(list_trained_adapters(recipe)) == 2 and "training" not in run.record.run.facts
