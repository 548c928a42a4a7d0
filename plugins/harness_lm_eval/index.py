"""The names that lm_eval's TaskManager knows, asked for in a process of its own."""

from __future__ import annotations

from typing import Any

from harness.internals import isolated


def index_tasks() -> dict[str, Any]:
    """Return the file of every task and group of lm_eval, and the tasks of every tag."""
    from lm_eval.tasks import TaskManager

    entries = TaskManager().task_index.values()
    return {
        "files": {entry.name: str(entry.yaml_path) for entry in entries if entry.yaml_path},
        "tags": {entry.name: sorted(entry.tags) for entry in entries if not entry.yaml_path},
    }


if __name__ == "__main__":
    isolated.answer(index_tasks)
