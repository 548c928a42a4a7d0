"""A prompted baseline proves something only if it beats one answer to all rows, and the base without examples."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness.evaluation.baselines import find_constant_answer, find_weakness
from harness.records.metrics import Metric
from harness.records.samples import Result, Sample, Score
from harness.testing import ROWS, SUITE, TRAIN, FakeSubject, Project

ACC = Metric("acc", "higher", "proportion")


def make_task(targets: list[str], use: str = "multiple_choice") -> Any:
    samples = [Sample(str(i), "q", target) for i, target in enumerate(targets)]
    return SimpleNamespace(samples=samples, spec=SimpleNamespace(use=use, options={}))


def make_result(right: set[int], n: int = 100, name: str = "acc") -> Result:
    scores = tuple(Score(str(i), {name: float(i in right)}) for i in range(n))
    return Result("x", "qa", scores, {name: len(right) / n}, "")


LABELS = ["red"] * 40 + ["blue"] * 30 + ["green"] * 30
CASES: dict[str, tuple[Any, Result, Result | None, str]] = {
    "below the constant answer": (
        make_task(LABELS), make_result({*range(30)}), None, '0.300, less than the constant answer "red" (0.400)',
    ),
    "at the constant answer": (make_task(LABELS), make_result({*range(40)}), None, ""),
    "free answers": (make_task([f"w{i}" for i in range(100)]), make_result({1}), None, ""),
    "an evaluator without constant answers": (make_task(LABELS, "token_f1"), make_result({1}), None, ""),
    "below the base": (
        make_task(LABELS), make_result({*range(50)}), make_result({*range(60)}),
        "0.500, less than the base without examples (0.600)",
    ),
    "by chance below the base": (make_task(LABELS), make_result({*range(50)}), make_result({*range(53)}), ""),
    "above the base": (make_task(LABELS), make_result({*range(60)}), make_result({*range(50)}), ""),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_makes_a_baseline_weak(case: str) -> None:
    """A share below the commonest label's, or significantly below the base's, and nothing else."""
    about, baseline, base, wanted = CASES[case]
    assert find_weakness(about, ACC, baseline, base) == wanted


def test_a_lower_metric_is_weak_where_it_is_higher() -> None:
    """A baseline with a higher perplexity than the base is worse than it."""
    nats = Metric("perplexity", "lower", "perplexity")
    high, low = (
        Result("x", "qa", tuple(Score(str(i), {"perplexity": v}) for i in range(20)), {"perplexity": v}, "")
        for v in (2.0, 1.0)
    )
    about = make_task(["a"] * 20, "perplexity")
    assert find_weakness(about, nats, high, low) and not find_weakness(about, nats, low, high)


def test_the_constant_answer_is_the_commonest_label() -> None:
    """Labels are few and repeat; a column of right choices counts where rows have no target."""
    rows = [Sample(str(i), "q", row={"gold": int(i > 5)}) for i in range(20)]
    assert find_constant_answer(rows, make_task([])) == ("1", 0.7)
    assert find_constant_answer([], make_task([])) == ("", 0.0)


@pytest.mark.slow
def test_a_gain_over_a_weak_baseline_warrants_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where worked examples make the base worse, "fine-tuning is warranted" is withheld and the reason is said."""
    plain = FakeSubject.generate

    def generate(self: Any, prompts: Any, **options: Any) -> list[str]:
        answers = plain(self, prompts, **options)
        return ["none" if "\n\n" in prompt else said for prompt, said in zip(prompts, answers, strict=True)]

    monkeypatch.setattr(FakeSubject, "generate", generate)
    text = SUITE + "\n[subject.fewshot]\nshots = 3\n"
    outcome = project.write({"suite.toml": text, "test.jsonl": ROWS, "train.jsonl": TRAIN}).run()  # type: ignore[dict-item]
    assert "fine-tuning is warranted:" not in outcome.out
    said = "whether fine-tuning is warranted is open: the base with 3 examples in its prompt scores on qa.exact_match "
    assert f"{said}0.000, less than the base without examples (0." in outcome.out, outcome.out
