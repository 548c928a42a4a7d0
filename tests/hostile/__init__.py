"""Folders that a stranger made: every command that opens one is run on a generated corpus of them."""
