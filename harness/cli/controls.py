"""What became of the models that must not ship: the output of `harness selftest`."""

from __future__ import annotations

from rich.console import Console

from harness.cli.words import duration, escape
from harness.selftest import Equals, Trial


def print_trial(trial: Trial) -> None:
    """Print what became of an impostor: what kept it from shipping, or that nothing did."""
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    about = f"{trial.name:<32} {duration(trial.seconds):>9}"
    if trial.skipped:
        console.print(f"[dim]skipped[/] {escape(about)}  {escape(trial.skipped)}")
        return
    if trial.undecided:
        console.print(f"[yellow]unknown[/] {escape(about)}  {escape(trial.undecided)}")
        return
    if trial.caught:
        console.print(f"[green]caught[/]  {escape(about)}  {escape(trial.caught[0])}")
        return
    console.print(f"[bold red]SHIPS[/]   {escape(about)}  {escape(trial.why)}")
    console.print(f"        no gate keeps it back; {escape(trial.fix)}")


def print_equals(equal: Equals) -> None:
    """Print how often a gate blocked and passed two equal models."""
    word = "[green]clean [/]" if equal.clean else "[bold red]BLOCKS[/]"
    rates = f"blocked {equal.blocked:.1%}, passed {equal.passed:.1%} of {equal.swaps} (alpha {equal.alpha:g})"
    Console(highlight=False, soft_wrap=True, emoji=False).print(f"{word}  {escape(equal.gate)}: equal models {rates}")
