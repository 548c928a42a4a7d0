"""[[eval]] use = "judge": answers compared or checked by a language model, which is measured itself.

And `[model] use = "anthropic"`: a model behind Anthropic's API, as a baseline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import hookimpl
from harness.internals import attach

if TYPE_CHECKING:  # what is imported when it is asked for
    from harness import Evaluator, Loader, Marker
    from harness_judge.loader import load as load
    from harness_judge.loader import open_source as open_source

__all__ = ["calibrate", "calibration", "disputes", "prompts"]  # modules of labels, which harness_view asks for
__getattr__, _ = attach(__name__, __file__)


@hookimpl
def harness_evaluators() -> dict[str, Evaluator | Marker]:
    from harness_judge.evaluator import judge

    return {"judge": judge}


@hookimpl
def harness_loaders() -> dict[str, Loader]:
    from harness_judge.loader import load

    return {"anthropic": load}
