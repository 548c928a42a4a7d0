"""Settings under which a verdict says little, and labels that are mistakes, are findings; no epochs are refused."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from harness.records.claims.gate import Gate
from harness.testing import ROWS, SUITE, TRAIN, Project
from harness_checks.labels import _check_label_spelling
from harness_checks.recipe import unusual_recipe
from harness_checks.settings import find_weak_settings

GATE = Gate("g", "qa.exact_match", min=0.5)


def find(gates: list[Gate], alpha: float = 0.05, rows: int = 100, **spec: Any) -> list[str]:
    about = SimpleNamespace(**{"limit": None, "use": "exact_match", "options": {}, **spec})
    task: Any = SimpleNamespace(spec=about, samples=[None] * rows)
    suite: Any = SimpleNamespace(header=SimpleNamespace(alpha=alpha))
    return [f.kind for f in find_weak_settings({"qa": task}, suite, gates)]


def test_settings_of_a_trial_run_are_found() -> None:
    """A limit that is left over, a high risk, a pattern that matches nothing, and gates that only warn."""
    assert find([GATE], limit=20, rows=20) == ["limit"]
    assert find([GATE], limit=20, rows=12) == find([GATE], limit=500, rows=100) == find([], limit=20, rows=20) == []
    assert find([GATE], alpha=0.5) == ["alpha"]
    assert find([GATE], use="regex", options={"pattern": ".*"}) == ["pattern"]
    assert find([GATE], use="regex", options={"pattern": "a+"}) == []
    assert find([Gate("g", "qa.exact_match", min=0.5, severity="warn")]) == ["blocking"]
    assert find([GATE]) == find([]) == []


def test_labels_that_are_mistakes_are_found() -> None:
    """Other spellings of one label, and words that tools write for a missing value."""
    found = {
        f.kind: f.what for f in _check_label_spelling("the training", Counter({"Pos": 9, "pos": 3, "neg": 9, "nan": 2}))
    }
    assert found == {
        "spelling": 'labels of the training differ only in case or white space: "Pos" and "pos"',
        "missing": '2 rows of the training have the label "nan", which may be a missing value',
    }
    assert not list(_check_label_spelling("x", Counter({"good": 5, "bad": 5, "none of these": 3})))


def find_recipe_warnings(use: str, adapter: str = "lora", path: str = "model", **options: Any) -> list[str]:
    suite: Any = SimpleNamespace(
        trains=True, train=SimpleNamespace(use=use, options=options), model=SimpleNamespace(path=path, use="fake"),
        adapter=SimpleNamespace(use=adapter, options={}),
    )  # fmt: skip
    return [f.what for f in unusual_recipe(suite)]


def test_rates_and_epochs_are_judged_by_the_trainer() -> None:
    """DPO's limit is a tenth of SFT's, and thirty epochs memorise unless steps end them."""
    assert find_recipe_warnings("sft", learning_rate=2e-4) == find_recipe_warnings("dpo", learning_rate=2e-5) == []
    assert find_recipe_warnings("dpo", learning_rate=5e-4) == [
        "learning_rate is 0.0005, at which LoRA diverges or forgets"
    ]
    assert find_recipe_warnings("sft", num_train_epochs=30) == [
        "num_train_epochs is 30: a model memorises rows that it sees so often"
    ]
    assert (
        find_recipe_warnings("sft", num_train_epochs=30, max_steps=9)
        == find_recipe_warnings("sft", num_train_epochs=3)
        == []
    )


@pytest.mark.slow
def test_no_epochs_are_refused_before_anything_is_measured(project: Project) -> None:
    """`num_train_epochs = 0` is one line, not a ZeroDivisionError after the base was measured."""
    text = SUITE.replace('use = "fake"\npath = "base"', 'use = "hf"\npath = "tiny:llama"')
    text = text.replace('[adapter]\nuse = "fake"', '[adapter]\nuse = "lora"')
    text = text.replace('[train]\nuse = "fake"', '[train]\nuse = "sft"\nnum_train_epochs = 0')
    outcome = project.write({"suite.toml": text, "test.jsonl": ROWS, "train.jsonl": TRAIN}).run()  # type: ignore[dict-item]
    assert (outcome.code, "base::qa" in outcome.out) == (4, False), outcome.out
    assert (
        "num_train_epochs: is 0, so nothing is trained; set it above 0, or set max_steps" in outcome.out + outcome.err
    )
