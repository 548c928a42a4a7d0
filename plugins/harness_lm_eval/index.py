"""Names known to lm_eval's TaskManager, listed in a subprocess."""

from __future__ import annotations

from typing import Any

from harness.internals import subprocess_call


def index_tasks() -> dict[str, Any]:
    """Return the files of lm_eval's tasks and groups, and its tags. A tag has the names of its tasks."""
    from lm_eval.tasks import TaskManager

    entries = TaskManager().task_index.values()
    return {
        "files": {entry.name: str(entry.yaml_path) for entry in entries if entry.yaml_path},
        "tags": {entry.name: sorted(entry.tags) for entry in entries if not entry.yaml_path},
    }


if __name__ == "__main__":
    subprocess_call.serve_call(index_tasks)
