"""The view of a run: the facts that terminal, Markdown, page, notebook, JUnit XML and trackers render."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.records.findings import Finding
from harness.records.run import Exported, ItemResult, Run
from harness.records.verdicts import Outcome, Verdict
from harness.reports import summary
from harness.reports.next_step import NextStep, suggest_next_step
from harness.reports.rules import describe_rules
from harness.texts.numbers import format_duration


@dataclass(frozen=True)
class RunView:
    """What a renderer shows of a run as a whole. `folder` holds its rows, if there is one.

    Facts are computed when they are read. A renderer chooses, escapes and arranges them, and computes none.
    """

    run: Run
    folder: Path | None = None

    @cached_property
    def outcome(self) -> Outcome:
        """The overall outcome."""
        return summary.run_outcome(self.run)

    @property
    def glyph(self) -> str:
        """The sign of the outcome."""
        return summary.GLYPHS[self.outcome]

    @cached_property
    def sentence(self) -> str:
        """The release decision in one sentence."""
        return summary.verdict_sentence(self.run)

    @property
    def exit(self) -> str:
        """The exit code, as every renderer writes it."""
        return f"exit {int(self.run.exit_code)}"

    @property
    def duration(self) -> str:
        """How long the run took."""
        return format_duration(self.run.seconds)

    @cached_property
    def verdicts(self) -> Sequence[Verdict]:
        """All verdicts, the worst first."""
        return summary.sort_worst_first(self.run)

    @cached_property
    def shipping_verdicts(self) -> Sequence[Verdict]:
        """The verdicts on what ships."""
        return [v for v in self.verdicts if v.decides]

    @cached_property
    def other_verdicts(self) -> Sequence[Verdict]:
        """The verdicts on what does not ship."""
        return [v for v in self.verdicts if not v.decides]

    @cached_property
    def deciding_verdict(self) -> Verdict | None:
        """The verdict that decided."""
        return summary.deciding_verdict(self.run)

    @cached_property
    def blocking_verdicts(self) -> Sequence[Verdict]:
        """The verdicts that keep something from shipping."""
        return [v for v in self.verdicts if v.blocks_release]

    @property
    def outcome_counts(self) -> str:
        """The counts of verdicts by outcome; those that block nothing are counted apart, with the reason."""
        counts = Counter((summary.describe_exemption(v), v.outcome) for v in self.run.verdicts)
        order = ("", "waived", "warn", "not what ships")
        parts = [f"{n} {o}" + (f" ({why})" if why else "") for why in order for o in Outcome if (n := counts[why, o])]
        return ", ".join(parts) or "nothing was gated"

    @cached_property
    def exceptions(self) -> Sequence[str]:
        """Each waived gate and each ignored check error, in words."""
        return summary.waived_and_ignored(self.run)

    @property
    def has_exceptions(self) -> bool:
        """Whether a gate is waived, or an error of a check was ignored."""
        return any(v.waived for v in self.run.verdicts) or bool(self.run.passed_over)

    @property
    def changed_rules(self) -> Sequence[str]:
        """The rules that differ from those of the run before."""
        return describe_rules(self.folder) if self.folder else []

    @property
    def conclusions(self) -> Sequence[str]:
        """The conclusions without the exceptions, which are shown by themselves."""
        return [line for line in self.run.conclusions if line not in self.exceptions]

    @property
    def problems(self) -> Sequence[str]:
        """Why the run ended early, a line each."""
        return self.run.problem.splitlines() if self.run.problem else []

    @property
    def findings(self) -> Sequence[Finding]:
        """The findings of checks that are no notes, and those that were ignored."""
        return [f for f in self.run.findings if f.severity != "note" or f.ignored is not None]

    @property
    def stopping_findings(self) -> Sequence[Finding]:
        """The findings that stopped the run."""
        return [f for f in self.run.findings if f.stops_run]

    @property
    def failed_items(self) -> Sequence[ItemResult]:
        """The items that could not be evaluated."""
        return [item for item in self.run.results if item.outcome == "error"]

    @property
    def exported(self) -> Sequence[Exported]:
        """The exports that were written."""
        return [export for export in self.run.exports if export.written]

    @property
    def refused_exports(self) -> Sequence[tuple[Exported, Sequence[str]]]:
        """The exports that were not written, with the reasons that no verdict says."""
        held = bool(self.blocking_verdicts)
        return [(export, () if held else export.reasons) for export in self.run.exports if not export.written]

    @cached_property
    def next_step(self) -> NextStep | None:
        """The suggested next step."""
        return suggest_next_step(self.run, self.folder) if self.folder else None


def view_run(run: Run, folder: Path | None = None) -> RunView:
    """Return the view of a run, whose folder it names itself by default."""
    return RunView(run, folder or (Path(run.folder) if run.folder else None))
