"""What a run does, seen from outside: exit codes, reports, exports."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET

import pytest

import harness
from harness import testing
from harness.suite.reader import read_suite
from harness.testing import ROWS, SUITE, Project

COMPARES = SUITE.replace("min = 0.5", 'versus = "base"\nbetter_by = 0.0')


@pytest.mark.slow
def test_failing_gate_exports_nothing(suite: Project) -> None:
    """A model below the floor exits 1, and the export that was there before stays as it was."""
    assert suite.run().code == 0
    before = (suite.folder / "exports/fake/model/model.safetensors").read_bytes()
    outcome = suite.run("--set", "train.skill=0.2")
    assert outcome.code == 1
    assert outcome.verdict("floor", "adapter") == "FAIL"
    assert "not exported: merged" in outcome.out
    assert (suite.folder / "exports/fake/model/model.safetensors").read_bytes() == before


def test_merge_that_loses_what_was_learned_is_not_shipped(suite: Project) -> None:
    """The adapter passes, the merged model does not: what ships is judged, not what was trained."""
    outcome = suite.run("--set", "adapter.loses=0.6")
    assert outcome.code == 1
    assert (outcome.verdict("floor", "adapter"), outcome.verdict("floor", "merged")) == ("PASS", "FAIL")
    assert not (suite.folder / "exports").exists()


def test_too_few_rows_are_inconclusive(suite: Project) -> None:
    """Eight right of ten do not prove a floor of one half: exit 6, and the report says that it takes many more."""
    suite.write({"test.jsonl": ROWS[:7]})
    outcome = suite.run("--set", "train.skill=0.75")
    assert outcome.code == 6
    assert outcome.verdict("floor") == "INCONCLUSIVE"
    assert "7 rows are too few to decide: more than 140 would be needed" in outcome.out


def test_nothing_gated_is_not_ok(suite: Project) -> None:
    """A suite without gates measures, and exits 5."""
    suite.write({"suite.toml": SUITE.partition("[[gate]]")[0]})
    assert suite.run().code == 5


def test_base_passed_off_as_the_candidate_is_an_error(suite: Project) -> None:
    """A candidate with its baseline's own weights cannot pass a comparison with it."""
    suite.write({"suite.toml": COMPARES})
    outcome = suite.run("--candidate", str(suite.folder / "base"))
    assert (outcome.code, outcome.report.findings[-1].code) == (4, "M2")
    outcome = suite.run("--candidate", str(suite.folder / "base"), "--ignore", "M2")
    assert outcome.code == 6
    assert outcome.verdict("floor") == "ERROR"
    assert "), so there is nothing to compare" in outcome.out


def test_candidate_from_elsewhere_is_gated_and_shipped(suite: Project) -> None:
    """--candidate takes a model's folder in place of training, under the same gates."""
    suite.write({"suite.toml": COMPARES})
    outcome = suite.run("--candidate", str(suite.folder / "good"))
    assert outcome.code == 0
    exported = suite.folder / "exports/fake/model/model.safetensors"
    assert exported.read_bytes() == (suite.folder / "good/model.safetensors").read_bytes()


READER = """
from contextlib import contextmanager
from harness import hookimpl, loader
from harness.testing import identity, load as fake, open_source

@loader(open=open_source, identity=identity, reads=lambda folder: ["model.safetensors", "skill.json", "config.json"])
@contextmanager
def load(refs, *, dtype: str = "auto"):
    with fake(refs, dtype=dtype) as subjects:
        yield subjects

@hookimpl
def harness_loaders():
    return {"reader": load}
"""


@pytest.mark.parametrize("use", ["fake", "reader"])
def test_what_a_loader_does_not_read_stays_behind(use: str, suite: Project) -> None:
    """One that says which files it reads ships those and texts; of one that does not, what nobody else would obey."""
    for name in ("more.json", "README.md", "params.json"):
        (suite.folder / "good" / name).write_text("{}", "utf-8")
    suite.write(
        {"suite.toml": COMPARES.replace('[model]\nuse = "fake"', f'[model]\nuse = "{use}"'), "harnessfile.py": READER}
    )
    outcome = suite.run("--candidate", str(suite.folder / "good"))
    assert outcome.code == 0, outcome.out
    shipped = {path.name for path in (suite.folder / "exports/fake/model").iterdir()}
    model = {"model.safetensors", "skill.json", "config.json"}
    assert shipped == {*model, "README.md", *(["more.json"] if use == "fake" else [])}


def test_candidate_is_compared_with_few_shot_prompting_too(suite: Project) -> None:
    """The training data still names the worked examples when the candidate came with the command."""
    text = COMPARES.replace('versus = "base"', 'versus = "fewshot"') + "\n[subject.fewshot]\nshots = 3\n"
    outcome = suite.write({"suite.toml": text}).run("--candidate", str(suite.folder / "good"))
    assert outcome.code == 0
    assert "\ntrain" not in outcome.out


def test_candidate_that_is_no_model_is_refused(suite: Project) -> None:
    """What is neither adapter nor model is told by the loader, and what is not there by its name."""
    (suite.folder / "empty").mkdir()
    outcome = suite.run("--candidate", str(suite.folder / "empty"))
    assert (outcome.code, '": there is no model' in outcome.err) == (4, True)
    outcome = suite.run("--candidate", "nowhere")
    assert (
        outcome.code,
        ("\"nowhere\" is not a folder or a GGUF file; name an adapter's folder, a model's folder or a GGUF file")
        in outcome.err,
    ) == (4, True)
    assert suite.run("--candidate", "nowhere", "--collect-only").code == 4


def test_out_that_cannot_be_written_is_told_before_models_are_opened(suite: Project) -> None:
    """A file, or a folder that cannot be made, is a mistake of the command; nothing is loaded for it."""
    outcome = suite.run("--out", str(suite.folder / "suite.toml"))
    assert (outcome.code, "; name a writable folder" in outcome.err) == (4, True)
    assert "preflight" not in outcome.out


def test_gguf_file_is_its_folder(suite: Project) -> None:
    """A GGUF file that is given as the candidate stands for its folder; one of two that lie there is not guessed."""
    (suite.folder / "good/model.gguf").write_bytes(b"GGUF")
    read = read_suite(suite.folder / "suite.toml", candidate=str(suite.folder / "good/model.gguf"))
    assert read.candidate and read.candidate.merged == str(suite.folder / "good")
    (suite.folder / "good/other.gguf").write_bytes(b"GGUF")
    outcome = suite.run("--candidate", "good/model.gguf")
    assert (
        outcome.code,
        'its folder also contains "other.gguf"; move one of them to another folder' in outcome.err,
    ) == (4, True)


def test_limit_proves_nothing(suite: Project) -> None:
    """--limit gates the first rows, and ships nothing whatever they say."""
    outcome = suite.run("--limit", "30")
    assert outcome.code == 6
    assert "nothing ships: --limit 30: some of the rows prove nothing about the others" in outcome.out
    assert "may ship" not in outcome.out
    assert not (suite.folder / "exports").exists()


def test_deselected_gate_ships_nothing(suite: Project) -> None:
    """A run of some of the items proves nothing about the rest: exit 6 and no export."""
    outcome = suite.run("-k", "adapter")
    assert outcome.code == 6
    assert "items deselected" in outcome.out
    assert not (suite.folder / "exports").exists()


def test_part_with_all_gates_ships_nothing(suite: Project) -> None:
    """Also where the items that were chosen are all that is gated: a release job must not read it as permission."""
    outcome = suite.run("-k", "merged")
    assert outcome.verdict("floor", "merged") == "PASS"
    assert (outcome.code, "may ship" in outcome.out) == (6, False)
    assert "nothing ships: some of the items prove nothing about the whole suite" in outcome.out
    assert not (suite.folder / "exports").exists()


def test_keyword_chooses_the_baselines_its_gates_need(suite: Project) -> None:
    """Choosing the merged model's item chooses the base's too, when a gate compares them."""
    suite.write({"suite.toml": COMPARES})
    listed = suite.run("--collect-only", "-k", "merged").out
    assert "suite.toml::base::qa" in listed
    assert "adapter" not in listed


@pytest.mark.parametrize(("words", "code"), [("merged and not qa", 4), ("merged and (", 4), ("merged or adapter", 0)])
def test_keyword_expressions(suite: Project, words: str, code: int) -> None:
    """Expressions with and, or, not; nothing selected and nonsense exit 4."""
    assert suite.run("--collect-only", "-k", words).code == code


KEYWORDS = {
    "MERGED": "merged",
    "Merged and QA": "merged",
    "suite.TOML": "base adapter merged",
    "not merged": "base adapter",
    "merged or adapter and zzz": "merged",
    "(merged or adapter) and not adapter": "merged",
    "not not merged": "merged",
    "not (merged or base)": "adapter",
    "(" * 1000 + "merged" + ")" * 1000: "merged",
    "not " * 1000 + "merged": "merged",
}


@pytest.mark.parametrize("words", KEYWORDS, ids=range(len(KEYWORDS)))
def test_keywords_choose_as_pytest_does(suite: Project, words: str) -> None:
    """Case does not count, "not" binds before "and", "and" before "or", and parentheses may be as deep as one likes."""
    from harness.collection.select import compile_keyword
    from harness.pipeline.run import Options, prepare_collection

    collection = prepare_collection(suite.folder / "suite.toml", Options(plugins=("harness.testing",)))
    subjects = {i.subject for i in collection.items if compile_keyword(words)(i.id)}
    assert subjects == set(KEYWORDS[words].split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("merged (qa)", 'found "(", expected and, or'),
        ("merged qa", 'found "qa", expected and, or'),
        ("and", 'found "and", expected a name'),
        ("merged or", "it ends where a name is expected"),
        ("not", "it ends where a name is expected"),
        ("()", 'found ")", expected a name'),
        ("merged)", '")" has no matching "("'),
        ("(" * 1000 + "merged", '"(" is not closed'),
        ("__import__('os').system('x')", '", expected and, or'),
    ],
)
def test_keywords_that_cannot_be_read_are_one_line(suite: Project, words: str, told: str) -> None:
    """What is no expression is told with the word that does not fit, exit 4; nothing of it is ever evaluated."""
    outcome = suite.run("--collect-only", "-k", words)
    assert (outcome.code, told in outcome.err, len(outcome.err.splitlines())) == (4, True, 1)


def test_maxfail_below_zero_is_a_mistake(suite: Project) -> None:
    """--maxfail counts items, and a negative count is none."""
    assert suite.run("--maxfail", "-1").code == 4
    assert suite.run("--maxfail=-1", "--collect-only").err.startswith("error: --maxfail is -1; it must be 1 or more")


def test_lost_rows_are_printed_worst_first(suite: Project) -> None:
    """Of a metric of shares the row that lost most stands first in the output, whatever its place in the data."""
    plugin = """
from harness import Score, hookimpl, metric

LOST = {"q3": 0.2, "q7": 0.9, "q5": 0.5}

@metric("m", better="higher", scale="proportion")
def shares(subject, samples):
    for s in samples:
        yield Score(s.id, {"m": 0.95 if subject.name == "base" else 0.95 - LOST.get(s.id, 0.0)})

@hookimpl
def harness_evaluators():
    return {"shares": shares}
"""
    text = COMPARES.replace('use = "exact_match"', 'use = "shares"').replace("qa.exact_match", "qa.m")
    outcome = suite.write({"suite.toml": text, "harnessfile.py": plugin}).run()
    (line, *_) = [line for line in outcome.out.splitlines() if "lost, worst first" in line]
    assert line.split(":")[1].replace(",", " ").split() == ["q7", "q5", "q3"]


def test_last_failed_runs_what_failed(suite: Project) -> None:
    """--lf runs the items whose gates did not pass last time; without an earlier run it says so."""
    assert "no report of suite" in suite.run("--lf").err
    assert suite.run("--set", "adapter.loses=0.6").code == 1
    listed = suite.run("--collect-only", "--lf").out
    assert "merged::qa" in listed
    assert "adapter::qa" not in listed


def test_exit_first_stops(suite: Project) -> None:
    """-x stops at the first item that fails; the items after it are skipped, not passed."""
    outcome = suite.run("-x", "--set", "train.skill=0.2")
    assert outcome.code == 1
    assert [r.outcome for r in outcome.report.results] == ["done", "done", "skipped"]


def test_no_export_measures_only(suite: Project) -> None:
    """--no-export gates and writes no export."""
    outcome = suite.run("--no-export")
    assert outcome.code == 0
    assert "--no-export" in outcome.out
    assert not (suite.folder / "exports").exists()


@pytest.mark.slow
def test_training_is_not_repeated_when_nothing_changed(suite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same recipe on the same base and data is reused; another rate, or default, is another training."""
    assert "reused" not in suite.run().out
    assert "reused" in suite.run().out
    assert "reused" not in suite.run("--set", "train.skill=0.85").out
    monkeypatch.setitem(testing.train.__kwdefaults__, "skill", 0.88)
    assert "reused" not in suite.run().out


BAD_EVALUATORS = {
    "raises": ("raise ZeroDivisionError('boom')", 4, "boom"),
    "returns NaN": ("yield Score(s.id, {'m': float('nan')})", 6, "m is not a finite number on 60 rows"),
    "forgets rows": ("if s.id != 'q3': yield Score(s.id, {'m': 1.0})", 6, "1 of 60 rows have no score"),
    "invents rows": ("yield Score(s.id + 'x', {'m': 1.0})", 4, '" was not among its samples, or was scored twice'),
    "scores twice": ("yield Score(s.id, {'m': 1.0}); yield Score(s.id, {'m': 1.0})", 4, "twice"),
    "lacks the metric": ("yield Score(s.id, {'other': 1.0})", 6, 'have no "m"'),
    "yields nothing": ("if False: yield", 6, "60 of 60 rows have no score"),
}


@pytest.mark.parametrize("case", BAD_EVALUATORS)
def test_bad_evaluators_never_pass(suite: Project, case: str) -> None:
    """An evaluator that raises, returns NaN or forgets rows is an error: nothing ships, and no number is made up."""
    body, code, told = BAD_EVALUATORS[case]
    plugin = f"""
from harness import Score, hookimpl, metric

@metric("m", better="higher", scale="proportion")
def bad(subject, samples):
    for s in samples:
        {body}

@hookimpl
def harness_evaluators():
    return {{"bad": bad}}
"""
    text = SUITE.replace('use = "exact_match"', 'use = "bad"').replace("qa.exact_match", "qa.m")
    outcome = suite.write({"suite.toml": text, "harnessfile.py": plugin}).run()
    assert outcome.code == code
    assert told in outcome.out
    assert not (suite.folder / "exports").exists()


def test_rehearsal_crash_stops_before_training(suite: Project) -> None:
    """What crashes on the base crashes before the hours of training, and what was measured is kept."""
    plugin = """
from harness import hookimpl, metric

@metric("m", better="lower")
def crash(subject, samples, *, against):
    raise RuntimeError("compares badly")

@hookimpl
def harness_evaluators():
    return {"crash": crash}
"""
    text = SUITE + '\n[[eval]]\nname = "c"\nuse = "crash"\ndata = "test.jsonl"\n'
    outcome = suite.write({"suite.toml": text, "harnessfile.py": plugin}).run()
    assert outcome.code == 4
    assert "compares badly" in outcome.out
    assert "\ntrain" not in outcome.out


def test_failures_of_a_fraction_stop_before_training(suite: Project) -> None:
    """Failures are counted of a 0/1 metric: the base's rows show that one is not, and exit 4 comes before training."""
    text = SUITE.replace('use = "exact_match"', 'use = "token_f1"').replace("qa.exact_match", "qa.token_f1")
    half = [{**row, "target": f"{row['target']} exactly"} for row in ROWS]
    files = {"suite.toml": text.replace("min = 0.5", "max_failures = 3"), "test.jsonl": half}
    outcome = suite.write(files).run()
    assert outcome.code == 4
    assert 'gate "floor": max_failures counts rows of a 0/1 metric, but token_f1 of row' in outcome.out
    assert "\ntrain" not in outcome.out


def test_interrupt_in_training_exits_2_and_keeps_the_report(suite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C exits 2 with the baselines' rows on disk and no export."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(testing, "write_fake", interrupted)
    outcome = suite.run()
    assert outcome.code == 2
    assert "interrupted" in outcome.out
    assert outcome.report.results[0].outcome == "done"
    assert not (suite.folder / "exports").exists()
    monkeypatch.undo()


@pytest.mark.slow
def test_full_disk_leaves_the_old_export(suite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills while the export is written leaves the previous one whole, and exits 4."""
    assert suite.run().code == 0
    before = sorted(p.name for p in (suite.folder / "exports/fake").rglob("*"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    outcome = suite.run()
    assert outcome.code == 4
    assert "No space left on device" in outcome.out
    assert sorted(p.name for p in (suite.folder / "exports/fake").rglob("*")) == before
    assert [p.name for p in (suite.folder / "exports").iterdir()] == ["fake"]


@pytest.mark.slow
def test_an_export_that_is_there_is_told_where_its_report_cannot_be(
    suite: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its verdicts are in it; who goes by the exit code alone would think that the old one is there."""

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.pipeline.lifecycle.RunFolder.finish", no_room)
    outcome = suite.run()
    [line] = outcome.err.splitlines()
    there = suite.folder / "exports/fake"
    assert outcome.code == 4 and line.startswith("error: ") and line.endswith(f"with its verdicts: {there}")
    assert ": cannot be written: No space left on device; free space and run again; the export is complete" in line
    assert suite.harness("verify", str(there)).code == 0
    outcome = suite.run("--no-export")
    assert outcome.code == 4 and outcome.err.endswith("free space and run again\n")


def test_tampering_exporter_is_caught(suite: Project) -> None:
    """An exporter that writes other weights than were gated exits 1 and writes nothing."""
    plugin = """
from harness import hookimpl
from harness.testing import write_fake

def tamper(ref, to):
    write_fake(to, 0.1)
    return to

@hookimpl
def harness_exporters():
    return {"tamper": tamper}
"""
    text = SUITE.replace('use = "safetensors"', 'use = "tamper"')
    outcome = suite.write({"suite.toml": text, "harnessfile.py": plugin}).run()
    assert outcome.code == 1
    assert ": the written tensors differ from the gated ones" in outcome.out
    assert not (suite.folder / "exports/fake").exists()


def test_junit_xml_replaces_no_other_file(suite: Project) -> None:
    """Data that stands where the file of the option should be stays as it is."""
    before = (suite.folder / "train.jsonl").read_bytes()
    outcome = suite.harness("run", "suite.toml", "--junit-xml", "train.jsonl")
    assert (outcome.code, "exists and is not XML; name a file" in outcome.err) == (4, True), outcome.err
    assert (suite.folder / "train.jsonl").read_bytes() == before


def test_run_folder_has_what_others_expect(suite: Project) -> None:
    """Results and samples have lm-evaluation-harness's keys, junit.xml one case a verdict."""
    outcome = suite.run("--junit-xml", str(suite.folder / "ci.xml"))
    (folder,) = suite.folder.glob("reports/*")
    results = json.loads(next((folder / "merged").glob("results_*.json")).read_text("utf-8"))
    assert results["results"]["qa"]["exact_match,none"] == outcome.report.results[-1].metrics["exact_match"]
    assert results["results"]["qa"]["exact_match_stderr,none"] > 0
    rows = next((folder / "merged").glob("samples_qa_*.jsonl")).read_text("utf-8").splitlines()
    first = json.loads(rows[0])
    assert {
        "doc_id",
        "doc",
        "target",
        "arguments",
        "resps",
        "filtered_resps",
        "doc_hash",
        "exact_match",
    } <= first.keys()
    assert len(rows) == len(ROWS)
    cases = ET.parse(suite.folder / "ci.xml").getroot().findall("testcase")
    assert sum("floor" in c.get("name", "") for c in cases) == 2


def test_standard_error_is_that_of_the_mean(suite: Project) -> None:
    """The standard error that reports give is s/√n: of k right rows of n it is √(p(1 - p)/(n - 1))."""
    report = suite.run().report.results[-1]
    p, n = report.metrics["exact_match"], len(ROWS)
    assert 0 < p < 1
    assert report.stderr["exact_match"] == pytest.approx(math.sqrt(p * (1 - p) / (n - 1)), rel=1e-9)


def test_same_from_python(suite: Project) -> None:
    """harness.run returns the Run that the command line prints."""
    run = harness.run(suite.folder / "suite.toml", plugins=("harness.testing",), out=suite.folder / "reports")
    assert run.exit_code == 0
    assert run.exports[0].written


@pytest.mark.slow
def test_show_prints_the_report_again(suite: Project) -> None:
    """`show` prints the same summary, and --flips the rows that changed with both answers."""
    suite.write({"suite.toml": COMPARES})
    outcome = suite.run()
    (folder,) = suite.folder.glob("reports/*")
    again = suite.harness("show", str(folder))
    assert again.code == 0
    assert outcome.out.splitlines()[-1].strip("= ") == again.out.splitlines()[-1].strip("= ")
    flips = suite.harness("show", str(folder), "--flips").out
    assert "won" in flips
    assert "wrong" in flips


def test_rows_that_changed_cannot_move_the_terminal(suite: Project) -> None:
    """Prompts and answers are shown as data: an escape or half of a pair in one is spelt out, a new line is one."""
    suite.write({"suite.toml": COMPARES})
    suite.run()
    (folder,) = suite.folder.glob("reports/*")
    for path in folder.glob("*/samples_*.jsonl"):
        path.write_text(path.read_text("utf-8").replace('"resps": [["', '"resps": [["\\u001b[2J\\ud800\\n'), "utf-8")
    lines = suite.harness("show", str(folder), "--flips").out.splitlines()
    assert any(line.split() == ["base", "\\x1b[2J\\ud800"] for line in lines)
    assert not any("\x1b[2J" in line for line in lines)


def test_few_shot_is_the_base_with_examples(suite: Project) -> None:
    """A few-shot subject answers with the base's weights, and a gate can ask to beat it."""
    text = COMPARES.replace('versus = "base"', 'versus = "fewshot"') + "\n[subject.fewshot]\nshots = 3\n"
    outcome = suite.write({"suite.toml": text}).run()
    assert outcome.code == 0
    assert "fewshot::qa" in outcome.out


OWN_ROWS = """
from harness import Score, hookimpl, metric

@metric("even", better="higher", scale="proportion")
def even(subject, samples, *, count: int):
    for s, a in zip(samples, subject.generate([s.input for s in samples]), strict=True):
        yield Score(s.id, {"even": float(int(s.row["n"]) % 2 == 0)}, answer=a)

def rows_for(options, folder):
    assert (folder / "suite.toml").is_file()
    return [{"id": f"n{i}", "input": f"say {i}", "target": f"{i}", "n": i} for i in range(options["count"])]

even.rows_for = rows_for

@hookimpl
def harness_evaluators():
    return {"even": even}
"""


def test_an_evaluator_may_bring_its_rows(suite: Project) -> None:
    """Rows of the evaluator's own come at preflight, and data beside them is a mistake."""
    text = SUITE.replace('use = "exact_match"\ndata = "test.jsonl"\nslices = ["kind"]', 'use = "even"\ncount = 40')
    text = text.replace("qa.exact_match", "qa.even").replace("min = 0.5", "min = 0.3")
    suite.write({"suite.toml": text, "harnessfile.py": OWN_ROWS})
    outcome = suite.run()
    assert (outcome.code, outcome.report.results[0].n) == (0, 40)
    assert "base::qa  rows of its own\n" in suite.run("--collect-only").out
    assert '"even" has no rows' in suite.run("--set", "eval.0.count=0").err
    suite.write({"suite.toml": text.replace("count = 40", 'count = 40\ndata = "test.jsonl"')})
    assert '"even" brings its own rows; remove "data"' in suite.run().err


REFERENCE = """
[subject.reference]
use = "fake"
path = "good"
"""


@pytest.mark.slow
def test_another_model_can_be_a_baseline(suite: Project) -> None:
    """A model of its own answers the evaluations that gates compare with it, and nothing is trained beyond it."""
    claim = SUITE.replace("min = 0.5", 'versus = "reference"\nworse_by_at_most = 0.2')
    suite.write({"suite.toml": claim + REFERENCE})
    outcome = suite.run()
    assert outcome.code == 0
    assert [r.id for r in outcome.report.results if r.subject == "reference"] == ["suite.toml::reference::qa"]
    assert outcome.report.digests["reference"]
    assert suite.run("--set", "train.skill=0.5").verdict("floor", "adapter") == "FAIL"


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('use = "fake"', 'needs both "use" and "path" for another model, or neither'),
        ('path = "good"', 'needs both "use" and "path" for another model, or neither'),
        (
            "shot = 3",
            'unknown key "shot"; did you mean "shots"?',
        ),
        ('use = "fakes"\npath = "good"', 'no loader "fakes"; did you mean "fake"?'),
        ('use = "fake"\npath = "good"\ndtpye = "auto"', 'unknown option "dtpye"; did you mean "dtype"?'),
        ('use = "fake"\npath = "nowhere"', '": there is no model'),
    ],
)
def test_a_wrong_baseline_is_a_mistake(suite: Project, table: str, says: str) -> None:
    """What a baseline lacks or has too much is told before anything runs."""
    outcome = suite.write({"suite.toml": f"{SUITE}\n[subject.reference]\n{table}\n"}).run()
    assert (outcome.code, says in outcome.err) == (4, True), outcome.err


@pytest.mark.parametrize("there", ["a folder", "a file", "a link"])
def test_target_that_is_no_export_is_not_replaced(suite: Project, there: str) -> None:
    """What lies at `to` and is none of ours is told before anything runs, and stays as it is."""
    to = suite.folder / "exports/fake"
    to.parent.mkdir()
    if there == "a folder":
        suite.write({"exports/fake/notes.txt": "mine"})
    elif there == "a file":
        to.write_text("mine", "utf-8")
    else:
        to.symlink_to(suite.folder / "base")
    outcome = suite.run()
    assert outcome.code == 4
    assert 'to is "exports/fake", which' in outcome.err
    assert to.is_symlink() or (to if to.is_file() else to / "notes.txt").read_text("utf-8") == "mine"


def test_private_rows_stay_private(suite: Project) -> None:
    """Of a private evaluation the evidence holds neither scores nor the names of rows, but a digest of each."""
    text = COMPARES.replace('slices = ["kind"]', 'slices = ["kind"]\nprivate = true')
    assert suite.write({"suite.toml": text}).run().code == 0
    evidence = suite.folder / "exports/fake/evidence"
    rows = [json.loads(line) for line in (evidence / "items.jsonl").read_text("utf-8").splitlines()]
    assert {frozenset(row) for row in rows} == {frozenset({"item", "number", "row", "sha256"})}
    for path in evidence.iterdir():
        assert '"q3"' not in path.read_text("utf-8"), path.name


@pytest.mark.slow
def test_lock_tells_apart_what_a_file_of_an_option_says(suite: Project) -> None:
    """A schema that is kept in a file is told by its digest: another one is another claim."""
    text = (
        SUITE + '[[eval]]\nname = "form"\nuse = "json"\ndata = "test.jsonl"\nschema = "form.json"\nmax_new_tokens = 8\n'
    )
    digests = []
    for demands in ('{"minProperties": 0}', '{"type": "object"}'):
        rows = [{"input": "say {}", "target": "{}"}]
        files = {"suite.toml": text.replace('data = "test.jsonl"\nschema', 'data = "form.jsonl"\nschema')}
        assert suite.write({**files, "form.json": demands, "form.jsonl": rows}).run("--no-cache").code in (0, 1, 6)
        newest = max(suite.folder.glob("reports/*/suite.lock.json"), key=lambda p: p.stat().st_mtime_ns)
        evals = json.loads(newest.read_text("utf-8"))["suite"]["evals"]
        digests.append(next(e["files"]["form.json"] for e in evals if e["name"] == "form"))
    assert digests[0] != digests[1]


def test_secrets_are_struck_out_of_the_lock(suite: Project) -> None:
    """An option whose name says that it is secret goes into no file of the run."""
    plugin = """
from harness import hookimpl
from harness.testing import load, open_source
from contextlib import contextmanager

@contextmanager
def remote(refs, *, api_key: str = "", dtype: str = "auto"):
    with load(refs) as subjects:
        yield subjects

remote.open = lambda path, *, api_key="", dtype="auto": open_source(path)

@hookimpl
def harness_loaders():
    return {"remote": remote}
"""
    text = SUITE.replace('use = "fake"\npath = "base"', 'use = "remote"\napi_key = "hush"\npath = "base"')
    assert suite.write({"suite.toml": text, "harnessfile.py": plugin}).run().code == 0
    for path in [*suite.folder.glob("exports/fake/**/*.*"), *suite.folder.glob("reports/*/*.json")]:
        assert "hush" not in path.read_text("utf-8", "replace"), path
    lock = json.loads((suite.folder / "exports/fake/evidence/suite.lock.json").read_text("utf-8"))
    assert lock["suite"]["model"]["options"]["api_key"] == "(secret)"


def test_card_is_a_card(suite: Project) -> None:
    """The front matter is what huggingface_hub reads: licence, results by evaluation, and a table of gates."""
    hub = pytest.importorskip("huggingface_hub")
    (suite.folder / "good/LICENSE").write_text("Apache License\nVersion 2.0", "utf-8")
    outcome = suite.run("--candidate", str(suite.folder / "good"))
    assert outcome.code == 0
    card = hub.ModelCard.load(suite.folder / "exports/fake/README.md")
    assert card.data.license == "apache-2.0"
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_type) == ("qa", "exact_match")
    assert result.metric_value == outcome.report.results[-1].metrics["exact_match"]
    assert "| floor | qa.exact_match at least 0.5 | PASS |" in card.text
