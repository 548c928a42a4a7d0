"""Events beside those of the training, in the run's folder under training/verdicts; written without torch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness_trackers.log import Told

PLACE = "training/verdicts"
SHOWN = 100  # rows that changed: TensorBoard draws a table whole


def log(told: Told) -> None:
    """Log a run; raises what TensorBoard raises."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    from harness_trackers.log import COLUMNS

    texts = {
        "gates": _table(list(told.gates[0]), [list(g.values()) for g in told.gates]) if told.gates else "no gate",
        "flips": _table(COLUMNS, told.flips[:SHOWN]),
        "about": _table(("what", "is"), list(told.about.items())),
        "report.json": f"in `{told.folder.name}/report.json`",
    }
    values = [Summary.Value(tag=name, simple_value=value) for name, value in told.metrics.items()]
    values += [_text(name, text) for name, text in texts.items()]
    writer = EventFileWriter(str(told.folder / PLACE))
    writer.add_event(Event(wall_time=time.time(), step=0, summary=Summary(value=values)))
    writer.close()


def _text(name: str, text: str) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.text.metadata import create_summary_metadata
    from tensorboard.util.tensor_util import make_tensor_proto

    about = create_summary_metadata(display_name=name, description="")
    tensor = make_tensor_proto([text.encode("utf-8", "replace")], shape=(1,))
    return Summary.Value(tag=name, metadata=about, tensor=tensor)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]] | Sequence[Mapping[str, Any]]) -> str:
    """Return a table in Markdown, in which a cell is text and no more."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    for mark, spelt in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"), ("\n", " ")):
        text = text.replace(mark, spelt)
    return text
