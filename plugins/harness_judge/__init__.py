"""[[eval]] use = "judge": answers compared or checked by a language model, which is measured itself.

And `[model] use = "anthropic"`: a model behind Anthropic's API, as a baseline.
"""

from __future__ import annotations

from typing import Any

from harness import hookimpl
from harness.internals import lazily

__all__ = ["calibrate", "calibration", "disputes", "prompts"]  # modules of labels, which harness_view asks for
__getattr__ = lazily(__name__, {"load": "harness_judge.loader", "open_source": "harness_judge.loader"})


@hookimpl
def harness_evaluators() -> dict[str, Any]:
    from harness_judge.evaluator import judge

    return {"judge": judge}


@hookimpl
def harness_loaders() -> dict[str, Any]:
    from harness_judge.loader import load

    return {"anthropic": load}
