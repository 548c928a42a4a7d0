"""Escaping, redaction, formatting and wrapping of text."""
