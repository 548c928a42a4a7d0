"""Causes of a failed gate.

Suspects are found among the training rows and proven by training without them.
"""
