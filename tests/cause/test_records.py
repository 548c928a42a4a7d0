"""What the pages say about blame's errors is what was recorded of its cases."""

from __future__ import annotations

import json
from pathlib import Path

from bench.blame_cases import count_verdicts

ROOT = Path(__file__).parents[2]


def test_the_page_has_the_numbers_of_the_record() -> None:
    """Cases, confirmations and those that were wrong; each case ended within three minutes."""
    found = [json.loads(line) for line in (ROOT / "bench/records-blame.jsonl").read_text("utf-8").splitlines()]
    count, page = count_verdicts(found), (ROOT / "docs/how-to/find-the-cause.md").read_text("utf-8")
    assert (
        f"Of {count.planted} planted cases that an oracle repairs, a cause was confirmed in {count.confirmed}" in page
    )
    assert f"the gate passed on new rows in {count.holds} of these" in page
    assert f"In {count.clean} cases without a row at fault it was confirmed {count.accused} times" in page
    assert max(one["seconds"] for one in found) <= 180
