"""Data types for samples, models, gates, findings and reports.

They describe a run, and do nothing themselves.
"""
