"""Tasks of lm_eval: found without its index, told from their YAML, scored with its code and our models."""

from __future__ import annotations

import hashlib
import json
import math
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import Logprob, ModelRef, Result, Sample, Score, UsageError
from harness.data.chat import split_arguments
from harness.records.models import Sampling, split_chunks
from harness.testing import Project
from harness_checks.answers import cut_prompts
from harness_lm_eval import hub, lm_eval, metrics_for, names, rows_for
from harness_lm_eval.find import find_tasks
from harness_lm_eval.metrics import task_metrics
from harness_lm_eval.scores import from_json, to_json

pytest.importorskip("lm_eval")

CHOICE = """
task: things
dataset_path: json
dataset_kwargs: {data_files: {train: train.jsonl, test: test.jsonl}}
training_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "Q: {{question}}\\nA:"
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
TEXT = """
task: pages
dataset_path: json
dataset_kwargs: {data_files: {test: test.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{page}}"
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
  - metric: bits_per_byte
"""
ANSWER = """
task: answers
dataset_path: json
dataset_kwargs: {data_files: {train: train.jsonl, test: test.jsonl}}
training_split: train
test_split: test
output_type: generate_until
doc_to_text: "Q: {{question}}\\nA:"
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {until: ["\\n", ""], max_gen_toks: 12}
filter_list:
  - {name: whole, filter: [{function: take_first}]}
  - name: word
    filter:
      - {function: regex, regex_pattern: "([a-z]+)"}
      - {function: take_first}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
  - {metric: bleu, aggregation: bleu, higher_is_better: true}
"""
THINGS = ["apple", "banana", "cherry", "date", "elderberry", "fig", "grape", "hazelnut", "iris", "juniper"]


def make_documents(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Make questions that are all different, with an `id` of their own and pages of different lengths."""
    return [
        {
            "id": f"d{i}",
            "question": f"Which is number {i}?",
            "choices": [THINGS[(i + k) % 10] + " tree" * (k % 2) for k in range(3)],
            "gold": i % 3,
            "page": f"Page {i} of «{THINGS[i % 10]}» " * (1 + i % 4),
        }
        for i in range(start, start + count)
    ]


def write(folder: Path, files: dict[str, str | list[dict[str, Any]]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        lines = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
        (folder / name).write_text(lines, "utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with three tasks and their data; caches of the harness and of datasets are in there too."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    data = {"train.jsonl": make_documents(9, 100), "test.jsonl": make_documents(12)}
    return write(tmp_path / "suite", {"things.yaml": CHOICE, "pages.yaml": TEXT, "answers.yaml": ANSWER, **data})


class Hashed:
    """A fake whose answers depend on what it is asked, and on nothing else."""

    name, digest = "hashed", "0"

    def __init__(self, **facts: Any) -> None:
        self.calls: list[tuple[str, list[Any], dict[str, Any]]] = []
        self.__dict__.update(facts)

    def logprobs(self, pairs: Sequence[tuple[str, str]], **options: Any) -> list[Logprob]:
        self.calls.append(("logprobs", list(pairs), options))
        return [
            Logprob(-_hash_to_number(p + t) / 100, len(t), len(t.encode()), _hash_to_number(t) % 3 == 0)
            for p, t in pairs
        ]

    def generate(self, prompts: Sequence[str], **options: Any) -> list[str]:
        self.calls.append(("generate", list(prompts), options))
        return [THINGS[_hash_to_number(p) % 10] + " tree" * (_hash_to_number(p) % 2) for p in prompts]

    def asked(self, kind: str) -> list[Any]:
        return [request for name, requests, _ in self.calls for request in requests if name == kind]


def _hash_to_number(text: str) -> int:
    return 1 + int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % 1000


def load_samples(folder: Path, **options: Any) -> list[Sample]:
    return [Sample(r["id"], r["input"], r["target"], r) for r in rows_for(options, folder)]


def score_in_chunks(subject: Any, folder: Path, *, size: int = 64, **options: Any) -> list[Score]:
    """Score a task's rows in chunks, as the harness does."""
    rows = load_samples(folder, **options)
    return [s for some in split_chunks(rows, size) for s in lm_eval(subject, some, folder=folder, **options)]


def compute_metrics(subject: Any, folder: Path, **options: Any) -> dict[str, float]:
    scores = score_in_chunks(subject, folder, **options)
    return {m.name: m.value(scores) for m in metrics_for(options, folder)}


def theirs(lm: Any, folder: Path, task: str, shots: int | None = None, **options: Any) -> dict[str, Any]:
    """Evaluate a task with lm_eval's own loop, whatever answers: a whole run of theirs, but for the model."""
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    with chdir(folder):  # lm_eval looks for data files where it runs
        loaded = TaskManager(include_defaults=False, include_path=".").load([task])
        for one in loaded["tasks"].values():
            one.set_config("num_fewshot", shots or one.config.num_fewshot or 0)
            one.set_fewshot_seed(1234)
        found: dict[str, Any] = evaluate(lm, loaded, bootstrap_iters=0, **options)
    return found


def wrap_as_lm(subject: Any) -> Any:
    from harness_lm_eval.model import SubjectLM

    return SubjectLM(subject, seed=1234)


def expect_metrics(found: dict[str, Any], name: str) -> dict[str, float]:
    """Return lm_eval's metrics of a task under our names."""
    values = {k: v for k, v in found["results"][name].items() if "," in k and "_stderr" not in k}
    several = len({k.partition(",")[2] for k in values}) > 1
    return {k.replace(",", "@") if several else k.partition(",")[0]: pytest.approx(v) for k, v in values.items()}


# ------------------------------------------------------------------ names

TAGGED = {
    "_base": 'tag: "fruit"\ndataset_path: json\n',
    "a.yaml": "include: _base\ntask: one\n",
    "b.yaml": "\"task\": 'two' # the second\ntag: [fruit, other]\n",
    "c.yaml": "group: both\ntask:\n  - one\n  - two\ntag: nothing\n",
    "d.yaml": "tag:\n# a comment\n\n- fruit\n- other\ntask: three\n",
    "e.yaml": "task: one\n",
    "f.yaml": "task:\n  - not a name\n",
    "g.yaml": "class: !function task.Four\ntask: four\ngroup: none\n",
}


def test_names_of_a_users_folder(tmp_path: Path) -> None:
    """Quoted names, names that are included, tags in every spelling; the first file of a name counts."""
    folder = write(tmp_path, TAGGED)
    found = names.index_folder(folder)
    assert {name: Path(file).name for name, file in found.files.items()} == {
        "one": "a.yaml",
        "two": "b.yaml",
        "both": "c.yaml",
        "three": "d.yaml",
        "four": "g.yaml",
    }
    assert found.tags == {"fruit": ["one", "two", "three"], "other": ["two", "three"]}


@pytest.mark.slow
def test_names_are_searched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second look at lm_eval's 14,000 names is a file in the cache; one that is damaged is made again."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    names.lm_eval_names.cache_clear()
    first, ask = names.lm_eval_names(), names.subprocess_call.call_module
    asked: list[str] = []
    monkeypatch.setattr(
        names.subprocess_call, "call_module", lambda module, *a, **k: asked.append(module) or ask(module, *a, **k)
    )
    names.lm_eval_names.cache_clear()
    assert (names.lm_eval_names(), asked) == (first, [])
    (kept,) = (tmp_path / "lm_eval").iterdir()
    kept.write_text("[]", "utf-8")
    names.lm_eval_names.cache_clear()
    assert (names.lm_eval_names(), asked) == (first, ["harness_lm_eval.index"])
    names.lm_eval_names.cache_clear()


@pytest.mark.slow
def test_names_of_a_users_folder_are_lm_evals(tmp_path: Path) -> None:
    """Every task, group and tag of lm_eval's index of a folder is found, in the same file, and nothing else."""
    from lm_eval.tasks import TaskManager

    for root in (write(tmp_path, TAGGED), names.tasks_folder() / "mmlu"):
        index = TaskManager(include_defaults=False, include_path=str(root)).task_index
        found = names.index_folder(root)
        assert found.files == {name: str(e.yaml_path) for name, e in index.items() if e.yaml_path}
        assert {t: sorted(of) for t, of in found.tags.items() if t not in found.files} == {
            name: sorted(e.tags) for name, e in index.items() if not e.yaml_path
        }


@pytest.mark.slow
def test_tasks_behind_a_group_are_lm_evals(folder: Path) -> None:
    """Groups in groups, tags in groups, overrides on the way: the tasks and their settings are those lm_eval makes."""
    write(
        folder,
        {
            "more.yaml": CHOICE.replace("task: things", "task: more\ntag: tagged"),
            "inner.yaml": "group: inner\ntask: [things]\nnum_fewshot: 1\n",
            "outer.yaml": "group: outer\ntask:\n  - group: inner\n    description: 'A '\n  - tagged\n"
            "  - {task: answers, num_fewshot: 2}\n  - group: spot\n    task: [pages]\n",
        },
    )
    from lm_eval.tasks import TaskManager

    with chdir(folder):
        loaded = TaskManager(include_defaults=False, include_path=".").load(["outer"])["tasks"]
    found = find_tasks("outer.yaml", folder, ".")
    assert [leaf.name for leaf in found.leaves] == list(loaded)
    for leaf in found.leaves:
        theirs = loaded[leaf.name].config
        assert (leaf.config.get("num_fewshot"), leaf.config.get("description", "")) == (
            theirs.num_fewshot,
            theirs.description,
        )


# ------------------------------------------------------------------ metrics, told from YAML


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("arc_easy", [("acc", "higher", "proportion"), ("acc_norm", "higher", "proportion")]),
        ("mmlu", [("acc", "higher", "proportion")]),
        (
            "wikitext",
            [
                ("word_perplexity", "lower", "perplexity"),
                ("byte_perplexity", "lower", "perplexity"),
                ("bits_per_byte", "lower", "mean"),
            ],
        ),
        ("lambada_openai", [("perplexity", "lower", "perplexity"), ("acc", "higher", "proportion")]),
        (
            "gsm8k",
            [
                ("exact_match@strict-match", "higher", "proportion"),
                ("exact_match@flexible-extract", "higher", "proportion"),
            ],
        ),
        ("cola", [("mcc", "higher", "other")]),
        ("fda", [("contains", "higher", "mean")]),  # a Python class
    ],
)
def test_metrics_are_told_from_the_yaml(task: str, expected: list[tuple[str, str, str]]) -> None:
    """Names, directions and scales of lm_eval's own tasks."""
    assert [(m.name, m.better, m.scale) for m in metrics_for({"task": task}, Path())] == expected


def test_default_metrics_are_lm_evals(folder: Path) -> None:
    """A YAML that lists no metrics, or not all about them, gets what lm_eval gives it."""
    plain = CHOICE.partition("metric_list")[0]
    write(folder, {"plain.yaml": plain, "short.yaml": plain + "metric_list: [{metric: mcc}, {metric: f1}]\n"})
    assert [m.name for m in metrics_for({"task": "plain.yaml"}, folder)] == ["acc", "acc_norm"]
    (leaf,) = find_tasks("short.yaml", folder).leaves
    assert [(m.metric, m.aggregation, m.better) for m in task_metrics(leaf)] == [
        ("mcc", "other", "higher"),
        ("f1", "other", "higher"),
    ]


@pytest.mark.slow
def test_collection_is_light(folder: Path) -> None:
    """Telling the metrics of tasks imports neither lm_eval nor what it needs."""
    code = (
        "import sys; from pathlib import Path; from harness_lm_eval import metrics_for\n"
        f"folder = Path({str(folder)!r})\n"
        "for task in ('arc_easy', 'mmlu', 'gsm8k', 'things.yaml'): metrics_for({'task': task}, folder)\n"
        "print([m for m in ('lm_eval', 'numpy', 'datasets', 'torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------ what cannot be served: one line each


def read_usage_error(call: Callable[[], Any]) -> str:
    with pytest.raises(UsageError) as told:
        call()
    (line,) = told.value.messages
    assert "\n" not in line
    return line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "arc_esy"}, 'task "arc_esy": is not a task of lm_eval; did you mean "arc_easy"?'),
        ({"task": "none.yaml"}, 'task "none.yaml": there is no such file'),
        ({"task": "humaneval"}, 'task "humaneval": runs code that the model generates'),
        ({"task": "mmmu_val_art"}, 'task "mmmu_val_art": contains images or sound'),
        ({"task": "glue"}, 'task "glue": its tasks have no metric in common'),
        ({"task": "arc_easy", "include_path": "nowhere"}, 'include_path is "nowhere"'),
        ({"task": "arc_easy", "shots": -1}, "shots is -1; it must be 0 or more"),
        ({"task": "arc_easy", "docs": 0}, "docs is 0; it must be 1 or more"),
        ({}, "name a task, such as"),
    ],
)
def test_what_cannot_be_served_is_told_at_collection(folder: Path, options: dict[str, Any], words: str) -> None:
    """Unknown names, images, code to run: one line, before anything was imported."""
    assert words in read_usage_error(lambda: metrics_for(options, folder))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("task: [x", "line 2: is not valid YAML"),
        ("- a list", "is not a task; write keys and values"),
        ("dataset_path: json\n", 'no "task:" with a name'),
        ("group: alone\ntask: []\n", "is a group without tasks"),
        ("group: wrong\ntask: [arc_esy]\n", 'names "arc_esy", which is not a task; did you mean "arc_easy"?'),
        ("group: wrong\ntask: [{num_fewshot: 3}]\n", 'has an entry without "task:"'),
        ("include: gone.yaml\ntask: x\n", 'includes "gone.yaml", which does not exist'),
        ("include: broken.yaml\ntask: x\n", "its includes form a cycle"),
        (CHOICE.replace("multiple_choice", "greedy_until"), 'output_type is "greedy_until"; it must be one of'),
        (
            CHOICE.replace("{metric: acc,", "{name: acc,"),
            "its metrics cannot be read from its YAML: KeyError: 'metric'",
        ),
        (
            CHOICE.replace("metric: acc", "metric: mine").replace("higher_is_better: true", "weight: 1"),
            "has no metric with higher_is_better",
        ),
    ],
)
def test_a_broken_yaml_is_told_at_collection(folder: Path, yaml: str, words: str) -> None:
    """What is wrong with a YAML is one line that names the task or the file."""
    write(folder, {"broken.yaml": yaml})
    assert words in read_usage_error(lambda: metrics_for({"task": "broken.yaml"}, folder))


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (("{test: test.jsonl}", "{test: gone.jsonl}"), {}, "gone.jsonl"),
        (("test_split: test", "test_split: exam"), {}, "KeyError"),
        (("{{page}}", "{{page"), {}, "lm_eval cannot build it: TemplateSyntaxError"),
        (("metric: word_perplexity", "metric: !function gone.metric"), {}, "lm_eval cannot read it"),
        (("output_type", "num_fewshot: 0\noutput_type"), {"shots": 3}, "sets num_fewshot: 0"),
    ],
)
def test_a_task_that_cannot_be_built_is_told_before_any_model(
    folder: Path, change: tuple[str, str], options: dict[str, Any], words: str
) -> None:
    """Data, templates and functions that fail are one line in preflight."""
    write(folder, {"pages.yaml": TEXT.replace(*change)})
    assert words in read_usage_error(lambda: rows_for({"task": "pages.yaml", **options}, folder))


def test_too_many_shots_are_told_before_any_model(folder: Path) -> None:
    """More shots than there are examples."""
    for fixed in (False, True):
        options = {"task": "things.yaml", "shots": 50, "fixed_shots": fixed}
        line = read_usage_error(lambda options=options: rows_for(options, folder))
        assert line == 'task "things": has 9 examples, but 50 shots were set'


def test_lm_eval_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without lm_eval, one line says what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = read_usage_error(lambda: metrics_for({"task": "arc_easy"}, Path()))
    assert line == 'needs the module "lm_eval"; pip install lm-eval, or install with the extra [lm-eval]'


@pytest.mark.parametrize("forbidden", [True, False])
def test_a_hub_out_of_reach_is_one_line_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forbidden: bool
) -> None:
    """Data of the hub that is not here: the line names task, data and reason, and nothing is waited for or retried."""
    from huggingface_hub import constants

    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", forbidden)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    hub.is_hub_reachable.cache_clear()
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"waited for {seconds} s"))
    line = read_usage_error(lambda: rows_for({"task": "arc_easy"}, Path()))
    hub.is_hub_reachable.cache_clear()
    reason = "HF_HUB_OFFLINE is set" if forbidden else "http://127.0.0.1:9 cannot be reached"
    data = 'its data "allenai/ai2_arc" (ARC-Easy) is not on this machine'
    assert line == (
        f'task "arc_easy": {data}, and {reason}; connect to the network once, or use a YAML with local data'
    )
    assert constants.HF_HUB_OFFLINE is forbidden


def test_local_tasks_never_open_a_connection(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing phones home: a task with local data needs no network, and asks for none."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert len(score_in_chunks(Hashed(), folder, task="things.yaml")) == 12


# ------------------------------------------------------------------ rows


def test_rows_are_documents(folder: Path) -> None:
    """A row has the prompt and target a reader would see, and the document's fields; names of ours are set apart."""
    rows = rows_for({"task": "things.yaml", "docs": 5}, folder)
    assert len(rows) == 5
    assert rows[4] == {
        "id": "4",
        "doc.id": "d4",
        "question": "Which is number 4?",
        "choices": ["elderberry", "fig tree", "grape"],
        "gold": 1,
        "page": "Page 4 of «elderberry» ",
        "task": "things",
        "doc_id": 4,
        "input": "Q: Which is number 4?\nA:",
        "target": "fig tree",
    }


def test_rows_without_a_prompt_show_what_is_scored(folder: Path) -> None:
    """A text that is scored as a whole is the row's input."""
    row = rows_for({"task": "pages.yaml"}, folder)[1]
    assert (row["input"], row["target"]) == ("Page 1 of «banana» " * 2, "")


def test_rows_of_a_group_name_their_task(folder: Path) -> None:
    """Ids of a group's rows begin with the task; `docs` counts in each task."""
    write(folder, {"two.yaml": CHOICE.replace("task: things", "task: two"), "g.yaml": "group: g\ntask: [things, two]"})
    rows = rows_for({"task": "g.yaml", "include_path": ".", "docs": 2}, folder)
    assert [r["id"] for r in rows] == ["things:0", "things:1", "two:0", "two:1"]


def test_rows_follow_their_files(folder: Path) -> None:
    """Data that changed within one process is read again."""
    assert len(rows_for({"task": "things.yaml"}, folder)) == 12
    write(folder, {"test.jsonl": make_documents(3)})
    assert len(rows_for({"task": "things.yaml"}, folder)) == 3


@pytest.mark.parametrize(
    "files", ["test.jsonl", "[test.jsonl]", "{test: [test.jsonl]}", "{test: 't*.jsonl'}", "{test: data/test.jsonl}"]
)
def test_data_files_are_beside_the_yaml(folder: Path, files: str) -> None:
    """Names, lists and patterns of data files are looked for where the YAML is, wherever the harness runs."""
    split = "test" if ":" in files else "train"
    write(folder / "data", {"test.jsonl": make_documents(12)})
    (folder / "train.jsonl").unlink()
    listed = TEXT.replace("{test: test.jsonl}", files).replace("test_split: test", f"test_split: {split}")
    write(folder, {"own.yaml": listed})
    assert len(rows_for({"task": "own.yaml"}, folder)) == 12


def test_rows_of_something_else_are_refused(folder: Path) -> None:
    """A sample that is none of the task's documents stops the evaluation."""
    load_samples(folder, task="things.yaml")
    line = read_usage_error(lambda: list(lm_eval(Hashed(), [Sample("q", "?", "!")], folder=folder, task="things.yaml")))
    assert line.startswith('row "q": is not a document of the task')


# ------------------------------------------------------------------ numbers: lm_eval's, whatever answers


@pytest.mark.parametrize("task", ["things", "pages", "answers"])
@pytest.mark.parametrize("shots", [0, 2])
def test_metrics_equal_lm_evals(folder: Path, task: str, shots: int) -> None:
    """The same answers give the numbers that lm_eval's own loop gives, whatever the chunks."""
    subject = Hashed()
    found = theirs(wrap_as_lm(subject), folder, f"{task}.yaml", shots)
    options = {"task": f"{task}.yaml", "shots": shots}
    assert compute_metrics(Hashed(), folder, size=5, **options) == expect_metrics(found, task)


@pytest.mark.parametrize("sized", ["true", "false"])
def test_metrics_of_a_group_equal_lm_evals(folder: Path, sized: str) -> None:
    """A group's mean weighs tasks by size or alike, as its YAML says; so does a metric made of all documents."""
    write(
        folder,
        {
            "few.jsonl": make_documents(4, 50),
            "few.yaml": CHOICE.replace("task: things", "task: few").replace("test.jsonl", "few.jsonl"),
            "g.yaml": "group: g\ntask: [things, few]\naggregate_metric_list:\n"
            + "".join(f"  - {{metric: {m}, weight_by_size: {sized}}}\n" for m in ("acc", "acc_norm", "mcc")),
        },
    )
    for name in ("things", "few"):
        text = (folder / f"{name}.yaml").read_text("utf-8")
        write(folder, {f"{name}.yaml": text + "  - {metric: mcc}\n"})
    found = theirs(wrap_as_lm(Hashed()), folder, "g")
    options = {"task": "g.yaml", "include_path": "."}
    assert compute_metrics(Hashed(), folder, size=7, **options) == expect_metrics(found, "g")


def test_a_group_has_the_metrics_that_it_aggregates(folder: Path) -> None:
    """A group in which groups are has those of its own YAML, as lm_eval has it; without such a list, all in common."""
    write(
        folder,
        {
            "inner.yaml": "group: inner\ntask: [things]\naggregate_metric_list: [{metric: acc_norm}]\n",
            "outer.yaml": "group: outer\ntask: [inner]\naggregate_metric_list:\n  - {metric: acc, filter_list: none}\n",
            "plain.yaml": "group: plain\ntask: [inner]\n",
            "none.yaml": "group: none\ntask: [inner]\naggregate_metric_list: [{metric: acc, filter_list: [strict]}]\n",
        },
    )
    found = theirs(wrap_as_lm(Hashed()), folder, "outer")
    assert compute_metrics(Hashed(), folder, task="outer.yaml", include_path=".") == expect_metrics(found, "outer")
    for task, own in (("outer", ["acc"]), ("inner", ["acc_norm"]), ("plain", ["acc", "acc_norm"])):
        assert [m.name for m in metrics_for({"task": f"{task}.yaml", "include_path": "."}, folder)] == own
    with pytest.raises(UsageError, match="no metric in common"):
        metrics_for({"task": "none.yaml", "include_path": "."}, folder)


def test_documents_without_a_metric_weigh_nothing(folder: Path) -> None:
    """Where a task gives a metric for some documents only, the mean is over those, as lm_eval has it."""
    code = (
        "def results(doc, results):\n    right = float(results[0][1])\n    even = int(doc['id'][1:]) % 2 == 0\n"
        "    return {'some': right, 'rest': float('nan')} if even else {'rest': right}\n"
    )
    listed = "process_results: !function own.results\nmetric_list:\n"
    listed += "  - {metric: some, aggregation: mean, higher_is_better: true}\n"
    listed += "  - {metric: rest, aggregation: nanmean, higher_is_better: true}\n"
    write(folder, {"own.py": code, "own.yaml": CHOICE.partition("metric_list")[0].replace("things", "own") + listed})
    found = theirs(wrap_as_lm(Hashed()), folder, "own.yaml")
    assert compute_metrics(Hashed(), folder, task="own.yaml") == expect_metrics(found, "own")


def test_a_log_probability_that_is_not_finite_is_no_score(folder: Path) -> None:
    """NaN is not the likeliest choice: the row's metrics are NaN, and so are those of all rows."""

    class Broken(Hashed):
        def logprobs(self, pairs: Sequence[tuple[str, str]], **options: Any) -> list[Logprob]:
            return [Logprob(math.nan, 1, 1, True), *super().logprobs(pairs[1:], **options)]

    write(folder, {"mcc.yaml": CHOICE + "  - {metric: mcc}\n"})
    scores = score_in_chunks(Broken(), folder, task="mcc.yaml")
    assert [s.id for s in scores if math.isnan(s.values["acc"])] == ["0"]
    assert all(math.isnan(m.value(scores)) for m in metrics_for({"task": "mcc.yaml"}, folder))


def test_values_of_documents_survive_json() -> None:
    """What an aggregation gets is what the task made, tuples and numpy's numbers included."""
    import numpy as np

    value = (np.int64(3), [np.float64(0.5), ("a", None)], {"k": (True,)}, np.array([1.0, 2.0]))
    kept = json.loads(json.dumps(to_json(value, "x")))
    assert from_json(kept) == (3, [0.5, ("a", None)], {"k": (True,)}, [1.0, 2.0])


# ------------------------------------------------------------------ prompts


def test_requests_of_a_chunk_go_in_one_call(folder: Path) -> None:
    """All choices of all documents are scored together, which lets them share their prompts."""
    subject = Hashed()
    score_in_chunks(subject, folder, task="things.yaml", size=8)
    assert [len(requests) for _, requests, _ in subject.calls] == [8 * 3, 4 * 3]
    assert all(options == {"truncate": True} for _, _, options in subject.calls)


def test_fixed_shots_are_the_same_for_every_document(folder: Path) -> None:
    """The examples stand before every document, the first of them those lm_eval shows its first document."""
    subject, per_document = Hashed(), Hashed()
    score_in_chunks(subject, folder, task="things.yaml", shots=3, fixed_shots=True)
    score_in_chunks(per_document, folder, task="things.yaml", shots=3)
    fronts = {prompt.rpartition("Q:")[0] for prompt, _ in subject.asked("logprobs")}
    drawn = [prompt.rpartition("Q:")[0] for prompt, _ in per_document.asked("logprobs")]
    assert fronts == {drawn[0]}
    assert len(set(drawn)) > 6


@pytest.mark.parametrize("fixed", [False, True])
def test_a_document_is_never_its_own_example(fixed: bool, folder: Path) -> None:
    """Examples from the documents themselves: each document is shown others only, as many as were asked for."""
    write(folder, {"own.yaml": CHOICE.replace("training_split: train\n", "fewshot_split: test\n")})
    subject = Hashed()
    score_in_chunks(subject, folder, task="own.yaml", shots=4, fixed_shots=fixed)
    for prompt, _ in subject.asked("logprobs"):
        questions = prompt.split("Q: ")[1:]
        assert len(questions) == 5
        assert not any(q.startswith(questions[-1].partition("\n")[0]) for q in questions[:-1])


@pytest.mark.parametrize("split", ["fewshot_split: test\n", "training_split: train\n"])
def test_drawn_shots_are_lm_evals_in_any_order(folder: Path, split: str) -> None:
    """Every document sees the examples lm_eval draws for it, whichever rows are asked for."""
    write(folder, {"own.yaml": CHOICE.replace("training_split: train\n", split)})
    reference = Hashed()
    theirs(wrap_as_lm(reference), folder, "own.yaml", 3)
    options = {"task": "own.yaml", "shots": 3}
    rows = load_samples(folder, **options)
    subject = Hashed()
    for number in (7, 2, 11):
        list(lm_eval(subject, [rows[number]], folder=folder, **options))
    assert subject.asked("logprobs") == [p for n in (7, 2, 11) for p in reference.asked("logprobs")[3 * n : 3 * n + 3]]


@pytest.mark.parametrize("multiturn", [True, False])
def test_chat_is_lm_evals(folder: Path, multiturn: bool) -> None:
    """Messages, turns, system prompt and a prefix of the answer come out as lm_eval gives them to a template."""
    write(folder, {"prefix.yaml": CHOICE + "gen_prefix: 'It is'\n"})

    def render(messages: list[dict[str, str]]) -> str:
        return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"

    reference, subject = Hashed(render=render), Hashed(render=render)
    told = {"apply_chat_template": True, "system_instruction": "Be brief.", "fewshot_as_multiturn": multiturn}
    found = theirs(wrap_as_lm(reference), folder, "prefix.yaml", 2, **told)
    options = {"task": "prefix.yaml", "shots": 2, "chat": True}
    options |= {"system": "Be brief.", "multiturn": multiturn}
    assert compute_metrics(subject, folder, **options) == expect_metrics(found, "things")
    assert subject.asked("logprobs") == reference.asked("logprobs")
    prompt = subject.asked("logprobs")[0][0]
    assert prompt.startswith("<system>Be brief.<user>Q: ")
    assert prompt.endswith("<assistant>It is")
    assert prompt.count("<user>") == (3 if multiturn else 1)


def test_chat_with_template_arguments(folder: Path) -> None:
    """The chat template gets the arguments that stand in place of `chat = true`; what is ours to say is refused."""
    found: list[Any] = []

    def render(messages: list[dict[str, Any]]) -> str:
        found.append(split_arguments(messages)[1])
        return "rendered"

    options: dict[str, Any] = {"task": "things.yaml", "chat": {"enable_thinking": False}}
    compute_metrics(Hashed(render=render), folder, **options)
    assert found
    assert all(given == {"enable_thinking": False} for given in found)
    line = read_usage_error(lambda: load_samples(folder, task="things.yaml", chat={"tokenize": True}))
    assert line.startswith('has "tokenize" in chat_template_kwargs')


def test_chat_needs_a_template(folder: Path) -> None:
    """A model that cannot render messages: one line."""
    rows = load_samples(folder, task="things.yaml", chat=True)
    line = read_usage_error(lambda: list(lm_eval(Hashed(), rows, folder=folder, task="things.yaml", chat=True)))
    assert line == 'chat: "hashed" has no chat template to apply; remove chat'


def test_an_empty_context_is_the_models_first_token(folder: Path) -> None:
    """Without a context a continuation follows the prefix token, which itself is not scored."""
    write(
        folder, {"bare.yaml": CHOICE.replace('"Q: {{question}}\\nA:"', '""').replace("doc_to_text", "doc_to_text", 1)}
    )
    subject = Hashed(prefix="<s>")
    score_in_chunks(subject, folder, task="bare.yaml", docs=1)
    assert subject.asked("logprobs") == [("<s>", " apple"), ("<s>", " banana tree"), ("<s>", " cherry")]


# ------------------------------------------------------------------ generation


def test_generation_takes_the_tasks_options(folder: Path) -> None:
    """Stop strings and new tokens are the task's, `gen_kwargs` goes over them, and empty stop strings are none."""
    subject = Hashed()
    score_in_chunks(subject, folder, task="answers.yaml", docs=2)
    score_in_chunks(subject, folder, task="answers.yaml", docs=2, gen_kwargs={"max_gen_toks": 5, "until": ["."]})
    assert [options for _, _, options in subject.calls] == [
        {"max_new_tokens": 12, "stop": ("\n",), "truncate": True},
        {"max_new_tokens": 5, "stop": (".",), "truncate": True},
    ]


def test_sampling_has_a_seed_for_every_document_and_repeat(folder: Path) -> None:
    """Repeats draw other numbers than each other, and the same ones in every run and every chunk."""
    lines = ANSWER.replace("max_gen_toks: 12", "do_sample: true, temperature: 0.8, top_p: 0.9") + "repeats: 2\n"
    write(folder, {"answers.yaml": lines})
    subject, again = Hashed(), Hashed()
    score_in_chunks(subject, folder, task="answers.yaml", docs=4)
    score_in_chunks(again, folder, task="answers.yaml", docs=4, size=2)
    drawn: list[Sampling] = [options["sampling"] for _, _, options in subject.calls]
    seeds = [seed for one in drawn for seed in one.seeds]
    assert (drawn[0].temperature, drawn[0].top_p, drawn[0].top_k) == (0.8, 0.9, 0)
    assert len(set(seeds)) == 4 * 2
    assert seeds == [seed for _, _, options in again.calls for seed in options["sampling"].seeds]


def test_greedy_repeats_are_asked_once(folder: Path) -> None:
    """Without sampling a repeat is the same answer, and costs nothing."""
    write(folder, {"answers.yaml": ANSWER + "repeats: 3\n"})
    subject = Hashed()
    found = theirs(wrap_as_lm(Hashed()), folder, "answers.yaml")
    assert compute_metrics(subject, folder, task="answers.yaml") == expect_metrics(found, "answers")
    assert len(subject.asked("generate")) == 12


def test_more_new_tokens_than_context_is_one_line(folder: Path) -> None:
    """A task that wants longer answers than the model has room for."""
    rows = load_samples(folder, task="answers.yaml")
    line = read_usage_error(lambda: list(lm_eval(Hashed(context=10), rows, folder=folder, task="answers.yaml")))
    assert line.startswith('task "answers": needs 12 new tokens, but the context of hashed is 10; set gen_kwargs')


def test_answers_are_kept_for_the_report(folder: Path) -> None:
    """A row's answer is the text the model gave, or the choice it found likeliest."""
    (text,) = score_in_chunks(Hashed(), folder, task="answers.yaml", docs=1)
    (choice,) = score_in_chunks(Hashed(), folder, task="things.yaml", docs=1)
    assert text.answer == Hashed().generate(["Q: Which is number 0?\nA:"])[0]
    assert choice.answer in ("apple", "banana tree", "cherry")


# ------------------------------------------------------------------ too long


def test_prompts_that_are_cut_are_counted(folder: Path) -> None:
    """A row whose prompt does not fit says by how many tokens it was cut, and the eval how many rows."""

    def count_tokens(pairs: Sequence[tuple[str, str]]) -> list[int]:
        return [len("".join(pair)) for pair in pairs]

    subject = Hashed(context=32, count_tokens=count_tokens)
    scores = score_in_chunks(subject, folder, task="things.yaml")
    longest = [
        max(len(f"Q: Which is number {i}?\nA: {c}") for c in d["choices"]) for i, d in enumerate(make_documents(12))
    ]
    cut = [n - 33 for n in longest]  # the last token is predicted, not read
    assert [s.note for s in scores] == [f"prompt cut from the left, tokens: {n}" if n > 0 else None for n in cut]
    lost = [n for n in cut if n > 0]
    [found] = cut_prompts(Result("base", "lm", tuple(scores), {}, ""))
    told = f"{len(lost)} of 12 prompts were truncated by {min(lost)} to {max(lost)} tokens at their beginning"
    assert found.what == f'"base::lm": {told}'
    whole = score_in_chunks(Hashed(), folder, task="things.yaml")
    assert not list(cut_prompts(Result("base", "lm", tuple(whole), {}, "")))


def test_room_for_an_answer_counts(folder: Path) -> None:
    """Generation cuts a prompt so that the new tokens fit; beside a metric of all rows the note is kept in JSON."""
    prompt = "Q: Which is number 0?\nA:"
    subject = Hashed(context=len(prompt) + 11, count_tokens=lambda pairs: [len(prompt) for prompt, _ in pairs])
    (score,) = score_in_chunks(subject, folder, task="answers.yaml", docs=1)
    assert json.loads(score.note or "")["note"] == "prompt cut from the left, tokens: 1"
    assert len(list(cut_prompts(Result("base", "lm", (score,), {}, "")))) == 1


# ------------------------------------------------------------------ in a suite

SUITE = """
[suite]
name = "s"
[model]
use = "fake"
path = "base"
[candidate]
merged = "good"
[[eval]]
name = "things"
use = "lm_eval"
task = "tasks/things.yaml"
shots = 1
slices = ["gold"]
[[eval]]
name = "pages"
use = "lm_eval"
task = "tasks/pages.yaml"
[[gate]]
id = "learned"
metric = "things.acc"
versus = "base"
better_by = 0.0
[[gate]]
id = "fits"
metric = "pages.word_perplexity"
allow_approximate = true
versus = "base"
better_by = 0.1
"""
OURS = ("-p", "no:lm_eval", "-p", "harness_lm_eval")  # with or without the entry point


@pytest.mark.slow
def test_a_suite_gates_on_tasks(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task beside the suite runs through baselines, gates and slices like any evaluation."""
    told = CHOICE.replace("{{question}}\\nA:", "{{question}} {{choices[gold]}}")  # a fake's answer is the last word
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", project.folder / "datasets")
    tasks = {"tasks/things.yaml": told, "tasks/pages.yaml": TEXT}
    data = {"tasks/train.jsonl": make_documents(9, 100), "tasks/test.jsonl": make_documents(60)}
    done = project.write({"suite.toml": SUITE, **tasks, **data}).run(*OURS)
    assert (done.code, done.err) == (0, ""), done.out
    assert done.verdict("learned") == "PASS"
    assert done.verdict("fits") == "PASS"
    assert "merged::things  acc" in done.out


def test_a_suite_with_an_unknown_task_is_told_at_collection(project: Project) -> None:
    """The line names the suite, the eval, the task, and what was meant."""
    project.write({"suite.toml": SUITE.replace("tasks/things.yaml", "arc_esy").replace("tasks/pages.yaml", "wikitext")})
    done = project.run("--collect-only", *OURS)
    assert done.code == 4
    (line,) = [line for line in done.err.splitlines() if "arc_esy" in line]
    assert 'eval "things"' in line
    assert 'did you mean "arc_easy"?' in line


# ------------------------------------------------------------------ against the HF backend


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the tiny model twice: ours, and lm_eval's HF backend."""
    from lm_eval.models.huggingface import HFLM

    from harness_hf import load
    from harness_hf.tiny import build_tiny_model

    path = str(build_tiny_model(tmp_path_factory.mktemp("tiny") / "model"))
    with load([ModelRef("tiny", path)], dtype="float32", device="cpu") as (subject,):
        yield SimpleNamespace(ours=subject, theirs=HFLM(pretrained=path, dtype="float32", device="cpu", batch_size=4))


LONG = hashlib.shake_256(b"long").hexdigest(800)  # four windows of the tiny model, and no period in them


@pytest.mark.slow
@pytest.mark.xdist_group("backends of lm_eval")
@pytest.mark.filterwarnings("ignore")  # lm_eval's backend and what it calls
@pytest.mark.parametrize(
    ("task", "shots"),
    [("pages", 0), *((task, shots) for task in ("things", "answers", "bare") for shots in (0, 3, 30))],  # 30 are cut
)
def test_metrics_equal_the_hf_backends(folder: Path, backends: Any, task: str, shots: int) -> None:
    """Choices, rolling texts, generated answers and continuations without a context, short and too long."""
    bare = CHOICE.replace('"Q: {{question}}\\nA:"', '""').replace("task: things", "task: bare")
    pages = [*make_documents(8), {**make_documents(1)[0], "page": LONG}]
    write(folder, {"bare.yaml": bare, "train.jsonl": make_documents(40, 100), "test.jsonl": pages})
    found = theirs(backends.theirs, folder, f"{task}.yaml", shots)
    options = {"task": f"{task}.yaml", "shots": shots}
    ours = compute_metrics(backends.ours, folder, **options)
    assert ours == {
        name: pytest.approx(value.expected, rel=1e-4) for name, value in expect_metrics(found, task).items()
    }


@pytest.mark.slow
@pytest.mark.xdist_group("backends of lm_eval")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("multiturn", [True, False])
def test_chat_equals_the_hf_backends(folder: Path, backends: Any, multiturn: bool) -> None:
    """Chat templates, turns, a system prompt and an answer that is begun give the HF backend's numbers."""
    write(folder, {"prefix.yaml": CHOICE + "gen_prefix: 'It is'\n"})
    told = {"apply_chat_template": True, "system_instruction": "Be brief.", "fewshot_as_multiturn": multiturn}
    found = theirs(backends.theirs, folder, "prefix.yaml", 2, **told)
    options = {"task": "prefix.yaml", "shots": 2, "chat": True}
    options |= {"system": "Be brief.", "multiturn": multiturn}
    assert compute_metrics(backends.ours, folder, **options) == expect_metrics(found, "things")
    ours = theirs(wrap_as_lm(backends.ours), folder, "prefix.yaml", 2, **told)
    assert ours["samples"]["things"][0]["arguments"] == found["samples"]["things"][0]["arguments"]


@pytest.mark.slow
@pytest.mark.xdist_group("backends of lm_eval")
@pytest.mark.filterwarnings("ignore")
def test_log_probabilities_equal_the_hf_backends(folder: Path, backends: Any) -> None:
    """Every request's log-probability and whether it is greedy, through lm_eval's own loop on both sides."""
    bare = CHOICE.replace('"Q: {{question}}\\nA:"', '""').replace("task: things", "task: bare")
    write(folder, {"bare.yaml": bare})
    for name, shots in (("things", 2), ("bare", 0)):
        ours = theirs(wrap_as_lm(backends.ours), folder, f"{name}.yaml", shots)["samples"][name]
        reference = theirs(backends.theirs, folder, f"{name}.yaml", shots)["samples"][name]
        for a, b in zip(ours, reference, strict=True):
            for (mine,), (other,) in zip(a["resps"], b["resps"], strict=True):
                assert mine[0] == pytest.approx(other[0], abs=1e-4 * 20)
                assert mine[1] == other[1]
