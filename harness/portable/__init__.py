"""Portable opening and locking of files."""
