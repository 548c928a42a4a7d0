"""Evaluations, gradings and checks, as they are run."""
