"""Rows: read, shaped into samples and conversations, and fetched."""
