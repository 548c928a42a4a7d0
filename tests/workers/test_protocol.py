"""What a worker says is read as what a model can say, and nothing else."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from harness.records.models import Logprob
from harness.workers.protocol import read_rows

NONE: list[tuple[str, Any]] = [
    *(("logprobs", [total, 3, 5, True]) for total in (5.0, math.nan, math.inf, True, "1", None, 0.1)),
    *(("logprobs", [-1.0, tokens, 5, True]) for tokens in (-5, 1.5, True, "3")),
    *(("logprobs", [-1.0, 3, size, True]) for size in (-1, 2.0)),
    ("logprobs", [-1.0, 3, 5, 1]),
    ("logprobs", [-1.0, 3, 5]),
    *(("token_kl", [total, 3]) for total in (-0.5, math.nan, False)),
    ("token_kl", [0.5, -3]),
    ("count_tokens", -1),
    ("count_tokens", True),
    ("generate", 3),
    *(("generate", ["a", ended, 3, 0, False, 0]) for ended in ("late", None, ["eos"])),
    *(("generate", ["a", "eos", tokens, 0, False, 0]) for tokens in (-1, 1.5, True, "3")),
    *(("generate", told) for told in (["a"], [3, "eos", 3, 0, False, 0], ["a", "eos", 3, 0, 1, 0])),
    ("render", None),
]


@pytest.mark.parametrize(("method", "value"), NONE)
def test_what_no_model_gives_is_no_answer(method: str, value: Any) -> None:
    """A log-probability above 0, NaN, a number of tokens below 0, a truth for a number: the worker is at fault."""
    with pytest.raises((TypeError, ValueError)):
        read_rows(method, [[0, json.loads(json.dumps(value))]], {0})


def test_what_models_give_is_taken() -> None:
    """Also what rounding leaves above 0, and what is impossible."""
    told = [[-1.5, 3, 5, True], [1e-6, 1, 2, False], [-math.inf, 1, 1, False], [0, 0, 0, True]]
    assert read_rows("logprobs", list(enumerate(told)), {0, 1, 2, 3})[0] == (0, Logprob(-1.5, 3, 5, True))
    [(_, said)] = read_rows("generate", [[0, ["a", "length", None, 0, False, 0]]], {0})
    assert (said, said.finish_reason, said.tokens) == ("a", "length", None)
    assert read_rows("token_kl", [[4, [0.0, 3]], [2, [-1e-9, 1]], [3, [math.inf, 2]]], {2, 3, 4})[1] == (2, (-1e-9, 1))


@pytest.mark.parametrize(
    "told", [[[0, "a"], [0, "b"]], [[2, "a"]], [[-1, "a"]], [[True, "a"]], [["0", "a"]], [0], {"0": "a"}, None]
)
def test_rows_that_nobody_asked_for_are_none(told: Any) -> None:
    """Twice, another's, a truth for a place; and none of them counts."""
    wanted = {0, 1}
    with pytest.raises((TypeError, ValueError)):
        read_rows("generate", [[1, "right"], *told] if isinstance(told, list) else told, wanted)
    assert wanted == {0, 1}
