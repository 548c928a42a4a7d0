"""Rows that other tools scored: read, paired, compared fairly, and decided as our own are."""
