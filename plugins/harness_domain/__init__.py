"""Evaluations of a domain: generated answers against targets (texts, numbers, JSON, calls of tools, earlier answers),
multiple choice, library metrics, latency and size.
"""

from __future__ import annotations

from harness import Evaluator, Marker, hookimpl
from harness_domain.calls import parse_calls as parse_calls
from harness_domain.choices import multiple_choice
from harness_domain.cost import latency, latency_within, size
from harness_domain.documents import json
from harness_domain.label_sets import multilabel
from harness_domain.library import hf_metric
from harness_domain.matching import MatchOptions as MatchOptions
from harness_domain.matching import contains, exact_match, regex, regression, token_f1
from harness_domain.numbers import numeric
from harness_domain.tools import require_tools_in_template as require_tools_in_template
from harness_domain.tools import tool_calls


@hookimpl
def harness_evaluators() -> dict[str, Evaluator | Marker]:
    answers = (exact_match, contains, token_f1, regex, numeric, json, tool_calls, regression)
    return {
        one.__name__: one for one in (*answers, multilabel, multiple_choice, hf_metric, latency, latency_within, size)
    }
