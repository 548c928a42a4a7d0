"""Test the tests: models that must not ship in the place of the one that ships."""
