"""A suite whose rows another tool scored, in two tables side by side."""

from __future__ import annotations


def make_rows_suite(name: str, evaluation: str, *keys: str) -> str:
    """Return a suite on base.csv and cand.csv with one eval, which may have further keys; gates are appended to it."""
    sides = (("base", "base.csv"), ("candidate", "cand.csv"))
    tables = [f'[suite]\nname = "{name}"', *(f'[rows.{side}]\npath = "{path}"' for side, path in sides)]
    return "\n".join([*tables, f'[[eval]]\nname = "{evaluation}"\nuse = "rows"', *keys]) + "\n"
