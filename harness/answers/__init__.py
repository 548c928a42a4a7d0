"""Cached model answers, keyed by everything they depend on."""
