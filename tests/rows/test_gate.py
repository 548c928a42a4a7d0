"""`harness gate` as a person sees it: verdict, exit code, words of trust, what is written, and what is refused."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from harness.rows.safe_read import describe_tool_error
from harness.texts.json_text import read_json
from tests.helpers.others import CLAIM, Said, make_asked_rows

Gate, Table = Callable[..., Said], Callable[..., Path]
RIGHT = [1] * 300 + [0] * 100
TRUST = "rows are taken on trust; no weights were seen"


def make_worse_scores(by: int) -> list[int]:
    """Return scores of which so many are lost."""
    return [0] * by + RIGHT[by:]


@pytest.mark.parametrize(("lost", "code", "outcome"), [(0, 0, "PASS"), (5, 6, "INCONCLUSIVE"), (60, 1, "FAIL")])
def test_the_exit_code_is_the_verdict(gate: Gate, table: Table, lost: int, code: int, outcome: str) -> None:
    """Proven is 0, refuted 1, neither 6; each is said with the words of trust, on 80 columns."""
    said = gate(
        table("base", make_asked_rows(RIGHT)), table("candidate", make_asked_rows([*make_worse_scores(lost)[:-1], 1]))
    )
    assert (said.code, outcome in said.out, f"{TRUST.capitalize()}." in said.out) == (code, True, True), said
    assert max(map(len, said.out.splitlines()[:-1])) <= 80
    assert "400 paired by content · all scored on both sides · 1 attempt" in said.out


@pytest.mark.usefixtures("pages")
def test_what_is_written_says_the_same(gate: Gate, table: Table, tmp_path: Path) -> None:
    """Report, page, JUnit XML and --json hold the verdict and the words of trust."""
    base, candidate = (
        table("base", make_asked_rows(RIGHT)),
        table("candidate", make_asked_rows([*make_worse_scores(60)[:-1], 1])),
    )
    said = gate(base, candidate, "--json", "--junit-xml", "out.xml")
    run = read_json(said.out)["run"]
    (verdict,) = run["results"][1]["verdicts"]
    assert verdict["outcome"] == "FAIL" and TRUST in verdict["why"] and verdict["lost_count"] == 60
    (folder,) = (tmp_path / "reports").glob("gate-*")
    assert TRUST in (folder / "report.json").read_text("utf-8")
    page = (folder / "report.html").read_text("utf-8")
    assert "Scores are taken on trust from " in page and "no weights were seen" in page
    for path in (tmp_path / "out.xml", folder / "junit.xml"):
        failures = ET.parse(path).getroot().findall("testcase/failure")
        assert [TRUST in (f.get("message") or "") for f in failures] == [True]


def test_a_verdict_is_that_of_our_own_tests(gate: Gate, table: Table) -> None:
    """The bound is Tango's on the same counts: nothing is computed anew at this door."""
    from harness.stats.hypothesis_tests import tango

    said = gate(
        table("base", make_asked_rows(RIGHT)),
        table("candidate", make_asked_rows([*make_worse_scores(5)[:-1], 1])),
        "--json",
    )
    (verdict,) = read_json(said.out)["run"]["results"][1]["verdicts"]
    assert verdict["lower"] == tango(1, 5, 400, 0.02, 0.05).lower and verdict["method"] == "Tango score"


def test_without_a_claim_there_are_some_to_choose_from(gate: Gate, table: Table) -> None:
    """Nothing is claimed by itself, and no two things at once."""
    base = table("base", make_asked_rows(RIGHT))
    said = gate(base, base, claim=())
    assert said.code == 4 and all(word in said.err for word in ("--worse-by-at-most", "--better-by", "--min"))
    assert gate(base, base, "--min", "0.1").code == 4
    assert gate(base).code == 4


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_order_and_sides_change_nothing(gate: Gate, table: Table, seed: int) -> None:
    """Lines and keys in another order give the same verdict; sides that change places swap what was won and lost."""
    rng = random.Random(seed)
    rows = make_asked_rows(RIGHT), make_asked_rows([*make_worse_scores(9)[:-2], 1, 1])
    mixed = [[dict(rng.sample([*row.items()], len(row))) for row in rng.sample(side, len(side))] for side in rows]
    told = []
    for base, candidate in (rows, mixed, rows[::-1]):
        said = gate(table("base", base), table("candidate", candidate), "--json", claim=("--worse-by-at-most", "0.04"))
        (verdict,) = read_json(said.out)["run"]["results"][1]["verdicts"]
        told.append(verdict)
    same = ("outcome", "lower", "upper", "p_pass", "won_count", "lost_count", "n")
    assert [told[0][k] for k in same] == [told[1][k] for k in same]
    assert (told[0]["won_count"], told[0]["lost_count"]) == (told[2]["lost_count"], told[2]["won_count"]) == (2, 9)


@pytest.mark.slow
def test_attempts_are_counted_across_files(gate: Gate, table: Table) -> None:
    """A second candidate at the same questions is attempt 2, whatever its file; the same rows again are no new one."""
    base, first = (
        table("base", make_asked_rows(RIGHT)),
        table("first", make_asked_rows([*make_worse_scores(9)[:-1], 1])),
    )
    assert "1 attempt" in gate(base, first).out and "1 attempt" in gate(base, first).out
    said = gate(base, table("second", make_asked_rows([*make_worse_scores(8)[:-1], 1])))
    assert "2 attempts" in said.out and "may add up to a risk of 0.1" in " ".join(said.out.split())


def test_one_file_is_compared_with_no_other(gate: Gate, table: Table, tmp_path: Path) -> None:
    """The same file twice is refused, equal values in two files are told."""
    base = table("base", make_asked_rows(RIGHT))
    (tmp_path / "copy.jsonl").write_bytes(base.read_bytes())
    assert "base and candidate are the same file (sha256" in gate(base, tmp_path / "copy.jsonl").err
    said = gate(base, table("candidate", make_asked_rows(RIGHT, note="other")))
    assert said.code == 0 and "rows have equal values; check that the adapter was applied" in " ".join(said.out.split())


@pytest.mark.parametrize("missing", ["refuse", "wrong"])
def test_missing_rows_hide_no_loss(gate: Gate, table: Table, missing: str) -> None:
    """A candidate whose machinery failed on what it lost passes under neither choice, and is refuted under none."""
    base, lost = make_asked_rows([1] * 400), make_asked_rows([None] * 20 + [1] * 380)
    said = gate(table("base", base), table("candidate", lost), "--missing", missing)
    assert (said.code, "PASS" in said.out, "FAIL" in said.out) == (6, False, False)
    assert "candidate 380 scored, 20 unscored" in " ".join(said.out.split())
    absent = table("candidate", lost[20:])
    assert "--only-common" in gate(table("base", base), absent).err


def test_a_missing_base_row_counts_against_the_claim(gate: Gate, table: Table) -> None:
    """What the base has no score of may be right there, which proves nothing, or wrong, which refutes nothing."""
    said = gate(
        table("b", make_asked_rows([None] * 20 + [0] * 380)),
        table("c", make_asked_rows([0] * 400)),
        "--missing",
        "wrong",
        "--json",
    )
    (verdict,) = read_json(said.out)["run"]["results"][1]["verdicts"]
    assert (verdict["baseline"], verdict["outcome"], verdict["won_count"]) == (0.0, "INCONCLUSIVE", 0)
    assert verdict["lower"] <= -0.05
    assert (
        "count as the worst value to prove the claim and as the best to refute it (--missing wrong)" in verdict["why"]
    )


def test_rows_in_common_are_judged_when_asked(gate: Gate, table: Table) -> None:
    """Rows of one side alone are left out by name, but for those that it could not score."""
    base, candidate = make_asked_rows(RIGHT), make_asked_rows(RIGHT, note="x")[:-40]
    said = gate(table("base", base), table("candidate", candidate), "--only-common")
    assert said.code == 0 and "40 rows only in base and 0 only in candidate are left out" in " ".join(said.out.split())
    base[-1]["score"] = None
    assert gate(table("base", base), table("candidate", candidate), "--only-common").code == 6


def test_one_run_alone_is_held_to_a_number(gate: Gate, table: Table) -> None:
    """--min judges a candidate alone, and says that nothing pairs."""
    said = gate(table("candidate", make_asked_rows(RIGHT)), claim=("--min", "0.7"))
    assert said.code == 0 and "rows of one run, not paired" in said.out and "risk 5%" in said.out
    assert gate(table("candidate", make_asked_rows(RIGHT)), claim=("--min", "0.8")).code == 1


@pytest.mark.slow
def test_repeats_are_one_row(gate: Gate, table: Table) -> None:
    """Three answers to a question are its mean; another number of them is unfair unless it is allowed."""
    thrice = [
        {**row, "run": k, "score": int(i % 3 == k)} for i, row in enumerate(make_asked_rows(RIGHT)) for k in range(3)
    ]
    base = table("base", thrice)
    said = gate(base, table("candidate", [dict(row, x=1) for row in thrice]), "--repeat", "run", "--json")
    (verdict,) = read_json(said.out)["run"]["results"][1]["verdicts"]
    assert verdict["n"] == 400 and verdict["value"] == pytest.approx(1 / 3)
    once = table("candidate", [row for row in thrice if row["run"] == 0])
    assert "--allow epochs" in gate(base, once, "--repeat", "run").err
    assert "allowed: numbers of repeats differ" in " ".join(
        gate(base, once, "--repeat", "run", "--allow", "epochs").out.split()
    )


@pytest.mark.parametrize(
    ("change", "words", "said"),
    [
        ({"score": 41.2}, ["--higher"], None),
        (
            {"score": 41.2},
            [],
            'is unknown; use --higher or --lower (better = "higher" in a suite)',
        ),
        (
            {"score": 41.2},
            ["--scale", "proportion", "--higher"],
            ": 41.2 is not a proportion; divide by 100, or use --scale mean",
        ),
        ({"score": "1,500"}, [], '"1,500" is not a number'),
        ({"score": "abc"}, [], '"abc" is not a number'),
        ({"score": [1]}, [], '" is not a number; an empty score is a missing row, which --missing decides about'),
        ({"score": 10**400}, [], ": contains an integer too large for a float; write a score"),
        ({"score": 1e308}, ["--higher"], "is 1e+308 on 1 rows, which is not a score"),
    ],
)
def test_odd_scores_are_refused(
    gate: Gate, table: Table, change: dict[str, Any], words: list[str], said: str | None
) -> None:
    """What is no share, no number, or of no known direction is refused in one line that says what to do."""
    base, candidate = make_asked_rows(RIGHT), make_asked_rows([*make_worse_scores(3)[:-1], 1])
    candidate[-1] |= change
    found = gate(table("base", base), table("candidate", candidate), *words)
    assert (found.code == 4 and said in found.err) if said else found.code != 4, found


@pytest.mark.parametrize("column", ["failed", "toxic", "is_error", "Hallucinated", "refusal", "eval_wer"])
def test_one_may_mean_something_bad(gate: Gate, table: Table, column: str) -> None:
    """Scores of 0 and 1 are higher-is-better only if nothing in their name says that 1 is bad."""
    both = make_worse_scores(200), RIGHT
    base, candidate = ([{**row, column: row["score"]} for row in make_asked_rows(s)] for s in both)
    files = table("base", base), table("candidate", candidate)
    said = gate(*files, "--score", column)
    assert said.code == 4 and "in its name 1 may be bad); use --higher or --lower" in said.err
    assert gate(*files, "--score", column, "--lower").code == 1
    wide = table("wide", [{**row, "new": row["score"], f"old_{column}": 0} for row in candidate])
    assert gate(wide, "--base-score", f"old_{column}", "--candidate-score", "new").code == 4
    inner = [{**row, column: {"success": row["score"]}} for row in candidate]
    assert gate(table("inner", inner), "--score", f"{column}.success", claim=("--min", "0.5")).code == 4


@pytest.mark.parametrize("weight", [-1, 1e-300, 1e300])
def test_weights_whose_squares_are_no_numbers_are_refused(gate: Gate, table: Table, weight: float) -> None:
    """Squares of tiny weights are 0, and bounds of such are too narrow."""
    rows = make_asked_rows(RIGHT, w=weight)
    said = gate(table("base", rows), table("candidate", [dict(rows[0], score=0), *rows[1:]]), "--weight", "w")
    assert said.code == 4 and f"has weight {weight:g}; it must be 0, or from 1e-100 to 1e+100" in said.err


def test_one_row_without_a_score_is_singular(gate: Gate, table: Table) -> None:
    """A count of one has its verb."""
    rows = make_asked_rows([1, 0] * 20)
    said = gate(table("base", rows), table("candidate", [dict(rows[0], score=None), *rows[1:]]))
    assert 'candidate: 1 row has no score, "q-0"' in " ".join(said.out.split()), said


def test_a_margin_that_is_a_word_is_refused(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    """The error says which numbers there are, and names no function of the program."""
    with pytest.raises(SystemExit):
        gate("a", "b", claim=("--better-by", "five"))
    assert 'argument --better-by: "five" is not a number, or a share such as 2%' in capsys.readouterr().err


def test_a_bad_margin_is_told_by_the_gate(gate: Gate, table: Table) -> None:
    """Points as whole numbers are refused as in a suite."""
    rows = table("base", make_asked_rows(RIGHT)), table("candidate", make_asked_rows(make_worse_scores(3)))
    assert "write 2 points as 0.02" in gate(*rows, claim=("--worse-by-at-most", "2")).err
    assert (
        'a margin is "x%"; give a number in the metric\'s units, or a share such as "2%"'
        in gate(*rows, claim=("--better-by", "x%")).err
    )


def test_slices_and_clusters_are_read(gate: Gate, table: Table) -> None:
    """Rows of one cluster count together, and the worst slice is named."""
    rows = [
        {**row, "doc": f"d{i // 4}", "lang": "de" if i % 4 else "en"} for i, row in enumerate(make_asked_rows(RIGHT))
    ]
    worse_ = [{**row, "score": 0 if i % 4 == 0 and i < 160 else row["score"]} for i, row in enumerate(rows)]
    said = gate(table("base", rows), table("candidate", worse_), "--cluster", "doc", "--slice", "lang", "--json")
    (verdict,) = read_json(said.out)["run"]["results"][1]["verdicts"]
    assert verdict["parts"]["clusters"]["count"] == 100
    assert verdict["parts"]["worst_slice"]["worst"]["name"] == "lang=en"


@pytest.mark.slow
def test_the_door_is_light(table: Table, tmp_path: Path) -> None:
    """No gate on rows imports torch, transformers or datasets."""
    base, candidate = table("base", make_asked_rows(RIGHT)), table("candidate", make_asked_rows(make_worse_scores(3)))
    code = (
        "import sys; from harness.cli.main import main\n"
        f"main(['gate', {str(base)!r}, {str(candidate)!r}, *{CLAIM!r}])\n"
        "print({'torch', 'transformers', 'datasets', 'pyarrow', 'pandas'} & sys.modules.keys(), file=sys.stderr)"
    )
    env = {"HARNESS_CACHE": str(tmp_path / "cache"), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1:] == ["set()"], done


@pytest.mark.slow
def test_a_library_that_is_missing_is_named(table: Table, tmp_path: Path) -> None:
    """Without numpy and scipy the door names what brings them for scores that are not 0/1, and so does a suite."""
    base, candidate = (
        table(name, make_asked_rows([0.3 + score / 2 for score in scores]))
        for name, scores in (("base", RIGHT), ("candidate", make_worse_scores(3)))
    )
    suite = tmp_path / "gate.toml"
    eval_ = '[[eval]]\nname = "qa"\nuse = "rows"\nbetter = "higher"\n'
    eval_ += '[[gate]]\nid = "x"\nmetric = "qa.score"\nmin = 0.1\nrange = [0, 1]\n'
    suite.write_text(f'[suite]\nname = "x"\n[rows.candidate]\npath = "{candidate.name}"\n{eval_}', "utf-8")
    scale = ("--higher", "--range", "0", "1")
    for words in (["gate", str(base), str(candidate), *CLAIM, *scale], ["run", str(suite)]):
        code = "import sys; sys.modules.update(numpy=None, scipy=None)\nfrom harness.cli.main import main\n"
        code += f"sys.exit(main({words!r}))"
        env = {"HARNESS_CACHE": str(tmp_path / "cache"), "PATH": ""}
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 4 and "pip install numpy scipy" in done.stderr, done


def test_an_option_that_means_nothing_is_refused(gate: Gate, table: Table) -> None:
    """Names of readers, of what is unfair, and of columns are told with those that there are."""
    rows = table("base", make_asked_rows(RIGHT)), table("candidate", make_asked_rows(make_worse_scores(3)))
    assert "did you mean" in gate(*rows, "--as", "lm-eval").err
    assert 'did you mean "template"' in gate(*rows, "--allow", "templat").err
    assert 'did you mean "target"' in gate(*rows, "--score", "targt").err
    assert json.loads(gate(*rows, "--json", "--id", "nothing").out)["exit_code"] == 4


@pytest.mark.parametrize(
    ("option", "why"), [("--write-suite", "exists already; name a new file"), ("--junit-xml", "exists and is not XML")]
)
def test_no_option_replaces_rows(gate: Gate, table: Table, option: str, why: str) -> None:
    """An option whose file was forgotten takes the first file of rows; what it wrote itself it may write again."""
    base, candidate = table("base", make_asked_rows(RIGHT)), table("candidate", make_asked_rows(RIGHT))
    before = base.read_bytes()
    said = gate(option, base, candidate, claim=("--min", "0.5"))
    assert said.code == 4 and why in said.err and base.read_bytes() == before
    assert [gate(option, "new", candidate, claim=("--min", "0.5")).code for _ in range(2)] == [0, 0]


def test_a_secret_in_a_tools_words_is_struck(gate: Gate, table: Table, tmp_path: Path) -> None:
    """What a tool says of an error, and how its run was called, goes nowhere with a token in it."""
    token = "sk-" + "a" * 30
    base = table("base", make_asked_rows(RIGHT))
    said = gate(
        base, table(token, make_asked_rows([*make_worse_scores(3)[:-1], 1])), "--json", "--write-suite", "gate.toml"
    )
    assert said.code in (0, 6) and token not in said.out + said.err
    written = [*(tmp_path / "reports").rglob("*.json*")]
    assert len(written) > 3 and not [path for path in written if token in path.read_text("utf-8")]
    assert token not in describe_tool_error(f"401 with {token}") and len(describe_tool_error("x" * 1000)) <= 200


@pytest.mark.parametrize(
    "words",
    [("--worse-by-at-most", "50%"), ("--worse-by-at-most", "0.45", "--cluster", "doc", "--cluster", "lang")],
    ids=["relative", "crossed"],
)
def test_evidence_of_every_form_of_a_claim_is_verified(
    gate: Gate, table: Table, tmp_path: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """A key that may be a number or a text, or one column or several, is read back as it was written."""
    rows = [{"id": i, "acc": float(i % 5 > 0), "doc": i % 20, "lang": i % 7} for i in range(200)]
    runs = [table("base", rows), table("cand", [r | {"acc": r["acc"] * (r["id"] % 49 > 0)} for r in rows])]
    said = gate(*runs, "--id", "id", "--score", "acc", claim=words)
    assert said.code == 0, said
    assert main(["verify", str(next(tmp_path.glob("reports/gate-*Z")) / "gate")]) == 0
    assert "1 of 1 decided again" in capsys.readouterr().out


def test_no_cap_shrinks_changes_of_0_and_1(gate: Gate, table: Table) -> None:
    """A cap bounds rows that say more than others; where all say the same it would only divide the loss."""
    runs = [table("base", make_asked_rows(RIGHT)), table("candidate", make_asked_rows([*make_worse_scores(6)[:-1], 1]))]
    said = gate(*runs, "--cap", "0.5", claim=("--worse-by-at-most", "0.025"))
    assert said.code == 6 and 'remove "cap"' in " ".join(said.out.split()), said
