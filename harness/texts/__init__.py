"""Text of others, shown and hidden."""
