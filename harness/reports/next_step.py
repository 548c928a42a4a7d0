"""The next step after a run, with its command."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import NamedTuple

from harness.records import verdict_text
from harness.records.run import Run
from harness.records.verdicts import Outcome
from harness.reports.summary import deciding_verdict
from harness.texts.counts import count_noun

BUNDLE = "gate"  # the folder of the evidence of scored rows


class NextStep(NamedTuple):
    """A suggested next step and its command, which may be empty."""

    what: str
    command: str


def suggest_next_step(run: Run, folder: Path) -> NextStep | None:
    """Suggest the next step after a run.

    For instance, verify and promote the export, read the rows of a gate, or add rows. None for a partial, selecting or
    edited run, and for one without verdicts.
    """
    v = deciding_verdict(run)
    if v is None or run.part or run.selecting or run.edited:
        return None
    shown = Path(*folder.resolve().parts[-2:])
    if v.outcome is Outcome.PASS or not v.blocks_release:
        return _suggest_after_pass(run, folder, shown)
    if v.outcome is Outcome.ERROR:
        return NextStep(f'Correct what kept "{v.gate}" from a decision, and run again.', "")
    if v.outcome is Outcome.INCONCLUSIVE and (rows := verdict_text.format_sample_size(v)):
        where = f" of {v.where}" if v.where else ""
        return NextStep(f'Add rows{where} for "{v.gate}", or choose a wider claim beforehand ({rows}).', "")
    if v.lost_count:
        what = f'Read the {count_noun(v.lost_count, "row")} that "{v.gate}" lost.'
        return NextStep(what, _format_harness_command("show", str(shown), "--flips"))
    return NextStep(f'Read the rows of "{v.gate}".', _format_harness_command("show", str(shown), "--rows", "--wrong"))


def _suggest_after_pass(run: Run, folder: Path, shown: Path) -> NextStep | None:
    exports = [Path(*Path(e.to).parts[-2:]) for e in run.exports if e.written]
    if exports:
        verify, promote = (_format_harness_command(verb, str(exports[0])) for verb in ("verify", "promote"))
        return NextStep("Verify the export, then make it the release.", f"{verify} && {promote}")
    if not run.is_of_scored_rows:
        return None
    if (folder / BUNDLE).is_dir():
        again = _format_harness_command("verify", str(shown / BUNDLE))
        return NextStep("Nothing is left to do here. To let others check the decision:", again)
    return NextStep("Nothing is left to do here; so many rows are kept in no evidence that others could check.", "")


def _format_harness_command(*words: str) -> str:
    return shlex.join(["harness", *words])
