"""The domain evaluators: what counts as a match, which choice is chosen, library metrics, latency, size."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import Logprob, ModelRef, Sample, Score, UsageError
from harness.gates.decide import decide
from harness.records.claims.gate import Gate
from harness.records.samples import Result
from harness.testing import FakeSubject
from harness_domain import contains, exact_match, hf_metric, latency, multiple_choice, regex, size, token_f1


class Canned:
    """A fake: answers by prompt, log-probabilities by continuation."""

    name, digest = "fake", "0"

    def __init__(self, answers: Mapping[str, str] | None = None, logprobs: Mapping[str, float] | None = None) -> None:
        self.answers, self.table = answers or {}, logprobs or {}
        self.calls: list[Any] = []

    def generate(self, prompts: Sequence[Any], *, max_new_tokens: int = 64, stop: Sequence[str] = ()) -> list[str]:
        self.calls.append((list(prompts), max_new_tokens, tuple(stop)))
        return [self.answers[str(p)] for p in prompts]

    def logprobs(self, pairs: Sequence[tuple[Any, str]]) -> list[Logprob]:
        self.calls.append(list(pairs))
        return [Logprob(self.table[t], 1, len(t.encode()), False) for _, t in pairs]


def match(evaluator: Callable[..., Any], answer: str, target: str | list[str], **options: Any) -> float:
    """Score one answer with an evaluator of one metric."""
    (score,) = evaluator(Canned({"q": answer}), [Sample("1", "q", target)], **options)
    assert score.answer == answer
    (value,) = score.values.values()
    return float(value)


# ------------------------------------------------------------------ generate and match
LOOSE = {"ignore_case": True, "ignore_punctuation": True}


@pytest.mark.parametrize(
    ("answer", "target", "options", "expected"),
    [
        ("Paris", "Paris", {}, 1),
        ("  paris. \t", "Paris", {}, 0),
        ("*/15 23 * * 1", "15 23 * * 1", {}, 0),
        ("  paris. \t", "Paris", LOOSE, 1),
        ("Paris, France", "Paris", {}, 0),
        ("New\n York", "New York", {}, 1),
        ("New\n York", "new york", LOOSE, 1),
        ("St. John’s", "St John's", LOOSE, 1),
        ("cafe\u0301", "café", {}, 1),
        ("PARIS", "Paris", {"ignore_punctuation": True}, 0),
        ("İstanbul", "istanbul", LOOSE, 1),
        ("I\u0307stanbul", "ISTANBUL", LOOSE, 1),
        ("İstanbul", "istanbul", {"ignore_case": False}, 0),
        ("Paris.", "Paris", {"ignore_case": True}, 0),
        ("-3.5", "35", {"ignore_case": True}, 0),
        ("the moon", "moon", {}, 0),
        ("the moon", "Moon", {"ignore_articles": True, "ignore_case": True}, 1),
        ("theme", "me", {"ignore_articles": True}, 0),
        ("B", ["A", "B"], {}, 1),
        ("", "Paris", {}, 0),
    ],
)
def test_exact_match(answer: str, target: Any, options: dict[str, Any], expected: int) -> None:
    """An answer matches when it is a target but for spaces, and for case and punctuation where the options say so."""
    assert match(exact_match, answer, target, **options) == expected


@pytest.mark.parametrize(
    ("answer", "target", "options", "expected"),
    [
        ("It is Paris, of course", "paris", {}, 1),
        ("I do not know", "no", {}, 0),
        ("a comparison", "Paris", {}, 0),
        ("a comparison", "Paris", {"whole_words": False}, 1),
        ("they speak C++ here", "C++", {"ignore_punctuation": False}, 1),
        ("答えは東京です", "東京", {"whole_words": False}, 1),
        ("Rome or Paris", ["Lyon", "Rome"], {}, 1),
        ("a.c", "abc", {"ignore_punctuation": False}, 0),
    ],
)
def test_contains(answer: str, target: Any, options: dict[str, Any], expected: int) -> None:
    """A target counts when it stands in the answer as whole words, and is never read as a pattern."""
    assert match(contains, answer, target, **options) == expected


@pytest.mark.parametrize(
    ("answer", "target", "expected"),
    [
        ("a b c", "a b d", 2 / 3),
        ("b b b b", "b", 2 * 0.25 / 1.25),
        ("", "b", 0.0),
        ("x", "b", 0.0),
        ("North, Sea!", ["sea", "the north sea"], 0.8),
    ],
)
def test_token_f1(answer: str, target: Any, expected: float) -> None:
    """F1 of the words in common, each as often as it occurs in both; of several targets the best."""
    assert match(token_f1, answer, target) == pytest.approx(expected)


@pytest.mark.parametrize("partial", [0, 3])
def test_token_f1_is_a_share_of_which_the_range_is_known(partial: int) -> None:
    """150 rows, all right or a few in part, prove a mean above 0.95, which no mean without a known range would."""
    (metric,) = token_f1.metrics
    scores = tuple(Score(str(i), {"token_f1": 0.5 if i < partial else 1.0}) for i in range(150))
    gate, samples = Gate("g", "e.token_f1", min=0.95), [Sample(str(i)) for i in range(150)]
    found = decide(gate, metric, Result("merged", "e", scores, {}, "d"), None, samples, 0.05, name="merged")
    assert (metric.scale, found.outcome) == ("proportion", "PASS")


def test_regex_is_searched_in_the_answer() -> None:
    """A pattern looks at the answer as it was generated, stripped, and the row needs no target."""
    assert match(regex, " ls -la ", "", pattern=r"^ls\b") == 1
    assert match(regex, "LS", "", pattern=r"^ls") == 0
    with pytest.raises(UsageError, match=r'regex: pattern "\(" is not a valid expression:'):
        match(regex, "x", "", pattern="(")


def test_generation_options_reach_the_model() -> None:
    """One call for all rows, with the suite's lengths and stops."""
    model = Canned({"q": "x", "r": "y"})
    samples = [Sample("1", "q", "x"), Sample("2", "r", "x")]
    scores = list(exact_match(model, samples, max_new_tokens=5, stop=[";"]))
    assert model.calls == [(["q", "r"], 5, (";",))]
    assert [(s.id, s.values["exact_match"]) for s in scores] == [("1", 1.0), ("2", 0.0)]


@pytest.mark.parametrize("evaluator", [exact_match, contains, token_f1])
@pytest.mark.parametrize("target", ["", [], " \n", ["Paris", ""], "..."])
def test_an_empty_target_is_a_mistake_and_matches_nothing(evaluator: Callable[..., Any], target: Any) -> None:
    """Every answer contains an empty target, so such a row stops the evaluation before the model is asked."""
    model = Canned({"q": ""})
    with pytest.raises(UsageError, match='row "r7"'):
        list(evaluator(model, [Sample("r7", "q", target)], **LOOSE))
    assert not model.calls


# ------------------------------------------------------------------ multiple choice


def make_choice_sample(gold: Any, choices: Any = ("north", "south-east"), **more: Any) -> Sample:
    return Sample("r7", "which way?", row={"choices": list(choices), "gold": gold}, **more)


def test_the_likeliest_choice_is_chosen_with_and_without_length() -> None:
    """acc compares summed log-probabilities, acc_norm divides by characters without the delimiter."""
    model = Canned(logprobs={" north": -6.0, " south-east": -7.0})  # -1.2 and -0.7 per character
    (score,) = multiple_choice(model, [make_choice_sample("north")])
    assert score.values == {"acc": 1.0, "acc_norm": 0.0}
    assert (score.answer, score.note) == ("north", None)


def test_length_is_characters_not_bytes() -> None:
    """Umlauts are one character each: by bytes the second choice would win."""
    model = Canned(logprobs={" ab": -3.0, " öö": -5.0})
    (score,) = multiple_choice(model, [make_choice_sample("ab", ["ab", "öö"])])
    assert score.values == {"acc": 1.0, "acc_norm": 1.0}


def test_all_rows_are_one_call() -> None:
    """Prompts can only be shared when the model sees all pairs at once."""
    model = Canned(logprobs={" a": -1.0, " b": -2.0, "a": -1.0, "b": -2.0})
    chat = [{"role": "user", "content": "a or b?"}]
    samples = [
        Sample("1", "p", row={"choices": ["a", "b"], "gold": 0}),
        Sample("2", chat, "b", {"choices": ["a", "b"]}),
    ]
    scores = list(multiple_choice(model, samples))
    assert model.calls == [[("p", " a"), ("p", " b"), (chat, "a"), (chat, "b")]]
    assert [s.values["acc"] for s in scores] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("gold", "choices", "expected"),
    [
        (1, ["a", "b", "c"], 1),
        ("1", ["a", "b", "c"], 1),
        ("B", ["a", "b", "c"], 1),
        ("b", ["a", "b", "c"], 1),
        ("A", ["B", "A"], 1),  # a choice's own text comes before its letter
        ("2", ["1", "2", "3"], 1),  # and before its number
    ],
)
def test_gold_is_a_number_a_letter_or_a_text(gold: Any, choices: list[str], expected: int) -> None:
    """Each of the three ways to name the right choice finds it."""
    model = Canned(logprobs={f" {c}": -float(i != expected) for i, c in enumerate(choices)})
    (score,) = multiple_choice(model, [make_choice_sample(gold, choices)])
    assert score.values["acc"] == 1.0


def test_choices_with_labels_are_found_by_them() -> None:
    """A row of ARC's shape names the right choice by its label, "1" to "4" as well, which is no position."""
    model = Canned(logprobs={" a": -3.0, " b": -1.0, " c": -2.0})
    row = {"choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}, "gold": "2"}
    (score,) = multiple_choice(model, [Sample("1", "p", row=row)])
    assert score.values["acc"] == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_log_probability_that_is_not_finite_is_no_answer(bad: float) -> None:
    """The row is NaN, where argmax would have picked choice 0 and looked like accuracy."""
    model = Canned(logprobs={" north": bad, " south-east": -1.0})
    (score,) = multiple_choice(model, [make_choice_sample(0)])
    assert all(math.isnan(v) for v in score.values.values())
    assert score.answer is None


def test_ties_are_told() -> None:
    """A model that cannot tell the choices apart is seen, though the first choice is counted as lm_eval does."""
    model = Canned(logprobs={" north": -1.0, " south-east": -1.0})
    (score,) = multiple_choice(model, [make_choice_sample(0)])
    assert (score.values["acc"], score.note) == (1.0, "uniform")


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (Sample("r7", "q", row={"gold": 0}), 'column "choices" is missing'),
        (make_choice_sample(0, ["only"]), "two or more"),
        (make_choice_sample(0, ["a", "a"]), "all different"),
        (make_choice_sample(0, ["a", ""]), "not empty"),
        (make_choice_sample(0, ["a", 3]), "list of texts"),
        (Sample("r7", "q", row={"gold": 0, "choices": "a,b"}), "list of texts"),
        (make_choice_sample(2), "number from 0 to 1"),
        (make_choice_sample(-1), "number from 0 to 1"),
        (make_choice_sample(True), "number from 0 to 1"),
        (make_choice_sample("C"), "its letter"),
        (make_choice_sample("west"), "a choice"),
        (Sample("r7", "q", row={"choices": ["a", "b"]}), "as the target"),
    ],
)
def test_columns_that_do_not_fit_are_named(sample: Sample, words: str) -> None:
    """The row, the column and what was wanted stand in one line, before the model is asked."""
    model = Canned()
    with pytest.raises(UsageError, match='row "r7"') as error:
        list(multiple_choice(model, [sample]))
    assert words in str(error.value)
    assert not model.calls


@pytest.mark.slow
def test_multiple_choice_is_lm_evals(tmp_path: Path) -> None:
    """acc and acc_norm of every row equal what lm-evaluation-harness's own task makes of its own log-likelihoods."""
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM

    from harness_hf import load
    from harness_hf.tiny import build_tiny_model

    folder = str(build_tiny_model(tmp_path / "tiny"))
    words = ["north", "south-east", "öst", "w", "up and down", "nowhere"]
    samples = [
        Sample(str(i), f"Question {i}: which way?", row={"choices": words[i % 3 :], "gold": i % 2}) for i in range(12)
    ]
    with load([ModelRef("tiny", folder)], dtype="float32", device="cpu") as (subject,):
        scores = list(multiple_choice(subject, samples))

    class Task(ConfigurableTask):
        """The formulas of the reference without its data set."""

        OUTPUT_TYPE, multiple_input, multiple_target = "multiple_choice", 0, 0

        def __init__(self) -> None:
            self._metric_fn_list = {"acc": None, "acc_norm": None}
            self._config = type("Config", (), {"process_results": None})()

        def doc_to_choice(self, doc: Any) -> list[str]:
            return list(doc["choices"])

        def doc_to_target(self, doc: Any) -> int:
            return int(doc["gold"])

    reference = HFLM(pretrained=folder, dtype="float32", device="cpu", batch_size=8)
    requests = [
        Instance("loglikelihood", {}, (s.input, f" {text}"), i)
        for s in samples
        for i, text in enumerate(s.row["choices"])
    ]
    answers = iter(reference.loglikelihood(requests, disable_tqdm=True))
    expected = [Task().process_results(s.row, [next(answers) for _ in s.row["choices"]]) for s in samples]
    assert [dict(s.values) for s in scores] == expected
    assert 0 < sum(s.values["acc"] for s in scores) < len(samples)


# ------------------------------------------------------------------ library metrics


def score_with_library(answers: Sequence[str], targets: Sequence[Any], **options: Any) -> float:
    """Run hf_metric as the harness does: collect the metric, score the rows, combine them."""
    model = Canned({str(i): a for i, a in enumerate(answers)})
    samples = [Sample(str(i), str(i), t) for i, t in enumerate(targets)]
    (metric,) = hf_metric.metrics_for(options)  # type: ignore[attr-defined]
    return float(metric.value(list(hf_metric(model, samples, **options))))


def write_metric_script(folder: Path, kind: str, body: str) -> str:
    """Write a metric script of the library's kind and return its path."""
    path = folder / "homemade.py"
    path.write_text(f"""
import datasets
import evaluate

class Homemade(evaluate.Metric):
    def _info(self):
        value = datasets.Value("{kind}")
        features = datasets.Features({{"predictions": value, "references": value}})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references, times=1):
        {body}
""")
    return str(path)


@pytest.fixture
def modules_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the copies that the library makes of metric scripts in a temporary folder."""
    monkeypatch.setattr("evaluate.loading.init_dynamic_modules", _make_modules_initializer(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path / "copies"))
    return tmp_path


def _make_modules_initializer(folder: Path) -> Callable[[], str]:
    from evaluate.loading import init_dynamic_modules

    (folder / "copies").mkdir()
    return lambda *_, **__: str(init_dynamic_modules(f"m{folder.name}", hf_modules_cache=str(folder / "copies")))


@pytest.mark.slow
def test_the_local_metric_is_sacrebleus_chrf() -> None:
    """chrF over all rows, with several targets and with texts shorter than the n-grams, is sacrebleu's."""
    from sacrebleu.metrics import CHRF

    answers = ["the cat sat on the mat", "a", "", "völlig anders", "Hypertension, essential"]
    targets = [
        ["the cat is on the mat", "there is a cat on the mat"],
        ["ab", "a"],
        ["x", "y"],
        ["ganz", "vö"],
        ["z", "q"],
    ]
    ours = score_with_library(answers, targets, metric="local:chrf")
    assert ours == pytest.approx(CHRF().corpus_score(answers, [list(t) for t in zip(*targets, strict=True)]).score)
    assert score_with_library(["same"], ["same"], metric="local:chrf") == pytest.approx(100.0)
    assert score_with_library(["abc"], ["xyz"], metric="local:chrf") == 0.0


LABELS = ["refund", "billing", "other"]


@pytest.mark.parametrize("metric", ["macro_f1", "balanced_accuracy"])
def test_local_metrics_of_labels_are_scikit_learns(metric: str) -> None:
    """Macro-F1 and balanced accuracy over the targets are scikit-learn's; an answer that is no label is wrong."""
    from sklearn.metrics import f1_score, recall_score

    rng = random.Random(3)
    targets = [rng.choice([*LABELS, "refund", "refund"]) for _ in range(60)]
    answers = [rng.choice([t, t, *LABELS, "I do not know", f" {t}\n"]) for t in targets]
    told = [a.strip() for a in answers]
    score = f1_score if metric == "macro_f1" else recall_score
    theirs = score(targets, told, labels=sorted({*targets}), average="macro", zero_division=0)
    assert score_with_library(answers, targets, metric=f"local:{metric}") == pytest.approx(float(theirs))
    assert score_with_library(LABELS, LABELS, metric=f"local:{metric}") == 1
    with pytest.raises(UsageError, match="needs exactly one target per row"):
        score_with_library(["a"], [["a", "b"]], metric=f"local:{metric}")


def test_a_local_metric_of_labels_scores_choices() -> None:
    """With choices the likeliest one is the answer, and the right one the target."""
    rows = [Sample(str(i), f"say {t}", row={"gold": i % 2}) for i, t in enumerate(["yes", "no", "no", "no"])]
    options = {"metric": "local:balanced_accuracy", "choices": ["yes", "no"]}
    (metric,) = hf_metric.metrics_for(options)  # type: ignore[attr-defined]
    assert metric.value(list(hf_metric(FakeSubject("m", 1.0), rows, **options))) == pytest.approx((1 / 2 + 2 / 2) / 2)


def test_a_library_metric_is_named_by_key_or_name() -> None:
    """A gate says EVAL.METRIC, so the name is known from the options alone."""
    made = hf_metric.metrics_for  # type: ignore[attr-defined]
    names = [made({"metric": m})[0].name for m in ("local:chrf", "metrics/homemade.py", "rouge", "someone/cer")]
    assert names == ["chrf", "homemade", "rouge", "cer"]
    (rouge,) = made({"metric": "rouge", "key": "rougeL", "better": "lower"})
    assert (rouge.name, rouge.better, rouge.scale) == ("rougeL", "lower", "other")


@pytest.mark.slow
def test_a_metric_script_is_given_all_rows_and_the_options(modules_in: Path) -> None:
    """A script beside the suite is loaded by its path; what the table has besides goes to its compute()."""
    body = 'return {"homemade": times * sum(p == r for p, r in zip(predictions, references))}'
    assert (
        score_with_library(
            ["a", "b", "c"], ["a", "x", "c"], metric=write_metric_script(modules_in, "string", body), times=3
        )
        == 6.0
    )


def test_a_metric_of_classes_gets_numbers(modules_in: Path) -> None:
    """Words become the numbers of the sorted targets; an answer that is no class is a class of its own."""
    path = write_metric_script(
        modules_in, "int32", 'return {"homemade": sum(10**i * p for i, p in enumerate(predictions))}'
    )
    assert score_with_library(["yes", "no", "perhaps"], ["no", "yes", "no"], metric=path) == 1 + 0 + 200
    assert score_with_library(["7", "5", "x"], ["5", "7", "5"], metric=path) == 7 + 50 + 800


@pytest.mark.parametrize(
    ("answers", "targets", "macro"),
    [
        ("aabb", "aaab", (0.8 + 2 / 3) / 2),  # F1 of a: 4/5, of b: 2/3
        ("aaca", "aaba", (1 + 0 + 0) / 3),  # c is said and never right, b never said
        ("aaax", "aaaa", (6 / 7 + 0) / 2),  # what is no class is one more
        ("aaaa", "aaaa", 1.0),
    ],
)
def test_macro_f1_is_over_the_classes_that_are_there(
    modules_in: Path, answers: str, targets: str, macro: float
) -> None:
    """As in scikit-learn a class of neither targets nor answers is left out, and one of either alone has an F1 of 0."""
    pytest.importorskip("sklearn")
    body = """from sklearn.metrics import f1_score
        return {"homemade": f1_score(references, predictions, average="macro", zero_division=0)}"""
    assert score_with_library(answers, targets, metric=write_metric_script(modules_in, "int32", body)) == pytest.approx(
        macro
    )


def test_a_part_of_the_rows_numbers_classes_as_all_do(modules_in: Path) -> None:
    """A resample without one class gives the others the numbers that they have, or another class would be counted."""
    metric = write_metric_script(
        modules_in, "int32", 'return {"homemade": sum(p == r == 1 for p, r in zip(predictions, references))}'
    )
    model, samples = Canned({"q": "b"}), [Sample(str(i), "q", t) for i, t in enumerate("ab")]
    (made,) = hf_metric.metrics_for({"metric": metric})  # type: ignore[attr-defined]
    assert made.value(list(hf_metric(model, samples, metric=metric))[1:]) == 1


def test_a_metric_that_refuses_the_answers_is_not_a_number(modules_in: Path) -> None:
    """Words where numbers are wanted make the metric NaN, an error at the gate, and not a crash after training."""
    path = write_metric_script(modules_in, "float32", 'return {"homemade": sum(predictions)}')
    assert score_with_library(["1.5", " 2"], ["1", "2"], metric=path) == 3.5
    assert math.isnan(score_with_library(["1.5", "two"], ["1", "2"], metric=path))


def test_mistakes_with_library_metrics_are_one_line(modules_in: Path) -> None:
    """A wrong key, a second target, a missing script, an unknown metric of ours: each says what to do."""
    path = write_metric_script(modules_in, "string", 'return {"homemade": 1.0, "other": 2.0}')
    assert score_with_library(["a"], ["a"], metric=path, key="other") == 2.0
    with pytest.raises(UsageError, match='": has no result "nope"; set key to one of "homemade", "other"'):
        score_with_library(["a"], ["a"], metric=path, key="nope")
    with pytest.raises(UsageError, match='": needs exactly one target per row; use another metric, or one target'):
        score_with_library(["a"], [["a", "b"]], metric=path)
    with pytest.raises(UsageError, match="cannot be loaded"):
        score_with_library(["a"], ["a"], metric=str(modules_in / "absent.py"))
    for metric in (path, "local:chrf"):
        with pytest.raises(UsageError, match=r"failed: .*'bta'"):
            score_with_library(["a"], ["a"], metric=metric, bta=2)
    with pytest.raises(UsageError, match='": is unknown; known: "local:chrf"'):
        score_with_library(["a"], ["a"], metric="local:bleu")


@pytest.mark.slow
def test_a_metric_on_the_hub_says_so_without_a_network(modules_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, a name of the hub is a mistake that tells the way out, before the model is asked."""
    import requests

    def refuse(*_: Any, **__: Any) -> None:
        raise requests.exceptions.ConnectionError("no network")

    monkeypatch.setattr("requests.Session.request", refuse)
    with pytest.raises(UsageError, match=r'metric "rouge": cannot be loaded.*"local:chrf"'):
        score_with_library(["a"], ["a"], metric="rouge")


def test_answers_and_targets_are_kept_with_the_row() -> None:
    """What the metric is computed from is in the stored scores, so a resumed run computes the same."""
    (score,) = hf_metric(Canned({"q": "an answer"}), [Sample("1", "q", ["Ü", "b"])], metric="local:chrf")
    assert score.answer == "an answer"
    assert json.loads(score.note or "") == {"targets": ["Ü", "b"]}


# ------------------------------------------------------------------ latency and size


class Slow(Canned):
    """A fake that takes its time, which passes on its own clock, and notes when it was asked."""

    now = 0.0

    def __init__(self, seconds: float, diary: list[str], name: str) -> None:
        super().__init__()
        self.seconds, self.diary, self.name = seconds, diary, name

    def generate(self, prompts: Sequence[Any], *, max_new_tokens: int = 64, stop: Sequence[str] = ()) -> list[str]:
        self.diary.append(self.name)
        Slow.now += self.seconds
        return ["x" for _ in prompts]


def test_latency_is_a_ratio_of_medians_timed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model five times as slow has a ratio of five, and both are asked in turns, in changing order."""
    monkeypatch.setattr("time.perf_counter", lambda: Slow.now)
    diary: list[str] = []
    slow, fast = Slow(0.02, diary, "slow"), Slow(0.004, diary, "fast")
    scores = list(latency(slow, [Sample("1", "q"), Sample("2", "r")], against=fast, rounds=3))
    ratio, seconds = latency.metrics
    assert ratio.value(scores) == pytest.approx(5)
    assert seconds.value(scores) == pytest.approx(0.02)
    turns = ["slow", "fast", "fast", "slow", "slow", "fast"]
    assert diary == ["slow", "fast", *turns, *turns]


def test_latency_combines_medians_of_both_models() -> None:
    """The metric is a median over a median: one slow row of many does not decide it."""
    from harness import Score

    ratio, seconds = latency.metrics
    scores = [
        Score(str(i), {"seconds": s, "latency_ratio": s / t}) for i, (s, t) in enumerate([(2, 1), (3, 2), (90, 4)])
    ]
    assert ratio.value(scores) == pytest.approx(3 / 2)
    assert seconds.value(scores) == 3
    broken = [*scores, Score("9", {"seconds": math.nan, "latency_ratio": math.nan})]
    assert math.isnan(ratio.value(broken))
    assert math.isnan(seconds.value(broken))


def test_latency_of_a_batch() -> None:
    """A batch is a row and those after it, asked in one call, and its seconds are those of all of them."""
    model = Canned({"a": "x", "b": "x", "c": "x"})
    scores = list(latency(model, [Sample(i, i) for i in "abc"], against=Canned(dict.fromkeys("abc", "x")), batch=2))
    assert [s.id for s in scores] == ["a", "b", "c"]
    assert [prompts for prompts, *_ in model.calls[1::3]] == [["a", "b"], ["b", "c"], ["c", "a"]]


@pytest.mark.parametrize("options", [{"rounds": 0}, {"batch": 0}, {"new_tokens": 0}])
def test_latency_wants_at_least_one_of_each(options: dict[str, int]) -> None:
    """No repeat and no row are no timing, told at once."""
    with pytest.raises(UsageError, match="each must be 1 or more"):
        list(latency(Canned(), [Sample("1", "q")], against=Canned(), **options))


def test_size_counts_bytes_and_parameters() -> None:
    """The one row of an evaluation without data carries the model's size."""

    class Weighed(Canned):
        nbytes, parameters = 270_000_000, 135_000_000

    scores = list(size(Weighed(), [Sample("model")]))
    assert {m.name: m.value(scores) for m in size.metrics} == {"bytes": 270e6, "parameters": 135e6}
    with pytest.raises(UsageError, match='remove "data"'):
        list(size(Weighed(), [Sample("1"), Sample("2")]))
    with pytest.raises(UsageError, match='" does not report its size; use a model that runs locally'):
        list(size(Canned(), [Sample("model")]))
