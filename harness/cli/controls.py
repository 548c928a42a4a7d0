"""What became of the models that must not ship: the output of `harness selftest`."""

from __future__ import annotations

from harness.cli.screen import Screen
from harness.cli.words import duration
from harness.selftest import Equals, Trial

HANG = 9  # column at which what is said of a model goes on


def print_trial(trial: Trial) -> None:
    """Print what became of an impostor: what kept it from shipping, or that nothing did."""
    screen, about = Screen(), f"{trial.name:<32} {duration(trial.seconds):>9}"
    if trial.skipped:
        screen.entry("skipped", "dim", f" {about}  {trial.skipped}", HANG)
    elif trial.undecided:
        screen.entry("unknown", "yellow", f" {about}  {trial.undecided}", HANG)
    elif trial.caught:
        screen.entry("caught", "green", f"  {about}  {trial.caught[0]}", HANG)
    else:
        screen.entry("SHIPS", "bold red", f"   {about}  {trial.why}", HANG)
        screen.line(f"        no gate keeps it back; {trial.fix}", hang=HANG)


def print_equals(equal: Equals) -> None:
    """Print how often a gate blocked and passed two equal models."""
    rates = f"blocked {equal.blocked:.1%}, passed {equal.passed:.1%} of {equal.swaps} (alpha {equal.alpha:g})"
    word, style = ("clean", "green") if equal.clean else ("BLOCKS", "bold red")
    Screen().entry(word.ljust(6), style, f"  {equal.gate}: equal models {rates}", HANG)
