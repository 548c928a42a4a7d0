"""From a claim and scores to a verdict."""
