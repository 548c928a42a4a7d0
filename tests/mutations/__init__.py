"""Broken runs that the checks must catch, each with a healthy twin on which they must be silent.

`make mutations` runs them all; `python -m tests.mutations WORD` only those whose name has the word in it.
"""
