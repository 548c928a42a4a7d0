"""What ships: exports with their evidence, and how that is verified and promoted."""
