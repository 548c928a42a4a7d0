"""Chat templates that write the time: a kind of D7."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from harness import Finding, TrainingRow
from harness.internals import Task, chat
from harness_checks.frames import RENDERED, row_messages

CLOCK = re.compile(r"""strftime_now\(\s*(?P<quote>['"])(?P<form>.*?)(?P=quote)\s*\)""")
NOON = datetime(2024, 2, 14, 12, 0, 0)
LATER_TIME = NOON + timedelta(hours=1, minutes=1, seconds=1)
ANOTHER_DAY = NOON + timedelta(days=401)
FIX = "set the date in chat_template_kwargs of all rows if the template reads one, else write a fixed one into it"
Render = Callable[[Any, Any, Mapping[str, Any]], str | None]  # messages, template, arguments


def stop_clock(template: Any, moment: datetime = NOON) -> Any:
    """Return a chat template, or several by name, with a fixed moment as current time."""
    if isinstance(template, Mapping):
        return {name: stop_clock(text, moment) for name, text in template.items()}
    if not isinstance(template, str):
        return template
    return CLOCK.sub(lambda call: json.dumps(moment.strftime(call["form"])), template)


def template_text(template: Any) -> str:
    """Return the text of a chat template, or of all where there are several."""
    return "\n".join(template.values()) if isinstance(template, Mapping) else str(template or "")


def find_clock(
    rows: Sequence[TrainingRow], tasks: Mapping[str, Task], template: Any, render: Render
) -> Iterator[Finding]:
    """Yield a finding if a chat template renders the current time.

    The time of day and the date are tested, in training rows and in prompts of evaluations.
    """
    if not CLOCK.search(template_text(template)):
        return
    chats = {"training rows": [(row_messages(row), chat.training_template_arguments(row.row)) for row in rows]}
    for name, task in tasks.items():
        inputs = [] if task.brings_rows else [s.input for s in task.samples or () if isinstance(s.input, list)]
        chats[f'"{name}"'] = [chat.split_arguments(messages) for messages in inputs]
    for word, moment, what in (
        ("time", LATER_TIME, "every prompt is another one, in training, evaluation and use"),
        (
            "date",
            ANOTHER_DAY,
            "it changes at midnight, and an adapter that was trained before is evaluated with another",
        ),
    ):
        templates = stop_clock(template), stop_clock(template, moment)
        if told := [where for where, several in chats.items() if _do_renderings_differ(several, templates, render)]:
            what = f"the chat template writes the current {word} into {', '.join(told)}: {what}"
            yield Finding("error" if word == "time" else "warning", what, (), FIX, "clock")
            return


def _do_renderings_differ(
    several: Sequence[tuple[Any, Mapping[str, Any]]], templates: tuple[Any, Any], render: Render
) -> bool:
    sample = [(messages, given) for messages, given in several if messages]
    sample = sample[:: max(1, len(sample) // RENDERED)][:RENDERED]
    one, two = templates
    return any(render(messages, one, given) != render(messages, two, given) for messages, given in sample)
