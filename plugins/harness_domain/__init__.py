"""Evaluations of a domain: generated answers against targets, multiple choice, library metrics, latency and size."""

from __future__ import annotations

from typing import Any

from harness import hookimpl
from harness_domain.choices import multiple_choice
from harness_domain.cost import latency, size
from harness_domain.library import hf_metric
from harness_domain.matching import contains, exact_match, regex, token_f1


@hookimpl
def harness_evaluators() -> dict[str, Any]:
    return {
        "exact_match": exact_match,
        "contains": contains,
        "token_f1": token_f1,
        "regex": regex,
        "multiple_choice": multiple_choice,
        "hf_metric": hf_metric,
        "latency": latency,
        "size": size,
    }
