"""Broken inputs: whatever a user, or a file they were given, holds, the answer is one line and no traceback."""
