"""The suite: read, checked, overridden and waived."""
