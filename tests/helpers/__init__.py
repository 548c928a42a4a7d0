"""Suites, files and edits that several test files share."""
