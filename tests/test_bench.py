"""The benchmarks: every part runs on a tiny model, and what they count and write is right."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from bench import choice, generation, texts
from bench.__main__ import PARTS, main
from bench.child import ChildError, call, run
from bench.page import Bar, Machine, Section, format_table, page
from bench.setting import Setting

ROOT = Path(__file__).parent.parent
TINY = Setting(model="tiny:llama")
SIZES: dict[str, dict[str, Any]] = {
    "choice": {
        "documents": 2,
        "shots": [0, 1],
        "batches": [1, 2],
        "probed": 1,
        "peer_until": 0,
        "growth": [1],
        "words": 8,
    },
    "perplexity": {"passages": 2, "batches": [2], "exact": 1},
    "generation": {"prompts": 2, "shots": 1, "max_new_tokens": 4, "offered": 0},
    "startup": {"repeats": 1, "collected": "suites/smoke.toml"},
    "tables": {"repeats": 1, "rows": 2_000},
    "training": {"rounds": 1, "steps": 1, "pairs": 2, "data": "data/colours-train.jsonl"},
    "packing": {"rounds": 1, "documents": 16, "data": "data/colours-train.jsonl"},
    "checkpointing": {"rounds": 1, "steps": 1, "lengths": [64], "data": "data/colours-train.jsonl"},
    "looks": {"rounds": 1, "steps": 2, "rows_per_look": 4, "data": "data/colours-train.jsonl"},
    "busy": {
        **{"rounds": 1, "hogs": [0, 1], "documents": 1, "answers": 1, "steps": 1},
        "data": "data/colours-train.jsonl",
    },
    "kernels": {
        **{"rounds": 1, "documents": 1, "shots": 0, "answers": 1, "steps": 1},
        "data": "data/colours-train.jsonl",
    },
}
TITLES = {
    "choice": "Multiple choice",
    "perplexity": "Perplexity",
    "generation": "Generation",
    "startup": "Start-up",
    "tables": "Two tables",
    "training": "Training",
    "packing": "Packing",
    "checkpointing": "Gradient checkpointing",
    "looks": "Looks at a training",
    "busy": "Beside others",
    "kernels": "Kernels for CPUs",
}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `python -m bench` on the tiny model with files of its own; return exit code, records and page."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    records, written = tmp_path / "records.jsonl", tmp_path / "page.md"

    def call_main(*words: str) -> tuple[int, list[dict[str, Any]], str]:
        files = ["--records", str(records), "--page", str(written)]
        code = main([*words, "--model", "tiny:llama", "--threads", "1", *files])
        return code, [json.loads(line) for line in records.read_text("utf-8").splitlines()], written.read_text("utf-8")

    return call_main


def given(part: str) -> list[str]:
    """Write a part's small sizes as words of the command line."""
    return [f"--set={part}.{name}={json.dumps(value)}" for name, value in SIZES[part].items()]


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
@pytest.mark.parametrize("part", [part for part in SIZES if part != "choice"])
def test_part_runs_and_its_results_are_the_peers(part: str, bench: Any) -> None:
    """On a tiny model each part measures both sides, finds the same results, and gets its section of the page."""
    code, [record], written = bench(part, *given(part))
    assert code == 0
    assert (record["part"], record["options"]) == (part, SIZES[part])
    assert f"\n## {TITLES[part]}\n" in written
    assert f"Not at the default sizes: {part}" in written


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_choice_counts_what_went_through_the_models(bench: Any) -> None:
    """We run the needed tokens and a check; lm_eval runs every request whole, and beyond `peer_until` a few."""
    code, [record], written = bench("choice", *given("choice"))
    assert code == 0
    assert "\n## Multiple choice\n" in written
    first, second = record["found"]["rows"]
    for row in (first, second):
        assert row["needed"] <= row["run"] < row["plain"]
        assert (row["apart"] < 1e-3, row["other"]) == (True, 0)
    assert (first["theirs"]["requests"], len(first["tried"])) == (2 * texts.CHOICES, 2)
    assert first["theirs"]["run"] >= first["plain"]
    assert (second["theirs"]["requests"], len(second["tried"])) == (texts.CHOICES, 1)


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_way_that_does_not_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What transformers offers and does not do here stands in the table with the reason."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    found = generation.measure(TINY, prompts=1, shots=1, max_new_tokens=2, offered=1, patience=0)
    assert "| continuous batching |  |  |  | not here: not done in 0 s |" in generation.section(found).text[3]


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_what_transformers_offers_answers_as_we_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way to answer greedily gives the same answers."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    sizes = {"prompts": 3, "shots": 1, "max_new_tokens": 6}
    ours = call(generation.answer_with_ours, TINY, **sizes)["answers"]
    offered = [way for way in generation.OFFERED.values() if "compiled" not in way[1]]
    assert len(offered) > 2
    for side, options in offered:
        assert call(side, TINY, **sizes, **options)["answers"] == ours, options


def test_needed_are_the_nodes_of_the_prefix_tree() -> None:
    """Each distinct beginning is one token to run; the last token of an ending predicts nothing."""
    pairs = [([1, 2, 3], [4, 5]), ([1, 2, 3], [4, 6, 7]), ([1, 2], [9]), ([8], [1]), ([8], [1])]
    inputs = [(context + ending)[:-1] for context, ending in pairs]
    prefixes = {tuple(tokens[: i + 1]) for tokens in inputs for i in range(len(tokens))}
    assert choice.count_needed_tokens(pairs) == len(prefixes) == 6
    assert choice.count_plain_tokens(pairs) == sum(map(len, inputs))


def test_documents_are_the_same_at_any_number_of_shots() -> None:
    """What is asked does not depend on the worked examples, which are never asked."""
    asked, examples = texts.make_documents(5, 3)
    assert asked == texts.make_documents(5, 0)[0]
    assert not {d.beginning for d in asked} & {d.beginning for d in examples}
    assert all(len(set(d.endings)) == texts.CHOICES for d in (*asked, *examples))
    pairs = texts.make_pairs(asked, examples)
    assert len(pairs) == 5 * texts.CHOICES
    assert all(context.startswith(examples[0].worked) for context, _ in pairs)


def test_too_many_documents_are_refused() -> None:
    """There are as many documents as passages, and no more."""
    with pytest.raises(ValueError, match=r"10000 documents and 5 shots wanted; there are \d+ passages"):
        texts.make_documents(10_000, 5)


def test_compare_looks_at_what_both_scored() -> None:
    """Where the peer scored fewer documents, the rest is not compared."""
    ours = [-1.0, -2.0, -3.0, -4.0, -9.0, -9.0, -9.0, -1.0]
    assert choice.compare(ours, [-1.5, -2.0, -3.0, -4.0]) == {"apart": 0.5, "other": 0}
    assert choice.compare(ours, [-5.0, -2.0, -3.0, -4.0])["other"] == 1


def test_page_has_the_bars_before_the_parts() -> None:
    """A page says where it was measured, which bars were met, and then every part's tables."""
    bars = [Bar("speed", "3.0×", "≥ 2×", True), Bar("answers", "1 other", "0", False, result=True)]
    section = Section("Generation", ["One line.", format_table(["", "seconds"], [["we", 1], ["lm_eval", 3]])], bars)
    one = Machine({"processor": "one", "model": "tiny"}, ["It took 1 minutes."], [section])
    written = page([one])
    assert written == (
        "# Performance\n\nWritten by `make bench`; to change a number, run it again.\n\n"
        "- processor: one\n- model: tiny\n\nIt took 1 minutes.\n\n1 of 2 bars are met:\n\n"
        "|  | bar | measured |\n| --- | --- | --- |\n"
        "| speed | ≥ 2× | 3.0× |\n| answers | 0 | 1 other, **missed** |\n\n"
        "## Generation\n\nOne line.\n\n|  | seconds |\n| --- | --- |\n| we | 1 |\n| lm_eval | 3 |\n"
    )
    other = Machine({"processor": "two", "GPU": "a card"}, [], [Section("Training", ["Text."], [bars[0]]), section])
    both = page([one, other])
    assert "1 of 2 and 1 of 2 bars are met:\n\n|  | bar | one | two, a card |\n" in both
    assert "| answers | 0 | 1 other, **missed** | 1 other, **missed** |\n" in both
    assert both.count("## Generation\n\n### one\n\nOne line.") == both.count("### two, a card\n\nOne line.") == 1
    assert "## Training\n\n### two, a card\n\nText." in both


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["choice", "--set", "choice.document=3"], '--set "choice.document=3": no such size; known: documents, shots'),
        (["--set", "choise.documents=3"], '--set "choise.documents=3": no such size; known: choice, perplexity'),
        (["choise"], 'no part "choise"; known: choice, perplexity'),
    ],
)
def test_part_or_size_that_there_is_not_is_refused(
    words: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A misspelt word is a usage error that names those there are."""
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert f"error: {error}" in capsys.readouterr().err


class TestRecords:
    """A part that is measured again replaces its own record, and no other."""

    def part(self, monkeypatch: pytest.MonkeyPatch, name: str, met: bool = True, result: bool = False) -> None:
        """Let a part measure nothing and write one bar."""
        module = f"bench.{name}"
        monkeypatch.setattr(f"{module}.measure", lambda setting: {"model": setting.model})
        bars = [Bar(f"{name}: speed", "1×", "≥ 2×", met, result)]
        monkeypatch.setattr(f"{module}.section", lambda found: Section(TITLES[name], [found["model"]], bars))

    def test_page_has_all_parts_of_this_machine(self, bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """The parts may be measured one after another, in any order."""
        for name in ("startup", "choice"):
            self.part(monkeypatch, name)
            code, records, written = bench(name)
        assert code == 0
        assert {record["part"] for record in records} == {"choice", "startup"}
        assert written.index("## Multiple choice") < written.index("## Start-up")

    def test_all_parts_run_when_none_is_named(self, bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without words everything is measured, in the order of the page."""
        for name in PARTS:
            self.part(monkeypatch, name)
        _, records, written = bench()
        assert [record["part"] for record in records] == list(PARTS)
        assert all(f"## {TITLES[name]}" in written for name in PARTS)

    def test_record_of_other_libraries_says_so(self, bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A part that is measured again leaves the others, and names its libraries beside theirs."""
        self.part(monkeypatch, "startup")
        monkeypatch.setattr("bench.__main__.describe", lambda device: {"processor": "a", "libraries": "torch 1"})
        bench("startup")
        monkeypatch.setattr("bench.__main__.describe", lambda device: {"processor": "a", "libraries": "torch 2"})
        self.part(monkeypatch, "choice")
        _, records, written = bench("choice")
        assert [record["part"] for record in records] == ["startup", "choice"]
        assert "- libraries: torch 1\n" in written
        assert "Measured with other libraries: choice with torch 2." in written

    def test_record_of_another_machine_stands_beside(self, bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each machine has its facts, its column of the bars and its tables, whoever measured last."""
        self.part(monkeypatch, "startup")
        for name in ("one", "two", "one"):
            monkeypatch.setattr("bench.__main__.describe", lambda device, name=name: {"processor": name})
            _, records, written = bench("startup")
        assert [record["where"]["processor"] for record in records] == ["one", "two"]
        assert "|  | bar | one | two |\n" in written and "### one\n" in written and "### two\n" in written

    @pytest.mark.parametrize(("result", "code"), [(False, 0), (True, 1)])
    def test_only_a_wrong_result_is_an_error(
        self, result: bool, code: int, bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A missed speed is told; a result that is not the peer's fails the command."""
        self.part(monkeypatch, "startup", met=False, result=result)
        assert bench("startup")[0] == code
        assert "missed: startup: speed: 1×, want ≥ 2×" in capsys.readouterr().err

    def test_part_that_fails_keeps_the_others(
        self, bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What was measured before is kept and written; the command fails and says why."""

        def fail(setting: Setting) -> dict[str, Any]:
            raise ChildError("exit 1: out of memory")

        self.part(monkeypatch, "startup")
        bench("startup")
        self.part(monkeypatch, "training")
        monkeypatch.setattr("bench.training.measure", fail)
        code, records, written = bench("training")
        assert (code, [record["part"] for record in records]) == (1, ["startup"])
        assert "## Start-up" in written
        assert "training: exit 1: out of memory" in capsys.readouterr().err


def test_child_that_fails_tells_its_last_words() -> None:
    """The error of a child names the command and ends as its traceback does."""
    with pytest.raises(ChildError, match=r"(?s)exit 3: -c .*no room") as caught:
        run(["python3", "-c", "import sys; print('no room', file=sys.stderr); sys.exit(3)"], {})
    assert str(caught.value).splitlines()[-1] == "no room"


def test_methods_are_compared_row_by_row() -> None:
    """The difference of two models is that of the same rows, by their tokens, and rows of one cluster count as one."""
    from bench.methods import compute_mean_difference

    ours = {str(i): {"acc": float(i % 2), "weight": 1.0, "cluster": str(i // 2)} for i in range(8)}
    theirs = {name: {**row, "acc": 0.0} for name, row in ours.items()}
    assert compute_mean_difference(ours, theirs, "acc") == (0.5, 0.5, 0.5)  # each cluster has one of each
    apart = {name: {**row, "cluster": name} for name, row in ours.items()}
    mean, _, high = compute_mean_difference(apart, theirs, "acc")
    assert (mean, high - mean) == (0.5, pytest.approx(1.96 * 0.5 / 8**0.5))
    weighted = {"a": {"perplexity": 2.0, "weight": 3.0}, "b": {"perplexity": 1.0, "weight": 1.0}}
    other = {"b": {"perplexity": 1.0, "weight": 1.0}, "a": {"perplexity": 1.0, "weight": 3.0}}
    assert compute_mean_difference(weighted, other, "perplexity")[0] == 0.75


@pytest.mark.slow
def test_parts_of_a_card_are_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was measured is kept, what failed is tried again and named with its reason, and no page goes to docs."""
    from bench import gpu

    asked: list[str] = []

    def fine(setting: Setting, small: bool) -> dict[str, Any]:
        """Tell its number."""
        asked.append("fine")
        return {"rows": [["a number", len(asked)]]}

    def failing(setting: Setting, small: bool) -> dict[str, Any]:
        asked.append("failing")
        raise ChildError("two cards are needed, and there is one")

    monkeypatch.setattr(gpu, "WORK", tmp_path)
    monkeypatch.setattr(gpu, "PARTS", {"fine": fine, "failing": failing})
    given = ["--device", "cpu", "--size", "tiny"]
    assert (gpu.main(given), gpu.main(given), asked) == (0, 0, ["fine", "failing", "failing"])
    measured = json.loads((tmp_path / "measured.json").read_text("utf-8"))
    assert [part["part"] for part in measured["parts"]] == ["fine", "failing"]
    said = (tmp_path / "performance-gpu.md").read_text("utf-8")
    assert "| a number | 1 |" in said
    assert "## Not run\n\n- failing: two cards are needed, and there is one" in said
    assert gpu.main([*given, "failing"]) == 1
    with pytest.raises(SystemExit):
        gpu.main(["none"])
    assert 'no part "none"; known: fine, failing' in capsys.readouterr().err


def test_every_llama_has_heads_that_vllm_computes_on_a_cpu() -> None:
    """On an EPYC vLLM 0.32 ends at heads of 16 numbers: "Unsupported CPU attention configuration: head_dim=16"."""
    from bench import gpu

    assert min(gpu.LLAMAS[size]["hidden_size"] // heads for size, (heads, _) in gpu.HEADS.items()) >= 32


def test_the_page_of_the_cpus_kernels_has_the_numbers_of_the_records() -> None:
    """What a kernel is worth is what was recorded, or "not measured"."""
    page = (ROOT / "docs/explanation/performance-cpu.md").read_text("utf-8")
    lines = (ROOT / "bench/records.jsonl").read_text("utf-8").splitlines()
    found = {record["part"]: record["found"] for record in map(json.loads, lines)}
    rate = {side: statistics.median(one["rate"] for one in found["training"][side]) for side in ("ours", "theirs")}
    assert f"| {rate['ours'] / rate['theirs']:.2f}× |" in page
    for hogs in ("0", "2"):
        own, ours = (found["busy"]["found"][hogs][f"{turns} turns"][0] for turns in ("300,000", "3,000"))
        worth = {work: f"{own[work] / ours[work]:.2f}×" for work in ("scoring", "generation", "training")}
        assert f"scoring {worth['scoring']}, answering {worth['generation']}, training {worth['training']}" in page
