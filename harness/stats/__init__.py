"""Tests, intervals, power and the draws they come from."""
